//! Switchovers that are refused, with the reason and with nothing left behind, and those that are forced.

use std::process::Command;
use std::time::Duration;

use netns_lab::pair::{NAMES, Pair};
use netns_lab::wait::{pass, wait_until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::fixture::{LIMIT, OrFail, SMALL, assert_whole, attempt, cluster_file, load, nothing_left};
use crate::handoff::connected;

/// Asks until the refusal says these words: what a node knows of its peer is about a second old.
fn refused(pair: &Pair, asked: usize, words: &str) {
    let refusal = wait_until(&format!("a refusal that says {words:?}"), LIMIT, || {
        let answer = pair.nodes[asked].ask_failover(None, false).or_fail("ask");
        assert_eq!(answer["moved"], false, "{answer}");
        if answer["text"].to_string().contains(words) { Ok(()) } else { Err(answer.to_string()) }
    });
    refusal.or_fail("be refused");
}

/// Runs another revision on one node: the same with a comment.
pub(crate) fn apply_another(pair: &Pair, index: usize) -> Value {
    let text = std::fs::read_to_string(cluster_file(pair, index)).or_fail("read the cluster file") + "# changed\n";
    let request = json!({"request": "config_apply", "file": "cluster.toml", "text": text, "dry_run": false});
    let answer = pair.nodes[index].call_within(&request, Duration::from_secs(10)).or_fail("apply");
    assert_eq!(answer["response"], "applied", "{answer}");
    answer
}

#[test]
fn without_a_session_a_failover_is_refused_and_says_so() {
    attempt("refused-alone", |folder| {
        let mut pair = folder.pair(|_| {});
        let active = connected(&mut pair);
        pair.signal_agent(1 - active, Signal::SIGTERM);
        let agent = pair.nodes[1 - active].agent.as_mut().expect("started");
        agent.wait(LIMIT).or_fail("end");
        refused(&pair, active, &format!("no sync channel to {}", NAMES[1 - active]));
        // What it last said of itself is believed for a few seconds.
        let gone = |status: &netns_lab::pair::Status| status.0["nodes"][1]["role"] == "unreachable";
        let status = pair.node_until(active, "without a peer", LIMIT, gone).or_fail("notice");
        assert!(status.active() && status.degraded().contains("is down"), "{}", status.words());
        nothing_left(&pair);
    });
}

#[test]
fn a_failover_to_a_node_that_cannot_serve_is_refused_with_its_reason() {
    attempt("refused-unfit", |folder| {
        let mut pair = folder.pair(|_| {});
        let active = connected(&mut pair);
        pair.site.nodes[1 - active].port.carrier(false).or_fail("pull the standby's cable");
        refused(&pair, active, "link is down");
        assert_eq!(pair.nodes[1 - active].status().or_fail("status").router(), "fault");
        let asked = pair.nodes[1 - active].ask_failover(None, false).or_fail("ask the unfit one");
        assert!(asked["moved"] == false && asked["text"].to_string().contains("cannot serve"), "{asked}");
        assert!(pair.holds_vip(active));
        nothing_left(&pair);
    });
}

#[test]
fn a_failover_to_another_revision_is_refused_and_force_moves_it_all_the_same() {
    attempt("refused-revision", |folder| {
        let mut pair = folder.pair(|_| {});
        let active = connected(&mut pair);
        apply_another(&pair, 1 - active);
        let degraded = |status: &netns_lab::pair::Status| status.degraded().contains("another configuration");
        for index in [0, 1] {
            pair.node_until(index, "degraded by the other revision", LIMIT, degraded).or_fail("say so");
        }
        refused(&pair, active, "another configuration");
        let forced = pair.nodes[active].ask_failover(None, true).or_fail("force it");
        assert!(forced["moved"] == true && forced["text"].to_string().contains("reset"), "{forced}");
        pair.node_until(1 - active, "active", LIMIT, |status| status.active()).or_fail("take over");
        assert_eq!(pair.settled(LIMIT).or_fail("settle"), 1 - active);
        apply_another(&pair, active);
        for index in [0, 1] {
            pair.node_until(index, "well", LIMIT, |status| status.degraded().is_empty()).or_fail("be the same again");
        }
        nothing_left(&pair);
    });
}

#[test]
fn a_failover_to_where_the_vip_is_and_to_nobody_changes_nothing() {
    attempt("refused-here", |folder| {
        let mut pair = folder.pair(|_| {});
        let active = connected(&mut pair);
        for asked in [0, 1] {
            let there = pair.nodes[asked].ask_failover(Some(NAMES[active]), false).or_fail("ask");
            assert!(there["moved"] == false && there["text"].to_string().contains("already"), "{there}");
            let request = json!({"request": "failover", "vip": "nothing", "to": null, "force": false});
            let nobody = pair.nodes[asked].call(&request).or_fail("ask");
            assert!(nobody["response"] == "failed" && nobody.to_string().contains("there are: web"), "{nobody}");
            let request = json!({"request": "failover", "vip": null, "to": "lb-c", "force": false});
            let nobody = pair.nodes[asked].call(&request).or_fail("ask");
            assert!(nobody["response"] == "failed" && nobody.to_string().contains("lb-c"), "{nobody}");
        }
        assert_eq!(pair.settled(LIMIT).or_fail("settle"), active);
    });
}

#[test]
fn a_switch_that_drops_what_is_passed_on_is_found_before_anything_moves() {
    attempt("source-guard", |folder| {
        let mut pair = folder.pair(|_| {});
        let active = connected(&mut pair);
        let connections = load(&pair, SMALL);
        let standby = &pair.site.nodes[1 - active];
        standby.port.guard_source(standby.address).or_fail("guard the standby's port");
        let answer = pair.nodes[active].ask_failover(None, false).or_fail("ask");
        assert!(answer["moved"] == false && answer["text"].to_string().contains("source guard"), "{answer}");
        nothing_left(&pair);
        pair.site.nodes[1 - active].port.heal().or_fail("take the guard away");
        pair.nodes[active].failover(LIMIT).or_fail("hand over");
        assert_whole(connections, 2);
        nothing_left(&pair);
    });
}

#[test]
fn without_pairing_status_says_so_vrrp_alone_works_and_a_failover_is_refused() {
    attempt("not-paired", |folder| {
        let mut pair = Pair::new(folder.settings()).or_fail("make the pair");
        for index in [0, 1] {
            std::fs::remove_dir_all(pair.nodes[index].folder.join("state/identity")).or_fail("forget who it is");
            pair.start_agent(index).or_fail("start an agent");
        }
        let active = pair.settled(LIMIT).or_fail("settle by VRRP alone");
        for index in [0, 1] {
            let status = pair.nodes[index].status().or_fail("status");
            assert_eq!(status.0["sync"]["state"], "not_paired", "{}", status.words());
            assert!(status.degraded().contains("no sync channel"), "{}", status.words());
        }
        refused(&pair, active, "no sync channel");
        pair.kill_agent(active);
        pair.node_until(1 - active, "active", LIMIT, |status| status.active()).or_fail("take over");
        pair.start_agent(active).or_fail("start it again");
        assert_eq!(pair.settled(LIMIT).or_fail("settle"), 1 - active);

        pair.introduce().or_fail("pair them while they run");
        assert_eq!(connected(&mut pair), 1 - active, "pairing moves nothing");
        for index in [0, 1] {
            pair.node_until(index, "well", LIMIT, |status| status.degraded().is_empty()).or_fail("be a pair");
        }
        pass(Duration::from_millis(500));
        pair.nodes[active].failover(LIMIT).or_fail("hand over");
        pair.node_until(active, "active", LIMIT, |status| status.active()).or_fail("take over");
    });
}

#[test]
fn the_command_line_says_what_moved_and_ends_accordingly() {
    attempt("cli-failover", |folder| {
        let mut pair = folder.pair(|_| {});
        let active = connected(&mut pair);
        let run = |pair: &Pair, arguments: &[&str]| {
            let mut command = Command::new(crate::fixture::binary());
            command.arg("--control").arg(pair.nodes[active].socket()).args(arguments);
            let output = command.output().or_fail("run lbnode");
            (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let (code, said) = run(&pair, &["failover"]);
        assert!(code == Some(0) && said.contains("moved from") && said.contains("live on"), "{code:?} {said}");
        pair.settled(LIMIT).or_fail("settle");
        let (code, said) = run(&pair, &["failover", "--to", NAMES[1 - active]]);
        assert!(code == Some(0) && said.contains("already"), "{code:?} {said}");
        pair.site.nodes[active].port.carrier(false).or_fail("pull the cable");
        pair.node_until(active, "in fault", LIMIT, |status| status.router() == "fault").or_fail("notice");
        let (code, said) = run(&pair, &["failover"]);
        assert!(code == Some(1) && said.contains("stays at"), "{code:?} {said}");
    });
}
