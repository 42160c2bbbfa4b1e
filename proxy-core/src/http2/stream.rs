//! One stream of a client, as the engine sees a connection: what is read is an HTTP/1.1 request, and what is written an
//! HTTP/1.1 answer.
//!
//! The client's window opens only as the engine reads, and the engine writes only what the client's window takes: so a
//! slow side holds the other one back, and nothing piles up here.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};

use super::frames::{Outgoing, take_in_turn};
use super::request::{Body, Shape};
use super::text::{Incoming, fill};
use super::{failed, garbled, response};
use crate::http::head::{Asked, Framing};
use crate::route::Desk;
use crate::stream::Stream;

/// The longest head of an answer, as everywhere.
const MAX_HEAD: usize = crate::tcp::buffers::SIZE;

/// One request and its answer.
#[derive(Debug)]
pub(crate) struct H2Stream {
    /// What all streams of the client came over.
    carrier: Rc<Stream>,
    desk: Rc<Desk>,
    up: RefCell<Incoming>,
    down: RefCell<Down>,
    /// Nobody reads any more.
    closed: Cell<bool>,
    /// Nobody may take the answer for whole.
    aborted: Cell<bool>,
}

/// The answer.
#[derive(Debug)]
struct Down {
    respond: SendResponse<Bytes>,
    /// There once the head was sent.
    send: Option<SendStream<Bytes>>,
    asked: Asked,
    /// A WebSocket was asked for.
    socket: bool,
    /// There is one.
    tunnel: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The beginning of a head, if it came in pieces.
    Head(Vec<u8>),
    Body(Outgoing),
    /// It can't be said in HTTP/2, and the client knows.
    Unsaid,
}

impl State {
    fn is_over(&self) -> bool {
        matches!(self, State::Unsaid | State::Body(Outgoing::Over))
    }
}

impl H2Stream {
    /// `text` is the request's head.
    pub(super) fn new(
        carrier: Rc<Stream>,
        desk: Rc<Desk>,
        recv: RecvStream,
        respond: SendResponse<Bytes>,
        text: Vec<u8>,
        shape: Shape,
    ) -> H2Stream {
        let socket = shape.body == Body::Raw;
        H2Stream {
            carrier,
            desk,
            up: RefCell::new(Incoming::new(recv, text, shape.body)),
            down: RefCell::new(Down {
                respond,
                send: None,
                asked: shape.asked,
                socket,
                tunnel: false,
                state: State::Head(Vec::new()),
            }),
            closed: Cell::new(false),
            aborted: Cell::new(false),
        }
    }

    /// Reads the request; 0 behind it once its answer is over: there is no next one.
    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut up = self.up.borrow_mut();
        fill(buffer, |room| match ready!(self.poll_ready(&mut up, cx))? {
            true => Poll::Ready(up.take(room)),
            false => Poll::Ready(Ok(0)),
        })
    }

    /// Whether there is something to read: `false` behind the request once its answer is over.
    pub(crate) fn poll_peek(&self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.poll_ready(&mut self.up.borrow_mut(), cx)
    }

    fn poll_ready(&self, up: &mut Incoming, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.closed.get() {
            return Poll::Ready(Ok(false));
        }
        loop {
            if up.is_broken() {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
            if up.is_ready() {
                return Poll::Ready(Ok(true));
            }
            let mut down = self.down.borrow_mut();
            match (down.tunnel, up.is_over()) {
                // The client of a WebSocket that there won't be may say what it likes.
                (false, _) if down.state.is_over() && (up.is_over() || down.socket) => return Poll::Ready(Ok(false)),
                // The end of a request is not the end of its client, who waits for the answer.
                (false, true) => return down.poll_reset(cx).map(Err),
                (true, true) => return Poll::Ready(Ok(false)),
                (_, false) => {}
            }
            drop(down);
            ready!(up.poll_next(cx))?;
        }
    }

    /// Takes of `parts`, in their order, what there is room for.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut down = self.down.borrow_mut();
        take_in_turn(parts, |bytes| down.poll_take(cx, bytes))
    }

    /// Ends an answer that has no other end; reads nothing more. The rest of a request that has its answer is not for
    /// us to await: h2 says so (RFC 9113 §8.1) when the stream is dropped, behind what is still to be sent.
    pub(crate) fn shutdown(&self) -> io::Result<()> {
        let down = &mut *self.down.borrow_mut();
        // A tunnel has two ends.
        self.closed.set(!down.tunnel);
        match (&mut down.state, &mut down.send) {
            (State::Body(body), Some(send)) => body.end(send),
            _ => Ok(()),
        }
    }

    /// The answer ends here, and must not look whole.
    pub(crate) fn reset_on_close(&self) {
        self.aborted.set(true);
    }

    /// Ends when the client has ended the stream, or its connection.
    pub(crate) fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.down.borrow_mut().poll_reset(cx)
    }

    /// The connection that it is one of many in.
    pub(crate) fn carrier(&self) -> &Stream {
        &self.carrier
    }
}

impl Drop for H2Stream {
    fn drop(&mut self) {
        let up = self.up.get_mut();
        self.desk.give_head_back(up.take_text());
        let down = self.down.get_mut();
        match (&mut down.state, &mut down.send) {
            (state, _) if state.is_over() => {}
            // The end of the connection would have been its end.
            (State::Body(body @ Outgoing::Raw), Some(send)) if !self.aborted.get() => {
                let _ = body.end(send);
            }
            _ if up.is_broken() => down.respond.send_reset(Reason::PROTOCOL_ERROR),
            _ if self.aborted.get() => down.respond.send_reset(Reason::INTERNAL_ERROR),
            _ => down.respond.send_reset(Reason::CANCEL),
        }
    }
}

impl Down {
    /// Takes of `bytes`, which aren't empty, what is one thing.
    fn poll_take(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.state {
            State::Head(begun) if begun.is_empty() => Poll::Ready(self.head(bytes)),
            State::Head(begun) => {
                let mut begun = std::mem::take(begun);
                let before = begun.len();
                begun.extend_from_slice(bytes);
                let taken = self.head(&begun)?;
                Poll::Ready(Ok(taken.saturating_sub(before)))
            }
            State::Body(body) => body.poll_take(self.send.as_mut().expect("a body follows its head"), cx, bytes),
            State::Unsaid => Poll::Ready(Ok(bytes.len())),
        }
    }

    /// Sends the head that `bytes` begin with, or keeps its beginning: how many bytes were taken.
    fn head(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(head) = response::head(bytes, self.asked).map_err(garbled)? else {
            if bytes.len() > MAX_HEAD {
                return Err(garbled(response::Garbled));
            }
            self.state = State::Head(bytes.to_vec());
            return Ok(bytes.len());
        };
        let mut response = head.response;
        let status = response.status().as_u16();
        match status {
            // RFC 8441 §5.1: what HTTP/1.1 calls a switch is a success.
            101 if self.socket => {
                *response.status_mut() = http::StatusCode::OK;
                response.headers_mut().remove("sec-websocket-accept");
                self.send = Some(self.respond.send_response(response, false).map_err(failed)?);
                (self.state, self.tunnel) = (State::Body(Outgoing::Raw), true);
            }
            // RFC 9113 §8.6: there is no such thing.
            101 => return Err(garbled(response::Garbled)),
            100..200 => {
                self.respond.send_informational(response).map_err(failed)?;
                self.state = State::Head(Vec::new());
            }
            // RFC 9113 §7: whom a server knows by the connection has to come over one of its own.
            _ if head.connection_auth => {
                self.respond.send_reset(Reason::HTTP_1_1_REQUIRED);
                self.state = State::Unsaid;
            }
            _ => {
                let over = head.framing == Framing::Empty;
                let send = self.respond.send_response(response, over).map_err(failed)?;
                self.send = Some(send);
                self.state = State::Body(Outgoing::of(head.framing));
            }
        }
        Ok(head.length)
    }

    /// Why the client has ended the stream, when it has.
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let reset = match &mut self.send {
            Some(send) => send.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        };
        reset.map(|reason| match reason {
            Ok(_) => io::ErrorKind::ConnectionReset.into(),
            Err(error) => failed(error),
        })
    }
}
