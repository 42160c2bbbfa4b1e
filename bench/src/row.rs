//! The rows of the table: what is done, in which unit it is counted, and the goal.

use crate::certificate::Key;
use crate::peer::Peer;

/// Connections that carry load at once.
const CONNECTIONS: usize = 64;
/// Requests a second where latency is measured.
pub(crate) const PACE: u32 = 2000;

/// One row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// Unique.
    pub(crate) name: &'static str,
    /// How the proxies are configured.
    pub(crate) front: Front,
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
        /// By whom.
        load: Load,
        /// What is asked for.
        path: &'static str,
        /// Bytes of an answer's body, where the figure is for a GB of them and not for a request.
        bulk: Option<u64>,
        /// Latency is measured too, at [`PACE`].
        paced: bool,
    },
    /// Handshakes, with one request each that the proxy answers itself.
    Handshakes {
        /// Each with a ticket of the one before.
        resumed: bool,
    },
    /// Connections that wait, after one request each.
    Idle,
    /// Latency of established connections at [`PACE`], without and with so many full handshakes a second.
    Storm(u32),
}

/// Who makes the load of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// wrk.
    Http1 {
        /// Connections at once.
        connections: usize,
    },
    /// h2load.
    Http2 {
        /// Connections at once.
        connections: usize,
        /// Requests under way on each.
        streams: usize,
    },
}

/// How the proxies are configured towards clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Front {
    /// Above TLS or TCP.
    pub(crate) kind: Kind,
    /// None: in the clear.
    pub(crate) tls: Option<Tls>,
}

/// How they speak TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tls {
    /// Of the certificate.
    pub(crate) key: Key,
    /// Clients get tickets, as everywhere by default. Otherwise whatever sessions need to be resumed is turned off.
    pub(crate) tickets: bool,
}

/// What they carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// HTTP.
    Http,
    /// HTTP, in the clear with nothing but HTTP/2.
    Http2,
    /// HTTP, and what is asked of the proxy itself it answers ([`crate::peer::HERE`]).
    Here,
    /// HTTP, with whatever the proxy has for long bodies.
    Splice,
    /// Bytes, with whatever the proxy has for many of them.
    TcpSplice,
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
            Work::Handshakes { .. } => "CPU µs a handshake",
            Work::Idle => "KiB a connection",
            Work::Storm(_) => "µs",
        }
    }
}

/// All of them, in the order of docs/performance.md.
pub(crate) fn all() -> Vec<Row> {
    let mut rows = in_the_clear();
    rows.extend(over_tls());
    rows
}

fn in_the_clear() -> Vec<Row> {
    let front = |kind| Front { kind, tls: None };
    vec![
        Row {
            name: "HTTP/1.1 keep-alive, 100 bytes",
            front: front(Kind::Http),
            work: small("/100"),
            goal: Goal::Ratio(Peer::Haproxy, 0.85),
        },
        Row {
            name: "HTTP/1.1 keep-alive, 16 KiB",
            front: front(Kind::Http),
            work: small("/16k"),
            goal: Goal::Ratio(Peer::Haproxy, 0.80),
        },
        Row {
            name: "HTTP/1.1, bodies of 1 MiB",
            front: front(Kind::Splice),
            work: BULK,
            goal: Goal::Ratio(Peer::Haproxy, 1.0),
        },
        Row {
            name: "TCP, 100-byte answers",
            front: front(Kind::Tcp),
            work: small("/100"),
            goal: Goal::Ratio(Peer::Haproxy, 0.95),
        },
        Row {
            name: "TCP, bodies of 16 MiB",
            front: front(Kind::TcpSplice),
            work: bulk("/16m", 16 << 20),
            goal: Goal::Ratio(Peer::Haproxy, 1.0),
        },
        Row {
            name: "HTTP/2, 100 bytes",
            front: front(Kind::Http2),
            work: HTTP2,
            goal: Goal::Ratio(Peer::Haproxy, 1.0),
        },
        Row {
            name: "memory of idle keep-alive connections",
            front: front(Kind::Http),
            work: Work::Idle,
            goal: Goal::Absolute(1.0),
        },
    ]
}

fn over_tls() -> Vec<Row> {
    let front = |kind| Front { kind, tls: Some(Tls { key: Key::P256, tickets: true }) };
    let full = |key| Front { kind: Kind::Here, tls: Some(Tls { key, tickets: false }) };
    vec![
        Row {
            name: "TLS 1.3 full handshakes, P-256",
            front: full(Key::P256),
            work: Work::Handshakes { resumed: false },
            goal: Goal::Ratio(Peer::Haproxy, 0.75),
        },
        Row {
            name: "TLS 1.3 full handshakes, RSA-2048",
            front: full(Key::Rsa2048),
            work: Work::Handshakes { resumed: false },
            goal: Goal::Ratio(Peer::Haproxy, 0.85),
        },
        Row {
            name: "TLS 1.3 resumed handshakes",
            front: front(Kind::Here),
            work: Work::Handshakes { resumed: true },
            goal: Goal::Ratio(Peer::Haproxy, 0.80),
        },
        Row {
            name: "TLS keep-alive, 100 bytes",
            front: front(Kind::Http),
            work: small("/100"),
            goal: Goal::Ratio(Peer::Haproxy, 1.0),
        },
        Row {
            name: "TLS, bodies of 1 MiB",
            front: front(Kind::Http),
            work: BULK,
            goal: Goal::Ratio(Peer::Haproxy, 1.0),
        },
        Row {
            name: "HTTP/2 over TLS, 100 bytes",
            front: front(Kind::Http),
            work: HTTP2,
            goal: Goal::Ratio(Peer::Haproxy, 1.0),
        },
        Row {
            name: "memory of idle TLS connections",
            front: front(Kind::Http),
            work: Work::Idle,
            goal: Goal::Absolute(12.0),
        },
        Row {
            name: "p99 in a storm of 2,000 TLS handshakes a second",
            front: front(Kind::Here),
            work: Work::Storm(2000),
            goal: Goal::Ratio(Peer::Haproxy, 1.0),
        },
    ]
}

const fn small(path: &'static str) -> Work {
    Work::Requests { load: Load::Http1 { connections: CONNECTIONS }, path, bulk: None, paced: true }
}

const BULK: Work = bulk("/1m", 1 << 20);

const fn bulk(path: &'static str, bytes: u64) -> Work {
    Work::Requests { load: Load::Http1 { connections: 8 }, path, bulk: Some(bytes), paced: false }
}

const HTTP2: Work =
    Work::Requests { load: Load::Http2 { connections: 16, streams: 16 }, path: "/100", bulk: None, paced: false };

/// What a proxy is warmed up with before it is measured otherwise.
pub(crate) const WARM_UP: Load = Load::Http1 { connections: CONNECTIONS };
