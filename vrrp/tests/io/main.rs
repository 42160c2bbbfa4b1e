//! The I/O shell against real kernels: drivers in network namespaces joined by a veth. Who holds the VIP
//! is read from the kernel, and what was said from the wire.
//!
//! Needs root, and the programs `ip`, `nft` and `tshark`; without root each test says so and passes.
#![cfg(feature = "io")]

mod adverts;
mod handoff;
mod heartbeats;
mod lab;
mod leases;
mod pair;
mod paired;
mod settings;
mod wire;
