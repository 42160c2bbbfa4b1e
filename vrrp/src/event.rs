//! All that goes into the election and all that comes out of it.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::RouterConfig;
use crate::heartbeat::{Claim, Lan, Term};
use crate::types::Interval;

/// An advert that passed every receive check and names our VRID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advert {
    /// Where it came from.
    pub source: Ipv4Addr,
    /// 0 releases, 255 is an address owner.
    pub priority: u8,
    /// How often its sender says that it is there.
    pub interval: Interval,
    /// The addresses it stands for.
    pub addresses: Vec<Ipv4Addr>,
}

/// Why a router cannot take part. A router leaves [`State::Fault`] only when none is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// There is no interface of that name (yet).
    InterfaceMissing,
    /// The interface is there, but its sockets could not be opened; they are tried again every second.
    NoSocket,
    /// The interface has no carrier or is administratively down.
    LinkDown,
    /// The link came up, but nothing was heard through it yet (STP or LACP may still block).
    LinkUnheard,
    /// The interface has no address to send adverts from.
    NoSourceAddress,
    /// An operator took the node out of service.
    Maintenance,
    /// The kernel did not acknowledge the lease of a VIP in time.
    LeaseNotRenewed,
    /// Neither the peer nor the gateway is heard, and `on_isolation = "yield"`.
    Isolated,
}

/// What the applier that owns a router's addresses has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    /// The kernel acknowledged that every address is there (also: acknowledged a renewal).
    Present,
    /// None is there any more.
    Absent,
    /// Somebody else removed one while it was wanted. The applier is adding it again.
    Removed,
}

/// What the election is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// A valid advert arrived.
    Advert(Advert),
    /// A reason not to take part appeared (`true`) or went (`false`).
    Fault(Fault, bool),
    /// The proxy core can (`true`) or cannot (`false`) serve clients.
    /// A router that cannot serve never takes over; one that is active offers the VIP, and keeps it if nobody takes it.
    Serving(bool),
    /// The interface's primary address changed.
    Source(Option<Ipv4Addr>),
    /// The address applier reached a state.
    Vip(Applied),
    /// Another host claims one of the VIPs by ARP while we hold it.
    Claimed {
        /// Which.
        address: Ipv4Addr,
        /// By whom.
        mac: [u8; 6],
    },
    /// A new configuration of the same router (same interface and VRID).
    Configure(RouterConfig),
    /// The peer's heartbeat told this, authenticated and newer than what was told before.
    Peer(Claim),
    /// The node can serve, but a fitter one would do better. It moves nothing by itself; the peer is told.
    Weakened(bool),
    /// What is seen of the segment.
    Lan(Lan),
    /// A hand-off to the peer began (`true`): when the peer takes over, keep the addresses until [`Input::LetGo`].
    /// `false`: it ended without.
    Yield(bool),
    /// A hand-off: take the VIP from the peer, which yields it.
    TakeOver,
    /// A hand-off: the peer has the VIP and has announced it; let the addresses go.
    LetGo,
    /// Announce the addresses from the beginning.
    AnnounceAgain,
    /// Give the VIP to the peer at once, if it can take it; connections are reset.
    Resign,
    /// Leave for good: priority 0 if active, addresses off.
    Shutdown,
}

/// RFC 9568 §6.4, with Fault beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not started, or shut down.
    #[default]
    Init,
    /// Listening; takes over when the active router falls silent.
    Backup,
    /// Holds the VIPs.
    Master,
    /// Cannot take part, for the reasons given.
    Fault,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Init => "init",
            State::Backup => "backup",
            State::Master => "master",
            State::Fault => "fault",
        })
    }
}

/// Why a transition happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The first state after start.
    Startup,
    /// Nothing was heard of an active router for a down interval.
    Silence,
    /// The active router released the VIP (priority 0).
    Released,
    /// The active router has a lower priority, and the preemption delay has passed.
    Preempted,
    /// A router of higher priority (or the same and a higher address) advertises.
    Outranked {
        /// It.
        by: Ipv4Addr,
        /// Its priority.
        priority: u8,
    },
    /// We offered the VIP because the proxy core cannot serve, and this router took it.
    TakenOver {
        /// It.
        by: Ipv4Addr,
    },
    /// A reason to be in fault appeared.
    Faulty(Fault),
    /// The proxy core cannot serve.
    NotServing,
    /// The last reason to be in fault went.
    Recovered,
    /// The peer holds the VIP in a higher term.
    Superseded {
        /// It.
        term: Term,
    },
    /// A planned hand-off moved the VIP, to here or from here.
    HandedOver,
    /// Somebody decided that the peer shall have it, without a hand-off.
    Asked,
    /// The peer does not hear our adverts and sees more of the segment than we do.
    SeesLess {
        /// What we see.
        lan: Lan,
        /// What the peer sees.
        peer: Lan,
    },
    /// We were asleep for longer than the others wait before they take over.
    Stalled(Duration),
    /// We are shutting down.
    Shutdown,
}

/// Something an operator should know that is no transition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Note {
    /// Another speaker uses our VRID: another pair, or a third node.
    /// Reported when adverts for the VRID come from more than one source within a down interval.
    DuplicateVrid {
        /// The one heard last.
        source: Ipv4Addr,
        /// The one heard before.
        other: Ipv4Addr,
    },
    /// An advert from our own address: a loop in the network, or a clone of this machine.
    OwnAddress,
    /// Somebody advertises as the owner of the address (priority 255).
    Owner(Ipv4Addr),
    /// Another interval than ours is advertised; it was learned (RFC 9568 §6.1).
    IntervalLearned {
        /// By whom.
        source: Ipv4Addr,
        /// Which.
        interval: Interval,
    },
    /// Other addresses than ours are advertised; the advert was obeyed all the same.
    AddressListMismatch(Ipv4Addr),
    /// Two routers were active; it has ended. `None`: it began before we could tell.
    DualActive {
        /// The other one.
        other: Ipv4Addr,
        /// For how long both held the VIP, as far as seen from here.
        length: Option<Duration>,
    },
    /// We cannot serve and offered the VIP, but nobody took it: we keep it.
    OfferNotTaken,
    /// Another host claims the VIP; we announced it again.
    Claimed {
        /// Which address.
        address: Ipv4Addr,
        /// By whom.
        mac: [u8; 6],
    },
    /// A VIP was removed behind our back; it was added again.
    VipRemoved,
}

/// What the election wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// Send this advert now.
    Advert {
        /// 0 releases.
        priority: u8,
    },
    /// The addresses shall be there, under a lease.
    Hold,
    /// The addresses shall be gone.
    Release {
        /// Somebody else has them already: connections that wait in the accept queues
        /// must be reset before the address goes, or their clients wait for nothing.
        taken: bool,
    },
    /// Send one gratuitous ARP for each address.
    Announce,
    /// The state changed.
    Transition {
        /// Before.
        from: State,
        /// After.
        to: State,
        /// Because of.
        why: Why,
    },
    /// Tell somebody.
    Note(Note),
}

/// The priority that releases a VIP (RFC 9568 §5.2.4).
pub const RELEASE: u8 = 0;
/// The address owner's priority (RFC 9568 §5.2.4).
pub const OWNER: u8 = 255;
