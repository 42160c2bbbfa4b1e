//! Clients of a node that died are told at once, even those that only wait.

use std::time::{Duration, Instant};

use netns_lab::client::{Outcome, ask_once};
use netns_lab::load::{Load, Loss, Spec};
use netns_lab::pair::{NAMES, Pair};
use netns_lab::wait::{pass, wait_until};

use crate::fixture::{LIMIT, OrFail, SMALL, assert_whole, attempt, load, nothing_left, take_turn};
use crate::handoff::{connected, move_vip, told};

/// Connections that say nothing.
const IDLE: Spec = Spec { idle: 50, busy: 0, transfer: 0, ..SMALL };
/// How old connections must be, so that the peer knows of them whatever the moment of their beginning.
const KNOWN: Duration = Duration::from_secs(2);
/// From the takeover to the last client's reset.
const AT_ONCE: Duration = Duration::from_secs(1);

/// For everybody else the node is dead: none of its packets comes out any more.
fn die(pair: &Pair, index: usize) {
    // The nodes' own LAN first, or it would say that its other link went down.
    pair.site.crossover[index].carrier(false).or_fail("pull the cable to the peer");
    pair.site.nodes[index].port.carrier(false).or_fail("pull the cable to the clients");
}

/// All connections of the load are reset; when the last one was.
#[track_caller]
fn all_reset(load: Load, within: Duration) -> Instant {
    wait_until("every idle client to see a reset", within, || match load.lost() {
        50 => Ok(()),
        lost => Err(format!("{lost} of 50")),
    })
    .or_fail("be reset");
    let recording = load.finish().or_fail("finish the load");
    assert!(recording.losses.iter().all(|lost| lost.loss == Loss::Reset), "{:?}", recording.losses);
    recording.losses.iter().map(|lost| lost.at).max().expect("fifty")
}

/// What the events of a kind say of clients that were told.
fn tickles(pair: &Pair, index: usize) -> Vec<String> {
    let events = ["failover", "handoff"].into_iter().flat_map(|kind| told(pair, index, kind));
    let texts = events.filter_map(|event| Some(event["text"].as_str()?.to_owned()));
    texts.filter(|text| text.contains("tickled")).collect()
}

/// Waits until the one event says so.
fn tickled(pair: &Pair, index: usize) -> String {
    wait_until("the event to say so", LIMIT, || match tickles(pair, index).as_slice() {
        [told] => Ok(told.clone()),
        other => Err(format!("{other:?}")),
    })
    .or_fail("tell")
}

#[test]
fn idle_clients_of_a_dead_node_are_reset_as_soon_as_the_other_one_takes_over() {
    let _turn = take_turn();
    attempt("tickle", |folder| {
        let mut pair = folder.pair(|_| {});
        let active = connected(&mut pair);
        let connections = load(&pair, IDLE);
        pass(KNOWN);
        die(&pair, active);
        pair.node_until(1 - active, "active", LIMIT, |status| status.active()).or_fail("take over");
        let taken = Instant::now();
        let after = all_reset(connections, LIMIT).saturating_duration_since(taken);
        assert!(after < AT_ONCE, "the last client was reset {after:?} after the takeover");
        let service = pair.site.service();
        wait_until("new connections to work", LIMIT, || match ask_once(&pair.site.client.netns, service) {
            Outcome::Answered => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .or_fail("connect again");
        let told = tickled(&pair, 1 - active);
        assert!(told.contains(&format!("connections of {}", NAMES[active])), "{told}");
    });
}

#[test]
fn after_a_hand_off_nobody_is_tickled_until_the_node_dies_that_kept_the_connections() {
    attempt("tickle-handoff", |folder| {
        let mut pair = folder.pair(|_| {});
        let active = connected(&mut pair);
        let (ends, stays) = (load(&pair, IDLE), load(&pair, IDLE));
        pass(KNOWN);
        move_vip(&mut pair, active, 1 - active);
        pass(KNOWN);
        assert_whole(ends, 0);
        assert_eq!(stays.lost(), 0);
        for index in [0, 1] {
            assert_eq!(tickles(&pair, index), Vec::<String>::new(), "{}", NAMES[index]);
        }
        let of_taker = load(&pair, IDLE);
        die(&pair, active);
        all_reset(stays, LIMIT);
        assert_whole(of_taker, 0);
        tickled(&pair, 1 - active);
    });
}

#[test]
fn the_connections_of_both_nodes_live_on_when_the_vip_goes_there_and_back() {
    attempt("tickle-back", |folder| {
        let mut pair = folder.pair(|_| {});
        let active = connected(&mut pair);
        let first = load(&pair, IDLE);
        pass(KNOWN);
        move_vip(&mut pair, active, 1 - active);
        let second = load(&pair, IDLE);
        pass(KNOWN);
        move_vip(&mut pair, 1 - active, active);
        pass(KNOWN);
        assert_whole(first, 0);
        assert_whole(second, 0);
        nothing_left(&pair);
        for index in [0, 1] {
            assert_eq!(tickles(&pair, index), Vec::<String>::new(), "{}", NAMES[index]);
        }
    });
}
