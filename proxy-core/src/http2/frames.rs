//! The text of HTTP/1.1 behind a head, as frames of HTTP/2: a body in its framing, as DATA and trailers.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;

use super::response::{Chunks, Garbled, Piece};
use super::{failed, garbled};
use crate::http::head::Framing;

/// A body that goes.
#[derive(Debug)]
pub(super) enum Outgoing {
    Length(u64),
    Chunked(Box<Chunks>),
    /// All there is, to the end.
    Raw,
    /// It is over, and was said to be.
    Over,
}

impl Outgoing {
    pub(super) fn of(framing: Framing) -> Outgoing {
        match framing {
            Framing::Empty => Outgoing::Over,
            Framing::Length(length) => Outgoing::Length(length),
            Framing::Chunked => Outgoing::Chunked(Box::new(Chunks::new())),
            Framing::UntilClose => Outgoing::Raw,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self, Outgoing::Over)
    }

    /// Takes of `bytes`, which aren't empty, what the other side's window takes.
    pub(super) fn poll_take(
        &mut self,
        send: &mut SendStream<Bytes>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Outgoing::Length(left) => {
                let left = *left;
                let most = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
                let taken = ready!(poll_data(send, cx, &bytes[..most], left))?;
                *self = match left - taken as u64 {
                    0 => Outgoing::Over,
                    left => Outgoing::Length(left),
                };
                Poll::Ready(Ok(taken))
            }
            Outgoing::Raw => poll_data(send, cx, bytes, u64::MAX),
            Outgoing::Chunked(_) => self.poll_chunks(send, cx, bytes),
            Outgoing::Over => Poll::Ready(Err(garbled(Garbled))),
        }
    }

    /// The end of a body that has no other end.
    pub(super) fn end(&mut self, send: &mut SendStream<Bytes>) -> io::Result<()> {
        if matches!(self, Outgoing::Raw) {
            *self = Outgoing::Over;
            send.send_data(Bytes::new(), true).map_err(failed)?;
        }
        Ok(())
    }

    /// Sends of chunks what the other side's window takes, as one piece: nobody likes many small ones.
    fn poll_chunks(
        &mut self,
        send: &mut SendStream<Bytes>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Outgoing::Chunked(chunks) = self else { return Poll::Ready(Err(garbled(Garbled))) };
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
                    *self = Outgoing::Over;
                    return Poll::Ready(sent.map(|()| taken + count).map_err(failed));
                }
            }
        }
        if !data.is_empty() {
            send.send_data(data.into(), false).map_err(failed)?;
        }
        Poll::Ready(Ok(taken))
    }
}

/// Sends what the other side's window takes, and with the last of `left` bytes the end.
fn poll_data(send: &mut SendStream<Bytes>, cx: &mut Context<'_>, bytes: &[u8], left: u64) -> Poll<io::Result<usize>> {
    let taken = ready!(poll_room(send, cx, bytes.len()))?.min(bytes.len());
    send.send_data(Bytes::copy_from_slice(&bytes[..taken]), taken as u64 == left).map_err(failed)?;
    Poll::Ready(Ok(taken))
}

/// How much the other side's window takes; never 0.
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

/// Has `take` take of `parts`, in their order, what there is room for.
pub(super) fn take_in_turn(
    parts: &[IoSlice<'_>],
    mut take: impl FnMut(&[u8]) -> Poll<io::Result<usize>>,
) -> Poll<io::Result<usize>> {
    let mut taken = 0;
    for part in parts {
        let mut rest = &part[..];
        while !rest.is_empty() {
            match take(rest) {
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
