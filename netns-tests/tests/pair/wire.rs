//! What goes over the LAN: read by tshark, and by our own codec; and what a hostile third host may send.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use netns_lab::frame::{self, FrameSocket};
use netns_lab::lan::INTERFACE;
use netns_lab::pair::VRID;
use netns_lab::site::VIP;
use netns_lab::sniffer::Sniffer;
use netns_lab::wait::{pass, wait_until};
use vrrp::config::{Checksum, RouterConfig, Transport};
use vrrp::packet;
use vrrp::types::{Interval, Priority, Vrid};

use crate::fixture::{Folder, LIMIT, OrFail};

const MULTICAST: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);

fn router(vrid: u8, priority: i64) -> RouterConfig {
    RouterConfig {
        name: "web".into(),
        interface: INTERFACE.into(),
        vrid: Vrid::try_from(i64::from(vrid)).or_fail("a VRID"),
        addresses: vec![VIP],
        priority: Priority::try_from(priority).or_fail("a priority"),
        advert_interval: Interval::try_from(Duration::from_millis(100)).or_fail("an interval"),
        preempt: None,
        transport: Transport::Multicast,
        source: None,
        checksum: Checksum::Rfc9568,
    }
}

#[test]
fn adverts_and_announcements_are_what_an_independent_decoder_expects() {
    let Some(folder) = Folder::new("tshark") else { return };
    let mut pair = netns_lab::pair::Pair::new(folder.settings()).or_fail("make the pair");
    let keep = |frame: &[u8]| frame::vrrp_of(frame).is_some() || frame::arp_of(frame).is_some();
    let sniffer = Sniffer::start(&pair.site.client.netns, keep).or_fail("sniff");
    pair.start_agent(0).or_fail("start a");
    pair.node_until(0, "active", LIMIT, |status| status.active()).or_fail("become active");
    wait_until("ten adverts", LIMIT, || {
        match sniffer.heard().iter().filter(|heard| frame::vrrp_of(&heard.frame).is_some()).count() {
            10.. => Ok(()),
            count => Err(count.to_string()),
        }
    })
    .or_fail("hear adverts");

    let packets = sniffer.by_tshark(&folder.path().join("lan.pcap"), "vrrp").or_fail("decode by tshark");
    assert!(packets.len() >= 10);
    for packet in &packets {
        let layers = &packet["_source"]["layers"];
        let (ip, vrrp) = (&layers["ip"], &layers["vrrp"]);
        assert_eq!(ip["ip.ttl"], "255", "{packet:#}");
        assert_eq!(ip["ip.dst"], "224.0.0.18");
        assert_eq!(ip["ip.src"], pair.site.nodes[0].address.to_string());
        assert_eq!(vrrp["vrrp.virt_rtr_id"], VRID.to_string());
        assert_eq!(vrrp["vrrp.prio"], "250");
        let text = vrrp.to_string();
        assert!(text.contains(&VIP.to_string()), "{text}");
        assert!(!text.contains("ncorrect"), "tshark finds a mistake: {text}");
    }
    let arps = sniffer
        .by_tshark(&folder.path().join("lan.pcap"), &format!("arp.isgratuitous && arp.src.proto_ipv4 == {VIP}"))
        .or_fail("decode by tshark");
    assert!(arps.len() >= 5, "a burst of five announcements, not {}", arps.len());

    for heard in sniffer.heard() {
        if let Some((_, bytes)) = frame::vrrp_of(&heard.frame) {
            let received = packet::decode(bytes).or_fail("decode by our own codec");
            received.check(&router(VRID, 250)).or_fail("check by our own codec");
        }
    }
}

#[test]
fn bad_adverts_are_counted_and_ignored() {
    let Some(folder) = Folder::new("bad-adverts") else { return };
    let mut pair = folder.pair(|_| {});
    let active = pair.settled(LIMIT).or_fail("settle");
    let third = &pair.site.servers[1];
    let socket = FrameSocket::open(&third.netns, INTERFACE).or_fail("open a packet socket");
    // Obeyed, it would end the active node's term: the highest priority there is.
    let good = packet::encode(&router(VRID, 254), 254, third.address, MULTICAST);
    let mut wrong_sum = good.clone();
    wrong_sum[6] ^= 0x55;
    let unknown = packet::encode(&router(VRID + 1, 254), 254, third.address, MULTICAST);
    let bad: [(&str, u8, &[u8]); 4] = [
        ("discarded_ttl", 254, &good),
        ("discarded_checksum", 255, &wrong_sum),
        ("discarded_truncated", 255, &good[..6]),
        ("discarded_unknown_vrid", 255, &unknown),
    ];
    let count = |pair: &netns_lab::pair::Pair, name: &str| -> u64 {
        pair.nodes[active].status().or_fail("status").counter(name)
    };
    let moves = count(&pair, "master_transitions");
    for (name, ttl, message) in bad {
        let before = count(&pair, name);
        for _ in 0..20 {
            socket.send(&frame::vrrp_advert(third.mac, third.address, ttl, message)).or_fail("send");
        }
        wait_until(&format!("twenty more of {name}"), LIMIT, || match count(&pair, name) {
            after if after >= before + 20 => Ok(()),
            after => Err(format!("{before}, then {after}")),
        })
        .or_fail("count bad adverts");
    }
    pass(Duration::from_millis(500));
    assert_eq!(pair.settled(LIMIT).or_fail("go on"), active, "nothing moved");
    assert_eq!(count(&pair, "master_transitions"), moves);
}

#[test]
fn a_third_speaker_of_our_vrid_is_reported() {
    let Some(folder) = Folder::new("duplicate") else { return };
    let mut pair = folder.pair(|_| {});
    let active = pair.settled(LIMIT).or_fail("settle");
    let standby = 1 - active;
    let third = &pair.site.servers[1];
    let socket = FrameSocket::open(&third.netns, INTERFACE).or_fail("open a packet socket");
    let advert = packet::encode(&router(VRID, 1), 1, third.address, MULTICAST);
    let log = pair.nodes[standby].log();
    let sources: BTreeSet<String> =
        [third.address, pair.site.nodes[active].address].iter().map(ToString::to_string).collect();
    wait_until("the standby to report two speakers", LIMIT, || {
        socket.send(&frame::vrrp_advert(third.mac, third.address, 255, &advert)).map_err(|error| error.to_string())?;
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let told = text.lines().any(|line| {
            line.to_lowercase().contains("duplicate") && sources.iter().any(|source| line.contains(source))
        });
        if told { Ok(()) } else { Err("no line of its log says so".into()) }
    })
    .or_fail("report a duplicate VRID");
    assert_eq!(pair.settled(LIMIT).or_fail("go on"), active, "nothing moved");
}
