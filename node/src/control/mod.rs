//! The control socket: how the command line, and whoever else may, talks to the agent of its own machine.
//!
//! A unix stream socket; each way one JSON object a line: a [`Request`] in, a [`Response`] out, as often as wanted.
//! Who may connect may read (the socket's owner, group and mode say who); who may change is decided by SO_PEERCRED.

mod client;
mod server;

use serde::{Deserialize, Serialize};

use crate::config::Diagnostic;
use crate::status::Status;

pub use client::{CallError, call};
pub use server::{BindError, Call, QUEUE, Server};

/// The longest line in bytes that either side reads; a longer request is refused and its connection closed.
pub const MAX_LINE: usize = 16 << 20;

/// What can be asked of an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// What goes on.
    Status,
    /// The running configuration.
    ConfigShow,
    /// Run this configuration from now on.
    ConfigApply {
        /// Name of the file, for messages.
        file: String,
        /// The cluster file's text.
        text: String,
        /// Check it against this node and say what would be done, and do nothing.
        dry_run: bool,
    },
    /// Take the node out of service, or put it back.
    Maintenance {
        /// Out of service.
        on: bool,
    },
    /// Give this node a new identity on the sync channel.
    PairRotate,
}

impl Request {
    /// Whether it changes something, and so needs root.
    pub fn changes(&self) -> bool {
        match self {
            Request::Status | Request::ConfigShow => false,
            Request::ConfigApply { .. } | Request::Maintenance { .. } | Request::PairRotate => true,
        }
    }

    /// As the command line calls it.
    pub fn name(&self) -> &'static str {
        match self {
            Request::Status => "status",
            Request::ConfigShow => "config show",
            Request::ConfigApply { .. } => "config apply",
            Request::Maintenance { .. } => "maintenance",
            Request::PairRotate => "pair rotate",
        }
    }
}

/// What an agent answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "snake_case")]
pub enum Response {
    /// To [`Request::Status`].
    Status {
        /// What goes on.
        status: Box<Status>,
    },
    /// To [`Request::ConfigShow`].
    Config {
        /// Number of the running revision.
        revision: u64,
        /// SHA-256 of its text, in hex.
        digest: String,
        /// The cluster file as it was applied.
        text: String,
    },
    /// To [`Request::ConfigApply`]: it runs, or would.
    Applied {
        /// Number of the revision that runs, or would.
        revision: u64,
        /// SHA-256 of its text, in hex.
        digest: String,
        /// False: the same text was running already, and nothing was done.
        changed: bool,
        /// Nothing was done because that was asked for.
        dry_run: bool,
    },
    /// To [`Request::ConfigApply`]: the file is wrong, and nothing was changed.
    Invalid {
        /// Every mistake.
        errors: Vec<Diagnostic>,
    },
    /// To [`Request::Maintenance`].
    Maintenance {
        /// Out of service now.
        on: bool,
        /// False: it was so already.
        changed: bool,
    },
    /// To [`Request::PairRotate`]: the peer accepts the new identity, and this node uses it.
    PairRotated {
        /// SHA-256 of the new certificate, in hex.
        pin: String,
    },
    /// The caller may not ask for that.
    NotPermitted {
        /// Who the caller is and what is needed.
        message: String,
    },
    /// It could not be done; nothing was changed.
    Failed {
        /// What was tried and why it failed.
        message: String,
    },
    /// It cannot be done now; asking again later makes sense.
    TryAgain {
        /// Why.
        message: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_read_as_the_documentation_has_them() {
        let table = [
            (r#"{"request":"status"}"#, Request::Status),
            (r#"{"request":"config_show"}"#, Request::ConfigShow),
            (r#"{"request":"maintenance","on":true}"#, Request::Maintenance { on: true }),
            (r#"{"request":"pair_rotate"}"#, Request::PairRotate),
            (
                r#"{"request":"config_apply","file":"c.toml","text":"x","dry_run":true}"#,
                Request::ConfigApply { file: "c.toml".into(), text: "x".into(), dry_run: true },
            ),
        ];
        for (line, request) in table {
            assert_eq!(serde_json::to_string(&request).unwrap(), line);
            assert_eq!(serde_json::from_str::<Request>(line).unwrap(), request);
        }
        assert!(serde_json::from_str::<Request>(r#"{"request":"maintenance","on":true,"force":1}"#).is_err());
    }
}
