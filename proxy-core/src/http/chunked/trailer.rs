//! The trailer section of a chunked body (RFC 9110 §6.5, RFC 9112 §7.1.2): read strictly, and cleaned of what does not belong there.
//!
//! Framing and routing fields are refused. Fields that change how a message is treated, authenticate somebody or speak
//! of the connection are dropped (§6.5.1): a server that merges trailers into the header would believe them.

use super::MAX_TRAILER;
use crate::http::head::{BadChunk, is_token};

/// They frame or route the message.
const REFUSED: [&str; 3] = ["content-length", "host", "transfer-encoding"];

/// They are not passed on.
const DROPPED: [&str; 41] = [
    "accept-encoding",
    "age",
    "authentication-info",
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "forwarded",
    "http2-settings",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "location",
    "max-forwards",
    "origin",
    "pragma",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "referer",
    "retry-after",
    "set-cookie",
    "te",
    "trailer",
    "upgrade",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "x-real-ip",
];
const DROPPED_PREFIX: &str = "x-forwarded-";

/// What of the section was read. Without any field, which is nearly always, nothing is allocated.
#[derive(Debug, Default)]
pub(super) struct Trailer {
    /// Whole lines that are passed on, and the one that is being read.
    kept: Vec<u8>,
    /// Where that one begins.
    line: usize,
    /// All bytes that were read.
    length: usize,
    /// The empty line may have begun: its CR was read, nothing else of the line.
    ending: bool,
}

impl Trailer {
    /// Takes a byte; whether it was the last one of the section.
    pub(super) fn push(&mut self, byte: u8) -> Result<bool, BadChunk> {
        self.length += 1;
        if self.length > MAX_TRAILER {
            return Err(BadChunk::TrailerTooLong);
        }
        let empty = self.kept.len() == self.line;
        match byte {
            b'\n' if self.ending => {
                if !self.kept.is_empty() {
                    self.kept.extend_from_slice(b"\r\n");
                }
                return Ok(true);
            }
            _ if self.ending => return Err(BadChunk::Trailer),
            b'\r' if empty => self.ending = true,
            b'\n' => self.end_line()?,
            _ => self.kept.push(byte),
        }
        Ok(false)
    }

    /// Checks the line that has just ended, and lets it go if it is not to be passed on.
    fn end_line(&mut self) -> Result<(), BadChunk> {
        let line = self.kept[self.line..].strip_suffix(b"\r").ok_or(BadChunk::Trailer)?;
        let colon = memchr::memchr(b':', line).ok_or(BadChunk::Trailer)?;
        let (name, value) = line.split_at(colon);
        let valid_value = value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~' | 0x80..));
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) || !valid_value {
            return Err(BadChunk::Trailer);
        }
        if REFUSED.iter().any(|refused| same(name, refused)) {
            return Err(BadChunk::TrailerForbidden);
        }
        let prefix = name.get(..DROPPED_PREFIX.len()).is_some_and(|start| same(start, DROPPED_PREFIX));
        if prefix || DROPPED.iter().any(|dropped| same(name, dropped)) {
            self.kept.truncate(self.line);
        } else {
            self.kept.push(b'\n');
        }
        self.line = self.kept.len();
        Ok(())
    }

    /// The fields and the empty line, once it was read.
    pub(super) fn fields(&self) -> &[u8] {
        if self.kept.is_empty() { b"\r\n" } else { &self.kept }
    }
}

/// Whether these are the same name, to those too who take `_` for `-`.
fn same(name: &[u8], known: &str) -> bool {
    let alike = |(byte, known): (&u8, u8)| byte.eq_ignore_ascii_case(&known) || (*byte == b'_' && known == b'-');
    name.len() == known.len() && name.iter().zip(known.bytes()).all(alike)
}
