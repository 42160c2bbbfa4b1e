//! The fields that tell a server who the client is: `X-Forwarded-For`, `-Proto`, `-Host`, and `Forwarded` (RFC 7239).
//!
//! Edits of the same names act on what the client sent, and ours come after; only who sets `-Proto` or `-Host` by
//! an edit has the last word on it.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use super::edits::{Edits, field, write_one};
use super::head::is_token;
use super::lists::Networks;
use crate::plan::{self, ClientSupplied};

const FOR: &str = "X-Forwarded-For";
const PROTO: &str = "X-Forwarded-Proto";
const HOST: &str = "X-Forwarded-Host";
const FORWARDED: &str = "Forwarded";

/// The client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    /// The client.
    pub(crate) client: SocketAddr,
    /// The address of ours that it came to.
    pub(crate) own: SocketAddr,
    /// Over TLS.
    pub(crate) tls: bool,
}

/// [`plan::Forwarded`], ready to be used.
#[derive(Debug)]
pub(crate) struct Forwarding {
    except: Networks,
    client_supplied: ClientSupplied,
    rfc7239: bool,
}

impl Forwarding {
    pub(crate) fn new(plan: &plan::Forwarded) -> Forwarding {
        Forwarding {
            except: plan.except.iter().collect(),
            client_supplied: plan.client_supplied,
            rfc7239: plan.rfc7239,
        }
    }

    /// Whether anything is said of this client.
    pub(crate) fn concerns(&self, client: IpAddr) -> bool {
        !self.except.contains(client)
    }

    /// Whether a field of the client's goes.
    pub(crate) fn clears(&self, name: &str) -> bool {
        let theirs = self.client_supplied == ClientSupplied::Remove;
        match name.len() {
            17 => reads_as(name, PROTO),
            16 => reads_as(name, HOST),
            15 => theirs && reads_as(name, FOR),
            9 => theirs && reads_as(name, FORWARDED),
            _ => false,
        }
    }

    /// Appends our fields; `host` as the client sent it.
    pub(crate) fn append<'e>(&self, out: &mut Vec<u8>, ends: &Ends, host: Option<&str>, edits: impl Edits<'e>) {
        let client = ends.client.ip().to_canonical();
        out.extend_from_slice(b"X-Forwarded-For: ");
        address(out, client);
        out.extend_from_slice(b"\r\n");
        if !write_one(edits.clone(), PROTO) {
            let line: &[u8] = if ends.tls { b"X-Forwarded-Proto: https\r\n" } else { b"X-Forwarded-Proto: http\r\n" };
            out.extend_from_slice(line);
        }
        if let Some(host) = host
            && !write_one(edits, HOST)
        {
            field(out, HOST, host.as_bytes());
        }
        if self.rfc7239 {
            rfc7239(out, client, if ends.tls { "https" } else { "http" }, host);
        }
    }
}

/// Whether a server may take the field for ours: to a CGI variable (RFC 3875 §4.1.18) `_` and `-` are the same.
pub(super) fn reads_as(name: &str, ours: &str) -> bool {
    let dash = |byte: u8| matches!(byte, b'-' | b'_');
    let same = |(a, b): (u8, u8)| a.eq_ignore_ascii_case(&b) || dash(a) && dash(b);
    name.len() == ours.len() && name.bytes().zip(ours.bytes()).all(same)
}

/// RFC 7239 §4: what is no token is quoted; §6: IPv6 in brackets, which are no token.
fn rfc7239(out: &mut Vec<u8>, client: IpAddr, proto: &str, host: Option<&str>) {
    out.extend_from_slice(b"Forwarded: for=");
    if client.is_ipv6() {
        out.extend_from_slice(b"\"[");
        address(out, client);
        out.extend_from_slice(b"]\"");
    } else {
        address(out, client);
    }
    if let Some(host) = host {
        out.extend_from_slice(b";host=");
        if host.bytes().all(is_token) && !host.is_empty() {
            out.extend_from_slice(host.as_bytes());
        } else {
            out.push(b'"');
            for byte in host.bytes() {
                if matches!(byte, b'"' | b'\\') {
                    out.push(b'\\');
                }
                out.push(byte);
            }
            out.push(b'"');
        }
    }
    out.extend_from_slice(b";proto=");
    out.extend_from_slice(proto.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// An address in text: IPv4 without the formatting machinery, which costs more than the rest of these fields.
pub(crate) fn address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            let (mut text, mut at) = ([0; 16], 0);
            for octet in address.octets() {
                for (least, unit) in [(100, 100), (10, 10), (0, 1)] {
                    if octet >= least {
                        text[at] = b'0' + octet / unit % 10;
                        at += 1;
                    }
                }
                text[at] = b'.';
                at += 1;
            }
            out.extend_from_slice(&text[..at - 1]);
        }
        IpAddr::V6(address) => write!(out, "{address}").expect("a Vec takes all"),
    }
}

/// A number in decimal.
pub(crate) fn decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).expect("one digit");
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::HeaderEdit;

    fn forwarding(client_supplied: ClientSupplied, rfc7239: bool, except: &[&str]) -> Forwarding {
        let except = except.iter().map(|text| text.parse().unwrap()).collect();
        Forwarding::new(&plan::Forwarded { except, client_supplied, rfc7239 })
    }

    fn said(forwarding: &Forwarding, client: &str, tls: bool, host: Option<&str>, edits: &[HeaderEdit]) -> String {
        let ends = Ends {
            client: SocketAddr::new(client.parse().unwrap(), 40_000),
            own: "192.0.2.9:80".parse().unwrap(),
            tls,
        };
        let mut out = Vec::new();
        forwarding.append(&mut out, &ends, host, edits.iter());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn servers_learn_address_scheme_and_host() {
        let plain = forwarding(ClientSupplied::Append, false, &[]);
        assert_eq!(
            said(&plain, "198.51.100.200", false, Some("Shop.test:8080"), &[]),
            "X-Forwarded-For: 198.51.100.200\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: Shop.test:8080\r\n"
        );
        assert_eq!(
            said(&plain, "2001:db8::1", true, None, &[]),
            "X-Forwarded-For: 2001:db8::1\r\nX-Forwarded-Proto: https\r\n"
        );
        let mapped = said(&plain, "::ffff:10.0.0.1", false, None, &[]);
        assert!(mapped.starts_with("X-Forwarded-For: 10.0.0.1\r\n"), "{mapped}");
    }

    #[test]
    fn rfc_7239_quotes_what_is_no_token() {
        let both = forwarding(ClientSupplied::Append, true, &[]);
        for (client, tls, host, line) in [
            ("192.0.2.43", false, Some("shop.test"), "for=192.0.2.43;host=shop.test;proto=http"),
            ("192.0.2.43", false, Some("shop.test:8080"), "for=192.0.2.43;host=\"shop.test:8080\";proto=http"),
            ("2001:db8::17", true, Some("[2001:db8::1]"), "for=\"[2001:db8::17]\";host=\"[2001:db8::1]\";proto=https"),
            ("192.0.2.43", false, Some("a\"b\\c"), "for=192.0.2.43;host=\"a\\\"b\\\\c\";proto=http"),
            ("192.0.2.43", false, Some(""), "for=192.0.2.43;host=\"\";proto=http"),
            ("192.0.2.43", false, None, "for=192.0.2.43;proto=http"),
        ] {
            let all = said(&both, client, tls, host, &[]);
            assert!(all.ends_with(&format!("\r\nForwarded: {line}\r\n")), "{all}");
        }
    }

    #[test]
    fn nothing_is_said_of_a_client_that_is_a_trusted_proxy() {
        let forwarding = forwarding(ClientSupplied::Remove, true, &["127.0.0.0/8", "2001:db8::/32"]);
        for (client, concerns) in
            [("127.0.0.1", false), ("::ffff:127.0.0.1", false), ("2001:db8::1", false), ("192.0.2.1", true)]
        {
            assert_eq!(forwarding.concerns(client.parse().unwrap()), concerns, "{client}");
        }
    }

    #[test]
    fn what_a_client_says_of_its_scheme_and_host_never_passes_and_the_rest_as_configured() {
        for (name, appended, removed) in [
            ("X-Forwarded-For", false, true),
            ("x-forwarded-for", false, true),
            ("Forwarded", false, true),
            ("X-Forwarded-Proto", true, true),
            ("x-forwarded-HOST", true, true),
            ("X_Forwarded-for", false, true),
            ("x_forwarded_proto", true, true),
            ("X-Forwarded-Port", false, false),
            ("Host", false, false),
        ] {
            assert_eq!(forwarding(ClientSupplied::Append, true, &[]).clears(name), appended, "{name}");
            assert_eq!(forwarding(ClientSupplied::Remove, false, &[]).clears(name), removed, "{name}");
        }
    }

    #[test]
    fn an_edit_that_sets_scheme_or_host_has_the_last_word_and_ours_follows_it_otherwise() {
        let plain = forwarding(ClientSupplied::Append, false, &[]);
        let set = |name: &str| HeaderEdit::Set(name.into(), "v".into());
        let ours = said(&plain, "192.0.2.1", false, Some("h"), &[set("x-forwarded-proto"), set("X-FORWARDED-HOST")]);
        assert_eq!(ours, "X-Forwarded-For: 192.0.2.1\r\n");
        let ours = said(
            &plain,
            "192.0.2.1",
            false,
            Some("h"),
            &[set("X-Forwarded-For"), set("X-Forwarded-Proto"), HeaderEdit::Remove("X-Forwarded-Proto".into())],
        );
        assert_eq!(ours, "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: h\r\n");
    }

    #[test]
    fn numbers_and_addresses_are_written_as_the_library_writes_them() {
        for number in [0, 9, 10, 255, 65_535, 1 << 40, u64::MAX] {
            let mut out = Vec::new();
            decimal(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
        for octet in 0..=255 {
            let ip = IpAddr::from([octet, 0, 255 - octet, octet]);
            let mut out = Vec::new();
            address(&mut out, ip);
            assert_eq!(String::from_utf8(out).unwrap(), ip.to_string());
        }
    }
}
