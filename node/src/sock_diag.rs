//! The TCP connections of an address, as the kernel lists them (sock_diag(7)), and their end (SOCK_DESTROY).
//!
//! A connection whose local address is gone falls silent: what its socket sends finds no way out, and its client waits
//! for an answer that nobody will give. Reset in time, the client reconnects at once, to the node that has the address.
//! A hand-off asks for the list, to tell the other node which connections stay here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use crate::netlink::{NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, error, message, messages, truncated};

/// Where the socket's id lies in `struct inet_diag_msg`, behind the header.
const ID_IN_ANSWER: usize = 4;
/// Bytes of `struct inet_diag_sockid`: ports, addresses, interface, cookie.
const ID: usize = 48;
/// Where the source and the destination address lie in an id, 16 bytes each; the two ports are before them.
const SOURCE: usize = 4;
const DESTINATION: usize = 20;
/// Message types (linux/inet_diag.h, linux/sock_diag.h). The older question has no family in it and is answered with the
/// sockets of both: the kernel walks through its table of all connections once, and that is what takes the time.
const TCPDIAG_GETSOCK: u16 = 18;
const SOCK_DESTROY: u16 = 21;
/// A filter that the kernel applies before it answers (linux/inet_diag.h): the attribute, and its one operation.
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_BC_S_COND: u8 = 7;
/// Every state in which a peer may still wait for us, as bits (net/tcp_states.h): established, both FIN-WAITs,
/// CLOSE-WAIT, LAST-ACK, CLOSING. Listeners stay.
const LIVE: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
/// Half open, as the kernel's interface and as its tables have it: SYN-RECV and NEW-SYN-RECV.
const HALF_OPEN: u32 = 1 << 3 | 1 << 12;

/// One connection: this end and the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The address and port here.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
}

/// What [`lasting`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// They.
    pub connections: Vec<Connection>,
    /// There are others.
    pub more: bool,
}

/// What tells one socket from all others, as the kernel gave it.
#[derive(Clone, Copy, Debug)]
struct SocketId {
    /// AF_INET, or AF_INET6: then the addresses may be IPv4 ones in IPv6 form.
    family: u8,
    bytes: [u8; ID],
}

/// The connections whose local address is this one, half open ones too; for an IPv4 address also those that an IPv6
/// socket accepted. It takes some milliseconds for ten thousand.
///
/// # Errors
/// The kernel's.
pub fn connections(address: IpAddr) -> io::Result<Vec<Connection>> {
    let found = list(&open()?, address, LIVE | HALF_OPEN, usize::MAX)?;
    Ok(found.iter().map(SocketId::connection).collect())
}

/// As [`connections`], without those that are half open, and this many at most. The kernel lists them in the same order
/// each time, so of too many it is about the same ones.
///
/// # Errors
/// The kernel's.
pub fn lasting(address: IpAddr, most: usize) -> io::Result<Listed> {
    // One more than wanted shows that there are more.
    let mut found = list(&open()?, address, LIVE, most.saturating_add(1))?;
    let more = found.len() > most;
    found.truncate(most);
    Ok(Listed { connections: found.iter().map(SocketId::connection).collect(), more })
}

/// Resets every connection whose local address is one of these; says how many there were. It takes about a
/// millisecond for a thousand and waits for nobody.
///
/// # Errors
/// The kernel's: EPERM without CAP_NET_ADMIN, EOPNOTSUPP where it was built without INET_DIAG_DESTROY.
pub fn reset(addresses: &[Ipv4Addr]) -> io::Result<usize> {
    addresses.iter().map(|&address| reset_one(address.into())).sum()
}

/// As [`reset`], for one address of either family.
///
/// # Errors
/// As there.
pub fn reset_one(address: IpAddr) -> io::Result<usize> {
    let netlink = open()?;
    let found = list(&netlink, address, LIVE, usize::MAX)?;
    for id in &found {
        // Errors come back as messages that nobody has to read: one for a socket that ended meanwhile is no news.
        let message = destroy(id);
        send(netlink.as_raw_fd(), &message, MsgFlags::empty())?;
    }
    match first_refusal(&netlink) {
        Some(errno @ (libc::EPERM | libc::EOPNOTSUPP)) => Err(io::Error::from_raw_os_error(errno)),
        _ => Ok(found.len()),
    }
}

fn open() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?)
}

/// The sockets of this network namespace with that local address in one of those states. Once there are `most`, or a few
/// more, it stops, and the socket is of no more use.
fn list(netlink: &OwnedFd, address: IpAddr, states: u32, most: usize) -> io::Result<Vec<SocketId>> {
    send(netlink.as_raw_fd(), &question(address, states), MsgFlags::empty())?;
    let mut found = Vec::new();
    answers(netlink, &mut found, most)?;
    Ok(found)
}

fn answers(netlink: &OwnedFd, found: &mut Vec<SocketId>, most: usize) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    while found.len() < most {
        let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        for (kind, body) in messages(&buffer[..length]) {
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => return Err(error(body).map_or_else(truncated, io::Error::from_raw_os_error)),
                _ => {
                    let id =
                        body.get(ID_IN_ANSWER..).and_then(|rest| rest.first_chunk::<ID>()).ok_or_else(truncated)?;
                    found.push(SocketId { family: body[0], bytes: *id });
                }
            }
        }
    }
    Ok(())
}

impl SocketId {
    fn connection(&self) -> Connection {
        Connection { local: self.end(SOURCE, 0), remote: self.end(DESTINATION, 2) }
    }

    fn end(&self, address: usize, port: usize) -> SocketAddr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&self.bytes[address..address + 16]);
        let address = match octets {
            [a, b, c, d, ..] if i32::from(self.family) == libc::AF_INET => Ipv4Addr::new(a, b, c, d).into(),
            octets => Ipv6Addr::from(octets).to_canonical(),
        };
        SocketAddr::new(address, u16::from_be_bytes([self.bytes[port], self.bytes[port + 1]]))
    }
}

/// The first error among the answers that have arrived.
fn first_refusal(netlink: &OwnedFd) -> Option<i32> {
    let mut buffer = vec![0; 64 << 10];
    let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).ok()?;
    messages(&buffer[..length]).filter(|(kind, _)| *kind == NLMSG_ERROR).find_map(|(_, body)| error(body))
}

/// `struct inet_diag_req`, and the filter: every TCP socket in these states with this local address.
fn question(address: IpAddr, states: u32) -> Vec<u8> {
    let mut body = vec![0; 4 + ID];
    body.extend(states.to_ne_bytes());
    // Of which tables: not looked at.
    body.extend([0; 4]);
    body.extend(local_address(address));
    message(TCPDIAG_GETSOCK, NLM_F_REQUEST | NLM_F_DUMP, &body)
}

/// `struct inet_diag_req_v2` for one TCP socket.
fn destroy(id: &SocketId) -> Vec<u8> {
    let mut body = Vec::with_capacity(8 + ID);
    body.extend([id.family, libc::IPPROTO_TCP as u8, 0, 0]);
    body.extend(LIVE.to_ne_bytes());
    body.extend(id.bytes);
    message(SOCK_DESTROY, NLM_F_REQUEST, &body)
}

/// The attribute that lets pass what has this local address: one operation, with a `struct inet_diag_hostcond`.
fn local_address(address: IpAddr) -> Vec<u8> {
    let (family, octets) = match address {
        IpAddr::V4(address) => (libc::AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6, address.octets().to_vec()),
    };
    let operation = 12 + octets.len();
    let mut attribute = Vec::with_capacity(4 + operation);
    attribute.extend((4 + operation as u16).to_ne_bytes());
    attribute.extend(INET_DIAG_REQ_BYTECODE.to_ne_bytes());
    // Where to go on: at the end, which accepts, or behind it, which rejects.
    attribute.extend([INET_DIAG_BC_S_COND, operation as u8]);
    attribute.extend((operation as u16 + 4).to_ne_bytes());
    attribute.extend([family as u8, 8 * octets.len() as u8, 0, 0]);
    // Any port.
    attribute.extend((-1_i32).to_ne_bytes());
    attribute.extend(octets);
    attribute
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn connections_of_the_address_are_reset_and_no_others() {
        if !nix::unistd::Uid::effective().is_root() {
            return println!("skipped: resetting connections needs root");
        }
        let pair = |address: &str| {
            let listener = TcpListener::bind((address, 0)).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            (listener, client, accepted)
        };
        let (leaving, mut waits, _accepted) = pair("127.0.0.71");
        let mut in_queue = TcpStream::connect(leaving.local_addr().unwrap()).unwrap();
        let (_stays, mut other, _other_accepted) = pair("127.0.0.72");
        assert_eq!(reset(&["127.0.0.71".parse().unwrap()]).unwrap(), 2);
        assert_eq!(waits.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(in_queue.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        other.set_nonblocking(true).unwrap();
        assert_eq!(other.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        TcpStream::connect(leaving.local_addr().unwrap()).expect("the listener stays");
    }

    #[test]
    fn the_connections_of_an_address_are_listed_in_either_family_and_no_others() {
        for (address, other) in [("127.0.0.73", "127.0.0.74"), ("::1", "127.0.0.74")] {
            let listener = TcpListener::bind((address, 0)).unwrap();
            let elsewhere = TcpListener::bind((other, 0)).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let _other = TcpStream::connect(elsewhere.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            let mut listed = connections(address.parse().unwrap()).unwrap();
            // `::1` is both ends of its connection, and other tests may use it.
            listed.retain(|connection| connection.local == accepted.local_addr().unwrap());
            let expected = Connection { local: accepted.local_addr().unwrap(), remote: client.local_addr().unwrap() };
            assert_eq!(listed, [expected]);
        }
    }

    #[test]
    fn of_too_many_connections_so_many_as_wanted_are_listed() {
        let listener = TcpListener::bind("127.0.0.79:0").unwrap();
        let to = listener.local_addr().unwrap();
        let _clients = [(); 3].map(|()| TcpStream::connect(to).unwrap());
        for (most, listed, more) in [(0, 0, true), (2, 2, true), (3, 3, false), (usize::MAX, 3, false)] {
            let found = lasting(to.ip(), most).unwrap();
            assert_eq!((found.connections.len(), found.more), (listed, more), "{most} at most");
        }
    }

    #[test]
    fn a_connection_that_an_ipv6_socket_accepted_from_ipv4_is_listed_as_what_it_is() {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let to = (Ipv4Addr::new(127, 0, 0, 75), listener.local_addr().unwrap().port());
        let client = TcpStream::connect(to).unwrap();
        let accepted = listener.accept().unwrap();
        let expected = Connection { local: to.into(), remote: client.local_addr().unwrap() };
        assert_eq!(connections(to.0.into()).unwrap(), [expected], "{accepted:?}");
    }
}
