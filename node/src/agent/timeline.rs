//! The events of VIPs that moved: what both nodes did, on one clock, in one record.
//!
//! The node that takes a VIP writes the event; its own steps amend it as they come, and so do the peer's, which travel
//! over the sync channel and may come first, late (the channel was down) or never.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use sync::clock_at;
use vrrp::io::snapshot::Step;

use crate::events::{Draft, Kind, Stamp, Store, What, timeline};
use crate::peer::{Did, StepTold};

/// Steps of each VIP that are remembered until an event wants them, and steps that wait for the peer.
const KEPT: usize = 32;
/// A step belongs to the takeover that follows it within this time, in microseconds.
const TOGETHER: i64 = 10_000_000;

/// What is known of the steps.
pub(super) struct Timelines {
    node: String,
    peer: String,
    vips: BTreeMap<String, Vip>,
    /// Steps of ours that the peer was not told.
    untold: VecDeque<StepTold>,
}

#[derive(Default)]
struct Vip {
    /// Steps of both nodes, by this node's clock; the oldest first.
    steps: VecDeque<Stamp>,
    /// The newest takeover by this node: its event, and when it was.
    event: Option<(u64, i64)>,
}

impl Timelines {
    pub(super) fn new(node: &str, peer: &str) -> Timelines {
        let (node, peer) = (node.to_owned(), peer.to_owned());
        Timelines { node, peer, vips: BTreeMap::new(), untold: VecDeque::new() }
    }

    /// Something that this node did; [`Timelines::next_untold`] has it for the peer.
    pub(super) fn own(&mut self, vip: &str, did: Did, term: u64, at: Instant, events: &Store) {
        let clock = clock_at(at);
        if self.untold.len() == KEPT {
            self.untold.pop_front();
        }
        self.untold.push_back(StepTold { vip: vip.to_owned(), what: did, term, at: clock });
        let stamp = Stamp { what: what(did), node: self.node.clone(), at_us: signed(clock) };
        self.take(vip, stamp, events);
    }

    /// What the first client's arrival adds.
    pub(super) fn first_connection(&mut self, vip: &str, at: Instant, events: &Store) {
        let stamp = Stamp { what: What::FirstConnection, node: self.node.clone(), at_us: signed(clock_at(at)) };
        self.take(vip, stamp, events);
    }

    /// Something that the peer did; `offset` is its clock minus ours.
    pub(super) fn peer(&mut self, told: &StepTold, offset: i64, events: &Store) {
        let at_us = signed(told.at).saturating_sub(offset);
        let stamp = Stamp { what: what(told.what), node: self.peer.clone(), at_us };
        if self.vips.contains_key(&told.vip) {
            self.take(&told.vip, stamp, events);
        }
    }

    fn take(&mut self, name: &str, stamp: Stamp, events: &Store) {
        let vip = self.vips.entry(name.to_owned()).or_default();
        if vip.steps.len() == KEPT {
            vip.steps.pop_front();
        }
        vip.steps.push_back(stamp);
        vip.amend(events);
    }

    /// This node took a VIP; writes the event.
    pub(super) fn took(&mut self, name: &str, why: String, term: u64, at: Instant, events: &Store) {
        let vip = self.vips.entry(name.to_owned()).or_default();
        let text = format!("{} took {name} over", self.node);
        let draft = Draft {
            kind: Kind::Failover,
            vip: Some(name.to_owned()),
            text,
            why,
            term: Some(term),
            timeline: Vec::new(),
        };
        vip.event = Some((events.record(draft), signed(clock_at(at))));
        vip.amend(events);
    }

    /// The next step that the peer was not told.
    pub(super) fn next_untold(&mut self) -> Option<StepTold> {
        self.untold.pop_front()
    }

    /// It could not be sent: the next session has it.
    pub(super) fn put_back(&mut self, told: StepTold) {
        self.untold.push_front(told);
    }

    /// Only these VIPs are configured.
    pub(super) fn configure<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        let mut before = std::mem::take(&mut self.vips);
        self.vips = names.map(|name| (name.to_owned(), before.remove(name).unwrap_or_default())).collect();
    }
}

impl Vip {
    fn amend(&self, events: &Store) {
        let Some((id, at)) = self.event else { return };
        let belongs = |stamp: &&Stamp| (stamp.at_us - at).abs() <= TOGETHER;
        // Of a step that was taken twice in that time, the one nearest to the takeover.
        let mut stamps: Vec<Stamp> = self.steps.iter().filter(belongs).cloned().collect();
        stamps.sort_by_key(|stamp| (stamp.at_us - at).abs());
        let mut seen = Vec::new();
        stamps.retain(|stamp| {
            let new = !seen.contains(&(stamp.what, stamp.node.clone()));
            seen.push((stamp.what, stamp.node.clone()));
            new
        });
        events.amend(id, |event| event.timeline = timeline(stamps));
    }
}

fn what(did: Did) -> What {
    match did {
        Did::Detect => What::Detected,
        Did::Step(Step::Resigned) => What::Resigned,
        Did::Step(Step::Removed) => What::Removed,
        Did::Step(Step::TookOver) => What::TookOver,
        Did::Step(Step::Added) => What::Added,
        Did::Step(Step::Announced) => What::Announced,
    }
}

fn signed(clock: u64) -> i64 {
    i64::try_from(clock).unwrap_or(i64::MAX)
}
