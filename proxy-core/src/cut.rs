//! Sessions that end with their server (`on_marked_down = "shutdown-sessions"`): one that goes down wakes them at once,
//! whichever worker they are on.
//!
//! A session looks at one atomic each time that it is polled anyway, and asks once to be woken: what it costs while
//! nothing happens doesn't grow with its traffic.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::task::unconstrained;

/// How often a server went down.
#[derive(Debug, Default)]
pub(crate) struct Falls {
    count: AtomicU64,
    next: Notify,
}

impl Falls {
    pub(crate) fn count(&self) -> u64 {
        self.count.load(SeqCst)
    }

    /// It went down once more: whoever is with it hears of it.
    pub(crate) fn add(&self) {
        self.count.fetch_add(1, SeqCst);
        self.next.notify_waiters();
    }
}

/// Whether a session is to be cut; to be polled by one task only: it doesn't register the same waker twice.
#[derive(Debug)]
pub(crate) struct Cut<'a>(Option<Watch<'a>>);

#[derive(Debug)]
struct Watch<'a> {
    falls: &'a Falls,
    /// As many as there were when the session came; `None`: the server was down by then.
    before: Option<u64>,
    next: Option<Pin<Box<Notified<'a>>>>,
}

impl<'a> Cut<'a> {
    /// It outlives its server.
    pub(crate) const NEVER: Cut<'static> = Cut(None);

    /// With the first fall after so many; `None`: at once.
    pub(crate) fn after(before: Option<u64>, falls: &'a Falls) -> Cut<'a> {
        Cut(Some(Watch { falls, before, next: None }))
    }

    /// Ready when the server went down; until then the task will be woken in time.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(watch) = &mut self.0 else { return Poll::Pending };
        if watch.next.is_none() {
            let next = watch.next.insert(Box::pin(watch.falls.next.notified()));
            // Whatever the task has done in this turn: a wait that tokio puts off here would never wake it.
            let _ = Pin::new(&mut unconstrained(next.as_mut())).poll(cx);
        }
        // The waker is known by now: a fall after this look wakes us.
        if watch.before == Some(watch.falls.count()) { Poll::Pending } else { Poll::Ready(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::task::{Wake, Waker};

    #[derive(Default)]
    struct Woken(AtomicU64);

    impl Wake for Woken {
        fn wake(self: Arc<Woken>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn a_fall_wakes_whoever_waits_and_no_fall_is_missed() {
        let falls = Falls::default();
        falls.add();
        let woken = [(); 40].map(|()| Arc::new(Woken::default()));
        let mut cuts = woken.each_ref().map(|_| Cut::after(Some(falls.count()), &falls));
        let mut poll_all = || {
            let polls = cuts.iter_mut().zip(&woken).map(|(cut, woken)| {
                let waker = Waker::from(Arc::clone(woken));
                cut.poll(&mut Context::from_waker(&waker)).is_ready()
            });
            polls.filter(|ready| *ready).count()
        };
        assert_eq!((poll_all(), poll_all()), (0, 0));
        falls.add();
        assert!(woken.iter().all(|woken| woken.0.load(SeqCst) == 1));
        assert_eq!(poll_all(), 40);
        let mut cx = Context::from_waker(Waker::noop());
        let before = Some(falls.count());
        falls.add();
        assert!(Cut::after(before, &falls).poll(&mut cx).is_ready(), "it fell before anybody looked");
        assert!(Cut::after(None, &falls).poll(&mut cx).is_ready(), "it was down");
        let mut never = Cut::NEVER;
        assert!(never.poll(&mut cx).is_pending());
    }
}
