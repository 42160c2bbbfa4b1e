//! The PROXY protocol, versions 1 and 2 (haproxy.org, proxy-protocol.txt; sections cited are its own): what a proxy says of
//! a client at the beginning of a connection that it makes for it.
//!
//! Pure: bytes in, a header out, and the other way round. Who may say it, and to whom, is in `announce`.

mod read;
mod write;

use std::net::SocketAddr;

use crate::reasons::reasons;

pub use read::read;
pub use write::{Certificate, Client, local, write_v1, write_v2};

/// The longest header that is taken (HAProxy's is what fits in a buffer, which is as much). The format allows four times
/// that, and an ordinary one has under 536 bytes (§2).
pub const MOST: usize = 16 * 1024;

/// How a version 2 header begins (§2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and protocol, length (§2.2).
const FIXED: usize = 16;
/// Types of TLVs (§2.2).
const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
const CRC32C: u8 = 0x03;
const UNIQUE_ID: u8 = 0x05;
const SSL: u8 = 0x20;
/// Types inside of [`SSL`] (§2.2.6).
const SSL_VERSION: u8 = 0x21;
const SSL_CN: u8 = 0x22;
/// Bytes of a unique id (§2.2.5).
const LONGEST_ID: usize = 128;

reasons! {
    /// Why a client is not taken that should have been announced by a proxy.
    BadProxy {
        Source "source" "its address is none that may announce clients"
        Closed "closed" "it closed the connection before its PROXY header was whole"
        Timeout "timeout" "it took too long with its PROXY header"
        Missing "missing" "what it said first is no PROXY header"
        Malformed "malformed" "its PROXY header breaks the rules of the protocol"
        TooLong "too_long" "its PROXY header is too long"
        Checksum "checksum" "the checksum of its PROXY header is wrong"
    }
}

/// A header that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// In bytes.
    pub length: usize,
    /// The client, and the address that it came to. `None`: those of the connection itself (LOCAL, UNKNOWN, or neither TCP
    /// over IPv4 nor over IPv6).
    pub ends: Option<(SocketAddr, SocketAddr)>,
    /// What is said beside them.
    pub tlvs: Tlvs<'a>,
}

/// What a version 2 header may say beside addresses, as far as anybody here has a use for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tlvs<'a> {
    /// The protocol that was agreed on with the client (§2.2.1).
    pub alpn: Option<&'a [u8]>,
    /// The host that the client named: its SNI (§2.2.2).
    pub authority: Option<&'a [u8]>,
    /// Of the client's connection, the same over all proxies on the way (§2.2.5).
    pub unique_id: Option<&'a [u8]>,
    /// The client's TLS (§2.2.6), well-formed.
    pub ssl: Option<&'a [u8]>,
}

impl<'a> Tlvs<'a> {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Tlvs::default()
    }

    /// What [`write`](Tlvs::write) wrote.
    pub fn of(bytes: &'a [u8]) -> Tlvs<'a> {
        let mut tlvs = Tlvs::default();
        // Whoever wrote it was given what had been read.
        let _ = read::tlvs(bytes, |kind, _, value| tlvs.take(kind, value));
        tlvs
    }
}

#[cfg(test)]
mod tests;
