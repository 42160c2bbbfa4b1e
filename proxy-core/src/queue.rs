//! Clients that wait for a server with a free place: one queue a backend, first come first served, all workers.
//!
//! Who can go to one server only waits in a lane for that one, and holds up nobody else. Only the first in a lane may take a
//! place; whoever leaves, with a place or without, wakes the next first. So one wake-up per freed place is enough, and none
//! can be lost. Nobody queues on the steady path, which looks at one atomic here.

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
    wakers: BTreeMap<(Lane, u64), Option<Waker>>,
}

impl Line {
    /// The number of the first in a lane, and its task.
    fn first(&self, lane: Lane) -> Option<(u64, Option<&Waker>)> {
        let ((_, number), waker) = self.wakers.range((lane, 0)..=(lane, u64::MAX)).next()?;
        Some((*number, waker.as_ref()))
    }
}

/// What is waited for: one server, or any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lane(Option<usize>);

impl Lane {
    pub(crate) const ANY: Lane = Lane(None);

    /// For the server of this number, which no other one of the backend has.
    pub(crate) fn of(server: usize) -> Lane {
        Lane(Some(server))
    }
}

/// A place in the queue; given up when dropped.
#[derive(Debug)]
pub(crate) struct Ticket<'a> {
    queue: &'a Queue,
    lane: Lane,
    number: u64,
}

impl Queue {
    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    /// Whether nobody waits in a lane.
    pub(crate) fn is_free(&self, lane: Lane) -> bool {
        self.len() == 0 || self.lock().first(lane).is_none()
    }

    /// To the end of a lane; `None` when the queue is full.
    pub(crate) fn join(&self, lane: Lane) -> Option<Ticket<'_>> {
        let mut line = self.lock();
        if line.wakers.len() >= MAX_WAITING {
            return None;
        }
        let number = line.next;
        line.next += 1;
        line.wakers.insert((lane, number), None);
        self.waiting.store(line.wakers.len(), SeqCst);
        Some(Ticket { queue: self, lane, number })
    }

    /// Places may be free anywhere: lets the first in each lane look.
    pub(crate) fn wake(&self) {
        if self.len() == 0 {
            return;
        }
        let line = self.lock();
        let mut next = line.wakers.first_key_value();
        while let Some((&(lane, _), waker)) = next {
            waker.iter().for_each(Waker::wake_by_ref);
            next = line.wakers.range((lane, u64::MAX)..).next();
        }
    }

    /// A place may be free at one server: lets the first look that waits for it, and the first that waits for any.
    pub(crate) fn wake_for(&self, server: Lane) {
        if self.len() == 0 {
            return;
        }
        let line = self.lock();
        let first = |lane| line.first(lane).and_then(|(_, waker)| waker);
        first(server).into_iter().chain(first(Lane::ANY)).for_each(Waker::wake_by_ref);
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket<'_> {
    /// Waits until this is the first in its lane and `take` gives something.
    pub(crate) async fn turn<T>(&self, mut take: impl FnMut() -> Option<T>) -> T {
        poll_fn(|cx| {
            {
                let mut line = self.queue.lock();
                line.wakers.insert((self.lane, self.number), Some(cx.waker().clone()));
                if line.first(self.lane).is_some_and(|(first, _)| first != self.number) {
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
            line.wakers.remove(&(self.lane, self.number));
            self.queue.waiting.store(line.wakers.len(), SeqCst);
        }
        self.queue.wake_for(self.lane);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Wake};

    #[test]
    fn places_go_to_the_first_in_the_queue_and_then_to_the_next() {
        let queue = Queue::default();
        let free = Cell::new(0);
        let take = || (free.get() > 0).then(|| free.set(free.get() - 1));
        let mut cx = Context::from_waker(Waker::noop());
        let first = queue.join(Lane::ANY).unwrap();
        let second = queue.join(Lane::ANY).unwrap();
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
        let tickets: Vec<_> = std::iter::from_fn(|| queue.join(Lane::ANY)).collect();
        assert_eq!(tickets.len(), MAX_WAITING);
        drop(tickets);
        assert!(queue.join(Lane::of(7)).is_some());
    }

    #[test]
    fn who_waits_for_one_server_holds_up_nobody_else() {
        let queue = Queue::default();
        let free = Cell::new(0);
        let take = || (free.get() > 0).then(|| free.set(free.get() - 1));
        let mut cx = Context::from_waker(Waker::noop());
        let [one, second_for_one, other, any] =
            [Lane::of(1), Lane::of(1), Lane::of(2), Lane::ANY].map(|lane| queue.join(lane).unwrap());
        assert!(pin!(one.turn(take)).poll(&mut cx).is_pending());
        free.set(3);
        assert!(pin!(second_for_one.turn(take)).poll(&mut cx).is_pending(), "it must not overtake");
        assert!(pin!(other.turn(take)).poll(&mut cx).is_ready());
        assert!(pin!(any.turn(take)).poll(&mut cx).is_ready());
        assert!(pin!(one.turn(take)).poll(&mut cx).is_ready());
        assert!(queue.is_free(Lane::of(3)) && !queue.is_free(Lane::of(1)));
    }

    #[test]
    fn a_place_wakes_those_whom_it_may_suit_and_a_change_the_first_of_every_lane() {
        let queue = Queue::default();
        let lanes = [Lane::ANY, Lane::of(1), Lane::of(1), Lane::of(2)];
        let tickets = lanes.map(|lane| queue.join(lane).unwrap());
        let wakers = lanes.map(|_| Arc::new(Count::default()));
        for (ticket, waker) in tickets.iter().zip(&wakers) {
            let waker = Waker::from(Arc::clone(waker));
            assert!(pin!(ticket.turn(|| None::<()>)).poll(&mut Context::from_waker(&waker)).is_pending());
        }
        let woken = || wakers.each_ref().map(|waker| waker.0.swap(0, SeqCst));
        queue.wake_for(Lane::of(2));
        assert_eq!(woken(), [1, 0, 0, 1]);
        queue.wake();
        assert_eq!(woken(), [1, 1, 0, 1]);
        let [any, one, two, other] = tickets;
        drop(one);
        assert_eq!(woken(), [1, 0, 1, 0]);
        drop((any, two, other));
        assert_eq!(queue.len(), 0);
    }

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Count>) {
            self.0.fetch_add(1, SeqCst);
        }
    }
}
