//! Reading and writing a socket by shared reference, with as few system calls as there are to make.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

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
        match from.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(count) if (1..buffer.len()).contains(&count) => {
                let _ = from.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
                return Poll::Ready(Ok(count));
            }
            read => return Poll::Ready(read),
        }
    }
}

/// Writes of `bytes` what the socket takes.
pub(crate) fn poll_write(cx: &mut Context<'_>, to: &TcpStream, bytes: &[u8]) -> Poll<io::Result<usize>> {
    loop {
        ready!(to.poll_write_ready(cx))?;
        match to.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            written => return Poll::Ready(written),
        }
    }
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
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            written => return Poll::Ready(written),
        }
    }
}
