//! One message on its way through: its head (composed by us), then its body in the framing it came in.
//!
//! Bounded by one buffer: nothing more is read before what was read has been written, so a slow reader holds its
//! writer back.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use tokio::net::TcpStream;

use super::chunked::{Chunked, Keep};
use super::head::{BadChunk, Framing};
use crate::route::Desk;
use crate::stream::Stream;
use crate::tcp::pipe::Pipe;
use crate::tcp::window::Window;

/// Bytes of a body that are copied behind their head instead of being sent beside it.
const SMALL: usize = 4096;

/// A body of which so much is still to be read is carried inside the kernel.
const LONG: u64 = 128 * 1024;
/// Bytes that are taken into a pipe at once.
const SPLICED: usize = 1024 * 1024;

/// What is left of a body.
#[derive(Debug)]
pub(crate) enum Body {
    Length(u64),
    Chunked(Box<Chunked>),
    UntilClose,
    Ended,
}

/// Why a message can't go on.
#[derive(Debug)]
pub(crate) enum Broken {
    /// Reading failed.
    Read,
    /// The stream ended inside the body.
    Truncated,
    /// Its chunks are none.
    Chunk(BadChunk),
    /// Writing failed.
    Write,
}

/// The bytes of one message.
#[derive(Debug)]
pub(crate) struct Flow {
    /// Sent before anything of the window.
    pub(crate) head: Vec<u8>,
    head_sent: usize,
    pub(crate) window: Window,
    /// Bytes of the body that were put behind the head.
    joined: usize,
    /// Bytes at the window's beginning that may go.
    ready: usize,
    /// Bytes behind them that were framing, and go nowhere.
    cut: usize,
    /// What ends a chunked body; sent after the window. Empty until then.
    tail: Vec<u8>,
    tail_sent: usize,
    /// The stream holds something of it back.
    held: bool,
    body: Body,
    /// On loan for a long body.
    pipe: Option<Pipe>,
    /// Bytes that were written, of head and body.
    pub(crate) written: u64,
    /// Grows with everything read and written.
    pub(crate) moved: u64,
}

impl Body {
    pub(crate) fn of(framing: Framing, keep: Keep) -> Body {
        match framing {
            Framing::Empty => Body::Ended,
            Framing::Length(length) => Body::Length(length),
            Framing::Chunked => Body::Chunked(Box::new(Chunked::new(keep))),
            Framing::UntilClose => Body::UntilClose,
        }
    }
}

impl Flow {
    /// `window` begins with what is at hand of the body; [`Flow::sort`] it before anything else.
    pub(crate) fn new(head: Vec<u8>, window: Window, body: Body) -> Flow {
        Flow {
            head,
            head_sent: 0,
            joined: 0,
            window,
            ready: 0,
            cut: 0,
            tail: Vec::new(),
            tail_sent: 0,
            held: false,
            body,
            pipe: None,
            written: 0,
            moved: 0,
        }
    }

    /// Whether nothing waits to be written.
    pub(crate) fn is_flushed(&self) -> bool {
        self.is_window_sent() && !self.held && self.pipe.as_ref().is_none_or(Pipe::is_empty)
    }

    fn is_window_sent(&self) -> bool {
        self.ready == 0 && self.head_sent == self.head.len() && self.tail_sent == self.tail.len()
    }

    /// The body behind the head that was just put in place of the last one.
    pub(crate) fn begin(&mut self, body: Body) -> Result<(), BadChunk> {
        (self.head_sent, self.body) = (0, body);
        self.sort()
    }

    /// Everything is to be sent once more; the body's `length` bytes were at hand from the beginning.
    pub(crate) fn rewind(&mut self, length: usize) {
        let apart = length - self.joined;
        self.window.unconsume(apart - self.ready);
        (self.head_sent, self.ready, self.written) = (0, apart, 0);
    }

    /// Sees how much of what was read belongs to the body.
    pub(crate) fn sort(&mut self) -> Result<(), BadChunk> {
        let there = self.window.bytes().len();
        match &mut self.body {
            Body::Length(left) => {
                self.ready = usize::try_from(*left).map_or(there, |left| left.min(there));
                *left -= self.ready as u64;
                if *left == 0 {
                    self.body = Body::Ended;
                }
            }
            Body::Chunked(chunks) => {
                let passed = chunks.pass(self.window.bytes_mut())?;
                (self.ready, self.cut) = (passed.forward, passed.consumed - passed.forward);
                if passed.done {
                    self.tail.extend_from_slice(chunks.tail());
                    self.body = Body::Ended;
                }
            }
            Body::UntilClose => self.ready = there,
            Body::Ended => {}
        }
        Ok(())
    }

    /// Writes what there is to write.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>, to: &Stream) -> Poll<io::Result<()>> {
        if self.head_sent == 0 && self.ready + self.tail.len() <= SMALL {
            self.join();
        }
        while !self.is_window_sent() {
            let head = &self.head[self.head_sent..];
            let window = &self.window.bytes()[..self.ready];
            let tail = &self.tail[self.tail_sent..];
            let written = match (head, window, tail) {
                (only, [], []) | ([], only, []) | ([], [], only) => to.poll_write(cx, only),
                _ => to.poll_write_vectored(cx, &[IoSlice::new(head), IoSlice::new(window), IoSlice::new(tail)]),
            };
            self.advance(ready!(written)?);
        }
        self.window.consume(std::mem::take(&mut self.cut));
        let flushed = to.poll_flush(cx);
        self.held = flushed.is_pending();
        flushed
    }

    /// One piece is cheaper to send than two, if it is cheap to make.
    fn join(&mut self) {
        self.head.extend_from_slice(&self.window.bytes()[..self.ready]);
        self.head.extend_from_slice(&self.tail[self.tail_sent..]);
        self.window.consume(self.ready);
        (self.joined, self.ready, self.tail_sent) = (self.joined + self.ready, 0, self.tail.len());
    }

    fn advance(&mut self, count: usize) {
        let head = count.min(self.head.len() - self.head_sent);
        let window = (count - head).min(self.ready);
        self.head_sent += head;
        self.window.consume(window);
        self.ready -= window;
        self.tail_sent += count - head - window;
        self.written += count as u64;
        self.moved += count as u64;
    }

    /// Carries the rest of a body of known length past us.
    fn poll_splice(&mut self, cx: &mut Context<'_>, from: &TcpStream, to: &TcpStream) -> Poll<Result<(), Broken>> {
        let (Some(pipe), Body::Length(left)) = (&mut self.pipe, &mut self.body) else { return Poll::Ready(Ok(())) };
        loop {
            while !pipe.is_empty() {
                let passed = ready!(pipe.poll_drain(cx, to)).map_err(|_| Broken::Write)? as u64;
                self.written += passed;
                self.moved += passed;
            }
            if *left == 0 {
                self.body = Body::Ended;
                return Poll::Ready(Ok(()));
            }
            let most = usize::try_from(*left).unwrap_or(usize::MAX).min(SPLICED);
            match ready!(pipe.poll_fill(cx, from, most)).map_err(|_| Broken::Read)? as u64 {
                0 => return Poll::Ready(Err(Broken::Truncated)),
                read => {
                    *left -= read;
                    self.moved += read;
                }
            }
        }
    }

    /// Carries the message to its end.
    pub(crate) fn poll_pump(
        &mut self,
        cx: &mut Context<'_>,
        from: &Stream,
        to: &Stream,
        desk: &Desk,
    ) -> Poll<Result<(), Broken>> {
        loop {
            ready!(self.poll_send(cx, to)).map_err(|_| Broken::Write)?;
            if let (Some(from), Some(to)) = (from.clear(), to.clear()) {
                if matches!(self.body, Body::Length(LONG..)) && self.pipe.is_none() {
                    self.pipe = desk.pipes.lend();
                }
                if self.pipe.is_some() {
                    ready!(self.poll_splice(cx, from, to))?;
                    self.pipe.take().into_iter().for_each(|pipe| desk.pipes.give_back(pipe));
                }
            }
            if matches!(self.body, Body::Ended) {
                return Poll::Ready(Ok(()));
            }
            let read = ready!(self.window.poll_fill(cx, from, &desk.buffers)).map_err(|_| Broken::Read)?;
            self.moved += read as u64;
            match self.body {
                _ if read > 0 => self.sort().map_err(Broken::Chunk)?,
                Body::UntilClose if from.ended_soundly() => self.body = Body::Ended,
                _ => return Poll::Ready(Err(Broken::Truncated)),
            }
        }
    }
}
