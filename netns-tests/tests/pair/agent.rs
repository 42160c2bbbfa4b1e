//! What becomes of the VIP when the agent is stopped, killed together with its guard, or talks to nobody.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use netns_lab::client::{Outcome, ask_once};
use netns_lab::pair::Pair;
use netns_lab::process::kill_all;
use netns_lab::wait::{pass, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::fixture::{Folder, LIMIT, OrFail};

/// The lease is 1 s, and the kernel takes an address away up to 0.2 s late; the rest is for the neighbours.
const LEASE: Duration = Duration::from_millis(1700);

fn vip_gone(pair: &Pair, index: usize, within: Duration) {
    wait_until("the VIP to go by itself", within, || {
        if pair.holds_vip(index) { Err("it is there".into()) } else { Ok(()) }
    })
    .or_fail("let the lease end");
}

/// Everything that runs on a node, stopped at once: as if the whole machine were paused.
pub(crate) fn signal_all(pair: &Pair, index: usize, signal: Signal) {
    for pid in pair.site.nodes[index].netns.processes() {
        // It may end in between.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

#[test]
fn the_vip_of_a_stopped_agent_goes_by_itself_within_its_lease() {
    let Some(folder) = Folder::new("agent-stop") else { return };
    let mut pair = folder.pair(|_| {});
    let active = pair.settled(LIMIT).or_fail("settle");
    pair.signal_agent(active, Signal::SIGSTOP);
    let stopped = Instant::now();
    pair.node_until(1 - active, "active", LIMIT, |status| status.active()).or_fail("take over");
    vip_gone(&pair, active, LEASE.saturating_sub(stopped.elapsed()));
    wait_until("an answer from the other node", LIMIT, || {
        match ask_once(&pair.site.client.netns, pair.site.service()) {
            Outcome::Answered => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .or_fail("serve from the other node");
    pair.signal_agent(active, Signal::SIGCONT);
    assert_eq!(pair.settled(LIMIT).or_fail("the stopped one stands by"), 1 - active);
}

#[test]
fn an_agent_that_was_stalled_for_long_steps_down_instead_of_asserting() {
    let Some(folder) = Folder::new("agent-stall") else { return };
    let mut pair = folder.pair(|_| {});
    let active = pair.settled(LIMIT).or_fail("settle");
    signal_all(&pair, active, Signal::SIGSTOP);
    pair.node_until(1 - active, "active", LIMIT, |status| status.active()).or_fail("take over");
    pass(Duration::from_secs(1));
    let before = pair.nodes[1 - active].status().or_fail("status");
    signal_all(&pair, active, Signal::SIGCONT);
    assert_eq!(pair.settled(LIMIT).or_fail("settle"), 1 - active, "who slept does not get it back");
    let after = pair.nodes[1 - active].status().or_fail("status");
    let held = |status: &netns_lab::pair::Status| status.counter("master_transitions");
    assert_eq!(held(&before), held(&after), "the other one was active all the time");
}

#[test]
fn what_a_killed_agent_and_guard_left_is_taken_over_by_the_next_agent() {
    let Some(folder) = Folder::new("leftovers") else { return };
    let mut pair = Pair::new(folder.settings()).or_fail("make the pair");
    // Alone, so that nobody takes the VIP while it lies around.
    pair.start_agent(0).or_fail("start the agent");
    pair.node_until(0, "active, alone", LIMIT, |status| status.active() && status.fit()).or_fail("serve alone");
    let stopped = pair.nodes[0].status().or_fail("status").counter("master_transitions");
    assert_eq!(stopped, 1);
    kill_all(&pair.site.nodes[0].netns).or_fail("kill agent, guard and core at once");
    pair.kill_agent(0);
    pair.start_agent(0).or_fail("start the agent again");
    pair.node_until(0, "active again", LIMIT, |status| status.active() && status.fit()).or_fail("serve again");
    // Longer than any lease that the dead one could have left.
    pass(LEASE);
    assert!(pair.holds_vip(0), "the lease is renewed by the new agent");
    assert_eq!(ask_once(&pair.site.client.netns, pair.site.service()), Outcome::Answered);
}

#[test]
fn an_agent_ends_in_good_order_when_asked_and_leaves_no_address() {
    let Some(folder) = Folder::new("agent-term") else { return };
    let mut pair = folder.pair(|_| {});
    let active = pair.settled(LIMIT).or_fail("settle");
    pair.signal_agent(active, Signal::SIGTERM);
    pair.node_until(1 - active, "active", LIMIT, |status| status.active()).or_fail("take over");
    vip_gone(&pair, active, LEASE);
    let agent = pair.nodes[active].agent.as_mut().expect("it was started");
    let status = agent.wait(Duration::from_secs(35)).or_fail("end");
    assert!(status.success(), "{}", agent.describe());
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let Some(folder) = Folder::new("log-pipe") else { return };
    let mut pair = Pair::new(folder.settings()).or_fail("make the pair");
    // The agent's log is a pipe with a reader that never reads, as small as the kernel makes one.
    let log = pair.nodes[0].log();
    nix::unistd::mkfifo(&log, nix::sys::stat::Mode::S_IRWXU).or_fail("make a pipe");
    let reader: File =
        File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&log).or_fail("open the pipe's end");
    nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096)).or_fail("make the pipe small");
    let node_file = pair.nodes[0].config();
    let text = std::fs::read_to_string(&node_file).or_fail("read the node file");
    std::fs::write(&node_file, text + "\n[log]\nlevel = \"trace\"\n").or_fail("write the node file");
    pair.start_agent(0).or_fail("start a");
    pair.start_agent(1).or_fail("start b");
    pair.settled(LIMIT).or_fail("settle");
    let agent = pair.nodes[0].agent.as_ref().expect("started").pid();
    let full = pair.node_until(0, "dropping log lines", Duration::from_secs(60), |status| {
        // Something to log at each turn.
        kill(agent, Signal::SIGHUP).or_fail("have the node file read again");
        status.0["log"]["dropped"].as_u64().unwrap_or_default() > 0
    });
    full.or_fail("fill the pipe");
    let sent = pair.nodes[0].status().or_fail("status").counter("adverts_sent");
    let active = pair.settled(LIMIT).or_fail("still be whole");
    pass(Duration::from_secs(1));
    if active == 0 {
        let now = pair.nodes[0].status().or_fail("status").counter("adverts_sent");
        assert!(now >= sent + 5, "adverts go on: {sent}, then {now}");
    }
    assert_eq!(ask_once(&pair.site.client.netns, pair.site.service()), Outcome::Answered);
    drop(reader);
}
