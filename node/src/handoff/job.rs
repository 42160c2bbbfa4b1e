//! What a hand-off asks of the kernel, one job at a time, and what comes of each.
//!
//! The one side names the jobs (pure), the other runs them ([`super::kernel`]); this is all that they share.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A TCP connection of a client to the VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Flow {
    /// The client's address.
    pub client: IpAddr,
    /// The client's port.
    pub client_port: u16,
    /// The port at the VIP.
    pub port: u16,
}

/// Where a node is on the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Its own address there, never the VIP.
    pub address: IpAddr,
    /// The MAC of its interface.
    pub mac: [u8; 6],
}

/// Where the leaver waits for the taker's probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeTarget {
    /// The UDP port at the VIP.
    pub port: u16,
    /// What the probe must carry.
    pub nonce: [u8; 16],
}

/// The VIP of a hand-off, as both sides know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// The router's name in the cluster file.
    pub name: String,
    /// The router.
    pub vrid: u8,
    /// The VIP.
    pub address: IpAddr,
    /// The interface that carries it on this node.
    pub interface: String,
    /// This node's address and MAC on that interface.
    pub own: Neighbour,
}

/// Something to be done to this node's kernel. Per VIP they run in order, one at a time, and each ends in one
/// [`Outcome`]. Only [`Job::RemoveLeaver`] may be asked for while [`Job::AwaitProbe`] still waits: it ends that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// Leaver: the VIP stays local when its address goes, ARP requests of this node no longer carry it, and a
    /// receiver waits for the probe. Ends in [`Outcome::Prepared`].
    Prepare,
    /// Leaver: waits for the probe, ten seconds at most. Ends in [`Outcome::ProbeSeen`].
    AwaitProbe,
    /// Taker: the rules while it moves. Nothing is taken yet: they act on what arrives here for the VIP.
    Install {
        /// Whose the older connections are.
        leaver: Neighbour,
        /// Those connections.
        old: Vec<Flow>,
    },
    /// Taker: sends one probe the way that the older connections' packets will take. It doesn't wait: whether it
    /// arrived, the leaver says. Ends in [`Outcome::Done`]; to try again is another job.
    Probe {
        /// Where to.
        target: ProbeTarget,
        /// From whom it seems to come; `None`: the first of the older connections' clients, else this node.
        source: Option<IpAddr>,
    },
    /// Leaver: never speaks for the VIP in ARP again, neither asks nor answers.
    Mute,
    /// Leaver: the live connections of the VIP. Ends in [`Outcome::Flows`].
    Dump,
    /// Taker: these are the older connections for good; everything else is this node's.
    Settle {
        /// The leaver's last dump.
        old: Vec<Flow>,
    },
    /// Leaver: resets the connections of the VIP that still live here. Ends in [`Outcome::Reset`].
    Reset,
    /// Taker: its rules go; that there are none is fine.
    RemoveTaker,
    /// Leaver: its rules, its route and its probe receiver go; that there are none is fine.
    RemoveLeaver,
    /// Leaver: how many connections of the VIP live here. Ends in [`Outcome::Count`].
    Count,
}

/// What came of a [`Job`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// The leaver is ready.
    Prepared {
        /// Its live connections of the VIP.
        flows: Vec<Flow>,
        /// Where the probe has to go.
        probe: ProbeTarget,
    },
    /// The probe arrived.
    ProbeSeen,
    /// The live connections of the VIP.
    Flows(Vec<Flow>),
    /// How many connections of the VIP live here.
    Count(u64),
    /// How many connections of the VIP were reset.
    Reset(u64),
    /// It was not done: what was tried, why it failed, what to do.
    Failed(String),
}
