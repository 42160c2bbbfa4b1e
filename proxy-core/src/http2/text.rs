//! What comes on a stream of HTTP/2, as the text of HTTP/1.1: what is given of a head, then the body in its framing.
//!
//! The other side's window opens only as the text is read.

use std::fmt::Write as _;
use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::RecvStream;
use http::HeaderMap;

use super::failed;
use super::request::{self, Body};

/// A message that comes.
#[derive(Debug)]
pub(super) struct Incoming {
    recv: RecvStream,
    /// Bytes of HTTP/1.1 that aren't read yet, and how many of them are.
    text: Vec<u8>,
    read: usize,
    /// Data behind the text.
    data: Bytes,
    body: Body,
    /// All of it is in text and data, or was read.
    over: bool,
    /// It ended with trailers that HTTP/1.1 can't say: it is malformed.
    broken: bool,
}

impl Incoming {
    /// `text` is the head.
    pub(super) fn new(recv: RecvStream, text: Vec<u8>, body: Body) -> Incoming {
        Incoming { recv, text, read: 0, data: Bytes::new(), body, over: body == Body::None, broken: false }
    }

    /// Whether there is something to take.
    pub(super) fn is_ready(&self) -> bool {
        self.read < self.text.len() || !self.data.is_empty()
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether nothing comes beyond what there is.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// The vector of its head, for another one.
    pub(super) fn take_text(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.text)
    }

    /// Moves into `buffer` what is there of the text, or of the data.
    pub(super) fn take(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let text = &self.text[self.read..];
        if !text.is_empty() {
            let count = text.len().min(buffer.len());
            buffer[..count].copy_from_slice(&text[..count]);
            self.read += count;
            return Ok(count);
        }
        let count = self.data.len().min(buffer.len());
        self.data.copy_to_slice(&mut buffer[..count]);
        self.recv.flow_control().release_capacity(count).map_err(failed)?;
        if self.data.is_empty() && self.body == Body::Chunked {
            self.say("\r\n");
        }
        Ok(count)
    }

    fn say(&mut self, text: &str) {
        self.text.clear();
        self.read = 0;
        self.text.extend_from_slice(text.as_bytes());
    }

    /// Has the next piece of the body, or its end.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.broken {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        match ready!(self.recv.poll_data(cx)) {
            Some(Ok(data)) => {
                self.data = data;
                if self.body == Body::Chunked && !self.data.is_empty() {
                    let mut size = String::with_capacity(8);
                    let _ = write!(size, "{:x}\r\n", self.data.len());
                    self.say(&size);
                }
            }
            Some(Err(error)) => return Poll::Ready(Err(failed(error))),
            None => {
                // With a length there is no place for trailers in HTTP/1.1 (RFC 9112 §7.1.2), nor in a tunnel.
                let trailers = ready!(self.recv.poll_trailers(cx)).map_err(failed)?;
                self.over = true;
                if self.body == Body::Chunked {
                    self.end(&trailers.unwrap_or_default());
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn end(&mut self, trailers: &HeaderMap) {
        self.say("0\r\n");
        let mut fields = trailers.iter();
        self.broken = fields.any(|(name, value)| request::field(&mut self.text, name.as_str(), value).is_err());
        self.text.extend_from_slice(b"\r\n");
    }
}

/// Fills `buffer` with what `read` has at hand: how much, 0 at the end.
pub(super) fn fill(
    buffer: &mut [u8],
    mut read: impl FnMut(&mut [u8]) -> Poll<io::Result<usize>>,
) -> Poll<io::Result<usize>> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read(&mut buffer[filled..]) {
            Poll::Ready(Ok(count @ 1..)) => filled += count,
            _ if filled > 0 => break,
            ended => return ended,
        }
    }
    Poll::Ready(Ok(filled))
}
