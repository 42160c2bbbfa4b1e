//! Two at random by weight, and of them the less loaded one: near to the fewest sessions, without a look at them all.

use super::Member;
use super::hash::mixed;
use super::least_conn::Load;
use super::table::Table;

/// Draws of which both servers are full before all are looked at.
const DRAWS: u32 = 4;

/// What is drawn from, and the state of the generator (SplitMix64).
#[derive(Debug)]
pub(super) struct Random {
    state: u64,
    shares: Table,
}

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random { state: mixed(!seed), shares: Table::default() }
    }

    pub(super) fn follow(&mut self, members: &[Member]) {
        self.shares.follow(members, |server| server);
    }

    /// One of the members that `room` has the sessions of; `None`: none of those drawn has any.
    pub(super) fn pick(&mut self, members: &[Member], room: impl Fn(&Member) -> Option<u32>) -> Option<usize> {
        let look =
            |index: usize| Some((index, Load { sessions: room(&members[index])?, weight: members[index].weight }));
        (0..DRAWS).find_map(|_| match (look(self.draw()?), look(self.draw()?)) {
            (Some((_, one)), Some((index, other))) if other.is_below(one) => Some(index),
            (Some((index, _)), _) | (None, Some((index, _))) => Some(index),
            (None, None) => None,
        })
    }

    fn draw(&mut self) -> Option<usize> {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.shares.pick(mixed(self.state))
    }
}
