//! `lbnode`, as a library: the agent, its supervisor and guard, the control socket, the command line.

pub mod agent;
pub mod bridge;
mod causes;
pub mod cli;
pub mod config;
pub mod control;
pub mod events;
pub mod failover;
pub mod guard;
pub mod handoff;
pub mod lab;
pub mod listeners;
pub mod lists;
pub mod log;
pub mod logs;
mod netlink;
pub mod peer;
mod pidfd;
pub mod privileges;
pub mod records;
pub mod serve;
pub mod sock_diag;
pub mod status;
pub mod store;
pub mod supervisor;
mod systemd;
pub mod tickle;
