//! Host and port as `Host` and a target's authority name them (RFC 9110 §7.2, RFC 3986 §3.2): checked, taken apart, compared.

use std::net::Ipv6Addr;

/// The longest host that is accepted, in bytes: as long as a DNS name can be written, with its last dot.
pub const MAX_HOST: usize = 254;

/// A host and perhaps a port, as they were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authority<'a> {
    /// All of it.
    pub text: &'a str,
    /// Name, IPv4 address, or IPv6 address in brackets.
    pub host: &'a str,
    /// `None` also after a colon without digits (RFC 3986 §3.2.3).
    pub port: Option<u16>,
}

/// Bytes of a reg-name other than `%` (RFC 3986 §3.2.2). A comma is one by the letter, but it joins fields into a list.
const NAME: [bool; 256] = {
    let mut allowed = [false; 256];
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+;=";
    let mut at = 0;
    while at < letters.len() {
        allowed[letters[at] as usize] = true;
        at += 1;
    }
    allowed
};

/// Reads `host [":" port]`; `None` if it is anything else, which includes an empty host and userinfo.
pub fn parse(text: &[u8]) -> Option<Authority<'_>> {
    let host_length = match text {
        [b'[', ..] => memchr::memchr(b']', text)? + 1,
        _ => memchr::memchr(b':', text).unwrap_or(text.len()),
    };
    let (host, rest) = text.split_at(host_length);
    let port = match rest {
        [] | [b':'] => None,
        [b':', digits @ ..] => Some(port(digits)?),
        _ => return None,
    };
    let text = std::str::from_utf8(text).ok()?;
    let valid = match host {
        [] => false,
        [b'[', ..] => text[1..host_length - 1].parse::<Ipv6Addr>().is_ok(),
        name => name.len() <= MAX_HOST && is_name(name),
    };
    valid.then_some(Authority { text, host: &text[..host_length], port })
}

fn port(digits: &[u8]) -> Option<u16> {
    if digits.len() > 5 {
        return None;
    }
    let mut port = 0_u32;
    for digit in digits {
        port = port * 10 + u32::from(digit.is_ascii_digit().then(|| digit - b'0')?);
    }
    u16::try_from(port).ok()
}

fn is_name(name: &[u8]) -> bool {
    name.iter().all(|byte| NAME[usize::from(*byte)]) || is_escaped_name(name)
}

fn is_escaped_name(mut name: &[u8]) -> bool {
    while let [byte, rest @ ..] = name {
        name = match rest {
            _ if NAME[usize::from(*byte)] => rest,
            [high, low, rest @ ..] if *byte == b'%' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => rest,
            _ => return false,
        };
    }
    true
}

impl Authority<'_> {
    /// Whether both name the same port of the same host: letters of either case, and `default` where none is written.
    pub fn same(&self, other: &Self, default: u16) -> bool {
        self.host.eq_ignore_ascii_case(other.host) && self.port.unwrap_or(default) == other.port.unwrap_or(default)
    }
}

/// What stands before the port of a host that [`parse`] has accepted.
pub fn without_port(host: &str) -> &str {
    let name_from = host.find(']').unwrap_or(0);
    host[name_from..].find(':').map_or(host, |colon| &host[..name_from + colon])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_or_without_a_port() {
        for (text, host, port) in [
            ("mail.example", "mail.example", None),
            ("MAIL_1:443", "MAIL_1", Some(443)),
            ("192.0.2.1:0080", "192.0.2.1", Some(80)),
            ("[2001:db8::1]", "[2001:db8::1]", None),
            ("[::1]:65535", "[::1]", Some(65535)),
            ("a%20b:1", "a%20b", Some(1)),
            ("name:", "name", None),
        ] {
            assert_eq!(parse(text.as_bytes()), Some(Authority { text, host, port }));
            assert_eq!(without_port(text), host);
        }
    }

    #[test]
    fn anything_else_is_no_host() {
        let long = "a".repeat(MAX_HOST + 1);
        for text in [
            "",
            ":80",
            "a b",
            "a,b",
            "a/b",
            "u@a",
            "a\tb",
            "a\"b",
            "a\\b",
            "a<b>",
            "a?b",
            "a#b",
            "a^b",
            "a|b",
            "a\u{e9}",
            "a%2",
            "a%zz",
            "a%",
            "a:b",
            "a:-1",
            "a:+1",
            "a:65536",
            "a:000080",
            "a:80:80",
            "a:80 ",
            "::1",
            "[::1",
            "::1]",
            "[]",
            "[::1]80",
            "[::1%25eth0]",
            "[v1.a]",
            "[192.0.2.1]",
            "[::1]]",
            "[[::1]]",
            &long,
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn the_same_host_may_be_written_differently() {
        let same = |one: &str, other: &str| parse(one.as_bytes()).unwrap().same(&parse(other.as_bytes()).unwrap(), 80);
        assert!(same("Mail.example", "mail.EXAMPLE:80"));
        assert!(same("[::A]:", "[::a]:80"));
        assert!(!same("mail.example", "mail.example:443"));
        assert!(!same("mail.example", "mail.example."));
    }
}
