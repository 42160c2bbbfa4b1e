//! The process that owns the tables of hand-offs: it ends with the agent, and leaves nothing behind in it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use netns_lab::lan::{INTERFACE, Lan};
use netns_lab::netns::Netns;
use netns_lab::wait::wait_until;
use node::handoff::{Flow, Job, Kernel, Neighbour, Outcome, Vip};

const SOON: Duration = Duration::from_secs(10);
const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OTHER: Neighbour =
    Neighbour { address: std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), mac: [2, 0, 0, 0, 0, 2] };
/// Makes a copy of this program an agent that loads rules and is killed.
const HOLD: &str = "LBNODE_TEST_HOLDS_RULES";
/// What it says then.
const HOLDS: &str = "it holds rules";
/// Descriptors and children are counted of the whole process.
static ALONE: Mutex<()> = Mutex::new(());

/// A node on a segment; `None`, and said so, without root.
fn node() -> Option<(Lan, Netns)> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: network namespaces need root");
        return None;
    }
    let (lan, netns) = (Lan::new().unwrap(), Netns::new("node").unwrap());
    lan.attach(&netns, OWN, 24, MAC).unwrap();
    Some((lan, netns))
}

fn vip() -> Vip {
    let own = Neighbour { address: OWN.into(), mac: MAC };
    Vip { name: "web".into(), vrid: 51, address: [192, 0, 2, 100].into(), interface: INTERFACE.into(), own }
}

fn flows(count: u32) -> Vec<Flow> {
    let client = |number| Ipv4Addr::from(0x0a00_0000 + number).into();
    (0..count).map(|number| Flow { client: client(number), client_port: 5000, port: 443 }).collect()
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

#[test]
fn fifty_hand_offs_leave_no_descriptor_and_no_process() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((_lan, netns)) = node() else { return };
    netns.run(|| block_on(hand_over_fifty_times()));
}

async fn hand_over_fifty_times() {
    let (kernel, vip) = (Kernel::open().unwrap(), vip());
    // What is opened once.
    there_and_back(&kernel, &vip).await;
    let before = quiet(usize::MAX).await;
    for _ in 0..50 {
        there_and_back(&kernel, &vip).await;
    }
    println!("{before} descriptors before, {} after", quiet(before).await);
}

/// A node can be taker and leaver at once.
async fn there_and_back(kernel: &Kernel, vip: &Vip) {
    assert!(matches!(kernel.run(vip, Job::Prepare).await, Outcome::Prepared { .. }));
    let install = Job::Install { leaver: OTHER, old: flows(10) };
    for job in [install, Job::Mute, Job::Settle { old: flows(20) }, Job::RemoveTaker, Job::RemoveLeaver] {
        assert_eq!(kernel.run(vip, job).await, Outcome::Done);
    }
}

/// Waits until there is no child any more, and no more descriptors than these; says how many.
async fn quiet(at_most: usize) -> usize {
    let since = Instant::now();
    loop {
        // Sockets of nftables are closed by threads of their own.
        let closing = std::fs::read_dir("/proc/self/task").unwrap().filter(|task| {
            let name = task.as_ref().map(|task| std::fs::read_to_string(task.path().join("comm")));
            name.is_ok_and(|name| name.is_ok_and(|name| name.trim() == "close-netlink"))
        });
        let (closing, children) = (closing.count(), children());
        let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
        if closing == 0 && children.is_empty() && open <= at_most {
            return open;
        }
        assert!(since.elapsed() < SOON, "{children:?}, {open} descriptors instead of {at_most}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The child processes of this one, ended ones that nobody waited for too, as /proc/PID/stat has them.
fn children() -> Vec<String> {
    let own = std::process::id().to_string();
    let stats = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let stat = std::fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
        // PID (NAME) STATE PARENT …; a name can hold anything.
        let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?;
        (parent == own).then_some(stat)
    });
    stats.collect()
}

#[test]
fn the_tables_of_an_agent_that_is_killed_are_gone_at_once() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((_lan, netns)) = node() else { return };
    let me = std::env::current_exe().unwrap();
    let mut agent = netns.run(move || {
        let arguments = ["--exact", "holds_rules_until_it_is_killed", "--nocapture"];
        Command::new(me).args(arguments).env(HOLD, "").stdout(Stdio::piped()).spawn().unwrap()
    });
    let mut said = BufReader::new(agent.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains(HOLDS) {
        line.clear();
        assert_ne!(said.read_line(&mut line).unwrap(), 0, "it ended");
    }
    assert!(ruleset(&netns).contains("flags owner"), "{}", ruleset(&netns));

    // SIGKILL: nothing of it runs any more.
    agent.kill().unwrap();
    agent.wait().unwrap();
    let since = Instant::now();
    wait_until("the end of its tables", SOON, || match ruleset(&netns) {
        none if none.is_empty() => Ok(()),
        some => Err(some),
    })
    .unwrap();
    println!("gone within {:?}", since.elapsed());
    assert!(netns.processes().is_empty(), "its nft");
}

fn ruleset(netns: &Netns) -> String {
    let output = netns.run(|| Command::new("nft").args(["list", "ruleset"]).output()).expect("nft is installed");
    String::from_utf8(output.stdout).unwrap()
}

/// No test of its own: what the one above kills.
#[test]
fn holds_rules_until_it_is_killed() {
    if std::env::var_os(HOLD).is_none() {
        return;
    }
    block_on(async {
        let kernel = Kernel::open().unwrap();
        let install = Job::Install { leaver: OTHER, old: flows(1000) };
        assert_eq!(kernel.run(&vip(), install).await, Outcome::Done);
        println!("{HOLDS}");
        std::future::pending::<()>().await;
    });
}
