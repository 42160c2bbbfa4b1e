//! What a worker's accept loop takes work from: listening sockets that the agent bound, and the agent's probe.
//!
//! The agent keeps copies of every socket, so dropping one here never closes the accept queue behind it. It may also
//! shut one for a moment and open it again, to reset who waits there (docs/failover.md).
#![allow(unsafe_code, reason = "tokio must be promised that a watched descriptor stays what it is")]

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Sleep, sleep};

/// After which a listener that was found shut is looked at again.
const SHUT: Duration = Duration::from_millis(5);

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
    Clients(Door),
    /// The agent, who asks by writing a byte whether this loop still turns.
    Probe(UnixStream),
}

/// A listening socket. One that was shut reports "closed for reading", and tokio would remember that for ever and
/// poll it without end: it is forgotten, left alone for a moment, and watched anew.
#[derive(Debug)]
pub(crate) enum Door {
    Open(AsyncFd<StdTcpListener>),
    Shut(StdTcpListener, Pin<Box<Sleep>>),
    /// Between the two, for the length of one call.
    Moving,
}

impl Door {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Arrival>> {
        loop {
            match self {
                Door::Open(listener) => {
                    let mut ready = ready!(listener.poll_read_ready(cx))?;
                    let closed = ready.ready().is_read_closed();
                    match listener.get_ref().accept() {
                        Ok((stream, peer)) => {
                            stream.set_nonblocking(true)?;
                            return Poll::Ready(Ok(Arrival::Client(TcpStream::from_std(stream)?, peer)));
                        }
                        Err(error) if closed || error.kind() == io::ErrorKind::InvalidInput => {
                            let Door::Open(listener) = std::mem::replace(self, Door::Moving) else { continue };
                            *self = Door::Shut(listener.into_inner(), Box::pin(sleep(SHUT)));
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                        Err(error) => return Poll::Ready(Err(error)),
                    }
                }
                Door::Shut(_, rest) => {
                    ready!(rest.as_mut().poll(cx));
                    let Door::Shut(listener, _) = std::mem::replace(self, Door::Moving) else { continue };
                    *self = Door::Open(watch(listener)?);
                }
                Door::Moving => return Poll::Ready(Ok(Arrival::Closed)),
            }
        }
    }
}

/// Has tokio watch a listening socket for clients.
fn watch(socket: StdTcpListener) -> io::Result<AsyncFd<StdTcpListener>> {
    // SAFETY: a `TcpListener` owns its descriptor, always returns the same one, and closes it only when it is dropped;
    // the `AsyncFd` owns the `TcpListener`.
    unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }.map_err(io::Error::from)
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
        Ok(Source::Clients(Door::Open(watch(socket)?)))
    }

    /// Takes a probe into this thread's runtime.
    pub(crate) fn probe(socket: StdUnixStream) -> io::Result<Source> {
        socket.set_nonblocking(true)?;
        Ok(Source::Probe(UnixStream::from_std(socket)?))
    }

    /// The next arrival.
    pub(crate) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Arrival>> {
        match self {
            Source::Clients(door) => door.poll_accept(cx),
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

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, TcpStream as StdTcpStream};
    use std::os::fd::AsRawFd;

    use super::*;

    /// What the agent does to its copy of the socket.
    fn shut(listener: &StdTcpListener) {
        nix::sys::socket::shutdown(listener.as_raw_fd(), nix::sys::socket::Shutdown::Read).unwrap();
    }

    fn open(listener: &StdTcpListener) {
        nix::sys::socket::listen(listener, nix::sys::socket::Backlog::new(16).unwrap()).unwrap();
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_listener_that_was_shut_accepts_again_and_is_not_polled_without_end() {
        // A port that was asked for by number stays the socket's while it is shut.
        let address = StdTcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let agents = StdTcpListener::bind(address).unwrap();
        let mut source = Source::clients(agents.try_clone().unwrap()).unwrap();
        for _ in 0..3 {
            shut(&agents);
            let mut polls = 0;
            let shut_for = sleep(Duration::from_millis(100));
            tokio::select! {
                biased;
                _ = std::future::poll_fn(|cx| { polls += 1; source.poll_accept(cx) }) => panic!("nobody called"),
                () = shut_for => {}
            }
            assert!(polls < 200, "{polls} polls in 100 ms");
            open(&agents);
            let client = StdTcpStream::connect(address).unwrap();
            let arrival =
                tokio::time::timeout(Duration::from_secs(5), std::future::poll_fn(|cx| source.poll_accept(cx)));
            assert!(matches!(arrival.await, Ok(Ok(Arrival::Client(..)))));
            client.shutdown(Shutdown::Both).ok();
        }
    }
}
