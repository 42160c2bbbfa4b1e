//! How the servers of a backend are checked: by asking them, by looking on, and by what they say themselves.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rule::HeaderEdit;
use super::text::{Side, check_expression};
use super::{Plan, SendProxy, ServerTls};

/// How a backend's servers are checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What is asked.
    pub probe: Probe,
    /// `None`: in the clear, whatever the backend's servers are otherwise spoken to in.
    pub tls: Option<ServerTls>,
    /// It begins with a PROXY header of its own.
    pub send_proxy: Option<SendProxy>,
    /// Another address than the server's own.
    pub address: Option<IpAddr>,
    /// Another port than the server's own.
    pub port: Option<u16>,
    /// From the end of one check to the start of the next.
    pub interval: Duration,
    /// The same while results speak against the server's state; `None`: `interval`.
    pub fast_interval: Option<Duration>,
    /// The same while it is down; `None`: `interval`.
    pub down_interval: Option<Duration>,
    /// For the whole check.
    pub timeout: Duration,
    /// Passed checks in a row that bring a server up.
    pub rise: u32,
    /// Failed checks in a row that take it down.
    pub fall: u32,
    /// What clients meet with counts too.
    pub observe: Option<Observe>,
    /// Every check that ends otherwise than the one before is logged, not only a server's going up or down.
    pub log: bool,
}

/// What a check asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probe {
    /// A connection that opens; with TLS, a handshake that succeeds.
    Tcp,
    /// An HTTP/1.1 answer with an expected status.
    Http(HttpProbe),
    /// A mail server that greets, knows us and says goodbye (RFC 5321).
    Smtp {
        /// Who we are: the name after EHLO, or HELO.
        name: String,
    },
    /// A mailbox server that greets and says goodbye (RFC 9051).
    Imap,
    /// A program that the agent runs; it passes if it ends with 0.
    Program(Program),
}

/// A request and what is expected of its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpProbe {
    /// GET, HEAD or OPTIONS.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Host header; `None`: the server's name, or else its address.
    pub host: Option<String>,
    /// Further headers, in this order.
    pub headers: Vec<(String, String)>,
    /// Inclusive ranges of good status codes.
    pub expect: Vec<(u16, u16)>,
    /// What the answer's body must have; `None`: it isn't read.
    pub body: Option<Content>,
}

/// What a body has in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// These bytes.
    Text(String),
    /// A match of this expression ([`super::regex()`]).
    Regex(String),
}

/// A program and what it is started with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Absolute.
    pub path: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Who it runs as.
    pub user: String,
}

/// Clients' experience with a server as a check of it (HAProxy's `observe`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observe {
    /// So many errors in a row…
    pub errors: u32,
    /// …within so long…
    pub window: Duration,
    /// …do this.
    pub on_error: OnError,
}

/// What errors that clients met with do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnError {
    /// The next check comes after the fast interval.
    FastInterval,
    /// They count as one failed check.
    #[default]
    FailCheck,
    /// They count as all failed checks but one: one more takes the server down.
    SuddenDeath,
    /// The server is down.
    MarkDown,
}

/// A server says itself what it can take (HAProxy's `agent-check`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentCheck {
    /// Another address than the server's own.
    pub address: Option<IpAddr>,
    /// Where it says so.
    pub port: u16,
    /// What it is sent first; may be empty.
    pub send: String,
    /// From the end of one question to the start of the next.
    pub interval: Duration,
    /// For the whole exchange.
    pub timeout: Duration,
}

impl Default for Check {
    /// Whether it takes connections, every two seconds.
    fn default() -> Check {
        let two_seconds = Duration::from_secs(2);
        Check {
            probe: Probe::Tcp,
            tls: None,
            send_proxy: None,
            address: None,
            port: None,
            interval: two_seconds,
            fast_interval: None,
            down_interval: None,
            timeout: two_seconds,
            rise: 2,
            fall: 3,
            observe: None,
            log: false,
        }
    }
}

impl Default for HttpProbe {
    /// `GET /`, and a status that is no error.
    fn default() -> HttpProbe {
        HttpProbe {
            method: "GET".into(),
            path: "/".into(),
            host: None,
            headers: Vec::new(),
            expect: vec![(200, 399)],
            body: None,
        }
    }
}

impl Check {
    pub(super) fn validate(&self, plan: &Plan) -> Result<(), String> {
        let pauses = [Some(self.interval), self.fast_interval, self.down_interval, Some(self.timeout)];
        if pauses.into_iter().flatten().any(|pause| pause.is_zero()) || self.rise == 0 || self.fall == 0 {
            return Err("check: interval, timeout, rise and fall must be above zero".into());
        }
        if self.observe.is_some_and(|observe| observe.errors == 0 || observe.window.is_zero()) {
            return Err("check: observe: errors and window must be above zero".into());
        }
        let wrong = |problem| format!("check: {problem}");
        self.tls.iter().try_for_each(|tls| tls.validate(plan)).map_err(wrong)?;
        self.probe.validate().map_err(wrong)
    }
}

/// Visible ASCII only: nothing that may end a line or a word of it.
fn plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

impl Probe {
    fn validate(&self) -> Result<(), String> {
        match self {
            Probe::Tcp | Probe::Imap => Ok(()),
            Probe::Smtp { name } if plain(name) => Ok(()),
            Probe::Smtp { name } => Err(format!("`{}` is no name to say hello with", name.escape_debug())),
            Probe::Http(http) => http.validate(),
            Probe::Program(program) => program.validate(),
        }
    }
}

impl HttpProbe {
    fn validate(&self) -> Result<(), String> {
        let HttpProbe { method, path, host, headers, expect, body } = self;
        if !["GET", "HEAD", "OPTIONS"].contains(&method.as_str()) {
            return Err(format!("method `{method}` is none of GET, HEAD, OPTIONS"));
        }
        if !plain(path) || !(path.starts_with('/') || path == "*") {
            return Err(format!("`{}` is no path", path.escape_debug()));
        }
        if let Some(host) = host.as_ref().filter(|host| !plain(host)) {
            return Err(format!("`{}` is no host", host.escape_debug()));
        }
        for (name, value) in headers {
            check_probe_header(name, value)?;
        }
        match expect.iter().find(|(low, high)| low > high || *low < 100 || *high > 599) {
            Some((low, high)) => return Err(format!("{low}-{high} is no range of status codes")),
            None if expect.is_empty() => return Err("no status code is expected".into()),
            None => {}
        }
        match body {
            Some(_) if method == "HEAD" => Err("an answer to HEAD has no body".into()),
            Some(Content::Text(text)) if text.is_empty() => Err("every body has an empty text".into()),
            Some(Content::Regex(pattern)) => check_expression(pattern).map_err(|error| error.to_string()),
            _ => Ok(()),
        }
    }
}

/// Whether a check may send this header.
///
/// # Errors
/// It is malformed, or one that the check has of its own.
pub fn check_probe_header(name: &str, value: &str) -> Result<(), String> {
    let ours = ["host", "connection", "content-length", "transfer-encoding"];
    if ours.iter().any(|own| name.eq_ignore_ascii_case(own)) {
        return Err(format!("`{name}` is set by the check itself"));
    }
    HeaderEdit::Add(name.to_owned(), value.to_owned()).check(Side::Request).map_err(|error| error.to_string())
}

impl Program {
    fn validate(&self) -> Result<(), String> {
        if !self.path.starts_with('/') {
            return Err(format!("`{}` is no absolute path", self.path.escape_debug()));
        }
        if [&self.path, &self.user].into_iter().chain(&self.args).any(|word| word.contains('\0')) {
            return Err("a program's words have no NUL in them".into());
        }
        Ok(())
    }
}

impl AgentCheck {
    pub(super) fn validate(&self) -> Result<(), String> {
        if self.port == 0 || self.interval.is_zero() || self.timeout.is_zero() {
            return Err("agent check: port, interval and timeout must be above zero".into());
        }
        Ok(())
    }
}
