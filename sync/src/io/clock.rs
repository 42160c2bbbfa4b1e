//! The clock whose stamps two nodes can convert into each other's.

use std::sync::OnceLock;
use std::time::Instant;

use crate::time::Time;

static ORIGIN: OnceLock<Instant> = OnceLock::new();

/// Microseconds of CLOCK_MONOTONIC since this was first called in this process; never goes back.
///
/// A stamp of the peer is one of ours plus the channel's `clock_offset`. Another process of this machine has
/// another origin, and so has this node's next start.
pub fn clock() -> u64 {
    clock_at(Instant::now())
}

/// The same for a point in time; what was before the origin is 0.
pub fn clock_at(instant: Instant) -> u64 {
    let origin = *ORIGIN.get_or_init(Instant::now);
    u64::try_from(instant.saturating_duration_since(origin).as_micros()).unwrap_or(u64::MAX)
}

/// The same as the pure halves take it.
pub(super) fn now() -> Time {
    Time(clock())
}
