//! A client's connection as h2 reads and writes it; the meter sees all of it pass.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::meter::Meter;
use crate::stream::Stream;
use crate::tcp::stream::Source as _;

/// What h2 is given.
#[derive(Debug)]
pub(super) struct Io {
    carrier: Rc<Stream>,
    meter: Rc<RefCell<Meter>>,
    /// What was read of the connection before.
    begun: Vec<u8>,
}

impl Io {
    pub(super) fn new(carrier: Rc<Stream>, meter: Rc<RefCell<Meter>>, begun: Vec<u8>) -> Io {
        Io { carrier, meter, begun }
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Nothing more of a flood is read; who polls the connection sees that it was one.
        if this.meter.borrow().flood().is_some() {
            return Poll::Pending;
        }
        let count = if this.begun.is_empty() {
            let room = into.initialize_unfilled();
            let count = ready!(this.carrier.poll_read(cx, room))?;
            this.meter.borrow_mut().came(&room[..count], Instant::now());
            into.advance(count);
            count
        } else {
            let count = this.begun.len().min(into.remaining());
            let begun: Vec<u8> = this.begun.drain(..count).collect();
            this.meter.borrow_mut().came(&begun, Instant::now());
            into.put_slice(&begun);
            count
        };
        debug_assert!(count <= into.filled().len(), "what was read is there");
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(match parts {
            [part] => self.carrier.poll_write(cx, part),
            _ => self.carrier.poll_write_vectored(cx, parts),
        })?;
        let (mut left, now) = (written, Instant::now());
        let mut meter = self.meter.borrow_mut();
        for part in parts {
            let count = left.min(part.len());
            meter.went(&part[..count], now);
            left -= count;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.carrier.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.carrier.poll_shutdown(cx)
    }
}
