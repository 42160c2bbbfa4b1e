//! The rows of the table: what is done, in which unit it is counted, and the goal.

use crate::peer::Peer;

/// Connections that carry load at once.
pub(crate) const CONNECTIONS: usize = 64;

/// One row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// Unique.
    pub(crate) name: &'static str,
    /// What is done.
    pub(crate) work: Work,
    /// Ours may be so many times the other's.
    pub(crate) goal: Goal,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Work {
    /// Requests over keep-alive connections, as fast as they are answered.
    Requests {
        /// How the proxies are configured.
        kind: Kind,
        /// What is asked for.
        path: &'static str,
        /// Connections at once.
        connections: usize,
        /// Bytes of an answer's body, where the figure is for a GB of them and not for a request.
        bulk: Option<u64>,
        /// Latency is measured too, at so many requests a second.
        paced: Option<u32>,
    },
    /// Connections that wait, after one request each.
    Idle,
}

/// How the proxies are configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// HTTP.
    Http,
    /// HTTP, with whatever the proxy has for long bodies.
    Splice,
    /// TCP.
    Tcp,
}

/// What is to be reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// At most so many times this one's.
    Ratio(Peer, f64),
    /// At most so much, in the row's unit.
    Absolute(f64),
}

impl Row {
    /// The unit of its figures.
    pub(crate) fn unit(&self) -> &'static str {
        match self.work {
            Work::Requests { bulk: None, .. } => "CPU µs a request",
            Work::Requests { .. } => "CPU ms a GB",
            Work::Idle => "KiB a connection",
        }
    }
}

/// All of them, in the order of docs/performance.md.
pub(crate) fn all() -> Vec<Row> {
    let requests = |kind, path, paced| Work::Requests { kind, path, connections: CONNECTIONS, bulk: None, paced };
    let bulk = Work::Requests { kind: Kind::Splice, path: "/1m", connections: 8, bulk: Some(1 << 20), paced: None };
    vec![
        Row {
            name: "HTTP/1.1 keep-alive, 100 bytes",
            work: requests(Kind::Http, "/100", Some(2000)),
            goal: Goal::Ratio(Peer::Haproxy, 0.85),
        },
        Row {
            name: "HTTP/1.1 keep-alive, 16 KiB",
            work: requests(Kind::Http, "/16k", Some(2000)),
            goal: Goal::Ratio(Peer::Haproxy, 0.80),
        },
        Row { name: "HTTP/1.1, bodies of 1 MiB", work: bulk, goal: Goal::Ratio(Peer::Haproxy, 1.0) },
        Row {
            name: "TCP, 100-byte answers",
            work: requests(Kind::Tcp, "/100", Some(2000)),
            goal: Goal::Ratio(Peer::Haproxy, 0.95),
        },
        Row { name: "memory of idle keep-alive connections", work: Work::Idle, goal: Goal::Absolute(1.0) },
    ]
}
