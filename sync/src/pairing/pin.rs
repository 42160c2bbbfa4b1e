//! Pins and invitations: what people copy from one node to the other.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Longest name of a node in bytes.
const NAME_LIMIT: usize = 64;
/// Hex digits of a pin.
const DIGITS: usize = 64;

/// SHA-256 of a certificate's DER; shown as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Pin([u8; 32]);

impl Pin {
    /// The pin of a certificate.
    pub fn of(certificate: &[u8]) -> Pin {
        Pin(Sha256::digest(certificate).into())
    }

    /// The first 16 digits: enough to tell two by eye.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(16);
        text
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({})", self.short())
    }
}

impl FromStr for Pin {
    type Err = BadInvitation;
    fn from_str(text: &str) -> Result<Pin, BadInvitation> {
        let bad = || BadInvitation::Pin(text.chars().count());
        if text.len() != DIGITS || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(bad());
        }
        let mut pin = [0; 32];
        for (at, byte) in pin.iter_mut().enumerate() {
            let digits = text.get(2 * at..2 * at + 2).ok_or_else(bad)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| bad())?;
        }
        Ok(Pin(pin))
    }
}

/// Why a text is no invitation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadInvitation {
    /// No colon.
    #[error("an invitation reads NODE:PIN, and this has no colon; copy the whole line of `lbnode pair show`")]
    NoColon,
    /// The part before the colon.
    #[error(transparent)]
    Name(#[from] BadName),
    /// The part behind it.
    #[error("a pin has 64 hex digits, and this has {0} characters or others than 0-9 and a-f; copy it as a whole")]
    Pin(usize),
}

/// A name that no node can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a node's name has 1 to 64 letters, digits, dots, dashes or underscores, and {0:?} has not")]
pub struct BadName(String);

/// Whether the channel can carry `name` as a node's.
pub fn check_name(name: &str) -> Result<(), BadName> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if (1..=NAME_LIMIT).contains(&name.len()) && name.bytes().all(good) {
        Ok(())
    } else {
        Err(BadName(name.chars().take(NAME_LIMIT + 1).collect()))
    }
}

/// What one node has to know to trust another: `NODE:PIN`. It is no secret, but has to arrive unaltered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitation {
    node: String,
    pin: Pin,
}

impl Invitation {
    /// To trust `node` by `pin`.
    pub fn new(node: &str, pin: Pin) -> Result<Invitation, BadName> {
        check_name(node)?;
        Ok(Invitation { node: node.to_owned(), pin })
    }

    /// Who is to be trusted.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// By what.
    pub fn pin(&self) -> Pin {
        self.pin
    }
}

impl fmt::Display for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.node, self.pin)
    }
}

impl FromStr for Invitation {
    type Err = BadInvitation;
    fn from_str(text: &str) -> Result<Invitation, BadInvitation> {
        let (node, pin) = text.trim().rsplit_once(':').ok_or(BadInvitation::NoColon)?;
        Ok(Invitation::new(node, pin.parse()?)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_invitation_is_read_as_it_was_printed() {
        let printed = Invitation::new("lb-1.example", Pin::of(b"certificate")).expect("a good name").to_string();
        let read: Invitation = printed.parse().expect("ours");
        assert_eq!((read.node(), read.pin()), ("lb-1.example", Pin::of(b"certificate")));
        assert_eq!(format!(" {printed}\n").parse(), Ok(read), "as it comes out of a shell");
    }

    #[test]
    fn what_is_no_invitation_says_which_part_is_wrong() {
        let pin = Pin::of(b"");
        assert_eq!("a".parse::<Invitation>(), Err(BadInvitation::NoColon));
        assert_eq!("a:12".parse::<Invitation>(), Err(BadInvitation::Pin(2)));
        assert_eq!(format!("a:{}", "g".repeat(64)).parse::<Invitation>(), Err(BadInvitation::Pin(64)));
        for name in ["", "a b", "a:b", "ä", "a\n", &"x".repeat(65)] {
            let read = format!("{name}:{pin}").parse::<Invitation>();
            assert!(matches!(read, Err(BadInvitation::Name(_))), "{name:?}: {read:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,200}") {
            let _ = text.parse::<Invitation>();
            let _ = text.parse::<Pin>();
        }
    }
}
