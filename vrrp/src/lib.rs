//! A VRRP speaker: a pure election and a thin shell around it.
//!
//! [`heartbeat`] and [`peer`] are what the two nodes of a pair say to each other beside VRRP.
//! [`packet`] reads and writes the message, [`machine`] elects, [`event`] has the words between them and the shell.

mod announcements;
pub mod config;
pub mod event;
pub mod heartbeat;
#[cfg(feature = "io")]
pub mod io;
pub mod machine;
pub mod packet;
pub mod peer;
mod timers;
pub mod types;
