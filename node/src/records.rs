//! Records of the clients' connections, so that those of a node that dies are known to the other one. Pure.
//!
//! ```text
//!   the node where they live: list, once a second ─► Telling ─ what changed ─► Known: the other node, which takes
//!                                                                              them out when the first one is gone
//! ```
//! Whatever arrives is bounded, and a record that is wrong does no harm: see [`crate::tickle`].

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::handoff::Flow;

/// The most connections of a VIP that are recorded. The rest of them is not told: when their node dies their clients
/// wait for their own time-outs.
pub const MOST: usize = 65_536;
/// The most connections that one message adds, and the most that it removes.
pub const CHUNK: usize = 2_000;

/// What changed among the connections of a VIP that live on the sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Records {
    /// The VIP's name.
    pub vip: String,
    /// Forget what was told before; the first message of each session says so.
    pub anew: bool,
    /// [`CHUNK`] at most.
    pub added: Vec<Flow>,
    /// [`CHUNK`] at most.
    pub removed: Vec<Flow>,
}

/// What the peer was told of the connections that live here.
#[derive(Debug, Default)]
pub struct Telling {
    session: u64,
    vips: BTreeMap<String, BTreeSet<Flow>>,
    /// VIPs with more than [`MOST`], which was said.
    over: BTreeSet<String>,
}

impl Telling {
    /// What follows is told in this session, counted from 1; in another one than before the peer is told everything.
    pub fn begin(&mut self, session: u64) {
        if std::mem::replace(&mut self.session, session) != session {
            self.vips.clear();
        }
    }

    /// Tells what changed since the last time. `send` says whether it took the message: if not, the peer has what was
    /// sent before, and the next time tells the rest. False: there was no room.
    pub fn tell(&mut self, vip: &str, now: &BTreeSet<Flow>, send: &mut impl FnMut(Records) -> bool) -> bool {
        let anew = !self.vips.contains_key(vip);
        let told = self.vips.get(vip);
        let added: Vec<Flow> =
            now.iter().filter(|flow| told.is_none_or(|told| !told.contains(flow))).copied().collect();
        let removed: Vec<Flow> = told.into_iter().flat_map(|told| told.difference(now)).copied().collect();
        let parts = added.len().max(removed.len()).div_ceil(CHUNK).max(usize::from(anew));
        for part in 0..parts {
            let added = added.chunks(CHUNK).nth(part).unwrap_or_default();
            let removed = removed.chunks(CHUNK).nth(part).unwrap_or_default();
            let anew = anew && part == 0;
            if !send(Records { vip: vip.to_owned(), anew, added: added.to_vec(), removed: removed.to_vec() }) {
                return false;
            }
            let told = self.vips.entry(vip.to_owned()).or_default();
            told.extend(added);
            for flow in removed {
                told.remove(flow);
            }
        }
        true
    }

    /// No other VIPs than these have connections here (any more).
    pub fn retain(&mut self, held: &BTreeSet<&str>, send: &mut impl FnMut(Records) -> bool) {
        self.over.retain(|vip| held.contains(vip.as_str()));
        self.vips.retain(|vip, told| {
            let nothing = || Records { vip: vip.clone(), anew: true, added: Vec::new(), removed: Vec::new() };
            held.contains(vip.as_str()) || !(told.is_empty() || send(nothing()))
        });
    }

    /// A VIP has more than [`MOST`]. True: that is news.
    pub fn is_over(&mut self, vip: &str) -> bool {
        self.over.insert(vip.to_owned())
    }

    /// The peer knows of nothing here.
    pub fn is_empty(&self) -> bool {
        self.vips.is_empty()
    }
}

/// What the peer told of the connections that live there, and when their clients are to hear that it is over.
#[derive(Debug, Default)]
pub struct Known {
    vips: BTreeMap<String, Vip>,
}

#[derive(Debug, Default)]
struct Vip {
    flows: BTreeSet<Flow>,
    /// Records that were not taken in: too many, or none of an IPv4 client.
    left_out: u64,
    /// This node is active, as its election told.
    held: bool,
    /// And has announced the VIP since.
    announced: bool,
    /// The peer's connections are lost; the number of the event that says so.
    lost: Option<u64>,
}

/// Clients to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The VIP's name.
    pub vip: String,
    /// Number of the event of their loss.
    pub event: u64,
    /// Their connections.
    pub flows: Vec<Flow>,
    /// Records of the peer's that were not kept.
    pub left_out: u64,
}

impl Known {
    /// The peer said this, of a VIP that is configured here. What is over the bounds is left out and counted.
    pub fn take_in(&mut self, records: Records) {
        let Records { vip, anew, added, removed } = records;
        let vip = self.vips.entry(vip).or_default();
        if anew {
            vip.flows.clear();
            vip.left_out = 0;
        }
        for flow in removed.iter().take(CHUNK) {
            vip.flows.remove(flow);
        }
        let given = added.len();
        let mut taken = 0;
        for flow in added.into_iter().take(CHUNK).filter(|flow| flow.client.is_ipv4()) {
            if vip.flows.len() < MOST {
                vip.flows.insert(flow);
                taken += 1;
            }
        }
        vip.left_out += (given - taken) as u64;
    }

    /// This node became active, as the event of this number says. Unless it was `planned` the peer's connections are
    /// lost; otherwise they live on there, and the peer goes on telling of them.
    pub fn took_over(&mut self, vip: &str, planned: bool, event: u64) {
        let vip = self.vips.entry(vip.to_owned()).or_default();
        vip.held = true;
        vip.announced = false;
        vip.lost = (!planned).then_some(event);
    }

    /// The VIP was announced.
    pub fn announced(&mut self, vip: &str) {
        if let Some(vip) = self.vips.get_mut(vip) {
            vip.announced = vip.held;
        }
    }

    /// A hand-off from the peer is over: what it still told of, nobody passes on to it any more.
    pub fn handoff_ended(&mut self, vip: &str, event: u64) {
        if let Some(vip) = self.vips.get_mut(vip).filter(|vip| vip.held) {
            vip.lost = Some(event);
        }
    }

    /// This node is not active any more.
    pub fn gave_up(&mut self, vip: &str) {
        if let Some(vip) = self.vips.get_mut(vip) {
            (vip.held, vip.announced, vip.lost) = (false, false, None);
        }
    }

    /// Only these VIPs are configured.
    pub fn retain(&mut self, configured: impl Fn(&str) -> bool) {
        self.vips.retain(|vip, _| configured(vip));
    }

    /// Connections whose clients are to be told now; they are forgotten here. Not before the VIP is announced, nor
    /// while `passes_on`: what a client answers would not arrive here.
    pub fn next_due(&mut self, passes_on: impl Fn(&str) -> bool) -> Option<Due> {
        let ready = |name: &str, vip: &Vip| vip.lost.is_some() && vip.announced && !passes_on(name);
        let (name, vip) = self.vips.iter_mut().find(|(name, vip)| ready(name, vip))?;
        let event = vip.lost.take()?;
        let flows = std::mem::take(&mut vip.flows).into_iter().collect();
        Some(Due { vip: name.clone(), event, flows, left_out: std::mem::take(&mut vip.left_out) })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn flows(range: std::ops::Range<u32>) -> BTreeSet<Flow> {
        range.map(|n| Flow { client: Ipv4Addr::from(n).into(), client_port: 40_000, port: 80 }).collect()
    }

    /// Tells `known`, if there is room for so many messages; how many there were.
    fn tell(telling: &mut Telling, known: &mut Known, now: &BTreeSet<Flow>, room: usize) -> usize {
        let mut sent = 0;
        telling.tell("web", now, &mut |records| {
            assert!(records.added.len() <= CHUNK && records.removed.len() <= CHUNK);
            let taken = sent < room;
            if taken {
                known.take_in(records);
                sent += 1;
            }
            taken
        });
        sent
    }

    fn taken_over(known: &mut Known) -> Option<Due> {
        known.took_over("web", false, 7);
        known.announced("web");
        known.next_due(|_| false)
    }

    #[test]
    fn the_peer_knows_what_was_listed_last_and_hears_nothing_when_nothing_changed() {
        let (mut telling, mut known) = (Telling::default(), Known::default());
        telling.begin(1);
        assert_eq!(tell(&mut telling, &mut known, &flows(0..5_000), 99), 3);
        assert_eq!(tell(&mut telling, &mut known, &flows(0..5_000), 99), 0);
        assert_eq!(tell(&mut telling, &mut known, &flows(100..5_001), 99), 1);
        let due = taken_over(&mut known).expect("they are lost");
        assert_eq!((due.vip.as_str(), due.event, due.left_out), ("web", 7, 0));
        assert_eq!(due.flows.into_iter().collect::<BTreeSet<_>>(), flows(100..5_001));
    }

    #[test]
    fn what_found_no_room_is_told_the_next_time() {
        let (mut telling, mut known) = (Telling::default(), Known::default());
        telling.begin(1);
        assert_eq!(tell(&mut telling, &mut known, &flows(0..5_000), 0), 0);
        assert_eq!(tell(&mut telling, &mut known, &flows(0..6_000), 1), 1);
        assert_eq!(tell(&mut telling, &mut known, &flows(1_000..7_000), 1), 1);
        assert_eq!(tell(&mut telling, &mut known, &flows(1_000..7_000), 99), 2);
        let due = taken_over(&mut known).expect("they are lost");
        assert_eq!(due.flows.into_iter().collect::<BTreeSet<_>>(), flows(1_000..7_000));
    }

    #[test]
    fn a_new_session_begins_anew_and_until_then_the_old_records_stay() {
        let (mut telling, mut known) = (Telling::default(), Known::default());
        telling.begin(1);
        tell(&mut telling, &mut known, &flows(0..10), 99);
        telling.begin(2);
        assert!(telling.is_empty());
        assert_eq!(tell(&mut telling, &mut known, &flows(20..21), 0), 0);
        assert_eq!(known.vips["web"].flows, flows(0..10));
        assert_eq!(tell(&mut telling, &mut known, &flows(20..21), 99), 1);
        assert_eq!(known.vips["web"].flows, flows(20..21));
        telling.begin(3);
        assert_eq!(tell(&mut telling, &mut known, &BTreeSet::new(), 99), 1, "that there are none is news too");
        assert_eq!(known.vips["web"].flows, BTreeSet::new());
    }

    #[test]
    fn a_vip_that_is_held_no_more_is_forgotten_at_the_peer_too() {
        let (mut telling, mut known) = (Telling::default(), Known::default());
        telling.begin(1);
        tell(&mut telling, &mut known, &flows(0..10), 99);
        telling.retain(&BTreeSet::from(["web"]), &mut |_| panic!("it is held"));
        telling.retain(&BTreeSet::new(), &mut |_| false);
        assert!(!telling.is_empty(), "there was no room to say so");
        telling.retain(&BTreeSet::new(), &mut |records| {
            known.take_in(records);
            true
        });
        assert!(telling.is_empty());
        assert_eq!(taken_over(&mut known).map(|due| due.flows), Some(Vec::new()));
    }

    #[test]
    fn a_confused_peer_fills_no_more_than_the_bounds() {
        let mut known = Known::default();
        let records = |added: BTreeSet<Flow>| Records {
            vip: "web".into(),
            anew: false,
            added: added.into_iter().collect(),
            removed: flows(0..100_000).into_iter().skip(90_000).collect(),
        };
        known.take_in(records(flows(0..5_000)));
        assert_eq!((known.vips["web"].flows.len(), known.vips["web"].left_out), (CHUNK, 3_000));
        for start in (0..100_000).step_by(CHUNK) {
            known.take_in(records(flows(start..start + CHUNK as u32)));
        }
        assert_eq!(known.vips["web"].flows.len(), MOST);
        let six = Flow { client: "2001:db8::1".parse().expect("an address"), client_port: 1, port: 80 };
        known.take_in(Records { vip: "web".into(), anew: true, added: vec![six], removed: vec![six; 3] });
        assert_eq!((known.vips["web"].flows.len(), known.vips["web"].left_out), (0, 1));
    }

    #[test]
    fn clients_are_told_once_when_the_vip_is_announced_and_nothing_is_passed_on() {
        let mut known = Known::default();
        let all =
            || Records { vip: "web".into(), anew: true, added: flows(0..3).into_iter().collect(), removed: vec![] };
        known.take_in(all());
        known.took_over("web", false, 7);
        assert_eq!(known.next_due(|_| false), None, "not announced");
        known.announced("web");
        assert_eq!(known.next_due(|_| true), None, "rules of a hand-off are there");
        assert_eq!(known.next_due(|_| false).map(|due| due.flows.len()), Some(3));
        assert_eq!(known.next_due(|_| false), None);
        known.take_in(all());
        known.took_over("web", false, 8);
        known.gave_up("web");
        known.announced("web");
        assert_eq!(known.next_due(|_| false), None, "it is active no more");
    }

    #[test]
    fn after_a_hand_off_nobody_is_told_until_the_connections_that_stayed_are_lost() {
        let mut known = Known::default();
        let added = flows(0..3).into_iter().collect();
        known.take_in(Records { vip: "web".into(), anew: true, added, removed: vec![] });
        known.took_over("web", true, 7);
        known.announced("web");
        assert_eq!(known.next_due(|_| false), None);
        known.handoff_ended("web", 9);
        assert_eq!(known.next_due(|_| false).map(|due| (due.event, due.flows.len())), Some((9, 3)));
        // What is over when the VIP is at the peer again is nobody's loss.
        known.gave_up("web");
        known.handoff_ended("web", 10);
        known.took_over("web", true, 11);
        known.announced("web");
        assert_eq!(known.next_due(|_| false), None);
    }
}
