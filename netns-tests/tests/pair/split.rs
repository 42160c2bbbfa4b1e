//! The two nodes, or what lies between them and their clients, torn apart: who holds the VIP, and what is said of it.

use std::time::{Duration, Instant};

use netns_lab::client::{Outcome, ask_once};
use netns_lab::holders::Holders;
use netns_lab::lan::default_route;
use netns_lab::pair::{NAMES, Pair, SYNC_PORT, Status};
use netns_lab::wait::{pass, wait_until};
use nix::sys::signal::Signal;

use crate::agent::signal_all;
use crate::fixture::{LIMIT, OrFail, attempt, cluster_file, edit, long, take_turn};
use crate::handoff::{connected, move_vip, told};

/// IP's number of VRRP.
const VRRP: u8 = 112;
/// Several down intervals of adverts every 100 ms, and longer than any lease: who moves at all, moves within it.
const LONG_ENOUGH: Duration = Duration::from_secs(3);

/// Exactly one, from now on; says which.
fn one_holder(holders: &Holders) -> usize {
    let one = wait_until("exactly one node to hold the VIP", LIMIT, || match holders.held().now() {
        [a, b] if a != b => Ok(usize::from(b)),
        both => Err(format!("{both:?}")),
    });
    one.or_fail("agree")
}

fn degraded(pair: &mut Pair, words: &str) {
    for index in [0, 1] {
        let what = format!("degraded by {words:?}");
        pair.node_until(index, &what, LIMIT, |status| status.degraded().contains(words)).or_fail("say so");
    }
}

fn well(pair: &mut Pair) {
    for index in [0, 1] {
        pair.node_until(index, "well", LIMIT, |status| status.degraded().is_empty()).or_fail("be well");
    }
}

/// The active node had the VIP at every moment, and the other one never.
fn nothing_moved(holders: &Holders, active: usize, since: Instant) {
    let held = holders.held();
    let moved = held.ever(1 - active, since) || !held.longest(0, since).is_zero();
    assert!(!moved, "{held:?}");
}

/// Nothing goes between the two nodes any more; the clients see both.
fn cut_from_each_other(pair: &Pair) {
    for (node, peer) in [(0, 1), (1, 0)] {
        pair.site.crossover[node].deaf(true).or_fail("cut the crossover");
        pair.site.nodes[node].port.ignore(pair.site.nodes[peer].mac).or_fail("make it deaf for its peer");
    }
}

fn heal(pair: &Pair) {
    for (node, crossover) in pair.site.nodes.iter().zip(&pair.site.crossover) {
        crossover.deaf(false).or_fail("heal the crossover");
        crossover.heal().or_fail("heal the crossover");
        node.port.heal().or_fail("heal");
    }
}

#[test]
fn adverts_that_are_filtered_move_nothing_and_both_nodes_say_so() {
    attempt("filtered", |folder| {
        let mut pair = folder.pair(|_| {});
        let active = connected(&mut pair);
        well(&mut pair);
        let holders = Holders::start(&pair.site).or_fail("watch the holders");
        let begin = Instant::now();
        for node in &pair.site.nodes {
            node.port.filter(VRRP).or_fail("filter the adverts");
        }
        degraded(&mut pair, "protocol 112 is filtered");
        pass(LONG_ENOUGH);
        nothing_moved(&holders, active, begin);
        // The heartbeats alone carry a failover.
        move_vip(&mut pair, active, 1 - active);
        for node in &pair.site.nodes {
            node.port.heal().or_fail("heal");
        }
        well(&mut pair);
        assert_eq!(pair.settled(LIMIT).or_fail("settle"), 1 - active);
        assert!(holders.held().longest(0, begin).is_zero());
    });
}

#[test]
fn silent_heartbeats_move_nothing_while_adverts_are_heard_but_nothing_can_be_handed_over() {
    attempt("no-heartbeats", |folder| {
        let mut pair = folder.pair(|_| {});
        let active = connected(&mut pair);
        well(&mut pair);
        let holders = Holders::start(&pair.site).or_fail("watch the holders");
        let begin = Instant::now();
        for (node, crossover) in pair.site.nodes.iter().zip(&pair.site.crossover) {
            crossover.close(SYNC_PORT).or_fail("close the port");
            node.port.close(SYNC_PORT).or_fail("close the port");
        }
        degraded(&mut pair, "is silent");
        let heard = |status: &Status| status.degraded().contains("are heard, its heartbeats are not");
        pair.node_until(1 - active, "degraded by silent heartbeats", LIMIT, heard).or_fail("say so");
        degraded(&mut pair, "is down");
        pass(LONG_ENOUGH);
        let answer = pair.nodes[active].ask_failover(None, false).or_fail("ask");
        assert_eq!(answer["moved"], false, "{answer}");
        nothing_moved(&holders, active, begin);
        heal(&pair);
        well(&mut pair);
        nothing_moved(&holders, active, begin);
        move_vip(&mut pair, active, 1 - active);
    });
}

#[test]
fn an_active_node_on_a_dead_lan_resigns_to_the_other_one_and_never_are_there_two() {
    attempt("lan-dead", |folder| {
        let mut pair = folder.pair(|_| {});
        let active = connected(&mut pair);
        let holders = Holders::start(&pair.site).or_fail("watch the holders");
        let takeovers = |pair: &Pair| pair.nodes[1 - active].status().or_fail("status").counter("master_transitions");
        // Two that start in the same moment may both have taken it once.
        let before = takeovers(&pair);
        let begin = Instant::now();
        pair.site.nodes[active].port.deaf(true).or_fail("kill the LAN behind its carrier");
        pair.node_until(1 - active, "active", LIMIT, |status| status.active()).or_fail("take over");
        let status = pair.nodes[1 - active].status().or_fail("status");
        let why = status.0["vips"][0]["why"].to_string();
        assert!(why.contains("released"), "by a resignation: {why}");
        pass(LONG_ENOUGH);
        pair.site.nodes[active].port.deaf(false).or_fail("heal");
        well(&mut pair);
        assert_eq!(pair.settled(LIMIT).or_fail("settle"), 1 - active, "it moved once");
        let transitions = takeovers(&pair) - before;
        let two = holders.held().longest(2, begin);
        println!("both had the address for {two:?}");
        // Resigning and taking over go at once; the kernels are told in no order.
        let twice = transitions != 1 || two >= Duration::from_millis(20);
        assert!(!twice, "{transitions} transitions, two for {two:?}");
    });
}

#[test]
fn a_pulled_cable_is_told_over_the_crossover_and_nobody_waits_for_silence() {
    attempt("cable", |folder| {
        let _turn = take_turn();
        // A down interval of more than three seconds.
        let mut pair = folder.pair(|settings| settings.advert_interval = Duration::from_secs(1));
        let active = connected(&mut pair);
        let holders = Holders::start(&pair.site).or_fail("watch the holders");
        let begin = Instant::now();
        pair.site.nodes[active].port.carrier(false).or_fail("pull the cable");
        wait_until("the other node to have it", Duration::from_secs(1), || {
            if holders.held().now()[1 - active] { Ok(()) } else { Err("not yet".into()) }
        })
        .or_fail("take over at once");
        println!("the other node had the VIP after {:?}", begin.elapsed());
        wait_until("an answer", LIMIT, || match ask_once(&pair.site.client.netns, pair.site.service()) {
            Outcome::Answered => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .or_fail("serve");
        pair.site.nodes[active].port.carrier(true).or_fail("plug it in");
        assert_eq!(pair.settled(LIMIT).or_fail("settle"), 1 - active);
    });
}

#[test]
fn after_a_cut_of_every_path_one_holder_remains_and_both_nodes_tell_how_long_there_were_two() {
    attempt("all-cut", |folder| {
        let mut pair = folder.pair(|_| {});
        let active = connected(&mut pair);
        let holders = Holders::start(&pair.site).or_fail("watch the holders");
        cut_from_each_other(&pair);
        for (index, name) in NAMES.iter().enumerate() {
            let what = format!("active, cut off ({name})");
            pair.node_until(index, &what, LIMIT, |status| status.active()).or_fail("serve");
        }
        let two = Duration::from_secs(1);
        pass(two);
        heal(&pair);
        let healed = Instant::now();
        let winner = one_holder(&holders);
        assert_eq!(winner, 1 - active, "the later term wins");
        for index in [0, 1] {
            let length = |status: &Status| status.0["dual_active"]["length_ms"].as_u64().map(Duration::from_millis);
            // Nodes that started in the same moment may both have been active for one, before the cut.
            let told_it = |status: &Status| length(status).is_some_and(|length| length >= two);
            let status = pair.node_until(index, "telling of two active nodes", LIMIT, told_it).or_fail("tell");
            assert!(
                length(&status) < Some(two + Duration::from_secs(10)),
                "{} says {:?}",
                NAMES[index],
                length(&status)
            );
            let events = told(&pair, index, "dual_active");
            assert!(
                events.iter().any(|event| event["text"].to_string().contains(" ms")),
                "{}: {events:?}",
                NAMES[index]
            );
        }
        assert_eq!(pair.settled(LIMIT).or_fail("settle"), winner);
        well(&mut pair);
        let late = healed + Duration::from_secs(2);
        if Instant::now() > late {
            assert!(holders.held().longest(2, late).is_zero(), "one holder for good");
        }
        move_vip(&mut pair, winner, 1 - winner);
    });
}

#[test]
fn isolated_nodes_that_shall_yield_hold_nothing_without_their_gateway() {
    attempt("yield", |folder| {
        let mut pair = Pair::new(folder.settings()).or_fail("make the pair");
        let gateway = pair.site.servers[0].address;
        for index in [0, 1] {
            edit(&cluster_file(&pair, index), "name = \"lab\"", "name = \"lab\"\non_isolation = \"yield\"");
            default_route(&pair.site.nodes[index].netns, gateway).or_fail("give it a gateway");
            pair.start_agent(index).or_fail("start an agent");
        }
        let active = connected(&mut pair);
        // The gateway was asked for, and answered.
        wait_until("an answer", LIMIT, || match ask_once(&pair.site.client.netns, pair.site.service()) {
            Outcome::Answered => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .or_fail("serve");
        let holders = Holders::start(&pair.site).or_fail("watch the holders");

        // The active node alone is cut off from everything: it yields, and its peer, which has the gateway, serves.
        pair.site.crossover[active].deaf(true).or_fail("cut the crossover");
        pair.site.nodes[active].port.deaf(true).or_fail("cut the LAN");
        let isolated = |status: &Status| {
            !status.active() && status.own()["reasons"].to_string().contains("neither the peer nor the gateway")
        };
        pair.node_until(active, "isolated", LIMIT, isolated).or_fail("yield");
        pair.node_until(1 - active, "active", LIMIT, |status| status.active()).or_fail("take over");
        assert_eq!(one_holder(&holders), 1 - active);
        pass(LONG_ENOUGH);
        assert_eq!(holders.held().now(), [active == 1, active == 0]);
        pair.site.crossover[active].deaf(false).or_fail("heal");
        pair.site.nodes[active].port.deaf(false).or_fail("heal");
        assert_eq!(connected(&mut pair), 1 - active);

        // Cut from each other, and the gateway dies: neither can tell, neither holds it.
        cut_from_each_other(&pair);
        pair.site.servers[0].port.carrier(false).or_fail("kill the gateway");
        wait_until("nobody to hold the VIP", LIMIT, || match holders.held().now() {
            [false, false] => Ok(()),
            holders => Err(format!("{holders:?}")),
        })
        .or_fail("yield");
        for index in [0, 1] {
            pair.node_until(index, "isolated", LIMIT, isolated).or_fail("say so");
        }
        pass(LONG_ENOUGH);
        assert_eq!(holders.held().now(), [false, false]);
        pair.site.servers[0].port.carrier(true).or_fail("revive the gateway");
        heal(&pair);
        connected(&mut pair);
    });
}

/// Everything of the active node sleeps and wakes.
fn sleeps(name: &str, length: Duration) {
    attempt(name, |folder| {
        let mut pair = folder.pair(|_| {});
        let active = connected(&mut pair);
        let holders = Holders::start(&pair.site).or_fail("watch the holders");
        let begin = Instant::now();
        signal_all(&pair, active, Signal::SIGSTOP);
        pair.node_until(1 - active, "active", LIMIT, |status| status.active()).or_fail("take over");
        pass(length.saturating_sub(begin.elapsed()));
        assert_eq!(holders.held().now(), [active == 1, active == 0], "the lease has lapsed");
        let woken = Instant::now();
        signal_all(&pair, active, Signal::SIGCONT);
        assert_eq!(connected(&mut pair), 1 - active, "who slept does not get it back");
        pass(LONG_ENOUGH);
        let held = holders.held();
        assert!(!held.ever(active, woken) && held.longest(2, woken).is_zero(), "{held:?}");
        well(&mut pair);
        move_vip(&mut pair, 1 - active, active);
    });
}

#[test]
fn a_node_that_slept_for_ten_seconds_is_no_second_holder_when_it_wakes() {
    sleeps("slept", Duration::from_secs(10));
}

#[test]
fn long_a_node_that_slept_for_half_a_minute_is_no_second_holder_when_it_wakes() {
    if !long() {
        println!("skipped slept-long: set LBNODE_LONG=1");
        return;
    }
    sleeps("slept-long", Duration::from_secs(30));
}
