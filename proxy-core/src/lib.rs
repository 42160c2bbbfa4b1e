//! The data plane of `lbnode`: a process without privileges that carries the clients' bytes.

pub mod beat;
pub mod plan;
