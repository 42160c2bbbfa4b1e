//! Bytes that a socket has not taken yet, in a buffer that is lent only while there are any.

use std::io;
use std::task::{Context, Poll, ready};

use tokio::net::TcpStream;

use super::buffers::{Buffer, Buffers, SIZE};
use super::stream::poll_write;

/// What waits to be written.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Longer than a lent one for a long chain of certificates.
    buffer: Option<Box<[u8]>>,
    start: usize,
    end: usize,
}

impl Outbox {
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.buffer.as_deref().map_or(&[], |buffer| &buffer[self.start..self.end])
    }

    /// Room for so many bytes behind what is there; [`Outbox::filled`] says how many came.
    pub(crate) fn room(&mut self, count: usize, buffers: &Buffers) -> &mut [u8] {
        let length = self.len();
        let buffer = self.buffer.get_or_insert_with(|| buffers.lend());
        if self.start > 0 && self.end + count > buffer.len() {
            buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, length);
        }
        if self.end + count > buffer.len() {
            let mut longer = vec![0; (self.end + count).next_multiple_of(SIZE)].into_boxed_slice();
            longer[..self.end].copy_from_slice(&buffer[..self.end]);
            *buffer = longer;
        }
        &mut buffer[self.end..]
    }

    pub(crate) fn filled(&mut self, count: usize) {
        self.end += count;
    }

    /// Ready when all has gone.
    pub(crate) fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        socket: &TcpStream,
        buffers: &Buffers,
    ) -> Poll<io::Result<()>> {
        while let Some(buffer) = self.buffer.as_ref().filter(|_| self.start < self.end) {
            self.start += ready!(poll_write(cx, socket, &buffer[self.start..self.end]))?;
        }
        self.clear(buffers);
        Poll::Ready(Ok(()))
    }

    /// What the socket takes at once; the rest is left.
    pub(crate) fn try_flush(&mut self, socket: &TcpStream) {
        if let Some(buffer) = &self.buffer {
            let _ = socket.try_write(&buffer[self.start..self.end]);
        }
    }

    /// Forgets what is left, and gives the buffer back.
    pub(crate) fn clear(&mut self, buffers: &Buffers) {
        (self.start, self.end) = (0, 0);
        if let Some(Ok(lent)) = self.buffer.take().map(Buffer::try_from) {
            buffers.give_back(lent);
        }
    }
}
