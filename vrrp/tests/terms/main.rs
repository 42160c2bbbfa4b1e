//! The election towards the other node of the pair, one behaviour at a time: terms, claims, hand-offs. What holds
//! towards any other speaker is in `election.rs`, the table of all states and inputs in `table.rs`.

mod both;
mod core;
mod handoff;
mod segment;
mod stage;
mod takeover;
