//! ARP on one interface: gratuitous announcements of our VIPs, probes that make a silent link speak,
//! and what others say. The socket stays open as long as the interface is there: closing a packet
//! socket waits 8 to 19 ms for the kernel.

use std::io;
use std::net::Ipv4Addr;
use std::task::{Context, Poll};

use pnet::packet::Packet as _;
use pnet::packet::arp::{ArpHardwareTypes, ArpOperation, ArpOperations, ArpPacket, MutableArpPacket};
use pnet::packet::ethernet::{EtherTypes, EthernetPacket, MutableEthernetPacket};
use pnet::util::MacAddr;
use socket2::{Domain, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::kernel;

const ETHERNET: usize = EthernetPacket::minimum_packet_size();
const FRAME: usize = ETHERNET + ArpPacket::minimum_packet_size();

/// Speaks and hears ARP on one interface.
#[derive(Debug)]
pub struct Arp {
    socket: AsyncFd<Socket>,
    mac: MacAddr,
}

/// What one ARP frame says about its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The sender's hardware address.
    pub mac: [u8; 6],
    /// The address that it says is its own; unspecified in a probe (RFC 5227 §1.1).
    pub address: Ipv4Addr,
}

impl Arp {
    /// Opens it on the interface whose hardware address is `mac`. Must be called inside a runtime.
    ///
    /// # Errors
    /// The kernel's: EPERM without CAP_NET_RAW, ENODEV when the interface went meanwhile.
    pub fn open(index: u32, mac: [u8; 6]) -> io::Result<Arp> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.set_nonblocking(true)?;
        kernel::bind_to_arp(&socket, index)?;
        Ok(Arp { socket: kernel::watch(socket)?, mac: mac.into() })
    }

    /// Tells the segment that `address` is here: a gratuitous ARP request, both fields the VIP (RFC 5944 §4.6).
    ///
    /// # Errors
    /// The kernel's: ENETDOWN, ENOBUFS when the device's queue is full.
    pub fn announce(&self, address: Ipv4Addr) -> io::Result<()> {
        self.send(&request(self.mac, address, address))
    }

    /// Asks who has `address`, without claiming one ourselves (RFC 5227 §1.1): any answer shows that the link passes frames.
    ///
    /// # Errors
    /// As [`Arp::announce`].
    pub fn probe(&self, address: Ipv4Addr) -> io::Result<()> {
        self.send(&request(self.mac, Ipv4Addr::UNSPECIFIED, address))
    }

    /// Ready when a frame waits.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        // An error of the reactor shows again in the read that follows.
        self.socket.poll_read_ready(cx).map(|_| ())
    }

    /// The next ARP frame of somebody else that waits; `None` if there is none. What is no ARP for IPv4 is passed over.
    ///
    /// # Errors
    /// The kernel's: ENETDOWN, once, when the interface went down.
    pub fn receive(&self) -> io::Result<Option<Claim>> {
        let mut frame = [0; 128];
        loop {
            match self.socket.try_io(Interest::READABLE, |socket| kernel::receive(socket, &mut frame)) {
                Ok(length) => {
                    let claim = read(&frame[..length.min(frame.len())]);
                    if let Some(claim) = claim.filter(|claim| claim.mac != self.mac.octets()) {
                        return Ok(Some(claim));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.get_ref().send(frame).map(|_| ())
    }
}

fn request(mac: MacAddr, sender: Ipv4Addr, target: Ipv4Addr) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    let mut ethernet = MutableEthernetPacket::new(&mut frame).expect("the buffer has room for the header");
    ethernet.set_destination(MacAddr::broadcast());
    ethernet.set_source(mac);
    ethernet.set_ethertype(EtherTypes::Arp);
    let mut arp = MutableArpPacket::new(&mut frame[ETHERNET..]).expect("the buffer has room for the message");
    arp.set_hardware_type(ArpHardwareTypes::Ethernet);
    arp.set_protocol_type(EtherTypes::Ipv4);
    arp.set_hw_addr_len(6);
    arp.set_proto_addr_len(4);
    arp.set_operation(ArpOperations::Request);
    arp.set_sender_hw_addr(mac);
    arp.set_sender_proto_addr(sender);
    arp.set_target_proto_addr(target);
    frame
}

fn read(frame: &[u8]) -> Option<Claim> {
    let ethernet = EthernetPacket::new(frame).filter(|ethernet| ethernet.get_ethertype() == EtherTypes::Arp)?;
    let arp = ArpPacket::new(ethernet.payload())?;
    let known: [ArpOperation; 2] = [ArpOperations::Request, ArpOperations::Reply];
    (arp.get_protocol_type() == EtherTypes::Ipv4
        && arp.get_hw_addr_len() == 6
        && arp.get_proto_addr_len() == 4
        && known.contains(&arp.get_operation()))
    .then(|| Claim { mac: arp.get_sender_hw_addr().octets(), address: arp.get_sender_proto_addr() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);

    #[test]
    fn a_gratuitous_arp_names_the_vip_as_sender_and_as_target() {
        let frame = request(MAC.into(), VIP, VIP);
        assert_eq!(read(&frame), Some(Claim { mac: MAC, address: VIP }));
        let arp = ArpPacket::new(&frame[ETHERNET..]).expect("long enough");
        assert_eq!(arp.get_target_proto_addr(), VIP);
        assert_eq!(&frame[..6], &[0xff; 6], "to everybody");
    }

    #[test]
    fn a_probe_claims_no_address() {
        assert_eq!(
            read(&request(MAC.into(), Ipv4Addr::UNSPECIFIED, VIP)).map(|c| c.address),
            Some(Ipv4Addr::UNSPECIFIED)
        );
    }

    #[test]
    fn what_is_too_short_or_no_arp_for_ipv4_says_nothing() {
        let frame = request(MAC.into(), VIP, VIP);
        for length in 0..FRAME {
            assert_eq!(read(&frame[..length]), None, "{length} bytes");
        }
        let mut other = frame;
        other[12] = 0x86;
        assert_eq!(read(&other), None, "another ethertype");
        let mut other = frame;
        other[ETHERNET + 4] = 8;
        assert_eq!(read(&other), None, "hardware addresses of eight bytes");
    }
}
