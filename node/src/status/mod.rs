//! The model of `lbnode status --json`: what one node knows, typed and stable (docs/status.md, docs/status.schema.json).
//!
//! The agent fills a [`Status`], the control socket carries it, `render` prints it for people. A field whose
//! source does not exist in this version, or is not known, is absent; nothing is filled in to look complete.

pub(crate) mod certificates;
mod render;
mod time;
pub(crate) mod traffic;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

pub use proxy_core::stats::{HttpStats, LogSinkStats, Responses, StickTableStats, TlsStats, WorkerStats};
use serde::{Deserialize, Serialize};
use vrrp::event::{Fault, State};

pub use certificates::Certificate;
pub use render::render;
pub(crate) use render::table;
pub use time::Moment;
pub(crate) use time::rfc3339;

/// Everything `lbnode status` says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the agent that answered.
    pub version: String,
    /// The pair as a whole.
    pub pair: Pair,
    /// What works for now and would not bear a further fault, in words, worst first; empty: nothing of the kind.
    pub degraded: Vec<String>,
    /// The nodes that are known; the one that answers has `self: true`.
    pub nodes: Vec<Node>,
    /// The floating addresses, as seen from the answering node.
    pub vips: Vec<Vip>,
    /// The channel to the peer; absent: the node file names no peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync: Option<Sync>,
    /// VIPs that are on their way to the other node, clients and all; absent: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub handoff: Vec<HandOff>,
    /// What configuration is running.
    pub config: Config,
    /// Where clients arrive.
    pub frontends: Vec<Frontend>,
    /// Where they are sent.
    pub backends: Vec<Backend>,
    /// What is shown to clients, and to servers that ask; absent: nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Certificate>,
    /// The proxy core's threads, by number; absent while it does not answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workers: Vec<WorkerStats>,
    /// Whether the election runs with the priority and the memory that it wants; absent: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub realtime: Option<Realtime>,
    /// What the node can carry, and which limit says so; absent until a proxy core was ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// The last time that both nodes were seen active at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dual_active: Option<DualActive>,
    /// What became of log lines.
    pub log: Log,
    /// What became of the lines about clients; absent: nothing is logged, or the proxy core does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic_log: Option<TrafficLog>,
    /// What is known of clients, by table; absent: there is no stick table, or the proxy core does not answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stick_tables: Vec<StickTableStats>,
}

/// The pair as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// `[pair] name` of the cluster file.
    pub name: String,
    /// Whether a failover would work; absent: not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redundant: Option<bool>,
}

/// One machine of the pair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// `name` of the node file.
    pub name: String,
    /// Whether it is the one that answers.
    #[serde(rename = "self")]
    pub this: bool,
    /// What it does.
    pub role: Role,
    /// Whether it serves, or would serve after a takeover, as well as it can.
    pub fit: bool,
    /// Why it is not fit, worst first; empty if it is.
    pub reasons: Vec<String>,
    /// `[vrrp] priority` of the node file, 1 to 254; absent: the peer has not told it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// Its proxy core; absent: the peer has not told of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
    /// The configuration that it runs; absent: the peer has not told it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Since when it has this role; of the peer: since when it is seen in it.
    #[serde(flatten)]
    pub since: Moment,
}

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Holds at least one VIP.
    Active,
    /// Would take over.
    Standby,
    /// Cannot take part in the election of any VIP.
    Fault,
    /// Taken out of service by an operator.
    Maintenance,
    /// The peer, and it does not answer.
    Unreachable,
    /// Belongs to no pair: `lbnode serve`.
    Alone,
}

/// The proxy core, as its supervisor sees it. All of it is known of this node's; of the peer's the state at least.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proxy {
    /// Whether it carries traffic.
    pub state: ProxyState,
    /// Its process; absent while there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// How often it was started again since the agent started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restarts: Option<u64>,
    /// Since when it is in this state.
    #[serde(flatten)]
    pub since: Option<Moment>,
    /// Worker threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<u16>,
    /// Why it runs under another user than the configured one; absent: it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_note: Option<String>,
    /// How it last ended and its last words; absent: it never did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<String>,
}

/// What the proxy core does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyState {
    /// Started, not ready yet.
    Starting,
    /// Carries traffic.
    Ready,
    /// A worker makes no progress.
    Hung,
    /// It ended and waits for its next start.
    Backoff,
    /// It ends again and again.
    CrashLoop,
    /// Takes no new clients and waits for the last ones.
    Draining,
    /// Not wanted.
    Stopped,
}

/// One floating address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Vip {
    /// Its name in the cluster file.
    pub name: String,
    /// The address itself.
    pub address: Ipv4Addr,
    /// Virtual router identifier, 1 to 255.
    pub vrid: u8,
    /// The interface that it lives on.
    pub interface: String,
    /// What this node's router does.
    pub state: State,
    /// Who holds it: a node's name, or the address that an unknown node advertises from; absent: nobody is heard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// Counts up with each takeover between the two nodes; 0: none was ever heard of, or there is no peer.
    pub term: u64,
    /// Since when the router is in this state.
    #[serde(flatten)]
    pub since: Moment,
    /// Why it came into this state.
    pub why: String,
    /// This node's priority for the VIP, 1 to 254.
    pub priority: u8,
    /// How often its holder says so, in milliseconds.
    pub advert_interval_ms: u64,
    /// Why the router cannot take part; empty if it can.
    pub faults: Vec<Fault>,
    /// What the router counted, by the names of docs/vrrp.md.
    pub counters: BTreeMap<String, u64>,
}

/// The channel to the peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sync {
    /// Whether the two nodes talk.
    pub state: SyncState,
    /// The peer's name in the node file.
    pub peer: String,
    /// The peer's end of the path that carries the session; absent while there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<SocketAddr>,
    /// Every path of the node file, in its order.
    pub paths: Vec<SyncPath>,
    /// How long a question and its answer take, in milliseconds; absent until it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<f64>,
    /// Since when it is in this state.
    #[serde(flatten)]
    pub since: Moment,
    /// Connections that were refused, by the reasons of docs/sync.md.
    pub refused: BTreeMap<String, u64>,
    /// Why the last session ended, or none came about; absent: nothing ever went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// Whether the two nodes talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncState {
    /// There is a session.
    Connected,
    /// There is none at this moment.
    Disconnected,
    /// There can be none: the nodes do not know each other's identity yet (`lbnode pair`).
    NotPaired,
}

/// One way from here to the peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SyncPath {
    /// This node's end.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
    /// Whether the peer's heartbeats arrive on it.
    pub alive: bool,
    /// How long ago the last one did, in milliseconds; absent: none ever did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
}

/// A VIP on its way to the other node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HandOff {
    /// Which VIP.
    pub vip: String,
    /// Name of the node that it goes to.
    pub to: String,
    /// How far it is, in words.
    pub step: String,
    /// Connections that still run through the old node.
    pub connections_left: u64,
    /// When it began.
    #[serde(flatten)]
    pub since: Moment,
}

/// The running configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Its number, counted by this node alone.
    pub revision: u64,
    /// SHA-256 of the cluster file's text, in hex.
    pub digest: String,
    /// `[defaults] handoff_timeout`, as the cluster file would have it: a length of time, or "never".
    pub handoff_timeout: String,
    /// Since when it runs.
    #[serde(flatten)]
    pub since: Moment,
}

/// A frontend. What is counted is so since the proxy core started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Frontend {
    /// Its name in the cluster file.
    pub name: String,
    /// Where it listens, as the cluster file has it.
    pub binds: Vec<String>,
    /// The backend that it leads to.
    pub backend: String,
    /// Clients at this moment, over all workers.
    pub sessions: u64,
    /// Clients.
    pub sessions_total: u64,
    /// New clients a second, over the last seconds; absent until two readings exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Bytes from clients that were passed on.
    pub bytes_in: u64,
    /// Bytes passed to clients.
    pub bytes_out: u64,
    /// TCP: clients sent away or lost before they reached a server. HTTP: requests that rules refused. Both: clients
    /// with too many sessions.
    pub denied: u64,
    /// Requests whose client left, or fell silent, before the answer was over.
    pub client_aborts: u64,
    /// Requests and all answers; absent: it speaks TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpStats>,
    /// Requests that were refused unread, by the reasons of docs/http-refusals.md.
    pub bad_requests: BTreeMap<String, u64>,
    /// What was wrong with HTTP/2 itself, by the reasons of docs/http-refusals.md.
    pub bad_http2: BTreeMap<String, u64>,
    /// Handshakes; absent: none of its binds speaks TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsStats>,
}

/// A backend. What is counted is so since the proxy core started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// Its name in the cluster file.
    pub name: String,
    /// Clients that wait for a server with a free place.
    pub queued: u64,
    /// Clients sent away because too many waited.
    pub queue_full: u64,
    /// Clients that waited in vain.
    pub queue_timeouts: u64,
    /// Clients that left while they waited.
    pub queue_left: u64,
    /// Clients for whom no server was usable.
    pub no_server: u64,
    /// Further attempts to connect.
    pub retries: u64,
    /// Attempts that were moved to another server.
    pub redispatches: u64,
    /// Requests for its servers, and their answers; absent: no frontend that speaks HTTP leads here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpStats>,
    /// Answers that were refused, by the reasons of docs/http-refusals.md.
    pub bad_responses: BTreeMap<String, u64>,
    /// In the order of the file.
    pub servers: Vec<Server>,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// Its name in the cluster file.
    pub name: String,
    /// Where it listens; 0.0.0.0 if its name has no address.
    pub address: SocketAddr,
    /// The name that it was written as.
    #[serde(flatten)]
    pub resolved: Resolved,
    /// Whether clients are sent to it.
    pub state: ServerState,
    /// Clients at this moment.
    pub sessions: u64,
    /// Clients since the proxy core started; HTTP: attempts to have a request answered.
    pub sessions_total: u64,
    /// Bytes sent to it.
    pub bytes_in: u64,
    /// Bytes received from it.
    pub bytes_out: u64,
    /// Attempts to connect that failed.
    pub connect_errors: u64,
    /// Requests that it did not answer in time, or not to the end, or with something that is no answer.
    pub response_errors: u64,
    /// Sessions, and requests, that were cut because it went down (`on_marked_down`).
    pub cut_when_down: u64,
    /// Requests and its answers; absent: no frontend that speaks HTTP leads here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpStats>,
    /// 0 to 256; in effect, which is what its agent makes of the configured one.
    pub weight: u16,
    /// Percent of it that it has by now; absent: all. It came up a moment ago and starts slowly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttle: Option<u8>,
    /// Used only while no other one is up.
    pub backup: bool,
    /// Its last check; absent: not checked, or not yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
    /// What its agent said last, or why it said nothing; absent: it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
}

/// The name of a server's address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// As it was written; absent: the address was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Why it has no address, or only one that may be old.
    #[serde(rename = "host_problem", skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Whether clients are sent to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerState {
    /// They are.
    Up,
    /// Its checks failed, its agent says so, or its name has no address.
    Down,
    /// It keeps the ones it has.
    Drain,
    /// Taken out of service, by its agent.
    Maintenance,
    /// Not one check has ended yet.
    Checking,
}

/// What the last check of a server found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// In words: "passed", or what went wrong.
    pub status: String,
    /// The HTTP status; absent for other checks and when no answer came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// How long it took, in milliseconds.
    pub latency_ms: f64,
    /// Since when the server is in its state.
    #[serde(flatten)]
    pub since: Moment,
}

/// What the election's thread was granted: "yes", or why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Realtime {
    /// SCHED_RR.
    pub scheduling: String,
    /// Memory that is never paged out.
    pub memory_lock: String,
}

/// What the node can carry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Descriptors that the proxy core may have open.
    pub descriptors: u64,
    /// Clients that it can carry at once with them.
    pub connections: u64,
    /// How the second follows from the first, in words.
    pub derived: String,
}

/// A time during which both nodes were active.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DualActive {
    /// Which VIP.
    pub vip: String,
    /// Who else held it.
    pub other: Ipv4Addr,
    /// For how long, in milliseconds; absent: it began before this node could tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length_ms: Option<u64>,
    /// When it ended.
    #[serde(flatten)]
    pub since: Moment,
}

/// What became of log lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// Lines of the agent that nobody read in time, since it started.
    pub dropped: u64,
    /// Where the frontends log to; absent: nowhere, or the proxy core does not answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sinks: Vec<LogSinkStats>,
}

/// What became of the lines about clients, since the proxy core started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrafficLog {
    /// Lines dropped before they came to a sink: workers made them faster than they could be taken.
    pub overrun: u64,
    /// Where lines go.
    pub sinks: Vec<LogSink>,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogSink {
    /// `target` of the cluster file.
    pub target: String,
    /// Lines that it took.
    pub written: u64,
    /// Lines dropped because it took nothing, failed or could not be opened.
    pub dropped: u64,
}

/// What a status comes down to; the number is the exit code of `lbnode status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Verdict {
    /// Every VIP is served, every known node is fit, and nothing is degraded.
    Healthy = 0,
    /// Every VIP is served, but a failover would not work as it should.
    Degraded = 1,
    /// At least one VIP is served by nobody, as far as can be seen from here.
    NotServing = 3,
}

impl Status {
    /// The node that answered.
    pub fn this_node(&self) -> Option<&Node> {
        self.nodes.iter().find(|node| node.this)
    }

    /// The other one, if it is known.
    pub fn peer(&self) -> Option<&Node> {
        self.nodes.iter().find(|node| !node.this)
    }

    /// What it all comes down to.
    pub fn verdict(&self) -> Verdict {
        let Some(node) = self.this_node() else { return Verdict::NotServing };
        let ready = node.proxy.as_ref().is_some_and(|proxy| proxy.state == ProxyState::Ready);
        let served = |vip: &Vip| if vip.state == State::Master { ready } else { vip.holder.is_some() };
        let alone_and_down = self.vips.is_empty() && !ready;
        if alone_and_down || !self.vips.iter().all(served) {
            return Verdict::NotServing;
        }
        let unfit = self.nodes.iter().any(|node| !node.fit || node.role == Role::Unreachable);
        let faulty = self.vips.iter().any(|vip| matches!(vip.state, State::Fault | State::Init));
        let degraded = !self.degraded.is_empty() || self.pair.redundant == Some(false);
        if unfit || faulty || degraded { Verdict::Degraded } else { Verdict::Healthy }
    }
}

#[cfg(test)]
mod tests;
