//! What the two nodes of a pair say to each other.
pub mod counters;
pub mod offset;
pub mod pairing;
pub mod protocol;
pub mod session;
pub mod time;
pub mod wire;
