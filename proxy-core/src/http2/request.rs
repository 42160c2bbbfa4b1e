//! The head of a request in HTTP/2 as the text of one in HTTP/1.1 (RFC 9113 §8.3). Pure.
//!
//! What HTTP/1.1 can say is said as it came, for the strict parser to judge; what it can't say, or what would mean
//! something else in it, is refused here.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use h2::ext::Protocol;
use http::header::{CONTENT_LENGTH, COOKIE, HOST, HeaderMap, TE, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Method};

use crate::http::head::Asked;

/// How the request goes on behind its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// Its end was the head's.
    None,
    /// As many bytes as its `Content-Length` says: h2 sees to that (RFC 9113 §8.1.1).
    Length,
    /// It ends when the stream does: chunks in HTTP/1.1.
    Chunked,
    /// What a WebSocket's client says.
    Raw,
}

/// What of a request decides how its answer is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) body: Body,
    pub(super) asked: Asked,
}

/// Why a request has no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// RFC 9113 §8.1.1: the stream ends with `PROTOCOL_ERROR`.
    Malformed(&'static str),
    /// RFC 8441 is spoken for WebSocket only: 501.
    UnknownProtocol,
}

/// Appends the head of a request whose stream has `ended`, or goes on.
pub(super) fn write(out: &mut Vec<u8>, parts: &Parts, ended: bool) -> Result<Shape, Refused> {
    if let Some(protocol) = parts.extensions.get::<Protocol>() {
        return socket(out, parts, protocol, ended);
    }
    let body = match parts.headers.contains_key(CONTENT_LENGTH) {
        true => Body::Length,
        false if ended => Body::None,
        false => Body::Chunked,
    };
    if parts.method == Method::CONNECT {
        // For the engine to refuse; RFC 9113 §8.5: there is nothing but the authority.
        let authority = parts.uri.authority().map_or("", |authority| authority.as_str());
        words(out, &["CONNECT ", authority, " HTTP/1.1\r\nhost: ", authority, "\r\n\r\n"]);
        return Ok(Shape { body: Body::None, asked: Asked::Other });
    }
    line(out, parts, parts.method.as_str())?;
    fields(out, &parts.headers)?;
    match body {
        Body::Chunked => words(out, &["transfer-encoding: chunked\r\n"]),
        // RFC 9110 §8.6: there are servers that demand a length of these.
        Body::None if [Method::POST, Method::PUT, Method::PATCH].contains(&parts.method) => {
            words(out, &["content-length: 0\r\n"]);
        }
        _ => {}
    }
    words(out, &["\r\n"]);
    Ok(Shape { body, asked: Asked::by(parts.method.as_str()) })
}

/// RFC 8441 §5: the opening handshake that HTTP/1.1 has for a WebSocket (RFC 6455 §4.1).
fn socket(out: &mut Vec<u8>, parts: &Parts, protocol: &Protocol, ended: bool) -> Result<Shape, Refused> {
    if protocol.as_str() != "websocket" {
        return Err(Refused::UnknownProtocol);
    }
    if ended || parts.headers.contains_key(CONTENT_LENGTH) {
        return Err(Refused::Malformed("a WebSocket that has ended, or has a length"));
    }
    line(out, parts, "GET")?;
    fields(out, &parts.headers)?;
    words(out, &["connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: ", &nonce(), "\r\n\r\n"]);
    Ok(Shape { body: Body::Raw, asked: Asked::Other })
}

/// Appends the request line and `Host`.
fn line(out: &mut Vec<u8>, parts: &Parts, method: &str) -> Result<(), Refused> {
    let path = path(parts)?;
    words(out, &[method, " "]);
    let authority = parts.uri.authority().map(http::uri::Authority::as_str);
    let mut named = parts.headers.get_all(HOST).iter();
    match (authority, named.next(), named.next()) {
        (Some(authority), None, _) => words(out, &[path, " HTTP/1.1\r\nhost: ", authority, "\r\n"]),
        (Some(authority), Some(host), None) if host.as_bytes() == authority.as_bytes() => {
            words(out, &[path, " HTTP/1.1\r\nhost: ", authority, "\r\n"]);
        }
        // RFC 9113 §8.3.1: they have to agree, which is for the parser to say.
        (Some(authority), Some(host), None) if path.starts_with('/') => {
            let scheme = parts.uri.scheme().map_or("http", Scheme::as_str);
            words(out, &[scheme, "://", authority, path, " HTTP/1.1\r\n"]);
            field(out, "host", host)?;
        }
        // It refuses none, and more than one.
        _ => {
            words(out, &[path, " HTTP/1.1\r\n"]);
            for host in parts.headers.get_all(HOST) {
                field(out, "host", host)?;
            }
            if let Some(authority) = authority {
                words(out, &["host: ", authority, "\r\n"]);
            }
        }
    }
    Ok(())
}

/// RFC 9113 §8.3.1: an absolute path, or `*`. Anything else would be another form of target in HTTP/1.1.
fn path(parts: &Parts) -> Result<&str, Refused> {
    let missing = Refused::Malformed("no path");
    let path = parts.uri.path_and_query().ok_or(missing)?;
    match path.as_str() {
        // `http` shows a path that was never sent as this one.
        "/" if *path != PathAndQuery::from_static("/") => Err(missing),
        text if text.starts_with('/') => Ok(text),
        "*" if parts.method == Method::OPTIONS => Ok("*"),
        _ => Err(Refused::Malformed("a path that does not begin with a slash")),
    }
}

/// Appends all fields but `Host`.
fn fields(out: &mut Vec<u8>, headers: &HeaderMap) -> Result<(), Refused> {
    let mut cookies = false;
    for (name, value) in headers {
        if *name == HOST || name.as_str().starts_with("sec-websocket-key") {
            continue;
        }
        // RFC 9113 §8.2.2. h2 refuses them too.
        let connection = [TRANSFER_ENCODING, UPGRADE].contains(name)
            || matches!(name.as_str(), "connection" | "keep-alive" | "proxy-connection");
        if connection || *name == TE && value != "trailers" {
            return Err(Refused::Malformed("a field that concerns an HTTP/1.1 connection"));
        }
        if *name != COOKIE {
            field(out, name.as_str(), value)?;
        } else if !std::mem::replace(&mut cookies, true) {
            // RFC 9113 §8.2.3: one field again.
            for (index, crumb) in headers.get_all(COOKIE).iter().enumerate() {
                words(out, &[if index == 0 { "cookie: " } else { "; " }]);
                out.extend_from_slice(sound(crumb)?);
            }
            words(out, &["\r\n"]);
        }
    }
    Ok(())
}

/// Appends one field.
pub(super) fn field(out: &mut Vec<u8>, name: &str, value: &HeaderValue) -> Result<(), Refused> {
    words(out, &[name, ": "]);
    out.extend_from_slice(sound(value)?);
    words(out, &["\r\n"]);
    Ok(())
}

/// RFC 9113 §8.2.1: no NUL, CR or LF anywhere, which `http` sees to as well, and no white space at either end.
fn sound(value: &HeaderValue) -> Result<&[u8], Refused> {
    let bytes = value.as_bytes();
    let white = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if white(bytes.first()) || white(bytes.last()) || bytes.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')) {
        return Err(Refused::Malformed("a field value with white space around it, or a line break in it"));
    }
    Ok(bytes)
}

fn words(out: &mut Vec<u8>, words: &[&str]) {
    words.iter().for_each(|word| out.extend_from_slice(word.as_bytes()));
}

/// Sixteen bytes that nobody has guessed, in base64 (RFC 6455 §4.1).
fn nonce() -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    // Each has a key of its own, from the system's source of chance.
    let half = || u128::from(RandomState::new().build_hasher().finish());
    let bits = half() << 64 | half();
    let digit = |at: u32| char::from(DIGITS[(bits.wrapping_shr(at) & 63) as usize]);
    let last = char::from(DIGITS[((bits & 3) << 4) as usize]);
    (0..21).map(|index| digit(122 - 6 * index)).chain([last, '=', '=']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::{BadRequest, Framing, request, slots};
    use http::Request;
    use http::uri::Authority;

    type Case<'a> = (&'a str, &'a str, Option<&'a str>, &'a [(&'a str, &'a str)], bool);

    fn parts((method, path, authority, fields, _): Case<'_>) -> Parts {
        let mut uri = http::uri::Parts::default();
        uri.path_and_query = (!path.is_empty()).then(|| path.parse().unwrap());
        if let Some(authority) = authority {
            uri.authority = Some(Authority::from_maybe_shared(authority.to_owned()).unwrap());
            uri.scheme = Some(Scheme::HTTP);
        }
        let mut builder = Request::builder().method(method).uri(http::Uri::from_parts(uri).unwrap());
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn text(case: Case<'_>) -> Result<(String, Shape), Refused> {
        let mut out = Vec::new();
        let shape = write(&mut out, &parts(case), case.4)?;
        Ok((String::from_utf8(out).unwrap(), shape))
    }

    #[test]
    fn a_request_is_what_it_would_be_in_http_1() {
        let host = "host: a.test\r\n";
        for (case, expected, body) in [
            (("GET", "/x?y", Some("a.test"), &[][..], true), format!("GET /x?y HTTP/1.1\r\n{host}\r\n"), Body::None),
            (("OPTIONS", "*", Some("a.test"), &[], true), format!("OPTIONS * HTTP/1.1\r\n{host}\r\n"), Body::None),
            (("GET", "/", None, &[("host", "a.test")], true), format!("GET / HTTP/1.1\r\n{host}\r\n"), Body::None),
            (
                ("GET", "/", Some("a.test"), &[("host", "a.test")], true),
                format!("GET / HTTP/1.1\r\n{host}\r\n"),
                Body::None,
            ),
            (
                (
                    "GET",
                    "/",
                    Some("a.test"),
                    &[("cookie", "a=1"), ("x", "1"), ("cookie", "b=2"), ("te", "trailers")],
                    true,
                ),
                format!("GET / HTTP/1.1\r\n{host}cookie: a=1; b=2\r\nx: 1\r\nte: trailers\r\n\r\n"),
                Body::None,
            ),
            (
                ("POST", "/", Some("a.test"), &[("content-length", "5")], false),
                format!("POST / HTTP/1.1\r\n{host}content-length: 5\r\n\r\n"),
                Body::Length,
            ),
            (
                ("POST", "/", Some("a.test"), &[], false),
                format!("POST / HTTP/1.1\r\n{host}transfer-encoding: chunked\r\n\r\n"),
                Body::Chunked,
            ),
            (
                ("POST", "/", Some("a.test"), &[], true),
                format!("POST / HTTP/1.1\r\n{host}content-length: 0\r\n\r\n"),
                Body::None,
            ),
        ] {
            let (text, shape) = text(case).unwrap();
            assert_eq!((text, shape.body), (expected, body), "{case:?}");
        }
        assert_eq!(text(("HEAD", "/", Some("a"), &[], true)).unwrap().1.asked, Asked::Head);
    }

    #[test]
    fn what_http_1_cannot_say_is_refused() {
        for case in [
            ("GET", "", None, &[("host", "a.test")][..], true),
            ("GET", "*", Some("a.test"), &[], true),
            ("GET", "/", Some("a.test"), &[("x", " a")], true),
            ("GET", "/", Some("a.test"), &[("x", "a\t")], true),
            ("GET", "/", Some("a.test"), &[("cookie", "a "), ("cookie", "b")], true),
            ("GET", "/", Some("a.test"), &[("connection", "close")], true),
            ("GET", "/", Some("a.test"), &[("keep-alive", "1")], true),
            ("GET", "/", Some("a.test"), &[("proxy-connection", "close")], true),
            ("GET", "/", Some("a.test"), &[("upgrade", "x")], true),
            ("POST", "/", Some("a.test"), &[("transfer-encoding", "chunked")], false),
            ("GET", "/", Some("a.test"), &[("te", "gzip")], true),
        ] {
            assert!(matches!(text(case), Err(Refused::Malformed(_))), "{case:?}");
        }
    }

    #[test]
    fn what_is_ambiguous_in_http_1_too_is_left_to_its_parser() {
        for (case, expected) in [
            (("GET", "/", None, &[][..], true), BadRequest::HostMissing),
            (("GET", "/", Some("a.test"), &[("host", "b.test")], true), BadRequest::HostMismatch),
            (("GET", "/", Some("a.test"), &[("host", "a.test:81")], true), BadRequest::HostMismatch),
            (("GET", "/", Some("a.test"), &[("host", "a.test"), ("host", "a.test")], true), BadRequest::HostRepeated),
            (("OPTIONS", "*", Some("a.test"), &[("host", "b.test")], true), BadRequest::HostRepeated),
            (("GET", "/", Some("u@a.test"), &[], true), BadRequest::Host),
            (("CONNECT", "", Some("a.test:443"), &[], true), BadRequest::Connect),
            (
                ("POST", "/", Some("a"), &[("content-length", "5"), ("content-length", "5")], false),
                BadRequest::ContentLengthRepeated,
            ),
            (("POST", "/", Some("a"), &[("content-length", "+5")], false), BadRequest::ContentLength),
            (("POST", "/", Some("a"), &[("content_length", "5")], true), BadRequest::LookAlike),
            (("GET", "/", Some("a"), &[("expect", "more")], true), BadRequest::Expectation),
        ] {
            let mut case = case;
            if case.0 == "CONNECT" {
                case.1 = "/";
            }
            let (text, _) = text(case).unwrap();
            assert_eq!(request(&mut slots(), text.as_bytes()).unwrap_err(), expected, "{text}");
        }
        // RFC 9110 §4.2.3: these agree.
        let (text, _) = text(("GET", "/x", Some("A.test"), &[("host", "a.test:80")], true)).unwrap();
        let mut slots = slots();
        let read = request(&mut slots, text.as_bytes()).unwrap().unwrap();
        assert_eq!((read.target, read.framing), ("/x", Framing::Empty));
    }

    #[test]
    fn a_websocket_asks_for_an_upgrade() {
        let mut asked = parts((
            "CONNECT",
            "/chat",
            Some("a.test"),
            &[("sec-websocket-version", "13"), ("sec-websocket-key", "theirs")],
            false,
        ));
        asked.extensions.insert(Protocol::from_static("websocket"));
        let mut out = Vec::new();
        let shape = write(&mut out, &asked, false).unwrap();
        assert_eq!(shape, Shape { body: Body::Raw, asked: Asked::Other });
        let text = String::from_utf8(out).unwrap();
        let (before, key) = text.split_once("sec-websocket-key: ").unwrap();
        assert_eq!(
            before,
            "GET /chat HTTP/1.1\r\nhost: a.test\r\nsec-websocket-version: 13\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        );
        assert_eq!((key.len(), &key[22..]), (28, "==\r\n\r\n"));
        assert_ne!(nonce(), nonce());
        let mut slots = slots();
        assert!(request(&mut slots, text.as_bytes()).unwrap().unwrap().hop.upgrade);
        assert_eq!(
            write(&mut Vec::new(), &asked, true),
            Err(Refused::Malformed("a WebSocket that has ended, or has a length"))
        );
        asked.extensions.insert(Protocol::from_static("connect-udp"));
        assert_eq!(write(&mut Vec::new(), &asked, false), Err(Refused::UnknownProtocol));
    }
}
