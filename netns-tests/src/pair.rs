//! A pair of real `lbnode` agents on the two machines of a [`Site`], started from generated files and asked
//! through their control sockets, one JSON object a line, as any other program would.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::client::{Outcome, ask_once};
use crate::lan;
use crate::process::{Process, ProcessError};
use crate::site::{
    Host, SERVER_PORT, SERVICE_PORT, STREAM_PORT, STREAM_SERVER_PORT, Site, SiteError, VIP, crossover_address,
};
use crate::wait::{self, WaitError, wait_until};

/// The nodes' names, in the order of [`Site::nodes`].
pub const NAMES: [&str; 2] = ["lb-a", "lb-b"];
/// What the VIP is called.
pub const VIP_NAME: &str = "web";
/// Its virtual router.
pub const VRID: u8 = 77;
/// Where the nodes talk to each other, on each of their LANs.
pub const SYNC_PORT: u16 = 7431;

/// Whether a pair is paired unless a test says otherwise.
const SYNC: bool = true;
/// An agent that says nothing for so long is counted as silent.
const CALL_LIMIT: Duration = Duration::from_millis(500);
/// A switchover is answered when it is done.
const FAILOVER_LIMIT: Duration = Duration::from_secs(10);
/// Who refuses a switchover is asked again after so long.
const ASK_AGAIN: Duration = Duration::from_millis(5);
/// More than any status of two nodes and one VIP.
const LINE_BYTES: u64 = 1 << 20;

/// Why a pair could not be made or asked.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// The place for it.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// An agent could not be started.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A state did not come.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// A generated file could not be written.
    #[error("write {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// From the system.
        #[source]
        source: io::Error,
    },
    /// `lbnode pair` could not be run.
    #[error("run {command}")]
    PairCommand {
        /// The command line.
        command: String,
        /// From the system.
        #[source]
        source: io::Error,
    },
    /// `lbnode pair` failed or said something else than was asked for.
    #[error("{command} ended with {status}: {said}")]
    NotPaired {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        said: String,
    },
}

/// Why no VIP was handed over.
#[derive(Debug, thiserror::Error)]
pub enum FailoverError {
    /// The agent was not heard.
    #[error(transparent)]
    Call(#[from] CallError),
    /// It, or its peer, would not.
    #[error("{node} refused the switchover: {said}")]
    Refused {
        /// Who was asked.
        node: &'static str,
        /// Its last words.
        said: String,
    },
}

/// Why an agent gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Its socket could not be used, or not in time.
    #[error("call {socket}: {source}")]
    Io {
        /// The control socket.
        socket: PathBuf,
        /// From the system.
        source: io::Error,
    },
    /// What came is not the JSON that was asked for.
    #[error("{socket} answered {answer:?}")]
    Nonsense {
        /// The control socket.
        socket: PathBuf,
        /// What it said.
        answer: String,
    },
}

/// How a pair is configured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The `lbnode` program.
    pub binary: PathBuf,
    /// An existing folder for files, logs and sockets, private to this user.
    pub folder: PathBuf,
    /// From advert to advert; a multiple of 10 ms.
    pub advert_interval: Duration,
    /// Whether the node of higher priority takes the VIP back.
    pub preempt: bool,
    /// Of the nodes `a` and `b`.
    ///
    /// A release is followed by (256 - priority) / 256 of an interval before the other node takes over
    /// (RFC 9568 §6.1), so the defaults are both high: the quicker the better.
    pub priorities: [u8; 2],
    /// Who the proxy core runs as.
    pub user: String,
    /// Whether the nodes are paired, with a path over each LAN. Without it they have VRRP alone.
    pub sync: bool,
}

impl Settings {
    /// What `lbnode lab` runs: adverts every 100 ms, priorities 250 and 240, no preemption.
    pub fn new(binary: PathBuf, folder: PathBuf) -> Settings {
        Settings {
            binary,
            folder,
            advert_interval: Duration::from_millis(100),
            preempt: false,
            priorities: [250, 240],
            user: "nobody".into(),
            sync: SYNC,
        }
    }
}

/// One node: its files and, while it runs, its agent.
#[derive(Debug)]
pub struct Node {
    /// Its `name`.
    pub name: &'static str,
    /// Where its files are.
    pub folder: PathBuf,
    /// Its agent, if it was started.
    pub agent: Option<Process>,
}

impl Node {
    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        control_socket(&self.folder)
    }

    /// Its node file.
    pub fn config(&self) -> PathBuf {
        self.folder.join("node.toml")
    }

    /// Its agent's log.
    pub fn log(&self) -> PathBuf {
        self.folder.join("agent.log")
    }

    /// Sends one request and returns the answer.
    pub fn call(&self, request: &Value) -> Result<Value, CallError> {
        self.call_within(request, CALL_LIMIT)
    }

    /// [`Node::call`] for what takes its time; `limit` is for each step.
    pub fn call_within(&self, request: &Value, limit: Duration) -> Result<Value, CallError> {
        let socket = self.socket();
        let line =
            exchange(&socket, request, limit).map_err(|source| CallError::Io { socket: socket.clone(), source })?;
        serde_json::from_str(&line).map_err(|_| CallError::Nonsense { socket, answer: line })
    }

    /// `lbnode failover` for all VIPs that this node holds. A refusal is final after `within`: until then the node is
    /// asked again, because one switchover may not be over when the next is wanted.
    pub fn failover(&self, within: Duration) -> Result<(), FailoverError> {
        let request = json!({"request": "failover", "vip": null, "to": null, "force": false});
        let deadline = Instant::now() + within;
        loop {
            let answer = self.call_within(&request, FAILOVER_LIMIT)?;
            let vips = answer["vips"].as_array().map(Vec::as_slice).unwrap_or_default();
            if !vips.is_empty() && vips.iter().all(|vip| vip["moved"] == true) {
                return Ok(());
            }
            if Instant::now() >= deadline || wait::cancelled() {
                return Err(FailoverError::Refused { node: self.name, said: answer.to_string() });
            }
            wait::pass(ASK_AGAIN);
        }
    }

    /// `lbnode failover`, asked once: what became of the VIP, as the agent says it.
    pub fn ask_failover(&self, to: Option<&str>, force: bool) -> Result<Value, CallError> {
        let request = json!({"request": "failover", "vip": null, "to": to, "force": force});
        let mut answer = self.call_within(&request, FAILOVER_LIMIT)?;
        match answer["vips"].get_mut(0) {
            Some(vip) => Ok(vip.take()),
            None => Err(CallError::Nonsense { socket: self.socket(), answer: answer.to_string() }),
        }
    }

    /// `lbnode maintenance`, answered when the VIPs have gone.
    pub fn maintenance(&self, on: bool) -> Result<Value, CallError> {
        self.call_within(&json!({"request": "maintenance", "on": on}), FAILOVER_LIMIT)
    }

    /// `lbnode events --json` of this node: all that it has in memory, the oldest first.
    pub fn events(&self) -> Result<Vec<Value>, CallError> {
        let socket = self.socket();
        let failed = |source| CallError::Io { socket: socket.clone(), source };
        let lines = open(&socket, &json!({"request": "events"}), CALL_LIMIT).map_err(failed)?.lines();
        let mut events = Vec::new();
        for line in lines {
            let line = line.map_err(failed)?;
            let mut told: Value = serde_json::from_str(&line)
                .map_err(|_| CallError::Nonsense { socket: socket.clone(), answer: line.clone() })?;
            match told["response"].as_str() {
                Some("event") => events.push(told["event"].take()),
                Some("events_end") => return Ok(events),
                _ => return Err(CallError::Nonsense { socket: socket.clone(), answer: line }),
            }
        }
        Err(failed(io::ErrorKind::UnexpectedEof.into()))
    }

    /// `lbnode status --json` of this node.
    pub fn status(&self) -> Result<Status, CallError> {
        let mut answer = self.call(&json!({"request": "status"}))?;
        match answer.get_mut("status") {
            Some(status) => Ok(Status(status.take())),
            None => Err(CallError::Nonsense { socket: self.socket(), answer: answer.to_string() }),
        }
    }
}

/// What a node says of itself.
#[derive(Clone, Debug)]
pub struct Status(pub Value);

impl Status {
    /// The node that answered, as it is listed in `nodes`.
    pub fn own(&self) -> &Value {
        let nodes = self.0["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
        nodes.iter().find(|node| node["self"] == true).unwrap_or(&Value::Null)
    }

    /// The state of the VIP's router: `master`, `backup`, `fault`, `init`.
    pub fn router(&self) -> &str {
        self.0["vips"][0]["state"].as_str().unwrap_or_default()
    }

    /// Whether it holds the VIP.
    pub fn active(&self) -> bool {
        self.router() == "master"
    }

    /// Whether it serves, or would after a takeover.
    pub fn fit(&self) -> bool {
        self.own()["fit"] == true
    }

    /// Whether its checks have found every server up.
    pub fn servers_up(&self) -> bool {
        let backends = self.0["backends"].as_array();
        let mut servers = backends.into_iter().flatten().filter_map(|backend| backend["servers"].as_array()).flatten();
        servers.all(|server| server["state"] == "up")
    }

    /// The pid of its proxy core, if there is one.
    pub fn core(&self) -> Option<Pid> {
        self.own()["proxy"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw)
    }

    /// Whether there is a session with the peer.
    pub fn connected(&self) -> bool {
        self.0["sync"]["state"] == "connected"
    }

    /// What works for now and would not bear a further fault, as one text; empty: nothing of the kind.
    pub fn degraded(&self) -> String {
        let words = self.0["degraded"].as_array().map(Vec::as_slice).unwrap_or_default();
        words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("; ")
    }

    /// Connections that a hand-off left at the old node; `None`: no hand-off is under way.
    pub fn connections_left(&self) -> Option<u64> {
        self.0["handoff"][0]["connections_left"].as_u64()
    }

    /// A counter of the VIP's router.
    pub fn counter(&self, name: &str) -> u64 {
        self.0["vips"][0]["counters"][name].as_u64().unwrap_or_default()
    }

    /// In a few words.
    pub fn words(&self) -> String {
        let own = self.own();
        format!(
            "router {}, fit {}, reasons {}, proxy {}, sync {}, hand-off {}, degraded {:?}",
            self.router(),
            own["fit"],
            own["reasons"],
            own["proxy"]["state"],
            self.0["sync"]["state"],
            self.0["handoff"],
            self.degraded()
        )
    }
}

/// Two nodes at a site.
#[derive(Debug)]
pub struct Pair {
    /// The nodes, in the order of [`Site::nodes`]. Dropped, and with them their agents, before the site.
    pub nodes: [Node; 2],
    /// Where they are.
    pub site: Site,
    settings: Settings,
}

impl Pair {
    /// Makes the site and the files; starts nothing yet.
    pub fn new(settings: Settings) -> Result<Pair, PairError> {
        let site = Site::new()?;
        let node = |index: usize| -> Result<Node, PairError> {
            let folder = settings.folder.join(["a", "b"][index]);
            create_folder(&folder.join("state"))?;
            create_folder(&folder.join("run"))?;
            let node = Node { name: NAMES[index], folder, agent: None };
            write(&node.config(), &node_file(&settings, &site, &node, index))?;
            write(&node.folder.join("cluster.toml"), &cluster_file(&settings, &site))?;
            Ok(node)
        };
        let nodes = [node(0)?, node(1)?];
        if settings.sync {
            introduce(&settings.binary, &nodes)?;
        }
        Ok(Pair { nodes, site, settings })
    }

    /// [`Pair::new`], both agents started, and [`Pair::settled`].
    pub fn start(settings: Settings, within: Duration) -> Result<Pair, PairError> {
        let mut pair = Pair::new(settings)?;
        pair.start_agent(0)?;
        pair.start_agent(1)?;
        pair.settled(within)?;
        Ok(pair)
    }

    /// Whether the nodes are paired ([`Settings::sync`]).
    pub fn paired(&self) -> bool {
        self.settings.sync
    }

    /// Starts the agent of a node, for the first time or again.
    pub fn start_agent(&mut self, index: usize) -> Result<(), ProcessError> {
        let node = &mut self.nodes[index];
        node.agent = None;
        let mut command = Command::new(&self.settings.binary);
        command.arg("run").arg("--config").arg(node.config());
        node.agent = Some(Process::start(&self.site.nodes[index].netns, node.name, command, &node.log())?);
        Ok(())
    }

    /// Kills the agent of a node, as a crash would, and waits for its end.
    pub fn kill_agent(&mut self, index: usize) {
        if let Some(agent) = &mut self.nodes[index].agent {
            agent.kill();
        }
    }

    /// Sends a signal to the agent of a node.
    pub fn signal_agent(&mut self, index: usize, signal: Signal) {
        if let Some(agent) = &mut self.nodes[index].agent {
            agent.signal(signal);
        }
    }

    /// Whether the kernel of a node has the VIP, whatever the agent says.
    pub fn holds_vip(&self, index: usize) -> bool {
        lan::addresses(&self.site.nodes[index].netns).is_ok_and(|addresses| addresses.contains(&VIP))
    }

    /// `lbnode pair` on both nodes, for those that do not know each other (any more).
    pub fn introduce(&self) -> Result<(), PairError> {
        introduce(&self.settings.binary, &self.nodes)
    }

    /// Waits until one node is active, the other one stands by and is fit, and a client is answered.
    /// Returns the active one.
    pub fn settled(&mut self, within: Duration) -> Result<usize, WaitError> {
        wait_until("one active node, one fit standby and an answer through the VIP", within, || {
            let active = match (self.nodes[0].status(), self.nodes[1].status()) {
                (Ok(a), Ok(b)) => match (a.active(), b.active()) {
                    (true, false) if a.fit() && b.fit() && b.router() == "backup" => 0,
                    (false, true) if a.fit() && b.fit() && a.router() == "backup" => 1,
                    _ => return Err(format!("lb-a: {}; lb-b: {}", a.words(), b.words())),
                },
                (a, b) => return Err(self.silence([a.err(), b.err()])),
            };
            match ask_once(&self.site.client.netns, self.site.service()) {
                Outcome::Answered => Ok(active),
                other => Err(format!("{} is active, but a request through the VIP was {other:?}", NAMES[active])),
            }
        })
    }

    /// Waits until node `index` says that `wanted` holds.
    pub fn node_until(
        &mut self,
        index: usize,
        what: &str,
        within: Duration,
        wanted: impl Fn(&Status) -> bool,
    ) -> Result<Status, WaitError> {
        wait_until(&format!("{} to be {what}", NAMES[index]), within, || match self.nodes[index].status() {
            Ok(status) if wanted(&status) => Ok(status),
            Ok(status) => Err(status.words()),
            Err(error) => Err(format!("{error}; {}", self.describe(index))),
        })
    }

    /// How a node's agent stands and the end of its log.
    pub fn describe(&mut self, index: usize) -> String {
        match &mut self.nodes[index].agent {
            Some(agent) => agent.describe(),
            None => format!("{} was not started", self.nodes[index].name),
        }
    }

    fn silence(&mut self, errors: [Option<CallError>; 2]) -> String {
        let words = errors.into_iter().enumerate().filter_map(|(index, error)| {
            let error = error?;
            Some(format!("{error}; {}", self.describe(index)))
        });
        words.collect::<Vec<_>>().join("; ")
    }
}

/// The control socket of a node whose files are in `folder`.
pub fn control_socket(folder: &Path) -> PathBuf {
    folder.join("control.sock")
}

fn exchange(socket: &Path, request: &Value, limit: Duration) -> io::Result<String> {
    let mut line = String::new();
    open(socket, request, limit)?.read_line(&mut line)?;
    Ok(line)
}

/// Says it; what comes back is to be read.
fn open(socket: &Path, request: &Value, limit: Duration) -> io::Result<BufReader<io::Take<UnixStream>>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    Ok(BufReader::new(stream.take(LINE_BYTES)))
}

/// `lbnode pair` on both nodes, as an operator would: each learns the other's certificate.
fn introduce(binary: &Path, nodes: &[Node; 2]) -> Result<(), PairError> {
    let invitation = |arguments: &[&str], node: &Node| -> Result<String, PairError> {
        let mut command = Command::new(binary);
        command.arg("pair").args(arguments).arg("--config").arg(node.config()).arg("--json").stdin(Stdio::null());
        let line = || format!("lbnode pair {}", arguments.join(" "));
        let output = command.output().map_err(|source| PairError::PairCommand { command: line(), source })?;
        let told = serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default();
        match told["invitation"].as_str() {
            Some(invitation) if output.status.success() => Ok(invitation.to_owned()),
            _ => Err(PairError::NotPaired {
                command: line(),
                status: output.status,
                said: String::from_utf8_lossy(&[output.stderr, output.stdout].concat()).trim().to_owned(),
            }),
        }
    };
    let of_a = invitation(&["init"], &nodes[0])?;
    let of_b = invitation(&["join", &of_a], &nodes[1])?;
    invitation(&["join", &of_b], &nodes[0])?;
    Ok(())
}

fn create_folder(path: &Path) -> Result<(), PairError> {
    std::fs::create_dir_all(path).map_err(|source| PairError::File { path: path.into(), source })
}

fn write(path: &Path, text: &str) -> Result<(), PairError> {
    std::fs::write(path, text).map_err(|source| PairError::File { path: path.into(), source })
}

fn node_file(settings: &Settings, site: &Site, node: &Node, index: usize) -> String {
    let folder = node.folder.display();
    format!(
        r#"name = "{name}"
state_dir = "{folder}/state"
runtime_dir = "{folder}/run"
bootstrap = "{folder}/cluster.toml"

[vrrp]
interface = "{interface}"
priority = {priority}

[proxy]
user = "{user}"

[control]
socket = "{socket}"
{sync}"#,
        sync = if settings.sync { sync_section(site, index) } else { String::new() },
        name = node.name,
        interface = lan::INTERFACE,
        priority = settings.priorities[index],
        user = settings.user,
        socket = node.socket().display(),
    )
}

/// One path over each LAN, the nodes' own one first.
fn sync_section(site: &Site, index: usize) -> String {
    let addresses = |node: usize| {
        [crossover_address(node), site.nodes[node].address]
            .map(|address| format!("\"{address}:{SYNC_PORT}\""))
            .join(", ")
    };
    let peer = 1 - index;
    format!(
        r#"
[sync]
listen = [{own}]
peer = {{ name = "{name}", addresses = [{peers}] }}
"#,
        own = addresses(index),
        name = NAMES[peer],
        peers = addresses(peer),
    )
}

fn cluster_file(settings: &Settings, site: &Site) -> String {
    let servers = |port: u16| {
        let line = |server: &Host| {
            format!("  {{ name = \"{}\", address = \"{}:{port}\" }},\n", server.netns.name(), server.address)
        };
        site.servers.iter().map(line).collect::<String>()
    };
    format!(
        r#"[pair]
name = "lab"

[vip.{VIP_NAME}]
address = "{VIP}"
vrid = {VRID}
advert_interval = "{interval}ms"
preempt = {preempt}
{defaults}
[frontend.web]
mode = "tcp"
bind = "{VIP_NAME}:{SERVICE_PORT}"
default_backend = "web"

[backend.web]
mode = "tcp"
balance = "round-robin"
check = {{ http = {{ path = "/" }}, interval = "1s", timeout = "500ms", rise = 1, fall = 2 }}
servers = [
{web}]

[frontend.stream]
mode = "tcp"
bind = "{VIP_NAME}:{STREAM_PORT}"
default_backend = "stream"

[backend.stream]
mode = "tcp"
check = {{ tcp = {{}}, interval = "1s", timeout = "500ms", rise = 1, fall = 2 }}
servers = [
{stream}]
"#,
        interval = settings.advert_interval.as_millis(),
        preempt = settings.preempt,
        defaults = if settings.sync { "\n[defaults]\nhandoff_timeout = \"10m\"\n" } else { "" },
        web = servers(SERVER_PORT),
        stream = servers(STREAM_SERVER_PORT),
    )
}
