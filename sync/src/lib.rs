//! What the two nodes of a pair say to each other.
pub mod pairing;
pub mod wire;
pub mod counters;
pub mod offset;
pub mod protocol;
pub mod session;
pub mod time;
