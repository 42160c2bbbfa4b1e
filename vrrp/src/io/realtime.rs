//! What keeps the election on time on a busy machine: the real-time scheduling class and memory that
//! is not paged out. Neither is needed to run, so a refusal is shown and not fatal.

use std::fmt;

use super::kernel;

/// The priority within SCHED_RR: above ordinary work, below the kernel's own threads.
pub const PRIORITY: i32 = 10;

/// What the kernel granted to one thread, or to all of several; each with its reason where it did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Realtime {
    /// SCHED_RR for the thread.
    pub scheduling: Result<(), Refusal>,
    /// Pages stay in memory once they were touched (the whole process).
    pub memory: Result<(), Refusal>,
}

impl Realtime {
    /// Of two threads: granted is what both were granted.
    #[must_use]
    pub fn and(self, other: Realtime) -> Realtime {
        Realtime { scheduling: self.scheduling.and(other.scheduling), memory: self.memory.and(other.memory) }
    }
}

/// Why the kernel said no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Asks for both, for the calling thread and for the process.
pub fn request() -> Realtime {
    let scheduling = kernel::round_robin(PRIORITY)
        .map_err(|error| Refusal(format!("SCHED_RR was refused: {error}; it needs CAP_SYS_NICE")));
    let memory = kernel::lock_memory()
        .map_err(|error| Refusal(format!("locking memory was refused: {error}; it needs CAP_IPC_LOCK")));
    Realtime { scheduling, memory }
}
