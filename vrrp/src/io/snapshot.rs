//! What the shell tells others: a picture of every router and interface, events, and the routers held.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::realtime::Realtime;
use crate::config::RouterConfig;
use crate::event::{Fault, Note, State, Why};
use crate::heartbeat::{Claim, Lan, Term};

/// Everything as it was when it was published: at once after a change of state, else every 100 ms or so.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// By the order of the configuration.
    pub routers: Vec<RouterSnapshot>,
    /// By name.
    pub interfaces: BTreeMap<String, InterfaceCounters>,
    /// The ways to the peer; empty without one.
    pub paths: Vec<PathSnapshot>,
    /// What the kernel granted to both threads; `None` before they asked.
    pub realtime: Option<Realtime>,
    /// Addresses that a predecessor left behind and that were taken away.
    pub leftovers: u64,
    /// Events that nobody took in time.
    pub events_lost: u64,
}

/// One virtual router.
#[derive(Clone, Debug)]
pub struct RouterSnapshot {
    /// What it was told to be: name, interface, VRID, addresses, priority.
    pub config: RouterConfig,
    /// The state.
    pub state: State,
    /// Why it is in it.
    pub why: Why,
    /// For how long.
    pub age: Duration,
    /// The other speaker that was heard last: address, priority, how long ago.
    pub heard: Option<(Ipv4Addr, u8, Duration)>,
    /// Why it cannot take part.
    pub faults: BTreeSet<Fault>,
    /// Whether the proxy core can serve.
    pub serving: bool,
    /// The VIP is on offer to a fitter router.
    pub offering: bool,
    /// The source of its adverts.
    pub source: Option<Ipv4Addr>,
    /// The hardware address of its interface.
    pub mac: Option<[u8; 6]>,
    /// The highest term that was seen: the holder's, if there is one.
    pub term: Term,
    /// What the peer said last, and how long ago; `None`: it never did.
    pub peer: Option<(Claim, Duration)>,
    /// The peer's word is not older than a down interval.
    pub peer_fresh: bool,
    /// Adverts of another router are heard.
    pub hears: bool,
    /// What is seen of the segment.
    pub lan: Lan,
    /// The peer took the VIP in a hand-off that is under way; the addresses stay until it lets them go.
    pub superseded: bool,
    /// The kernel has the addresses, as far as it has acknowledged.
    pub present: bool,
    /// Held, present and announced.
    pub announced: bool,
    /// Since the start.
    pub counters: RouterCounters,
    /// The last time two routers were active: the other one, and for how long.
    pub dual_active: Option<(Ipv4Addr, Option<Duration>)>,
}

/// RFC 6527 §4 where it has a name for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterCounters {
    /// Transitions to Master.
    pub master_transitions: u64,
    /// Valid adverts, also those that a newer one of the same sender overtook before they were looked at.
    pub adverts_received: u64,
    /// Adverts that the kernel took.
    pub adverts_sent: u64,
    /// Of those received, with priority 0.
    pub priority_zero_received: u64,
    /// Of those sent, with priority 0.
    pub priority_zero_sent: u64,
    /// Adverts that the kernel refused, or that had no interface or source.
    pub send_errors: u64,
    /// Valid adverts whose checksum covers other bytes than ours does.
    pub other_checksum: u64,
    /// Gratuitous ARPs that the kernel took.
    pub announcements: u64,
    /// Periods with two active routers.
    pub dual_active: u64,
}

/// What was heard on one interface and not obeyed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceCounters {
    /// By the name of the reason: see [`crate::packet::DecodeError::name`]; `cut` for packets longer than any advert.
    pub discarded: BTreeMap<&'static str, u64>,
    /// Reads that the kernel answered with an error.
    pub receive_errors: u64,
    /// ARP frames of others.
    pub arp_heard: u64,
}

/// One way to the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathSnapshot {
    /// Our end.
    pub local: SocketAddr,
    /// Its end.
    pub remote: SocketAddr,
    /// How long ago a heartbeat came this way; `None`: never.
    pub heard: Option<Duration>,
    /// Heartbeats that came this way.
    pub received: u64,
    /// Heartbeats that the kernel did not take.
    pub send_errors: u64,
    /// Datagrams that were not obeyed, by [`crate::peer::Refused::name`]; `not_the_peer` for other senders.
    pub refused: BTreeMap<String, u64>,
}

/// Something that happened once.
#[derive(Clone, Debug)]
pub struct Event {
    /// Wall clock, for people.
    pub at: SystemTime,
    /// Monotonic clock, for timelines.
    pub instant: Instant,
    /// The router's name; `None` if it is not about one.
    pub router: Option<String>,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The state changed.
    Transition {
        /// Before.
        from: State,
        /// After.
        to: State,
        /// Because of.
        why: Why,
        /// The highest term that was seen then: the one that begins, for who becomes active.
        term: Term,
    },
    /// A step on the way of a VIP from one node to the other.
    Step {
        /// Which.
        step: Step,
        /// The term that begins, or ends, with it.
        term: Term,
    },
    /// The election noticed something.
    Note(Note),
    /// Addresses of a killed predecessor were taken away (interface, address).
    Leftovers(Vec<(String, Ipv4Addr)>),
    /// The kernel refused to add or delete an address; it is tried again.
    LeaseFailed(String),
}

/// What happens on the way of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The holder has told that it gives the VIP up.
    Resigned,
    /// The addresses are gone from the old holder.
    Removed,
    /// The new holder has said so.
    TookOver,
    /// The addresses are there.
    Added,
    /// The first announcement is out.
    Announced,
}

/// What is said on one path for a process that died.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastWords {
    /// Where from.
    pub local: SocketAddr,
    /// Where to.
    pub remote: SocketAddr,
    /// Signed beforehand.
    pub datagrams: Vec<Vec<u8>>,
}

/// A router whose addresses this node holds, with what is needed to release it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// It.
    pub config: RouterConfig,
    /// What its adverts are sent from.
    pub source: Ipv4Addr,
}
