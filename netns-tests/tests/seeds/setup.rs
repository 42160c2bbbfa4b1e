//! What every set-up has: the example's file on both nodes, servers and clients with addresses of their own, somebody
//! who hears syslog, and the two ways in which a VIP moves.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use netns_lab::lan::INTERFACE;
use netns_lab::netns::{Netns, link_index};
use netns_lab::pair::{Pair, Status};
use netns_lab::process::kill_all;
use netns_lab::site::PREFIX;
use netns_lab::wait::wait_until;
use tests::fixture::{LIMIT, OrFail, binary};
use tests::place::Place;

/// The cluster file of an example, with what is different here.
pub(crate) struct Example(String);

impl Example {
    /// `deploy/examples/NAME/cluster.toml`.
    pub(crate) fn read(name: &str) -> Example {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
        Example(std::fs::read_to_string(examples.join(name).join("cluster.toml")).or_fail("read the example"))
    }

    /// Another address, port, path or length of time, wherever it stands. It has to stand somewhere.
    pub(crate) fn with(self, from: &str, to: &str) -> Example {
        assert!(self.0.contains(from), "the example has no {from:?}");
        Example(self.0.replace(from, to))
    }

    /// Makes it what both nodes start with; `lbnode check` has to be content with it.
    pub(crate) fn install(self, pair: &Pair) {
        for node in &pair.nodes {
            let path = node.folder.join("cluster.toml");
            std::fs::write(&path, &self.0).or_fail("write the cluster file");
            let mut check = Command::new(binary());
            let output = check.arg("check").arg(node.config()).arg(&path).output().or_fail("run lbnode check");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// Starts both agents and waits until one is active, the other would take over, and both find every server up.
/// Returns the active one.
pub(crate) fn start(pair: &mut Pair) -> usize {
    for index in [0, 1] {
        pair.start_agent(index).or_fail("start an agent");
    }
    settled(pair)
}

/// Waits until the pair is redundant and all servers are up.
pub(crate) fn settled(pair: &mut Pair) -> usize {
    let wanted = |status: &Status| status.fit() && status.connected() && down(status).is_empty();
    for index in [0, 1] {
        pair.node_until(index, "fit, with all servers up", LIMIT, wanted).or_fail("settle");
    }
    wait_until("one active node", LIMIT, || {
        let routers = [0, 1].map(|index| pair.nodes[index].status().map(|status| status.router().to_owned()));
        match routers {
            [Ok(a), Ok(b)] if a == "master" && b == "backup" => Ok(0),
            [Ok(a), Ok(b)] if a == "backup" && b == "master" => Ok(1),
            other => Err(format!("{other:?}")),
        }
    })
    .or_fail("settle")
}

/// The servers that are not up, as `backend/server`, sorted.
pub(crate) fn down(status: &Status) -> Vec<String> {
    let mut found = Vec::new();
    for backend in status.0["backends"].as_array().into_iter().flatten() {
        for server in backend["servers"].as_array().into_iter().flatten() {
            if server["state"] != "up" {
                let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
                found.push(format!("{}/{}", word(&backend["name"]), word(&server["name"])));
            }
        }
    }
    found.sort();
    found
}

/// Waits until exactly these servers are not up, in the eyes of both nodes that run.
pub(crate) fn until_down(pair: &mut Pair, nodes: &[usize], wanted: &[&str]) {
    for index in nodes {
        let what = format!("without {wanted:?} alone");
        wait_until(&what, LIMIT, || match pair.nodes[*index].status() {
            Ok(status) if down(&status) == wanted => Ok(()),
            Ok(status) => Err(format!("down: {:?}", down(&status))),
            Err(error) => Err(error.to_string()),
        })
        .or_fail("wait for the checks");
    }
}

/// `lbnode failover`: hands the VIP to the other node, which this returns.
pub(crate) fn hand_over(pair: &mut Pair, active: usize) -> usize {
    pair.nodes[active].failover(LIMIT).or_fail("hand the VIP over");
    let other = 1 - active;
    pair.node_until(other, "active", LIMIT, Status::active).or_fail("take the VIP");
    other
}

/// [`hand_over`] while somebody at the client asks again and again, each time over a new connection, with these
/// arguments of curl: everybody is answered with 200.
pub(crate) fn hand_over_unnoticed(pair: &mut Pair, active: usize, arguments: &[&str]) -> usize {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let (asked, begun) = sync_channel(1);
    let mut command = curl_command(arguments);
    let thread = pair.site.client.netns.thread("asks", move || {
        let mut seen = Vec::new();
        while !stopped.load(Ordering::Relaxed) {
            let output = command.output().or_fail("run curl");
            seen.push(answer(&output).map(|answer| answer.status));
            // Full: nobody waits for this one.
            let _ = asked.try_send(());
        }
        seen
    });
    let thread = thread.or_fail("start a thread");
    begun.recv_timeout(LIMIT).or_fail("ask before the VIP moves");
    let other = hand_over(pair, active);
    begun.recv_timeout(LIMIT).or_fail("ask meanwhile");
    begun.recv_timeout(LIMIT).or_fail("ask after the VIP has moved");
    stop.store(true, Ordering::Relaxed);
    let seen = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    assert!(seen.iter().all(|status| *status == Ok(200)), "{seen:?}");
    other
}

/// The active node loses its power: nothing comes out of it any more, not even from its kernel. Returns the other one when
/// that has the VIP.
pub(crate) fn kill_active(pair: &mut Pair, active: usize) -> usize {
    pair.site.crossover[active].carrier(false).or_fail("pull the cable to the peer");
    pair.site.nodes[active].port.carrier(false).or_fail("pull the cable to the clients");
    kill_all(&pair.site.nodes[active].netns).or_fail("kill a node");
    pair.kill_agent(active);
    let other = 1 - active;
    pair.node_until(other, "active", LIMIT, Status::active).or_fail("take the VIP");
    other
}

/// A place for parts at one of the site's hosts.
pub(crate) fn place(netns: &Netns, address: Ipv4Addr, folder: PathBuf) -> Place {
    Place::within(netns, address, folder).or_fail("make a place")
}

/// Gives a host one more address on the LAN.
pub(crate) fn add_address(netns: &Netns, address: Ipv4Addr) {
    netns
        .netlink("add an address", move |handle| async move {
            let index = link_index(&handle, INTERFACE).await?;
            handle.address().add(index, IpAddr::V4(address), PREFIX).execute().await
        })
        .or_fail("add an address");
}

/// What curl was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// The values of all lines of that name.
    pub(crate) fn headers(&self, name: &str) -> Vec<&str> {
        values(&self.head, name)
    }

    /// The value of its one line of that name; empty: there is none.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        match *self.headers(name) {
            [] => "",
            [value] => value,
            _ => panic!("several {name} in {}", self.head),
        }
    }
}

/// The values of all lines of that name in a head.
pub(crate) fn values<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let value = |line: &'a str| {
        let (found, value) = line.split_once(':')?;
        found.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    };
    head.lines().filter_map(value).collect()
}

/// Runs curl at a host; an error says in its words why there was no answer.
pub(crate) fn curl(netns: &Netns, arguments: &[&str]) -> Result<Answer, String> {
    let mut command = curl_command(arguments);
    answer(&netns.run(move || command.output()).or_fail("run curl"))
}

fn curl_command(arguments: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command.args(["-sS", "-i", "--path-as-is", "--max-time", "10"]).args(arguments);
    command
}

fn answer(output: &Output) -> Result<Answer, String> {
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok(Answer { status: status.ok_or_else(|| format!("{text:?} is no answer"))?, head: head.into(), body: body.into() })
}

/// Asks again until there is an answer, as people do after a failure.
pub(crate) fn curl_until(netns: &Netns, arguments: &[&str]) -> Answer {
    wait_until(&format!("curl {arguments:?} to be answered"), LIMIT, || curl(netns, arguments)).or_fail("ask")
}

/// Somebody who listens on UDP for syslog's lines, and keeps them.
pub(crate) struct Syslog {
    lines: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Syslog {
    /// At 127.0.0.1:514 of a host.
    pub(crate) fn start(netns: &Netns) -> Syslog {
        let socket = netns.run(|| UdpSocket::bind("127.0.0.1:514")).or_fail("listen for syslog");
        socket.set_read_timeout(Some(Duration::from_millis(50))).or_fail("set a timeout");
        let (lines, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (kept, stopped) = (Arc::clone(&lines), Arc::clone(&stop));
        let thread = netns.thread("syslog", move || {
            let mut datagram = [0; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                // A timeout, or nothing that matters here.
                let Ok(length) = socket.recv(&mut datagram) else { continue };
                let line = String::from_utf8_lossy(&datagram[..length]).into_owned();
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Syslog { lines, stop, thread: Some(thread.or_fail("start a thread")) }
    }

    /// The first line that holds these words, as soon as there is one.
    #[track_caller]
    pub(crate) fn line(&self, words: &str) -> String {
        wait_until(&format!("a line with {words:?}"), LIMIT, || {
            let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            let found = lines.iter().find(|line| line.contains(words)).cloned();
            found.ok_or_else(|| lines.join("\n"))
        })
        .or_fail("read syslog")
    }
}

impl Drop for Syslog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It cannot fail but by a panic, which was printed.
            let _ = thread.join();
        }
    }
}
