//! A connection as the engine sees it: bytes in the clear, whatever carries them.
//!
//! All of it works by shared reference, because both directions of a session are one task's. What was written has gone
//! only after [`Stream::poll_flush`]: TLS keeps what the socket didn't take.

pub(crate) mod tls;

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::http2::server_stream::ServerStream;
use crate::http2::stream::H2Stream;
use crate::tcp::stream as clear;
use crate::tls::Facts;
use tls::TlsStream;

/// One connection.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream>),
    /// One of many in a connection of HTTP/2, as if it were one of HTTP/1.1 itself.
    H2(Box<H2Stream>),
    /// The same, of a connection to a server.
    H2Server(Box<ServerStream>),
}

impl clear::Source for Stream {
    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(stream) => clear::poll_read(cx, stream, buffer),
            Stream::Tls(stream) => stream.poll_read(cx, buffer),
            Stream::H2(stream) => stream.poll_read(cx, buffer),
            Stream::H2Server(stream) => stream.poll_read(cx, buffer),
        }
    }
}

impl Stream {
    /// Takes of `bytes` what there is room for.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(stream) => clear::poll_write(cx, stream, bytes),
            Stream::Tls(stream) => stream.poll_write(cx, &[IoSlice::new(bytes)]),
            Stream::H2(stream) => stream.poll_write(cx, &[IoSlice::new(bytes)]),
            Stream::H2Server(stream) => stream.poll_write(cx, &[IoSlice::new(bytes)]),
        }
    }

    /// Takes of `parts`, in their order, what there is room for.
    pub(crate) fn poll_write_vectored(&self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(stream) => clear::poll_write_vectored(cx, stream, parts),
            Stream::Tls(stream) => stream.poll_write(cx, parts),
            Stream::H2(stream) => stream.poll_write(cx, parts),
            Stream::H2Server(stream) => stream.poll_write(cx, parts),
        }
    }

    /// Ready when the socket has taken everything that was written.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(_) => Poll::Ready(Ok(())),
            Stream::Tls(stream) => stream.poll_flush(cx),
            // What the other side's window took is as good as said: h2 holds little of it back.
            Stream::H2(_) | Stream::H2Server(_) => Poll::Ready(Ok(())),
        }
    }

    /// Ends what we say, after everything that was written.
    pub(crate) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(_) => {}
            Stream::Tls(stream) => ready!(stream.poll_close(cx))?,
            Stream::H2(stream) => return Poll::Ready(stream.shutdown()),
            Stream::H2Server(stream) => return Poll::Ready(stream.shutdown()),
        }
        Poll::Ready(SockRef::from(self.socket()).shutdown(Shutdown::Write))
    }

    /// Whether there is something to read: `false` at the end of what the other side says. Nothing is taken.
    pub(crate) fn poll_peek(&self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        match self {
            Stream::Tcp(stream) => stream.poll_peek(cx, &mut ReadBuf::new(&mut [0])).map_ok(|count| count > 0),
            Stream::Tls(stream) => stream.poll_peek(cx),
            Stream::H2(stream) => stream.poll_peek(cx),
            Stream::H2Server(stream) => stream.poll_peek(cx),
        }
    }

    /// Whether nothing has come: neither bytes, nor an end, nor a reset.
    pub(crate) fn is_quiet(&self) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        match self {
            Stream::Tcp(stream) => match stream.poll_read_ready(cx) {
                Poll::Pending => true,
                // It may be the memory of bytes long since read: only the kernel knows.
                Poll::Ready(Ok(())) => {
                    matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
                }
                Poll::Ready(Err(_)) => false,
            },
            Stream::Tls(stream) => stream.poll_peek(cx).is_pending(),
            Stream::H2(stream) => stream.poll_peek(cx).is_pending(),
            Stream::H2Server(stream) => stream.poll_peek(cx).is_pending(),
        }
    }

    /// Whether an end of stream is one that the other side meant: over TLS, anybody on the way can cut a connection,
    /// but only the other side can say that it has ended (RFC 8446 §6.1).
    pub(crate) fn ended_soundly(&self) -> bool {
        match self {
            // A stream of HTTP/2 has ended only when the other side has said so.
            Stream::Tcp(_) | Stream::H2(_) | Stream::H2Server(_) => true,
            Stream::Tls(stream) => stream.was_notified(),
        }
    }

    /// Closing it from now on sends a reset, and discards what is unsent.
    pub(crate) fn reset_on_close(&self) {
        match self {
            Stream::Tcp(_) => {}
            Stream::Tls(stream) => stream.say_no_more(),
            // The others of its connection go on.
            Stream::H2(stream) => return stream.reset_on_close(),
            // It is reset whenever it isn't over.
            Stream::H2Server(_) => return,
        }
        reset_on_close(self.socket());
    }

    /// Ends when nobody is left to be served: a reset, or an end of stream before anything was said.
    ///
    /// An end of stream after some bytes may be a client that has said all and waits for its answer. It can't be told
    /// from one that closed, so it keeps its turn (HAProxy without `abortonclose`).
    pub(crate) async fn leaves(&self) {
        if let Ok(true) = poll_fn(|cx| self.poll_peek(cx)).await {
            self.resets().await;
        }
    }

    /// Ends when the connection is reset.
    pub(crate) async fn resets(&self) {
        match self {
            Stream::H2(stream) => drop(poll_fn(|cx| stream.poll_reset(cx)).await),
            Stream::H2Server(stream) => drop(poll_fn(|cx| stream.poll_reset(cx)).await),
            // Should the wait itself fail, it is as good as that.
            _ => drop(self.socket().ready(Interest::ERROR).await),
        }
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket().local_addr()
    }

    /// What is known of a client's TLS.
    pub(crate) fn facts(&self) -> Option<&Facts> {
        match self {
            Stream::Tcp(_) | Stream::H2Server(_) => None,
            Stream::Tls(stream) => stream.facts(),
            Stream::H2(stream) => stream.carrier().facts(),
        }
    }

    /// The socket, if the bytes are on it as they are.
    pub(crate) fn clear(&self) -> Option<&TcpStream> {
        match self {
            Stream::Tcp(stream) => Some(stream),
            Stream::Tls(_) | Stream::H2(_) | Stream::H2Server(_) => None,
        }
    }

    /// Whether it is one of many in a connection that goes on without it.
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self, Stream::H2(_) | Stream::H2Server(_))
    }

    /// Whether the server said, in HTTP/2, that it has done nothing with the request and won't.
    pub(crate) fn was_refused(&self) -> bool {
        matches!(self, Stream::H2Server(stream) if stream.was_refused())
    }

    /// The protocol that was agreed on with a server (RFC 7301); `None`: in the clear there is nothing to agree on.
    pub(crate) fn agreed_on(&self, protocol: &[u8]) -> Option<bool> {
        match self {
            Stream::Tls(stream) => Some(stream.agreed_on(protocol)),
            _ => None,
        }
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Stream::Tcp(stream) => stream,
            Stream::Tls(stream) => stream.socket(),
            Stream::H2(stream) => stream.carrier().socket(),
            Stream::H2Server(stream) => stream.carrier().socket(),
        }
    }
}

/// Closing this socket sends a reset, and discards what is unsent.
pub(crate) fn reset_on_close(socket: &TcpStream) {
    // On a socket that is already dead there is nobody left to tell.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}
