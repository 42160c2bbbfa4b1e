//! A node's election of the one VIP, as far as a hand-off sees it: terms, heartbeats, and the orders of the hand-off.

use std::time::Duration;

use node::handoff::machine::{Facts, Order};
use vrrp::types::Time;

/// Without an active peer for so long, a standby takes over; so it does if no heartbeat comes.
pub(crate) const DOWN: Duration = Duration::from_millis(350);
/// How often heartbeats go.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(100);

/// What a heartbeat says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Heartbeat {
    pub(crate) term: u64,
    pub(crate) master: bool,
}

/// What the election wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// The address, and an announcement when it is there.
    Hold,
    /// No address; the connections stay.
    LetGo,
    /// No address; the connections are reset, since nobody passes packets on to them.
    Lose,
    /// Announce at once.
    Announce,
}

/// One node's.
#[derive(Clone, Debug)]
pub(crate) struct Election {
    pub(crate) facts: Facts,
    pub(crate) fit: bool,
    /// It keeps the address, whatever it hears.
    pub(crate) yielding: bool,
    /// When it became active, and when it began to yield, last.
    pub(crate) master_at: Option<Time>,
    pub(crate) yielding_at: Option<Time>,
    /// When the peer was heard.
    pub(crate) heard_at: Option<Time>,
    active_heard_at: Time,
    /// Of two that are equal in everything.
    first: bool,
}

impl Election {
    pub(crate) fn new(first: bool, address_present: bool, now: Time) -> Election {
        Election {
            facts: Facts { address_present, ..Facts::default() },
            fit: true,
            yielding: false,
            master_at: None,
            yielding_at: None,
            heard_at: None,
            active_heard_at: now,
            first,
        }
    }

    pub(crate) fn heartbeat(&self) -> Heartbeat {
        Heartbeat { term: self.facts.term, master: self.facts.master }
    }

    pub(crate) fn hears_peer(&self, now: Time) -> bool {
        self.heard_at.is_some_and(|at| now - at <= DOWN)
    }

    pub(crate) fn heard(&mut self, heartbeat: Heartbeat, now: Time) -> Option<Wish> {
        let back = !self.hears_peer(now);
        self.heard_at = Some(now);
        let outranked = heartbeat.term > self.facts.term || (heartbeat.term == self.facts.term && !self.first);
        self.facts.term = self.facts.term.max(heartbeat.term);
        if !heartbeat.master {
            // Unheard, it may have been active and have told the clients so.
            return (back && self.facts.master && !self.yielding).then_some(Wish::Announce);
        }
        self.active_heard_at = now;
        if self.facts.master && outranked {
            self.facts.master = false;
            self.facts.announced = false;
            return (!self.yielding).then_some(Wish::Lose);
        }
        // Both were active apart: the one that remains tells the switches.
        self.facts.master.then_some(Wish::Announce)
    }

    pub(crate) fn tick(&mut self, now: Time) -> Option<Wish> {
        let patience = if self.first { DOWN } else { DOWN + HEARTBEAT };
        let silent = now - self.active_heard_at > patience;
        if !self.facts.master && self.fit && silent { Some(self.become_master(now)) } else { None }
    }

    pub(crate) fn set_fit(&mut self, fit: bool) -> Option<Wish> {
        self.fit = fit;
        if fit || !self.facts.master {
            return None;
        }
        self.facts.master = false;
        self.facts.announced = false;
        (!self.yielding).then_some(Wish::Lose)
    }

    pub(crate) fn ordered(&mut self, order: Order, now: Time) -> Option<Wish> {
        match order {
            Order::Yield(true) => {
                self.yielding = true;
                self.yielding_at = Some(now);
                None
            }
            Order::Yield(false) => {
                self.yielding = false;
                (!self.facts.master).then_some(Wish::Lose)
            }
            Order::TakeOver => (self.fit && !self.facts.master).then(|| self.become_master(now)),
            Order::LetGo => {
                self.yielding = false;
                self.facts.master = false;
                self.facts.announced = false;
                // The one that it lets go for is not silence.
                self.active_heard_at = now;
                Some(Wish::LetGo)
            }
            Order::AnnounceAgain => self.facts.address_present.then_some(Wish::Announce),
        }
    }

    fn become_master(&mut self, now: Time) -> Wish {
        self.facts.master = true;
        self.facts.term += 1;
        self.master_at = Some(now);
        Wish::Hold
    }
}
