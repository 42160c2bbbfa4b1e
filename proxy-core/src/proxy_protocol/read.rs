//! Reads a header: strictly, and no byte beyond it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::{
    ALPN, AUTHORITY, BadProxy, CRC32C, FIXED, Header, LONGEST_ID, MOST, SIGNATURE, SSL, SSL_CN, SSL_VERSION, Tlvs,
    UNIQUE_ID,
};

/// The longest line of version 1, with its end (§2.1).
const LONGEST_LINE: usize = 107;
const PROXY: &[u8] = b"PROXY ";

/// The header that `bytes`, the first ones of a connection, begin with; `None`: it isn't whole, and all of them are its own.
///
/// # Errors
/// It isn't one, and won't be with more bytes.
pub fn read(bytes: &[u8]) -> Result<Option<Header<'_>>, BadProxy> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(one, other)| one == other);
    if begins(SIGNATURE) {
        binary(bytes)
    } else if begins(PROXY) {
        line(bytes)
    } else {
        Err(BadProxy::Missing)
    }
}

/// Version 1 (§2.1).
fn line(bytes: &[u8]) -> Result<Option<Header<'_>>, BadProxy> {
    let seen = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = memchr::memchr(b'\n', seen) else {
        return if seen.len() < LONGEST_LINE { Ok(None) } else { Err(BadProxy::TooLong) };
    };
    let text = seen[..end].strip_suffix(b"\r").and_then(|line| line.strip_prefix(PROXY)).ok_or(BadProxy::Malformed)?;
    let length = end + 1;
    // Whatever stands behind this word is to be ignored.
    if text == b"UNKNOWN" || text.starts_with(b"UNKNOWN ") {
        return Ok(Some(Header { length, ends: None, tlvs: Tlvs::default() }));
    }
    let text = std::str::from_utf8(text).map_err(|_| BadProxy::Malformed)?;
    let words: Vec<&str> = text.split(' ').collect();
    let ends = match words[..] {
        ["TCP4", client, own, from, to] => ends::<Ipv4Addr>(client, own, from, to),
        ["TCP6", client, own, from, to] => ends::<Ipv6Addr>(client, own, from, to),
        _ => None,
    };
    Ok(Some(Header { length, ends: Some(ends.ok_or(BadProxy::Malformed)?), tlvs: Tlvs::default() }))
}

fn ends<A: FromStr + Into<IpAddr>>(client: &str, own: &str, from: &str, to: &str) -> Option<(SocketAddr, SocketAddr)> {
    let end = |address: &str, port: &str| {
        let address: A = address.parse().ok()?;
        Some(SocketAddr::new(address.into(), self::port(port)?))
    };
    Some((end(client, from)?, end(own, to)?))
}

/// Without a zero in front (§2.1).
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

/// Version 2 (§2.2).
fn binary(bytes: &[u8]) -> Result<Option<Header<'_>>, BadProxy> {
    let Some(fixed) = bytes.first_chunk::<FIXED>() else {
        return match bytes.get(12) {
            Some(word) if !matches!(word, 0x20 | 0x21) => Err(BadProxy::Malformed),
            _ => Ok(None),
        };
    };
    let [.., command, family, high, low] = *fixed;
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    // The version must be 2; other commands must be refused.
    if !matches!(command, 0x20 | 0x21) {
        return Err(BadProxy::Malformed);
    }
    if length > MOST {
        return Err(BadProxy::TooLong);
    }
    let Some(whole) = bytes.get(..length) else { return Ok(None) };
    let rest = &whole[FIXED..];
    // LOCAL: a connection of the proxy's own; nothing that stands behind it counts, not even its family.
    if command == 0x20 {
        return Ok(Some(Header { length, ends: None, tlvs: Tlvs::default() }));
    }
    let (ends, addresses) = match family {
        0x11 => (Some(of_v4(rest).ok_or(BadProxy::Malformed)?), 12),
        0x21 => (Some(of_v6(rest).ok_or(BadProxy::Malformed)?), 36),
        // What is proxied is no TCP over IP: the connection's own addresses hold.
        0x12 => (None, 12),
        0x22 => (None, 36),
        0x31 | 0x32 => (None, 216),
        // Half of it is unspecified: where its TLVs begin, nobody knows.
        0x00..=0x02 | 0x10 | 0x20 | 0x30 => {
            return Ok(Some(Header { length, ends: None, tlvs: Tlvs::default() }));
        }
        _ => return Err(BadProxy::Malformed),
    };
    let extra = rest.get(addresses..).ok_or(BadProxy::Malformed)?;
    let (mut found, mut sum) = (Tlvs::default(), None);
    tlvs(extra, |kind, at, value| {
        if kind == CRC32C {
            let value: [u8; 4] = value.try_into().ok()?;
            return sum.replace((FIXED + addresses + at, u32::from_be_bytes(value))).is_none().then_some(());
        }
        found.take(kind, value)
    })
    .ok_or(BadProxy::Malformed)?;
    if let Some((at, sum)) = sum
        && crc32c([&whole[..at], &[0; 4], &whole[at + 4..]]) != sum
    {
        return Err(BadProxy::Checksum);
    }
    Ok(Some(Header { length, ends, tlvs: found }))
}

fn of_v4(rest: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let [a, b, c, d, e, f, g, h, from, from_low, to, to_low] = *rest.first_chunk::<12>()?;
    Some((
        SocketAddr::from(([a, b, c, d], u16::from_be_bytes([from, from_low]))),
        SocketAddr::from(([e, f, g, h], u16::from_be_bytes([to, to_low]))),
    ))
}

fn of_v6(rest: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (client, rest) = rest.split_first_chunk::<16>()?;
    let (own, rest) = rest.split_first_chunk::<16>()?;
    let [from, from_low, to, to_low] = *rest.first_chunk()?;
    Some((
        SocketAddr::from((*client, u16::from_be_bytes([from, from_low]))),
        SocketAddr::from((*own, u16::from_be_bytes([to, to_low]))),
    ))
}

/// Each TLV with the place of its value; `None`: they are not well-formed, or `each` would not have one.
pub(super) fn tlvs<'a>(bytes: &'a [u8], mut each: impl FnMut(u8, usize, &'a [u8]) -> Option<()>) -> Option<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let ([kind, high, low], behind) = rest.split_first_chunk()?;
        let (value, behind) = behind.split_at_checked(u16::from_be_bytes([*high, *low]).into())?;
        each(*kind, bytes.len() - behind.len() - value.len(), value)?;
        rest = behind;
    }
    Some(())
}

impl<'a> Tlvs<'a> {
    /// One that has a use; `None`: there are two of it, or it is none.
    pub(super) fn take(&mut self, kind: u8, value: &'a [u8]) -> Option<()> {
        let place = match kind {
            ALPN => &mut self.alpn,
            AUTHORITY => &mut self.authority,
            UNIQUE_ID if value.len() > LONGEST_ID => return None,
            UNIQUE_ID => &mut self.unique_id,
            SSL => {
                // Bits, four bytes of a verdict, and TLVs of its own.
                tlvs(value.get(5..)?, |kind, _, value| {
                    let text = matches!(kind, SSL_VERSION | SSL_CN);
                    (!text || std::str::from_utf8(value).is_ok()).then_some(())
                })?;
                &mut self.ssl
            }
            // Nobody's here, or padding.
            _ => return Some(()),
        };
        place.replace(value).is_none().then_some(())
    }
}

/// RFC 4960 appendix B, without a table: headers are short, and few have it.
pub(super) fn crc32c<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    let bytes = parts.into_iter().flatten();
    !bytes.fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| sum >> 1 ^ if sum & 1 == 1 { 0x82F6_3B78 } else { 0 })
    })
}
