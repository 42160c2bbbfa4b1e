//! Reads the head of a request, and refuses whatever two readers could understand differently (RFC 9112 §3, §5, §6, §11.2).

use super::fields::{Expect, Survey};
use super::{BadHead, BadRequest, Framing, Request, Slots, Version, fault};
use crate::http::host::{self, Authority};

/// The longest method; the longest one registered has 17 (`UPDATEREDIRECTREF`).
const MAX_METHOD: usize = 32;

/// Reads a request's head from the beginning of `bytes`; `None` when more bytes are needed.
///
/// # Errors
/// Why it is refused.
pub fn request<'h, 'b>(slots: &'h mut Slots<'b>, bytes: &'b [u8]) -> Result<Option<Request<'h, 'b>>, BadRequest> {
    let Some(start) = skip_empty_line(bytes)? else { return Ok(None) };
    let head = &bytes[start..];
    let mut parsed = httparse::Request::new(&mut []);
    let length = match parsed.parse_with_uninit_headers(head, slots) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(diagnose(head, error)),
    };
    let httparse::Request { method: Some(method), path: Some(target), version: Some(minor), headers: fields } = parsed
    else {
        return Err(BadRequest::RequestLine);
    };
    let fields: &'h [httparse::Header<'b>] = fields;
    let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    super::only_crlf(&head[..length], fields)?;
    if method.len() > MAX_METHOD {
        return Err(BadRequest::Method);
    }
    if method == "CONNECT" {
        return Err(BadRequest::Connect);
    }
    let survey = Survey::of(fields, version)?;
    let named = host_field(&survey, version)?;
    let (target, host, absolute) = match target.as_bytes() {
        [b'/', ..] => (target, named, false),
        // RFC 9112 §3.2.4
        b"*" if method == "OPTIONS" => (target, named, false),
        _ => {
            let (target, authority) = absolute_form(method, target, named)?;
            (target, Some(authority), true)
        }
    };
    if !is_target(target) {
        return Err(BadRequest::Target);
    }
    let framing = match survey.length {
        _ if survey.chunked => Framing::Chunked,
        None | Some(0) => Framing::Empty,
        Some(length) => Framing::Length(length),
    };
    // RFC 9110 §10.1.1: not in HTTP/1.0; and without a body there is nothing to wait with.
    let expects_continue = match survey.expect {
        Expect::Other if version == Version::Http11 => return Err(BadRequest::Expectation),
        Expect::Continue => version == Version::Http11 && framing != Framing::Empty,
        Expect::Other | Expect::Nothing => false,
    };
    Ok(Some(Request {
        method,
        target,
        absolute,
        version,
        host: host.map(|host| host.text),
        fields,
        framing,
        hop: survey.hop(version, framing),
        expects_continue,
        length: start + length,
        start,
    }))
}

/// Where the request begins: RFC 9112 §2.2 has one empty line before it ignored.
fn skip_empty_line(bytes: &[u8]) -> Result<Option<usize>, BadRequest> {
    match bytes {
        [b'\n', ..] | [b'\r', b'\n', b'\n', ..] => Err(BadHead::BareLf.into()),
        [] | [b'\r'] | [b'\r', b'\n'] | [b'\r', b'\n', b'\r'] => Ok(None),
        [b'\r', b'\n', b'\r', b'\n', ..] => Err(BadRequest::LeadingLines),
        [b'\r', b'\n', b'\r', ..] => Err(BadHead::BareCr.into()),
        [b'\r', b'\n', ..] => Ok(Some(2)),
        [b'\r', ..] => Err(BadHead::BareCr.into()),
        _ => Ok(Some(0)),
    }
}

/// `Host`, which only HTTP/1.0 may leave out (RFC 9112 §3.2).
fn host_field<'b>(survey: &Survey<'b>, version: Version) -> Result<Option<Authority<'b>>, BadRequest> {
    match survey.host {
        Some(_) if survey.hosts > 1 => Err(BadRequest::HostRepeated),
        Some(value) => host::parse(value).map(Some).ok_or(BadRequest::Host),
        None if version == Version::Http10 => Ok(None),
        None => Err(BadRequest::HostMissing),
    }
}

/// Takes an absolute-form target apart (RFC 9112 §3.2.2): what an origin-form would say, and for which host.
fn absolute_form<'b>(
    method: &str,
    target: &'b str,
    named: Option<Authority<'b>>,
) -> Result<(&'b str, Authority<'b>), BadRequest> {
    let (scheme, rest) = target.split_once("://").ok_or(BadRequest::Target)?;
    let default_port = match scheme {
        _ if scheme.eq_ignore_ascii_case("http") => 80,
        _ if scheme.eq_ignore_ascii_case("https") => 443,
        _ => return Err(BadRequest::Target),
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let authority = host::parse(authority.as_bytes()).ok_or(BadRequest::Target)?;
    // The server reads one of them, the rules another: they must agree.
    if named.is_some_and(|named| !named.same(&authority, default_port)) {
        return Err(BadRequest::HostMismatch);
    }
    let target = match path {
        "" if method == "OPTIONS" => "*",
        "" => "/",
        // A query without a path has no origin-form that is a part of what was sent.
        _ if !path.starts_with('/') => return Err(BadRequest::Target),
        _ => path,
    };
    Ok((target, named.unwrap_or(authority)))
}

/// Visible ASCII without a fragment, which is never sent (RFC 9112 §3.2).
fn is_target(target: &str) -> bool {
    target.is_ascii() && memchr::memchr(b'#', target.as_bytes()).is_none()
}

fn diagnose(head: &[u8], error: httparse::Error) -> BadRequest {
    match error {
        httparse::Error::TooManyHeaders => BadHead::TooManyFields.into(),
        httparse::Error::HeaderName | httparse::Error::HeaderValue => fault::field(head).into(),
        httparse::Error::NewLine | httparse::Error::Token | httparse::Error::Version | httparse::Error::Status => {
            request_line(head, error)
        }
    }
}

fn request_line(head: &[u8], error: httparse::Error) -> BadRequest {
    let line = fault::first_line(head);
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next());
    let version = words.next().unwrap_or_default();
    match error {
        _ if line.contains(&0) => BadHead::Nul.into(),
        httparse::Error::Version if fault::is_version(version) => BadHead::Version.into(),
        httparse::Error::NewLine if head.get(line.len()..).is_some_and(|rest| rest.starts_with(b"\r\n")) => {
            // If nothing is wrong with this line, the CR is that of the empty one.
            let whole = fault::is_version(version) && words.next().is_none();
            if whole { BadHead::BareCr.into() } else { BadRequest::RequestLine }
        }
        _ if head.get(line.len()) == Some(&b'\r') && head.get(line.len() + 1).is_some_and(|next| *next != b'\n') => {
            BadHead::BareCr.into()
        }
        httparse::Error::Token if method.is_empty() || !method.iter().all(|byte| fault::is_token(*byte)) => {
            BadRequest::Method
        }
        httparse::Error::Token if words.next().is_none() && target.is_some_and(|target| !target.is_empty()) => {
            // With no version it is the request line of HTTP/0.9.
            if version.is_empty() { BadRequest::RequestLine } else { BadRequest::Target }
        }
        _ => BadRequest::RequestLine,
    }
}
