//! HTTP/2 (RFC 9113) with clients and with servers: each stream is a connection of its own to the HTTP/1 engine.
//!
//! ```text
//! socket ─► connection (h2, meter) ─► stream: request as text ─► http::connection ─► server
//!                                  ◄─ stream: answer as frames ◄─
//! ```

pub(crate) mod connection;
mod frames;
mod io;
pub(crate) mod meter;
mod request;
mod response;
pub(crate) mod server;
mod server_head;
pub(crate) mod server_stream;
pub(crate) mod stream;
mod text;

use std::io::{Error, ErrorKind};

fn garbled(_: response::Garbled) -> Error {
    Error::new(ErrorKind::InvalidData, "what was to be said is no HTTP/1.1")
}

fn failed(error: h2::Error) -> Error {
    let kind = error.get_io().map_or(ErrorKind::ConnectionReset, Error::kind);
    Error::new(kind, error)
}
