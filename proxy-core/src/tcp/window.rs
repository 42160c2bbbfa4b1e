//! Bytes that were read and have not gone on yet, in a buffer that is lent only while there are any.

use std::io;
use std::ops::Range;
use std::task::{Context, Poll};

use super::buffers::{Buffer, Buffers, SIZE};
use super::stream::Source;

/// What is between reading and writing in one direction. Small: every client has one, be it idle.
#[derive(Debug, Default)]
pub(crate) struct Window {
    buffer: Option<Buffer>,
    start: u32,
    end: u32,
}

impl Window {
    fn span(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.buffer.as_deref().map_or(&[], |buffer| &buffer[self.span()])
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let span = self.span();
        self.buffer.as_deref_mut().map_or(&mut [], |buffer| &mut buffer[span])
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// No more fits, even if everything were moved to the front.
    pub(crate) fn is_full(&self) -> bool {
        self.span().len() == SIZE
    }

    /// The first `count` bytes are done with.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start += short(count);
        debug_assert!(self.start <= self.end, "more was consumed than there is");
    }

    /// The last `count` consumed bytes are there again. Nothing may have been read since.
    pub(crate) fn unconsume(&mut self, count: usize) {
        self.start -= short(count);
    }

    /// Gives an empty buffer back.
    pub(crate) fn release(&mut self, buffers: &Buffers) {
        if self.is_empty()
            && let Some(buffer) = self.buffer.take()
        {
            buffers.give_back(buffer);
            (self.start, self.end) = (0, 0);
        }
    }

    /// Forgets what is left, and gives the buffer back.
    pub(crate) fn clear(&mut self, buffers: &Buffers) {
        self.start = self.end;
        self.release(buffers);
    }

    /// Reads more behind what is there: how much, 0 at the end of the stream. There must be room.
    pub(crate) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        stream: &impl Source,
        buffers: &Buffers,
    ) -> Poll<io::Result<usize>> {
        if self.start > 0 {
            let span = self.span();
            if let Some(buffer) = &mut self.buffer {
                buffer.copy_within(span, 0);
            }
            (self.start, self.end) = (0, self.end - self.start);
        }
        let buffer = self.buffer.get_or_insert_with(|| buffers.lend());
        let end = self.end as usize;
        debug_assert!(end < buffer.len(), "there is no room to read into");
        let read = stream.poll_read(cx, &mut buffer[end..]);
        if let Poll::Ready(Ok(count)) = read {
            self.end += short(count);
        }
        self.release(buffers);
        read
    }
}

fn short(count: usize) -> u32 {
    u32::try_from(count).expect("no more than a buffer holds")
}
