//! What the nodes tell of what happened: one record of a failover with the steps of both, kept and bounded.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;

use netns_lab::client::{Outcome, ask_once};
use netns_lab::pair::{NAMES, Pair, SYNC_PORT};
use netns_lab::wait::wait_until;
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::fixture::{LIMIT, OrFail, attempt, binary};
use crate::handoff::{connected, move_vip, told};

/// What memory keeps, by docs/status.md.
const KEPT: usize = 1000;
/// Two clocks on one machine are compared by questions and answers: so exactly, about, in milliseconds.
const CLOCKS: f64 = 10.0;

fn kill_core(pair: &Pair, index: usize) {
    let core = pair.nodes[index].status().or_fail("status").core().expect("it has a core");
    kill(core, Signal::SIGKILL).or_fail("kill the core");
}

/// Where a step is in a timeline, in milliseconds.
fn mark(event: &Value, what: &str, node: usize) -> Option<f64> {
    let marks = event["timeline"].as_array()?;
    marks.iter().find(|mark| mark["what"] == what && mark["node"] == NAMES[node])?["ms"].as_f64()
}

/// The newest failover that a node tells of, once it has all of these steps.
fn failover_with(pair: &Pair, index: usize, steps: &[(&str, usize)]) -> Value {
    let event = wait_until(&format!("a failover with {steps:?}"), LIMIT, || {
        let event = told(pair, index, "failover").pop().unwrap_or_default();
        match steps.iter().all(|(what, node)| mark(&event, what, *node).is_some()) {
            true => Ok(event),
            false => Err(event.to_string()),
        }
    });
    event.or_fail("tell of the failover")
}

fn served(pair: &Pair) {
    wait_until("an answer", LIMIT, || match ask_once(&pair.site.client.netns, pair.site.service()) {
        Outcome::Answered => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .or_fail("serve");
}

#[test]
fn a_killed_core_leaves_one_failover_with_the_steps_of_both_nodes_in_their_order() {
    attempt("timeline", |folder| {
        let mut pair = folder.pair(|_| {});
        let old = connected(&mut pair);
        let new = 1 - old;
        let before = told(&pair, new, "failover").len();
        kill_core(&pair, old);
        pair.node_until(new, "active", LIMIT, |status| status.active()).or_fail("take over");
        served(&pair);
        let steps = [
            ("detected", old),
            ("resigned", old),
            ("took_over", new),
            ("added", new),
            ("announced", new),
            ("removed", old),
            ("first_connection", new),
        ];
        let event = failover_with(&pair, new, &steps);
        println!("{event:#}");
        assert_eq!(told(&pair, new, "failover").len(), before + 1, "one event for one failover");
        assert_eq!((&event["vip"], &event["node"]), (&"web".into(), &NAMES[new].into()));
        assert!(event["term"].as_u64().is_some_and(|term| term > 1), "{event}");
        let at = |what: &str, node: usize| mark(&event, what, node).expect("it was waited for");
        assert!(at("detected", old) <= at("resigned", old), "{event:#}");
        assert!(at("resigned", old) <= at("took_over", new) + CLOCKS, "{event:#}");
        assert!(at("resigned", old) <= at("removed", old), "{event:#}");
        let ours = ["took_over", "added", "announced"].map(|what| at(what, new));
        assert!(ours.is_sorted(), "{event:#}");
        assert!(at("added", new) <= at("first_connection", new), "{event:#}");
        let times: Vec<f64> =
            event["timeline"].as_array().expect("there is one").iter().filter_map(|mark| mark["ms"].as_f64()).collect();
        assert!(times.is_sorted() && times[0] == 0.0, "{event:#}");
    });
}

#[test]
fn the_old_nodes_steps_arrive_also_when_the_channel_was_down_at_that_time() {
    attempt("late-steps", |folder| {
        let mut pair = folder.pair(|_| {});
        let old = connected(&mut pair);
        let new = 1 - old;
        for (node, crossover) in pair.site.nodes.iter().zip(&pair.site.crossover) {
            crossover.close_tcp(SYNC_PORT).or_fail("close the port");
            node.port.close_tcp(SYNC_PORT).or_fail("close the port");
        }
        for index in [0, 1] {
            pair.node_until(index, "without a session", LIMIT, |status| !status.connected())
                .or_fail("lose the session");
        }
        kill_core(&pair, old);
        pair.node_until(new, "active", LIMIT, |status| status.active()).or_fail("take over by heartbeats alone");
        let early = failover_with(&pair, new, &[("took_over", new), ("added", new), ("announced", new)]);
        assert_eq!(mark(&early, "resigned", old), None, "there is no way for it: {early:#}");
        for (node, crossover) in pair.site.nodes.iter().zip(&pair.site.crossover) {
            crossover.heal().or_fail("heal");
            node.port.heal().or_fail("heal");
        }
        let late = failover_with(&pair, new, &[("detected", old), ("resigned", old), ("removed", old)]);
        assert_eq!(late["id"], early["id"], "the same event: {late:#}");
        assert!(mark(&late, "resigned", old) <= mark(&late, "took_over", new).map(|at| at + CLOCKS), "{late:#}");
    });
}

#[test]
fn events_outlive_a_restart_and_stay_bounded() {
    attempt("kept", |folder| {
        let mut pair = folder.pair(|_| {});
        let active = connected(&mut pair);
        move_vip(&mut pair, active, 1 - active);
        let standby = active;
        let moved = told(&pair, standby, "handoff");
        assert!(!moved.is_empty());
        pair.kill_agent(standby);
        pair.start_agent(standby).or_fail("start it again");
        connected(&mut pair);
        let after = told(&pair, standby, "handoff");
        assert_eq!(after.first(), moved.first(), "what happened before it was killed");

        // Every turn is an event of its own, beside the transitions that it leads to.
        let full = |pair: &Pair| pair.nodes[standby].events().or_fail("events");
        let mut turns = 0;
        while full(&pair).len() < KEPT {
            for on in [true, false] {
                pair.nodes[standby].maintenance(on).or_fail("take it out and put it back");
            }
            turns += 1;
            assert!(turns <= KEPT, "events are lost: {} after {turns} turns", full(&pair).len());
        }
        for on in [true, false] {
            pair.nodes[standby].maintenance(on).or_fail("take it out and put it back");
        }
        let events = full(&pair);
        assert_eq!(events.len(), KEPT, "the oldest made room");
        let ids: Vec<u64> = events.iter().filter_map(|event| event["id"].as_u64()).collect();
        assert!(ids.windows(2).all(|pair| pair[1] == pair[0] + 1), "in their order, none left out");
        let size: u64 = std::fs::read_dir(pair.nodes[standby].folder.join("state/events"))
            .or_fail("list the files")
            .flatten()
            .filter_map(|entry| Some(entry.metadata().ok()?.len()))
            .sum();
        assert!(size > 0 && size < 3 << 20, "{size} bytes on disk");
        assert_eq!(connected(&mut pair), 1 - standby, "nothing moved");
    });
}

#[test]
fn events_are_followed_as_they_happen() {
    attempt("follow", |folder| {
        let mut pair = folder.pair(|_| {});
        let active = connected(&mut pair);
        let mut command = Command::new(binary());
        command.arg("--control").arg(pair.nodes[active].socket()).args(["events", "-f", "--json"]);
        let mut follower = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().or_fail("run lbnode events -f");
        let lines = BufReader::new(follower.stdout.take().expect("it was asked for")).lines();
        // Full: the follower waits to be read, as behind any pipe.
        let (told, heard) = mpsc::sync_channel(64);
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if told.send(line).is_err() {
                    break;
                }
            }
        });
        let next = |what: &str, wanted: &dyn Fn(&Value) -> bool| {
            let event = wait_until(what, LIMIT, || {
                let line = heard.try_recv().map_err(|error| error.to_string())?;
                let event: Value = serde_json::from_str(&line).map_err(|error| format!("{error} in {line}"))?;
                if wanted(&event) { Ok(event) } else { Err(event.to_string()) }
            });
            event.or_fail("follow")
        };
        pair.nodes[active].failover(LIMIT).or_fail("hand over");
        // Those of before come first, so it is no matter when it began to listen.
        let moved = next("the hand-off", &|event| event["kind"] == "handoff");
        assert!(moved["text"].to_string().contains("was handed over"), "{moved}");
        let over = next("its end", &|event| event["text"].to_string().contains("is over"));
        assert!(over["id"].as_u64() > moved["id"].as_u64());
        assert!(follower.try_wait().or_fail("look at the follower").is_none(), "it goes on");
        follower.kill().or_fail("end the follower");
        follower.wait().or_fail("end the follower");
        reader.join().expect("no panic");
        pair.settled(LIMIT).or_fail("settle");
    });
}
