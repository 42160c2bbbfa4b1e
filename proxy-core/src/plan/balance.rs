//! How a server is chosen.

use serde::{Deserialize, Serialize};

use super::Backend;

/// How a server is chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Balance {
    /// In turn, in proportion to the weights, smoothly interleaved.
    RoundRobin,
    /// The same, for servers whose weights don't change while the plan runs.
    StaticRoundRobin,
    /// The one with the fewest sessions in proportion to its weight, over all workers.
    LeastConn,
    /// The first one that has a free place: the others are left to sleep. All but the last need `max_connections`.
    First,
    /// Two at random, and of them the one with fewer sessions in proportion to its weight.
    Random,
    /// By a hash of something of the client or its request, so that equals go to the same server.
    Hash(HashOf, Hashing),
}

/// What is hashed. What a client or request hasn't got is balanced in turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HashOf {
    /// The client's address.
    Source,
    /// The path without the query.
    Uri,
    /// The first value of a header.
    Header(String),
    /// The first value of a cookie.
    Cookie(String),
}

/// How a hash becomes a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hashing {
    /// By a table of all servers that are up: even, but many clients move when one goes.
    Map,
    /// When a server goes, only its own clients move.
    Consistent {
        /// No server gets more than so many percent of the mean load, 101 to 1000; `None`: whatever its share is.
        bound: Option<u16>,
    },
}

impl Balance {
    /// Whether the choice depends on the request.
    pub fn is_by_request(&self) -> bool {
        matches!(self, Balance::Hash(HashOf::Uri | HashOf::Header(_) | HashOf::Cookie(_), _))
    }

    /// Whether a weight that grows changes the shares of the servers (HAProxy's dynamic ways).
    pub fn follows_weights(&self) -> bool {
        !matches!(self, Balance::StaticRoundRobin | Balance::First | Balance::Hash(_, Hashing::Map))
    }

    pub(super) fn validate(&self, backend: &Backend) -> Result<(), String> {
        match self {
            Balance::Hash(_, Hashing::Consistent { bound: Some(bound) }) if !(101..=1000).contains(bound) => {
                Err(format!("a bound of {bound} % is not from 101 to 1000"))
            }
            Balance::First => first_needs_limits(backend),
            _ => Ok(()),
        }
    }
}

/// A server without a limit is never full: those after it would never be used.
fn first_needs_limits(backend: &Backend) -> Result<(), String> {
    for backup in [false, true] {
        let serving: Vec<_> =
            backend.servers.iter().filter(|server| server.backup == backup && server.weight > 0).collect();
        let Some((_, before)) = serving.split_last().filter(|_| !backup || backend.all_backups) else { continue };
        if let Some(server) = before.iter().find(|server| server.max_connections.is_none()) {
            return Err(format!(
                "balance `first` needs `max_connections` of server `{}`: without it the servers after it are never used",
                server.name
            ));
        }
    }
    Ok(())
}
