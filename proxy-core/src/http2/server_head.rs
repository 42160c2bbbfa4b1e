//! Heads towards servers that speak HTTP/2: requests from the text of HTTP/1.1, and answers into it. Pure.

use std::io::{Error, ErrorKind, Result};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use h2::ext::Protocol;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, SEC_WEBSOCKET_KEY, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, Uri, response};
use sha1::{Digest as _, Sha1};

use super::request::{self, Body};
use crate::http::head::{self, Asked, Framing};

/// What RFC 6455 §1.3 puts behind a client's key.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What of a request decides how its answer is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asking {
    asked: Asked,
    /// The answer to a WebSocket's key; `None`: none was asked for.
    pub(super) accept: Option<String>,
}

/// A request.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) request: Request<()>,
    pub(super) framing: Framing,
    pub(super) asking: Asking,
    /// Bytes that its head had in HTTP/1.1.
    pub(super) length: usize,
}

/// Reads a head of the engine's from the beginning of `bytes`; `None`: it isn't whole. `sockets`: the server knows
/// WebSockets over HTTP/2 (RFC 8441 §3).
pub(super) fn request(bytes: &[u8], secure: bool, sockets: bool) -> Result<Option<Read>> {
    let wrong = |what: &str| Error::new(ErrorKind::InvalidData, format!("no request of HTTP/2: {what}"));
    let mut slots = head::slots();
    let Some(read) = head::request(&mut slots, bytes).map_err(|bad| wrong(bad.why()))? else { return Ok(None) };
    let mut accept = None;
    if read.hop.upgrade {
        let key = read.fields.iter().find(|field| field.name.eq_ignore_ascii_case(SEC_WEBSOCKET_KEY.as_str()));
        let key = key.ok_or_else(|| wrong("an upgrade to another protocol than WebSocket"))?;
        if !sockets {
            return Err(wrong("its server takes no WebSocket over HTTP/2 (RFC 8441)"));
        }
        let proof = Sha1::new().chain_update(key.value).chain_update(GUID).finalize();
        accept = Some(STANDARD.encode(proof));
    }
    let mut request = Request::new(());
    *request.method_mut() = match accept {
        Some(_) => Method::CONNECT,
        None => Method::from_bytes(read.method.as_bytes()).map_err(|_| wrong("its method"))?,
    };
    if accept.is_some() {
        request.extensions_mut().insert(Protocol::from_static("websocket"));
    }
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(if secure { Scheme::HTTPS } else { Scheme::HTTP });
    uri.path_and_query = Some(PathAndQuery::try_from(read.target).map_err(|_| wrong("its target"))?);
    uri.authority = Some(Authority::try_from(read.host.unwrap_or_default()).map_err(|_| wrong("its host"))?);
    *request.uri_mut() = Uri::from_parts(uri).map_err(|_| wrong("its target and host"))?;
    let headers = request.headers_mut();
    headers.reserve(read.fields.len());
    for (index, field) in read.fields.iter().enumerate() {
        // RFC 9113 §8.2.2: what concerned an HTTP/1.1 connection stays behind; `Host` is the authority.
        let concerns_connection = read.hop.hop_by_hop & (1 << index) != 0;
        if concerns_connection || field.name.eq_ignore_ascii_case("host") {
            continue;
        }
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| wrong("a field's name"))?;
        if name != TRANSFER_ENCODING && name != UPGRADE && name != SEC_WEBSOCKET_KEY && name != TE {
            headers.append(name, HeaderValue::from_bytes(field.value).map_err(|_| wrong("a field's value"))?);
        }
    }
    // RFC 9113 §8.2.2; trailers are passed on, and gRPC's servers insist on hearing so.
    headers.insert(TE, HeaderValue::from_static("trailers"));
    let asking = Asking { asked: Asked::by(read.method), accept };
    Ok(Some(Read { request, framing: read.framing, asking, length: read.length }))
}

/// Appends the head of an interim answer.
pub(super) fn interim(out: &mut Vec<u8>, interim: &Response<()>) -> Result<()> {
    line(out, interim.status().as_u16());
    fields(out, interim.headers())?;
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Appends the head of the answer, whose stream has `ended` or goes on: how it goes on.
pub(super) fn answer(out: &mut Vec<u8>, parts: &response::Parts, asking: &Asking, ended: bool) -> Result<Body> {
    let status = parts.status.as_u16();
    if let Some(accept) = &asking.accept
        && (200..300).contains(&status)
    {
        line(out, 101);
        fields(out, &parts.headers)?;
        for part in ["connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: ", accept, "\r\n\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        return Ok(Body::Raw);
    }
    line(out, status);
    fields(out, &parts.headers)?;
    // RFC 9110 §6.4.1: these have no body, whatever their fields say of one.
    let bodiless = asking.asked == Asked::Head || matches!(status, 204 | 304);
    let body = match parts.headers.contains_key(CONTENT_LENGTH) {
        _ if bodiless => Body::None,
        true if ended => Body::None,
        true => Body::Length,
        false if ended => {
            out.extend_from_slice(b"content-length: 0\r\n");
            Body::None
        }
        false => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
            Body::Chunked
        }
    };
    out.extend_from_slice(b"\r\n");
    Ok(body)
}

fn line(out: &mut Vec<u8>, status: u16) {
    out.extend_from_slice(format!("HTTP/1.1 {status} \r\n").as_bytes());
}

/// RFC 9113 §8.2.2: an answer with fields that concern a connection is malformed.
fn fields(out: &mut Vec<u8>, headers: &http::HeaderMap) -> Result<()> {
    let wrong = || Error::new(ErrorKind::InvalidData, "an answer with fields that HTTP/2 has not");
    for (name, value) in headers {
        if [CONNECTION, TRANSFER_ENCODING, UPGRADE].contains(name) {
            return Err(wrong());
        }
        request::field(out, name.as_str(), value).map_err(|_| wrong())?;
    }
    Ok(())
}
