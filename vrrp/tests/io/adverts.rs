//! What a driver says on the wire, as another program reads it, and what it makes of what others say there.

use std::time::Duration;

use vrrp::config::RouterConfig;
use vrrp::event::{Note, State};
use vrrp::io::driver::Driver;
use vrrp::io::snapshot::EventKind;
use vrrp::packet;

use crate::lab::{A, B, Namespace, VIP, config, pair, router, state, until};
use crate::wire::{STRANGER, Wire, decode};

/// A driver that is master, alone on the wire whose other end is returned.
fn master(a: &Namespace, b: &Namespace) -> (Driver, Wire) {
    let mut wire = Wire::open(b);
    let driver = a.driver(200);
    until("it is master", Duration::from_secs(5), || {
        // It takes part only after it heard something.
        wire.claim(STRANGER, B);
        a.has_vip() && state(&driver) == State::Master
    });
    (driver, wire)
}

#[test]
fn adverts_and_gratuitous_arps_are_what_the_rfcs_say() {
    let Some((a, b)) = pair() else { return };
    let mac = a.ip("-br link show dev lan").split_whitespace().nth(2).expect("its address").to_owned();
    let (driver, mut wire) = master(&a, &b);
    let mut frames = wire.listen(Duration::from_millis(300));
    driver.join();
    frames.extend(wire.listen(Duration::from_millis(100)));

    let from_a = format!("ip.src == {A}");
    let fields = [
        "eth.dst",
        "ip.dst",
        "ip.ttl",
        "ip.dsfield",
        "vrrp.version",
        "vrrp.type",
        "vrrp.virt_rtr_id",
        "vrrp.prio",
        "vrrp.addr_count",
        "vrrp.short_adver_int",
        "vrrp.ip_addr",
    ];
    let adverts = decode(&frames, &format!("vrrp && {from_a}"), &fields);
    let expected = |priority| {
        ["01:00:5e:00:00:12", "224.0.0.18", "255", "0xc0", "3", "1", "51", priority, "1", "10", "192.0.2.100"]
    };
    let (last, before) = adverts.split_last().expect("adverts");
    assert!(before.len() >= 3, "300 ms hold three: {adverts:?}");
    for advert in before {
        assert_eq!(*advert, expected("200"));
    }
    assert_eq!(*last, expected("0"), "the last one releases");
    assert_eq!(decode(&frames, "_ws.malformed && vrrp", &["vrrp.prio"]), [[""; 0]; 0]);

    // RFC 9568 §5.2.8: the sum over the message alone, its checksum included, is all ones.
    let message = frames.iter().find_map(|frame| frame.get(34..46).filter(|_| frame[23] == packet::PROTOCOL));
    let sum: u32 = message.expect("an advert").chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);

    let fields = ["eth.dst", "arp.opcode", "arp.src.hw_mac", "arp.src.proto_ipv4", "arp.dst.proto_ipv4"];
    let announcements = decode(&frames, &format!("arp.src.proto_ipv4 == {VIP}"), &fields);
    assert!(announcements.len() >= 5, "the burst: {announcements:?}");
    for announcement in announcements {
        assert_eq!(announcement, ["ff:ff:ff:ff:ff:ff", "1", &mac, "192.0.2.100", "192.0.2.100"]);
    }
}

#[test]
fn bad_packets_are_counted_by_name_and_not_obeyed() {
    let Some((a, b)) = pair() else { return };
    let (driver, mut wire) = master(&a, &b);
    let good = packet::encode(&config(250), 250, B, packet::MULTICAST);
    let unknown = RouterConfig { vrid: 52.try_into().expect("in range"), ..config(250) };
    let changed = |at: usize, byte: u8| {
        let mut message = good.clone();
        message[at] = byte;
        message
    };
    let bad = [
        ("ttl", 254, good.clone()),
        ("checksum", 255, changed(2, 251)),
        ("truncated", 255, good[..10].to_vec()),
        ("unknown_vrid", 255, packet::encode(&unknown, 250, B, packet::MULTICAST)),
        ("version", 255, changed(0, 0x21)),
        ("type", 255, changed(0, 0x32)),
    ];
    for (_, ttl, message) in &bad {
        wire.multicast(B, *ttl, message);
        wire.multicast(B, *ttl, message);
    }
    wire.packet(B, A, [0xff; 6], 255, &good);
    let expected = bad.iter().map(|(name, ..)| (*name, 2)).chain([("destination", 1)]).collect();
    until("each is counted", Duration::from_secs(2), || driver.snapshot().interfaces["lan"].discarded == expected);
    let unmoved = router(&driver).expect("a router");
    assert_eq!((unmoved.state, unmoved.counters.adverts_received), (State::Master, 0));
    assert!(a.has_vip());
    // The same message, undamaged, is obeyed.
    wire.multicast(B, 255, &good);
    until("it gives way to the higher priority", Duration::from_secs(2), || {
        router(&driver).expect("a router").counters.adverts_received == 1 && !a.has_vip()
    });
}

#[test]
fn a_claim_of_the_vip_by_another_host_is_answered_and_noted() {
    let Some((a, b)) = pair() else { return };
    let (mut driver, mut wire) = master(&a, &b);
    let mut events = driver.events().expect("nobody took them");
    let announcements = || router(&driver).expect("a router").counters.announcements;
    // The burst of five and the seven that insist after a silence; the next are seconds away.
    until("the first announcements are over", Duration::from_secs(4), || announcements() == 12);
    wire.listen(Duration::from_millis(150));
    wire.claim(STRANGER, VIP);
    let frames = wire.listen(Duration::from_millis(200));
    let answers = format!("arp.src.proto_ipv4 == {VIP} && eth.src != 02:00:00:00:00:99");
    let answers = decode(&frames, &answers, &["eth.src"]);
    assert_eq!(answers.len(), 1, "one claim, one announcement: {answers:?}");
    let mut notes = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let EventKind::Note(note) = event.kind {
            notes.push(note);
        }
    }
    assert_eq!(notes, [Note::Claimed { address: VIP, mac: STRANGER }]);
    assert_eq!(state(&driver), State::Master);
}
