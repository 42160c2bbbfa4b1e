//! What clients and requests are hashed to: the same number on both nodes, after a restart, and for any order of servers.
//!
//! FNV-1a with 64 bits, whose result is mixed by MurmurHash3's finalizer. There is no key: who knows the function can choose
//! requests that meet at one server, which `hash_bound` and `max_connections` limit.

use std::net::IpAddr;

use crate::http::cookie;
use crate::plan::{Balance, HashOf};

/// Of some bytes.
pub fn of(bytes: &[u8]) -> u64 {
    let fnv = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    mixed(fnv)
}

/// Every bit of the result depends on every bit of `word`; no two words give the same.
pub(super) fn mixed(mut word: u64) -> u64 {
    word = (word ^ (word >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    word = (word ^ (word >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    word ^ (word >> 33)
}

/// Of a client of whom only the address is known.
pub(crate) fn of_client(balance: &Balance, client: IpAddr) -> Option<u64> {
    match balance {
        Balance::Hash(HashOf::Source, _) => Some(of_address(client)),
        _ => None,
    }
}

/// Of a request, by its head as its server will see it; `None`: it has nothing of what is hashed, or nothing is.
pub(crate) fn of_request(balance: &Balance, client: IpAddr, head: &[u8]) -> Option<u64> {
    let Balance::Hash(what, _) = balance else { return None };
    match what {
        HashOf::Source => Some(of_address(client)),
        HashOf::Uri => target(head).map(|target| of(target.split(|byte| *byte == b'?').next().unwrap_or_default())),
        HashOf::Header(name) => fields(head, name).next().map(of),
        HashOf::Cookie(name) => {
            let mut pairs = fields(head, "Cookie").flat_map(cookie::pairs);
            pairs.find(|(sent, _)| *sent == name.as_bytes()).map(|(_, value)| of(value))
        }
    }
}

fn of_address(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(address) => of(&address.octets()),
        IpAddr::V6(address) => of(&address.octets()),
    }
}

fn target(head: &[u8]) -> Option<&[u8]> {
    head.split(|byte| *byte == b'\r').next()?.split(|byte| *byte == b' ').nth(1)
}

/// The values of all fields of this name, in a head that we wrote.
fn fields<'h>(head: &'h [u8], name: &'h str) -> impl Iterator<Item = &'h [u8]> {
    let lines = head.split(|byte| *byte == b'\n').skip(1);
    lines.filter_map(move |line| {
        let (found, rest) = line.split_at_checked(name.len())?;
        let value = rest.strip_prefix(b":").filter(|_| found.eq_ignore_ascii_case(name.as_bytes()))?;
        Some(value.trim_ascii())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Hashing;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));
    const HEAD: &[u8] =
        b"GET /a/b?c=d HTTP/1.1\r\nHost: x.test\r\nX-User: anna \r\nx-user: bert\r\nCookie: a=1; sid=42\r\ncookie: sid=43\r\n\r\n";

    fn by(what: HashOf) -> Option<u64> {
        of_request(&Balance::Hash(what, Hashing::Map), CLIENT, HEAD)
    }

    /// A node that hashed otherwise than its peer would move every client at a failover.
    #[test]
    fn the_function_never_changes() {
        assert_eq!(mixed(0), 0);
        assert_eq!(mixed(1), 0xb456_bcfc_34c2_cb2c);
        assert_eq!(of(b""), mixed(0xcbf2_9ce4_8422_2325));
        // FNV-1a's own test vector.
        assert_eq!(of(b"foobar"), mixed(0x8594_4171_f739_67e8));
    }

    #[test]
    fn the_first_of_what_is_hashed_counts() {
        assert_eq!(by(HashOf::Uri), Some(of(b"/a/b")));
        assert_eq!(by(HashOf::Header("X-USER".into())), Some(of(b"anna")));
        assert_eq!(by(HashOf::Cookie("sid".into())), Some(of(b"42")));
        assert_eq!(by(HashOf::Source), Some(of(&[192, 0, 2, 7])));
        assert_eq!(
            of_client(&Balance::Hash(HashOf::Source, Hashing::Map), "::ffff:192.0.2.7".parse().unwrap()),
            by(HashOf::Source)
        );
    }

    #[test]
    fn what_is_not_there_is_not_hashed() {
        assert_eq!(by(HashOf::Header("X-Use".into())), None);
        assert_eq!(by(HashOf::Header("X-Users".into())), None);
        assert_eq!(by(HashOf::Cookie("SID".into())), None);
        assert_eq!(of_request(&Balance::RoundRobin, CLIENT, HEAD), None);
        assert_eq!(of_client(&Balance::Hash(HashOf::Uri, Hashing::Map), CLIENT), None);
    }
}
