//! What the two nodes of a pair say to each other, over one TLS session at a time.
//!
//! ```text
//!   node ──Channel::send──►┌─────────────────────── io ───────────────────────┐
//!   node ◄──Event──────────│ driver ── transport (a task a connection) ── TLS │◄──► the peer
//!                          │   │ ▲                                            │
//!                          │   ▼ │ inputs, outputs      keeper ── pairing's files
//!                          └─ session (pure: when to dial, whom to take, when it is over)
//! ```
//! [`Channel`] carries the node's messages, in order, while a session is up; it promises no more than that: what was
//! sent when a session ended may be lost. Both sides prove the certificates that were pinned when the nodes were
//! paired ([`pairing`]); whatever else comes is refused, counted by [`counters::Reason`] and logged once. The session
//! lends its [`Keys`] to what travels outside of it, and its pings say how the peer's [`clock`] differs from ours.
//!
//! Pure, without socket, clock and random source: [`session`], [`offset`], [`protocol`], [`wire`]. What the channel
//! says and refuses, in full: docs/sync.md.

pub mod counters;
pub mod io;
pub mod offset;
pub mod pairing;
pub mod protocol;
pub mod session;
pub mod time;
pub mod wire;

pub use io::{Channel, Event, Keys, NotSent, RotateError, Settings, SpawnError, Status, WhyNot, clock, clock_at};
