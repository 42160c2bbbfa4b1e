//! Writes a header.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::{ALPN, AUTHORITY, FIXED, MOST, SIGNATURE, SSL, SSL_CN, SSL_VERSION, Tlvs, UNIQUE_ID};

/// What the client's TLS is like (§2.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client<'a> {
    /// `TLSv1.2`, `TLSv1.3`.
    pub version: &'a str,
    /// Of its certificate, which was verified; `None`: it has none.
    pub certificate: Option<Certificate<'a>>,
}

/// A client's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Certificate<'a> {
    /// It was shown in this connection, not in one whose session this one resumed.
    pub now: bool,
    /// Of its subject.
    pub common_name: Option<&'a str>,
}

/// Version 1: who came to whom (§2.1).
pub fn write_v1(out: &mut Vec<u8>, client: SocketAddr, own: SocketAddr) {
    let (client, own) = alike(client, own);
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    let line = write!(out, "PROXY {family} {} {} {} {}\r\n", client.ip(), own.ip(), client.port(), own.port());
    line.expect("a Vec takes all");
}

/// Version 2: the same, and what else is known (§2.2).
pub fn write_v2(out: &mut Vec<u8>, client: SocketAddr, own: SocketAddr, tlvs: &Tlvs<'_>) {
    let (client, own) = alike(client, own);
    let begin = out.len();
    out.extend_from_slice(SIGNATURE);
    out.extend_from_slice(&[0x21, if client.is_ipv4() { 0x11 } else { 0x21 }, 0, 0]);
    for end in [client, own] {
        match end.ip() {
            IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
        }
    }
    out.extend_from_slice(&client.port().to_be_bytes());
    out.extend_from_slice(&own.port().to_be_bytes());
    tlvs.write(out, begin + MOST);
    let length = u16::try_from(out.len() - begin - FIXED).expect("a header is no longer than the most");
    out[begin + 14..begin + FIXED].copy_from_slice(&length.to_be_bytes());
}

/// Version 2 of a connection that is nobody's but ours, such as a check (§2.2, LOCAL).
pub fn local(out: &mut Vec<u8>) {
    out.extend_from_slice(SIGNATURE);
    out.extend_from_slice(&[0x20, 0, 0, 0]);
}

/// Both of one family: an IPv4 address beside one of IPv6 is written in its mapped form (RFC 4291 §2.5.5.2), and two of
/// them in mapped form are IPv4.
fn alike(client: SocketAddr, own: SocketAddr) -> (SocketAddr, SocketAddr) {
    let plain = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    let mapped = |end: SocketAddr| match end.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), end.port()),
        IpAddr::V6(_) => end,
    };
    let (client, own) = (plain(client), plain(own));
    if client.is_ipv4() == own.is_ipv4() { (client, own) } else { (mapped(client), mapped(own)) }
}

impl Tlvs<'_> {
    /// Those that fit before `end`: one that doesn't is left out.
    pub(crate) fn write(&self, out: &mut Vec<u8>, end: usize) {
        let all = [(ALPN, self.alpn), (AUTHORITY, self.authority), (UNIQUE_ID, self.unique_id), (SSL, self.ssl)];
        for (kind, value) in all {
            if let Some(value) = value.filter(|value| out.len() + 3 + value.len() <= end) {
                one(out, kind, value);
            }
        }
    }
}

impl Client<'_> {
    /// The value of [`Tlvs::ssl`].
    pub fn write(&self, out: &mut Vec<u8>) {
        const SSL_IT_IS: u8 = 0x01;
        const SHOWN_NOW: u8 = 0x02;
        const SHOWN: u8 = 0x04;
        let bits = match self.certificate {
            None => SSL_IT_IS,
            Some(Certificate { now: true, .. }) => SSL_IT_IS | SHOWN_NOW | SHOWN,
            Some(_) => SSL_IT_IS | SHOWN,
        };
        // Zero: there is a certificate, and it was verified.
        out.extend_from_slice(&[bits, 0, 0, 0, u8::from(self.certificate.is_none())]);
        one(out, SSL_VERSION, self.version.as_bytes());
        if let Some(name) = self.certificate.and_then(|certificate| certificate.common_name) {
            one(out, SSL_CN, name.as_bytes());
        }
    }
}

/// One that is longer than its length can say is cut, which none is that anybody agreed on.
fn one(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    out.push(kind);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&value[..length.into()]);
}
