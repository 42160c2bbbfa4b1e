//! Who is active, whatever the order of events.

use std::time::Duration;

use netns_lab::pair::Pair;
use netns_lab::wait::pass;

use crate::fixture::{Folder, LIMIT, OrFail};

/// Several down intervals at adverts of 100 ms: who moves at all, moves within it.
const LONG_ENOUGH: Duration = Duration::from_millis(1500);

fn started_in_order(name: &str, first: usize, sync: bool) {
    let Some(folder) = Folder::new(name) else { return };
    let mut settings = folder.settings();
    settings.sync = sync;
    let mut pair = Pair::new(settings).or_fail("make the pair");
    pair.start_agent(first).or_fail("start the first");
    pair.node_until(first, "active, alone", LIMIT, |status| status.active()).or_fail("serve alone");
    pair.start_agent(1 - first).or_fail("start the second");
    assert_eq!(pair.settled(LIMIT).or_fail("settle"), first, "who came first keeps the VIP");
    pass(LONG_ENOUGH);
    assert_eq!(pair.settled(LIMIT).or_fail("stay"), first);
    let transitions = pair.nodes[1 - first].status().or_fail("status").counter("master_transitions");
    assert_eq!(transitions, 0, "the second was never active");
}

#[test]
fn the_first_node_keeps_the_vip_when_a_starts_first() {
    started_in_order("order-a", 0, true);
}

#[test]
fn the_first_node_keeps_the_vip_when_b_starts_first() {
    started_in_order("order-b", 1, true);
}

#[test]
fn by_vrrp_alone_the_first_node_keeps_the_vip_when_b_starts_first() {
    started_in_order("order-alone", 1, false);
}

#[test]
fn by_vrrp_alone_with_preemption_the_higher_priority_takes_the_vip_back() {
    let Some(folder) = Folder::new("preempt") else { return };
    let mut settings = folder.settings();
    settings.preempt = true;
    settings.sync = false;
    let mut pair = Pair::new(settings).or_fail("make the pair");
    pair.start_agent(1).or_fail("start b");
    pair.node_until(1, "active, alone", LIMIT, |status| status.active()).or_fail("serve alone");
    pair.start_agent(0).or_fail("start a");
    pair.node_until(0, "active", LIMIT, |status| status.active()).or_fail("preempt");
    assert_eq!(pair.settled(LIMIT).or_fail("settle"), 0);
    assert!(!pair.holds_vip(1));
}

#[test]
fn of_two_equal_priorities_one_is_active_and_stays_so() {
    let Some(folder) = Folder::new("equal") else { return };
    let mut pair = folder.pair(|settings| settings.priorities = [200, 200]);
    let active = pair.settled(LIMIT).or_fail("settle");
    pass(LONG_ENOUGH);
    assert_eq!(pair.settled(LIMIT).or_fail("stay"), active);
    assert_ne!(pair.holds_vip(0), pair.holds_vip(1), "exactly one has the address");
}
