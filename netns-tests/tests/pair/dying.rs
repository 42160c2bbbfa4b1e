//! Nodes that die in the middle of a hand-off, at a random moment: one holder remains, answers, and is encumbered by
//! nothing; whoever died comes back and the next switchover works.

use std::time::{Duration, Instant};

use netns_lab::client::{Outcome, ask_once};
use netns_lab::load::Spec;
use netns_lab::pair::{NAMES, Pair};
use netns_lab::process::kill_all;
use netns_lab::residue::Residue;
use netns_lab::wait::{pass, wait_until};
use nix::sys::signal::{Signal, kill};

use crate::fixture::{OrFail, SMALL, attempt, load, long, nothing_left};
use crate::handoff::{connected, move_vip};

/// A hand-off in the lab is over in about a tenth of a second; some die before it, some after.
const MIDDLE: u64 = 120;
/// Until the survivor alone holds the VIP: the lease of a dead kernel's agent, and what a busy machine adds.
const SECONDS: Duration = Duration::from_secs(5);
const SEEDS: u64 = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whom {
    /// Who gives the VIP away.
    Old,
    /// Who takes it.
    New,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Agent,
    /// Agent, guard and core: what a machine that dies looks like, as far as processes can show it.
    Everything,
}

/// When to kill: spread over the middle, the same for the same seed.
fn moment(seed: u64) -> Duration {
    let mixed = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    Duration::from_micros(mixed % (MIDDLE * 1000))
}

fn die(pair: &mut Pair, whom: Whom, what: What, seed: u64) {
    let old = connected(pair);
    let dies = if whom == Whom::Old { old } else { 1 - old };
    let survives = 1 - dies;
    let after = moment(seed);
    println!("seed {seed}: the {whom:?} node, {} ({what:?}), dies after {after:?}", NAMES[dies]);
    let connections = load(pair, Spec { idle: 200, busy: 0, transfer: 0, ..SMALL });
    let agent = pair.nodes[dies].agent.as_ref().expect("started").pid();
    std::thread::scope(|scope| {
        let (node, netns) = (&pair.nodes[old], &pair.site.nodes[dies].netns);
        // Whoever is asked may be the one that dies: there may be no answer.
        scope.spawn(|| drop(node.ask_failover(None, false)));
        pass(after);
        match what {
            What::Agent => kill(agent, Signal::SIGKILL).or_fail("kill the agent"),
            What::Everything => kill_all(netns).or_fail("kill everything"),
        }
    });
    let died = Instant::now();
    pair.kill_agent(dies);
    wait_until("the survivor alone to hold the VIP", SECONDS, || {
        match (pair.holds_vip(survives), pair.holds_vip(dies)) {
            (true, false) => Ok(()),
            (survivor, dead) => Err(format!("the survivor: {survivor}, the dead one: {dead}")),
        }
    })
    .or_fail("take over");
    wait_until("an answer through the VIP", SECONDS, || match ask_once(&pair.site.client.netns, pair.site.service()) {
        Outcome::Answered => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .or_fail("serve");
    wait_until("the survivor to be rid of the hand-off", SECONDS, || {
        match Residue::of(&pair.site.nodes[survives].netns).or_fail("look for residue") {
            residue if residue.is_none() => Ok(()),
            residue => Err(format!("{residue:?}; {}", pair.nodes[survives].status().or_fail("status").words())),
        }
    })
    .or_fail("clear up");
    println!("    the survivor was alone and well {:?} after it", died.elapsed());
    pair.start_agent(dies).or_fail("start it again");
    assert_eq!(connected(pair), survives, "the return moves nothing");
    if whom == Whom::New {
        let recording = connections.finish().or_fail("finish the load");
        let lost = recording.losses.len();
        assert_eq!(lost, 0, "who has the VIP back has its connections: {:?}", recording.losses.first());
    } else {
        drop(connections);
    }
    move_vip(pair, survives, dies);
    nothing_left(pair);
}

fn all(name: &str, whom: Whom, seeds: std::ops::Range<u64>) {
    attempt(name, |folder| {
        let mut pair = folder.pair(|_| {});
        for seed in seeds.clone() {
            die(&mut pair, whom, What::Agent, seed);
            die(&mut pair, whom, What::Everything, seed + SEEDS);
        }
    });
}

#[test]
fn the_old_node_may_die_in_the_middle_of_a_hand_off() {
    all("old-dies", Whom::Old, 0..2);
}

#[test]
fn the_new_node_may_die_in_the_middle_of_a_hand_off_and_no_connection_is_lost() {
    all("new-dies", Whom::New, 0..2);
}

#[test]
fn long_the_old_node_may_die_at_any_moment_of_a_hand_off() {
    if !long() {
        println!("skipped long-old-dies: set LBNODE_LONG=1");
        return;
    }
    all("long-old-dies", Whom::Old, 0..SEEDS);
}

#[test]
fn long_the_new_node_may_die_at_any_moment_of_a_hand_off() {
    if !long() {
        println!("skipped long-new-dies: set LBNODE_LONG=1");
        return;
    }
    all("long-new-dies", Whom::New, 0..SEEDS);
}
