//! Frames of the control channel: a length of four bytes, big end first, then bincode. Pure.
//!
//! bincode's limit does not act when encoding and trailing bytes are no error to it; both are checked here.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes that the body of a frame may have: a plan of some ten thousand servers fits many times.
pub const MAX_FRAME: usize = 16 << 20;

const HEAD: usize = 4;

fn format() -> Configuration<LittleEndian, Fixint, Limit<MAX_FRAME>> {
    bincode::config::standard().with_fixed_int_encoding().with_limit::<MAX_FRAME>()
}

/// Why a frame could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than [`MAX_FRAME`].
    #[error("a frame of {0} bytes is over the limit of {MAX_FRAME}")]
    TooLong(usize),
    /// No message of this version.
    #[error("a frame of {length} bytes is not a message of this version")]
    Malformed {
        /// Bytes of its body.
        length: usize,
        /// What the decoder met.
        #[source]
        source: bincode::error::DecodeError,
    },
    /// A message, and then more.
    #[error("a frame of {length} bytes ends {trailing} bytes after its message")]
    Trailing {
        /// Bytes of its body.
        length: usize,
        /// Bytes too many.
        trailing: usize,
    },
    /// A value that has no form on the wire.
    #[error("a message cannot be encoded")]
    Encode(#[source] bincode::error::EncodeError),
}

/// The frame of a message, head and body.
pub(super) fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; HEAD];
    bincode::serde::encode_into_std_write(message, &mut frame, format()).map_err(FrameError::Encode)?;
    let length = frame.len() - HEAD;
    match u32::try_from(length) {
        Ok(head) if length <= MAX_FRAME => frame[..HEAD].copy_from_slice(&head.to_be_bytes()),
        _ => return Err(FrameError::TooLong(length)),
    }
    Ok(frame)
}

/// The first message in `bytes` and the length of its frame; `None`: more bytes are needed.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<Option<(T, usize)>, FrameError> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else { return Ok(None) };
    let length = u32::from_be_bytes(*head) as usize;
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length));
    }
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let (message, used) =
        bincode::serde::decode_from_slice(body, format()).map_err(|source| FrameError::Malformed { length, source })?;
    if used != length {
        return Err(FrameError::Trailing { length, trailing: length - used });
    }
    Ok(Some((message, HEAD + length)))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::super::{DescriptorKey, FromCore, Keys, ToCore};
    use super::*;
    use crate::listener::ListenerKey;

    fn keys() -> impl Strategy<Value = Keys> {
        let key = prop_oneof![
            (any::<[u8; 4]>(), any::<u16>(), any::<u16>()).prop_map(|(ip, port, worker)| {
                DescriptorKey::Listener(ListenerKey { address: SocketAddr::from((ip, port)), worker })
            }),
            Just(DescriptorKey::Board),
            any::<u16>().prop_map(DescriptorKey::Probe),
        ];
        prop::collection::btree_set(key, 0..40)
    }

    proptest! {
        #[test]
        fn a_message_survives_the_wire_however_it_is_cut(keys in keys(), cut in any::<prop::sample::Index>()) {
            let frame = encode(&ToCore::Manifest(keys.clone())).unwrap();
            let cut = cut.index(frame.len());
            prop_assert!(decode::<ToCore>(&frame[..cut]).unwrap().is_none());
            let (message, length) = decode::<ToCore>(&frame).unwrap().unwrap();
            prop_assert_eq!(message, ToCore::Manifest(keys));
            prop_assert_eq!(length, frame.len());
        }

        #[test]
        fn any_bytes_are_a_message_or_an_error_but_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut frame = (bytes.len() as u32).to_be_bytes().to_vec();
            frame.extend(&bytes);
            let _ = decode::<ToCore>(&frame);
            let _ = decode::<FromCore>(&frame);
            let _ = decode::<ToCore>(&bytes);
        }
    }

    #[test]
    fn trailing_bytes_and_giant_frames_are_refused() {
        let mut frame = encode(&ToCore::Stats).unwrap();
        frame.push(0);
        frame[3] += 1;
        assert!(matches!(decode::<ToCore>(&frame), Err(FrameError::Trailing { trailing: 1, .. })));
        assert!(matches!(decode::<ToCore>(&[0xff; 4]), Err(FrameError::TooLong(_))));
    }
}
