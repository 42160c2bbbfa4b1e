//! A VRRP speaker: a pure election and a thin shell around it.
//!
//! [`packet`] reads and writes the message, [`machine`] elects, [`event`] has the words between them and the shell.

mod announcements;
pub mod config;
pub mod event;
#[cfg(feature = "io")]
pub mod io;
pub mod machine;
pub mod packet;
mod timers;
pub mod types;
