//! The plan: what the workers do, immutable, swapped as a whole.
//!
//! The agent reads and checks the configuration; a [`Plan`] that passed [`Plan::validate`] can be run.
//! It opens no file; the only secrets that it holds are private keys ([`Secret`]). Timeouts and limits have the units of their types.

mod balance;
mod check;
mod http;
mod log;
mod persist;
mod rule;
mod text;
mod tls;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use text::check_edits;

pub use balance::{Balance, HashOf, Hashing};
pub use check::{AgentCheck, Check, Content, HttpProbe, Observe, OnError, Probe, Program, check_probe_header};
pub use http::{ClientCertField, ClientSupplied, Forwarded, Http};
pub use log::{Log, LogFormat, LogSink, Target};
pub use persist::{
    BadCookie, Cookie, CookieMode, MAX_STICK_ENTRIES, Persist, SameSite, StickCounter, StickKey, StickTable,
};
pub(crate) use persist::{DATES, PREFIX};
pub use rule::{Action, Condition, HeaderEdit, List, Pattern, Redirect, Reply, Rule, Sources, Text, regex};
pub use text::{BadText, MAX_BODY, Side, check_expression, check_method, check_name, check_path, check_protocol};
pub use tls::{Authority, Certificate, ClientAuth, Secret, ServerTls, Tls, TlsVersion, Verify};

/// Everything a worker needs to know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Number of the revision that this plan was made from.
    pub revision: u64,
    /// Where clients arrive.
    pub frontends: Vec<Frontend>,
    /// Where they are sent.
    pub backends: Vec<Backend>,
    /// Networks that rules refer to by index.
    pub lists: Vec<List>,
    /// Where log lines go; frontends refer to them by index.
    pub log_sinks: Vec<LogSink>,
    /// How binds speak TLS; they refer to them by index.
    pub tls: Vec<Tls>,
    /// What is shown to clients, and to servers that ask; referred to by index.
    pub certificates: Vec<Certificate>,
    /// Who is trusted to sign; referred to by index.
    pub authorities: Vec<Authority>,
    /// Referred to by index.
    pub stick_tables: Vec<StickTable>,
    /// Whom the agent asks what servers' names stand for; empty: whom its system asks.
    pub nameservers: Vec<SocketAddr>,
}

/// A set of listening addresses, and what is done with who arrives there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frontend {
    /// Unique among frontends.
    pub name: String,
    /// Their addresses are unique in the plan.
    pub binds: Vec<Bind>,
    /// What is spoken there.
    pub mode: Mode,
    /// Looked at for each connection (TCP) or each request (HTTP).
    pub rules: Vec<Rule>,
    /// Index into [`Plan::backends`]: for whom no rule chose one. HTTP may do without; such a request is answered 503.
    pub backend: Option<usize>,
    /// Sessions at once over all workers; `None`: what the descriptor limit allows.
    pub max_connections: Option<u32>,
    /// Sessions at once from one address; one more is closed.
    pub max_connections_per_source: Option<u32>,
    /// Idle time of the client's side.
    pub client_timeout: Duration,
    /// `None`: nothing is logged.
    pub log: Option<Log>,
}

/// One listening address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Where.
    pub address: SocketAddr,
    /// Index into [`Plan::tls`]; `None`: in the clear.
    pub tls: Option<usize>,
    /// Each connection begins with a PROXY header, from these networks, or from anywhere if there are none. `None`: clients
    /// come themselves.
    pub accept_proxy: Option<Vec<IpNetwork>>,
}

/// How servers are told by the PROXY protocol whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SendProxy {
    /// A line of text with the addresses.
    V1,
    /// Binary, with what is known of the client's TLS, the name that it asked for, and an id of its connection.
    V2,
}

/// What a frontend speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Bytes.
    Tcp,
    /// HTTP/1.
    Http(Box<Http>),
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
    /// While no other server is up, all backups serve, not only the first of them.
    pub all_backups: bool,
    /// `None`: the servers are spoken to in the clear.
    pub tls: Option<ServerTls>,
    /// Each connection begins with a PROXY header, and is one client's alone.
    pub send_proxy: Option<SendProxy>,
    /// How a client stays with its server; `None`: it needn't.
    pub persist: Option<Persist>,
    /// HTTP: a client that asks again on its connection goes to the server that it was with, if that has a place.
    pub prefer_last_server: bool,
    /// How long a server that was down takes to get its whole weight, and limit.
    pub slow_start: Option<Duration>,
    /// The sessions of a server that goes down are cut.
    pub cut_on_down: bool,
    /// `None`: every server counts as up.
    pub check: Option<Check>,
    /// `None`: the servers say nothing of themselves.
    pub agent_check: Option<AgentCheck>,
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
    /// A client that ends its side while it waits for its answer is taken as gone (HAProxy's `abortonclose`).
    pub abort_on_close: bool,
    /// The servers are spoken to in HTTP/2: over TLS by ALPN, in the clear with prior knowledge (RFC 9113 §3.3).
    pub http2: bool,
    /// Idle time of both sides once bytes are only carried: in TCP, and after an upgrade; `None`: the shorter of the two sides' own.
    pub tunnel_timeout: Option<Duration>,
    /// Changes of every request, after the frontend's and its rules'.
    pub request_edits: Vec<HeaderEdit>,
    /// Changes of every response, before the frontend's and its rules'.
    pub response_edits: Vec<HeaderEdit>,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Unique in its backend.
    pub name: String,
    /// Where it listens; 0.0.0.0 while nobody knows what its name stands for, and then it is down.
    pub address: SocketAddr,
    /// How the address was written; `None`: as it is.
    pub host: Option<Host>,
    /// The name on its certificate: as its address was written, or as it is told otherwise; `None`: the address itself.
    pub tls_name: Option<String>,
    /// Clients may be made to stay with it.
    pub stick: bool,
    /// Its name in persistence cookies; `None`: its name.
    pub cookie: Option<String>,
    /// The backend's check is for it as well; otherwise it counts as up.
    pub check: bool,
    /// 0 to 256; 0 takes no new sessions.
    pub weight: u16,
    /// Used only while no other server is up.
    pub backup: bool,
    /// Sessions at once over all workers; more wait in the queue.
    pub max_connections: Option<u32>,
}

/// A name that an address was written as. The agent resolves it: whoever runs the plan opens no file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// As it was written.
    pub name: String,
    /// Why there is no address, or only one that may be old.
    pub problem: Option<String>,
}

impl Server {
    /// One of which nothing else is said.
    pub fn new(name: impl Into<String>, address: SocketAddr) -> Server {
        Server {
            name: name.into(),
            address,
            host: None,
            tls_name: None,
            stick: true,
            cookie: None,
            check: true,
            weight: 1,
            backup: false,
            max_connections: None,
        }
    }

    /// Its name in persistence cookies.
    pub fn cookie_value(&self) -> &str {
        self.cookie.as_ref().unwrap_or(&self.name)
    }

    /// Why it has no address, if it has none.
    pub fn unresolved(&self) -> Option<&str> {
        let host = self.host.as_ref().filter(|_| self.address.ip().is_unspecified())?;
        Some(host.problem.as_deref().unwrap_or("its name was not resolved yet"))
    }
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
        for list in &self.lists {
            if !names.insert(&list.name) {
                return Err(PlanError::new(format!("list `{}`", list.name), "the name is taken".into()));
            }
        }
        let mut sinks = HashSet::new();
        for sink in &self.log_sinks {
            let place = || format!("log `{}`", sink.target);
            sink.validate().map_err(|problem| PlanError::new(place(), problem))?;
            if !sinks.insert((&sink.target, sink.facility)) {
                return Err(PlanError::new(place(), "it is there twice".into()));
            }
        }
        for (names, kind) in [
            (self.tls.iter().map(|one| &one.name).collect::<Vec<_>>(), "tls"),
            (self.certificates.iter().map(|one| &one.name).collect(), "certificate"),
            (self.authorities.iter().map(|one| &one.name).collect(), "ca"),
            (self.stick_tables.iter().map(|one| &one.name).collect(), "stick_table"),
        ] {
            let mut seen = HashSet::new();
            if let Some(name) = names.into_iter().find(|name| !seen.insert(*name)) {
                return Err(PlanError::new(format!("{kind} `{name}`"), "the name is taken".into()));
            }
        }
        for tls in &self.tls {
            tls.validate(self).map_err(|problem| PlanError::new(format!("tls `{}`", tls.name), problem))?;
        }
        for table in &self.stick_tables {
            let place = || format!("stick_table `{}`", table.name);
            table.validate().map_err(|problem| PlanError::new(place(), problem))?;
        }
        let mut names = HashSet::new();
        let mut binds = HashSet::new();
        for frontend in &self.frontends {
            let place = || format!("frontend `{}`", frontend.name);
            if !names.insert(&frontend.name) {
                return Err(PlanError::new(place(), "the name is taken".into()));
            }
            if let Some(bind) = frontend.binds.iter().find(|bind| !binds.insert(bind.address)) {
                return Err(PlanError::new(place(), format!("{} is bound twice", bind.address)));
            }
            frontend.validate(self).map_err(|problem| PlanError::new(place(), problem))?;
        }
        let mut names = HashSet::new();
        for backend in &self.backends {
            if !names.insert(&backend.name) {
                return Err(PlanError::new(format!("backend `{}`", backend.name), "the name is taken".into()));
            }
            backend.validate(self).map_err(|problem| PlanError::new(format!("backend `{}`", backend.name), problem))?;
        }
        Ok(())
    }
}

impl Frontend {
    /// The backends that its clients may be sent to, by index; some of them perhaps twice.
    pub(crate) fn leads_to(&self) -> impl Iterator<Item = usize> {
        let by_rule = self.rules.iter().filter_map(|rule| match rule.action {
            Action::UseBackend(index) => Some(index),
            _ => None,
        });
        self.backend.into_iter().chain(by_rule)
    }

    fn validate(&self, plan: &Plan) -> Result<(), String> {
        match self.backend {
            Some(index) if index >= plan.backends.len() => return Err(format!("there is no backend number {index}")),
            None if self.mode == Mode::Tcp => return Err("TCP needs a backend".into()),
            _ => {}
        }
        if let Some(index) = self.binds.iter().filter_map(|bind| bind.tls).find(|index| *index >= plan.tls.len()) {
            return Err(format!("there is no tls number {index}"));
        }
        if self.client_timeout.is_zero() {
            return Err("the client timeout is zero".into());
        }
        if self.max_connections == Some(0) || self.max_connections_per_source == Some(0) {
            return Err("a limit is zero".into());
        }
        let http = match &self.mode {
            Mode::Tcp => false,
            Mode::Http(http) => {
                http.validate()?;
                true
            }
        };
        if let Some(log) = &self.log {
            let sink = log.sink;
            if sink >= plan.log_sinks.len() {
                return Err(format!("there is no log number {sink}"));
            }
            if (log.format == LogFormat::Http && !http) || (log.format == LogFormat::Tcp && http) {
                return Err("the log's format is of the other mode".into());
            }
        }
        if !http && let Some(backend) = self.leads_to().find(|backend| needs_requests(plan, *backend)) {
            let name = plan.backends.get(backend).map_or("", |backend| &backend.name);
            return Err(format!("TCP has no requests, by which the backend `{name}` knows its clients"));
        }
        for (number, rule) in self.rules.iter().enumerate() {
            rule.validate(plan, http).map_err(|problem| format!("rule {}: {problem}", number + 1))?;
        }
        Ok(())
    }
}

/// Whether the clients of a backend are known by something of their requests.
fn needs_requests(plan: &Plan, backend: usize) -> bool {
    match plan.backends.get(backend).and_then(|backend| backend.persist.as_ref()) {
        None => false,
        Some(Persist::Cookie(_)) => true,
        Some(Persist::Table(table)) => {
            plan.stick_tables.get(*table).is_some_and(|table| !table.key.is_of_connections())
        }
    }
}

impl Backend {
    /// One of which nothing else is said: whatever may take time may take `limit`.
    pub fn new(name: impl Into<String>, servers: Vec<Server>, limit: Duration) -> Backend {
        Backend {
            name: name.into(),
            balance: Balance::RoundRobin,
            servers,
            all_backups: false,
            tls: None,
            send_proxy: None,
            persist: None,
            prefer_last_server: false,
            slow_start: None,
            cut_on_down: false,
            check: None,
            agent_check: None,
            retries: 3,
            redispatch: true,
            connect_timeout: limit,
            server_timeout: limit,
            queue_timeout: limit,
            abort_on_close: false,
            http2: false,
            tunnel_timeout: None,
            request_edits: Vec::new(),
            response_edits: Vec::new(),
        }
    }

    /// How this server of it is checked; `None`: it counts as up.
    pub fn check_of(&self, server: &Server) -> Option<&Check> {
        self.check.as_ref().filter(|_| server.check)
    }

    fn validate(&self, plan: &Plan) -> Result<(), String> {
        let mut names = HashSet::new();
        for server in &self.servers {
            if !names.insert(&server.name) {
                return Err(format!("two servers are called `{}`", server.name));
            }
            if server.weight > MAX_WEIGHT {
                return Err(format!("server `{}`: weight {} is over {MAX_WEIGHT}", server.name, server.weight));
            }
        }
        if self.connect_timeout.is_zero()
            || self.server_timeout.is_zero()
            || self.tunnel_timeout == Some(Duration::ZERO)
        {
            return Err("a timeout is zero".into());
        }
        if self.slow_start == Some(Duration::ZERO) {
            return Err("a slow start takes no time".into());
        }
        if self.http2 && self.send_proxy.is_some() {
            return Err(
                "a connection of HTTP/2 carries the requests of many clients, and a PROXY header names one".into()
            );
        }
        self.balance.check(&self.servers, self.all_backups)?;
        check_edits(&self.request_edits, &self.response_edits)?;
        self.persist.iter().try_for_each(|persist| persist.validate(plan, &self.servers))?;
        self.tls.iter().try_for_each(|tls| tls.validate(plan))?;
        self.agent_check.as_ref().map_or(Ok(()), AgentCheck::validate)?;
        self.check.as_ref().map_or(Ok(()), |check| check.validate(plan))
    }
}

impl PlanError {
    pub(crate) fn new(place: String, problem: String) -> PlanError {
        PlanError { place, problem }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn valid() -> Plan {
        let second = Duration::from_secs(1);
        let server = |name: &str| Server::new(name, SocketAddr::from(([192, 0, 2, 1], 80)));
        let probe = Probe::Http(HttpProbe { host: Some("a.test".into()), ..HttpProbe::default() });
        let check = Check { probe, ..Check::default() };
        let backend = |name: &str| Backend {
            check: Some(check.clone()),
            ..Backend::new(name, vec![server("one"), server("two")], second)
        };
        let frontend = |name: &str, port| Frontend {
            name: name.into(),
            binds: vec![Bind { address: SocketAddr::from(([192, 0, 2, 9], port)), tls: None, accept_proxy: None }],
            mode: Mode::Tcp,
            rules: Vec::new(),
            backend: Some(1),
            max_connections: None,
            max_connections_per_source: None,
            client_timeout: second,
            log: None,
        };
        Plan {
            revision: 7,
            frontends: vec![frontend("web", 80), frontend("mail", 25)],
            backends: vec![backend("left"), backend("right")],
            ..Plan::default()
        }
    }

    fn bounded(percent: u16) -> Balance {
        Balance::Hash(HashOf::Source, Hashing::Consistent { bound: Some(percent) })
    }

    /// The check of the second backend.
    fn check(plan: &mut Plan) -> &mut Check {
        plan.backends[1].check.as_mut().expect("it has one")
    }

    /// An HTTP check with one part of it changed.
    fn http(plan: &mut Plan, change: impl FnOnce(&mut HttpProbe)) {
        let Probe::Http(http) = &mut check(plan).probe else { panic!("it asks HTTP") };
        change(http);
    }

    #[test]
    fn what_can_be_run_passes() {
        let harmless: [fn(&mut Plan); 10] = [
            |_| {},
            |plan| *plan = Plan::default(),
            |plan| plan.backends[0].servers.clear(),
            |plan| plan.backends[0].queue_timeout = Duration::ZERO,
            |plan| plan.backends[0].servers[0].weight = MAX_WEIGHT,
            |plan| check(plan).probe = Probe::Tcp,
            |plan| plan.backends[0].balance = bounded(101),
            |plan| {
                plan.backends[0].balance = Balance::First;
                plan.backends[0].servers[0].max_connections = Some(1);
            },
            |plan| {
                plan.backends[0].balance = Balance::First;
                plan.backends[0].servers[1].backup = true;
            },
            |plan| http(plan, |http| (http.method, http.path, http.host) = ("OPTIONS".into(), "*".into(), None)),
        ];
        for (number, change) in harmless.into_iter().enumerate() {
            let mut plan = valid();
            change(&mut plan);
            assert_eq!(plan.validate(), Ok(()), "case {number}");
        }
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_its_place() {
        type Case = (fn(&mut Plan), &'static str);
        let refused: [Case; 34] = [
            (|plan| plan.frontends[1].name = "web".into(), "frontend `web`: the name is taken"),
            (|plan| plan.frontends[1].binds[0].address.set_port(80), "frontend `mail`: 192.0.2.9:80 is bound twice"),
            (|plan| plan.frontends[1].backend = Some(2), "frontend `mail`: there is no backend number 2"),
            (|plan| plan.frontends[0].client_timeout = Duration::ZERO, "frontend `web`: the client timeout is zero"),
            (|plan| plan.backends[1].name = "left".into(), "backend `left`: the name is taken"),
            (|plan| plan.backends[1].servers[1].name = "one".into(), "backend `right`: two servers are called `one`"),
            (
                |plan| plan.backends[0].servers[1].weight = MAX_WEIGHT + 1,
                "backend `left`: server `two`: weight 257 is over 256",
            ),
            (|plan| plan.backends[0].connect_timeout = Duration::ZERO, "backend `left`: a timeout is zero"),
            (|plan| plan.backends[0].server_timeout = Duration::ZERO, "backend `left`: a timeout is zero"),
            (
                |plan| check(plan).interval = Duration::ZERO,
                "backend `right`: check: interval, timeout, rise and fall must be above zero",
            ),
            (
                |plan| check(plan).timeout = Duration::ZERO,
                "backend `right`: check: interval, timeout, rise and fall must be above zero",
            ),
            (
                |plan| check(plan).rise = 0,
                "backend `right`: check: interval, timeout, rise and fall must be above zero",
            ),
            (
                |plan| check(plan).fall = 0,
                "backend `right`: check: interval, timeout, rise and fall must be above zero",
            ),
            (
                |plan| http(plan, |http| http.method = "POST".into()),
                "backend `right`: check: method `POST` is none of GET, HEAD, OPTIONS",
            ),
            (
                |plan| http(plan, |http| http.path = "/a HTTP/1.1\r\nX: y".into()),
                "backend `right`: check: `/a HTTP/1.1\\r\\nX: y` is no path",
            ),
            (|plan| http(plan, |http| http.path.clear()), "backend `right`: check: `` is no path"),
            (
                |plan| http(plan, |http| http.host = Some("a\r\nb".into())),
                "backend `right`: check: `a\\r\\nb` is no host",
            ),
            (
                |plan| http(plan, |http| http.expect.push((300, 200))),
                "backend `right`: check: 300-200 is no range of status codes",
            ),
            (
                |plan| http(plan, |http| http.expect.push((99, 600))),
                "backend `right`: check: 99-600 is no range of status codes",
            ),
            (|plan| plan.backends[0].slow_start = Some(Duration::ZERO), "backend `left`: a slow start takes no time"),
            (
                |plan| plan.backends[0].balance = bounded(100),
                "backend `left`: a bound of 100 % is not from 101 to 1000",
            ),
            (
                |plan| plan.backends[0].balance = Balance::First,
                "backend `left`: balance `first` needs `max_connections` of server `one`: without it `two` is never used",
            ),
            (
                |plan| {
                    plan.backends[0].servers.iter_mut().for_each(|server| server.backup = true);
                    (plan.backends[0].balance, plan.backends[0].all_backups) = (Balance::First, true);
                },
                "backend `left`: balance `first` needs `max_connections` of server `one`: without it `two` is never used",
            ),
            (
                |plan| (plan.backends[0].http2, plan.backends[0].send_proxy) = (true, Some(SendProxy::V1)),
                "backend `left`: a connection of HTTP/2 carries the requests of many clients, and a PROXY header names one",
            ),
            (|plan| http(plan, |http| http.expect.clear()), "backend `right`: check: no status code is expected"),
            (
                |plan| http(plan, |http| http.headers.push(("X".into(), "a\r\nb".into()))),
                "backend `right`: check: the value of `X` has a control character; a header is one line",
            ),
            (
                |plan| http(plan, |http| http.headers.push(("HOST".into(), "a".into()))),
                "backend `right`: check: `HOST` is set by the check itself",
            ),
            (
                |plan| http(plan, |http| http.body = Some(Content::Text(String::new()))),
                "backend `right`: check: every body has an empty text",
            ),
            (
                |plan| {
                    http(plan, |http| (http.method, http.body) = ("HEAD".into(), Some(Content::Text("a".into()))));
                },
                "backend `right`: check: an answer to HEAD has no body",
            ),
            (
                |plan| check(plan).fast_interval = Some(Duration::ZERO),
                "backend `right`: check: interval, timeout, rise and fall must be above zero",
            ),
            (
                |plan| {
                    let window = Duration::from_secs(1);
                    check(plan).observe = Some(Observe { errors: 0, window, on_error: OnError::MarkDown });
                },
                "backend `right`: check: observe: errors and window must be above zero",
            ),
            (
                |plan| check(plan).probe = Probe::Smtp { name: "a b".into() },
                "backend `right`: check: `a b` is no name to say hello with",
            ),
            (
                |plan| {
                    let program = Program { path: "true".into(), args: Vec::new(), user: "nobody".into() };
                    check(plan).probe = Probe::Program(program);
                },
                "backend `right`: check: `true` is no absolute path",
            ),
            (
                |plan| {
                    let second = Duration::from_secs(1);
                    let (address, send) = (None, String::new());
                    plan.backends[1].agent_check =
                        Some(AgentCheck { address, port: 0, send, interval: second, timeout: second });
                },
                "backend `right`: agent check: port, interval and timeout must be above zero",
            ),
        ];
        for (change, message) in refused {
            let mut plan = valid();
            change(&mut plan);
            assert_eq!(plan.validate().map_err(|error| error.to_string()), Err(message.to_owned()));
        }
    }
}
