//! What clients meet with at a server, as its check sees it (HAProxy's `observe`): errors in a row, within a window.
//!
//! Workers report; the server's check is woken when it has been too much. While nothing goes wrong a report costs one
//! load of a flag that nobody writes.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use crate::http::exchange::{End, Failure};
use crate::plan::Observe;
use crate::route::Route;

/// The experience of all workers with one server.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    /// There is a row to be ended.
    begun: AtomicBool,
    row: Mutex<Option<Row>>,
    too_many: Notify,
}

/// Errors in a row.
#[derive(Clone, Copy, Debug)]
struct Row {
    errors: u32,
    since: Instant,
}

impl Observed {
    /// It served somebody as it should.
    pub(crate) fn good(&self) {
        if self.begun.load(SeqCst) {
            let mut row = self.row.lock().unwrap_or_else(PoisonError::into_inner);
            *row = None;
            self.begun.store(false, SeqCst);
        }
    }

    /// It failed somebody.
    pub(crate) fn bad(&self, rules: &Observe, now: Instant) {
        let mut row = self.row.lock().unwrap_or_else(PoisonError::into_inner);
        let going = row.filter(|row| now.saturating_duration_since(row.since) <= rules.window);
        let Row { errors, since } = going.unwrap_or(Row { errors: 0, since: now });
        let errors = errors + 1;
        *row = (errors < rules.errors).then_some(Row { errors, since });
        self.begun.store(row.is_some(), SeqCst);
        if errors >= rules.errors {
            self.too_many.notify_one();
        }
    }

    /// Ends when there were too many errors, once each time.
    pub(super) async fn too_many(&self) {
        self.too_many.notified().await;
    }
}

impl Route {
    /// Reports an experience with a server, if its backend wants to know.
    pub(crate) fn observe(&self, backend: usize, server: usize, good: bool) {
        let Some(rules) = self.backend(backend).check.as_ref().and_then(|check| check.observe.as_ref()) else { return };
        let observed = &self.server_live(backend, server).observed;
        if good { observed.good() } else { observed.bad(rules, Instant::now()) }
    }
}

/// Whether an exchange speaks for its server; `None`: it says nothing of it.
pub(crate) fn speaks_for(status: u16, end: Result<End, Failure>) -> Option<bool> {
    match end {
        // As HAProxy: 501 and 505 are about the request.
        Ok(_) => Some(status < 500 || matches!(status, 501 | 505)),
        Err(Failure::Server | Failure::ServerTimeout | Failure::Response(_)) => Some(false),
        // That it is down is known.
        Err(Failure::Client | Failure::ClientTimeout | Failure::Request(_) | Failure::Down) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::OnError;
    use std::time::Duration;

    const RULES: Observe = Observe { errors: 3, window: Duration::from_secs(10), on_error: OnError::FailCheck };

    /// At which of these experiences, each so long after the one before, it was too much.
    fn trips(experiences: &str, apart: Duration) -> Vec<usize> {
        let (observed, mut now) = (Observed::default(), Instant::now());
        let mut trips = Vec::new();
        for (number, experience) in experiences.chars().enumerate() {
            now += apart;
            if experience == '+' {
                observed.good()
            } else {
                observed.bad(&RULES, now)
            }
            let mut noticed = std::pin::pin!(observed.too_many());
            let cx = &mut std::task::Context::from_waker(std::task::Waker::noop());
            if noticed.as_mut().poll(cx).is_ready() {
                trips.push(number);
            }
        }
        trips
    }

    #[test]
    fn only_errors_in_a_row_and_within_the_window_are_too_many() {
        let second = Duration::from_secs(1);
        assert_eq!(trips("--+---+--", second), [5]);
        assert_eq!(trips("-------", second), [2, 5]);
        assert!(trips("-------", 6 * second).is_empty());
        assert_eq!(trips("----", 5 * second), [2]);
    }
}
