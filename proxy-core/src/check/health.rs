//! Rise and fall: when results in a row change a server's state. Pure.

use std::time::Duration;

use crate::plan::{Check, OnError};
use crate::stats::ServerState;

/// One server's health as its checks see it.
#[derive(Debug)]
pub(crate) struct Health {
    state: ServerState,
    rise: u32,
    fall: u32,
    /// Results in a row that speak against the state.
    against: u32,
}

impl Health {
    pub(crate) fn new(state: ServerState, rise: u32, fall: u32) -> Health {
        Health { state, rise, fall, against: 0 }
    }

    /// Takes one result; the new state if that changes it.
    pub(crate) fn record(&mut self, ok: bool) -> Option<ServerState> {
        let (agrees, needed) = match self.state {
            ServerState::Checking => (false, 1),
            ServerState::Down => (!ok, self.rise),
            _ => (ok, self.fall),
        };
        self.against = if agrees { 0 } else { self.against + 1 };
        if self.against < needed || agrees {
            return None;
        }
        self.against = 0;
        self.state = if ok { ServerState::Up } else { ServerState::Down };
        Some(self.state)
    }

    /// Takes errors that clients met with; the new state if that changes it. One that is down already can't be more so.
    pub(crate) fn observe(&mut self, on_error: OnError) -> Option<ServerState> {
        if self.state == ServerState::Down {
            return None;
        }
        match on_error {
            OnError::FastInterval => None,
            OnError::FailCheck => self.record(false),
            OnError::SuddenDeath => {
                self.against = self.against.max(self.fall.saturating_sub(2));
                // With a fall of 1 there is no check but one.
                if self.fall > 1 { self.record(false) } else { None }
            }
            OnError::MarkDown => {
                (self.against, self.state) = (0, ServerState::Down);
                Some(self.state)
            }
        }
    }

    /// Before the next check.
    pub(crate) fn pause(&self, check: &Check) -> Duration {
        let slow = if self.state == ServerState::Down { check.down_interval } else { None };
        let fast = if self.against > 0 { check.fast_interval } else { None };
        fast.or(slow).unwrap_or(check.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ServerState::{Checking, Down, Up};

    #[test]
    fn the_first_result_decides_at_once() {
        assert_eq!(Health::new(Checking, 3, 3).record(true), Some(Up));
        assert_eq!(Health::new(Checking, 3, 3).record(false), Some(Down));
    }

    #[test]
    fn only_results_in_a_row_count() {
        let mut health = Health::new(Up, 2, 3);
        let results = [false, false, true, false, false, false, true, false, true, true];
        let changes: Vec<_> = results.map(|ok| health.record(ok)).into();
        let expected = [None, None, None, None, None, Some(Down), None, None, None, Some(Up)];
        assert_eq!(changes, expected);
    }

    #[test]
    fn what_clients_met_with_counts_as_it_is_told_to() {
        let after = |on_error, fall| {
            let mut health = Health::new(Up, 2, fall);
            [health.observe(on_error), health.record(false)]
        };
        assert_eq!(after(OnError::FastInterval, 2), [None, None]);
        assert_eq!(after(OnError::FailCheck, 2), [None, Some(Down)]);
        assert_eq!(after(OnError::FailCheck, 3), [None, None]);
        assert_eq!(after(OnError::SuddenDeath, 3), [None, Some(Down)]);
        assert_eq!(after(OnError::SuddenDeath, 2), [None, Some(Down)]);
        assert_eq!(after(OnError::SuddenDeath, 1), [None, Some(Down)]);
        assert_eq!(after(OnError::MarkDown, 3), [Some(Down), None]);
        assert_eq!(Health::new(Down, 2, 1).observe(OnError::MarkDown), None);
    }

    #[test]
    fn checks_come_faster_while_the_state_is_in_doubt_and_slower_while_it_is_down() {
        let second = Duration::from_secs(1);
        let check = Check {
            interval: 5 * second,
            fast_interval: Some(second),
            down_interval: Some(30 * second),
            ..Check::default()
        };
        let mut health = Health::new(Up, 2, 2);
        let mut pauses = vec![health.pause(&check)];
        for ok in [false, false, true, true] {
            health.record(ok);
            pauses.push(health.pause(&check));
        }
        assert_eq!(pauses, [5, 1, 30, 1, 5].map(|seconds| seconds * second));
    }
}
