//! How a server is chosen.

use serde::{Deserialize, Serialize};

use super::Server;

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

    /// Whether servers can be chosen so.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self, servers: &[Server], all_backups: bool) -> Result<(), String> {
        match self {
            Balance::Hash(_, Hashing::Consistent { bound: Some(bound) }) if !(101..=1000).contains(bound) => {
                Err(format!("a bound of {bound} % is not from 101 to 1000"))
            }
            Balance::First => [false, true].into_iter().try_for_each(|backup| {
                let serving = servers.iter().filter(|server| server.weight > 0 && server.backup == backup);
                first_needs_limits(serving.take(if backup && !all_backups { 1 } else { usize::MAX }))
            }),
            _ => Ok(()),
        }
    }
}

/// A server without a limit is never full: those after it would never be used.
fn first_needs_limits<'s>(mut servers: impl Iterator<Item = &'s Server>) -> Result<(), String> {
    let Some(endless) = servers.find(|server| server.max_connections.is_none()) else { return Ok(()) };
    match servers.next() {
        None => Ok(()),
        Some(next) => Err(format!(
            "balance `first` needs `max_connections` of server `{}`: without it `{}` is never used",
            endless.name, next.name
        )),
    }
}
