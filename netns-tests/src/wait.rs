//! Waiting for a state, with a deadline and with words for the case that it never comes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Small enough that it does not show in a figure given in milliseconds.
const STEP: Duration = Duration::from_millis(5);

/// Set once, by Ctrl-C, and never taken back: every wait of the process ends.
static CANCELLED: AtomicBool = AtomicBool::new(false);

/// A wait that ended without what it waited for.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// The deadline passed.
    #[error("waited {within:?} for {what}, in vain; last seen: {last_seen}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// For how long.
        within: Duration,
        /// The state at the end.
        last_seen: String,
    },
    /// [`cancel_all`] was called.
    #[error("interrupted while waiting for {0}")]
    Cancelled(String),
}

/// Polls `probe` until it is `Ok`; its `Err` says in words what was seen instead.
pub fn wait_until<T>(
    what: &str,
    within: Duration,
    mut probe: impl FnMut() -> Result<T, String>,
) -> Result<T, WaitError> {
    let deadline = Instant::now() + within;
    loop {
        let last_seen = match probe() {
            Ok(value) => return Ok(value),
            Err(seen) => seen,
        };
        if cancelled() {
            return Err(WaitError::Cancelled(what.into()));
        }
        if Instant::now() >= deadline {
            return Err(WaitError::TimedOut { what: what.into(), within, last_seen });
        }
        step();
    }
}

/// Lets time pass, for a measurement that has to last; ends early when cancelled.
pub fn pass(length: Duration) {
    let end = Instant::now() + length;
    while Instant::now() < end && !cancelled() {
        step();
    }
}

/// Ends every wait of this process, now and later.
pub fn cancel_all() {
    CANCELLED.store(true, Ordering::Relaxed);
}

/// Whether [`cancel_all`] was called.
pub fn cancelled() -> bool {
    CANCELLED.load(Ordering::Relaxed)
}

#[expect(clippy::disallowed_methods, reason = "the one place that polls; everybody else waits for a state")]
fn step() {
    thread::sleep(STEP);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_in_vain_says_what_was_seen_last() {
        let error = wait_until("rain", Duration::ZERO, || Err::<(), _>("sunshine".to_owned())).unwrap_err();
        assert_eq!(error.to_string(), "waited 0ns for rain, in vain; last seen: sunshine");
    }

    #[test]
    fn a_wait_ends_with_the_state() {
        let mut polls = 0;
        let seen = wait_until("the third poll", Duration::from_secs(5), || {
            polls += 1;
            if polls == 3 { Ok(polls) } else { Err(polls.to_string()) }
        });
        assert_eq!(seen.unwrap(), 3);
    }
}
