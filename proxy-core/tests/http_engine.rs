//! The HTTP engine over sockets: what clients get and servers see when either of them is slow, gone, full or odd, and
//! while plans change.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod data_support;

#[path = "http_engine/answers.rs"]
mod answers;
#[path = "http_engine/bodies.rs"]
mod bodies;
#[path = "http_engine/changes.rs"]
mod changes;
#[path = "http_engine/limits.rs"]
mod limits;
#[path = "http_engine/long.rs"]
mod long;
#[path = "http_engine/pools.rs"]
mod pools;
#[path = "http_engine/private.rs"]
mod private;
#[path = "http_engine/retries.rs"]
mod retries;
#[path = "http_engine/stress.rs"]
mod stress;
#[path = "http_engine/timeouts.rs"]
mod timeouts;
#[path = "http_engine/upgrades.rs"]
mod upgrades;
