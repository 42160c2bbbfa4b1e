//! What a worker's accept loop takes work from: listening sockets that the agent bound, and the agent's probe.
//!
//! The agent keeps copies of every socket, so dropping one here never closes the accept queue behind it.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::task::{Context, Poll, ready};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// Which listening socket: a bind of the plan, and the worker that accepts from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ListenerKey {
    /// As in [`crate::plan::Frontend::binds`]: how the frontend is found.
    pub address: SocketAddr,
    /// From 0; each worker has a `SO_REUSEPORT` socket of its own.
    pub worker: u16,
}

/// A bound and listening TCP socket.
#[derive(Debug)]
pub struct Listener {
    /// What it is for.
    pub key: ListenerKey,
    /// Blocking or not: the worker sets it non-blocking.
    pub socket: StdTcpListener,
}

impl Listener {
    /// The listener behind a descriptor that came from the agent.
    pub fn from_fd(key: ListenerKey, fd: OwnedFd) -> Listener {
        Listener { key, socket: StdTcpListener::from(fd) }
    }
}

/// Anything that the accept loop waits for.
#[derive(Debug)]
pub(crate) enum Source {
    /// Clients.
    Clients(TcpListener),
    /// The agent, who asks by writing a byte whether this loop still turns.
    Probe(UnixStream),
}

/// What came out of a [`Source`].
#[derive(Debug)]
pub(crate) enum Arrival {
    /// A client and where it came from.
    Client(TcpStream, SocketAddr),
    /// The probe was answered.
    Answered,
    /// The other end of the probe is gone for good.
    Closed,
}

impl Source {
    /// Takes a listening socket into this thread's runtime.
    pub(crate) fn clients(socket: StdTcpListener) -> io::Result<Source> {
        socket.set_nonblocking(true)?;
        Ok(Source::Clients(TcpListener::from_std(socket)?))
    }

    /// Takes a probe into this thread's runtime.
    pub(crate) fn probe(socket: StdUnixStream) -> io::Result<Source> {
        socket.set_nonblocking(true)?;
        Ok(Source::Probe(UnixStream::from_std(socket)?))
    }

    /// The next arrival.
    pub(crate) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Arrival>> {
        match self {
            Source::Clients(listener) => {
                listener.poll_accept(cx).map_ok(|(stream, peer)| Arrival::Client(stream, peer))
            }
            Source::Probe(stream) => {
                let mut bytes = [0; 64];
                let mut asked = ReadBuf::new(&mut bytes);
                ready!(std::pin::Pin::new(&mut *stream).poll_read(cx, &mut asked))?;
                if asked.filled().is_empty() {
                    return Poll::Ready(Ok(Arrival::Closed));
                }
                // An agent that never reads its answers has no use for more of them: a full socket drops them.
                match stream.try_write(asked.filled()) {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => Poll::Ready(Err(error)),
                    _ => Poll::Ready(Ok(Arrival::Answered)),
                }
            }
        }
    }
}
