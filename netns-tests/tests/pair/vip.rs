//! The address itself: deleted behind the agent's back, or claimed by somebody else.

use std::time::{Duration, Instant};

use netns_lab::frame::{self, FrameSocket};
use netns_lab::holders::Holders;
use netns_lab::lan::{INTERFACE, delete_address};
use netns_lab::site::VIP;
use netns_lab::sniffer::{Heard, Sniffer};
use netns_lab::wait::wait_until;

use crate::fixture::{Folder, LIMIT, OrFail};

#[test]
fn a_vip_that_somebody_deletes_comes_back_and_is_announced() {
    let Some(folder) = Folder::new("vip-deleted") else { return };
    let mut pair = folder.pair(|_| {});
    let active = pair.settled(LIMIT).or_fail("settle");
    let sniffer = Sniffer::start(&pair.site.client.netns, |frame| frame::arp_of(frame).is_some()).or_fail("sniff");
    let deleted = Instant::now();
    delete_address(&pair.site.nodes[active].netns, VIP).or_fail("delete the VIP");
    wait_until("the VIP to be back", LIMIT, || if pair.holds_vip(active) { Ok(()) } else { Err("it is not".into()) })
        .or_fail("add it again");
    let mac = pair.site.nodes[active].mac;
    wait_until("an announcement", LIMIT, || {
        let ours = |heard: &Heard| frame::arp_of(&heard.frame) == Some((mac, VIP));
        if sniffer.heard_since(deleted).iter().any(ours) { Ok(()) } else { Err("none".into()) }
    })
    .or_fail("announce it again");
    assert_eq!(pair.settled(LIMIT).or_fail("go on"), active, "nothing moved");
}

#[test]
fn a_third_host_that_claims_the_vip_is_contradicted() {
    let Some(folder) = Folder::new("vip-claimed") else { return };
    let mut pair = folder.pair(|_| {});
    let active = pair.settled(LIMIT).or_fail("settle");
    let sniffer = Sniffer::start(&pair.site.client.netns, |frame| frame::arp_of(frame).is_some()).or_fail("sniff");
    let third = &pair.site.servers[0];
    let socket = FrameSocket::open(&third.netns, INTERFACE).or_fail("open a packet socket");
    let claimed = Instant::now();
    socket.send(&frame::arp_claim(third.mac, VIP)).or_fail("claim the VIP");
    let mac = pair.site.nodes[active].mac;
    wait_until("the active node's answer", LIMIT, || {
        let ours = |heard: &Heard| frame::arp_of(&heard.frame) == Some((mac, VIP));
        if sniffer.heard_since(claimed).iter().any(ours) { Ok(()) } else { Err("none".into()) }
    })
    .or_fail("contradict the claim");
    assert_eq!(pair.settled(LIMIT).or_fail("go on"), active, "clients still reach the VIP");
}

#[test]
fn the_watcher_of_holders_sees_a_takeover_and_an_address_that_both_have() {
    let Some(folder) = Folder::new("holders") else { return };
    let mut pair = folder.pair(|settings| settings.sync = false);
    let active = pair.settled(LIMIT).or_fail("settle");
    let holders = Holders::start(&pair.site).or_fail("watch");
    let begin = Instant::now();
    pair.site.nodes[active].port.deaf(true).or_fail("block the port");
    pair.node_until(1 - active, "active", LIMIT, |status| status.active()).or_fail("take over");
    // Without a word between them both have it until the port is opened again.
    wait_until("both to hold the VIP", LIMIT, || match holders.held().longest(2, begin) {
        length if length >= Duration::from_millis(500) => Ok(()),
        length => Err(format!("{length:?}")),
    })
    .or_fail("see two");
    pair.site.nodes[active].port.deaf(false).or_fail("open the port");
    pair.settled(LIMIT).or_fail("one remains");
    wait_until("one of them to have lost the VIP", LIMIT, || match holders.held().now() {
        [a, b] if a != b => Ok(()),
        both => Err(format!("{both:?}")),
    })
    .or_fail("see one");
    let healed = Instant::now();
    let held = holders.held();
    assert!(held.ever(0, begin) && held.ever(1, begin));
    assert_eq!(held.longest(2, healed), Duration::ZERO);
    assert_eq!(held.longest(0, begin), Duration::ZERO, "there was always one");
}
