//! Real pairs in network namespaces, one pair a test.
//!
//! Tests run beside each other, each in its own namespaces; those that measure time take turns
//! ([`fixture::take_turn`]). Without root they say so and pass: namespaces can't be made then.

mod agent;
mod config;
mod core;
mod dying;
mod election;
mod events;
mod handoff;
mod lab;
mod link;
mod lists;
mod load;
mod preemption;
mod refusals;
mod scenario;
mod split;
mod sync;
mod tickle;
mod tls;
mod vip;
mod wire;

use tests::fixture;
