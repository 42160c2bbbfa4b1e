//! What one virtual router is told: a value of this type that exists can be run.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::types::{Interval, Priority, Vrid};

/// How adverts reach the other speakers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transport {
    /// To 224.0.0.18, TTL 255 (RFC 9568 §5.1.1.2).
    Multicast,
    /// To each of these; adverts from anybody else are refused.
    Unicast(Vec<UnicastPeer>),
}

/// A speaker that is reached by unicast.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnicastPeer {
    /// Where it sends from and listens.
    pub address: Ipv4Addr,
    /// The least TTL that its adverts may arrive with: 255 on one segment, less through routers.
    pub min_ttl: u8,
}

/// Which bytes the IPv4 checksum covers. The field disagrees: see docs/vrrp.md.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Checksum {
    /// The VRRP message alone (RFC 9568 §5.2.8).
    #[default]
    Rfc9568,
    /// With the IPv4 pseudo-header, as keepalived and older FRR send it.
    PseudoHeader,
}

/// One virtual router on one interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterConfig {
    /// The VIP's name in the cluster file: what logs and status call it.
    pub name: String,
    /// The interface it lives on. It need not exist yet.
    pub interface: String,
    /// Virtual router identifier.
    pub vrid: Vrid,
    /// The addresses it stands for, in the order they are advertised; never empty.
    pub addresses: Vec<Ipv4Addr>,
    /// This node's configured priority.
    pub priority: Priority,
    /// How often an active router says so.
    pub advert_interval: Interval,
    /// Take over from a lower priority after having been fit for so long; `None`: never.
    pub preempt: Option<Duration>,
    /// How adverts travel.
    pub transport: Transport,
    /// Source address of adverts; `None`: the interface's primary address.
    pub source: Option<Ipv4Addr>,
    /// What the checksum we send covers; either form is accepted.
    pub checksum: Checksum,
}
