//! A pair of real `lbnode` agents on the two machines of a [`Site`], started from generated files and asked
//! through their control sockets, one JSON object a line, as any other program would.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::client::{Outcome, ask_once};
use crate::lan;
use crate::process::{Process, ProcessError};
use crate::site::{SERVER_PORT, SERVICE_PORT, Site, SiteError, VIP};
use crate::wait::{WaitError, wait_until};

/// The nodes' names, in the order of [`Site::nodes`].
pub const NAMES: [&str; 2] = ["lb-a", "lb-b"];
/// What the VIP is called.
pub const VIP_NAME: &str = "web";
/// Its virtual router.
pub const VRID: u8 = 77;

/// An agent that says nothing for so long is counted as silent.
const CALL_LIMIT: Duration = Duration::from_millis(500);
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
        let socket = self.socket();
        let line = exchange(&socket, request).map_err(|source| CallError::Io { socket: socket.clone(), source })?;
        serde_json::from_str(&line).map_err(|_| CallError::Nonsense { socket, answer: line })
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

    /// The pid of its proxy core, if there is one.
    pub fn core(&self) -> Option<Pid> {
        self.own()["proxy"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw)
    }

    /// A counter of the VIP's router.
    pub fn counter(&self, name: &str) -> u64 {
        self.0["vips"][0]["counters"][name].as_u64().unwrap_or_default()
    }

    /// In a few words.
    pub fn words(&self) -> String {
        let own = self.own();
        format!(
            "router {}, fit {}, reasons {}, proxy {}",
            self.router(),
            own["fit"],
            own["reasons"],
            own["proxy"]["state"]
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
            write(&node.config(), &node_file(&settings, &node, index))?;
            write(&node.folder.join("cluster.toml"), &cluster_file(&settings, &site))?;
            Ok(node)
        };
        let nodes = [node(0)?, node(1)?];
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

fn exchange(socket: &Path, request: &Value) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(CALL_LIMIT))?;
    stream.set_write_timeout(Some(CALL_LIMIT))?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream.take(LINE_BYTES)).read_line(&mut line)?;
    Ok(line)
}

fn create_folder(path: &Path) -> Result<(), PairError> {
    std::fs::create_dir_all(path).map_err(|source| PairError::File { path: path.into(), source })
}

fn write(path: &Path, text: &str) -> Result<(), PairError> {
    std::fs::write(path, text).map_err(|source| PairError::File { path: path.into(), source })
}

fn node_file(settings: &Settings, node: &Node, index: usize) -> String {
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
"#,
        name = node.name,
        interface = lan::INTERFACE,
        priority = settings.priorities[index],
        user = settings.user,
        socket = node.socket().display(),
    )
}

fn cluster_file(settings: &Settings, site: &Site) -> String {
    let servers = site
        .servers
        .iter()
        .map(|server| {
            format!("  {{ name = \"{}\", address = \"{}:{SERVER_PORT}\" }},\n", server.netns.name(), server.address)
        })
        .collect::<String>();
    format!(
        r#"[pair]
name = "lab"

[vip.{VIP_NAME}]
address = "{VIP}"
vrid = {VRID}
advert_interval = "{interval}ms"
preempt = {preempt}

[frontend.web]
mode = "tcp"
bind = "{VIP_NAME}:{SERVICE_PORT}"
default_backend = "web"

[backend.web]
mode = "tcp"
balance = "round-robin"
check = {{ http = {{ path = "/" }}, interval = "1s", timeout = "500ms", rise = 1, fall = 2 }}
servers = [
{servers}]
"#,
        interval = settings.advert_interval.as_millis(),
        preempt = settings.preempt,
    )
}
