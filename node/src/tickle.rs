//! Tickle ACKs: tells the clients of connections that died with a node, without knowing anything of these but their
//! addresses and ports.
//!
//! ```text
//!   this node, which has the VIP now                       a client that waits for the dead one
//!     bare ACK, sequence made up ─────────────────────────►  outside its window
//!                         ◄─────────────── ACK, its own sequence (RFC 9293 §3.10.7.4, first)
//!     no such connection: RST, with what that ACK expects ─►  reset; it connects again
//! ```
//! A connection that lives takes no harm: whoever serves it gets one superfluous ACK. A listener takes the client's
//! ACK for the end of a handshake only while SYN cookies are in use, and if the number in it is a cookie of
//! this node's: about one in 500 million.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::handoff::Flow;

/// So many are sent at once,
const BURST: usize = 64;
/// then there is a pause of so long.
const PACE: Duration = Duration::from_millis(1);
/// What was not sent by then, because the kernel takes no more, is not sent.
const LIMIT: Duration = Duration::from_secs(10);

const IPV4_HEADER: usize = 20;
const TCP_HEADER: usize = 20;
const LENGTH: usize = IPV4_HEADER + TCP_HEADER;
const DONT_FRAGMENT: u8 = 0x40;
const TTL: u8 = 64;
const ACK: u8 = 0x10;

/// Clients could not be told.
#[derive(Debug, thiserror::Error)]
pub enum TickleError {
    /// No socket.
    #[error("cannot open a raw socket at {vip}")]
    Open {
        /// The source.
        vip: Ipv4Addr,
        /// EPERM without CAP_NET_RAW; EADDRNOTAVAIL when the VIP has gone again.
        #[source]
        source: io::Error,
    },
    /// The thread.
    #[error("the sending of tickles ended early")]
    Ended(#[source] tokio::task::JoinError),
}

/// What became of them.
#[derive(Debug, Default)]
pub struct Sent {
    /// The kernel took so many.
    pub tickled: u64,
    /// It refused so many, or there was no time for them.
    pub failed: u64,
    /// The last refusal.
    pub error: Option<io::Error>,
}

/// Sends one tickle for each of these connections to `vip`, which must be here and announced. It takes a millisecond
/// for 64 of them; the sending itself is done on another thread. Must be called inside a runtime.
///
/// # Errors
/// The kernel's, before any was sent. Later ones are counted: there may be no route to one client and a way to the next.
pub async fn tickle(vip: Ipv4Addr, flows: Vec<Flow>) -> Result<Sent, TickleError> {
    let socket = open(vip).map_err(|source| TickleError::Open { vip, source })?;
    let mut queue = Queue { socket, vip, flows, numbers: RandomState::new(), sent: Sent::default() };
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let end = Instant::now() + LIMIT;
    while !queue.flows.is_empty() && Instant::now() < end {
        pace.tick().await;
        let burst = tokio::task::spawn_blocking(move || {
            queue.burst();
            queue
        });
        queue = burst.await.map_err(TickleError::Ended)?;
    }
    queue.sent.failed += queue.flows.len() as u64;
    Ok(queue.sent)
}

/// Sends packets with headers of their own, and hears nothing. Bound, so that routes go by the VIP.
fn open(vip: Ipv4Addr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddrV4::new(vip, 0).into())?;
    Ok(socket)
}

struct Queue {
    socket: Socket,
    vip: Ipv4Addr,
    flows: Vec<Flow>,
    numbers: RandomState,
    sent: Sent,
}

impl Queue {
    /// Sends what one burst may have, or less if the kernel has no room.
    fn burst(&mut self) {
        for _ in 0..BURST {
            let Some(flow) = self.flows.last() else { return };
            match self.send(flow) {
                Ok(()) => self.sent.tickled += 1,
                // It waits for a neighbour to answer, or for the interface.
                Err(full) if full.kind() == io::ErrorKind::WouldBlock => return,
                Err(full) if full.raw_os_error() == Some(libc::ENOBUFS) => return,
                Err(error) => {
                    self.sent.failed += 1;
                    self.sent.error = Some(error);
                }
            }
            self.flows.pop();
        }
    }

    fn send(&self, flow: &Flow) -> io::Result<()> {
        let client = match flow.client {
            IpAddr::V4(client) if is_host(client) && client != self.vip => client,
            client => return Err(io::Error::other(format!("{client} is no client's address"))),
        };
        // The port has no meaning at a raw socket.
        let to = SocketAddrV4::new(client, 0).into();
        self.socket.send_to(&packet(self.vip, client, flow, self.numbers.hash_one(flow)), &to).map(|_| ())
    }
}

/// Records come from the peer: what is sent goes to one host or to none.
fn is_host(address: Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || address.is_broadcast())
}

/// IPv4 and TCP, without options or data. Sequence and acknowledgement are the halves of `made_up`.
fn packet(vip: Ipv4Addr, client: Ipv4Addr, flow: &Flow, made_up: u64) -> [u8; LENGTH] {
    let mut packet = [0; LENGTH];
    let (ip, tcp) = packet.split_at_mut(IPV4_HEADER);
    (ip[0], ip[6], ip[8], ip[9]) = (0x45, DONT_FRAGMENT, TTL, libc::IPPROTO_TCP as u8);
    ip[2..4].copy_from_slice(&(LENGTH as u16).to_be_bytes());
    ip[12..16].copy_from_slice(&vip.octets());
    ip[16..20].copy_from_slice(&client.octets());
    let sum = checksum(ip, 0);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());

    tcp[0..2].copy_from_slice(&flow.port.to_be_bytes());
    tcp[2..4].copy_from_slice(&flow.client_port.to_be_bytes());
    tcp[4..12].copy_from_slice(&made_up.to_be_bytes());
    tcp[12] = (TCP_HEADER as u8 / 4) << 4;
    tcp[13] = ACK;
    // The pseudo header (RFC 9293 §3.1): both addresses, the protocol, the length.
    let sum = checksum(&[&ip[12..20], &tcp[..]].concat(), libc::IPPROTO_TCP as u32 + TCP_HEADER as u32);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The internet checksum (RFC 1071) of an even number of bytes and what else is to be added.
fn checksum(bytes: &[u8], more: u32) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum = more + words.sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
    const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

    #[test]
    fn a_tickle_is_a_bare_ack_from_the_vip_with_both_sums_right() {
        let flow = Flow { client: CLIENT.into(), client_port: 40_001, port: 443 };
        let packet = packet(VIP, CLIENT, &flow, 0x0102_0304_fffe_fdfc);
        let (ip, tcp) = packet.split_at(IPV4_HEADER);
        assert_eq!((ip[0], u16::from_be_bytes([ip[2], ip[3]]), ip[9]), (0x45, 40, 6));
        assert_eq!((&ip[12..16], &ip[16..20]), (&VIP.octets()[..], &CLIENT.octets()[..]));
        assert_eq!(checksum(ip, 0), 0);
        assert_eq!(tcp[..4], [&443_u16.to_be_bytes()[..], &40_001_u16.to_be_bytes()].concat());
        assert_eq!(tcp[4..14], [1, 2, 3, 4, 0xff, 0xfe, 0xfd, 0xfc, 0x50, ACK]);
        let pseudo = [&ip[12..20], &[0, 6, 0, 20], tcp].concat();
        assert_eq!(checksum(&pseudo, 0), 0);
    }

    #[test]
    fn what_is_no_single_host_is_no_client() {
        let table = [("0.0.0.0", false), ("127.0.0.1", false), ("224.0.0.18", false), ("255.255.255.255", false)];
        for (address, host) in table.into_iter().chain([("10.0.0.1", true), ("203.0.113.9", true)]) {
            assert_eq!(is_host(address.parse().expect("an address")), host, "{address}");
        }
    }

    #[tokio::test]
    async fn records_that_name_no_client_are_counted_and_nothing_is_sent() {
        if !nix::unistd::Uid::effective().is_root() {
            return println!("skipped: raw sockets need root");
        }
        let here = Ipv4Addr::new(127, 0, 0, 77);
        let clients: [IpAddr; 4] =
            [here.into(), [224, 0, 0, 1].into(), [0; 4].into(), "2001:db8::1".parse().expect("an address")];
        let flows = clients.map(|client| Flow { client, client_port: 1, port: 80 });
        let sent = tickle(here, flows.to_vec()).await.expect("a socket");
        assert_eq!((sent.tickled, sent.failed), (0, 4));
        assert!(sent.error.is_some());
    }

    #[test]
    fn a_connection_that_lives_is_not_harmed() {
        if !nix::unistd::Uid::effective().is_root() {
            return println!("skipped: raw sockets need root");
        }
        let vip = Ipv4Addr::new(127, 0, 0, 78);
        let listener = TcpListener::bind((vip, 0)).expect("listen");
        let mut client = TcpStream::connect(listener.local_addr().expect("an address")).expect("connect");
        let (mut accepted, _) = listener.accept().expect("accept");
        let local = client.local_addr().expect("an address");
        let port = listener.local_addr().expect("an address").port();
        let flow = Flow { client: local.ip(), client_port: local.port(), port };
        let socket = open(vip).expect("a raw socket");
        let IpAddr::V4(to) = local.ip() else { panic!("IPv4") };
        for made_up in [0, u64::MAX, 0x8000_0000_0000_0000] {
            let packet = packet(vip, to, &flow, made_up);
            socket.send_to(&packet, &SocketAddrV4::new(to, 0).into()).expect("send");
        }
        std::io::Write::write_all(&mut client, b"x").expect("write");
        let mut byte = [0];
        accepted.read_exact(&mut byte).expect("read");
        assert_eq!(byte, *b"x");
    }
}
