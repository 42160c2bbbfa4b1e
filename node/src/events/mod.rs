//! What happened on this node and why, for `lbnode events`: kept in memory for readers and on disk for later.
//!
//! ```text
//!   agent ── record, amend ──► Store ── the last 1,000 ──► readers, followers (control socket)
//!                                └── bounded queue ──► writer thread ──► two files of at most 1 MiB
//! ```
//! Whoever records never waits. The form of an event and of the files: docs/events.md.

mod journal;
mod record;
mod store;

pub use journal::{JournalError, Read, folder, read};
pub use record::{Draft, Event, Kind, Mark, Stamp, What, timeline};
pub use store::{FOLLOWED, Follower, KEPT, Next, QUEUE, Store};
