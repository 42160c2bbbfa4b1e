//! Answers that no server gave: errors, refusals, redirects, and what a `return` rule says. Pure.
//!
//! HAProxy's ways: an error is not to be cached; a redirect has no body; a `HEAD` gets the length of what it doesn't
//! get.

use std::collections::BTreeMap;

use super::edits::{Edits, append, clear, field};
use super::forwarded::{Ends, decimal};
use super::host;
use super::rewrite::{Connection, VERSION, bracketed};
use crate::plan::{Redirect, Reply};

/// How an answer of ours is given, whatever it says.
#[derive(Debug)]
pub(crate) struct Answer<'a, E> {
    /// The request's method was `HEAD`.
    pub(crate) head: bool,
    pub(crate) connection: Connection,
    /// [`super::date::Date`]; empty: none.
    pub(crate) date: &'a [u8],
    /// The frontend's error pages.
    pub(crate) pages: &'a BTreeMap<u16, String>,
    /// Of the frontend and of its rules, in this order.
    pub(crate) edits: E,
}

/// What a redirect is built from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// As the client sent it, with its port.
    pub(crate) host: Option<&'a str>,
    /// By now: with the path that a rule has set.
    pub(crate) target: &'a str,
    /// For who named no host.
    pub(crate) ends: &'a Ends,
}

/// A body and its type.
type Body<'a> = (&'a [u8], &'a str);

const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const NO_CACHE: (&str, &[u8]) = ("Cache-Control", b"no-cache");
/// RFC 9110 §15.5.6 wants them named.
const METHODS: (&str, &[u8]) = ("Allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

impl<'a, E: Edits<'a>> Answer<'a, E> {
    /// Appends an error: the frontend's page, or `sentence`, or what the status means.
    pub(crate) fn error(&self, out: &mut Vec<u8>, status: u16, sentence: Option<&str>) {
        let mut text = Vec::new();
        let body = self.page(status).unwrap_or_else(|| {
            say(&mut text, status, sentence);
            (&text, TEXT)
        });
        let fields: &[_] = if status == 405 { &[NO_CACHE, METHODS] } else { &[NO_CACHE] };
        self.write(out, status, body, fields);
    }

    /// Appends the answer of a rule that denies.
    pub(crate) fn deny(&self, out: &mut Vec<u8>, reply: &Reply) {
        match &reply.body {
            Some(body) => self.write(out, reply.status, (body.as_bytes(), &reply.content_type), &[NO_CACHE]),
            None => self.error(out, reply.status, None),
        }
    }

    /// Appends the answer of a rule that returns one.
    pub(crate) fn give(&self, out: &mut Vec<u8>, reply: &Reply) {
        match &reply.body {
            Some(body) => self.write(out, reply.status, (body.as_bytes(), &reply.content_type), &[]),
            None if reply.status < 400 => {
                self.write(out, reply.status, self.page(reply.status).unwrap_or_default(), &[])
            }
            None => self.error(out, reply.status, None),
        }
    }

    /// Appends a redirect.
    pub(crate) fn redirect(&self, out: &mut Vec<u8>, to: &Redirect, code: u16, asked: Asked<'_>) {
        let mut location = Vec::new();
        to.write(&mut location, asked);
        let location = ("Location", location.as_slice());
        // RFC 9110 §15.4: 301 and 308 are for ever, and may be kept.
        let fields: &[_] = if matches!(code, 301 | 308) { &[location] } else { &[location, NO_CACHE] };
        self.write(out, code, Body::default(), fields);
    }

    fn page(&self, status: u16) -> Option<Body<'a>> {
        self.pages.get(&status).map(|page| (page.as_bytes(), HTML))
    }

    fn write(&self, out: &mut Vec<u8>, status: u16, (body, kind): Body<'_>, fields: &[(&str, &[u8])]) {
        // RFC 9110 §15.3.5, §15.4.5: they have none, and say no length.
        let bodiless = matches!(status, 204 | 304);
        // RFC 9110 §15.3.6: it has none, and says so.
        let body = if status == 205 { &[] } else { body };
        out.extend_from_slice(VERSION);
        out.push(b' ');
        decimal(out, status.into());
        out.push(b' ');
        out.extend_from_slice(reason(status).as_bytes());
        out.extend_from_slice(b"\r\n");
        if !bodiless {
            out.extend_from_slice(b"Content-Length: ");
            decimal(out, body.len() as u64);
            out.extend_from_slice(b"\r\n");
        }
        let kind = [("Content-Type", kind.as_bytes())];
        let kind = if bodiless || body.is_empty() { [].as_slice() } else { kind.as_slice() };
        let date = [("Date", self.date)];
        let date = if self.date.is_empty() { [].as_slice() } else { date.as_slice() };
        for (name, value) in kind.iter().chain(fields).chain(date) {
            if !clear(self.edits.clone(), name) {
                field(out, name, value);
            }
        }
        append(out, self.edits.clone());
        self.connection.write(out, &[]);
        out.extend_from_slice(b"\r\n");
        if !bodiless && !self.head {
            out.extend_from_slice(body);
        }
    }
}

impl Redirect {
    fn write(&self, out: &mut Vec<u8>, asked: Asked<'_>) {
        // `*` asks for no path (RFC 9112 §3.2.4).
        let path = if asked.target == "*" { "" } else { asked.target };
        match self {
            Redirect::Location(location) => out.extend_from_slice(location.as_bytes()),
            Redirect::Scheme(scheme) => {
                out.extend_from_slice(scheme.as_bytes());
                out.extend_from_slice(b"://");
                match asked.host {
                    // The port was the old scheme's.
                    Some(host) => harmless(out, host::without_port(host)),
                    None => bracketed(out, asked.ends),
                }
                rooted(out, path);
            }
            Redirect::Prefix(prefix) => {
                out.extend_from_slice(prefix.as_bytes());
                rooted(out, path);
            }
        }
    }
}

/// Appends path and query, beginning with a slash.
fn rooted(out: &mut Vec<u8>, path: &str) {
    if !path.starts_with('/') {
        out.push(b'/');
    }
    harmless(out, path);
}

/// Appends what a client sent. The parser let nothing through that ends a line; should it ever, it is encoded here.
fn harmless(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_graphic() {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

/// Appends `403 Forbidden`, and what it means.
fn say(out: &mut Vec<u8>, status: u16, sentence: Option<&str>) {
    decimal(out, status.into());
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.push(b'\n');
    let sentence = sentence.unwrap_or_else(|| meaning(status));
    if !sentence.is_empty() {
        out.extend_from_slice(sentence.as_bytes());
        out.push(b'\n');
    }
}

/// The reason phrase of a status; empty for one that isn't registered (RFC 9112 §4 allows it).
pub(crate) fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        511 => "Network Authentication Required",
        _ => "",
    }
}

/// What the client is told when nobody has said more.
fn meaning(status: u16) -> &'static str {
    match status {
        400 => "The request could not be understood.",
        403 => "This is not allowed here.",
        404 => "There is nothing here.",
        405 => "This method is not allowed here.",
        408 => "The request did not arrive in time.",
        413 => "The request is too large.",
        417 => "What the request expects is not done here.",
        429 => "Too many requests came from you. Try again later.",
        431 => "The head of the request is too large.",
        500 => "Something went wrong here.",
        501 => "This is not done here.",
        502 => "The server's answer was no valid one.",
        503 => "No server can take the request now. Try again later.",
        504 => "The server did not answer in time.",
        505 => "Only HTTP/1.0 and HTTP/1.1 are spoken here.",
        _ => "",
    }
}
