//! How the servers of a backend are checked.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Plan, ServerTls};

/// How a backend's servers are checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What is asked.
    pub probe: Probe,
    /// `None`: in the clear, whatever the backend's servers are otherwise spoken to in.
    pub tls: Option<ServerTls>,
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
    /// Every check that ends otherwise than the one before is logged, not only a server's going up or down.
    pub log: bool,
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

impl Check {
    pub(super) fn validate(&self, plan: &Plan) -> Result<(), String> {
        if self.interval.is_zero() || self.timeout.is_zero() || self.rise == 0 || self.fall == 0 {
            return Err("check: interval, timeout, rise and fall must be above zero".into());
        }
        self.tls.iter().try_for_each(|tls| tls.validate(plan)).map_err(|problem| format!("check: {problem}"))?;
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
