//! Reading and writing a socket by shared reference, with as few system calls as there are to make.
//!
//! They are made without the C library, whose reads and writes are points at which a thread can be cancelled: keeping
//! track of that costs each of them two atomic operations.

use std::io::{self, ErrorKind, IoSlice};
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// What a window is filled from.
pub(crate) trait Source {
    /// Reads into `buffer`: how much, 0 at the end.
    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>>;
}

impl Source for TcpStream {
    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        poll_read(cx, self, buffer)
    }
}

/// Reads into `buffer`: how much, 0 at the end of the stream.
///
/// Less than what fits was all that there was: the socket is then taken as empty without asking the kernel again.
/// What comes later is a new edge to epoll, so nothing is missed.
pub(crate) fn poll_read(cx: &mut Context<'_>, from: &TcpStream, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
    loop {
        ready!(from.poll_read_ready(cx))?;
        let mut count = 0;
        let more = from.try_io(Interest::READABLE, || {
            (_, count) = recv(from, &mut *buffer, RecvFlags::empty())?;
            whole(count, buffer.len())
        });
        match more {
            Err(error) if error.kind() == ErrorKind::WouldBlock && count == 0 => {}
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
            _ => return Poll::Ready(Ok(count)),
        }
    }
}

/// Writes of `bytes` what the socket takes. When that isn't all, it is full until a new edge says otherwise.
pub(crate) fn poll_write(cx: &mut Context<'_>, to: &TcpStream, bytes: &[u8]) -> Poll<io::Result<usize>> {
    loop {
        let mut count = 0;
        let more = to.try_io(Interest::WRITABLE, || {
            count = send(to, bytes, SendFlags::NOSIGNAL)?;
            whole(count, bytes.len())
        });
        match more {
            Err(error) if error.kind() == ErrorKind::WouldBlock && count == 0 => ready!(to.poll_write_ready(cx))?,
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
            _ => return Poll::Ready(Ok(count)),
        }
    }
}

/// Tells tokio that there is no more where only a part could be had.
fn whole(count: usize, wanted: usize) -> io::Result<()> {
    if (1..wanted).contains(&count) { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
}

/// Writes of `parts` what the socket takes.
pub(crate) fn poll_write_vectored(
    cx: &mut Context<'_>,
    to: &TcpStream,
    parts: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    loop {
        ready!(to.poll_write_ready(cx))?;
        match to.try_write_vectored(parts) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            written => return Poll::Ready(written),
        }
    }
}
