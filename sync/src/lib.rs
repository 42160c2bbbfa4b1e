//! What the two nodes of a pair say to each other.
//!
//! This version holds the ground that the channel will stand on and nothing else: [`wire`], frames with a limit.
//! The session, terms, tables and the replicated log come with the channel itself; until then a node learns of
//! its peer by VRRP alone, and `lbnode status` leaves out what it cannot know.

pub mod wire;
