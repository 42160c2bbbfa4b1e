//! The VRRP sockets of one interface: one that hears adverts, one that sends them. They are apart so
//! that a flood into the first can't fill the buffer of the second. Both are bound to the device, so
//! no routing table decides where an advert goes or comes from.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::task::{Context, Poll};

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::kernel;
use crate::packet::{MULTICAST, PROTOCOL, TTL};

/// DSCP CS6, network control (RFC 4594 §3.2).
const CS6: u32 = 0xc0;
/// Bytes that may wait to be read: about a thousand adverts. When it is full the kernel drops, and the
/// next advert is as good as the one that was lost.
const RECEIVE_BUFFER: usize = 1 << 20;
/// The sender hears unicast adverts too, which nobody reads there: the kernel's smallest buffer.
const UNREAD_BUFFER: usize = 1;

/// Hears adverts on one interface.
#[derive(Debug)]
pub struct Receiver(AsyncFd<Socket>);

/// Sends adverts out of one interface. Needs no runtime.
#[derive(Debug)]
pub struct Sender {
    socket: Socket,
    index: u32,
}

/// One packet as it arrived, IP header first.
#[derive(Debug)]
pub enum Heard<'a> {
    /// All of it.
    Packet(&'a [u8]),
    /// Longer than any advert: it was cut, and is not looked at.
    Cut,
}

impl Receiver {
    /// Opens and binds it, and joins the VRRP group there. Must be called inside a runtime.
    ///
    /// # Errors
    /// The kernel's: EPERM without CAP_NET_RAW, ENODEV when the interface went meanwhile.
    pub fn open(interface: &str, index: u32) -> io::Result<Receiver> {
        let socket = raw(interface)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        socket.join_multicast_v4_n(&MULTICAST, &InterfaceIndexOrAddress::Index(index))?;
        Ok(Receiver(kernel::watch(socket)?))
    }

    /// Ready when a packet waits.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        // An error of the reactor shows again in the read that follows.
        self.0.poll_read_ready(cx).map(|_| ())
    }

    /// The next packet that waits, `None` if there is none.
    ///
    /// # Errors
    /// The kernel's: ENETDOWN, once, when the interface went down.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<Heard<'a>>> {
        match self.0.try_io(Interest::READABLE, |socket| kernel::receive(socket, buffer)) {
            Ok(length) => Ok(Some(buffer.get(..length).map_or(Heard::Cut, Heard::Packet))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Sender {
    /// Opens it for adverts of TTL 255 and DSCP CS6.
    ///
    /// # Errors
    /// As [`Receiver::open`].
    pub fn open(interface: &str, index: u32) -> io::Result<Sender> {
        let socket = raw(interface)?;
        socket.set_recv_buffer_size(UNREAD_BUFFER)?;
        socket.set_ttl_v4(u32::from(TTL))?;
        socket.set_multicast_ttl_v4(u32::from(TTL))?;
        socket.set_multicast_loop_v4(false)?;
        socket.set_tos_v4(CS6)?;
        Ok(Sender { socket, index })
    }

    /// Sends one message; the kernel puts the IP header before it. Never waits.
    ///
    /// # Errors
    /// The kernel's: ENETDOWN, ENETUNREACH, ENOBUFS when the device's queue is full.
    pub fn send(&self, message: &[u8], source: Ipv4Addr, destination: Ipv4Addr) -> io::Result<()> {
        let information = libc::in_pktinfo {
            // The kernel declares an index where its own calls return an unsigned one.
            ipi_ifindex: self.index as i32,
            ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(source.octets()) },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        sendmsg(
            self.socket.as_raw_fd(),
            &[IoSlice::new(message)],
            &[ControlMessage::Ipv4PacketInfo(&information)],
            MsgFlags::MSG_DONTWAIT,
            Some(&SockaddrIn::from(SocketAddrV4::new(destination, 0))),
        )?;
        Ok(())
    }
}

fn raw(interface: &str) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(i32::from(PROTOCOL))))?;
    socket.set_nonblocking(true)?;
    // Otherwise it would hear the groups that any other process joined on any interface.
    socket.set_multicast_all_v4(false)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    Ok(socket)
}
