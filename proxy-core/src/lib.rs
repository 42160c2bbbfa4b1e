//! The data plane of `lbnode`: a process without privileges that carries the clients' bytes.

pub mod beat;
pub mod control;
pub mod limits;
pub mod listener;
mod log_pipe;
pub mod plan;
pub mod process;
pub mod sandbox;
pub mod stats;
mod balance;
mod check;
pub mod plane;
mod queue;
mod server;
mod session;
mod tcp;
mod worker;
