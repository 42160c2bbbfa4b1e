//! One timer for everything that a connection waits for. It is moved when it rings or must ring earlier, not each
//! time that something happens: a busy connection does no timer work.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// To be polled by one task only: it doesn't register the same waker twice.
#[derive(Debug)]
pub(crate) struct Alarm {
    sleep: Pin<Box<Sleep>>,
    registered: bool,
}

impl Alarm {
    pub(crate) fn new(deadline: Instant) -> Alarm {
        Alarm { sleep: Box::pin(sleep_until(deadline)), registered: false }
    }

    /// Ready once `deadline` has passed; until then the task will be woken in time.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        if deadline < self.sleep.deadline() {
            self.set(deadline);
        }
        loop {
            if self.registered && !self.sleep.is_elapsed() {
                return Poll::Pending;
            }
            self.registered = true;
            ready!(self.sleep.as_mut().poll(cx));
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            self.set(deadline);
        }
    }

    fn set(&mut self, deadline: Instant) {
        self.sleep.as_mut().reset(deadline);
        self.registered = false;
    }
}
