//! HTTP/2 towards clients (RFC 9113): each of their streams is a connection of its own to the HTTP/1 engine.
//!
//! ```text
//! socket ─► connection (h2, meter) ─► stream: request as text ─► http::connection ─► server
//!                                  ◄─ stream: answer as frames ◄─
//! ```

pub(crate) mod connection;
mod io;
pub(crate) mod meter;
mod request;
mod response;
pub(crate) mod stream;
