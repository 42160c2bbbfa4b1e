//! What an entry is found by. Addresses take no memory of their own; texts are bounded.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use sha2::{Digest, Sha256};

/// Bytes of a text that is kept as it is.
const MAX_TEXT: usize = 128;
/// How much of a longer one is kept, before the hash of all of it: one byte more than [`MAX_TEXT`] altogether, so
/// that no short text is like it.
const BEGINNING: usize = 64;

/// What an entry is found by.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// An address, an IPv4 one mapped (RFC 4291 §2.5.5.2), with the bits that the table looks at.
    Address([u8; 16]),
    /// A text; never empty.
    Text(Box<[u8]>),
}

impl Key {
    /// An address with so many leading bits.
    pub fn address(address: IpAddr, v4: u8, v6: u8) -> Key {
        let keep = |bits: u8| u128::MAX.checked_shl(u32::from(128 - bits.min(128))).unwrap_or(0);
        let number = match address.to_canonical() {
            IpAddr::V4(address) => u128::from(address.to_ipv6_mapped()) & keep(96 + v4.min(32)),
            IpAddr::V6(address) => u128::from(address) & keep(v6),
        };
        Key::Address(number.to_be_bytes())
    }

    /// A text; of a long one its beginning and a hash. `None`: it is empty.
    pub fn text(text: &[u8]) -> Option<Key> {
        if text.len() <= MAX_TEXT {
            return (!text.is_empty()).then(|| Key::Text(text.into()));
        }
        let mut short = text[..BEGINNING].to_vec();
        short.push(b'~');
        for byte in Sha256::digest(text) {
            short.extend_from_slice(&[hex(byte >> 4), hex(byte & 15)]);
        }
        Some(Key::Text(short.into()))
    }
}

fn hex(digit: u8) -> u8 {
    b"0123456789abcdef"[usize::from(digit)]
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Address(bytes) => Ipv6Addr::from(*bytes).to_canonical().fmt(f),
            Key::Text(text) => text.escape_ascii().fmt(f),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_counts_with_its_leading_bits() {
        let table = [
            ("10.1.2.3", 32, 128, "10.1.2.3"),
            ("10.1.2.3", 24, 128, "10.1.2.0"),
            ("10.1.2.3", 1, 128, "0.0.0.0"),
            ("200.1.2.3", 1, 1, "128.0.0.0"),
            ("::ffff:10.1.2.3", 16, 64, "10.1.0.0"),
            ("2001:db8:1:2:3::4", 24, 64, "2001:db8:1:2::"),
            ("2001:db8::4", 24, 128, "2001:db8::4"),
            ("2001:db8::4", 32, 1, "::"),
        ];
        for (address, v4, v6, expected) in table {
            assert_eq!(Key::address(address.parse().unwrap(), v4, v6).to_string(), expected, "{address} /{v4} /{v6}");
        }
    }

    #[test]
    fn a_long_text_is_bounded_and_still_itself() {
        assert_eq!(Key::text(b""), None);
        let long = [b'a'; 1 << 16];
        let mut other = long;
        other[(1 << 16) - 1] = b'b';
        let (Some(Key::Text(one)), Some(Key::Text(two))) = (Key::text(&long), Key::text(&other)) else { panic!() };
        assert_ne!(one, two);
        assert_eq!((one.len(), two.len()), (MAX_TEXT + 1, MAX_TEXT + 1));
        assert_eq!(Key::text(&[b'a'; MAX_TEXT]), Some(Key::Text([b'a'; MAX_TEXT].into())));
        assert_eq!(Key::text(b"a\x00\"").unwrap().to_string(), r#"a\x00\""#);
    }
}
