//! Connections to one server that speaks HTTP/2, as one worker keeps them: each carries many requests at once.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::Ping;
use h2::client::{self, SendRequest};
use socket2::SockRef;
use tokio::sync::Semaphore;
use tracing::debug;

use super::failed;
use super::io::Io;
use super::server_stream::ServerStream;
use crate::http::pool::Counted;
use crate::route::Desk;
use crate::stream::Stream;
use crate::worker;

/// Streams of one connection at once, however many its server allows: more are better off in a second one.
const STREAMS: usize = 100;
/// Bytes that a server may send of one answer, and of all, before they are read.
const WINDOWS: (u32, u32) = (256 * 1024, 4 * 1024 * 1024);
/// Bytes of a head's fields, as RFC 9113 §6.5.2 counts them; what is longer than a head may be is refused by the engine.
const FIELDS: u32 = 64 * 1024;
/// Bytes of a request that h2 may hold back for a server whose window is open.
const UNSENT: usize = 64 * 1024;
/// A server from which nothing is heard for so long, not even that a packet arrived, is gone: without it, requests would
/// follow each other into a dead connection.
const UNHEARD: Duration = Duration::from_secs(10);

/// One connection.
#[derive(Debug)]
pub(crate) struct Line {
    send: SendRequest<Bytes>,
    /// Requests that are under way.
    pub(super) streams: Cell<usize>,
    /// The sweep at which it was last used.
    used: Cell<u32>,
    /// The scheme of its requests.
    pub(super) secure: bool,
    pub(super) carrier: Rc<Stream>,
    _counted: Counted,
}

/// The connections to one server.
#[derive(Debug)]
pub(crate) struct Lines {
    open: RefCell<Vec<Rc<Line>>>,
    /// One is opened at a time: who comes meanwhile will find room in it.
    opening: Semaphore,
    closed: Cell<bool>,
}

impl Default for Lines {
    fn default() -> Lines {
        Lines { open: RefCell::default(), opening: Semaphore::new(1), closed: Cell::new(false) }
    }
}

impl Line {
    /// Whether another request may go; an error: the connection is over, or ends.
    fn has_room(&self) -> Result<bool, h2::Error> {
        let ready = self.send.clone().poll_ready(&mut Context::from_waker(Waker::noop()))?;
        let most = self.send.current_max_send_streams().min(STREAMS);
        Ok(ready.is_ready() && self.streams.get() < most)
    }

    pub(super) fn send(&self) -> SendRequest<Bytes> {
        self.send.clone()
    }
}

impl Lines {
    /// A stream in a connection that there is, or in a new one over what `connect` brings.
    pub(crate) async fn stream(
        &self,
        desk: &Rc<Desk>,
        connect: impl Future<Output = io::Result<Stream>>,
    ) -> io::Result<ServerStream> {
        if let Some(stream) = self.lend(desk) {
            return Ok(stream);
        }
        let _turn = self.opening.acquire().await.expect("the semaphore is never closed");
        if let Some(stream) = self.lend(desk) {
            return Ok(stream);
        }
        let line = open(desk, connect.await?).await?;
        if !self.closed.get() {
            self.open.borrow_mut().push(Rc::clone(&line));
        }
        Ok(ServerStream::new(line, desk))
    }

    fn lend(&self, desk: &Rc<Desk>) -> Option<ServerStream> {
        let mut open = self.open.borrow_mut();
        open.retain(|line| line.has_room().is_ok());
        let line = open.iter().find(|line| line.has_room().is_ok_and(|room| room))?;
        line.used.set(desk.sweeps.get());
        Some(ServerStream::new(Rc::clone(line), desk))
    }

    /// Connections without a request under way.
    pub(crate) fn idle(&self) -> usize {
        self.open.borrow().iter().filter(|line| line.streams.get() == 0).count()
    }

    /// Closes what was not used for `longest` sweeps.
    pub(crate) fn sweep(&self, sweeps: u32, longest: u32) {
        let fresh = |line: &Line| line.streams.get() > 0 || sweeps.wrapping_sub(line.used.get()) < longest;
        self.open.borrow_mut().retain(|line| fresh(line) && line.has_room().is_ok());
    }

    /// No new request goes over these connections; each ends with its last one.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.open.borrow_mut().clear();
    }
}

/// Shakes hands; a task of its own carries the connection to its end.
async fn open(desk: &Rc<Desk>, stream: Stream) -> io::Result<Rc<Line>> {
    let agreed = stream.agreed_on(b"h2");
    if agreed == Some(false) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the server did not agree to speak HTTP/2 (ALPN h2)"));
    }
    // Should the kernel not know it, requests have their own time limits.
    let _ = SockRef::from(stream.socket()).set_tcp_user_timeout(Some(UNHEARD));
    let mut builder = client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_header_list_size(FIELDS)
        .max_send_buffer_size(UNSENT);
    let carrier = Rc::new(stream);
    let (send, mut connection) = builder.handshake(Io::unmetered(Rc::clone(&carrier))).await.map_err(failed)?;
    let line = Rc::new(Line {
        send,
        streams: Cell::new(0),
        used: Cell::new(desk.sweeps.get()),
        secure: agreed.is_some(),
        carrier: Rc::clone(&carrier),
        _counted: Counted::new(desk),
    });
    let mut pings = connection.ping_pong().expect("nobody else has asked for it");
    worker::start_part(
        desk,
        Box::pin(async move {
            if let Err(error) = connection.await {
                debug!(%error, "a connection to a server ended");
            }
        }),
    );
    // What the server allows comes before its answer to this; one that speaks something else answers nothing.
    pings.ping(Ping::opaque()).await.map_err(failed)?;
    Ok(line)
}
