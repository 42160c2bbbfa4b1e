//! TLS on both sides of the data plane, with real sockets: rustls clients in front, rustls servers behind.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod data_support;
mod tls {
    pub(crate) mod ends;
    mod half_close;
    mod handshakes;
    mod rules;
    mod streams;
}
