//! Heartbeats between two drivers: what they show, what they keep in place, and what they move.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use vrrp::event::{Fault, State, Why};
use vrrp::heartbeat::{Fitness, Standing};
use vrrp::io::driver::{Command, Driver, Hooks};
use vrrp::io::snapshot::LastWords;

use crate::lab::{A, B, Namespace, router, state, until};
use crate::paired::{
    LIMIT, PORT, cut, driver, drivers, every, filter, hear_more, keys, mend, namespaces, no_hooks, paths, takeovers,
    tell, unfilter,
};
use crate::wire::{STRANGER, Wire};

const FAST: Duration = Duration::from_millis(100);
const SLOW: Duration = Duration::from_secs(1);
/// A takeover that waits for no timer, on a busy machine. With adverts each second the skew of priority 100 is 609 ms, a
/// down interval above three seconds.
const AT_ONCE: Duration = Duration::from_millis(300);
/// What the test itself sends passes its own filters.
const MARK: u32 = 7;

fn refused(driver: &Driver, path: usize, kind: &str) -> u64 {
    paths(driver)[path].refused.get(kind).copied().unwrap_or_default()
}

/// Sends from an address of the namespace, past [`filter`]s that let [`MARK`] through.
fn send(namespace: &Namespace, from: std::net::IpAddr, to: SocketAddr, datagrams: &[Vec<u8>]) {
    namespace.run(|| {
        let socket = UdpSocket::bind(SocketAddr::new(from, 0)).expect("an address of the namespace");
        setsockopt(&socket.as_fd(), sockopt::Mark, &MARK).expect("root may mark");
        for datagram in datagrams {
            socket.send_to(datagram, to).expect("there is a route");
        }
    });
}

#[test]
fn both_paths_carry_heartbeats_and_the_claims_arrive() {
    let Some(lab) = namespaces() else { return };
    let [high, low] = drivers(&lab, FAST, [no_hooks(), no_hooks()]);
    hear_more(&low, 10);
    for driver in [&high, &low] {
        for path in paths(driver) {
            assert!(path.heard.expect("it was heard") < FAST * 5, "{path:?}");
            assert_eq!(path.refused.get("forged").or(path.refused.get("malformed")), None, "{path:?}");
        }
    }
    let standby = router(&low).expect("a router");
    let (claim, _) = standby.peer.expect("it was heard");
    assert_eq!((claim.priority, claim.source, claim.fitness), (200, Some(A), Fitness::Fit));
    assert!(claim.standing.is_alive(), "{claim:?}");
    assert_eq!((claim.term, standby.term, standby.hears), (standby.term, claim.term, true));
    let holder = router(&high).expect("a router");
    let (claim, _) = holder.peer.expect("it was heard");
    assert_eq!((claim.standing, claim.hears, claim.source), (Standing::Free, true, Some(B)));
}

#[test]
fn a_path_that_is_cut_shows_as_silent_and_nothing_moves() {
    let Some(lab) = namespaces() else { return };
    let [high, low] = drivers(&lab, FAST, [no_hooks(), no_hooks()]);
    let silent = |path: usize| paths(&low)[path].heard.is_some_and(|heard| heard > FAST * 6);
    cut(&lab[0], "sync");
    until("the second path is silent", LIMIT, || silent(1));
    hear_more(&low, 10);
    assert!(!silent(0));
    let router = router(&low).expect("a router");
    assert!(router.peer_fresh && router.hears);
    mend(&lab[0], "sync");
    until("it is back", LIMIT, || !silent(1));
    assert_eq!((takeovers(&high), takeovers(&low)), (1, 0));
}

#[test]
fn where_adverts_are_filtered_heartbeats_keep_the_vip_in_place() {
    let Some(lab) = namespaces() else { return };
    let [high, low] = drivers(&lab, FAST, [no_hooks(), no_hooks()]);
    for namespace in &lab {
        filter(namespace, "meta l4proto 112");
    }
    let hears = || router(&low).expect("a router").hears;
    until("the standby hears no adverts", LIMIT, || !hears());
    until("the holder is told so", LIMIT, || {
        router(&high).expect("a router").peer.is_some_and(|(claim, _)| !claim.hears)
    });
    // More than two seconds, in which both ask their segment whether it is dead. Each sees nobody else there.
    hear_more(&low, 25);
    assert_eq!((state(&high), state(&low)), (State::Master, State::Backup));
    lab.iter().for_each(unfilter);
    until("they are heard again", LIMIT, hears);
    assert_eq!((takeovers(&high), takeovers(&low)), (1, 0));
    assert!(lab[0].has_vip() && !lab[1].has_vip());
}

#[test]
fn without_keys_adverts_alone_decide_and_nothing_is_believed() {
    let Some(lab) = namespaces() else { return };
    let [high, low] = drivers(&lab, FAST, [no_hooks(), no_hooks()]);
    // The one end has a session that the other one does not know of.
    tell(&high, keys(2, 0));
    until("they are refused", LIMIT, || (0..2).all(|path| refused(&low, path, "unknown_key") > 0));
    until("what was told last is old", LIMIT, || !router(&low).expect("a router").peer_fresh);
    assert!(router(&low).expect("a router").hears);
    tell(&low, keys(2, 1));
    until("they are believed again", LIMIT, || router(&low).expect("a router").peer_fresh);
    assert_eq!((takeovers(&high), takeovers(&low)), (1, 0));
}

#[test]
fn a_dead_core_moves_the_vip_at_once() {
    let Some(lab) = namespaces() else { return };
    let [high, low] = drivers(&lab, SLOW, [no_hooks(), no_hooks()]);
    tell(&high, Command::Serving(false));
    let took = until("the other one holds it", AT_ONCE, || lab[1].has_vip());
    eprintln!("taken over after {took:?}");
    assert_eq!(router(&low).expect("a router").why, Why::Released);
    until("the first one let go", LIMIT, || !lab[0].has_vip() && state(&high) == State::Fault);
    until("it knows where the VIP is", LIMIT, || {
        router(&high).expect("a router").peer.is_some_and(|(claim, _)| claim.standing.is_held())
    });
}

/// Adverts are filtered, so nothing but the heartbeat can tell.
#[test]
fn a_resignation_arrives_by_heartbeat_alone() {
    let Some(lab) = namespaces() else { return };
    let [high, _low] = drivers(&lab, SLOW, [no_hooks(), no_hooks()]);
    filter(&lab[0], "meta l4proto 112");
    tell(&high, Command::Fault { fault: Fault::Maintenance, raised: true });
    let took = until("the other one holds it", AT_ONCE, || lab[1].has_vip());
    eprintln!("taken over after {took:?}");
}

#[test]
fn the_last_words_of_a_holder_that_died_are_taken_at_their_word() {
    let Some(lab) = namespaces() else { return };
    let words: Arc<Mutex<Vec<LastWords>>> = Arc::default();
    let kept = Arc::clone(&words);
    let held = Box::new(move |_: &[_], words: &[LastWords]| *kept.lock().expect("no panic") = words.to_vec());
    let hooks = Hooks { on_taken: Box::new(|_, _| {}), held };
    let [high, low] = drivers(&lab, SLOW, [hooks, no_hooks()]);
    // As good as dead: nothing that it says itself leaves the machine.
    filter(&lab[0], &format!("meta mark != {MARK}"));
    let words = words.lock().expect("no panic").clone();
    assert_eq!(words.len(), 2, "on each path");
    for path in &words {
        send(&lab[0], path.local.ip(), path.remote, &path.datagrams);
    }
    let took = until("the other one holds it", AT_ONCE, || lab[1].has_vip());
    eprintln!("taken over after {took:?}");
    assert_eq!(router(&low).expect("a router").why, Why::Released);
    // Said once more, they are history.
    let before = refused(&low, 0, "replayed");
    send(&lab[0], words[0].local.ip(), words[0].remote, &words[0].datagrams);
    until("the copy is refused", LIMIT, || refused(&low, 0, "replayed") > before);
    // It is alive after all: a new session ends what the last words began, and the higher term stays.
    unfilter(&lab[0]);
    tell(&high, keys(2, 0));
    tell(&low, keys(2, 1));
    until("the first one let go", LIMIT, || !lab[0].has_vip() && state(&high) == State::Backup);
    assert_eq!((state(&low), takeovers(&low)), (State::Master, 1));
}

#[test]
fn what_was_recorded_or_changed_or_comes_from_elsewhere_is_counted_and_moves_nothing() {
    let Some(lab) = namespaces() else { return };
    let mut there = Wire::open(&lab[1]);
    let [high, low] = drivers(&lab, FAST, [no_hooks(), no_hooks()]);
    hear_more(&low, 5);
    let recorded = there.datagrams(A, PORT, Duration::from_millis(300));
    assert!(recorded.len() >= 2, "an interval has one");
    let before = refused(&low, 0, "replayed");
    let to = SocketAddr::new(B.into(), PORT);
    send(&lab[0], A.into(), to, &recorded);
    let wanted = before + recorded.len() as u64;
    until("the copies are refused", LIMIT, || refused(&low, 0, "replayed") >= wanted);

    let mut forged = recorded[0].clone();
    forged.iter_mut().last().into_iter().for_each(|byte| *byte ^= 1);
    send(&lab[0], A.into(), to, &[forged, b"hello".to_vec(), vec![0; 2000]]);
    until("the changed one is refused", LIMIT, || refused(&low, 0, "forged") == 1);
    until("what is no heartbeat is refused", LIMIT, || refused(&low, 0, "foreign") == 2);

    let elsewhere = Ipv4Addr::new(192, 0, 2, 9);
    lab[0].ip(&format!("addr add {elsewhere}/24 dev lan"));
    send(&lab[0], elsewhere.into(), to, &recorded[..1]);
    until("a stranger is refused", LIMIT, || refused(&low, 0, "not_the_peer") == 1);
    assert_eq!((takeovers(&high), takeovers(&low)), (1, 0));
}

#[test]
fn who_yields_when_isolated_holds_nothing_without_the_peer_and_the_gateway() {
    let Some([a, b]) = namespaces() else { return };
    let mut wire = Wire::open(&b);
    let alone = driver(&a, 0, every(FAST, 200), no_hooks());
    tell(&alone, Command::YieldIsolated(true));
    let isolated = || router(&alone).is_some_and(|router| router.faults.iter().eq(&[Fault::Isolated]));
    until("it hears the segment, and knows that it is alone", LIMIT, || {
        wire.claim(STRANGER, Ipv4Addr::new(192, 0, 2, 9));
        isolated()
    });
    assert!(!a.has_vip());
    // Somebody is there that routes.
    a.ip(&format!("route add default via {B}"));
    until("with a gateway it holds the VIP", LIMIT, || a.has_vip() && state(&alone) == State::Master);
    cut(&b, "lan");
    until("without it, no more", LIMIT, || !a.has_vip() && isolated());
    mend(&b, "lan");
    until("and with it, again", LIMIT, || a.has_vip());
}

/// The gateway came late, and has said nothing by itself.
#[test]
fn who_yields_when_isolated_keeps_the_vip_when_only_the_peer_is_gone() {
    let Some(lab) = namespaces() else { return };
    let [high, low] = drivers(&lab, FAST, [no_hooks(), no_hooks()]);
    let mut wire = Wire::open(&lab[1]);
    lab[1].ip("addr add 192.0.2.254/24 dev lan");
    lab[0].ip("route add default via 192.0.2.254");
    tell(&high, Command::YieldIsolated(true));
    let asks = |frame: &Vec<u8>| frame[12..14] == [8, 6] && frame.get(38..42) == Some(&[192, 0, 2, 254]);
    until("the gateway is asked", LIMIT, || wire.listen(FAST).iter().any(asks));
    hear_more(&high, 3);
    filter(&lab[1], "meta l4proto { 112, udp }");
    until("the peer is silent", LIMIT, || !router(&high).expect("a router").peer_fresh);
    until("for long", LIMIT, || router(&high).expect("a router").peer.is_some_and(|(_, ago)| ago > FAST * 20));
    assert_eq!((state(&high), takeovers(&high)), (State::Master, 1));
    assert!(lab[0].has_vip());
    drop(low);
}

#[test]
fn who_is_alone_and_was_not_told_to_yield_serves() {
    let Some([a, b]) = namespaces() else { return };
    let mut wire = Wire::open(&b);
    let alone = driver(&a, 0, every(FAST, 200), no_hooks());
    until("it holds the VIP", LIMIT, || {
        wire.claim(STRANGER, Ipv4Addr::new(192, 0, 2, 9));
        a.has_vip()
    });
    assert_eq!(state(&alone), State::Master);
}
