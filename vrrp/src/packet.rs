//! The VRRPv3 message over IPv4 (RFC 9568 §5): written by [`encode`], read in two steps.
//!
//! [`decode`] checks what needs no configuration and tells the VRID; [`Received::check`] checks the
//! rest against the router of that VRID. Between them stands the caller's look-up, so a checksum
//! error is counted only for a VRID that is ours. Nothing here can panic on any input.

use std::net::Ipv4Addr;

use crate::config::{Checksum, RouterConfig, Transport};
use crate::event::Advert;
use crate::types::Interval;

/// The multicast group of VRRP over IPv4 (RFC 9568 §5.1.1.2).
pub const MULTICAST: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// The IP protocol number (RFC 9568 §5.1.1.4).
pub const PROTOCOL: u8 = 112;
/// The TTL that adverts are sent with, and must arrive with on multicast (RFC 9568 §5.1.1.3).
pub const TTL: u8 = 255;
/// The most addresses that one message has room for: its count is one byte.
pub const MAX_ADDRESSES: usize = 255;

const VERSION: u8 = 3;
const ADVERTISEMENT: u8 = 1;
const HEADER: usize = 8;
const IP_HEADER: usize = 20;

/// Why a packet was not obeyed. One reason, one counter: see [`DecodeError::name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than its own headers and its address count say.
    #[error("the packet is {length} bytes long, but says that it has {needed}")]
    Truncated {
        /// Bytes that are there.
        length: usize,
        /// Bytes that should be.
        needed: usize,
    },
    /// Not an IPv4 header, or one shorter than 20 bytes.
    #[error("the packet does not start with an IPv4 header (first byte {0:#04x})")]
    IpHeader(u8),
    /// Another protocol than 112.
    #[error("IP protocol {0} is not VRRP (112)")]
    Protocol(u8),
    /// It came from farther away than it may (RFC 9568 §7.1).
    #[error("TTL {ttl} is below {least}: the packet came through a router")]
    Ttl {
        /// As it arrived.
        ttl: u8,
        /// As it must at least.
        least: u8,
    },
    /// Another version of VRRP.
    #[error("VRRP version {0} is not 3")]
    Version(u8),
    /// Only type 1, ADVERTISEMENT, is defined (RFC 9568 §5.2.2).
    #[error("VRRP packet type {0} is not an advertisement (1)")]
    Type(u8),
    /// No router with that VRID on this interface. Raised by the caller, which knows them all.
    #[error("VRID {0} is not configured on this interface")]
    UnknownVrid(u8),
    /// Multicast for a router that speaks unicast, or the reverse.
    #[error("the packet was sent to {0}, which is not how this router is configured to listen")]
    Destination(Ipv4Addr),
    /// Unicast from an address that is not a configured peer.
    #[error("{0} is not a configured unicast peer")]
    NotAPeer(Ipv4Addr),
    /// Neither form of the checksum matches.
    #[error("the checksum {0:#06x} is wrong, with the pseudo-header and without")]
    Checksum(u16),
    /// An advert for no address (erratum 8299).
    #[error("the packet advertises no address")]
    NoAddress,
    /// An advert interval of zero (erratum 8301).
    #[error("the packet advertises an interval of zero")]
    IntervalZero,
}

impl DecodeError {
    /// A stable name for counters and logs.
    pub fn name(&self) -> &'static str {
        match self {
            DecodeError::Truncated { .. } => "truncated",
            DecodeError::IpHeader(_) => "ip_header",
            DecodeError::Protocol(_) => "protocol",
            DecodeError::Ttl { .. } => "ttl",
            DecodeError::Version(_) => "version",
            DecodeError::Type(_) => "type",
            DecodeError::UnknownVrid(_) => "unknown_vrid",
            DecodeError::Destination(_) => "destination",
            DecodeError::NotAPeer(_) => "not_a_peer",
            DecodeError::Checksum(_) => "checksum",
            DecodeError::NoAddress => "no_address",
            DecodeError::IntervalZero => "interval_zero",
        }
    }
}

/// The VRRP message of `config`'s router, without an IP header: the kernel makes that.
///
/// `source` and `destination` matter only to a checksum that covers the pseudo-header.
/// Addresses beyond the first [`MAX_ADDRESSES`] don't fit and are left out.
pub fn encode(config: &RouterConfig, priority: u8, source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    let addresses = &config.addresses[..config.addresses.len().min(MAX_ADDRESSES)];
    let mut message = Vec::with_capacity(HEADER + 4 * addresses.len());
    message.extend([VERSION << 4 | ADVERTISEMENT, config.vrid.get(), priority, addresses.len() as u8]);
    message.extend(config.advert_interval.centiseconds().to_be_bytes());
    message.extend([0, 0]);
    message.extend(addresses.iter().flat_map(Ipv4Addr::octets));
    let checksum = checksum_of(&message, config.checksum, source, destination);
    message[6..8].copy_from_slice(&checksum.to_be_bytes());
    message
}

/// Where a router's adverts go.
pub fn destinations(config: &RouterConfig) -> Vec<Ipv4Addr> {
    match &config.transport {
        Transport::Multicast => vec![MULTICAST],
        Transport::Unicast(peers) => peers.iter().map(|peer| peer.address).collect(),
    }
}

/// A packet whose shape is right. It may be obeyed only after [`Received::check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// From the IP header.
    pub source: Ipv4Addr,
    /// From the IP header.
    pub destination: Ipv4Addr,
    /// As it arrived.
    pub ttl: u8,
    /// Which router it is about. Zero is no VRID, so no router has it.
    pub vrid: u8,
    /// 0 releases, 255 is an address owner.
    pub priority: u8,
    /// The VRRP message, as long as its address count says; padding is cut off.
    message: &'a [u8],
}

/// Reads an IPv4 packet as a raw socket delivers it, IP header first.
///
/// Checked here, in this order: IP header, TTL where it was multicast, the eight bytes that every
/// message has, version, type, the length that the address count asks for (RFC 9568 §7.1).
pub fn decode(packet: &[u8]) -> Result<Received<'_>, DecodeError> {
    let &[first, _, length_high, length_low, _, _, _, _, ttl, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3, ..] =
        packet
    else {
        return Err(DecodeError::Truncated { length: packet.len(), needed: IP_HEADER });
    };
    let ip_header = usize::from(first & 0x0f) * 4;
    if first >> 4 != 4 || ip_header < IP_HEADER {
        return Err(DecodeError::IpHeader(first));
    }
    if protocol != PROTOCOL {
        return Err(DecodeError::Protocol(protocol));
    }
    let total = usize::from(u16::from_be_bytes([length_high, length_low]));
    if total > packet.len() {
        return Err(DecodeError::Truncated { length: packet.len(), needed: total });
    }
    let destination = Ipv4Addr::new(d0, d1, d2, d3);
    if destination.is_multicast() && ttl != TTL {
        return Err(DecodeError::Ttl { ttl, least: TTL });
    }
    // What lies beyond the IP total length is the padding of a short Ethernet frame.
    let message = packet[..total].get(ip_header..).unwrap_or_default();
    let &[kind, vrid, priority, count, _, _, _, _, ..] = message else {
        return Err(DecodeError::Truncated { length: total, needed: ip_header + HEADER });
    };
    if kind >> 4 != VERSION {
        return Err(DecodeError::Version(kind >> 4));
    }
    if kind & 0x0f != ADVERTISEMENT {
        return Err(DecodeError::Type(kind & 0x0f));
    }
    let expected = HEADER + 4 * usize::from(count);
    let message =
        message.get(..expected).ok_or(DecodeError::Truncated { length: total, needed: ip_header + expected })?;
    Ok(Received { source: Ipv4Addr::new(s0, s1, s2, s3), destination, ttl, vrid, priority, message })
}

impl Received<'_> {
    /// Checks what only the router of this VRID can tell, and says which form of the checksum matched.
    ///
    /// In this order: multicast or unicast as configured, unicast source and TTL, checksum, at least
    /// one address, an interval.
    pub fn check(&self, config: &RouterConfig) -> Result<(Advert, Checksum), DecodeError> {
        match &config.transport {
            Transport::Multicast if self.destination == MULTICAST => {}
            Transport::Unicast(peers) if !self.destination.is_multicast() => {
                let peer =
                    peers.iter().find(|peer| peer.address == self.source).ok_or(DecodeError::NotAPeer(self.source))?;
                if self.ttl < peer.min_ttl {
                    return Err(DecodeError::Ttl { ttl: self.ttl, least: peer.min_ttl });
                }
            }
            Transport::Multicast | Transport::Unicast(_) => return Err(DecodeError::Destination(self.destination)),
        }
        let checksum = self.checksum().ok_or(DecodeError::Checksum(self.word(6)))?;
        let addresses: Vec<Ipv4Addr> = self.message[HEADER..]
            .chunks_exact(4)
            .map(|octets| Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]))
            .collect();
        if addresses.is_empty() {
            return Err(DecodeError::NoAddress);
        }
        // The upper four bits are reserved and ignored (§5.2.6).
        let interval = Interval::from_centiseconds(self.word(4) & 0x0fff).ok_or(DecodeError::IntervalZero)?;
        Ok((Advert { source: self.source, priority: self.priority, interval, addresses }, checksum))
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.message[at], self.message[at + 1]])
    }

    /// The form that makes the checksum come out as zero, if any does.
    fn checksum(&self) -> Option<Checksum> {
        [Checksum::Rfc9568, Checksum::PseudoHeader]
            .into_iter()
            .find(|&form| checksum_of(self.message, form, self.source, self.destination) == 0)
    }
}

/// The Internet checksum (RFC 1071) of a message; zero if its own checksum is filled in and right.
fn checksum_of(message: &[u8], form: Checksum, source: Ipv4Addr, destination: Ipv4Addr) -> u16 {
    let words = |bytes: &[u8]| -> u32 {
        bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()
    };
    // Messages are 8 + 4n ≤ 1028 bytes: whole words, and the sum can't overflow.
    let mut sum = words(message);
    if form == Checksum::PseudoHeader {
        sum += words(&source.octets()) + words(&destination.octets()) + u32::from(PROTOCOL) + message.len() as u32;
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::config::UnicastPeer;

    const SOURCE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

    fn config(transport: Transport) -> RouterConfig {
        RouterConfig {
            name: "web".into(),
            interface: "eth0".into(),
            vrid: 51.try_into().expect("in range"),
            addresses: vec![Ipv4Addr::new(192, 0, 2, 100)],
            priority: 150.try_into().expect("in range"),
            advert_interval: Duration::from_secs(1).try_into().expect("in range"),
            preempt: None,
            transport,
            source: None,
            checksum: Checksum::Rfc9568,
        }
    }

    fn ip(options: usize, ttl: u8, destination: Ipv4Addr, message: &[u8]) -> Vec<u8> {
        let header = IP_HEADER + options;
        let mut packet = vec![0; header];
        packet[0] = 0x40 | (header / 4) as u8;
        packet[2..4].copy_from_slice(&((header + message.len()) as u16).to_be_bytes());
        packet[8] = ttl;
        packet[9] = PROTOCOL;
        packet[12..16].copy_from_slice(&SOURCE.octets());
        packet[16..20].copy_from_slice(&destination.octets());
        packet.extend(message);
        packet
    }

    fn read(config: &RouterConfig, packet: &[u8]) -> Result<(Advert, Checksum), DecodeError> {
        decode(packet)?.check(config)
    }

    /// A good packet after `change` to the message; the checksum is made right again.
    fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Result<(Advert, Checksum), DecodeError> {
        let config = config(Transport::Multicast);
        let mut message = encode(&config, 150, SOURCE, MULTICAST);
        change(&mut message);
        message[6..8].fill(0);
        let sum = checksum_of(&message, Checksum::Rfc9568, SOURCE, MULTICAST);
        message[6..8].copy_from_slice(&sum.to_be_bytes());
        read(&config, &ip(0, 255, MULTICAST, &message))
    }

    #[test]
    fn the_bytes_are_those_of_the_rfc() {
        let message = encode(&config(Transport::Multicast), 150, SOURCE, MULTICAST);
        assert_eq!(message[..6], [0x31, 51, 150, 1, 0, 100]);
        assert_eq!(message[8..], [192, 0, 2, 100]);
        // By hand: 3133 + 9601 + 0064 + c000 + 0264 = 189fc → 89fd → ^ffff.
        assert_eq!(message[6..8], [0x76, 0x02]);
    }

    #[test]
    fn padding_and_ip_options_are_tolerated() {
        let config = config(Transport::Multicast);
        let message = encode(&config, 150, SOURCE, MULTICAST);
        let mut packet = ip(8, 255, MULTICAST, &message);
        packet.extend([0xaa; 14]);
        assert_eq!(read(&config, &packet).map(|(advert, _)| advert.priority), Ok(150));
    }

    #[test]
    fn a_packet_cut_anywhere_is_truncated() {
        let config = config(Transport::Multicast);
        let packet = ip(0, 255, MULTICAST, &encode(&config, 150, SOURCE, MULTICAST));
        for length in 0..packet.len() {
            let error = read(&config, &packet[..length]).expect_err("it is too short");
            assert_eq!(error.name(), "truncated", "{length} bytes");
        }
        assert_eq!(changed(|message| message[3] = 2).map_err(|e| e.name()), Err("truncated"));
    }

    #[test]
    fn each_broken_field_has_its_own_reason() {
        let reason = |change: fn(&mut Vec<u8>)| changed(change).expect_err("it is broken").name();
        assert_eq!(reason(|message| message[0] = 0x21), "version");
        assert_eq!(reason(|message| message[0] = 0x32), "type");
        assert_eq!(reason(|message| message[3] = 0), "checksum", "the sum covers only what is counted");
        assert_eq!(
            reason(|message| {
                message[3] = 0;
                message.truncate(8);
            }),
            "no_address"
        );
        assert_eq!(reason(|message| message[4..6].fill(0)), "interval_zero");
        assert_eq!(reason(|message| message[4..6].copy_from_slice(&[0xf0, 0])), "interval_zero");

        let config = config(Transport::Multicast);
        let good = ip(0, 255, MULTICAST, &encode(&config, 150, SOURCE, MULTICAST));
        let broken = |at: usize, value: u8| {
            let mut packet = good.clone();
            packet[at] = value;
            read(&config, &packet).expect_err("it is broken").name()
        };
        assert_eq!(broken(0, 0x65), "ip_header");
        assert_eq!(broken(0, 0x44), "ip_header");
        assert_eq!(broken(9, 17), "protocol");
        assert_eq!(broken(8, 254), "ttl");
        assert_eq!(broken(26, 0), "checksum");
    }

    #[test]
    fn reserved_bits_are_ignored() {
        let (advert, _) = changed(|message| message[4] |= 0xf0).expect("reserved bits say nothing");
        assert_eq!(advert.interval.centiseconds(), 100);
    }

    #[test]
    fn multicast_and_unicast_routers_refuse_each_others_packets() {
        let multicast = config(Transport::Multicast);
        let message = encode(&multicast, 150, SOURCE, OTHER);
        let unicast = config(Transport::Unicast(vec![UnicastPeer { address: SOURCE, min_ttl: 254 }]));
        assert_eq!(read(&multicast, &ip(0, 255, OTHER, &message)), Err(DecodeError::Destination(OTHER)));
        assert_eq!(read(&unicast, &ip(0, 255, MULTICAST, &message)), Err(DecodeError::Destination(MULTICAST)));
        assert!(read(&unicast, &ip(0, 254, OTHER, &message)).is_ok());
        assert_eq!(read(&unicast, &ip(0, 253, OTHER, &message)), Err(DecodeError::Ttl { ttl: 253, least: 254 }));
        let stranger = config(Transport::Unicast(vec![UnicastPeer { address: OTHER, min_ttl: 254 }]));
        assert_eq!(read(&stranger, &ip(0, 255, OTHER, &message)), Err(DecodeError::NotAPeer(SOURCE)));
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(
            vrid in 1..=255i64,
            priority: u8,
            centiseconds in 1..=4095u16,
            addresses in prop::collection::vec(any::<u32>(), 1..=MAX_ADDRESSES),
            pseudo: bool,
            options in 0..=10usize,
            padding in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let form = if pseudo { Checksum::PseudoHeader } else { Checksum::Rfc9568 };
            let config = RouterConfig {
                vrid: vrid.try_into().expect("in range"),
                advert_interval: Interval::from_centiseconds(centiseconds).expect("in range"),
                addresses: addresses.into_iter().map(Ipv4Addr::from_bits).collect(),
                checksum: form,
                ..config(Transport::Multicast)
            };
            let mut packet = ip(options * 4, 255, MULTICAST, &encode(&config, priority, SOURCE, MULTICAST));
            packet.extend(padding);
            let received = decode(&packet).expect("it was just made");
            prop_assert_eq!(i64::from(received.vrid), vrid);
            let (advert, matched) = received.check(&config).expect("it was just made");
            prop_assert_eq!(matched, form);
            let expected = Advert {
                source: SOURCE,
                priority,
                interval: config.advert_interval,
                addresses: config.addresses,
            };
            prop_assert_eq!(advert, expected);
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), shape: bool) {
            if shape && bytes.len() > 28 {
                // Enough of a header that the deeper checks are reached too.
                bytes[0] = 0x45;
                bytes[2] = 0;
                bytes[3] %= 200;
                bytes[8] = 255;
                bytes[9] = PROTOCOL;
                bytes[20] = 0x31;
            }
            if let Ok(received) = decode(&bytes) {
                let _ = received.check(&config(Transport::Multicast));
                let peer = UnicastPeer { address: received.source, min_ttl: 1 };
                let _ = received.check(&config(Transport::Unicast(vec![peer])));
            }
        }
    }
}
