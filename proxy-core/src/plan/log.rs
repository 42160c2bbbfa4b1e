//! Where and how a frontend's sessions and requests are logged.

use serde::{Deserialize, Serialize};

/// The log of a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// Index into [`super::Plan::log_sinks`].
    pub sink: usize,
    /// What a line looks like.
    pub format: LogFormat,
}

/// What a line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogFormat {
    /// HAProxy's `httplog`, a line a request.
    Http,
    /// HAProxy's `tcplog`, a line a session.
    Tcp,
    /// One JSON object a line, for either mode.
    Json,
}

/// Something that takes lines. Its descriptor comes from the agent, who alone can open it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSink {
    /// As the configuration names it: `syslog:127.0.0.1:514`, `syslog:/dev/log`, `stdout`, `file:/var/log/x.log`.
    pub target: String,
    /// The syslog facility's number (RFC 5424 §6.2.1); `None`: plain lines, without a syslog header.
    pub facility: Option<u8>,
}

impl LogSink {
    pub(super) fn validate(&self) -> Result<(), String> {
        match self.facility {
            Some(facility) if facility > 23 => Err(format!("{facility} is no facility")),
            _ => Ok(()),
        }
    }
}
