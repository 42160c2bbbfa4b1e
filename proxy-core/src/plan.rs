//! The plan: what the workers do, immutable, swapped as a whole.
//!
//! The agent reads and checks the configuration; a [`Plan`] that passed [`Plan::validate`] can be run.
//! It holds no secret and names no file. Timeouts and limits have the units of their types.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Everything a worker needs to know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Number of the revision that this plan was made from.
    pub revision: u64,
    /// Where clients arrive.
    pub frontends: Vec<Frontend>,
    /// Where they are sent.
    pub backends: Vec<Backend>,
}

/// A set of listening addresses that lead to one backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frontend {
    /// Unique among frontends.
    pub name: String,
    /// Unique among all binds of the plan.
    pub binds: Vec<SocketAddr>,
    /// Index into [`Plan::backends`].
    pub backend: usize,
    /// Sessions at once over all workers; `None`: what the descriptor limit allows.
    pub max_connections: Option<u32>,
    /// Idle time of the client's side.
    pub client_timeout: Duration,
}

/// How a server is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// In turn, in proportion to the weights, smoothly interleaved.
    RoundRobin,
    /// The one with the fewest sessions in proportion to its weight, over all workers.
    LeastConn,
}

/// A group of servers that do the same work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Unique among backends.
    pub name: String,
    /// How a server is chosen.
    pub balance: Balance,
    /// In the order of the file.
    pub servers: Vec<Server>,
    /// `None`: every server counts as up.
    pub check: Option<Check>,
    /// Further attempts after a connect that failed.
    pub retries: u32,
    /// The last attempt may go to another server.
    pub redispatch: bool,
    /// For one attempt to connect to a server.
    pub connect_timeout: Duration,
    /// Idle time of the server's side.
    pub server_timeout: Duration,
    /// How long a client may wait for a server with a free place.
    pub queue_timeout: Duration,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Unique in its backend.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// 0 to 256; 0 takes no new sessions.
    pub weight: u16,
    /// Used only while no other server is up.
    pub backup: bool,
    /// Sessions at once over all workers; more wait in the queue.
    pub max_connections: Option<u32>,
}

/// How a backend's servers are checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What is asked.
    pub probe: Probe,
    /// Another port than the server's own.
    pub port: Option<u16>,
    /// From the end of one check to the start of the next.
    pub interval: Duration,
    /// For the whole check.
    pub timeout: Duration,
    /// Passed checks in a row that bring a server up.
    pub rise: u32,
    /// Failed checks in a row that take it down.
    pub fall: u32,
}

/// What a check asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probe {
    /// A connection that opens.
    Tcp,
    /// An HTTP/1.1 answer with an expected status.
    Http {
        /// GET, HEAD or OPTIONS.
        method: String,
        /// Path and query.
        path: String,
        /// Host header; `None`: the server's address.
        host: Option<String>,
        /// Inclusive ranges of good status codes.
        expect: Vec<(u16, u16)>,
    },
}

/// The heaviest weight.
pub const MAX_WEIGHT: u16 = 256;

/// Why a plan can't be run: a mistake of whoever made it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct PlanError {
    /// The item, in the plan's own names.
    pub place: String,
    /// What is wrong with it.
    pub problem: String,
}

impl Plan {
    /// Whether this plan can be run.
    ///
    /// # Errors
    /// The first thing found wrong.
    pub fn validate(&self) -> Result<(), PlanError> {
        let mut names = HashSet::new();
        let mut binds = HashSet::new();
        for frontend in &self.frontends {
            let wrong = |problem: String| Err(error(format!("frontend `{}`", frontend.name), problem));
            if !names.insert(&frontend.name) {
                return wrong("the name is taken".into());
            }
            if let Some(bind) = frontend.binds.iter().find(|bind| !binds.insert(**bind)) {
                return wrong(format!("{bind} is bound twice"));
            }
            if frontend.backend >= self.backends.len() {
                return wrong(format!("there is no backend number {}", frontend.backend));
            }
            if frontend.client_timeout.is_zero() {
                return wrong("the client timeout is zero".into());
            }
        }
        let mut names = HashSet::new();
        for backend in &self.backends {
            if !names.insert(&backend.name) {
                return Err(error(format!("backend `{}`", backend.name), "the name is taken".into()));
            }
            backend.validate().map_err(|problem| error(format!("backend `{}`", backend.name), problem))?;
        }
        Ok(())
    }
}

impl Backend {
    fn validate(&self) -> Result<(), String> {
        let mut names = HashSet::new();
        for server in &self.servers {
            if !names.insert(&server.name) {
                return Err(format!("two servers are called `{}`", server.name));
            }
            if server.weight > MAX_WEIGHT {
                return Err(format!("server `{}`: weight {} is over {MAX_WEIGHT}", server.name, server.weight));
            }
        }
        if self.connect_timeout.is_zero() || self.server_timeout.is_zero() {
            return Err("a timeout is zero".into());
        }
        self.check.as_ref().map_or(Ok(()), Check::validate)
    }
}

impl Check {
    fn validate(&self) -> Result<(), String> {
        if self.interval.is_zero() || self.timeout.is_zero() || self.rise == 0 || self.fall == 0 {
            return Err("check: interval, timeout, rise and fall must be above zero".into());
        }
        let Probe::Http { method, path, host, expect } = &self.probe else { return Ok(()) };
        if !["GET", "HEAD", "OPTIONS"].contains(&method.as_str()) {
            return Err(format!("check: method `{method}` is none of GET, HEAD, OPTIONS"));
        }
        // Visible ASCII only: nothing here may end the request line or the header.
        let plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !plain(path) || !(path.starts_with('/') || path == "*") {
            return Err(format!("check: `{}` is no path", path.escape_debug()));
        }
        if let Some(host) = host.as_ref().filter(|host| !plain(host)) {
            return Err(format!("check: `{}` is no host", host.escape_debug()));
        }
        match expect.iter().find(|(low, high)| low > high || *low < 100 || *high > 599) {
            Some((low, high)) => Err(format!("check: {low}-{high} is no range of status codes")),
            None if expect.is_empty() => Err("check: no status code is expected".into()),
            None => Ok(()),
        }
    }
}

fn error(place: String, problem: String) -> PlanError {
    PlanError { place, problem }
}
