//! One request to a server that speaks HTTP/2, as the engine sees a connection: what is written is an HTTP/1.1 request,
//! and what is read its HTTP/1.1 answer.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};

use super::frames::{Outgoing, take_in_turn};
use super::server::Line;
use super::server_head::{self, Asking};
use super::text::{Incoming, fill};
use super::{failed, garbled, response};
use crate::route::Desk;
use crate::stream::Stream;

/// The longest head of a request, as everywhere.
const MAX_HEAD: usize = crate::tcp::buffers::SIZE;

/// One request and its answer.
#[derive(Debug)]
pub(crate) struct ServerStream {
    line: Rc<Line>,
    desk: Rc<Desk>,
    out: RefCell<Out>,
    back: RefCell<Back>,
    refused: Cell<bool>,
}

/// The request.
#[derive(Debug)]
struct Out {
    /// The beginning of the head, if it came in pieces.
    begun: Vec<u8>,
    /// There once the head was sent.
    sent: Option<(SendStream<Bytes>, Outgoing)>,
}

/// The answer.
#[derive(Debug)]
enum Back {
    /// Nothing was asked yet; woken when it is.
    Unasked(Option<Waker>),
    /// It may be preceded by interim ones.
    Awaited {
        asking: Asking,
        response: ResponseFuture,
    },
    Interim {
        asking: Asking,
        response: ResponseFuture,
        text: Vec<u8>,
        read: usize,
    },
    Coming(Incoming),
    /// It won't come.
    Lost,
}

impl ServerStream {
    pub(super) fn new(line: Rc<Line>, desk: &Rc<Desk>) -> ServerStream {
        line.streams.set(line.streams.get() + 1);
        ServerStream {
            line,
            desk: Rc::clone(desk),
            out: RefCell::new(Out { begun: Vec::new(), sent: None }),
            back: RefCell::new(Back::Unasked(None)),
            refused: Cell::new(false),
        }
    }

    /// Takes of `parts`, in their order, what there is room for.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut out = self.out.borrow_mut();
        take_in_turn(parts, |bytes| match &mut out.sent {
            Some((send, body)) => body.poll_take(send, cx, bytes),
            None => Poll::Ready(self.head(&mut out, bytes)),
        })
    }

    /// Sends the head that ends with `bytes`, or keeps its beginning: how many bytes were taken.
    fn head(&self, out: &mut Out, bytes: &[u8]) -> io::Result<usize> {
        let before = out.begun.len();
        let whole = if before == 0 {
            bytes
        } else {
            out.begun.extend_from_slice(bytes);
            &out.begun
        };
        let mut send = self.line.send();
        let allowed = send.is_extended_connect_protocol_enabled();
        let read = server_head::request(whole, self.line.secure, allowed).inspect_err(|_| self.lose())?;
        let Some(read) = read else {
            if before == 0 {
                out.begun.extend_from_slice(bytes);
            }
            return if out.begun.len() > MAX_HEAD { Err(garbled(response::Garbled)) } else { Ok(bytes.len()) };
        };
        let body = Outgoing::of(read.framing);
        let over = body.is_over() && read.asking.accept.is_none();
        let body = if read.asking.accept.is_some() { Outgoing::Raw } else { body };
        let (response, stream) = send.send_request(read.request, over).map_err(|error| {
            // The connection ended since it was looked at.
            self.refused.set(true);
            self.lose();
            failed(error)
        })?;
        out.sent = Some((stream, body));
        let asked = Back::Awaited { asking: read.asking, response };
        if let Back::Unasked(Some(waker)) = self.back.replace(asked) {
            waker.wake();
        }
        Ok(read.length - before)
    }

    /// There will be no answer to what couldn't be asked.
    fn lose(&self) {
        if let Back::Unasked(Some(waker)) = self.back.replace(Back::Lost) {
            waker.wake();
        }
    }

    /// Reads the answer; 0 behind it.
    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut back = self.back.borrow_mut();
        fill(buffer, |room| match ready!(self.poll_ready(&mut back, cx))? {
            true => Poll::Ready(back.take(room)),
            false => Poll::Ready(Ok(0)),
        })
    }

    /// Whether there is something to read: `false` behind the answer.
    pub(crate) fn poll_peek(&self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.poll_ready(&mut self.back.borrow_mut(), cx)
    }

    fn poll_ready(&self, back: &mut Back, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            match back {
                Back::Unasked(waker) => {
                    *waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                Back::Lost => return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
                Back::Interim { .. } => return Poll::Ready(Ok(true)),
                Back::Coming(incoming) => {
                    if incoming.is_broken() {
                        return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                    }
                    if incoming.is_ready() {
                        return Poll::Ready(Ok(true));
                    }
                    if incoming.is_over() {
                        return Poll::Ready(Ok(false));
                    }
                    ready!(incoming.poll_next(cx))?;
                }
                Back::Awaited { response, .. } => {
                    let unanswered = |error: h2::Error| {
                        self.refused.set(is_refusal(&error));
                        failed(error)
                    };
                    let interim = match response.poll_informational(cx) {
                        Poll::Ready(Some(interim)) => Some(interim.map_err(unanswered)?),
                        _ => None,
                    };
                    let answer = match interim {
                        Some(_) => None,
                        None => Some(ready!(Pin::new(response).poll(cx)).map_err(unanswered)?),
                    };
                    self.answered(back, interim, answer)?;
                }
            }
        }
    }

    /// What came of an answer becomes text.
    fn answered(
        &self,
        back: &mut Back,
        interim: Option<http::Response<()>>,
        answer: Option<http::Response<RecvStream>>,
    ) -> io::Result<()> {
        let Back::Awaited { asking, response } = std::mem::replace(back, Back::Lost) else { return Ok(()) };
        let mut text = self.desk.lend_head();
        if let Some(interim) = interim {
            server_head::interim(&mut text, &interim)?;
            *back = Back::Interim { asking, response, text, read: 0 };
        } else if let Some(answer) = answer {
            let (parts, recv) = answer.into_parts();
            let body = server_head::answer(&mut text, &parts, &asking, recv.is_end_stream())?;
            *back = Back::Coming(Incoming::new(recv, text, body));
        }
        Ok(())
    }

    /// Ends a request that has no other end: what a WebSocket's client says.
    pub(crate) fn shutdown(&self) -> io::Result<()> {
        match &mut self.out.borrow_mut().sent {
            Some((send, body)) => body.end(send),
            None => Ok(()),
        }
    }

    /// Whether the server did nothing with the request: it may be sent again, whatever it is.
    pub(crate) fn was_refused(&self) -> bool {
        self.refused.get()
    }

    /// The connection that it is one of many in.
    pub(crate) fn carrier(&self) -> &Stream {
        &self.line.carrier
    }

    /// Ends when the server has ended the stream, or its connection.
    pub(crate) fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match &mut self.out.borrow_mut().sent {
            Some((send, _)) => send.poll_reset(cx).map(|reason| match reason {
                Ok(_) => io::ErrorKind::ConnectionReset.into(),
                Err(error) => failed(error),
            }),
            None => Poll::Pending,
        }
    }
}

/// A stream beyond the last one that the server will look at (RFC 9113 §6.8), or one that it refused (§8.7).
fn is_refusal(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM))
}

impl Back {
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Back::Coming(incoming) => incoming.take(buffer),
            Back::Interim { text, read, .. } => {
                let left = &text[*read..];
                let count = left.len().min(buffer.len());
                buffer[..count].copy_from_slice(&left[..count]);
                *read += count;
                if *read == text.len()
                    && let Back::Interim { asking, response, .. } = std::mem::replace(self, Back::Lost)
                {
                    *self = Back::Awaited { asking, response };
                }
                Ok(count)
            }
            _ => Ok(0),
        }
    }
}

impl Drop for ServerStream {
    /// What is not over is reset by h2 (RFC 9113 §8.1, `CANCEL`) as its handles go.
    fn drop(&mut self) {
        self.line.streams.set(self.line.streams.get() - 1);
        if let Back::Coming(incoming) = self.back.get_mut() {
            self.desk.give_head_back(incoming.take_text());
        }
    }
}
