//! One stream of a client, as the engine sees a connection: what is read is an HTTP/1.1 request, and what is written an
//! HTTP/1.1 answer.
//!
//! The client's window opens only as the engine reads, and the engine writes only what the client's window takes: so a
//! slow side holds the other one back, and nothing piles up here.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;

use super::request::{self, Body, Shape};
use super::response::{self, Chunks, Piece};
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
    up: RefCell<Up>,
    down: RefCell<Down>,
    /// Nobody reads any more.
    closed: Cell<bool>,
    /// Nobody may take the answer for whole.
    aborted: Cell<bool>,
}

/// The request.
#[derive(Debug)]
struct Up {
    recv: RecvStream,
    /// Bytes of HTTP/1.1 that aren't read yet, and how many of them are.
    text: Vec<u8>,
    read: usize,
    /// Data behind the text.
    data: Bytes,
    body: Body,
    /// All of it is in text and data, or was read.
    over: bool,
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
    Length(u64),
    Chunked(Box<Chunks>),
    /// All there is, to the end.
    Raw,
    /// It is over, and was said to be.
    Over,
    /// It can't be said in HTTP/2, and the client knows.
    Unsaid,
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
        let over = shape.body == Body::None;
        let socket = shape.body == Body::Raw;
        H2Stream {
            carrier,
            desk,
            up: RefCell::new(Up { recv, text, read: 0, data: Bytes::new(), body: shape.body, over }),
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
        let mut filled = 0;
        while filled < buffer.len() {
            match self.poll_ready(&mut up, cx) {
                Poll::Ready(Ok(true)) => filled += up.take(&mut buffer[filled..])?,
                _ if filled > 0 => break,
                Poll::Ready(Ok(false)) => return Poll::Ready(Ok(0)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(filled))
    }

    /// Whether there is something to read: `false` behind the request once its answer is over.
    pub(crate) fn poll_peek(&self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.poll_ready(&mut self.up.borrow_mut(), cx)
    }

    fn poll_ready(&self, up: &mut Up, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.closed.get() {
            return Poll::Ready(Ok(false));
        }
        loop {
            if up.read < up.text.len() || !up.data.is_empty() {
                return Poll::Ready(Ok(true));
            }
            let mut down = self.down.borrow_mut();
            let answered = matches!(down.state, State::Over | State::Unsaid);
            match (down.tunnel, up.over) {
                // The client of a WebSocket that there won't be may say what it likes.
                (false, _) if answered && (up.over || down.socket) => return Poll::Ready(Ok(false)),
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
        let mut taken = 0;
        for part in parts {
            let mut rest = &part[..];
            while !rest.is_empty() {
                match down.poll_take(cx, rest) {
                    Poll::Ready(Ok(count)) => {
                        taken += count;
                        rest = &rest[count..];
                    }
                    // What was wrong stays so.
                    _ if taken > 0 => return Poll::Ready(Ok(taken)),
                    failed => return failed,
                }
            }
        }
        Poll::Ready(Ok(taken))
    }

    /// Ends an answer that has no other end; reads nothing more. The rest of a request that has its answer is not for
    /// us to await: h2 says so (RFC 9113 §8.1) when the stream is dropped, behind what is still to be sent.
    pub(crate) fn shutdown(&self) -> io::Result<()> {
        let down = &mut *self.down.borrow_mut();
        // A tunnel has two ends.
        self.closed.set(!down.tunnel);
        if let (State::Raw, Some(send)) = (&down.state, &mut down.send) {
            down.state = State::Over;
            send.send_data(Bytes::new(), true).map_err(failed)?;
        }
        Ok(())
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
        let text = std::mem::take(&mut self.up.get_mut().text);
        self.desk.give_head_back(text);
        let down = self.down.get_mut();
        match (&down.state, &mut down.send) {
            (State::Over | State::Unsaid, _) => {}
            // The end of the connection would have been its end.
            (State::Raw, Some(send)) if !self.aborted.get() => {
                let _ = send.send_data(Bytes::new(), true);
            }
            _ if self.aborted.get() => down.respond.send_reset(Reason::INTERNAL_ERROR),
            _ => down.respond.send_reset(Reason::CANCEL),
        }
    }
}

impl Up {
    /// Moves into `buffer` what is there of the text, or of the data.
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let text = &self.text[self.read..];
        if !text.is_empty() {
            let count = text.len().min(buffer.len());
            buffer[..count].copy_from_slice(&text[..count]);
            self.read += count;
            return Ok(count);
        }
        let count = self.data.len().min(buffer.len());
        self.data.copy_to_slice(&mut buffer[..count]);
        self.recv.flow_control().release_capacity(count).map_err(failed)?;
        if self.data.is_empty() && self.body == Body::Chunked {
            self.say("\r\n");
        }
        Ok(count)
    }

    fn say(&mut self, text: &str) {
        self.text.clear();
        self.read = 0;
        self.text.extend_from_slice(text.as_bytes());
    }

    /// Has the next piece of the body, or its end.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(self.recv.poll_data(cx)) {
            Some(Ok(data)) => {
                self.data = data;
                if self.body == Body::Chunked && !self.data.is_empty() {
                    let mut size = String::with_capacity(8);
                    let _ = write!(size, "{:x}\r\n", self.data.len());
                    self.say(&size);
                }
            }
            Some(Err(error)) => return Poll::Ready(Err(failed(error))),
            None => {
                // With a length there is no place for trailers in HTTP/1.1 (RFC 9112 §7.1.2), nor in a tunnel.
                let trailers = ready!(self.recv.poll_trailers(cx)).map_err(failed)?;
                self.over = true;
                if self.body == Body::Chunked {
                    self.end(&trailers.unwrap_or_default())?;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn end(&mut self, trailers: &HeaderMap) -> io::Result<()> {
        self.say("0\r\n");
        for (name, value) in trailers {
            request::field(&mut self.text, name.as_str(), value).map_err(|_| io::ErrorKind::InvalidData)?;
        }
        self.text.extend_from_slice(b"\r\n");
        Ok(())
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
            State::Length(left) => {
                let left = *left;
                let most = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
                let taken = ready!(self.poll_data(cx, &bytes[..most], left))?;
                self.state = match left - taken as u64 {
                    0 => State::Over,
                    left => State::Length(left),
                };
                Poll::Ready(Ok(taken))
            }
            State::Raw => self.poll_data(cx, bytes, u64::MAX),
            State::Chunked(_) => self.poll_chunks(cx, bytes),
            State::Unsaid => Poll::Ready(Ok(bytes.len())),
            State::Over => Poll::Ready(Err(garbled(response::Garbled))),
        }
    }

    /// Sends what the client's window takes, and with the last of `left` bytes the end.
    fn poll_data(&mut self, cx: &mut Context<'_>, bytes: &[u8], left: u64) -> Poll<io::Result<usize>> {
        let send = self.send.as_mut().expect("a body follows its head");
        let taken = ready!(poll_room(send, cx, bytes.len()))?.min(bytes.len());
        send.send_data(Bytes::copy_from_slice(&bytes[..taken]), taken as u64 == left).map_err(failed)?;
        Poll::Ready(Ok(taken))
    }

    /// Sends of chunks what the client's window takes, as one piece: clients don't bear many small ones.
    fn poll_chunks(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Down { send: Some(send), state: State::Chunked(chunks), .. } = self else {
            return Poll::Ready(Err(garbled(response::Garbled)));
        };
        let (mut taken, mut data) = (0, Vec::new());
        while taken < bytes.len() {
            match chunks.next(&bytes[taken..]).map_err(garbled)? {
                Piece::Framing(count) => taken += count,
                Piece::Data(count) => {
                    let room = match poll_room(send, cx, data.len() + count) {
                        Poll::Ready(Ok(room)) => count.min(room - data.len().min(room)),
                        Poll::Pending if taken > 0 => 0,
                        failed => return failed,
                    };
                    data.extend_from_slice(&bytes[taken..taken + room]);
                    chunks.took(room);
                    taken += room;
                    if room < count {
                        break;
                    }
                }
                Piece::End(count, trailers) => {
                    let sent = send.send_data(data.into(), trailers.is_none());
                    let sent = sent.and_then(|()| trailers.map_or(Ok(()), |trailers| send.send_trailers(*trailers)));
                    self.state = State::Over;
                    return Poll::Ready(sent.map(|()| taken + count).map_err(failed));
                }
            }
        }
        if !data.is_empty() {
            send.send_data(data.into(), false).map_err(failed)?;
        }
        Poll::Ready(Ok(taken))
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
                (self.state, self.tunnel) = (State::Raw, true);
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
                self.state = match head.framing {
                    Framing::Empty => State::Over,
                    Framing::Length(length) => State::Length(length),
                    Framing::Chunked => State::Chunked(Box::new(Chunks::new())),
                    Framing::UntilClose => State::Raw,
                };
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

/// How much the client's window takes; never 0.
fn poll_room(send: &mut SendStream<Bytes>, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
    send.reserve_capacity(wanted);
    match send.capacity() {
        0 => {}
        room => return Poll::Ready(Ok(room)),
    }
    loop {
        match ready!(send.poll_capacity(cx)) {
            Some(Ok(0)) => {}
            Some(Ok(room)) => return Poll::Ready(Ok(room)),
            Some(Err(error)) => return Poll::Ready(Err(failed(error))),
            None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }
}

fn garbled(_: response::Garbled) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what was to be said is no answer")
}

fn failed(error: h2::Error) -> io::Error {
    let kind = error.get_io().map_or(io::ErrorKind::ConnectionReset, io::Error::kind);
    io::Error::new(kind, error)
}
