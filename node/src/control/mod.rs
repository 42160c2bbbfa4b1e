//! The control socket: how the command line, and whoever else may, talks to the agent of its own machine.
//!
//! A unix stream socket; each way one JSON object a line: a [`Request`] in, a [`Response`] out, as often as wanted.
//! Only [`Request::Events`] has many responses.
//! Who may connect may read (the socket's owner, group and mode say who); who may change is decided by SO_PEERCRED.

mod client;
mod server;
mod stream;

use ipnetwork::IpNetwork;
use proxy_core::stats::StickEntry;
use serde::{Deserialize, Serialize};

use crate::config::Diagnostic;
use crate::events::Event;
use crate::status::Status;

pub use client::{CallError, call, stream};
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
    /// Move VIPs to the other node on purpose, clients and all.
    Failover {
        /// Which VIP; `None`: all that would move.
        #[serde(default)]
        vip: Option<String>,
        /// Name of the node that they shall be at; `None`: each goes to the other node than now.
        #[serde(default)]
        to: Option<String>,
        /// Even if that node is not ready to serve them as well.
        #[serde(default)]
        force: bool,
    },
    /// What happened: any number of [`Response::Event`], then [`Response::EventsEnd`].
    Events {
        /// Only those with higher numbers; `None`: all in memory.
        #[serde(default)]
        after: Option<u64>,
        /// Go on with each event as it happens. The caller ends it by hanging up; whatever it says ends it too.
        #[serde(default)]
        follow: bool,
    },
    /// Give this node a new identity on the sync channel.
    PairRotate,
    /// The lists that there are, or all networks of one.
    ListShow {
        /// Which; `None`: how long each of them is.
        #[serde(default)]
        list: Option<String>,
    },
    /// Change a list on this node from the next request on: all of this or nothing.
    ListChange {
        /// Its name in the cluster file.
        list: String,
        /// Networks that shall be in it.
        #[serde(default)]
        add: Vec<String>,
        /// Networks that shall not.
        #[serde(default)]
        remove: Vec<String>,
    },
    /// The entries of a stick table that were used last, at most 1000, or one of them.
    TableShow {
        /// Its name in the cluster file.
        table: String,
        /// The key of the one.
        #[serde(default)]
        key: Option<String>,
    },
    /// Forget the entries of a stick table, or one of them.
    TableClear {
        /// Its name in the cluster file.
        table: String,
        /// The key of the one.
        #[serde(default)]
        key: Option<String>,
    },
}

impl Request {
    /// Whether it changes something, and so needs root.
    pub fn changes(&self) -> bool {
        match self {
            Request::Status
            | Request::ConfigShow
            | Request::Events { .. }
            | Request::ListShow { .. }
            | Request::TableShow { .. } => false,
            Request::ConfigApply { .. }
            | Request::Maintenance { .. }
            | Request::Failover { .. }
            | Request::PairRotate
            | Request::ListChange { .. }
            | Request::TableClear { .. } => true,
        }
    }

    /// As the command line calls it.
    pub fn name(&self) -> &'static str {
        match self {
            Request::Status => "status",
            Request::ConfigShow => "config show",
            Request::ConfigApply { .. } => "config apply",
            Request::Maintenance { .. } => "maintenance",
            Request::Failover { .. } => "failover",
            Request::Events { .. } => "events",
            Request::PairRotate => "pair rotate",
            Request::ListShow { .. } => "list show",
            Request::ListChange { add, remove, .. } if add.is_empty() && !remove.is_empty() => "list remove",
            Request::ListChange { .. } => "list add",
            Request::TableShow { .. } => "table show",
            Request::TableClear { .. } => "table clear",
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
        /// What is no mistake and will hurt, each with its place; absent: nothing.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        warnings: Vec<String>,
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
    /// To [`Request::Failover`]: what became of each VIP that was meant.
    Failover {
        /// In the order of their names.
        vips: Vec<Moved>,
    },
    /// To [`Request::Events`]: one of them. A number that was there before means that this event was amended.
    Event {
        /// What happened.
        event: Box<Event>,
    },
    /// To [`Request::Events`]: these were all so far.
    EventsEnd {
        /// How many are in memory only, because the disk did not take them.
        unwritten: u64,
    },
    /// To [`Request::Events`]: so many were left out here, because the caller did not read them in time.
    EventsMissed {
        /// How many.
        count: u64,
    },
    /// To [`Request::PairRotate`]: the peer accepts the new identity, and this node uses it.
    PairRotated {
        /// SHA-256 of the new certificate, in hex.
        pin: String,
    },
    /// To [`Request::ListShow`] without a name.
    Lists {
        /// In the order of the file.
        lists: Vec<ListLength>,
    },
    /// To [`Request::ListShow`] with a name.
    List {
        /// Its name.
        list: String,
        /// In the cluster file, and in the list.
        from_file: Vec<IpNetwork>,
        /// Added at run time.
        added: Vec<IpNetwork>,
        /// In the cluster file, and taken out at run time.
        removed: Vec<IpNetwork>,
    },
    /// To [`Request::ListChange`]: it is so, and clients are measured against it.
    ListChanged {
        /// Its name.
        list: String,
        /// Were not in the list before.
        added: Vec<IpNetwork>,
        /// Were in the list before.
        removed: Vec<IpNetwork>,
        /// Were as they were wanted already.
        unchanged: Vec<IpNetwork>,
    },
    /// To [`Request::TableShow`].
    Table {
        /// Its name.
        table: String,
        /// The last used first.
        entries: Vec<StickEntry>,
    },
    /// To [`Request::TableClear`].
    TableCleared {
        /// Its name.
        table: String,
        /// How many entries were forgotten.
        cleared: u64,
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

/// How many networks a list has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListLength {
    /// Its name.
    pub list: String,
    /// In the cluster file, and in the list.
    pub from_file: usize,
    /// Added at run time.
    pub added: usize,
    /// In the cluster file, and taken out at run time.
    pub removed: usize,
}

/// What became of a VIP that was to move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// Which VIP.
    pub vip: String,
    /// Name of the node that held it.
    pub from: String,
    /// Name of the node that it was to go to; the same as `from`: it was there already.
    pub to: String,
    /// Whether it is there now.
    pub moved: bool,
    /// What was done, or why it was not.
    pub text: String,
    /// From the request to the announcement by its new holder, in milliseconds; absent: it did not move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<f64>,
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
            (
                r#"{"request":"failover","vip":"mail","to":null,"force":false}"#,
                Request::Failover { vip: Some("mail".into()), to: None, force: false },
            ),
            (r#"{"request":"events","after":7,"follow":true}"#, Request::Events { after: Some(7), follow: true }),
            (r#"{"request":"list_show","list":"admins"}"#, Request::ListShow { list: Some("admins".into()) }),
            (
                r#"{"request":"list_change","list":"admins","add":["10.0.0.0/8"],"remove":[]}"#,
                Request::ListChange { list: "admins".into(), add: vec!["10.0.0.0/8".into()], remove: vec![] },
            ),
        ];
        for (line, request) in table {
            assert_eq!(serde_json::to_string(&request).unwrap(), line);
            assert_eq!(serde_json::from_str::<Request>(line).unwrap(), request);
        }
        let read = |line| serde_json::from_str::<Request>(line);
        assert!(read(r#"{"request":"maintenance","on":true,"force":1}"#).is_err());
        assert_eq!(read(r#"{"request":"events"}"#).unwrap(), Request::Events { after: None, follow: false });
        let failover = Request::Failover { vip: None, to: None, force: false };
        assert_eq!(read(r#"{"request":"failover"}"#).unwrap(), failover);
    }
}
