//! The few requests to the kernel that no safe crate makes for us, each behind a safe function:
//! registering a descriptor with tokio, binding a packet socket to one interface, the scheduling
//! class of a thread, and locking memory as it is touched.

#![allow(unsafe_code, reason = "system calls that neither nix nor socket2 wraps safely")]

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use socket2::{SockAddr, Socket};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Ethernet protocol number of ARP.
const ETH_P_ARP: u16 = 0x0806;

/// Tells tokio to watch a socket for input. Must be called inside a runtime.
pub(super) fn watch(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: a `Socket` owns its descriptor, always returns the same one, and closes it only when it
    // is dropped; the `AsyncFd` owns the `Socket`.
    let watched = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    watched.map_err(io::Error::from)
}

/// Binds a packet socket to ARP on one interface. Until then it must have been made with protocol 0,
/// or it would already hear every interface.
pub(super) fn bind_to_arp(socket: &Socket, index: u32) -> io::Result<()> {
    let index = i32::try_from(index).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: `sockaddr_ll` is plain data that fits into `sockaddr_storage`, which is zeroed and
    // aligned for every address type; the length written is its size.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let link = storage.cast::<libc::sockaddr_ll>();
            (*link).sll_family = libc::AF_PACKET as u16;
            (*link).sll_protocol = ETH_P_ARP.to_be();
            (*link).sll_ifindex = index;
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })
    }?;
    socket.bind(&address)
}

/// Puts the calling thread into SCHED_RR; its children start in the ordinary class.
pub(super) fn round_robin(priority: i32) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: pid 0 is the calling thread; the pointer is to a live value of the type asked for.
    let result =
        unsafe { libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &raw const parameters) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Keeps every page in memory once it was touched.
pub(super) fn lock_memory() -> io::Result<()> {
    // SAFETY: takes flags only, and changes nothing that Rust knows of.
    let result = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Receives one packet without waiting. Returns its real length, which is more than the buffer's if
/// the packet was cut.
pub(super) fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
    use nix::sys::socket::{MsgFlags, recv};
    Ok(recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC)?)
}

/// Receives one datagram and its sender from a socket that does not block. One longer than the buffer is cut.
pub(super) fn receive_from(socket: &Socket, buffer: &mut [u8]) -> io::Result<(usize, Option<SocketAddr>)> {
    use nix::sys::socket::{SockaddrStorage, recvfrom};
    let (length, from) = recvfrom::<SockaddrStorage>(socket.as_raw_fd(), buffer)?;
    let from = from.and_then(|from| match (from.as_sockaddr_in(), from.as_sockaddr_in6()) {
        (Some(v4), _) => Some(SocketAddr::V4((*v4).into())),
        (None, Some(v6)) => Some(SocketAddr::V6((*v6).into())),
        (None, None) => None,
    });
    Ok((length, from))
}
