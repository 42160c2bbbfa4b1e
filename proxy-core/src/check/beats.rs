//! Waiting for the next check: thousands of servers share the timer's few wake-ups.
//!
//! A check that doesn't come often begins at a whole beat. Those that begin together also wait, look and are answered
//! together (see [`super::line`]); and a beat needs one timer, however many wait for it.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// In milliseconds.
const BEAT: u64 = 10;
/// A pause of at least so much isn't made noticeably longer by a part of a beat.
const SELDOM: Duration = Duration::from_millis(200);

/// Who waits for which beat.
#[derive(Debug)]
pub(super) struct Beats {
    began: Instant,
    waiting: Mutex<BTreeMap<u64, Arc<Notify>>>,
    /// Somebody waits for a beat before all others.
    earlier: Notify,
}

impl Beats {
    pub(super) fn new() -> Beats {
        Beats { began: Instant::now(), waiting: Mutex::default(), earlier: Notify::new() }
    }

    /// Ends at `due`, or with the beat after it if that is far enough.
    pub(super) async fn until(&self, due: Instant) {
        if due.saturating_duration_since(Instant::now()) < SELDOM {
            return sleep_until(due).await;
        }
        let beat = after(due.saturating_duration_since(self.began));
        let reached = {
            let mut waiting = self.waiting();
            if waiting.first_key_value().is_none_or(|(first, _)| beat < *first) {
                self.earlier.notify_one();
            }
            Arc::clone(waiting.entry(beat).or_default()).notified_owned()
        };
        reached.await;
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Notify>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes whoever waits, beat by beat; never ends.
    pub(super) async fn keep(&self) {
        loop {
            let first = self.waiting().first_key_value().map(|(beat, _)| *beat);
            let reached = async {
                match first {
                    Some(beat) => sleep_until(self.began + Duration::from_millis(beat * BEAT)).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = reached => {
                    let due = self.waiting().pop_first();
                    due.into_iter().for_each(|(_, waiting)| waiting.notify_waiters());
                }
                () = self.earlier.notified() => {}
            }
        }
    }
}

/// The first beat that isn't before this time.
fn after(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(u128::from(BEAT) * 1_000_000)).unwrap_or(u64::MAX / BEAT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_woken_before_it_is_due() {
        let beat = |micros| after(Duration::from_micros(micros));
        assert_eq!([beat(0), beat(1), beat(10_000), beat(10_001), beat(29_999)], [0, 1, 1, 2, 3]);
        assert_eq!(after(Duration::MAX), u64::MAX / BEAT);
    }

    #[tokio::test]
    async fn who_waits_longer_holds_up_nobody_who_comes_later_and_waits_less() {
        let beats = Beats::new();
        let begun = Instant::now();
        let woken = async |after: u64| {
            let due = begun + Duration::from_millis(after);
            beats.until(due).await;
            assert!(Instant::now() >= due, "{after}");
            after
        };
        // Polled in this order: the longest waits first.
        let all = async { tokio::join!(woken(420), woken(210), woken(210), woken(1), woken(310)) };
        tokio::select! {
            () = beats.keep() => unreachable!("it never ends"),
            all = all => assert_eq!(all, (420, 210, 210, 1, 310)),
        }
        assert!(begun.elapsed() < Duration::from_secs(20) && beats.waiting().is_empty());
    }
}
