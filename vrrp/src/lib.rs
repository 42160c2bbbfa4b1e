//! A VRRP speaker: a pure election and a thin shell around it.
#![doc = ""]

pub mod config;
pub mod event;
pub mod packet;
pub mod types;
