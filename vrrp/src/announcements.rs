//! When an active router announces its addresses (gratuitous ARP): a plan made at the takeover, and single ones beside it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::types::Time;

/// Milliseconds after the addresses are there: the usual burst of five.
const BURST: [u64; 5] = [0, 10, 20, 50, 100];
/// Until the lease of a silent predecessor has lapsed (the kernel takes up to 1.2 s), which may still answer ARP.
const INSIST: [u64; 7] = [300, 500, 700, 900, 1100, 1300, 1500];
/// The usual second burst, for switches that were busy with something else.
const SECOND_BURST: u64 = 5000;
/// The shortest time between two announcements that others provoke.
const ANSWER: Duration = Duration::from_millis(100);

/// What is still to be announced, and what was.
#[derive(Clone, Debug, Default)]
pub(crate) struct Announcements {
    pending: VecDeque<Time>,
    last: Option<Time>,
}

impl Announcements {
    /// Forgets everything: the addresses are no longer ours, or just became so.
    pub(crate) fn clear(&mut self) {
        *self = Announcements::default();
    }

    /// Plans from the beginning. `insist`: somebody else may answer for the addresses until a lease has lapsed.
    pub(crate) fn plan(&mut self, insist: bool, now: Time) {
        let second = BURST.iter().map(|offset| SECOND_BURST + offset);
        let insisting = INSIST.iter().copied().filter(|_| insist);
        let offsets = BURST.into_iter().chain(insisting).chain(second);
        self.pending = offsets.map(|offset| now + Duration::from_millis(offset)).collect();
    }

    /// When the next one is due.
    pub(crate) fn next(&self) -> Option<Time> {
        self.pending.front().copied()
    }

    /// Whether one is due now. Several that were missed are made up for by one.
    pub(crate) fn take_due(&mut self, now: Time) -> bool {
        let before = self.pending.len();
        self.pending.retain(|at| *at > now);
        let due = self.pending.len() < before;
        if due {
            self.last = Some(now);
        }
        due
    }

    /// Whether one may be made outside the plan: not right after another one.
    pub(crate) fn take_answer(&mut self, now: Time) -> bool {
        let may = self.last.is_none_or(|at| now - at >= ANSWER);
        if may {
            self.last = Some(now);
        }
        may
    }
}
