//! How a server is chosen.

use serde::{Deserialize, Serialize};

/// How a server is chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Balance {
    /// In turn, in proportion to the weights, smoothly interleaved.
    RoundRobin,
    /// The same, for servers whose weights don't change while the plan runs.
    StaticRoundRobin,
    /// The one with the fewest sessions in proportion to its weight, over all workers.
    LeastConn,
    /// The first one that has a free place: the others are left to sleep.
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
    /// By a table of all servers that are up: even, but most clients move when one goes.
    Map,
    /// By a ring: when a server goes, only its own clients move.
    Consistent {
        /// No server gets more than so many percent of the mean load, 101 to 1000; `None`: whatever its share is.
        bound: Option<u16>,
    },
}
