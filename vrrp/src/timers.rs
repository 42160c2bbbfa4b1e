//! The timers of one router: rows in a table, so that what is armed can be read, compared and copied.

use crate::types::Time;

/// What a router may be waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Timer {
    /// Active: the kernel has to acknowledge the lease before this. First, or a router that wakes up late would
    /// advertise addresses that have lapsed.
    Lease,
    /// Active: the next advert is due (Adver_Timer, RFC 9568 §6.2).
    Advert,
    /// Backup: the active router is gone when this fires (Active_Down_Timer, RFC 9568 §6.2).
    /// Active, in a hand-off: so is the one that has taken over.
    Down,
    /// Backup: fit for long enough to preempt.
    Preempt,
    /// Active: the offer ends, and nobody took it.
    Offer,
    /// Active and still not serving: offer again.
    OfferAgain,
    /// Active: the next announcement.
    Announce,
    /// Active: a hand-off takes too long.
    Yield,
    /// In fault for a lease that was not renewed: try again.
    Mend,
}

const ROWS: usize = Timer::Mend as usize + 1;

const ALL: [Timer; ROWS] = [
    Timer::Lease,
    Timer::Advert,
    Timer::Down,
    Timer::Preempt,
    Timer::Offer,
    Timer::OfferAgain,
    Timer::Announce,
    Timer::Yield,
    Timer::Mend,
];

/// Deadlines by [`Timer`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Timers([Option<Time>; ROWS]);

impl Timers {
    pub(crate) fn set(&mut self, timer: Timer, at: Time) {
        self.0[timer as usize] = Some(at);
    }

    pub(crate) fn stop(&mut self, timer: Timer) {
        self.0[timer as usize] = None;
    }

    pub(crate) fn stop_all(&mut self) {
        *self = Timers::default();
    }

    pub(crate) fn get(&self, timer: Timer) -> Option<Time> {
        self.0[timer as usize]
    }

    pub(crate) fn next(&self) -> Option<Time> {
        self.0.iter().flatten().min().copied()
    }

    /// Takes a timer that is due: of several, the first in the order of [`Timer`].
    pub(crate) fn take_due(&mut self, now: Time) -> Option<Timer> {
        let first = ALL.into_iter().find(|timer| self.get(*timer).is_some_and(|at| at <= now))?;
        self.stop(first);
        Some(first)
    }
}
