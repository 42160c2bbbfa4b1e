//! The fields that tell a server who the client is: `X-Forwarded-For`, `-Proto`, `-Host`, and `Forwarded` (RFC 7239).
//!
//! Edits of the same names act on what the client sent, and ours come after; only who sets `-Proto` or `-Host` by
//! an edit has the last word on it.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use super::edits::{Edits, field, write_one};
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
    pub(crate) client: IpAddr,
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
            17 => name.eq_ignore_ascii_case(PROTO),
            16 => name.eq_ignore_ascii_case(HOST),
            15 => theirs && name.eq_ignore_ascii_case(FOR),
            9 => theirs && name.eq_ignore_ascii_case(FORWARDED),
            _ => false,
        }
    }

    /// Appends our fields; `host` as the client sent it.
    pub(crate) fn append<'e>(&self, out: &mut Vec<u8>, ends: &Ends, host: Option<&str>, edits: impl Edits<'e>) {
        let (client, proto) = (ends.client.to_canonical(), if ends.tls { "https" } else { "http" });
        out.extend_from_slice(FOR.as_bytes());
        out.extend_from_slice(b": ");
        address(out, client);
        out.extend_from_slice(b"\r\n");
        if !write_one(edits.clone(), PROTO) {
            field(out, PROTO, proto.as_bytes());
        }
        if let Some(host) = host
            && !write_one(edits, HOST)
        {
            field(out, HOST, host.as_bytes());
        }
        if self.rfc7239 {
            rfc7239(out, client, proto, host);
        }
    }
}

/// RFC 7239 §4: what is no token is quoted; §6: IPv6 in brackets, which are no token.
fn rfc7239(out: &mut Vec<u8>, client: IpAddr, proto: &str, host: Option<&str>) {
    out.extend_from_slice(FORWARDED.as_bytes());
    out.extend_from_slice(b": for=");
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

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// An address in text: IPv4 without the formatting machinery, which costs more than the rest of these fields.
pub(crate) fn address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (index, octet) in address.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                decimal(out, octet.into());
            }
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
