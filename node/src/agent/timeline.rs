//! The events of VIPs that moved: what both nodes did, on one clock, in one record.
//!
//! The node that takes a VIP has an event of it; its own steps amend it as they come, and so do the peer's, which travel
//! over the sync channel and may come first, late (the channel was down) or never.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use sync::{clock, clock_at};
use vrrp::io::snapshot::Step;

use crate::events::{Stamp, Store, What, timeline};
use crate::peer::{Did, StepTold};

/// Steps of each VIP that are remembered until an event wants them, and steps that wait for the peer.
const KEPT: usize = 32;
/// A step without a term of its own belongs to the takeover that it comes after within this time, in microseconds.
const TOGETHER: i64 = 60_000_000;

/// What is known of the steps.
pub(super) struct Timelines {
    node: String,
    peer: String,
    vips: BTreeMap<String, Vip>,
    /// The last steps of ours, and how many of them the peer was told in this session.
    own: VecDeque<StepTold>,
    told: usize,
    /// The last steps of the peer: a new session tells them again, for what the one before carried may be lost.
    heard: VecDeque<StepTold>,
    /// Of these, the ones that were told before the peer's clock could be read.
    unplaced: VecDeque<StepTold>,
}

#[derive(Default)]
struct Vip {
    /// Steps of both nodes, with the term of each, by this node's clock; the oldest first.
    steps: VecDeque<(Stamp, Option<u64>)>,
    /// The newest takeover by this node.
    event: Option<Takeover>,
}

#[derive(Clone, Copy)]
struct Takeover {
    /// Number of its event.
    id: u64,
    term: u64,
    at: i64,
}

impl Timelines {
    pub(super) fn new(node: &str, peer: &str) -> Timelines {
        let (node, peer) = (node.to_owned(), peer.to_owned());
        let (own, heard, unplaced) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        Timelines { node, peer, vips: BTreeMap::new(), own, told: 0, heard, unplaced }
    }

    /// Something that this node did; [`Timelines::untold`] has it for the peer.
    pub(super) fn own(&mut self, vip: &str, did: Did, term: u64, at: Instant, events: &Store) {
        let clock = clock_at(at);
        if self.own.len() == KEPT {
            self.own.pop_front();
            self.told = self.told.saturating_sub(1);
        }
        self.own.push_back(StepTold { vip: vip.to_owned(), what: did, term, at: clock });
        if let Some(what) = what(did) {
            let stamp = Stamp { what, node: self.node.clone(), at_us: signed(clock) };
            self.take(vip, stamp, Some(term), events);
        }
    }

    /// What the first client's arrival adds.
    pub(super) fn first_connection(&mut self, vip: &str, at: Instant, events: &Store) {
        let stamp = Stamp { what: What::FirstConnection, node: self.node.clone(), at_us: signed(clock_at(at)) };
        self.take(vip, stamp, None, events);
    }

    /// Something that the peer did. What a new session tells again is passed over. It waits for [`Timelines::place`]: a
    /// session's first messages come before its first ping, which tells how the peer's clock differs.
    pub(super) fn peer(&mut self, told: StepTold) {
        if self.heard.contains(&told) {
            return;
        }
        for steps in [&mut self.heard, &mut self.unplaced] {
            if steps.len() == KEPT {
                steps.pop_front();
            }
            steps.push_back(told.clone());
        }
    }

    /// Gives the peer's steps their place; `offset` is its clock minus ours. Returns what has none in a timeline, with its age.
    pub(super) fn place(&mut self, offset: i64, events: &Store) -> Vec<(StepTold, Duration)> {
        let mut others = Vec::new();
        while let Some(told) = self.unplaced.pop_front() {
            let at_us = signed(told.at).saturating_sub(offset);
            let Some(what) = what(told.what) else {
                let age = signed(clock()).saturating_sub(at_us).max(0).unsigned_abs();
                others.push((told, Duration::from_micros(age)));
                continue;
            };
            let stamp = Stamp { what, node: self.peer.clone(), at_us };
            if self.vips.contains_key(&told.vip) {
                self.take(&told.vip, stamp, Some(told.term), events);
            }
        }
        others
    }

    /// The peer is another process than before, with another clock.
    pub(super) fn peer_restarted(&mut self) {
        self.unplaced.clear();
        self.heard.clear();
    }

    fn take(&mut self, name: &str, stamp: Stamp, term: Option<u64>, events: &Store) {
        let vip = self.vips.entry(name.to_owned()).or_default();
        if vip.steps.len() == KEPT {
            vip.steps.pop_front();
        }
        vip.steps.push_back((stamp, term));
        vip.amend(&self.node, events);
    }

    /// This node took a VIP, as the event `id` says.
    pub(super) fn took(&mut self, name: &str, id: u64, term: u64, at: Instant, events: &Store) {
        let vip = self.vips.entry(name.to_owned()).or_default();
        vip.event = Some(Takeover { id, term, at: signed(clock_at(at)) });
        vip.amend(&self.node, events);
    }

    /// The next step that the peer was not told in this session.
    pub(super) fn untold(&self) -> Option<&StepTold> {
        self.own.get(self.told)
    }

    /// That one was sent.
    pub(super) fn told(&mut self) {
        self.told += 1;
    }

    /// A new session: the peer is told everything once more.
    pub(super) fn tell_again(&mut self) {
        self.told = 0;
    }

    /// Only these VIPs are configured.
    pub(super) fn configure<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        let mut before = std::mem::take(&mut self.vips);
        self.vips = names.map(|name| (name.to_owned(), before.remove(name).unwrap_or_default())).collect();
    }
}

impl Vip {
    fn amend(&self, taker: &str, events: &Store) {
        let Some(takeover) = self.event else { return };
        let belongs = |(stamp, term): &&(Stamp, Option<u64>)| takeover.has(stamp, *term, taker);
        let stamps: Vec<Stamp> = self.steps.iter().filter(belongs).map(|(stamp, _)| stamp.clone()).collect();
        events.amend(takeover.id, |event| event.timeline = timeline(stamps));
    }
}

impl Takeover {
    /// Whether a step is part of it: the taker's in its term; the other node's giving up, in the term before or, if it had
    /// heard of the new one, in this.
    fn has(&self, stamp: &Stamp, term: Option<u64>, taker: &str) -> bool {
        let Some(term) = term else { return (0..TOGETHER).contains(&(stamp.at_us - self.at)) };
        match stamp.what {
            What::TookOver | What::Added | What::Announced => stamp.node == taker && term == self.term,
            _ => stamp.node != taker && (term == self.term || term + 1 == self.term),
        }
    }
}

/// What a timeline calls it; `None`: it has no place in one.
fn what(did: Did) -> Option<What> {
    Some(match did {
        Did::Detect => What::Detected,
        Did::Step(Step::Resigned) => What::Resigned,
        Did::Step(Step::Removed) => What::Removed,
        Did::Step(Step::TookOver) => What::TookOver,
        Did::Step(Step::Added) => What::Added,
        Did::Step(Step::Announced) => What::Announced,
        Did::DualActive { .. } => return None,
    })
}

fn signed(clock: u64) -> i64 {
    i64::try_from(clock).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: i64 = 1_000_000_000;

    fn has(what: What, node: &str, term: Option<u64>, at_us: i64) -> bool {
        Takeover { id: 1, term: 7, at: AT }.has(&Stamp { what, node: node.into(), at_us }, term, "lb-b")
    }

    #[test]
    fn a_takeover_is_told_with_its_own_steps_and_no_others() {
        assert!(has(What::Detected, "lb-a", Some(6), AT - 500));
        assert!(has(What::Resigned, "lb-a", Some(6), AT - 400));
        assert!(has(What::Removed, "lb-a", Some(7), AT + 900), "it had heard of the new term by then");
        assert!(has(What::TookOver, "lb-b", Some(7), AT));
        assert!(has(What::FirstConnection, "lb-b", None, AT + 3000));
        assert!(!has(What::TookOver, "lb-a", Some(6), AT - 1000), "how the other one once came to it");
        assert!(!has(What::Removed, "lb-b", Some(5), AT - 5000), "how this node once lost it");
        assert!(!has(What::Added, "lb-b", Some(5), AT - 9000));
        assert!(!has(What::FirstConnection, "lb-b", None, AT - 1));
    }
}
