//! Who may shake hands now: one handshake of a worker works at a time, and the sockets are looked at between two.
//!
//! A handshake takes as much time as tens of requests, and after a failover all clients want one at once. So each waits
//! for its turn, first come first served, and who has a connection already waits for one handshake at most. When
//! [`CROWD`] wait, new clients of TLS binds stay in the kernel's accept queue.

use std::cell::{Cell, RefCell};
use std::task::{Context, Waker};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::yield_now;

/// Handshakes that wait for their turn before nobody new is accepted: a third of a second's work, about.
const CROWD: usize = 512;

/// The handshakes of one worker.
#[derive(Debug)]
pub(crate) struct Handshakes {
    turn: Semaphore,
    waiting: Cell<usize>,
    /// The accepting task, when it was told to wait.
    accepting: RefCell<Option<Waker>>,
}

impl Default for Handshakes {
    fn default() -> Handshakes {
        Handshakes { turn: Semaphore::new(1), waiting: Cell::new(0), accepting: RefCell::default() }
    }
}

/// One that waits for its turn, or has it.
struct Waiting<'a>(&'a Handshakes);

/// The turn, until dropped.
pub(crate) struct Turn<'a> {
    _permit: SemaphorePermit<'a>,
    _waiting: Waiting<'a>,
}

impl Handshakes {
    /// Whether another client may be accepted; if not, its task is woken when that changes.
    pub(crate) fn have_room(&self, cx: &Context<'_>) -> bool {
        let room = self.waiting.get() < CROWD;
        if !room {
            self.accepting.replace(Some(cx.waker().clone()));
        }
        room
    }

    /// Waits for the turn to work. It is not to be held over anything that waits.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        self.waiting.set(self.waiting.get() + 1);
        let waiting = Waiting(self);
        let permit = self.turn.acquire().await.expect("the semaphore is never closed");
        // The runtime looks at its sockets before it comes back here.
        yield_now().await;
        Turn { _permit: permit, _waiting: waiting }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Handshakes { waiting, accepting, .. } = self.0;
        waiting.set(waiting.get() - 1);
        if let Some(waker) = accepting.take() {
            waker.wake();
        }
    }
}
