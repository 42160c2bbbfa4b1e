//! What is known of a request or a session when it has ended, and how it ended in HAProxy's letters.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

/// Bytes of a request line that are logged, as in HAProxy (`tune.http.logurilen` 1024, with its end).
const MAX_REQUEST_LINE: usize = 1023;

/// What is worth keeping of a request line until its request is logged.
pub(crate) fn request_line(line: &[u8]) -> &[u8] {
    &line[..line.len().min(MAX_REQUEST_LINE)]
}

/// Who came when, where to, and what came of it: what requests and sessions have alike.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way<'a> {
    pub(crate) client: SocketAddr,
    /// Of a request: when its first byte came; without one, when the wait for it began. Of a session: its accept.
    pub(crate) date: SystemTime,
    pub(crate) frontend: &'a str,
    /// The client spoke TLS.
    pub(crate) tls: bool,
    /// `None`: none was chosen; HAProxy's lines show the frontend's name there.
    pub(crate) backend: Option<&'a str>,
    /// `None`: none was chosen.
    pub(crate) server: Option<&'a str>,
    /// Sent to the client, with heads.
    pub(crate) bytes: u64,
    pub(crate) end: Termination,
    pub(crate) load: Load,
    /// Why the client was refused, in the words of the counter.
    pub(crate) why: Option<&'a str>,
}

/// A request and its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HttpRecord<'a> {
    pub(crate) way: Way<'a>,
    pub(crate) timers: HttpTimers,
    /// Of the answer that the client got; `None`: none.
    pub(crate) status: Option<u16>,
    /// The request line as it came, without its end ([`request_line`]); `None`: it never was one.
    pub(crate) request: Option<&'a [u8]>,
}

/// A session of bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TcpRecord<'a> {
    pub(crate) way: Way<'a>,
    pub(crate) timers: TcpTimers,
}

/// How long the parts of a request took; `None`: not reached.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HttpTimers {
    /// TR: from the request's first byte to the end of its head.
    pub(crate) request: Option<Duration>,
    /// Tw: until it had a connection or a place at the server. Of a tarpit: as long as it lasted.
    pub(crate) queue: Option<Duration>,
    /// Tc: until the server had accepted the connection; zero for one that was open already.
    pub(crate) connect: Option<Duration>,
    /// Tr: until the response's head was there.
    pub(crate) response: Option<Duration>,
    /// Ta: from the request's first byte to the end of all.
    pub(crate) active: Duration,
}

/// How long the parts of a session took; `None`: not reached.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TcpTimers {
    /// Tw: until it had a place at a server.
    pub(crate) queue: Option<Duration>,
    /// Tc: until the server had accepted the connection.
    pub(crate) connect: Option<Duration>,
    /// Tt: from accept to the end of all.
    pub(crate) total: Duration,
}

/// How full everything was when the line was written, with the session itself; and what it took to be served.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Load {
    /// Sessions of the process (`actconn`).
    pub(crate) process: u32,
    /// Sessions of the frontend (`feconn`).
    pub(crate) frontend: u32,
    /// Sessions, or requests, at the backend (`beconn`).
    pub(crate) backend: u32,
    /// The same at the server (`srv_conn`).
    pub(crate) server: u32,
    /// Further attempts to connect.
    pub(crate) retries: u32,
    /// The last of them went to another server.
    pub(crate) redispatched: bool,
    /// How many were before it in the server's queue.
    pub(crate) server_queue: u32,
    /// How many were before it in the backend's queue.
    pub(crate) backend_queue: u32,
}

/// HAProxy's termination state: who ended it, and what was going on then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Termination {
    pub(crate) by: Ended,
    pub(crate) during: Phase,
}

/// Who ended a session first, or what did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ended {
    /// `-`: it came to its end.
    #[default]
    Normally,
    /// `C`: the client aborted.
    Client,
    /// `S`: the server aborted, or refused.
    Server,
    /// `P`: we refused or cut it: a rule, a limit, a message that breaks the rules.
    Proxy,
    /// `D`: its server went down, and it was to be cut then.
    Down,
    /// `L`: we answered it ourselves, as we were told to.
    Local,
    /// `c`: the client was silent too long.
    ClientTimeout,
    /// `s`: the server was silent too long, or the wait for one was too long.
    ServerTimeout,
}

/// What was going on when it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// `-`: all was done.
    #[default]
    Done,
    /// `R`: the request was awaited, or looked at.
    Request,
    /// `Q`: it was queued.
    Queue,
    /// `C`: the connection to the server was being made.
    Connect,
    /// `H`: the response's head was awaited, or looked at.
    Headers,
    /// `D`: data was passed on.
    Data,
    /// `L`: the last data was being sent to the client, the server was done.
    Last,
    /// `T`: it was tarpitted.
    Tarpit,
}

impl Termination {
    pub(crate) fn new(by: Ended, during: Phase) -> Termination {
        Termination { by, during }
    }

    /// As HAProxy writes it.
    pub(super) fn letters(self) -> [u8; 2] {
        let by = match self.by {
            Ended::Normally => b'-',
            Ended::Client => b'C',
            Ended::Server => b'S',
            Ended::Proxy => b'P',
            Ended::Down => b'D',
            Ended::Local => b'L',
            Ended::ClientTimeout => b'c',
            Ended::ServerTimeout => b's',
        };
        let during = match self.during {
            Phase::Done => b'-',
            Phase::Request => b'R',
            Phase::Queue => b'Q',
            Phase::Connect => b'C',
            Phase::Headers => b'H',
            Phase::Data => b'D',
            Phase::Last => b'L',
            Phase::Tarpit => b'T',
        };
        [by, during]
    }
}

impl<'a> HttpRecord<'a> {
    /// For a frontend that speaks HTTP and logs sessions.
    pub(super) fn as_tcp(&self) -> TcpRecord<'a> {
        let HttpTimers { queue, connect, active, .. } = self.timers;
        TcpRecord { way: self.way, timers: TcpTimers { queue, connect, total: active } }
    }
}
