//! HTTP/2 in front, on real sockets: with the client of the `h2` crate where clients are good, and with frames made by
//! hand where they are not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod data_support;

#[path = "http2/bodies.rs"]
mod bodies;
#[path = "http2/client.rs"]
mod client;
#[path = "http2/exchanges.rs"]
mod exchanges;
#[path = "http2/floods.rs"]
mod floods;
#[path = "http2/heads.rs"]
mod heads;
#[path = "http2/life.rs"]
mod life;
#[path = "http2/raw.rs"]
mod raw;
#[path = "http2/sockets.rs"]
mod sockets;
