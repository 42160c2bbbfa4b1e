//! The buffers of one worker: lent while a direction has bytes in flight, back here while it is idle.
//!
//! So ten thousand silent sessions hold no buffer. At most [`KEPT`] idle ones are kept; more are freed.

use std::cell::RefCell;

/// Bytes in flight in one direction of one session, at most.
pub(crate) const SIZE: usize = 32 * 1024;
/// Idle buffers kept by a worker (8 MiB).
const KEPT: usize = 256;

/// A buffer on loan.
pub(crate) type Buffer = Box<[u8; SIZE]>;

/// The idle buffers.
#[derive(Debug, Default)]
pub(crate) struct Buffers(RefCell<Vec<Buffer>>);

impl Buffers {
    pub(crate) fn lend(&self) -> Buffer {
        self.0.borrow_mut().pop().unwrap_or_else(|| vec![0; SIZE].try_into().expect("it is as long as that"))
    }

    pub(crate) fn give_back(&self, buffer: Buffer) {
        let mut idle = self.0.borrow_mut();
        if idle.len() < KEPT {
            idle.push(buffer);
        }
    }
}
