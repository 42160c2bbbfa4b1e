//! Cables, blocked ports, and a LAN that falls apart and grows together again.

use std::time::{Duration, Instant};

use netns_lab::client::{Outcome, ask_once};
use netns_lab::frame;
use netns_lab::lan::Direction;
use netns_lab::pair::{NAMES, Pair};
use netns_lab::site::VIP;
use netns_lab::sniffer::Sniffer;
use netns_lab::wait::{pass, wait_until};

use crate::fixture::{Folder, LIMIT, OrFail};

fn answered(pair: &Pair) {
    wait_until("an answer through the VIP", LIMIT, || match ask_once(&pair.site.client.netns, pair.site.service()) {
        Outcome::Answered => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .or_fail("ask through the VIP");
}

#[test]
fn a_link_that_goes_down_is_a_fault_with_that_reason() {
    let Some(folder) = Folder::new("link-down") else { return };
    let mut pair = folder.pair(|_| {});
    let active = pair.settled(LIMIT).or_fail("settle");
    pair.site.nodes[active].port.carrier(false).or_fail("pull the cable");
    let status = pair.node_until(active, "in fault", LIMIT, |status| status.router() == "fault").or_fail("notice");
    assert!(status.own()["reasons"].to_string().contains("link is down"), "{}", status.words());
    assert!(!status.fit());
    pair.node_until(1 - active, "active", LIMIT, |status| status.active()).or_fail("take over");
    answered(&pair);
    wait_until("the VIP to leave the node without a link", LIMIT, || {
        if pair.holds_vip(active) { Err("it is there".into()) } else { Ok(()) }
    })
    .or_fail("release the VIP");
    pair.site.nodes[active].port.carrier(true).or_fail("plug the cable in");
    assert_eq!(pair.settled(LIMIT).or_fail("return"), 1 - active);
}

#[test]
fn a_standby_behind_a_deaf_link_for_ten_seconds_leaves_one_active_node_afterwards() {
    let Some(folder) = Folder::new("link-deaf") else { return };
    let mut pair = folder.pair(|_| {});
    let active = pair.settled(LIMIT).or_fail("settle");
    pair.site.nodes[1 - active].port.deaf(true).or_fail("block the port");
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(10) {
        assert_eq!(ask_once(&pair.site.client.netns, pair.site.service()), Outcome::Answered, "{:?}", begin.elapsed());
        pass(Duration::from_millis(200));
    }
    pair.site.nodes[1 - active].port.deaf(false).or_fail("open the port");
    pair.settled(LIMIT).or_fail("one remains");
    assert_ne!(pair.holds_vip(0), pair.holds_vip(1), "exactly one has the address");
}

#[test]
fn a_link_that_comes_up_deaf_counts_only_once_something_was_heard_through_it() {
    let Some(folder) = Folder::new("link-unheard") else { return };
    let mut pair = folder.pair(|_| {});
    let active = pair.settled(LIMIT).or_fail("settle");
    let standby = 1 - active;
    let port = pair.site.nodes[standby].port.clone();
    port.carrier(false).or_fail("pull the cable");
    pair.node_until(standby, "in fault", LIMIT, |status| status.router() == "fault").or_fail("notice");
    let before = pair.nodes[standby].status().or_fail("status").counter("master_transitions");
    // By rules and before the cable is in: a port of the bridge can be blocked only once it has a carrier, and by
    // then the node may have heard something.
    for direction in [Direction::Outbound, Direction::Inbound] {
        port.cut(direction).or_fail("block the port, as spanning tree would");
    }
    port.carrier(true).or_fail("plug the cable in");
    pass(Duration::from_secs(10));
    let status = pair.nodes[standby].status().or_fail("status");
    assert_eq!(status.counter("master_transitions"), before, "it did not take over into silence: {}", status.words());
    assert!(!pair.holds_vip(standby));
    port.heal().or_fail("open the port");
    assert_eq!(pair.settled(LIMIT).or_fail("join again"), active);
}

#[test]
fn after_a_cut_between_the_nodes_one_remains_announces_again_and_the_dual_active_time_is_told() {
    let Some(folder) = Folder::new("split") else { return };
    let mut pair = folder.pair(|settings| settings.sync = false);
    let active = pair.settled(LIMIT).or_fail("settle");
    // Deaf, not down: both believe that the other one died.
    for node in &pair.site.nodes {
        node.port.deaf(true).or_fail("block the port");
    }
    for (index, name) in NAMES.iter().enumerate() {
        let what = format!("active in its own half ({name})");
        pair.node_until(index, &what, LIMIT, |status| status.active()).or_fail("serve its half");
    }
    let dual = Duration::from_secs(1);
    pass(dual);
    let sniffer = Sniffer::start(&pair.site.client.netns, |frame| frame::arp_of(frame).is_some()).or_fail("sniff");
    for node in &pair.site.nodes {
        node.port.deaf(false).or_fail("open the port");
    }
    let healed = Instant::now();
    let winner = pair.settled(LIMIT).or_fail("one remains");
    assert_eq!(winner, 0, "the higher priority remains; {} was active before", NAMES[active]);
    let mac = pair.site.nodes[winner].mac;
    wait_until("the winner to announce the VIP again", LIMIT, || {
        let announced = |heard: &netns_lab::sniffer::Heard| frame::arp_of(&heard.frame) == Some((mac, VIP));
        if sniffer.heard_since(healed).iter().any(announced) { Ok(()) } else { Err("no announcement".into()) }
    })
    .or_fail("announce again");
    // The loser may fall silent before the winner hears it, so one of the two is enough.
    let told = wait_until("a report of the time with two active nodes", LIMIT, || {
        let reports =
            pair.nodes.iter().filter_map(|node| node.status().ok()).map(|status| status.0["dual_active"].clone());
        reports.into_iter().find(|report| report["vip"].is_string()).ok_or_else(|| "neither node has one".into())
    });
    let told = told.or_fail("report")["length_ms"].as_u64();
    if let Some(length) = told {
        // It can only have been longer than what was waited for here.
        assert!(Duration::from_millis(length) >= dual, "{length} ms");
    }
}

#[test]
fn after_a_storm_of_lost_packets_one_node_is_active_and_serves() {
    let Some(folder) = Folder::new("loss") else { return };
    let mut pair = folder.pair(|_| {});
    pair.settled(LIMIT).or_fail("settle");
    for node in &pair.site.nodes {
        node.port.loss(40).or_fail("lose packets");
    }
    pass(Duration::from_secs(5));
    for node in &pair.site.nodes {
        node.port.heal().or_fail("lose no more");
    }
    pair.settled(LIMIT).or_fail("one remains");
    assert_ne!(pair.holds_vip(0), pair.holds_vip(1), "exactly one has the address");
    answered(&pair);
}

#[test]
fn a_node_whose_adverts_get_lost_on_one_way_does_not_make_two_for_good() {
    let Some(folder) = Folder::new("one-way") else { return };
    let mut pair = folder.pair(|_| {});
    let active = pair.settled(LIMIT).or_fail("settle");
    pair.site.nodes[active].port.cut(Direction::Outbound).or_fail("cut one way");
    pair.node_until(1 - active, "active", LIMIT, |status| status.active()).or_fail("take over from one who is mute");
    pair.site.nodes[active].port.heal().or_fail("heal");
    pair.settled(LIMIT).or_fail("one remains");
    assert_ne!(pair.holds_vip(0), pair.holds_vip(1), "exactly one has the address");
    answered(&pair);
}
