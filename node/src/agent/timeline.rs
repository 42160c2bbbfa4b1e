//! The events of VIPs that moved: what both nodes did, on one clock, in one record.
//!
//! The node that takes a VIP has an event of it; its own steps amend it as they come, and so do the peer's, which travel
//! over the sync channel and may come first, late (the channel was down) or never.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use sync::clock_at;
use vrrp::io::snapshot::Step;

use crate::events::{Stamp, Store, What, timeline};
use crate::peer::{Did, StepTold};

/// Steps of each VIP that are remembered until an event wants them, steps that wait for the peer, and steps of the peer.
const KEPT: usize = 32;
/// A step without a term of its own belongs to the takeover that it comes after within this time, in microseconds.
const TOGETHER: i64 = 60_000_000;

/// What is known of the steps.
pub(super) struct Timelines {
    node: String,
    peer: String,
    vips: BTreeMap<String, Vip>,
    /// Steps of ours that the peer was not told.
    untold: VecDeque<StepTold>,
    /// The newest that it was told: they may be lost with the session that took them, and are told again in the next one.
    told: VecDeque<StepTold>,
    /// The peer's newest: what it tells again is known.
    heard: VecDeque<StepTold>,
    /// The peer's, told before its clock could be read.
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
        let [untold, told, heard, unplaced] = Default::default();
        Timelines { node, peer, vips: BTreeMap::new(), untold, told, heard, unplaced }
    }

    /// Something that this node did; [`Timelines::next_untold`] has it for the peer.
    pub(super) fn own(&mut self, vip: &str, did: Did, term: u64, at: Instant, events: &Store) {
        let clock = clock_at(at);
        keep(&mut self.untold, StepTold { vip: vip.to_owned(), what: did, term, at: clock });
        let Some(what) = what(did) else { return };
        self.take(vip, Stamp { what, node: self.node.clone(), at_us: signed(clock) }, Some(term), events);
    }

    /// What the first client's arrival adds.
    pub(super) fn first_connection(&mut self, vip: &str, at: Instant, events: &Store) {
        let stamp = Stamp { what: What::FirstConnection, node: self.node.clone(), at_us: signed(clock_at(at)) };
        self.take(vip, stamp, None, events);
    }

    /// Something that the peer did. It waits for [`Timelines::place`]: a session's first messages come before its first ping.
    pub(super) fn peer(&mut self, told: StepTold) {
        keep(&mut self.unplaced, told);
    }

    /// Whether the peer tells this for the first time.
    pub(super) fn is_new(&mut self, told: &StepTold) -> bool {
        let new = !self.heard.contains(told);
        if new {
            keep(&mut self.heard, told.clone());
        }
        new
    }

    /// Gives the peer's steps their place; `offset` is its clock minus ours.
    pub(super) fn place(&mut self, offset: i64, events: &Store) {
        while let Some(told) = self.unplaced.pop_front() {
            let at_us = signed(told.at).saturating_sub(offset);
            let Some(what) = what(told.what) else { continue };
            let stamp = Stamp { what, node: self.peer.clone(), at_us };
            if self.vips.contains_key(&told.vip) {
                self.take(&told.vip, stamp, Some(told.term), events);
            }
        }
    }

    /// The peer is another process than before, with another clock and nothing of its own to put our steps to.
    pub(super) fn peer_restarted(&mut self) {
        self.unplaced.clear();
        self.heard.clear();
        self.told.clear();
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

    /// The next step that the peer was not told.
    pub(super) fn next_untold(&mut self) -> Option<StepTold> {
        self.untold.pop_front()
    }

    /// It could not be sent: the next session has it.
    pub(super) fn put_back(&mut self, told: StepTold) {
        self.untold.push_front(told);
    }

    /// It was sent, which does not say that it arrives.
    pub(super) fn sent(&mut self, told: StepTold) {
        keep(&mut self.told, told);
    }

    /// A new session with the same process: whatever the last one may have lost is told again.
    pub(super) fn tell_again(&mut self) {
        let later = std::mem::replace(&mut self.untold, std::mem::take(&mut self.told));
        later.into_iter().for_each(|told| keep(&mut self.untold, told));
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

/// The oldest one makes room.
fn keep(steps: &mut VecDeque<StepTold>, told: StepTold) {
    if steps.len() == KEPT {
        steps.pop_front();
    }
    steps.push_back(told);
}

/// What a timeline calls it; `None`: it is part of none.
fn what(did: Did) -> Option<What> {
    Some(match did {
        Did::Detect => What::Detected,
        Did::Step(Step::Resigned) => What::Resigned,
        Did::Step(Step::Removed) => What::Removed,
        Did::Step(Step::TookOver) => What::TookOver,
        Did::Step(Step::Added) => What::Added,
        Did::Step(Step::Announced) => What::Announced,
        Did::SawTwo(_) => return None,
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

    #[test]
    fn what_a_session_may_have_lost_is_told_again_in_its_order_and_taken_once() {
        let told = |at: u64| StepTold { vip: "web".into(), what: Did::Detect, term: 1, at };
        let mut sender = Timelines::new("a", "b");
        sender.sent(told(1));
        sender.sent(told(2));
        sender.put_back(told(3));
        sender.tell_again();
        let again: Vec<u64> = std::iter::from_fn(|| sender.next_untold()).map(|told| told.at).collect();
        assert_eq!(again, [1, 2, 3]);
        let mut receiver = Timelines::new("b", "a");
        let new = [1, 2, 1, 2, 3].map(|at| receiver.is_new(&told(at)));
        assert_eq!(new, [true, true, false, false, true]);
        receiver.peer_restarted();
        assert!(receiver.is_new(&told(1)), "another process, another clock");

        let limit = KEPT as u64;
        (0..2 * limit).for_each(|at| sender.sent(told(at)));
        sender.tell_again();
        let kept: Vec<u64> = std::iter::from_fn(|| sender.next_untold()).map(|told| told.at).collect();
        assert_eq!(kept, (limit..2 * limit).collect::<Vec<_>>(), "the newest");
    }
}
