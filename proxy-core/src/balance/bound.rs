//! How much load a server may have beside the others (HAProxy's `hash-balance-factor`).

use super::Member;

/// For one choice: the sessions and weights of all members.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    percent: u64,
    sessions: u64,
    weights: u64,
}

impl Bound {
    pub(super) fn of(percent: u16, members: &[Member], sessions: impl Fn(usize) -> u32) -> Bound {
        let none = Bound { percent: u64::from(percent), sessions: 0, weights: 0 };
        members.iter().fold(none, |sum, member| Bound {
            sessions: sum.sessions + u64::from(sessions(member.server)),
            weights: sum.weights + u64::from(member.weight),
            ..sum
        })
    }

    /// Whether a member with so many sessions may have one more: with it, it has at most its share of all of them times the
    /// bound, rounded up.
    pub(super) fn allows(&self, member: &Member, now: u32) -> bool {
        let most = (self.sessions + 1) * self.percent * u64::from(member.weight);
        u64::from(now) < most.div_ceil((100 * self.weights).max(1))
    }
}
