//! One timer for everything that a connection waits for. It is moved when it rings or must ring earlier, not each
//! time that something happens: a busy connection does no timer work.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::task::unconstrained;
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
        self.poll_later(cx, || deadline)
    }

    /// The same with a deadline that only moves on, and is asked for when it rings.
    pub(crate) fn poll_later(&mut self, cx: &mut Context<'_>, deadline: impl Fn() -> Instant) -> Poll<()> {
        loop {
            if self.registered && !self.sleep.is_elapsed() {
                return Poll::Pending;
            }
            self.registered = true;
            // Whatever the task has done in this turn: a timer that tokio puts off here would never wake it.
            ready!(pin!(unconstrained(self.sleep.as_mut())).poll(cx));
            let deadline = deadline();
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::task::coop::{has_budget_remaining, poll_proceed};
    use tokio::time::timeout;

    #[tokio::test(flavor = "current_thread")]
    async fn it_rings_however_much_its_task_did_in_the_turn_that_set_it() {
        // In a task: only tasks have a budget for each turn.
        let task = tokio::spawn(async {
            for left in 0..3 {
                let deadline = Instant::now() + Duration::from_millis(50);
                // Rings at once, and has to be set again.
                let mut alarm = Alarm::new(Instant::now());
                let mut spent = false;
                poll_fn(|cx| {
                    if !std::mem::replace(&mut spent, true) {
                        for _ in 0..128 - left {
                            assert!(poll_proceed(cx).map(|progress| progress.made_progress()).is_ready());
                        }
                        assert_eq!(has_budget_remaining(), left > 0);
                    }
                    alarm.poll(cx, deadline)
                })
                .await;
                assert!(Instant::now() >= deadline);
            }
        });
        timeout(Duration::from_secs(10), task).await.expect("it rings").expect("it does not panic");
    }
}
