//! Frames made by hand, for clients that no library would be.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::data_support::http::NEVER;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const CALM: u32 = 11;
pub(crate) const HTTP_1_1_REQUIRED: u32 = 13;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame as it is on the wire.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Fields as literals without indexing and without Huffman's code (RFC 7541 §6.2.2).
pub(crate) fn fields(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        string(&mut out, name);
        string(&mut out, value);
    }
    out
}

fn string(out: &mut Vec<u8>, text: &[u8]) {
    match text.len() {
        length @ ..127 => out.push(length as u8),
        mut length => {
            out.push(127);
            length -= 127;
            while length >= 128 {
                out.push((length % 128) as u8 | 128);
                length /= 128;
            }
            out.push(length as u8);
        }
    }
    out.extend_from_slice(text);
}

/// The fields of a plain request.
pub(crate) fn get() -> Vec<u8> {
    fields(&[(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a.test"), (b":path", b"/")])
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// Of a GOAWAY or RST_STREAM.
    pub(crate) fn code(&self) -> u32 {
        let from = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[from..from + 4].try_into().unwrap())
    }

    /// Of a response's HEADERS: h2 says the status first.
    pub(crate) fn status(&self) -> u16 {
        match self.payload[0] {
            0x88 => 200,
            0x89 => 204,
            0x8a => 206,
            0x8b => 304,
            0x8c => 400,
            0x8d => 404,
            0x8e => 500,
            // RFC 7541 Appendix B: 0 to 2 have five bits, the other digits six.
            _ => {
                let (mut bits, mut status) =
                    (u32::from_be_bytes([self.payload[2], self.payload[3], self.payload[4], 0]), 0);
                for _ in 0..3 {
                    let digit = if bits >> 27 < 3 { bits >> 27 } else { (bits >> 26) - 0b01_1001 + 3 };
                    bits <<= if digit < 3 { 5 } else { 6 };
                    status = status * 10 + digit as u16;
                }
                status
            }
        }
    }
}

/// A client that says exactly what it is told to.
#[derive(Debug)]
pub(crate) struct Raw(pub(crate) TcpStream);

impl Raw {
    /// After both have said hello.
    pub(crate) fn to(address: SocketAddr) -> Raw {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(NEVER)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut raw = Raw(stream);
        raw.say([PREFACE, &frame(SETTINGS, 0, 0, &[])].concat());
        raw.until(|frame| frame.kind == SETTINGS && frame.flags == 0);
        raw.say(frame(SETTINGS, ACK, 0, &[]));
        raw.until(|frame| frame.kind == SETTINGS && frame.flags == ACK);
        raw
    }

    /// Says so; if the other side is gone, that shows when it is read from.
    pub(crate) fn say(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.0.write_all(bytes.as_ref()).is_ok()
    }

    /// The next frame; `None`: the end.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        match self.0.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => return None,
            Err(error) => panic!("{error}"),
        }
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.0.read_exact(&mut payload).ok()?;
        Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
    }

    /// The first frame that is so; panics at the end.
    pub(crate) fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Frame {
        let mut seen = Vec::new();
        while let Some(frame) = self.next() {
            if wanted(&frame) {
                return frame;
            }
            seen.push((frame.kind, frame.flags, frame.stream));
        }
        panic!("the connection ended after {seen:?}")
    }

    /// Why it was told to go away, when it has ended.
    pub(crate) fn end(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.next() {
            if frame.kind == GOAWAY {
                code = Some(frame.code());
            }
        }
        code
    }
}
