//! What the two nodes of a pair tell each other beside VRRP: who holds which VIP, in which term, and how fit each is.
//!
//! A heartbeat tells a *state*, not a command: to resign is to say "resigned" until the peer is heard to hold the VIP, to
//! take over is to say "held" with a higher term. So any later heartbeat makes up for a lost one (docs/adr/0010).

use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Who holds a VIP is decided by the higher term; each takeover uses the highest that was seen, and one.
pub type Term = u64;

/// What a node says about one VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The first of the VIP's addresses, and its VRID: by them the other node knows which one is meant.
    pub address: Ipv4Addr,
    /// See [`Claim::address`].
    pub vrid: u8,
    /// Held: the term it is held in. Else the highest that was seen.
    pub term: Term,
    /// Whether it is held.
    pub standing: Standing,
    /// Whether the node could serve.
    pub fitness: Fitness,
    /// Decides between equal terms, before the source address.
    pub priority: u8,
    /// What this node's adverts for the VIP come from.
    pub source: Option<Ipv4Addr>,
    /// A standby: the other node's adverts are heard. A node that holds the VIP has none to hear, and says so too.
    pub hears: bool,
    /// What the node sees of the VIP's segment.
    pub lan: Lan,
}

/// How a node stands to a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It does not have it.
    Free,
    /// It has it.
    Held {
        /// Milliseconds since the kernel last acknowledged the lease.
        renewed: u32,
        /// Milliseconds since the takeover.
        age: u32,
    },
    /// It had it and gave it up for the other one to take, at once.
    Resigned,
}

impl Standing {
    /// It has the VIP, and its lease is alive: nobody else may take it.
    pub fn is_alive(self) -> bool {
        matches!(self, Standing::Held { renewed, .. } if Duration::from_millis(renewed.into()) <= crate::machine::LEASE)
    }

    /// It has the VIP, or believes so.
    pub fn is_held(self) -> bool {
        matches!(self, Standing::Held { .. })
    }
}

/// What a node is worth for a VIP; the later is the fitter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fitness {
    /// It cannot serve.
    #[default]
    Cannot,
    /// It can, but a fitter one would do better.
    Weakened,
    /// It can.
    Fit,
}

/// What a node sees of a segment; the later is the more. Until there is a reason to doubt a segment it counts as whole.
///
/// Coarse on purpose: two nodes that see about the same must not move a VIP for one host more or less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lan {
    /// No carrier.
    Down,
    /// Nobody else was heard lately.
    Silent,
    /// Hosts other than the peer were heard lately.
    Hosts,
    /// The default gateway was heard lately, or nobody asked.
    #[default]
    Gateway,
}
