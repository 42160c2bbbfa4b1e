//! What the two nodes of a pair say to each other.
pub mod pairing;
pub mod wire;
