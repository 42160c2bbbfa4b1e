//! The data plane of `lbnode`: a process without privileges that carries the clients' bytes.

mod alarm;
mod balance;
pub mod beat;
mod calendar;
mod check;
pub mod control;
mod first;
pub mod http;
pub mod limits;
pub mod listener;
mod log;
mod log_pipe;
mod per_source;
pub mod plan;
pub mod plane;
pub mod process;
mod queue;
mod reach;
mod route;
pub mod sandbox;
mod server;
mod session;
pub mod stats;
mod tcp;
pub mod tls;
mod worker;
