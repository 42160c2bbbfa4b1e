//! The channel over real TLS on loopback: two nodes that find each other, whatever must not get in, rotation.

mod bench;
mod refusals;
mod rotation;
mod session;
