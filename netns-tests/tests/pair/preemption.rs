//! A node that is preferred takes its VIP back: by a hand-off, when it is current, and not for ever.

use std::time::{Duration, Instant};

use netns_lab::pair::{Pair, Status};
use netns_lab::wait::{pass, wait_until};
use nix::sys::signal::{Signal, kill};

use crate::fixture::{Folder, LIMIT, OrFail, SMALL, assert_whole, attempt, cluster_file, edit, load, nothing_left};
use crate::handoff::connected;
use crate::refusals::apply_another;

/// A pair with preemption, `a` preferred, not started.
fn preempting(folder: &Folder, delay: &str) -> Pair {
    let mut settings = folder.settings();
    settings.preempt = true;
    let pair = Pair::new(settings).or_fail("make the pair");
    for index in [0, 1] {
        let delayed = format!("preempt = true\npreempt_delay = \"{delay}\"");
        edit(&cluster_file(&pair, index), "preempt = true", &delayed);
    }
    pair
}

#[test]
fn the_preferred_node_takes_the_vip_back_after_its_delay_without_a_lost_connection() {
    attempt("preempt-delay", |folder| {
        let mut pair = preempting(folder, "3s");
        pair.start_agent(1).or_fail("start b");
        pair.node_until(1, "active, alone", LIMIT, |status| status.active() && status.fit()).or_fail("serve alone");
        let connections = load(&pair, SMALL);
        pair.start_agent(0).or_fail("start a");
        pair.node_until(0, "fit and connected", LIMIT, |status| status.fit() && status.connected()).or_fail("come up");
        let fit = Instant::now();
        pair.node_until(0, "active", LIMIT, |status| status.active()).or_fail("take it back");
        // The node was fit a little before it was seen to be.
        assert!(fit.elapsed() > Duration::from_secs(2), "after its delay, not {:?}", fit.elapsed());
        assert_eq!(pair.settled(LIMIT).or_fail("settle"), 0);
        let why = pair.nodes[0].status().or_fail("status").0["vips"][0]["why"].to_string();
        assert!(why.contains("handed over"), "{why}");
        assert_whole(connections, 2);
        nothing_left(&pair);
    });
}

#[test]
fn the_preferred_node_waits_until_it_runs_what_its_peer_runs() {
    attempt("preempt-current", |folder| {
        let mut pair = preempting(folder, "0s");
        pair.start_agent(1).or_fail("start b");
        pair.node_until(1, "active, alone", LIMIT, |status| status.active() && status.fit()).or_fail("serve alone");
        apply_another(&pair, 1);
        pair.start_agent(0).or_fail("start a");
        let differs = |status: &Status| status.fit() && status.degraded().contains("another configuration");
        pair.node_until(0, "fit with another revision", LIMIT, differs).or_fail("come up");
        // Several times what it takes to preempt.
        pass(Duration::from_secs(4));
        assert!(pair.nodes[1].status().or_fail("status").active(), "the peer keeps it");
        let never = pair.nodes[0].status().or_fail("status").counter("master_transitions");
        assert_eq!(never, 0);
        let connections = load(&pair, SMALL);
        apply_another(&pair, 0);
        pair.node_until(0, "active", LIMIT, |status| status.active()).or_fail("take it back");
        assert_eq!(pair.settled(LIMIT).or_fail("settle"), 0);
        assert_whole(connections, 2);
        nothing_left(&pair);
    });
}

#[test]
fn a_preferred_node_that_lost_the_vip_three_times_leaves_it_where_it_is() {
    attempt("preempt-damped", |folder| {
        let mut pair = preempting(folder, "0s");
        for index in [0, 1] {
            pair.start_agent(index).or_fail("start an agent");
        }
        connected(&mut pair);
        pair.node_until(0, "active", LIMIT, |status| status.active()).or_fail("be preferred");
        for loss in 1..=3 {
            let core = wait_until("a core", LIMIT, || {
                pair.nodes[0].status().ok().and_then(|status| status.core()).ok_or_else(|| "none".into())
            });
            kill(core.or_fail("have a core"), Signal::SIGKILL).or_fail("kill the core");
            pair.node_until(1, "active", LIMIT, |status| status.active()).or_fail("take over");
            if loss < 3 {
                pair.node_until(0, "fit again", Duration::from_secs(90), Status::fit).or_fail("recover");
                // Its own preemption may be quicker.
                wait_until("the preferred node to have it back", LIMIT, || {
                    let asked = pair.nodes[0].ask_failover(Some("lb-a"), false).or_fail("ask");
                    match pair.nodes[0].status() {
                        Ok(status) if status.active() => Ok(()),
                        _ => Err(asked.to_string()),
                    }
                })
                .or_fail("go back");
            }
        }
        let words = "three times in ten minutes";
        pair.node_until(0, "damped", LIMIT, |status| status.degraded().contains(words)).or_fail("say so");
        pair.node_until(0, "fit again", Duration::from_secs(90), Status::fit).or_fail("recover");
        // Several times what it takes to preempt.
        pass(Duration::from_secs(4));
        let status = pair.nodes[0].status().or_fail("status");
        assert!(!status.active() && status.degraded().contains(words), "{}", status.words());
        assert_eq!(pair.settled(LIMIT).or_fail("settle"), 1);
        // An operator is not damped.
        pair.nodes[0].failover(LIMIT).or_fail("hand over");
        assert_eq!(pair.settled(LIMIT).or_fail("settle"), 0);
    });
}
