//! What travels inside the TLS session: a preamble, a hello each way, then frames of [`crate::wire`].
//!
//! ```text
//!   dialler                                   listener
//!     "lbnode" version ────────►  ◄──────────── "lbnode" version
//!     Hello ─────────────────────────────────►  is that the peer?
//!     is that the peer? ◄──────────────────────────────── Hello
//!     Frame … ◄─────────────────────────────────────► Frame …
//! ```
//! The listener says hello only when it has taken the dialler in, so that a session is up on both sides or on none.

use serde::{Deserialize, Serialize};

use crate::pairing::Pin;

/// Bytes of the preamble: six letters and the version, a u16, big endian.
pub const PREAMBLE: usize = 8;
/// The version that this crate speaks.
pub const VERSION: u16 = 1;
/// The longest hello in bytes; with the preamble and a frame's head it is all that may come before the hello is read.
pub const HELLO_LIMIT: usize = 512;
/// The longest frame behind it in bytes.
pub const FRAME_LIMIT: usize = 1 << 20;

const MAGIC: [u8; 6] = *b"lbnode";

/// Why a preamble was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPreamble {
    /// Another program.
    #[error("the preamble is not that of lbnode")]
    Foreign,
    /// Another version of lbnode.
    #[error("the peer speaks version {0} of the channel, and this node only {VERSION}; run the same lbnode on both")]
    Version(u16),
}

/// What comes first, in each direction.
pub fn preamble() -> [u8; PREAMBLE] {
    let mut bytes = [0; PREAMBLE];
    bytes[..MAGIC.len()].copy_from_slice(&MAGIC);
    bytes[MAGIC.len()..].copy_from_slice(&VERSION.to_be_bytes());
    bytes
}

/// Whether the other side speaks our version.
pub fn check_preamble(bytes: &[u8; PREAMBLE]) -> Result<(), BadPreamble> {
    let [magic @ .., high, low] = bytes;
    match u16::from_be_bytes([*high, *low]) {
        _ if *magic != MAGIC => Err(BadPreamble::Foreign),
        VERSION => Ok(()),
        version => Err(BadPreamble::Version(version)),
    }
}

/// Who speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Name of the node.
    pub node: String,
    /// Name of its pair.
    pub pair: String,
    /// Random, the same as long as the process lives.
    pub instance: u64,
}

/// What is said on a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame<M> {
    /// The channel's own.
    Control(Control),
    /// Pinning, see [`crate::pairing`].
    Pinning(Pinning),
    /// The node's.
    Message(M),
}

/// How the channel knows that the other side lives, how far it is and what its clock says. All stamps are
/// microseconds of the sender's monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// Answer this.
    Ping {
        /// When it was sent.
        sent: u64,
    },
    /// The answer.
    Pong {
        /// What the ping says.
        ping: u64,
        /// When the ping came.
        received: u64,
        /// When this was sent.
        sent: u64,
    },
}

/// A rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pinning {
    /// Accept this certificate from me too.
    NewPin {
        /// Of the new certificate.
        pin: Pin,
    },
    /// It is accepted, and on the disk.
    PinAccepted {
        /// Which.
        pin: Pin,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preamble_is_what_the_documentation_says() {
        assert_eq!(&preamble(), b"lbnode\0\x01");
        assert_eq!(check_preamble(&preamble()), Ok(()));
        assert_eq!(check_preamble(b"lbnode\x01\x02"), Err(BadPreamble::Version(258)));
        assert_eq!(check_preamble(b"GET / HT"), Err(BadPreamble::Foreign));
    }

    #[test]
    fn the_longest_hello_fits() {
        let name = "x".repeat(64);
        let hello = Hello { node: name.clone(), pair: name, instance: u64::MAX };
        assert!(crate::wire::encode(&hello, HELLO_LIMIT, &mut Vec::new()).is_ok());
    }
}
