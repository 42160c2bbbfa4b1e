//! Reads the head of a response, and finds how its body ends (RFC 9112 §4, §6.3).

use super::fields::Survey;
use super::{BadHead, BadResponse, Framing, Response, Slots, Version, fault};

/// What was asked for, as far as it decides whether the response has a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// `HEAD`
    Head,
    /// `CONNECT`
    Connect,
    /// Anything else.
    Other,
}

impl Asked {
    /// By its method.
    pub fn by(method: &str) -> Self {
        match method {
            "HEAD" => Self::Head,
            "CONNECT" => Self::Connect,
            _ => Self::Other,
        }
    }
}

/// Reads a response's head from the beginning of `bytes`; `None` when more bytes are needed.
///
/// # Errors
/// Why it is not passed on.
pub fn response<'h, 'b>(
    slots: &'h mut Slots<'b>,
    bytes: &'b [u8],
    asked: Asked,
) -> Result<Option<Response<'h, 'b>>, BadResponse> {
    if matches!(bytes, [b'\r' | b'\n', ..]) {
        return Err(BadResponse::StatusLine);
    }
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let length = match config.parse_response_with_uninit_headers(&mut parsed, bytes, slots) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(diagnose(bytes, error)),
    };
    let httparse::Response { version: Some(minor), code: Some(status), reason: Some(reason), headers: fields } = parsed
    else {
        return Err(BadResponse::StatusLine);
    };
    let fields: &'h [httparse::Header<'b>] = fields;
    let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    super::only_crlf(&bytes[..length], fields)?;
    if status < 100 {
        return Err(BadResponse::Status);
    }
    let mut survey = Survey::of(fields, version)?;
    // RFC 9110 §8.6, RFC 9112 §6.1: these announce no body. `Content-Length: 0` is met often, and says the truth.
    if matches!(status, 100..200 | 204) {
        match survey.length {
            _ if survey.chunked => return Err(BadResponse::BodyForbidden),
            Some(0) => survey.drop_field(survey.length_field),
            Some(_) => return Err(BadResponse::BodyForbidden),
            None => {}
        }
    }
    // RFC 9112 §6.3, in its order.
    let framing = match (asked, status, survey.length) {
        (Asked::Head, ..) | (_, 100..200 | 204 | 304, _) | (Asked::Connect, 200..300, _) => Framing::Empty,
        _ if survey.chunked => Framing::Chunked,
        (_, _, Some(0)) => Framing::Empty,
        (_, _, Some(length)) => Framing::Length(length),
        (_, _, None) => Framing::UntilClose,
    };
    Ok(Some(Response { version, status, reason, fields, framing, hop: survey.hop(version, framing), length }))
}

fn diagnose(head: &[u8], error: httparse::Error) -> BadResponse {
    let line = fault::first_line(head);
    match error {
        httparse::Error::TooManyHeaders => BadHead::TooManyFields.into(),
        httparse::Error::HeaderName | httparse::Error::HeaderValue => fault::field(head).into(),
        httparse::Error::Version if line.get(..8).is_some_and(fault::is_version) => BadHead::Version.into(),
        httparse::Error::NewLine => BadHead::BareCr.into(),
        httparse::Error::Version | httparse::Error::Status | httparse::Error::Token => BadResponse::StatusLine,
    }
}
