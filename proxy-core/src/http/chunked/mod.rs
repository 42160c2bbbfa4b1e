//! A chunked body on its way through a buffer (RFC 9112 §7.1): checked and cleaned where it lies, at whatever byte it was cut.
//!
//! What is to be sent on stays at the beginning of the slice, compacted: chunk extensions go (§7.1.1), with
//! [`Keep::Data`] all framing goes. Data in the middle of a chunk costs the same whatever its size, and is not moved
//! as long as nothing before it was taken out.

mod trailer;

use super::head::BadChunk;
use trailer::Trailer;

/// The longest chunk extension, in bytes.
pub const MAX_EXTENSION: u16 = 256;
/// The longest trailer section, in bytes.
pub const MAX_TRAILER: usize = 8 * 1024;
/// The most digits of a chunk size.
const MAX_DIGITS: u8 = 16;

/// What is to be sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Chunks, without their extensions, and trailer fields.
    Framing,
    /// The data alone: for who speaks HTTP/1.0.
    Data,
}

/// One body.
#[derive(Debug)]
pub struct Chunked {
    keep: Keep,
    at: At,
    trailer: Trailer,
}

/// What is expected next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// A digit of the size, or what ends it.
    Size { size: u64, digits: u8 },
    /// The rest of an extension, or the white space before it, with this many bytes of it read.
    Extension { size: u64, length: u16, begun: bool },
    /// The LF of the size's line.
    SizeEnd { size: u64 },
    /// So many bytes; at least one.
    Data { left: u64 },
    /// The CR after the data.
    DataCr,
    /// The LF after that.
    DataLf,
    /// Trailer fields and the empty line.
    Trailer,
    /// Nothing.
    Done,
}

/// What became of a piece of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// So many bytes of the input were taken: all of them, unless the body ended before.
    pub consumed: usize,
    /// So many bytes at the beginning of the slice are to be sent on.
    pub forward: usize,
    /// The body has ended: [`Chunked::tail`] is to be sent on too, and what was not consumed belongs to the next message.
    pub done: bool,
}

impl Chunked {
    /// At the beginning of a body.
    pub fn new(keep: Keep) -> Self {
        Self { keep, at: At::Size { size: 0, digits: 0 }, trailer: Trailer::default() }
    }

    /// Takes the next piece of the body, and leaves in its place what is to be sent on.
    ///
    /// # Errors
    /// What is wrong with the body. Neither it nor the connection is of any further use, and nothing of this piece is
    /// to be sent on.
    pub fn pass(&mut self, bytes: &mut [u8]) -> Result<Passed, BadChunk> {
        let mut read = 0;
        let mut kept = 0;
        while read < bytes.len() {
            match self.at {
                At::Data { left } => {
                    let here = bytes.len() - read;
                    let length = usize::try_from(left).map_or(here, |left| left.min(here));
                    if kept != read {
                        bytes.copy_within(read..read + length, kept);
                    }
                    (read, kept) = (read + length, kept + length);
                    let left = left - length as u64;
                    self.at = if left == 0 { At::DataCr } else { At::Data { left } };
                }
                At::Done => break,
                At::Trailer => {
                    let byte = bytes[read];
                    read += 1;
                    if self.trailer.push(byte)? {
                        self.at = At::Done;
                    }
                }
                _ => {
                    let byte = bytes[read];
                    read += 1;
                    if self.frame(byte)? && self.keep == Keep::Framing {
                        bytes[kept] = byte;
                        kept += 1;
                    }
                }
            }
        }
        Ok(Passed { consumed: read, forward: kept, done: self.at == At::Done })
    }

    /// What is to be sent on after the rest, once the body is done: trailer fields and the empty line.
    pub fn tail(&self) -> &[u8] {
        match self.keep {
            Keep::Framing => self.trailer.fields(),
            Keep::Data => b"",
        }
    }

    /// Takes a byte of the framing between data; whether it is to be kept.
    fn frame(&mut self, byte: u8) -> Result<bool, BadChunk> {
        let (next, keep) = match self.at {
            At::Size { size, digits } => match (byte, (byte as char).to_digit(16)) {
                // A size that some would take for a negative number is refused as well.
                (_, Some(digit)) if digits < MAX_DIGITS && size <= (i64::MAX >> 4) as u64 => {
                    (At::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }, true)
                }
                (b'\r', _) if digits > 0 => (At::SizeEnd { size }, true),
                (b';', _) if digits > 0 => (At::Extension { size, length: 1, begun: true }, false),
                (b' ' | b'\t', _) if digits > 0 => (At::Extension { size, length: 1, begun: false }, false),
                _ => return Err(BadChunk::ChunkSize),
            },
            // Before the semicolon, white space is wrong but to be taken (RFC 9112 §7.1.1); alone it is nothing.
            At::Extension { size, length, begun } => match byte {
                b'\r' if begun => (At::SizeEnd { size }, true),
                b'\t' | b' '..=b'~' if length >= MAX_EXTENSION => return Err(BadChunk::ChunkExtension),
                b'\t' | b' ' => (At::Extension { size, length: length + 1, begun }, false),
                b'!'..=b'~' if begun => (At::Extension { size, length: length + 1, begun }, false),
                b';' => (At::Extension { size, length: length + 1, begun: true }, false),
                _ if begun => return Err(BadChunk::ChunkExtension),
                _ => return Err(BadChunk::ChunkSize),
            },
            At::SizeEnd { size } => match (byte, size) {
                (b'\n', 0) => (At::Trailer, true),
                (b'\n', left) => (At::Data { left }, true),
                _ => return Err(BadChunk::ChunkEnd),
            },
            At::DataCr if byte == b'\r' => (At::DataLf, true),
            At::DataLf if byte == b'\n' => (At::Size { size: 0, digits: 0 }, true),
            At::DataCr | At::DataLf => return Err(BadChunk::ChunkEnd),
            At::Data { .. } | At::Trailer | At::Done => (self.at, true),
        };
        self.at = next;
        Ok(keep)
    }
}

#[cfg(test)]
mod tests;
