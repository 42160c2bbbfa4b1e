//! Proxy cores that die, again and again.

use std::time::{Duration, Instant};

use netns_lab::client::{Client, Outcome, ask_once};
use netns_lab::pair::{NAMES, Pair};
use netns_lab::process::alive;
use netns_lab::wait::{pass, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::fixture::{Folder, LIMIT, OrFail, attempt};

fn kill_core(pair: &Pair, index: usize) -> Option<Pid> {
    let core = pair.nodes[index].status().ok()?.core()?;
    kill(core, Signal::SIGKILL).ok().map(|()| core)
}

/// What a process holds: descriptors and resident memory in KiB.
fn holds(pid: Pid) -> (usize, u64) {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count).unwrap_or_default();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    (descriptors, resident.unwrap_or_default())
}

#[test]
fn when_both_cores_die_again_and_again_nobody_gives_the_vip_away_for_nothing() {
    both_die("crash-loops", false);
}

/// A node resigns only to a peer that can serve. If that one's core dies in the same moment, nobody has the VIP until one
/// of the cores stays up.
#[test]
fn when_both_cores_of_a_pair_die_again_and_again_the_vip_is_not_passed_to_and_fro() {
    both_die("crash-loops-paired", true);
}

fn both_die(name: &str, sync: bool) {
    attempt(name, |folder| {
        let mut pair = folder.pair(|settings| settings.sync = sync);
        pair.settled(LIMIT).or_fail("settle");
        let begin = Instant::now();
        let moves = |pair: &Pair| -> u64 {
            let count =
                |index: usize| pair.nodes[index].status().map_or(0, |status| status.counter("master_transitions"));
            count(0) + count(1)
        };
        let before = moves(&pair);
        while begin.elapsed() < Duration::from_secs(8) {
            kill_core(&pair, 0);
            kill_core(&pair, 1);
            pass(Duration::from_millis(50));
            let holders = [pair.holds_vip(0), pair.holds_vip(1)];
            assert_ne!(holders, [true, true], "never both");
        }
        let moved = moves(&pair) - before;
        // A death may be answered by one move while the other one was fit; a see-saw is not. A node of a pair resigns at
        // once where VRRP alone offers first.
        assert!(moved <= if sync { 8 } else { 4 }, "{moved} moves in {:?}", begin.elapsed());
        assert!(sync || pair.holds_vip(0) != pair.holds_vip(1), "somebody kept it");
        // Back-off included.
        pair.settled(Duration::from_secs(90)).or_fail("recover when it ends");
    });
}

/// Whether each thread of a process has stopped: the signal reaches one after the other.
fn stopped(process: Pid) -> Result<(), String> {
    for task in std::fs::read_dir(format!("/proc/{process}/task")).map_err(|error| error.to_string())? {
        let path = task.map_err(|error| error.to_string())?.path().join("status");
        let status = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        let state = status.lines().find(|line| line.starts_with("State:")).unwrap_or_default();
        if !state.contains("T (stopped)") {
            return Err(state.to_owned());
        }
    }
    Ok(())
}

#[test]
fn while_one_node_is_alone_no_waiting_connection_is_lost_to_a_killed_core() {
    let Some(folder) = Folder::new("accept-queue") else { return };
    let mut pair = Pair::new(folder.settings()).or_fail("make the pair");
    pair.start_agent(0).or_fail("start the agent");
    pair.node_until(0, "active, alone", LIMIT, |status| status.active() && status.fit()).or_fail("serve alone");
    let core = pair.nodes[0].status().or_fail("status").core().expect("it has a core");
    // Stopped first, so that the connections are in the accept queue for certain when it dies.
    kill(core, Signal::SIGSTOP).or_fail("stop the core");
    wait_until("the core to stand still", LIMIT, || stopped(core)).or_fail("stop all of it");
    let service = pair.site.service();
    let waiting: Vec<_> = (0..40)
        .map(|number| {
            let ask = move || {
                use std::io::{Read, Write};
                let mut stream = std::net::TcpStream::connect(service)?;
                stream.set_read_timeout(Some(LIMIT))?;
                stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer)?;
                Ok::<_, std::io::Error>(answer)
            };
            pair.site.client.netns.thread(&format!("waiting-{number}"), ask).or_fail("start a client")
        })
        .collect();
    let client = pair.site.client.netns.clone();
    wait_until("forty established connections", LIMIT, || {
        let table = client.run(|| std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap_or_default());
        match table.lines().filter(|line| line.split_whitespace().nth(3) == Some("01")).count() {
            40.. => Ok(()),
            count => Err(format!("{count}")),
        }
    })
    .or_fail("fill the accept queue");
    kill(core, Signal::SIGKILL).or_fail("kill the core");
    for (number, handle) in waiting.into_iter().enumerate() {
        let answer = handle.join().expect("no panic").or_fail("ask through a killed core");
        assert!(answer.starts_with("HTTP/1.0 200"), "connection {number}: {answer:?}");
    }
}

#[test]
fn long_two_hundred_killed_cores_leak_nothing() {
    let Some(folder) = Folder::new("two-hundred") else { return };
    if std::env::var_os("LBNODE_LONG").is_none() {
        println!("skipped two-hundred: set LBNODE_LONG=1");
        return;
    }
    let mut pair = folder.pair(|_| {});
    let agents = [0, 1].map(|index| pair.nodes[index].agent.as_ref().expect("started").pid());
    let mut baseline = None;
    for round in 1..=200 {
        let active = pair.settled(Duration::from_secs(120)).or_fail("settle");
        // It may have died or hang since: a busy machine.
        let core = wait_until("a core of the active node", LIMIT, || kill_core(&pair, active).ok_or("none".into()))
            .or_fail("kill the core");
        wait_until("the core to be gone", LIMIT, || if alive(core.as_raw()) { Err("alive".into()) } else { Ok(()) })
            .or_fail("see it die");
        if round == 20 {
            pair.settled(Duration::from_secs(120)).or_fail("settle");
            baseline = Some(agents.map(holds));
        }
    }
    pair.settled(Duration::from_secs(120)).or_fail("settle");
    let baseline = baseline.expect("there were more than 20 rounds");
    for (index, (before, after)) in baseline.into_iter().zip(agents.map(holds)).enumerate() {
        assert!(after.0 <= before.0 + 3, "{}: descriptors {before:?}, then {after:?}", NAMES[index]);
        assert!(after.1 <= before.1 * 5 / 4 + 2048, "{}: memory {before:?}, then {after:?}", NAMES[index]);
    }
    assert_ne!(pair.holds_vip(0), pair.holds_vip(1), "exactly one has the address");
}

#[test]
fn long_ten_minutes_at_ten_milliseconds_without_a_false_failover() {
    let Some(folder) = Folder::new("ten-minutes") else { return };
    if std::env::var_os("LBNODE_LONG").is_none() {
        println!("skipped ten-minutes: set LBNODE_LONG=1");
        return;
    }
    let mut pair = folder.pair(|settings| settings.advert_interval = Duration::from_millis(10));
    let active = pair.settled(LIMIT).or_fail("settle");
    let before = [0, 1].map(|index| pair.nodes[index].status().or_fail("status").counter("master_transitions"));
    let client = Client::start(&pair.site.client.netns, pair.site.service()).or_fail("keep both cores busy");
    let busy: Vec<_> = (0..2).map(|_| Busy::start()).collect();
    pass(Duration::from_secs(600));
    drop(busy);
    let recording = client.finish().or_fail("finish the client");
    let after = [0, 1].map(|index| pair.nodes[index].status().or_fail("status").counter("master_transitions"));
    assert_eq!(before, after, "a failover without a fault, at {} requests", recording.records.len());
    assert_eq!(pair.settled(LIMIT).or_fail("go on"), active);
    assert_eq!(ask_once(&pair.site.client.netns, pair.site.service()), Outcome::Answered);
}

/// A thread that computes until it is dropped.
struct Busy(std::sync::Arc<std::sync::atomic::AtomicBool>);

impl Busy {
    fn start() -> Busy {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = stop.clone();
        std::thread::spawn(move || {
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        Busy(stop)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}
