//! The session with the peer: when to dial, whom to take in, when it is over. No socket, no clock, no random
//! source is inside.
//!
//! ```text
//!            dial or accept                hello, and it is the peer
//!   (none) ────────────────► opening ─────────────────────────────────► live ──┐ a newer one: replaced
//!     ▲                         │ refused · no hello in time              │ ◄──┘
//!     └──── back-off, next path ┴──────────── silence · closed ◄──────────┘
//! ```
//! The node whose name sorts first dials, the other one only listens. Many connections may be opening, one is live.
//! Feed it with [`Session::accept`], [`Session::handle`] and [`Session::handle_timeout`], then take effects from
//! [`Session::poll_output`] until there are none, and come back at [`Session::poll_timeout`].

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::counters::{Counters, REASONS, Reason};
use crate::offset::{Exchange, Measured, Offset};
use crate::protocol::{Control, Hello};
use crate::time::Time;

/// How long a dialled address may take to answer.
pub const CONNECT: Duration = Duration::from_secs(1);
/// How long TLS and hello may take.
pub const GREETING: Duration = Duration::from_secs(5);
/// How often a session is pinged.
pub const PING: Duration = Duration::from_millis(500);
/// After which a silent session is over.
pub const SILENCE: Duration = Duration::from_secs(2);
/// The shortest wait before all paths are tried again.
pub const BACK_OFF_MIN: Duration = Duration::from_millis(100);
/// The longest.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(5);
/// How many connections may be opening.
pub const OPENING: usize = 8;

/// How many of them may come from addresses that are not the peer's.
const STRANGERS: usize = 6;
/// How many connections strangers may make at once, and then one each [`STRANGER_EVERY`]: a handshake costs the node
/// about a millisecond.
const STRANGER_BURST: u32 = 32;
const STRANGER_EVERY: Duration = Duration::from_millis(50);
/// A session that lived this long makes the next back-off start anew.
const STABLE: Duration = Duration::from_secs(5);
/// When the same reason is noted again.
const NOTE_AGAIN: Duration = Duration::from_secs(60);

/// Who dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// This node, and it takes no connection.
    Dialler,
    /// The peer, and this node never dials.
    Listener,
}

impl Role {
    /// The node whose name sorts first dials.
    pub fn of(node: &str, peer: &str) -> Role {
        if node < peer { Role::Dialler } else { Role::Listener }
    }
}

/// What a session has to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node: String,
    /// Who the other side has to be.
    pub peer: String,
    /// The pair that both belong to.
    pub pair: String,
    /// Where the peer is; tried in this order.
    pub paths: Vec<SocketAddr>,
    /// Random: where the jitter of the back-off starts.
    pub seed: u64,
}

/// One connection, for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection(u64);

/// Why a connection is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// In one word.
    pub reason: Reason,
    /// In more.
    pub text: String,
}

impl Refusal {
    /// Because of `reason`.
    pub fn new(reason: Reason, text: impl Into<String>) -> Refusal {
        Refusal { reason, text: text.into() }
    }
}

/// What happened. What names a connection that is over is ignored.
#[derive(Clone, Debug)]
pub enum Input {
    /// A dialled connection stands; TLS begins.
    Connected {
        /// Which.
        connection: Connection,
    },
    /// The certificate is accepted, and this was said.
    Greeted {
        /// On which.
        connection: Connection,
        /// What.
        hello: Hello,
    },
    /// It broke, or the other side broke the rules.
    Failed {
        /// Which.
        connection: Connection,
        /// How.
        refusal: Refusal,
    },
    /// A frame came.
    Heard {
        /// On which.
        connection: Connection,
    },
    /// A frame of the channel's own came.
    Control {
        /// On which.
        connection: Connection,
        /// What it says.
        control: Control,
        /// When it was read: it may have waited.
        at: Time,
    },
    /// Nothing is taken from the live connection for now (`true`), because the node does not keep up. Silence does not
    /// count then.
    Paused(bool),
    /// This side ends the session, and a new one is welcome.
    End {
        /// Why.
        why: String,
    },
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Connect to this address.
    Dial {
        /// To be known as.
        connection: Connection,
        /// Where.
        path: SocketAddr,
    },
    /// Say this.
    Send {
        /// On which connection.
        connection: Connection,
        /// What.
        control: Control,
    },
    /// This connection is over.
    Close {
        /// Which.
        connection: Connection,
    },
    /// The session is up, on this connection; the one before is down.
    Up {
        /// Which.
        connection: Connection,
        /// The address at the other end.
        path: SocketAddr,
        /// What the peer said.
        hello: Hello,
    },
    /// The session is over.
    Down {
        /// Why.
        why: String,
    },
    /// Something was refused, and that is worth a log line.
    Refused {
        /// Whom.
        from: SocketAddr,
        /// Why.
        refusal: Refusal,
    },
}

#[derive(Clone, Debug)]
struct Opening {
    path: SocketAddr,
    deadline: Time,
    /// Dialled, and nobody has answered.
    connecting: bool,
    stranger: bool,
}

#[derive(Clone, Debug)]
struct Live {
    connection: Connection,
    path: SocketAddr,
    since: Time,
    heard: Time,
    ping_at: Time,
    offset: Offset,
}

/// When and where the dialler dials next.
#[derive(Clone, Debug)]
struct Dial {
    at: Option<Time>,
    path: usize,
    failures: u32,
    random: u64,
}

/// The session machine.
#[derive(Clone, Debug)]
pub struct Session {
    config: Config,
    role: Role,
    next: u64,
    opening: BTreeMap<Connection, Opening>,
    live: Option<Live>,
    paused: bool,
    dial: Dial,
    /// When the strangers' burst is whole again.
    strangers_until: Time,
    noted: [Option<Time>; REASONS.len()],
    counters: Counters,
    last_refusal: Option<(SocketAddr, Refusal)>,
    outputs: VecDeque<Output>,
}

impl Session {
    /// A session that is not there yet; the dialler wants to be woken at once.
    pub fn new(config: Config, now: Time) -> Session {
        let role = Role::of(&config.node, &config.peer);
        let at = (role == Role::Dialler && !config.paths.is_empty()).then_some(now);
        Session {
            role,
            next: 0,
            opening: BTreeMap::new(),
            live: None,
            paused: false,
            dial: Dial { at, path: 0, failures: 0, random: config.seed },
            strangers_until: now,
            noted: [None; REASONS.len()],
            counters: Counters::default(),
            last_refusal: None,
            outputs: VecDeque::new(),
            config,
        }
    }

    /// Who dials.
    pub fn role(&self) -> Role {
        self.role
    }

    /// What was counted so far. Messages are not counted here.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What was refused last.
    pub fn last_refusal(&self) -> Option<&(SocketAddr, Refusal)> {
        self.last_refusal.as_ref()
    }

    /// The connection that is live, and the address at its other end.
    pub fn live(&self) -> Option<(Connection, SocketAddr)> {
        self.live.as_ref().map(|live| (live.connection, live.path))
    }

    /// What the pings of the live session say.
    pub fn measured(&self) -> Option<Measured> {
        self.live.as_ref()?.offset.best()
    }

    /// A connection came in. `None`: it is to be closed.
    pub fn accept(&mut self, from: SocketAddr, now: Time) -> Option<Connection> {
        self.counters.incoming += 1;
        if self.role == Role::Dialler {
            self.refuse(from, Refusal::new(Reason::Crowded, "this node dials, and takes no connection"), now);
            return None;
        }
        // Somebody who fills all places must not keep out the peer.
        let stranger = !self.config.paths.iter().any(|path| canonical(*path) == canonical(from));
        let strangers = self.opening.values().filter(|opening| opening.stranger).count();
        let text = if self.opening.len() >= OPENING || (stranger && strangers >= STRANGERS) {
            format!("{} connections have not said who they are", self.opening.len())
        } else if stranger && !self.stranger_may_try(now) {
            "too many connections in a short time".to_owned()
        } else {
            let opening = Opening { path: from, deadline: now + GREETING, connecting: false, stranger };
            return Some(self.open(opening));
        };
        self.refuse(from, Refusal::new(Reason::Crowded, text), now);
        None
    }

    /// Takes in what happened.
    pub fn handle(&mut self, input: Input, now: Time) {
        match input {
            Input::Connected { connection } => {
                if let Some(opening) = self.opening.get_mut(&connection)
                    && opening.connecting
                {
                    opening.connecting = false;
                    opening.deadline = now + GREETING;
                }
            }
            Input::Greeted { connection, hello } => self.on_greeted(connection, hello, now),
            Input::Failed { connection, refusal } => self.on_failed(connection, refusal, now),
            Input::Heard { connection } => self.on_heard(connection, now),
            Input::Control { connection, control, at } => self.on_control(connection, control, at, now),
            Input::Paused(paused) => {
                self.paused = paused;
                if let Some(live) = &mut self.live {
                    live.heard = now;
                }
            }
            Input::End { why } => self.end(why, now),
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time) {
        self.end_late_openings(now);
        if let Some(live) = &self.live
            && !self.paused
            && live.heard + SILENCE <= now
        {
            let connection = live.connection;
            let text = format!("nothing was heard for {} s", SILENCE.as_secs());
            self.on_failed(connection, Refusal::new(Reason::Silence, text), now);
        }
        if let Some(live) = &mut self.live
            && live.ping_at <= now
        {
            live.ping_at = now + PING;
            live.offset.sent(now.0);
            let (connection, control) = (live.connection, Control::Ping { sent: now.0 });
            self.outputs.push_back(Output::Send { connection, control });
        }
        if self.dial.at.is_some_and(|at| at <= now) {
            self.dial.at = None;
            self.dial(now);
        }
    }

    /// When [`Session::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Time> {
        let openings = self.opening.values().map(|opening| opening.deadline);
        let silence = self.live.iter().filter(|_| !self.paused).map(|live| live.heard + SILENCE);
        let ping = self.live.iter().map(|live| live.ping_at);
        openings.chain(silence).chain(ping).chain(self.dial.at).min()
    }

    /// The next effect.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// A bucket that fills with each stranger and leaks all the time.
    fn stranger_may_try(&mut self, now: Time) -> bool {
        let until = self.strangers_until.max(now) + STRANGER_EVERY;
        let may = until <= now + STRANGER_EVERY * STRANGER_BURST;
        if may {
            self.strangers_until = until;
        }
        may
    }

    fn open(&mut self, opening: Opening) -> Connection {
        let connection = Connection(self.next);
        self.next += 1;
        self.opening.insert(connection, opening);
        connection
    }

    fn dial(&mut self, now: Time) {
        let Some(&path) = self.config.paths.get(self.dial.path) else { return };
        self.counters.dials += 1;
        let deadline = now + CONNECT;
        let connection = self.open(Opening { path, deadline, connecting: true, stranger: false });
        self.outputs.push_back(Output::Dial { connection, path });
    }

    fn on_greeted(&mut self, connection: Connection, hello: Hello, now: Time) {
        let Some(opening) = self.opening.get(&connection) else { return };
        let path = opening.path;
        if let Some(refusal) = self.stranger(&hello) {
            self.outputs.push_back(Output::Close { connection });
            self.on_failed(connection, refusal, now);
            return;
        }
        self.opening.remove(&connection);
        if let Some(old) = self.live.take() {
            self.counters.replaced += 1;
            self.outputs.push_back(Output::Down { why: format!("replaced by a newer session from {path}") });
            self.outputs.push_back(Output::Close { connection: old.connection });
        }
        self.counters.sessions += 1;
        self.noted = [None; REASONS.len()];
        self.live = Some(Live { connection, path, since: now, heard: now, ping_at: now, offset: Offset::default() });
        self.outputs.push_back(Output::Up { connection, path, hello });
    }

    /// Why somebody with an accepted certificate is still not the peer.
    fn stranger(&self, hello: &Hello) -> Option<Refusal> {
        let Config { peer, pair, .. } = &self.config;
        let text = if hello.node != *peer {
            format!("the node calls itself {:?}, and this one is paired with {peer:?}", hello.node)
        } else if hello.pair != *pair {
            format!("the node is of the pair {:?}, and this one is of {pair:?}", hello.pair)
        } else {
            return None;
        };
        Some(Refusal::new(Reason::Name, text))
    }

    fn on_failed(&mut self, connection: Connection, refusal: Refusal, now: Time) {
        if let Some(opening) = self.opening.remove(&connection) {
            self.refuse(opening.path, refusal, now);
            self.dial_again(now);
        } else if let Some(live) = &self.live
            && live.connection == connection
        {
            let why = refusal.text.clone();
            // A peer that ends a session is not refused anything.
            if refusal.reason != Reason::Closed {
                self.refuse(live.path, refusal, now);
            }
            self.end(why, now);
        }
    }

    fn on_heard(&mut self, connection: Connection, now: Time) {
        if let Some(live) = &mut self.live
            && live.connection == connection
        {
            live.heard = now;
        }
    }

    fn on_control(&mut self, connection: Connection, control: Control, at: Time, now: Time) {
        self.on_heard(connection, now);
        let Some(live) = &mut self.live else { return };
        if live.connection != connection {
            return;
        }
        match control {
            Control::Ping { sent: ping } => {
                let control = Control::Pong { ping, received: at.0, sent: now.0 };
                self.outputs.push_back(Output::Send { connection, control });
            }
            Control::Pong { ping, received, sent } => {
                live.offset.answered(Exchange { ping, received, sent, back: at.0 });
            }
        }
    }

    fn end(&mut self, why: String, now: Time) {
        let Some(live) = self.live.take() else { return };
        self.outputs.push_back(Output::Down { why });
        self.outputs.push_back(Output::Close { connection: live.connection });
        if now.since(live.since) >= STABLE {
            self.dial.failures = 0;
        }
        self.dial.path = 0;
        self.back_off(now);
    }

    fn end_late_openings(&mut self, now: Time) {
        let late = |opening: &Opening| opening.deadline <= now;
        let connections: Vec<Connection> =
            self.opening.iter().filter(|(_, opening)| late(opening)).map(|(connection, _)| *connection).collect();
        for connection in connections {
            let refusal = match self.opening.get(&connection) {
                Some(Opening { connecting: true, .. }) => {
                    Refusal::new(Reason::Unreachable, format!("no answer within {} s", CONNECT.as_secs()))
                }
                _ => Refusal::new(Reason::Silence, format!("no hello within {} s", GREETING.as_secs())),
            };
            self.outputs.push_back(Output::Close { connection });
            self.on_failed(connection, refusal, now);
        }
    }

    /// The next path at once; after the last one all of them again, later.
    fn dial_again(&mut self, now: Time) {
        if self.role == Role::Listener || self.live.is_some() {
            return;
        }
        self.dial.path += 1;
        if self.dial.path < self.config.paths.len() {
            self.dial.at = Some(now);
        } else {
            self.dial.path = 0;
            self.back_off(now);
        }
    }

    fn back_off(&mut self, now: Time) {
        if self.role == Role::Listener {
            return;
        }
        self.dial.failures = self.dial.failures.saturating_add(1);
        let longest = BACK_OFF_MIN.saturating_mul(1 << self.dial.failures.min(16)).min(BACK_OFF_MAX);
        let jitter = (longest - BACK_OFF_MIN).mul_f64(self.random());
        self.dial.at = Some(now + BACK_OFF_MIN + jitter);
    }

    /// From 0 to 1: the next number of a SplitMix64 sequence that the seed started.
    fn random(&mut self) -> f64 {
        self.dial.random = self.dial.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.dial.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as f64 / u64::MAX as f64
    }

    /// Counts it, and has it logged unless the same was logged a short while ago and no session worked since.
    fn refuse(&mut self, from: SocketAddr, refusal: Refusal, now: Time) {
        self.counters.refuse(refusal.reason);
        self.last_refusal = Some((from, refusal.clone()));
        let noted = &mut self.noted[refusal.reason as usize];
        if noted.is_none_or(|at| now.since(at) >= NOTE_AGAIN) {
            *noted = Some(now);
            self.outputs.push_back(Output::Refused { from, refusal });
        }
    }
}

/// An address without its port; an IPv4 one may come in as IPv6.
fn canonical(address: SocketAddr) -> IpAddr {
    address.ip().to_canonical()
}

#[cfg(test)]
mod tests;
