//! Planned switchovers: nobody's connection ends, and nothing stays behind.

use std::process::Command;
use std::time::{Duration, Instant};

use netns_lab::holders::Holders;
use netns_lab::lan::nft;
use netns_lab::load::Spec;
use netns_lab::pair::{NAMES, Pair, Status};
use netns_lab::process::kill_all;
use netns_lab::residue::Residue;
use netns_lab::site::VIP;
use netns_lab::wait::wait_until;
use nix::sys::signal::Signal;

use crate::fixture::{
    LIMIT, OrFail, SMALL, assert_whole, attempt, binary, cluster_file, edit, load, long, nothing_left,
};

/// A pair that can hand over: settled, and the nodes talk.
pub(crate) fn connected(pair: &mut Pair) -> usize {
    for index in [0, 1] {
        let ready = |status: &Status| status.connected() && status.0["pair"]["redundant"] == true;
        pair.node_until(index, "ready for a failover", LIMIT, ready).or_fail("connect");
    }
    pair.settled(LIMIT).or_fail("settle")
}

/// Moves the VIP by asking node `asked`, and waits for all of it.
pub(crate) fn move_vip(pair: &mut Pair, asked: usize, to: usize) {
    pair.nodes[asked].failover(LIMIT).or_fail("hand over");
    pair.node_until(to, "active", LIMIT, |status| status.active()).or_fail("take over");
    assert_eq!(pair.settled(LIMIT).or_fail("settle"), to);
}

/// The events of one kind that a node tells.
pub(crate) fn told(pair: &Pair, index: usize, kind: &str) -> Vec<serde_json::Value> {
    let mut events = pair.nodes[index].events().or_fail("events");
    events.retain(|event| event["kind"] == kind);
    events
}

#[test]
fn failovers_there_and_back_and_over_again_lose_no_connection_whoever_is_asked() {
    attempt("over-and-back", |folder| {
        let mut pair = folder.pair(|_| {});
        let first = connected(&mut pair);
        let holders = Holders::start(&pair.site).or_fail("watch the holders");
        let begin = Instant::now();
        let connections = load(&pair, SMALL);
        // The active node, then the standby, then the active one again.
        move_vip(&mut pair, first, 1 - first);
        move_vip(&mut pair, first, first);
        move_vip(&mut pair, first, 1 - first);
        let more = load(&pair, Spec { transfer: 0, ..SMALL });
        move_vip(&mut pair, 1 - first, first);
        let held = holders.held();
        assert!(held.longest(0, begin).is_zero(), "somebody had the VIP at every moment: {held:?}");
        assert_whole(connections, 2);
        assert_whole(more, 0);
        nothing_left(&pair);
        for index in [0, 1] {
            // Who gives tells that it gave, who takes that it took.
            let texts = told(&pair, index, "handoff");
            let count = |words: &str| texts.iter().filter(|event| event["text"].to_string().contains(words)).count();
            let found = (count("was handed over to"), count("took web over"));
            assert_eq!(found, (2, 2), "{}: {texts:#?}", NAMES[index]);
        }
    });
}

#[test]
fn a_failover_that_is_taken_back_in_its_middle_loses_nothing() {
    attempt("taken-back", |folder| {
        let mut pair = folder.pair(|_| {});
        let active = connected(&mut pair);
        let connections = load(&pair, SMALL);
        for _ in 0..3 {
            // Each one as soon as it is taken: the one before still has connections at the other node.
            pair.nodes[active].failover(LIMIT).or_fail("hand over");
            pair.nodes[1 - active].failover(LIMIT).or_fail("hand back");
        }
        assert_eq!(pair.settled(LIMIT).or_fail("settle"), active);
        assert_whole(connections, 2);
        nothing_left(&pair);
    });
}

#[test]
fn status_counts_the_connections_that_are_left_down_to_the_end_of_the_hand_off() {
    attempt("left", |folder| {
        let mut pair = folder.pair(|_| {});
        let active = connected(&mut pair);
        let many = load(&pair, Spec { idle: 280, busy: 0, transfer: 0, ..SMALL });
        let few = load(&pair, Spec { idle: 15, busy: 5, transfer: 0, ..SMALL });
        move_vip(&mut pair, active, 1 - active);
        let left = |pair: &mut Pair, what: &str, wanted: std::ops::RangeInclusive<u64>| {
            let wanted = |status: &Status| status.connections_left().is_some_and(|left| wanted.contains(&left));
            pair.node_until(active, what, LIMIT, wanted).or_fail("count the connections")
        };
        // A request of the tests may be among them.
        let status = left(&mut pair, "left with all connections", 300..=310);
        assert_eq!(status.0["handoff"][0]["to"], NAMES[1 - active]);
        assert_whole(many, 0);
        left(&mut pair, "left with a few", 20..=30);
        assert_whole(few, 0);
        for index in [0, 1] {
            pair.node_until(index, "done with it", LIMIT, |status| status.connections_left().is_none()).or_fail("end");
        }
        nothing_left(&pair);
    });
}

#[test]
fn a_node_in_maintenance_hands_over_and_stays_out_until_it_is_put_back() {
    attempt("maintenance", |folder| {
        let mut pair = folder.pair(|_| {});
        let active = connected(&mut pair);
        let connections = load(&pair, SMALL);
        pair.nodes[active].maintenance(true).or_fail("take it out");
        pair.node_until(1 - active, "active", LIMIT, |status| status.active()).or_fail("take over");
        let out =
            pair.node_until(active, "out", LIMIT, |status| status.own()["role"] == "maintenance").or_fail("be out");
        assert!(!out.fit() && !out.active(), "{}", out.words());
        let answer = wait_until("a refusal that names the maintenance", LIMIT, || {
            let answer = pair.nodes[1 - active].ask_failover(None, false).or_fail("ask");
            assert_eq!(answer["moved"], false, "{answer}");
            // The peer's own words come with its next report.
            if answer["text"].to_string().contains("maintenance") { Ok(answer) } else { Err(answer.to_string()) }
        });
        answer.or_fail("be refused");
        pair.nodes[active].maintenance(false).or_fail("put it back");
        assert_eq!(pair.settled(LIMIT).or_fail("settle"), 1 - active, "its return moves nothing");
        move_vip(&mut pair, 1 - active, active);
        assert_whole(connections, 2);
        nothing_left(&pair);
    });
}

#[test]
fn an_active_agent_that_is_told_to_end_hands_over_and_waits_for_its_connections() {
    attempt("told-to-end", |folder| {
        let mut pair = folder.pair(|_| {});
        let active = connected(&mut pair);
        let connections = load(&pair, SMALL);
        let begin = Instant::now();
        pair.signal_agent(active, Signal::SIGTERM);
        pair.node_until(1 - active, "active", LIMIT, |status| status.active()).or_fail("take over");
        let left = |status: &Status| status.connections_left().is_some_and(|left| left >= 300);
        pair.node_until(1 - active, "told how many are left", LIMIT, left).or_fail("wait for the connections");
        let agent = pair.nodes[active].agent.as_mut().expect("it was started");
        assert!(agent.exited().is_none(), "it waits for its connections");
        assert_whole(connections, 2);
        let agent = pair.nodes[active].agent.as_mut().expect("it was started");
        let status = agent.wait(Duration::from_secs(20)).or_fail("end");
        assert!(status.success(), "{}", agent.describe());
        assert!(begin.elapsed() < Duration::from_secs(28), "it did not wait for its time to be over");
        nothing_left(&pair);
        pair.start_agent(active).or_fail("start it again");
        assert_eq!(connected(&mut pair), 1 - active);
    });
}

#[test]
fn connections_that_outlive_the_time_for_hand_offs_are_reset_and_counted() {
    attempt("outlive", |folder| {
        let mut pair = Pair::new(folder.settings()).or_fail("make the pair");
        for index in [0, 1] {
            edit(&cluster_file(&pair, index), "handoff_timeout = \"10m\"", "handoff_timeout = \"3s\"");
            pair.start_agent(index).or_fail("start an agent");
        }
        let active = connected(&mut pair);
        let connections = load(&pair, Spec { transfer: 0, ..SMALL });
        move_vip(&mut pair, active, 1 - active);
        wait_until("every connection to be reset", LIMIT, || match connections.lost() {
            300 => Ok(()),
            lost => Err(format!("{lost} of 300")),
        })
        .or_fail("be reset");
        nothing_left(&pair);
        let over = over(&pair, active);
        assert!(over.contains("300 were reset") || over.contains("301 were reset"), "{over}");
        drop(connections);
    });
}

#[test]
fn long_connections_that_outlive_the_end_of_the_agent_are_reset_and_counted() {
    attempt("outlive-agent", |folder| {
        if !long() {
            println!("skipped outlive-agent: set LBNODE_LONG=1");
            return;
        }
        let mut pair = folder.pair(|_| {});
        let active = connected(&mut pair);
        let connections = load(&pair, Spec { transfer: 0, ..SMALL });
        pair.signal_agent(active, Signal::SIGTERM);
        let agent = pair.nodes[active].agent.as_mut().expect("it was started");
        let status = agent.wait(Duration::from_secs(45)).or_fail("end in its time");
        assert!(status.success(), "{}", agent.describe());
        assert_eq!(connections.lost(), 300);
        nothing_left(&pair);
        let log = std::fs::read_to_string(pair.nodes[active].log()).or_fail("read the log");
        assert!(log.contains("reset=300"), "it says how many: {log}");
    });
}

/// The end of the newest hand-off, in the words of a node.
fn over(pair: &Pair, index: usize) -> String {
    let told = wait_until("the end of the hand-off to be told", LIMIT, || {
        let texts = told(pair, index, "handoff");
        let over = texts.iter().rev().filter_map(|event| event["text"].as_str()).find(|text| text.contains("is over"));
        over.map(str::to_owned).ok_or_else(|| format!("{texts:?}"))
    });
    told.or_fail("end the hand-off")
}

#[test]
fn rules_that_somebody_flushes_during_a_hand_off_are_put_back_and_silent_connections_live_on() {
    attempt("flushed", |folder| {
        let mut pair = folder.pair(|_| {});
        let active = connected(&mut pair);
        let connections = load(&pair, Spec { idle: 300, busy: 0, transfer: 0, ..SMALL });
        move_vip(&mut pair, active, 1 - active);
        for index in [1 - active, active, 1 - active] {
            let netns = &pair.site.nodes[index].netns;
            let before = wait_until("rules of the hand-off", LIMIT, || {
                let residue = Residue::of(netns).or_fail("look at the kernel");
                if residue.tables.is_empty() { Err("none".to_owned()) } else { Ok(residue) }
            });
            let before = before.or_fail("hand over");
            nft(netns, "flush ruleset".into()).or_fail("flush the rules");
            wait_until("the rules to be back", LIMIT, || {
                let now = Residue::of(netns).or_fail("look at the kernel");
                if now == before { Ok(()) } else { Err(format!("{now:?}, before {before:?}")) }
            })
            .or_fail("repair");
        }
        assert_whole(connections, 0);
        nothing_left(&pair);
    });
}

#[test]
fn release_clears_away_what_killed_nodes_left_of_a_hand_off() {
    attempt("release", |folder| {
        let mut pair = folder.pair(|_| {});
        let active = connected(&mut pair);
        let connections = load(&pair, Spec { idle: 20, busy: 0, transfer: 0, ..SMALL });
        move_vip(&mut pair, active, 1 - active);
        let residue =
            |pair: &Pair, index: usize| Residue::of(&pair.site.nodes[index].netns).or_fail("look for residue");
        let (taker, leaver) = (residue(&pair, 1 - active), residue(&pair, active));
        assert!(taker.passes_on() && leaver.mutes() && !leaver.routes.is_empty(), "{taker:?}, {leaver:?}");
        for index in [0, 1] {
            kill_all(&pair.site.nodes[index].netns).or_fail("kill everything");
            pair.kill_agent(index);
        }
        for index in [0, 1] {
            // Tables go with the `nft` that owns them; the leaver's route has no owner.
            let left = residue(&pair, index);
            assert!(index != active || !left.routes.is_empty(), "there is a route to be cleared away: {left:?}");
            let (binary, config) = (binary(), pair.nodes[index].config());
            let release = move || Command::new(binary).args(["release", "--json", "--config"]).arg(config).output();
            let output = pair.site.nodes[index].netns.run(release).or_fail("run lbnode release");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(residue(&pair, index).is_none(), "{:?} at {}", residue(&pair, index), NAMES[index]);
            assert!(!pair.holds_vip(index));
            let told = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(left.tables.iter().all(|name| told.contains(name)), "it says what: {told}");
            if !left.routes.is_empty() {
                assert!(told.contains(&VIP.to_string()), "it says what: {told}");
            }
        }
        drop(connections);
    });
}
