//! A hand-off between two drivers, step by step.

use std::time::Duration;

use vrrp::event::{State, Why};
use vrrp::io::driver::HandOffStep::{AnnounceAgain, LetGo, TakeOver, Yield};

use crate::lab::{VIP, router, state, until};
use crate::paired::{LIMIT, drivers, hear_more, namespaces, no_hooks, step, takeovers};
use crate::wire::{Wire, decode};

const FAST: Duration = Duration::from_millis(100);

#[test]
fn a_hand_off_has_two_holders_for_a_moment_and_then_the_new_one_and_no_priority_0_on_the_wire() {
    let Some(lab) = namespaces() else { return };
    let [old, new] = drivers(&lab, FAST, [no_hooks(), no_hooks()]);
    hear_more(&new, 3);
    let mut wire = Wire::open(&lab[1]);
    step(&old, Yield(true));
    step(&new, TakeOver);
    until("both hold it", LIMIT, || lab[0].has_vip() && lab[1].has_vip());
    // For as long as the hand-off needs: the old one neither leaves nor speaks.
    hear_more(&old, 10);
    assert_eq!((state(&old), state(&new)), (State::Master, State::Master));
    step(&old, LetGo);
    until("the old one let go", LIMIT, || !lab[0].has_vip() && state(&old) == State::Backup);
    step(&new, AnnounceAgain);
    hear_more(&old, 5);
    assert!(lab[1].has_vip());
    assert_eq!((takeovers(&old), takeovers(&new)), (1, 1));
    let routers = [&old, &new].map(|driver| router(driver).expect("a router"));
    assert_eq!(routers.each_ref().map(|router| &router.why), [&Why::HandedOver; 2]);
    assert_eq!(routers.map(|router| router.counters.dual_active), [0, 0]);

    let frames = wire.listen(Duration::from_millis(50));
    let adverts: Vec<(String, String)> = decode(&frames, "vrrp", &["ip.src", "vrrp.prio"])
        .into_iter()
        .map(|mut advert| (advert.remove(0), advert.remove(0)))
        .collect();
    assert!(adverts.iter().all(|(_, priority)| priority != "0"), "{adverts:?}");
    let first = adverts.iter().position(|(source, _)| source == "192.0.2.2").expect("the new one advertises");
    let late = adverts[first..].iter().filter(|(source, _)| source == "192.0.2.1").count();
    assert!(late <= 1, "one may have been on its way: {adverts:?}");
    // The old one announces nothing once it has let go, and the new one begins again when it is told to.
    let announced = decode(&frames, &format!("arp.src.proto_ipv4 == {VIP}"), &["arp.src.hw_mac"]);
    let mac = lab[1].ip("-br link show dev lan").split_whitespace().nth(2).expect("its address").to_owned();
    assert!(announced.iter().filter(|announcement| announcement[0] == mac).count() >= 10, "{announced:?}");
}

#[test]
fn a_hand_off_that_stops_half_way_leaves_one_holder() {
    let Some(lab) = namespaces() else { return };
    let [old, new] = drivers(&lab, FAST, [no_hooks(), no_hooks()]);
    step(&old, Yield(true));
    step(&new, TakeOver);
    until("both hold it", LIMIT, || lab[0].has_vip() && lab[1].has_vip());
    until("the old one leaves by itself", LIMIT, || !lab[0].has_vip() && state(&old) == State::Backup);
    assert!(matches!(router(&old).expect("a router").why, Why::Superseded { .. }));
    assert!(lab[1].has_vip());
}

#[test]
fn a_new_holder_that_leaves_in_the_middle_of_a_hand_off_gives_the_vip_back() {
    let Some(lab) = namespaces() else { return };
    let [old, new] = drivers(&lab, FAST, [no_hooks(), no_hooks()]);
    step(&old, Yield(true));
    step(&new, TakeOver);
    until("both hold it", LIMIT, || lab[0].has_vip() && lab[1].has_vip());
    hear_more(&old, 3);
    new.join();
    assert!(lab[0].has_vip() && !lab[1].has_vip());
    let mut wire = Wire::open(&lab[1]);
    let frames = wire.listen(FAST * 3);
    let sources = decode(&frames, "vrrp", &["ip.src"]);
    assert!(!sources.is_empty() && sources.iter().all(|source| source[0] == "192.0.2.1"), "{sources:?}");
    assert_eq!((state(&old), takeovers(&old)), (State::Master, 1));
}
