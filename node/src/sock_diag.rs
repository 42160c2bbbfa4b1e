//! Resets the TCP connections of an address that is about to leave this node (sock_diag(7), SOCK_DESTROY).
//!
//! A connection whose local address is gone falls silent: what its socket sends finds no way out, and its client waits
//! for an answer that nobody will give. Reset in time, the client reconnects at once, to the node that has the address.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Where the socket's id lies in `struct inet_diag_msg` and in `struct inet_diag_req_v2`, behind the header.
const ID_IN_ANSWER: usize = 4;
const ID_IN_REQUEST: usize = 8;
/// Bytes of `struct inet_diag_sockid`: ports, addresses, interface, cookie.
const ID: usize = 48;
/// Where the source address lies in an id.
const SOURCE: usize = 4;
/// Message types (linux/sock_diag.h).
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// Message types and flags of any netlink family (linux/netlink.h).
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ROOT_AND_MATCH: u16 = 0x300;
/// Every state in which a peer may still wait for us, as bits (net/tcp_states.h): established, both FIN-WAITs,
/// CLOSE-WAIT, LAST-ACK, CLOSING. Listeners stay.
const LIVE: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

/// What tells one socket from all others, as the kernel gave it.
type SocketId = [u8; ID];

/// Resets every connection whose local address is one of these; says how many there were. It takes about a
/// millisecond for a thousand and waits for nobody.
///
/// # Errors
/// The kernel's: EPERM without CAP_NET_ADMIN, EOPNOTSUPP where it was built without INET_DIAG_DESTROY.
pub fn reset(addresses: &[Ipv4Addr]) -> io::Result<usize> {
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    let mut found = connections(&netlink)?;
    found.retain(|id| addresses.iter().any(|address| id[SOURCE..SOURCE + 4] == address.octets()));
    for id in &found {
        // Errors come back as messages that nobody has to read: one for a socket that ended meanwhile is no news.
        let message = request(SOCK_DESTROY, NLM_F_REQUEST, id);
        send(netlink.as_raw_fd(), &message, MsgFlags::empty())?;
    }
    match first_refusal(&netlink) {
        Some(errno @ (libc::EPERM | libc::EOPNOTSUPP)) => Err(io::Error::from_raw_os_error(errno)),
        _ => Ok(found.len()),
    }
}

/// All live IPv4 connections of this network namespace.
fn connections(netlink: &OwnedFd) -> io::Result<Vec<SocketId>> {
    let all = request(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_ROOT_AND_MATCH, &[0; ID]);
    send(netlink.as_raw_fd(), &all, MsgFlags::empty())?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        for (kind, body) in messages(&buffer[..length]) {
            match kind {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => return Err(error(body).map_or_else(truncated, io::Error::from_raw_os_error)),
                _ => {
                    let id = body.get(ID_IN_ANSWER..).and_then(|rest| rest.first_chunk::<ID>());
                    found.push(*id.ok_or_else(truncated)?);
                }
            }
        }
    }
}

/// The first error among the answers that have arrived.
fn first_refusal(netlink: &OwnedFd) -> Option<i32> {
    let mut buffer = vec![0; 64 << 10];
    let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).ok()?;
    messages(&buffer[..length]).filter(|(kind, _)| *kind == NLMSG_ERROR).find_map(|(_, body)| error(body))
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2` for TCP over IPv4.
fn request(kind: u16, flags: u16, id: &SocketId) -> Vec<u8> {
    let length = HEADER + ID_IN_REQUEST + ID;
    let mut message = Vec::with_capacity(length);
    message.extend((length as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence number and port: one question at a time needs neither.
    message.extend([0; 8]);
    message.extend([libc::AF_INET as u8, libc::IPPROTO_TCP as u8, 0, 0]);
    message.extend(LIVE.to_ne_bytes());
    message.extend(id);
    message
}

/// The messages of one read: type and what follows the header.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let &[l0, l1, l2, l3, k0, k1, ..] = bytes else { return None };
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]), body))
    })
}

/// The error number of an `NLMSG_ERROR`; `None`: it is an acknowledgement, or too short.
fn error(body: &[u8]) -> Option<i32> {
    let number = -i32::from_ne_bytes(*body.first_chunk()?);
    (number != 0).then_some(number)
}

fn truncated() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer about sockets is too short")
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
    fn answers_that_make_no_sense_are_no_messages() {
        for bytes in [&[][..], &[1; 5], &[0xff; 40], &[0; 40]] {
            assert_eq!(messages(bytes).count(), 0, "{bytes:?}");
        }
        assert_eq!(error(&[1]), None);
    }
}
