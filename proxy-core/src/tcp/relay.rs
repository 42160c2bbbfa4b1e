//! Carries bytes between a client and a server until both directions have ended.
//!
//! Each direction ends by itself: an end of stream on one side becomes a shutdown on the other, after the bytes
//! before it. A reset on either side becomes a reset on the other. The session ends when nothing has moved in
//! either direction for the idle time (as HAProxy ends a session when either side's timeout expires: the shorter
//! of the two counts, and bytes either way touch both sides).
//!
//! Bytes are copied, until so many come at once, in the clear from side to side, that it pays to leave them in the kernel.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::buffers::SIZE;
use super::pipe::Pipe;
use super::window::Window;
use crate::alarm::Alarm;
use crate::cut::Cut;
use crate::route::Desk;
use crate::stats::Counter;
use crate::stream::Stream;

/// Full windows in a row after which a direction is spliced.
const STREAM: u8 = 4;
/// Bytes that are taken into a pipe at once.
const SPLICED: usize = 1024 * 1024;
/// Fewer at once are copied again: two system calls more cost as much as that.
const FEW: usize = 16 * 1024;

/// How a session's relay ended.
#[derive(Debug)]
pub(crate) enum End {
    /// Both sides had said all.
    Finished,
    /// Nothing moved for the idle time.
    Idle,
    /// The client reset the connection, or could not be written to; so the server's was reset.
    Client,
    /// The server did, and so the client's was reset.
    Server,
    /// The server went down, and so both were reset.
    Down,
}

/// Whose fault it is that a direction can't go on.
#[derive(Debug)]
enum Broken {
    Read,
    Write,
}

/// Where the bytes of one direction are counted.
pub(crate) type Tally<'a> = &'a [&'a Counter];

/// Both sockets; they are reset, not closed, when dropped before the relay finished.
#[derive(Debug)]
pub(crate) struct Relay<'a> {
    client: &'a Stream,
    server: &'a Stream,
    desk: &'a Desk,
    to_server: Direction,
    to_client: Direction,
    finished: bool,
}

impl<'a> Relay<'a> {
    pub(crate) fn new(client: &'a Stream, server: &'a Stream, desk: &'a Desk) -> Relay<'a> {
        let (to_server, to_client) = Default::default();
        Relay { client, server, desk, to_server, to_client, finished: false }
    }

    /// What was read from either side before, and goes on first.
    pub(crate) fn with(mut self, from_client: Window, from_server: Window) -> Relay<'a> {
        (self.to_server.window, self.to_client.window) = (from_client, from_server);
        self
    }

    /// Runs to the end, or until it is cut; `up` counts bytes from the client, `down` bytes to it. How it ended, and how much went to the
    /// client.
    pub(crate) async fn run(mut self, idle: Duration, up: Tally<'_>, down: Tally<'_>, mut cut: Cut<'_>) -> (End, u64) {
        let mut last = coarse_now();
        let mut alarm = Alarm::new(Instant::now() + idle);
        let Relay { client, server, desk, to_server, to_client, finished } = &mut self;
        let (client, server, desk) = (*client, *server, *desk);
        // A side that isn't read, because the other one takes nothing, shows its reset here and nowhere else.
        let mut client_reset = pin!(client.resets());
        let mut server_reset = pin!(server.resets());
        let end = poll_fn(|cx| {
            if cut.poll(cx).is_ready() {
                return Poll::Ready(End::Down);
            }
            let before = (to_server.passed, to_client.passed);
            let upward = to_server.poll(cx, client, server, desk);
            let downward = to_client.poll(cx, server, client, desk);
            count(to_server.passed - before.0, up);
            count(to_client.passed - before.1, down);
            match (upward, downward) {
                (Poll::Ready(Err(Broken::Read)), _) | (_, Poll::Ready(Err(Broken::Write))) => {
                    return Poll::Ready(End::Client);
                }
                (Poll::Ready(Err(Broken::Write)), _) | (_, Poll::Ready(Err(Broken::Read))) => {
                    return Poll::Ready(End::Server);
                }
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(End::Finished),
                _ => {}
            }
            if !to_server.is_reading() && client_reset.as_mut().poll(cx).is_ready() {
                return Poll::Ready(End::Client);
            }
            if !to_client.is_reading() && server_reset.as_mut().poll(cx).is_ready() {
                return Poll::Ready(End::Server);
            }
            if before != (to_server.passed, to_client.passed) {
                last = coarse_now();
            }
            let deadline = || Instant::now() + idle.saturating_sub(coarse_now().saturating_sub(last));
            alarm.poll_later(cx, deadline).map(|()| End::Idle)
        })
        .await;
        to_server.window.clear(&desk.buffers);
        to_client.window.clear(&desk.buffers);
        *finished = matches!(end, End::Finished | End::Idle);
        (end, to_client.passed)
    }
}

impl Drop for Relay<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.client.reset_on_close();
            self.server.reset_on_close();
        }
    }
}

/// To a few milliseconds, for next to nothing.
fn coarse_now() -> Duration {
    clock_gettime(ClockId::MonotonicCoarse).try_into().unwrap_or_default()
}

fn count(bytes: u64, tally: Tally<'_>) {
    if bytes > 0 {
        tally.iter().for_each(|counter| counter.add(bytes));
    }
}

/// One direction.
#[derive(Debug, Default)]
struct Direction {
    window: Window,
    /// On loan while it carries many bytes at a time.
    pipe: Option<Pipe>,
    /// Times in a row that there was more than a window holds, up to [`STREAM`].
    full: u8,
    passed: u64,
    state: State,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The reader said its last; what is buffered is gone on.
    Said,
    /// The writer was told.
    Ended,
}

impl Direction {
    /// Whether a reset of the reader would show when it is read.
    fn is_reading(&self) -> bool {
        self.state == State::Open && self.window.is_empty() && self.pipe.is_none()
    }

    fn poll(&mut self, cx: &mut Context<'_>, from: &Stream, to: &Stream, desk: &Desk) -> Poll<Result<(), Broken>> {
        let unread = |_: io::Error| Broken::Read;
        let unwritten = |_: io::Error| Broken::Write;
        while self.state == State::Open {
            while !self.window.is_empty() {
                let written = ready!(to.poll_write(cx, self.window.bytes())).map_err(unwritten)?;
                self.window.consume(written);
                self.passed += written as u64;
            }
            ready!(to.poll_flush(cx)).map_err(unwritten)?;
            // What a pipe holds came before all that can still be read.
            if (self.full == STREAM || self.pipe.is_some())
                && let (Some(from), Some(to)) = (from.clear(), to.clear())
                && let Some(pipe) = self.pipe.take().or_else(|| desk.pipes.lend())
            {
                ready!(self.poll_splice(cx, pipe, (from, to), desk))?;
                continue;
            }
            match ready!(self.window.poll_fill(cx, from, &desk.buffers)).map_err(unread)? {
                0 => self.state = State::Said,
                SIZE => self.full = (self.full + 1).min(STREAM),
                _ => self.full = 0,
            }
        }
        if self.state == State::Said {
            ready!(to.poll_shutdown(cx)).map_err(unwritten)?;
            self.state = State::Ended;
        }
        Poll::Ready(Ok(()))
    }

    /// Carries bytes past us, until little comes at once or there is an end.
    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        mut pipe: Pipe,
        (from, to): (&TcpStream, &TcpStream),
        desk: &Desk,
    ) -> Poll<Result<(), Broken>> {
        while self.full == STREAM || !pipe.is_empty() {
            if !pipe.is_empty() {
                let Poll::Ready(passed) = pipe.poll_drain(cx, to) else {
                    self.pipe = Some(pipe);
                    return Poll::Pending;
                };
                self.passed += passed.map_err(|_| Broken::Write)? as u64;
                continue;
            }
            match pipe.poll_fill(cx, from, SPLICED) {
                // Who waits holds nothing.
                Poll::Pending => {
                    desk.pipes.give_back(pipe);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0)) => {
                    self.state = State::Said;
                    break;
                }
                Poll::Ready(Ok(count)) if count < FEW => self.full = 0,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Read)),
            }
        }
        desk.pipes.give_back(pipe);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use crate::beat::BeatBoard;
    use crate::limits::Gate;
    use crate::log::Logs;
    use crate::stats::shards;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (ours, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn the_last_few_bytes_in_a_pipe_go_on_before_what_comes_after_them() {
        let shards = shards(1).into();
        let logger = Logs::start(&shards).unwrap().1.remove(0);
        let board = BeatBoard::create().unwrap();
        let desk = Desk::new(0, board.slot(0), shards, logger, Arc::new(Gate::new(None)));
        let ((mut client, from), (to, mut server)) = (pair().await, pair().await);
        // The server reads nothing, until there is room nowhere.
        let mut before = 0;
        loop {
            match to.try_write(&[b'-'; 64 * 1024]) {
                Ok(written) => before += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if timeout(Duration::from_millis(200), to.writable()).await.is_err() {
                        break;
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
        let (from, to) = (Stream::Tcp(from), Stream::Tcp(to));
        let mut direction = Direction { full: STREAM, ..Direction::default() };
        client.write_all(b"few, ").await.unwrap();
        let waits = poll_fn(|cx| {
            assert!(direction.poll(cx, &from, &to, &desk).is_pending());
            if direction.pipe.is_some() { Poll::Ready(()) } else { Poll::Pending }
        });
        waits.await;
        client.write_all(b"and the rest").await.unwrap();
        client.shutdown().await.unwrap();
        let reads = async {
            server.read_exact(&mut vec![0; before]).await.unwrap();
            let mut rest = String::new();
            server.read_to_string(&mut rest).await.unwrap();
            rest
        };
        let (ended, rest) = tokio::join!(poll_fn(|cx| direction.poll(cx, &from, &to, &desk)), reads);
        ended.unwrap();
        assert_eq!((&*rest, direction.passed), ("few, and the rest", 17));
    }
}
