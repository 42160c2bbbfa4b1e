//! The probe: shows that a frame that the taker passes on reaches the leaver, before anything depends on it. A switch
//! with port security or source guard may drop just these: another's source address, from the taker's port.
//!
//! The leaver waits on a UDP port of the VIP. The taker puts a packet for it on its own `lo`, as if it had arrived, and
//! the moving rules pass it on by the same `dup` as any connection's packets; nothing of it gets into the taker.
#![allow(unsafe_code, reason = "packet sockets are bound by an address type that no safe wrapper makes")]

use std::fs::File;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::Notify;

use super::ProbeTarget;
use super::rules::PROBE_MAC;

const ETHERTYPE_IPV4: u16 = 0x0800;
const IPV4_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const UDP: u8 = 17;
const TTL: u8 = 64;

/// Waits for one probe.
#[derive(Debug)]
pub(super) struct Receiver {
    socket: UdpSocket,
    target: ProbeTarget,
    closed: Notify,
}

impl Receiver {
    /// Opens it at a free port of the VIP, with a nonce that nobody can guess. Must be called inside a runtime.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn open(vip: IpAddr) -> io::Result<Receiver> {
        let mut nonce = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut nonce)?;
        let socket = Socket::new(Domain::for_address((vip, 0).into()), Type::DGRAM, Some(Protocol::UDP))?;
        // The address may lapse for a moment without ending the hand-off.
        if vip.is_ipv4() {
            socket.set_freebind_v4(true)?
        } else {
            socket.set_freebind_v6(true)?
        }
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::new(vip, 0).into())?;
        let socket = UdpSocket::from_std(socket.into())?;
        let port = socket.local_addr()?.port();
        Ok(Receiver { socket, target: ProbeTarget { port, nonce }, closed: Notify::new() })
    }

    /// Where the probe has to go.
    pub(super) fn target(&self) -> ProbeTarget {
        self.target
    }

    /// Waits until it arrived (`true`), or until [`Receiver::close`].
    ///
    /// # Errors
    /// The kernel's.
    pub(super) async fn seen(&self) -> io::Result<bool> {
        // One byte more than it may have.
        let mut datagram = [0; 17];
        loop {
            tokio::select! {
                length = self.socket.recv(&mut datagram) => {
                    if datagram[..length?] == self.target.nonce {
                        return Ok(true);
                    }
                }
                () = self.closed.notified() => return Ok(false),
            }
        }
    }

    /// Ends the wait that is going on, or the next one.
    pub(super) fn close(&self) {
        self.closed.notify_one();
    }
}

/// Puts packets on `lo`. It is kept open: closing a packet socket waits up to 19 ms for the kernel.
#[derive(Debug)]
pub(super) struct Injector {
    socket: Socket,
    lo: SockAddr,
}

impl Injector {
    /// Opens it.
    ///
    /// # Errors
    /// The kernel's: EPERM without CAP_NET_RAW.
    pub(super) fn open() -> io::Result<Injector> {
        // Protocol 0: it hears nothing.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.set_nonblocking(true)?;
        let index = nix::net::if_::if_nametoindex("lo")?;
        let index = i32::try_from(index).map_err(io::Error::other)?;
        // SAFETY: `sockaddr_ll` is plain data that fits into `sockaddr_storage`, which is zeroed and aligned for
        // every address type; the length written is its size.
        let ((), lo) = unsafe {
            SockAddr::try_init(|storage, length| {
                let link = storage.cast::<libc::sockaddr_ll>();
                (*link).sll_family = libc::AF_PACKET as u16;
                (*link).sll_protocol = ETHERTYPE_IPV4.to_be();
                (*link).sll_ifindex = index;
                *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
                Ok(())
            })
        }?;
        Ok(Injector { socket, lo })
    }

    /// Sends one probe, which seems to come from `source`.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn send(&self, vip: Ipv4Addr, target: &ProbeTarget, source: Ipv4Addr) -> io::Result<()> {
        self.socket.send_to(&frame(vip, target, source), &self.lo).map(|_| ())
    }
}

/// Ethernet, IPv4, UDP, nonce.
fn frame(vip: Ipv4Addr, target: &ProbeTarget, source: Ipv4Addr) -> Vec<u8> {
    let udp_length = (UDP_HEADER + target.nonce.len()) as u16;
    let mut header = vec![0x45, 0];
    header.extend((IPV4_HEADER as u16 + udp_length).to_be_bytes());
    header.extend([0, 0, 0, 0, TTL, UDP, 0, 0]);
    header.extend(source.octets());
    header.extend(vip.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());

    let mut udp = Vec::new();
    // No answer is wanted: the discard port.
    udp.extend(9_u16.to_be_bytes());
    udp.extend(target.port.to_be_bytes());
    udp.extend(udp_length.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(target.nonce);
    let pseudo =
        [&source.octets()[..], &vip.octets(), &u16::from(UDP).to_be_bytes(), &udp_length.to_be_bytes(), &udp].concat();
    // A sum of 0 would say that there is none (RFC 768).
    let sum = match checksum(&pseudo) {
        0 => u16::MAX,
        sum => sum,
    };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    [&[0; 6][..], &PROBE_MAC, &ETHERTYPE_IPV4.to_be_bytes(), &header, &udp].concat()
}

/// The internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_a_whole_udp_packet_with_both_sums_right() {
        let target = ProbeTarget { port: 40_000, nonce: [7; 16] };
        let frame = frame(Ipv4Addr::new(192, 0, 2, 15), &target, Ipv4Addr::new(198, 51, 100, 7));
        assert_eq!(frame.len(), 14 + 20 + 8 + 16);
        assert_eq!(frame[6..12], PROBE_MAC);
        let (ip, udp) = frame[14..].split_at(IPV4_HEADER);
        assert_eq!(checksum(ip), 0);
        assert_eq!(checksum(&[&ip[12..20], &[0, UDP, 0, 24], udp].concat()), 0);
        assert_eq!((&udp[2..4], &udp[8..]), (&40_000_u16.to_be_bytes()[..], &[7; 16][..]));
    }

    #[tokio::test]
    async fn only_the_whole_nonce_counts_and_closing_ends_the_wait() {
        let receiver = Receiver::open("127.0.0.76".parse().unwrap()).unwrap();
        let ProbeTarget { port, nonce } = receiver.target();
        let sender = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let to = ("127.0.0.76", port);
        let mut wrong = nonce;
        wrong[15] ^= 1;
        for datagram in [&nonce[..15], &wrong, &[&nonce[..], &[0]].concat(), &[]] {
            sender.send_to(datagram, to).await.unwrap();
        }
        receiver.close();
        // Both are ready, and whichever is looked at first, nothing that was sent counts.
        assert!(!receiver.seen().await.unwrap());
        sender.send_to(&nonce, to).await.unwrap();
        assert!(receiver.seen().await.unwrap());
    }
}
