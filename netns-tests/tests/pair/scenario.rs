//! Scenarios of `lbnode lab`, each with a bound: of paired nodes, and of two that have VRRP alone.
//!
//! The bounds are those of docs/failover.md plus what a debug build on two shared cores may add: a test must not
//! fail because of its neighbours. The figures themselves are measured by `make numbers`.

use std::time::{Duration, Instant};

use netns_lab::client::{Client, Cost};
use netns_lab::pair::Pair;
use netns_lab::wait::{pass, wait_until};
use nix::sys::signal::{Signal, kill};

use crate::fixture::{Folder, LIMIT, OrFail, attempt, take_turn};
use crate::handoff::connected;

/// For the neighbours.
const SLACK: Duration = Duration::from_millis(150);

/// Breaks the active node of a settled pair under load; returns it, the pair and what the client saw until the
/// other node had been active for a while.
fn lose_active(folder: &Folder, sync: bool, fault: impl FnOnce(&mut Pair, usize)) -> (Pair, usize, Cost) {
    let mut pair = folder.pair(|settings| settings.sync = sync);
    let active = if sync { connected(&mut pair) } else { pair.settled(LIMIT).or_fail("settle") };
    let client = Client::start(&pair.site.client.netns, pair.site.service()).or_fail("start the client");
    answers(&client, 200);
    let at = Instant::now();
    fault(&mut pair, active);
    pair.node_until(1 - active, "active", LIMIT, |status| status.active()).or_fail("take over");
    answers(&client, 500);
    let cost = client.finish().or_fail("finish the client").cost(at);
    println!("{cost:?}");
    (pair, active, cost)
}

fn answers(client: &Client, more: usize) {
    let from = client.answered();
    wait_until("answers", LIMIT, || match client.answered() - from {
        count if count >= more => Ok(()),
        count => Err(format!("{count} of {more}")),
    })
    .or_fail("ask through the VIP");
}

#[track_caller]
fn assert_gap(cost: &Cost, goal: Duration) {
    let gap = cost.gap.expect("there were answers");
    assert!(gap <= goal + SLACK + cost.late, "gap {gap:?}, goal {goal:?}, {cost:?}");
}

fn killed_core(name: &str, sync: bool, goal: Duration) {
    attempt(name, |folder| {
        let _turn = take_turn();
        let (mut pair, active, cost) = lose_active(folder, sync, |pair, active| {
            let core = pair.nodes[active].status().or_fail("status").core().expect("it has a core");
            kill(core, Signal::SIGKILL).or_fail("kill the core");
        });
        assert_gap(&cost, goal);
        assert_eq!(pair.settled(LIMIT).or_fail("be whole again"), 1 - active, "without preemption it stays");
    });
}

#[test]
fn a_killed_core_costs_a_few_milliseconds() {
    killed_core("proxy-kill", true, Duration::from_millis(10));
}

#[test]
fn by_vrrp_alone_a_killed_core_costs_a_tenth_of_a_second() {
    killed_core("proxy-kill-alone", false, Duration::from_millis(100));
}

#[test]
fn a_hanging_core_is_noticed_and_later_replaced() {
    attempt("proxy-hang", |folder| {
        let _turn = take_turn();
        let mut stopped = None;
        let (mut pair, active, cost) = lose_active(folder, true, |pair, active| {
            let core = pair.nodes[active].status().or_fail("status").core().expect("it has a core");
            kill(core, Signal::SIGSTOP).or_fail("stop the core");
            stopped = Some(core);
        });
        assert_gap(&cost, Duration::from_millis(250));
        pair.settled(LIMIT).or_fail("be whole again");
        let core = pair.nodes[active].status().or_fail("status").core();
        assert!(core.is_some() && core != stopped, "the hanging core was replaced");
    });
}

fn killed_agent(name: &str, sync: bool) {
    attempt(name, |folder| {
        let _turn = take_turn();
        let mut core = None;
        let (mut pair, active, cost) = lose_active(folder, sync, |pair, active| {
            core = pair.nodes[active].status().or_fail("status").core();
            pair.kill_agent(active);
        });
        assert_gap(&cost, Duration::from_millis(20));
        assert!(!pair.holds_vip(active), "the guard removed the VIP");
        pair.start_agent(active).or_fail("start the agent again");
        assert_eq!(pair.settled(LIMIT).or_fail("be whole again"), 1 - active);
        assert_eq!(pair.nodes[active].status().or_fail("status").core(), core, "the same core serves on");
    });
}

#[test]
fn a_killed_agent_is_covered_by_its_guard_and_adopts_its_core_again() {
    killed_agent("agent-kill", true);
}

#[test]
fn by_vrrp_alone_a_killed_agent_is_covered_by_its_guard_too() {
    killed_agent("agent-kill-alone", false);
}

fn node_cut(name: &str, sync: bool) {
    attempt(name, |folder| {
        let _turn = take_turn();
        let (mut pair, active, cost) = lose_active(folder, sync, |pair, active| {
            pair.site.nodes[active].port.carrier(false).or_fail("pull the cable");
        });
        assert_gap(&cost, Duration::from_millis(400));

        let client = Client::start(&pair.site.client.netns, pair.site.service()).or_fail("start the client");
        answers(&client, 200);
        let at = Instant::now();
        pair.site.nodes[active].port.carrier(true).or_fail("plug the cable in");
        assert_eq!(pair.settled(LIMIT).or_fail("be whole again"), 1 - active, "nothing moved");
        // Longer than a down interval: a late claim would show.
        pass(Duration::from_secs(1));
        let cost = client.finish().or_fail("finish the client").cost(at);
        assert_eq!(cost.failed, 0, "{cost:?}");
        assert_eq!(pair.settled(LIMIT).or_fail("still be whole"), 1 - active);
    });
}

#[test]
fn a_node_that_is_cut_off_is_replaced_and_its_return_moves_nothing() {
    node_cut("node-cut", true);
}

#[test]
fn by_vrrp_alone_a_node_that_is_cut_off_is_replaced_and_its_return_moves_nothing() {
    node_cut("node-cut-alone", false);
}
