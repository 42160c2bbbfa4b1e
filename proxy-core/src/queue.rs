//! Clients that wait for a server with a free place: one queue a backend, first come first served, all workers.
//!
//! Only the first in the queue may take a place; whoever leaves the queue, with a place or without, wakes the next
//! first. So one wake-up per freed place is enough, and none can be lost. Nobody queues on the steady path, which
//! looks at one atomic here.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// Clients that may wait in one backend's queue. One more is refused and counted (`queue_full`).
pub(crate) const MAX_WAITING: usize = 4096;

/// The queue of one backend.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: AtomicUsize,
    line: Mutex<Line>,
}

#[derive(Debug, Default)]
struct Line {
    next: u64,
    wakers: BTreeMap<u64, Option<Waker>>,
}

/// A place in the queue; given up when dropped.
#[derive(Debug)]
pub(crate) struct Ticket<'a> {
    queue: &'a Queue,
    number: u64,
}

impl Queue {
    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    /// To the end of the queue; `None` when it is full.
    pub(crate) fn join(&self) -> Option<Ticket<'_>> {
        let mut line = self.lock();
        if line.wakers.len() >= MAX_WAITING {
            return None;
        }
        let number = line.next;
        line.next += 1;
        line.wakers.insert(number, None);
        self.waiting.store(line.wakers.len(), SeqCst);
        Some(Ticket { queue: self, number })
    }

    /// A place may be free: lets the first in the queue look.
    pub(crate) fn wake(&self) {
        if self.len() > 0
            && let Some((_, Some(waker))) = self.lock().wakers.first_key_value()
        {
            waker.wake_by_ref();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket<'_> {
    /// Waits until this is the first in the queue and `take` gives something.
    pub(crate) async fn turn<T>(&self, mut take: impl FnMut() -> Option<T>) -> T {
        poll_fn(|cx| {
            {
                let mut line = self.queue.lock();
                line.wakers.insert(self.number, Some(cx.waker().clone()));
                if line.wakers.first_key_value().is_some_and(|(first, _)| *first != self.number) {
                    return Poll::Pending;
                }
            }
            // The waker is known by now: a place that comes free after this look wakes us.
            take().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        {
            let mut line = self.queue.lock();
            line.wakers.remove(&self.number);
            self.queue.waiting.store(line.wakers.len(), SeqCst);
        }
        self.queue.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::pin::pin;
    use std::task::Context;

    #[test]
    fn places_go_to_the_first_in_the_queue_and_then_to_the_next() {
        let queue = Queue::default();
        let free = Cell::new(0);
        let take = || (free.get() > 0).then(|| free.set(free.get() - 1));
        let mut cx = Context::from_waker(Waker::noop());
        let first = queue.join().unwrap();
        let second = queue.join().unwrap();
        {
            let mut first_turn = pin!(first.turn(take));
            let mut second_turn = pin!(second.turn(take));
            assert!(first_turn.as_mut().poll(&mut cx).is_pending());
            free.set(1);
            assert!(second_turn.as_mut().poll(&mut cx).is_pending(), "it must not overtake");
            assert!(first_turn.as_mut().poll(&mut cx).is_ready());
        }
        drop(first);
        free.set(1);
        assert!(pin!(second.turn(take)).poll(&mut cx).is_ready());
        drop(second);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn a_full_queue_refuses() {
        let queue = Queue::default();
        let tickets: Vec<_> = std::iter::from_fn(|| queue.join()).collect();
        assert_eq!(tickets.len(), MAX_WAITING);
        drop(tickets);
        assert!(queue.join().is_some());
    }
}
