//! Frames: a length, then one bincode value. Sans I/O; the transport brings bytes and takes bytes.
//!
//! ```text
//!   0        4                      4 + length
//!   ┌────────┬──────────────────────┐
//!   │ length │ value                │   length: u32, big endian, at most the limit of the channel
//!   └────────┴──────────────────────┘
//! ```
//! A peer cannot make us reserve more than it has sent: the limit is checked on the length alone, and the buffer
//! grows only with bytes that arrived.

use bincode::config::Configuration;
use bincode::error::{DecodeError, EncodeError};
use serde::Serialize;
use serde::de::DeserializeOwned;

const HEAD: usize = 4;
const CODEC: Configuration = bincode::config::standard();

/// Why a frame was refused. After one of these the channel cannot go on: its place in the stream is lost.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The peer misbehaves, or speaks another protocol.
    #[error("a frame of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// What the head says.
        length: usize,
        /// What this channel allows.
        limit: usize,
    },
    /// The bytes are no value of the expected type.
    #[error("a frame of {length} bytes could not be read")]
    Malformed {
        /// Of the value.
        length: usize,
        /// The codec's reason.
        #[source]
        source: DecodeError,
    },
    /// The value ended before its frame did.
    #[error("a frame of {length} bytes holds {extra} more than its value")]
    Trailing {
        /// Of the value's part.
        length: usize,
        /// Bytes behind it.
        extra: usize,
    },
    /// Our own value does not fit.
    #[error("a value could not be written as a frame")]
    Unwritable(#[source] EncodeError),
}

/// Writes `value` as one frame behind what `out` holds; on error `out` is as before.
pub fn encode<T: Serialize>(value: &T, limit: usize, out: &mut Vec<u8>) -> Result<(), WireError> {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD]);
    let written = bincode::serde::encode_into_std_write(value, out, CODEC);
    let length = out.len() - start - HEAD;
    match written {
        // The codec's own limit acts on decoding only.
        Ok(_) if length <= limit => {
            let head = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
            out[start..start + HEAD].copy_from_slice(&head);
            Ok(())
        }
        Ok(_) => {
            out.truncate(start);
            Err(WireError::TooLong { length, limit })
        }
        Err(source) => {
            out.truncate(start);
            Err(WireError::Unwritable(source))
        }
    }
}

/// Takes frames out of a stream of bytes.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    pending: Vec<u8>,
    /// Bytes at the start of `pending` that were taken already.
    taken: usize,
}

impl Decoder {
    /// A decoder for frames of at most `limit` bytes.
    pub fn new(limit: usize) -> Decoder {
        Decoder { limit, pending: Vec::new(), taken: 0 }
    }

    /// The same stream goes on with frames of at most `limit` bytes.
    pub fn with_limit(self, limit: usize) -> Decoder {
        Decoder { limit, ..self }
    }

    /// Takes in what the transport read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.drain(..std::mem::take(&mut self.taken));
        self.pending.extend_from_slice(bytes);
    }

    /// The next whole frame, if it is there.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, WireError> {
        let Some((head, rest)) = self.pending[self.taken..].split_first_chunk::<HEAD>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*head)).unwrap_or(usize::MAX);
        if length > self.limit {
            return Err(WireError::TooLong { length, limit: self.limit });
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let (value, used) =
            bincode::serde::decode_from_slice(body, CODEC).map_err(|source| WireError::Malformed { length, source })?;
        if used != length {
            return Err(WireError::Trailing { length: used, extra: length - used });
        }
        self.taken += HEAD + length;
        Ok(Some(value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 64;

    fn frame(value: &str) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&value, LIMIT, &mut out).expect("fits");
        out
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_its_bytes_arrive() {
        let mut decoder = Decoder::new(LIMIT);
        decoder.push(&65u32.to_be_bytes());
        assert!(matches!(decoder.take::<String>(), Err(WireError::TooLong { length: 65, limit: LIMIT })));
    }

    #[test]
    fn a_value_over_the_limit_is_not_sent_and_leaves_no_trace() {
        let mut out = frame("before");
        let before = out.clone();
        let refused = encode(&"x".repeat(LIMIT), LIMIT, &mut out);
        assert!(matches!(refused, Err(WireError::TooLong { limit: LIMIT, .. })));
        assert_eq!(out, before);
    }

    #[test]
    fn bytes_behind_the_value_are_refused() {
        let mut bytes = frame("value");
        bytes.push(0);
        let length = u32::try_from(bytes.len() - HEAD).expect("short");
        bytes[..HEAD].copy_from_slice(&length.to_be_bytes());
        let mut decoder = Decoder::new(LIMIT);
        decoder.push(&bytes);
        assert!(matches!(decoder.take::<String>(), Err(WireError::Trailing { extra: 1, .. })));
    }

    proptest! {
        #[test]
        fn frames_arrive_whole_however_they_are_cut(
            values in prop::collection::vec("[a-z]{0,40}", 0..8),
            cuts in prop::collection::vec(1usize..20, 1..40),
        ) {
            let stream: Vec<u8> = values.iter().flat_map(|value| frame(value)).collect();
            let mut decoder = Decoder::new(LIMIT);
            let mut seen = Vec::new();
            let mut rest = stream.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                decoder.push(now);
                rest = later;
                while let Some(value) = decoder.take::<String>().expect("good frames") {
                    seen.push(value);
                }
            }
            prop_assert_eq!(seen, values);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::new(LIMIT);
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.take::<(u64, String, Vec<u32>)>() {}
        }
    }
}
