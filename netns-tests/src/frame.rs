//! Ethernet frames, made and heard without the help of the network stack: what a third host on the LAN can do
//! to a pair, and what it can see of it.
#![allow(unsafe_code, reason = "packet sockets are bound by an address type that no safe wrapper makes")]

use std::io;
use std::mem::size_of;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::netns::Netns;

/// Everybody.
pub const BROADCAST: [u8; 6] = [0xff; 6];
/// 224.0.0.18, as Ethernet has it.
pub const VRRP_MULTICAST: [u8; 6] = [0x01, 0x00, 0x5e, 0x00, 0x00, 0x12];

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const PROTOCOL_VRRP: u8 = 112;
const ETHERNET_HEADER: usize = 14;
const IPV4_HEADER: usize = 20;
/// More than any frame of this LAN.
const FRAME_BYTES: usize = 2048;

/// A packet socket on one interface.
#[derive(Debug)]
pub struct FrameSocket {
    fd: OwnedFd,
}

impl FrameSocket {
    /// Opens one on `interface` of `netns`; it hears every frame, those of this host too.
    pub fn open(netns: &Netns, interface: &str) -> io::Result<FrameSocket> {
        let interface = interface.to_owned();
        netns.run(move || {
            let index = if_nametoindex(interface.as_str())?;
            let every = u16::try_from(libc::ETH_P_ALL).expect("an ethertype has 16 bits").to_be();
            // SAFETY: no pointers; the result is checked.
            let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(every)) };
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: it was opened just now, and nobody else owns it.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            let address = libc::sockaddr_ll {
                sll_family: u16::try_from(libc::AF_PACKET).expect("an address family has 16 bits"),
                sll_protocol: every,
                sll_ifindex: i32::try_from(index).map_err(io::Error::other)?,
                sll_hatype: 0,
                sll_pkttype: 0,
                sll_halen: 0,
                sll_addr: [0; 8],
            };
            let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).expect("a few bytes");
            // SAFETY: the pointer is to a sockaddr_ll that lives until the call returns, and the length is its own.
            let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
            if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(FrameSocket { fd }) }
        })
    }

    /// Sends a whole frame.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        nix::unistd::write(&self.fd, frame)?;
        Ok(())
    }

    /// The next frame, if one comes within `within`.
    pub fn receive(&self, within: Duration) -> io::Result<Option<Vec<u8>>> {
        let timeout = PollTimeout::try_from(within).unwrap_or(PollTimeout::MAX);
        if poll(&mut [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)], timeout)? == 0 {
            return Ok(None);
        }
        let mut frame = vec![0; FRAME_BYTES];
        let length = nix::unistd::read(&self.fd, &mut frame)?;
        frame.truncate(length);
        Ok(Some(frame))
    }
}

/// A gratuitous ARP reply: `mac` says that `address` is its own.
pub fn arp_claim(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, mac, ETHERTYPE_ARP);
    // Ethernet, IPv4, reply.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 2]);
    frame.extend(mac);
    frame.extend(address.octets());
    frame.extend(BROADCAST);
    frame.extend(address.octets());
    frame
}

/// A VRRP message in IPv4 to 224.0.0.18.
pub fn vrrp_advert(mac: [u8; 6], source: Ipv4Addr, ttl: u8, message: &[u8]) -> Vec<u8> {
    let total = u16::try_from(IPV4_HEADER + message.len()).expect("test messages are short");
    let mut header = vec![0x45, 0xc0];
    header.extend(total.to_be_bytes());
    header.extend([0, 0, 0, 0, ttl, PROTOCOL_VRRP, 0, 0]);
    header.extend(source.octets());
    header.extend([224, 0, 0, 18]);
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = ethernet(VRRP_MULTICAST, mac, ETHERTYPE_IPV4);
    frame.extend(header);
    frame.extend(message);
    frame
}

/// The source and the IPv4 packet of a frame that carries VRRP.
pub fn vrrp_of(frame: &[u8]) -> Option<([u8; 6], &[u8])> {
    let packet = frame.get(ETHERNET_HEADER..)?;
    let ours = ethertype(frame)? == ETHERTYPE_IPV4 && *packet.get(9)? == PROTOCOL_VRRP;
    ours.then(|| (source(frame), packet))
}

/// Who says by ARP (a request or a reply) that which address is its own.
pub fn arp_of(frame: &[u8]) -> Option<([u8; 6], Ipv4Addr)> {
    let arp = frame.get(ETHERNET_HEADER..ETHERNET_HEADER + 28)?;
    let sender: [u8; 4] = arp[14..18].try_into().ok()?;
    (ethertype(frame)? == ETHERTYPE_ARP).then(|| (source(frame), Ipv4Addr::from(sender)))
}

/// The internet checksum (RFC 1071) of an even number of bytes.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

fn ethernet(to: [u8; 6], from: [u8; 6], ethertype: u16) -> Vec<u8> {
    [&to[..], &from[..], &ethertype.to_be_bytes()[..]].concat()
}

fn ethertype(frame: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(frame.get(12..14)?.try_into().ok()?))
}

fn source(frame: &[u8]) -> [u8; 6] {
    let mut mac = [0; 6];
    mac.copy_from_slice(&frame[6..12]);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_reads_back() {
        let (mac, address) = ([2, 0, 0, 0, 0, 9], Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(arp_of(&arp_claim(mac, address)), Some((mac, address)));
        assert_eq!(vrrp_of(&arp_claim(mac, address)), None);
    }

    #[test]
    fn an_advert_reads_back_and_its_header_sums_to_zero() {
        let mac = [2, 0, 0, 0, 0, 9];
        let frame = vrrp_advert(mac, Ipv4Addr::new(10, 0, 0, 1), 255, &[0x31, 1, 2, 3]);
        let (from, packet) = vrrp_of(&frame).unwrap();
        assert_eq!((from, checksum(&packet[..IPV4_HEADER])), (mac, 0));
        assert_eq!(vrrp_of(&frame[..20]), None, "cut off before the protocol");
    }
}
