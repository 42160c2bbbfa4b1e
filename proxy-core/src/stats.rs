//! What the data plane says about itself, and the counters it is summed from.
//!
//! A counter is written by one worker only (a plain load and store), in a shard of its own cache lines; readers
//! sum the shards. Sums are therefore not one moment's picture across counters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

use crate::http::head::{BadHttp2, BadRequest, BadResponse};
use crate::proxy_protocol::BadProxy;
use crate::tls::fault::Fault;

/// The state of the data plane. Counters run from the start of the process; those of a frontend, backend or
/// server that an apply keeps go on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Of the plan that is applied.
    pub revision: u64,
    /// Sessions now, over all workers.
    pub sessions: u32,
    /// Sessions at once that the descriptor limit allows.
    pub session_limit: u32,
    /// The process is full: clients wait in the kernel's accept queue.
    pub at_session_limit: bool,
    /// Sessions that were cut at a drain's deadline.
    pub reset_by_drain: u64,
    /// In the order of the plan.
    pub frontends: Vec<FrontendStats>,
    /// In the order of the plan.
    pub backends: Vec<BackendStats>,
    /// By worker number.
    pub workers: Vec<WorkerStats>,
    /// In the order of the plan.
    pub log_sinks: Vec<LogSinkStats>,
    /// In the order of the plan.
    pub stick_tables: Vec<StickTableStats>,
}

/// What of the state is looked at every second, whoever asks for the rest: little, however many servers there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Sessions ever, by frontend.
    pub totals: BTreeMap<String, u64>,
    /// Backends of which every server is down or in maintenance.
    pub backends_down: BTreeSet<String>,
    /// A server that is checked was not looked at yet.
    pub checking: bool,
}

/// One frontend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontendStats {
    /// As in the plan.
    pub name: String,
    /// Sessions now.
    pub sessions: u32,
    /// `None`: only the process's limit holds.
    pub max_connections: Option<u32>,
    /// Sessions ever.
    pub total: u64,
    /// Bytes from clients that were passed on.
    pub bytes_in: u64,
    /// Bytes passed to clients.
    pub bytes_out: u64,
    /// TCP: clients that were sent away, or left, without having reached a server. HTTP: requests that a rule denied,
    /// rejected or left in the tarpit, and clients that have all the sessions that they may have.
    pub denied: u64,
    /// Requests whose client left, or fell silent, before the answer was over.
    pub client_aborts: u64,
    /// Requests that could be read, and all answers, ours too. `None`: it speaks TCP.
    pub http: Option<HttpStats>,
    /// Requests that were refused unread, by [`BadRequest::why`]; a reason that never was one is absent.
    pub bad_requests: BTreeMap<String, u64>,
    /// What was wrong with HTTP/2 itself, by [`BadHttp2::why`]; a reason that never was one is absent.
    pub bad_http2: BTreeMap<String, u64>,
    /// Clients that no proxy announced as it should have, by [`BadProxy::why`]; a reason that never was one is absent.
    pub bad_proxy: BTreeMap<String, u64>,
    /// `None`: none of its binds speaks TLS.
    pub tls: Option<TlsStats>,
}

/// Clients' handshakes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsStats {
    /// With keys agreed anew.
    pub full: u64,
    /// That went on with an earlier session.
    pub resumed: u64,
    /// That came to nothing, by reason; one that never was one is absent.
    pub failed: BTreeMap<String, u64>,
}

/// What is counted of HTTP at a frontend, a backend or a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpStats {
    /// Requests; at a server each attempt.
    pub requests: u64,
    /// Final answers; of the interim ones only 101.
    pub responses: Responses,
}

/// Answers by the first digit of their status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Responses {
    /// 101: another protocol from then on.
    #[serde(rename = "1xx")]
    pub informational: u64,
    /// 200 to 299.
    #[serde(rename = "2xx")]
    pub successful: u64,
    /// 300 to 399.
    #[serde(rename = "3xx")]
    pub redirection: u64,
    /// 400 to 499.
    #[serde(rename = "4xx")]
    pub client_error: u64,
    /// 500 to 599.
    #[serde(rename = "5xx")]
    pub server_error: u64,
    /// 600 to 999.
    pub other: u64,
}

/// One backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendStats {
    /// As in the plan.
    pub name: String,
    /// Clients that wait for a place now.
    pub queue: u32,
    /// Clients sent away because the queue was full.
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
    /// Requests for its servers, and their answers. `None`: no frontend that speaks HTTP leads here.
    pub http: Option<HttpStats>,
    /// Answers of its servers that were not passed on, by [`BadResponse::why`]; a reason that never was one is absent.
    pub bad_responses: BTreeMap<String, u64>,
    /// In the order of the plan.
    pub servers: Vec<ServerStats>,
}

/// What a server is good for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerState {
    /// Not checked yet: used like one that is up, as HAProxy does.
    #[default]
    Checking,
    /// Used.
    Up,
    /// Its checks failed, its agent says so, or its name has no address.
    Down,
    /// Weight 0: not down, but takes nothing new.
    Drain,
    /// Its agent took it out of service.
    Maintenance,
}

/// One server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerStats {
    /// As in the plan.
    pub name: String,
    /// Now.
    pub state: ServerState,
    /// Milliseconds in this state.
    pub since_ms: u64,
    /// In effect: as in the plan, unless its agent says otherwise.
    pub weight: u16,
    /// Percent of it, and of its limit, that it has by now; `None`: all, because it isn't growing.
    pub throttle: Option<u8>,
    /// Sessions now, with those still connecting.
    pub sessions: u32,
    /// Sessions ever that were connected.
    pub total: u64,
    /// Bytes sent to it.
    pub bytes_in: u64,
    /// Bytes received from it.
    pub bytes_out: u64,
    /// Attempts to connect that failed.
    pub connect_errors: u64,
    /// Requests that it did not answer in time, or not to the end, or with something that is no answer.
    pub response_errors: u64,
    /// Sessions, and requests, that were cut because it went down.
    pub cut_when_down: u64,
    /// As its backend's.
    pub http: Option<HttpStats>,
    /// `None`: never checked.
    pub last_check: Option<CheckReport>,
    /// What its agent said last, or why it said nothing. `None`: it has none, or wasn't asked yet.
    pub agent: Option<String>,
}

/// The last check of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// It passed.
    pub ok: bool,
    /// HTTP status, where there was one.
    pub code: Option<u16>,
    /// What came back, in words: "connected", "got 503, expected 200-399", "connection refused".
    pub what: String,
    /// How long it took, in milliseconds.
    pub latency_ms: u64,
    /// How long ago it ended, in milliseconds.
    pub ago_ms: u64,
}

/// One worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStats {
    /// Sessions now.
    pub sessions: u64,
    /// Clients accepted ever.
    pub accepted: u64,
    /// Sessions that ended in a panic.
    pub panics: u64,
    /// Times that accepting was paused because the kernel had no descriptor or memory left.
    pub accept_pauses: u64,
    /// Log lines dropped because the writer did not come after.
    pub log_drops: u64,
    /// Connections to HTTP servers now, in use or idle; as of its last beat (50 ms).
    pub server_connections: u64,
    /// Those of them that wait for a request; as of its last sweep (1 s).
    pub idle_server_connections: u64,
}

/// One log sink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSinkStats {
    /// As in the plan.
    pub target: String,
    /// Lines that it took.
    pub written: u64,
    /// Lines dropped because it was full, failed or could not be opened.
    pub dropped: u64,
}

/// One stick table. Counted since it was made: an apply that changes its key, size or counters makes another one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StickTableStats {
    /// As in the plan.
    pub name: String,
    /// Entries at most.
    pub size: u32,
    /// Now.
    pub entries: u32,
    /// Clients that asked for their server, and have one.
    pub hits: u64,
    /// Clients that asked and have none.
    pub misses: u64,
    /// Entries that had to go for another one before their time: the table is too small.
    pub evicted: u64,
    /// Clients that are not in it because everybody who is has connections.
    pub refused: u64,
}

/// One entry of a stick table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StickEntry {
    /// An address, or a text with what is no visible ASCII escaped; of a long text its beginning, `~` and its SHA-256.
    pub key: String,
    /// Name of the server that its client stays with; `None`: with none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Milliseconds until it goes, if it isn't used before; while it has connections it stays.
    pub expires_in_ms: u64,
    /// By the names that the configuration has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counters: BTreeMap<String, u32>,
}

/// A number that one thread adds to and any thread reads.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, more: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(more), Relaxed);
    }

    /// Makes it a gauge.
    pub(crate) fn set(&self, now: u64) {
        self.0.store(now, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What is counted of HTTP in several places.
#[derive(Debug, Default)]
pub(crate) struct HttpCounters {
    pub(crate) requests: Counter,
    /// By the first digit of the status, from 1; beyond 5: the last.
    responses: [Counter; 6],
}

impl HttpCounters {
    pub(crate) fn count_response(&self, status: u16) {
        self.responses[usize::from(status / 100).clamp(1, 6) - 1].add(1);
    }

    /// The sum over the shards.
    pub(crate) fn sum<T>(shards: &[T], http: impl Fn(&T) -> &HttpCounters) -> HttpStats {
        let class = |digit: usize| sum(shards, |shard| &http(shard).responses[digit - 1]);
        HttpStats {
            requests: sum(shards, |shard| &http(shard).requests),
            responses: Responses {
                informational: class(1),
                successful: class(2),
                redirection: class(3),
                client_error: class(4),
                server_error: class(5),
                other: class(6),
            },
        }
    }
}

/// A worker's own part of a frontend's counters.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct FrontendShard {
    pub(crate) total: Counter,
    pub(crate) bytes_in: Counter,
    pub(crate) bytes_out: Counter,
    pub(crate) denied: Counter,
    pub(crate) client_aborts: Counter,
    pub(crate) http: HttpCounters,
    pub(crate) bad_requests: Reasons<{ BadRequest::ALL.len() }>,
    pub(crate) bad_http2: Reasons<{ BadHttp2::ALL.len() }>,
    pub(crate) bad_proxy: Reasons<{ BadProxy::ALL.len() }>,
    pub(crate) tls: TlsCounters,
}

/// What came of clients' handshakes.
#[derive(Debug, Default)]
pub(crate) struct TlsCounters {
    pub(crate) full: Counter,
    pub(crate) resumed: Counter,
    pub(crate) failed: Reasons<{ Fault::ALL.len() }>,
}

/// A worker's own part of a backend's counters.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct BackendShard {
    pub(crate) queue_full: Counter,
    pub(crate) queue_timeouts: Counter,
    pub(crate) queue_left: Counter,
    pub(crate) no_server: Counter,
    pub(crate) retries: Counter,
    pub(crate) redispatches: Counter,
    pub(crate) http: HttpCounters,
    pub(crate) bad_responses: Reasons<{ BadResponse::ALL.len() }>,
}

/// A worker's own part of a server's counters.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct ServerShard {
    pub(crate) total: Counter,
    pub(crate) bytes_in: Counter,
    pub(crate) bytes_out: Counter,
    pub(crate) connect_errors: Counter,
    pub(crate) response_errors: Counter,
    pub(crate) cut_when_down: Counter,
    pub(crate) http: HttpCounters,
}

/// One counter a reason.
#[derive(Debug)]
pub(crate) struct Reasons<const N: usize>(pub(crate) [Counter; N]);

impl<const N: usize> Default for Reasons<N> {
    fn default() -> Self {
        Reasons(std::array::from_fn(|_| Counter::default()))
    }
}

impl<const N: usize> Reasons<N> {
    /// The sums over the shards that are not zero; `words` has each reason's at its index.
    pub(crate) fn sum<T>(shards: &[T], words: [&str; N], reasons: impl Fn(&T) -> &Reasons<N>) -> BTreeMap<String, u64> {
        let counts = (0..N).map(|index| sum(shards, |shard| &reasons(shard).0[index]));
        words.into_iter().zip(counts).filter(|(_, count)| *count > 0).map(|(why, n)| (why.to_owned(), n)).collect()
    }
}

/// A worker's counters of itself.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct WorkerShard {
    pub(crate) accepted: Counter,
    pub(crate) ended: Counter,
    pub(crate) panics: Counter,
    pub(crate) accept_pauses: Counter,
    pub(crate) reset_by_drain: Counter,
    pub(crate) log_drops: Counter,
    /// A gauge, set with each beat.
    pub(crate) server_connections: Counter,
    /// Likewise, with each sweep: it costs a look at every server.
    pub(crate) idle_server_connections: Counter,
}

/// One default shard a worker.
pub(crate) fn shards<T: Default>(workers: u16) -> Box<[T]> {
    (0..workers).map(|_| T::default()).collect()
}

/// The sum of one counter over the shards.
pub(crate) fn sum<T>(shards: &[T], counter: impl Fn(&T) -> &Counter) -> u64 {
    shards.iter().fold(0, |sum, shard| sum.wrapping_add(counter(shard).get()))
}
