//! Rise and fall: when results in a row change a server's state. Pure.

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
            ServerState::Up | ServerState::Drain => (ok, self.fall),
        };
        self.against = if agrees { 0 } else { self.against + 1 };
        if self.against < needed || agrees {
            return None;
        }
        self.against = 0;
        self.state = if ok { ServerState::Up } else { ServerState::Down };
        Some(self.state)
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
}
