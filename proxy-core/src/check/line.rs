//! Connections of checks: sockets that serve one check after the other, and that epoll hears of only where waiting takes long.
//!
//! Ten thousand servers checked every two seconds are five thousand connections a second, and each costs what its
//! system calls cost. So a socket isn't closed after a check but disconnected, which resets the connection (and leaves nothing
//! in TIME_WAIT, as HAProxy's checks do); and who has to wait looks again once the others that began at the same moment
//! had their turn, which is long enough for a server nearby, and only then asks epoll.
#![allow(unsafe_code, reason = "epoll for a socket of our own")]

use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::mem;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::sockopt::set_tcp_quickack;
use rustix::net::{connect, connect_unspec};
use socket2::{Domain, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Looks at a socket before epoll is asked.
const LOOKS: u8 = 2;

/// Sockets without a connection, for whoever needs one next: as many as were in use at once, which the checks' turns bound.
#[derive(Debug, Default)]
pub(super) struct Sockets(Mutex<Idle>);

#[derive(Debug, Default)]
struct Idle {
    v4: Vec<Socket>,
    v6: Vec<Socket>,
}

/// Who speaks first once a connection is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// We do, or nobody does. Our half of the handshake goes with our first words (Linux delays it where
    /// `TCP_QUICKACK` is off, tcp(7)); where there are none, the connection is reset before the server's accept(2) sees it,
    /// and no server logs clients that say nothing. As HAProxy's checks.
    We,
    /// The server, and not before the handshake is over.
    They,
}

/// A connection to a server; it is reset when this is dropped.
#[derive(Debug)]
pub(super) struct Line<'a> {
    sockets: &'a Sockets,
    address: SocketAddr,
    held: Held,
    is_open: bool,
    /// Something was said, and nobody answers at once.
    spoke: bool,
    /// Before epoll is asked.
    looks: u8,
}

#[derive(Debug)]
enum Held {
    Bare(Socket),
    Watched(AsyncFd<Socket>),
    /// It could not be watched.
    Lost,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Read,
    Write,
}

impl Sockets {
    /// A connection that is begun.
    pub(super) fn begin(&self, address: SocketAddr, first: First) -> io::Result<Line<'_>> {
        let socket = self.take(address.is_ipv4())?;
        if first == First::We {
            set_tcp_quickack(&socket, false)?;
        }
        match connected(&socket, &address) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => {
                let held = Held::Bare(socket);
                Ok(Line { sockets: self, address, held, is_open: false, spoke: false, looks: LOOKS })
            }
        }
    }

    fn take(&self, is_v4: bool) -> io::Result<Socket> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Idle { v4, v6 } = &mut *idle;
        let (own, other) = if is_v4 { (v4, v6) } else { (v6, v4) };
        if let Some(socket) = own.pop() {
            return Ok(socket);
        }
        // Together they are no more than are in use at once.
        other.pop();
        drop(idle);
        let domain = if is_v4 { Domain::IPV4 } else { Domain::IPV6 };
        Socket::new(domain, Type::STREAM.nonblocking().cloexec(), None)
    }

    fn give_back(&self, socket: Socket, is_v4: bool) {
        // Resets the connection, or gives up opening it; what was received is forgotten. A socket that the kernel won't
        // disconnect is closed.
        if connect_unspec(&socket).is_ok() {
            let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if is_v4 { &mut idle.v4 } else { &mut idle.v6 }.push(socket);
        }
    }
}

/// Begins to connect, or looks how that goes: asked again, connect(2) says whether the connection is open by now, or why not.
fn connected(socket: &Socket, address: &SocketAddr) -> io::Result<()> {
    match connect(socket, address) {
        Err(Errno::ISCONN) => Ok(()),
        Err(Errno::INPROGRESS | Errno::ALREADY) => Err(ErrorKind::WouldBlock.into()),
        outcome => Ok(outcome?),
    }
}

impl Line<'_> {
    /// Whether it is open once the others that began at the same moment had their turn.
    pub(super) async fn opens_soon(&mut self) -> io::Result<bool> {
        let address = self.address;
        let looked = poll_fn(|cx| match self.look(cx, |socket| connected(socket, &address)) {
            Some(open) => open.map_ok(|()| true),
            None => Poll::Ready(Ok(false)),
        });
        self.is_open = looked.await?;
        Ok(self.is_open)
    }

    /// Ends when it is open.
    pub(super) async fn opened(&mut self) -> io::Result<()> {
        let address = self.address;
        if !self.is_open {
            poll_fn(|cx| self.poll(Side::Write, cx, |socket| connected(socket, &address))).await?;
            self.is_open = true;
        }
        Ok(())
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        let socket = match &self.held {
            Held::Bare(socket) => socket,
            Held::Watched(socket) => socket.get_ref(),
            Held::Lost => return Err(ErrorKind::NotConnected.into()),
        };
        socket.local_addr()?.as_socket().ok_or_else(|| ErrorKind::Unsupported.into())
    }

    /// `None`: that was often enough.
    fn look<T>(
        &mut self,
        cx: &mut Context<'_>,
        attempt: impl FnOnce(&Socket) -> io::Result<T>,
    ) -> Option<Poll<io::Result<T>>> {
        let Held::Bare(socket) = &self.held else { return None };
        if mem::take(&mut self.spoke) {
            cx.waker().wake_by_ref();
            return Some(Poll::Pending);
        }
        match attempt(socket) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            outcome => {
                self.looks = LOOKS;
                return Some(Poll::Ready(outcome));
            }
        }
        self.looks = self.looks.checked_sub(1)?;
        cx.waker().wake_by_ref();
        Some(Poll::Pending)
    }

    fn poll<T>(
        &mut self,
        side: Side,
        cx: &mut Context<'_>,
        mut attempt: impl FnMut(&Socket) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        if let Some(seen) = self.look(cx, &mut attempt) {
            return seen;
        }
        self.watch()?;
        let Held::Watched(socket) = &self.held else { return Poll::Ready(Err(ErrorKind::NotConnected.into())) };
        loop {
            let mut ready = ready!(match side {
                Side::Read => socket.poll_read_ready(cx),
                Side::Write => socket.poll_write_ready(cx),
            })?;
            if let Ok(outcome) = ready.try_io(|socket| attempt(socket.get_ref())) {
                return Poll::Ready(outcome);
            }
        }
    }

    /// From now on epoll says when looking is worth it.
    fn watch(&mut self) -> io::Result<()> {
        self.held = match mem::replace(&mut self.held, Held::Lost) {
            // SAFETY: the socket is open, and is the one that `AsyncFd` owns until it is dropped or taken out whole.
            Held::Bare(socket) => Held::Watched(unsafe { AsyncFd::register(socket) }?),
            other => other,
        };
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        match mem::replace(&mut self.held, Held::Lost) {
            Held::Bare(socket) => self.sockets.give_back(socket, self.address.is_ipv4()),
            Held::Watched(socket) => self.sockets.give_back(socket.into_inner(), self.address.is_ipv4()),
            Held::Lost => {}
        }
    }
}

impl AsyncRead for Line<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = self.get_mut().poll(Side::Read, cx, |mut socket| socket.read(into.initialize_unfilled()));
        read.map_ok(|read| into.advance(read))
    }
}

impl AsyncWrite for Line<'_> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let line = self.get_mut();
        let written = ready!(line.poll(Side::Write, cx, |mut socket| socket.write(bytes)));
        line.spoke = true;
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll(Side::Write, cx, |mut socket| socket.write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Nobody but TLS says goodbye in a check, and after that the connection is reset.
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    impl Sockets {
        fn idle(&self) -> [usize; 2] {
            let idle = self.0.lock().unwrap();
            [idle.v4.len(), idle.v6.len()]
        }

        async fn connect(&self, address: SocketAddr) -> io::Result<Line<'_>> {
            let mut line = self.begin(address, First::They)?;
            line.opened().await?;
            Ok(line)
        }
    }

    #[tokio::test]
    async fn one_socket_serves_one_connection_after_the_other_and_each_ends_by_a_reset() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let sockets = Sockets::default();
        for round in 0..3_u8 {
            let mut line = sockets.connect(address).await.unwrap();
            assert_eq!(sockets.idle(), [0, 0]);
            let (mut theirs, _) = server.accept().await.unwrap();
            line.write_all(&[round]).await.unwrap();
            assert_eq!(theirs.read_u8().await.unwrap(), round);
            // Nothing is there yet: this one waits for epoll.
            let said = async {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                theirs.write_all(b"yes, and more").await
            };
            let (heard, said) = tokio::join!(line.read_u8(), said);
            assert_eq!((heard.unwrap(), said.unwrap()), (b'y', ()));
            drop(line);
            assert_eq!(theirs.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
            assert_eq!(sockets.idle(), [1, 0]);
        }
    }

    #[tokio::test]
    async fn a_refused_connection_is_an_error_and_its_socket_is_used_again() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        // Bound, and nobody listens.
        let nobody = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        nobody.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let nobody = nobody.local_addr().unwrap().as_socket().unwrap();
        let sockets = Sockets::default();
        for _ in 0..3 {
            assert_eq!(sockets.connect(nobody).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
            sockets.connect(address).await.unwrap();
            assert_eq!(sockets.idle(), [1, 0]);
        }
    }

    #[tokio::test]
    async fn sockets_of_one_family_make_room_for_those_of_the_other() {
        let (v4, v6) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("[::1]:0").await.unwrap());
        let sockets = Sockets::default();
        for (server, idle) in [(&v4, [1, 0]), (&v6, [0, 1]), (&v4, [1, 0])] {
            sockets.connect(server.local_addr().unwrap()).await.unwrap();
            assert_eq!(sockets.idle(), idle);
        }
    }
}
