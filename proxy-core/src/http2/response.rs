//! What the engine writes to a client of HTTP/1.1, as HTTP/2 says it: heads, and the framing of bodies. Pure.
//!
//! It is our own writing, so what is wrong with it is a fault of ours; still nothing of it is taken on trust.

use http::header::{HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::{Response, StatusCode};

use crate::http::chunked::MAX_TRAILER;
use crate::http::head::{self, Asked, Framing};

/// The engine wrote something that is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Garbled;

/// A head.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) response: Response<()>,
    pub(super) framing: Framing,
    /// A challenge of a scheme that authenticates connections: there is no such thing in HTTP/2.
    pub(super) connection_auth: bool,
    /// Bytes that it had in HTTP/1.1.
    pub(super) length: usize,
}

/// Reads a head from the beginning of `bytes`; `None`: it isn't whole.
pub(super) fn head(bytes: &[u8], asked: Asked) -> Result<Option<Head>, Garbled> {
    let mut slots = head::slots();
    let Some(read) = head::response(&mut slots, bytes, asked).map_err(|_| Garbled)? else { return Ok(None) };
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(read.status).map_err(|_| Garbled)?;
    let headers = response.headers_mut();
    headers.reserve(read.fields.len());
    for (index, field) in read.fields.iter().enumerate() {
        // RFC 9113 §8.2.2: what concerned an HTTP/1.1 connection stays behind.
        if read.hop.hop_by_hop & (1 << index) == 0 {
            let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Garbled)?;
            if name != TRANSFER_ENCODING {
                headers.append(name, HeaderValue::from_bytes(field.value).map_err(|_| Garbled)?);
            }
        }
    }
    let connection_auth = read.hop.connection_auth && matches!(read.status, 401 | 407);
    Ok(Some(Head { response, framing: read.framing, connection_auth, length: read.length }))
}

/// A chunked body: its data and its trailers, at whatever byte it was cut.
#[derive(Debug)]
pub(super) struct Chunks {
    at: At,
    trailer: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Size(u64),
    Data(u64),
    /// So many bytes of the line end behind the data.
    DataEnd(u8),
    Trailer,
}

/// What comes next of a chunked body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// So many bytes were framing.
    Framing(usize),
    /// So many bytes are data, at most.
    Data(usize),
    /// So many bytes were the end, and these are its trailers.
    End(usize, Option<Box<HeaderMap>>),
}

impl Chunks {
    pub(super) fn new() -> Chunks {
        Chunks { at: At::Size(0), trailer: Vec::new() }
    }

    /// What `bytes` begin with; there is at least one.
    pub(super) fn next(&mut self, bytes: &[u8]) -> Result<Piece, Garbled> {
        for (index, byte) in bytes.iter().enumerate() {
            self.at = match (self.at, *byte) {
                (At::Data(_), _) if index > 0 => return Ok(Piece::Framing(index)),
                (At::Data(left), _) => {
                    return Ok(Piece::Data(usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()))));
                }
                (At::Size(size), b'\r') => At::Size(size),
                (At::Size(0), b'\n') => At::Trailer,
                (At::Size(size), b'\n') => At::Data(size),
                (At::Size(size), digit) => {
                    let digit = char::from(digit).to_digit(16).ok_or(Garbled)?;
                    At::Size(size.checked_mul(16).ok_or(Garbled)? | u64::from(digit))
                }
                (At::DataEnd(0), b'\r') => At::DataEnd(1),
                (At::DataEnd(1), b'\n') => At::Size(0),
                (At::DataEnd(_), _) => return Err(Garbled),
                (At::Trailer, byte) => {
                    self.trailer.push(byte);
                    if self.trailer == b"\r\n" {
                        return Ok(Piece::End(index + 1, None));
                    }
                    if self.trailer.ends_with(b"\r\n\r\n") {
                        return Ok(Piece::End(index + 1, Some(Box::new(trailers(&self.trailer)?))));
                    }
                    if self.trailer.len() > MAX_TRAILER + 4 {
                        return Err(Garbled);
                    }
                    At::Trailer
                }
            };
        }
        Ok(Piece::Framing(bytes.len()))
    }

    /// So many bytes of the data are done with.
    pub(super) fn took(&mut self, count: usize) {
        if let At::Data(left) = self.at {
            let left = left - count as u64;
            self.at = if left == 0 { At::DataEnd(0) } else { At::Data(left) };
        }
    }
}

fn trailers(text: &[u8]) -> Result<HeaderMap, Garbled> {
    let mut slots = [httparse::EMPTY_HEADER; head::MAX_FIELDS];
    let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(text, &mut slots) else {
        return Err(Garbled);
    };
    let mut headers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Garbled)?;
        headers.append(name, HeaderValue::from_bytes(field.value).map_err(|_| Garbled)?);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_head_loses_what_concerned_the_connection() {
        let text = b"HTTP/1.1 200 Fine\r\nServer: x\r\nConnection: close, x-gone\r\nX-Gone: 1\r\nKeep-Alive: 5\r\n\
            Transfer-Encoding: chunked\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nUpgrade: h3\r\n\r\nrest";
        let head = head(text, Asked::Other).unwrap().unwrap();
        let fields: Vec<_> =
            head.response.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(fields, [("server", &b"x"[..]), ("set-cookie", b"a"), ("set-cookie", b"b")]);
        assert_eq!(
            (head.response.status().as_u16(), head.framing, head.length),
            (200, Framing::Chunked, text.len() - 4)
        );
        assert!(!head.connection_auth);
    }

    #[test]
    fn only_a_challenge_of_the_connection_is_one() {
        for (status, scheme, expected) in [
            (401, "NTLM", true),
            (407, "Negotiate", true),
            (401, "Basic realm=\"NTLM\"", false),
            (200, "Negotiate x", false),
        ] {
            let text = format!("HTTP/1.1 {status} \r\nWWW-Authenticate: {scheme}\r\nContent-Length: 0\r\n\r\n");
            assert_eq!(head(text.as_bytes(), Asked::Other).unwrap().unwrap().connection_auth, expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_answer_is_not_passed_on() {
        for text in [&b"HTTP/1.1 20\r\n\r\n"[..], b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\nA b\r\n\r\n"] {
            assert_eq!(head(text, Asked::Other).err(), Some(Garbled));
        }
        assert!(head(b"HTTP/1.1 200 OK\r\nA: b\r\n", Asked::Other).unwrap().is_none());
        for text in [&b"x"[..], b"1\r\nab", b"1\r\na\rb", b"fffffffffffffffff\r\n", b"0\r\nA b\r\n\r\n"] {
            let mut chunks = Chunks::new();
            let mut rest = text;
            let end = loop {
                match chunks.next(rest) {
                    Ok(Piece::Framing(count)) => rest = &rest[count..],
                    Ok(Piece::Data(count)) => {
                        chunks.took(count);
                        rest = &rest[count..];
                    }
                    Ok(Piece::End(..)) => break Ok(()),
                    Err(garbled) => break Err(garbled),
                }
                assert!(!rest.is_empty(), "{}", text.escape_ascii());
            };
            assert_eq!(end, Err(Garbled), "{}", text.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn a_chunked_body_is_its_data_wherever_it_was_cut(
            data in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..5),
            cuts in proptest::collection::vec(1_usize..30, 1..20),
            trailer in any::<bool>(),
        ) {
            let mut text = Vec::new();
            for chunk in &data {
                text.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                text.extend_from_slice(chunk);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(if trailer { b"0\r\nGrpc-Status: 0\r\n\r\n" } else { b"0\r\n\r\n" });
            let (mut chunks, mut got, mut end) = (Chunks::new(), Vec::new(), None);
            let (mut rest, mut cut) = (&text[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let piece = &rest[..rest.len().min(*cut.next().unwrap())];
                let taken = match chunks.next(piece).unwrap() {
                    Piece::Framing(count) => count,
                    Piece::Data(count) => {
                        chunks.took(count);
                        got.extend_from_slice(&piece[..count]);
                        count
                    }
                    Piece::End(count, trailers) => {
                        prop_assert!(end.is_none());
                        end = Some(trailers);
                        count
                    }
                };
                rest = &rest[taken..];
            }
            prop_assert_eq!(got, data.concat());
            let trailers = end.unwrap();
            prop_assert_eq!(trailers.is_some(), trailer);
            if let Some(trailers) = trailers {
                prop_assert_eq!(trailers.get("grpc-status").unwrap(), "0");
            }
        }
    }
}
