//! How many sessions at once: what the descriptor limit allows, and the gate that holds clients back.
//!
//! A client that finds no room is not accepted: it waits in the kernel's accept queue, and costs nothing here.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};

use serde::{Deserialize, Serialize};

/// Descriptors that a session holds: the client's socket and the server's.
const PER_SESSION: u64 = 2;
/// Descriptors that a worker holds beside its listeners: epoll, wake-up, timers, probe, room to spare, and its pipes.
const PER_WORKER: u64 = 8 + 2 * crate::tcp::pipe::MOST as u64;
/// Descriptors for the process: standard streams, the control channel, the board, log sinks, running checks.
const FOR_PROCESS: u64 = 128;

/// What this process may take on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The soft `RLIMIT_NOFILE` that the number of sessions follows from.
    pub nofile: u64,
    /// Sessions at once over all workers; at least 1.
    pub sessions: u32,
}

impl Limits {
    /// What a soft `RLIMIT_NOFILE` of `nofile` allows with so many workers and listening sockets (over all
    /// workers, with room for what an apply may add: a reload holds old and new at once, so they count twice).
    pub fn derive(nofile: u64, workers: u16, listeners: usize) -> Limits {
        let listeners = u64::try_from(listeners).unwrap_or(u64::MAX);
        let reserve =
            FOR_PROCESS.saturating_add(PER_WORKER * u64::from(workers)).saturating_add(listeners.saturating_mul(2));
        let sessions = nofile.saturating_sub(reserve) / PER_SESSION;
        // One below the top, which means "no limit" to a gate.
        Limits { nofile, sessions: u32::try_from(sessions).unwrap_or(u32::MAX).clamp(1, u32::MAX - 1) }
    }
}

/// How the sessions follow from the descriptors, in words.
impl fmt::Display for Limits {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept_back = self.nofile.saturating_sub(u64::from(self.sessions) * PER_SESSION);
        write!(formatter, "{} descriptors, {kept_back} kept back, {PER_SESSION} a session", self.nofile)
    }
}

/// Counts what is inside and holds back what doesn't fit; shared by all workers.
#[derive(Debug)]
pub(crate) struct Gate {
    inside: AtomicU32,
    limit: AtomicU32,
    someone_waits: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
}

/// Room for one, given back when dropped.
#[derive(Debug)]
pub(crate) struct Pass(Arc<Gate>);

impl Gate {
    pub(crate) fn new(limit: Option<u32>) -> Gate {
        Gate {
            inside: AtomicU32::new(0),
            limit: AtomicU32::new(limit.unwrap_or(u32::MAX)),
            someone_waits: AtomicBool::new(false),
            waiting: Mutex::new(Vec::new()),
        }
    }

    /// A lower limit sends nobody away: it only lets nobody new in.
    pub(crate) fn set_limit(&self, limit: Option<u32>) {
        self.limit.store(limit.unwrap_or(u32::MAX), SeqCst);
        self.wake();
    }

    pub(crate) fn limit(&self) -> Option<u32> {
        Some(self.limit.load(SeqCst)).filter(|limit| *limit != u32::MAX)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.inside() >= self.limit.load(SeqCst)
    }

    pub(crate) fn inside(&self) -> u32 {
        self.inside.load(SeqCst)
    }

    /// Room for one; with `None` the task is woken when it is worth another try.
    pub(crate) fn enter(self: &Arc<Gate>, cx: &Context<'_>) -> Option<Pass> {
        if let Some(pass) = self.try_enter() {
            return Some(pass);
        }
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            // One entry a worker at most: bounded by the number of workers.
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            self.someone_waits.store(true, SeqCst);
        }
        // Somebody may have left between the first try and the registration.
        self.try_enter()
    }

    /// Room for one, if there is any now.
    pub(crate) fn try_enter(self: &Arc<Gate>) -> Option<Pass> {
        let limit = self.limit.load(SeqCst);
        self.inside.fetch_update(SeqCst, SeqCst, |inside| (inside < limit).then_some(inside + 1)).ok()?;
        Some(Pass(Arc::clone(self)))
    }

    fn wake(&self) {
        if self.someone_waits.load(SeqCst) {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            self.someone_waits.store(false, SeqCst);
            waiting.drain(..).for_each(Waker::wake);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, SeqCst);
        self.0.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    struct Woken(AtomicUsize);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn sessions_are_half_of_the_descriptors_that_are_left() {
        assert_eq!(Limits::derive(20_000, 2, 8).sessions, (20_000 - 128 - 2 * 72 - 16) / 2);
        assert_eq!(Limits::derive(1_048_576, 8, 0).sessions, (1_048_576 - 128 - 8 * 72) / 2);
    }

    #[test]
    fn the_limits_say_how_they_follow_from_each_other() {
        let limits = Limits::derive(20_000, 2, 8);
        assert_eq!(limits.nofile, 20_000);
        assert_eq!(limits.to_string(), "20000 descriptors, 288 kept back, 2 a session");
    }

    #[test]
    fn a_tiny_or_endless_descriptor_limit_still_gives_a_usable_number() {
        assert_eq!(Limits::derive(10, 4, 100).sessions, 1);
        assert_eq!(Limits::derive(u64::MAX, 1, 1).sessions, u32::MAX - 1);
        assert_eq!(Limits::derive(0, u16::MAX, usize::MAX).sessions, 1);
    }

    #[test]
    fn a_full_gate_wakes_who_waits_when_somebody_leaves() {
        let woken = Arc::new(Woken(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&woken));
        let cx = Context::from_waker(&waker);
        let gate = Arc::new(Gate::new(Some(1)));
        let pass = gate.enter(&cx).expect("empty");
        assert!(gate.enter(&cx).is_none());
        assert!(gate.enter(&cx).is_none());
        drop(pass);
        assert_eq!(woken.0.load(SeqCst), 1);
        assert!(gate.enter(&cx).is_some());
        assert_eq!(gate.inside(), 0);
    }

    #[test]
    fn a_raised_limit_wakes_who_waits() {
        let woken = Arc::new(Woken(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&woken));
        let cx = Context::from_waker(&waker);
        let gate = Arc::new(Gate::new(Some(0)));
        assert!(gate.enter(&cx).is_none());
        gate.set_limit(None);
        assert_eq!((woken.0.load(SeqCst), gate.limit()), (1, None));
    }
}
