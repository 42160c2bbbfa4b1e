//! A VRRP speaker: a pure election and a thin shell around it.
#![doc = ""]

pub mod config;
pub mod event;
pub mod machine;
pub mod packet;
mod timers;
pub mod types;
