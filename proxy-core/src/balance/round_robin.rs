//! In turn, in proportion to the weights, smoothly interleaved: weights 2 and 1 give a b a, never a a b.
//!
//! A cycle has as many turns as all weights together, and server `i` gets exactly `w[i]` of them: its turn number `k` may come
//! when `k / w[i]` of the cycle has passed, and is due when `(k + 1) / w[i]` has. Of the turns that may come the one due first
//! is next (WF2Q), which two heaps tell in O(log n).

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::mem;

use super::Member;

/// The turns of one group of servers.
#[derive(Debug, Default)]
pub(super) struct RoundRobin {
    /// The server whose turn is first among equals when the members change: the one after who was last.
    first: usize,
    /// Weight of each member, without what all have in common.
    weights: Vec<u32>,
    /// Place of each member among equals.
    ranks: Vec<u32>,
    total: u64,
    /// Turns of the cycle that have passed.
    passed: u64,
    /// By when they are due.
    ready: BinaryHeap<Reverse<Turn>>,
    /// By when they may come.
    later: BinaryHeap<Reverse<Turn>>,
    /// Whose server is full; only while one is chosen.
    aside: Vec<Turn>,
}

/// A member's next turn, at `at / weight` of the cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turn {
    at: u32,
    weight: u32,
    rank: u32,
    member: u32,
}

impl Ord for Turn {
    fn cmp(&self, other: &Turn) -> Ordering {
        let cross = |a: &Turn, b: &Turn| u64::from(a.at) * u64::from(b.weight);
        cross(self, other).cmp(&cross(other, self)).then(self.rank.cmp(&other.rank))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Turn) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl RoundRobin {
    /// Begins with this server, or the next one that is there.
    pub(super) fn starting_at(server: usize) -> RoundRobin {
        RoundRobin { first: server, ..RoundRobin::default() }
    }

    /// Goes on among these: a new cycle, from where the old one was.
    pub(super) fn follow(&mut self, members: &[Member]) {
        let common = members.iter().fold(0, |common, member| gcd(common, member.weight)).max(1);
        self.weights = members.iter().map(|member| member.weight / common).collect();
        self.total = self.weights.iter().map(|weight| u64::from(*weight)).sum();
        // In the order of the servers, from the first one on.
        let before = members.partition_point(|member| member.server < self.first);
        let ranks = (0..members.len()).map(|member| (member + members.len() - before) % members.len());
        self.ranks = ranks.map(|rank| u32::try_from(rank).expect("a plan has fewer servers")).collect();
        self.begin();
    }

    fn begin(&mut self) {
        self.passed = 0;
        self.aside.clear();
        self.later.clear();
        let mut turns = mem::take(&mut self.ready).into_vec();
        turns.clear();
        let all = (0..).zip(self.weights.iter().zip(&self.ranks));
        turns.extend(all.map(|(member, (weight, rank))| Reverse(Turn { at: 1, weight: *weight, rank: *rank, member })));
        self.ready = turns.into();
    }

    /// The next of the members that are open.
    pub(super) fn pick(&mut self, members: &[Member], open: impl Fn(&Member) -> bool) -> Option<usize> {
        let chosen = loop {
            self.let_come();
            match self.ready.pop() {
                Some(Reverse(turn)) if open(&members[turn.member as usize]) => break Some(turn),
                Some(Reverse(turn)) => self.aside.push(turn),
                None if self.aside.len() == members.len() => break None,
                None => match self.later.peek() {
                    // The turns between are lost: they were those of full servers.
                    Some(Reverse(turn)) => {
                        self.passed = (u64::from(turn.at) * self.total).div_ceil(u64::from(turn.weight));
                    }
                    None => self.begin(),
                },
            }
        };
        // A server that was full has no turns to catch up on: none but its next one.
        for mut turn in self.aside.drain(..) {
            let by_now = self.passed * u64::from(turn.weight) / self.total + 1;
            turn.at = turn.at.max(u32::try_from(by_now).unwrap_or(u32::MAX)).min(turn.weight);
            self.ready.push(Reverse(turn));
        }
        let turn = chosen?;
        self.first = members[turn.member as usize].server + 1;
        self.passed += 1;
        if turn.at < turn.weight {
            self.later.push(Reverse(turn));
        }
        Some(turn.member as usize)
    }

    /// Moves on the turns that may come by now.
    fn let_come(&mut self) {
        while let Some(Reverse(turn)) = self.later.peek().copied()
            && u64::from(turn.at) * self.total <= self.passed * u64::from(turn.weight)
        {
            self.later.pop();
            self.ready.push(Reverse(Turn { at: turn.at + 1, ..turn }));
        }
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(weights: &[u32]) -> Vec<Member> {
        weights.iter().enumerate().map(|(server, weight)| Member { server, weight: *weight, max: u32::MAX }).collect()
    }

    fn order(weights: &[u32], start: usize, picks: usize) -> Vec<usize> {
        let members = members(weights);
        let mut turn = RoundRobin::starting_at(start);
        turn.follow(&members);
        (0..picks).map(|_| turn.pick(&members, |_| true).unwrap()).collect()
    }

    #[test]
    fn turns_are_interleaved() {
        assert_eq!(order(&[5, 1, 1], 0, 7), [0, 1, 0, 0, 2, 0, 0]);
        assert_eq!(order(&[2, 1], 0, 6), [0, 1, 0, 0, 1, 0]);
        assert_eq!(order(&[100, 100, 100], 0, 4), [0, 1, 2, 0]);
    }

    #[test]
    fn a_heavy_server_among_many_never_gets_two_turns_in_a_row() {
        let mut weights = vec![1; 1000];
        weights[500] = 256;
        let order = order(&weights, 0, 1255);
        assert!(order.windows(2).all(|two| two[0] != two[1]));
        assert!(order.windows(8).all(|few| few.contains(&500)));
    }

    #[test]
    fn workers_start_with_different_servers() {
        let first = |offset| order(&[1, 1, 1], offset, 1)[0];
        assert_eq!([first(0), first(1), first(2), first(3)], [0, 1, 2, 0]);
    }

    #[test]
    fn a_server_that_was_full_for_long_does_not_get_all_turns_afterwards() {
        let members = members(&[1, 1, 1]);
        let mut turn = RoundRobin::starting_at(0);
        turn.follow(&members);
        for _ in 0..100 {
            assert_ne!(turn.pick(&members, |member| member.server != 1), Some(1));
        }
        assert_eq!(turn.pick(&members, |_| false), None);
        let mut gets = [0; 3];
        (0..9).for_each(|_| gets[turn.pick(&members, |_| true).unwrap()] += 1);
        assert!(gets[1] <= 4, "{gets:?}");
    }
}
