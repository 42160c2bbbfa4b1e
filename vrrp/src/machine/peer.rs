//! The election towards the other node of the pair: terms (docs/failover.md, "Who holds a VIP").
//!
//! Adverts know no term, so they only show that the other one is there; what decides is its [`Claim`]. Towards any other
//! speaker, and while the peer's heartbeats are silent, plain RFC 9568 holds.

use std::time::Duration;

use super::{Known, Router};
use crate::event::{Note, Output, RELEASE, State, Why};
use crate::heartbeat::{Claim, Fitness, Lan, Standing, Term};
use crate::timers::Timer;
use crate::types::Time;

/// How long a hand-off may keep the VIP at its old holder after the new one took it.
const YIELD: Duration = Duration::from_secs(3);
/// For how long the peer has to see more of the segment, beside a lost advert: both have probed it by then.
const DEAF: Duration = Duration::from_millis(700);

impl Router {
    /// What the heartbeats say about this VIP.
    pub fn claim(&self, now: Time) -> Claim {
        let milliseconds = |length: Duration| u32::try_from(length.as_millis()).unwrap_or(u32::MAX);
        let standing = match self.state {
            State::Master => {
                Standing::Held { renewed: milliseconds(now - self.renewed), age: milliseconds(now - self.since) }
            }
            _ if self.resigned => Standing::Resigned,
            _ => Standing::Free,
        };
        let fitness = match (self.can_take_part(), self.weakened) {
            (false, _) => Fitness::Cannot,
            (true, true) => Fitness::Weakened,
            (true, false) => Fitness::Fit,
        };
        Claim {
            address: self.config.addresses[0],
            vrid: self.config.vrid.get(),
            term: if standing.is_held() { self.held } else { self.term },
            standing,
            fitness,
            priority: self.priority(),
            source: self.source.flatten(),
            hears: self.state != State::Backup || self.hears(now),
            lan: self.lan,
        }
    }

    /// The highest term that was seen; the one of the VIP's holder, if anybody is.
    pub fn term(&self) -> Term {
        self.term
    }

    /// What the peer says, if that is not older than a down interval.
    pub fn peer(&self, now: Time) -> Option<Claim> {
        self.peer.filter(|peer| now - peer.at <= self.down_interval()).map(|peer| peer.claim)
    }

    /// What the peer said last, and how long ago.
    pub fn last_claim(&self, now: Time) -> Option<(Claim, Duration)> {
        self.peer.map(|peer| (peer.claim, now - peer.at))
    }

    /// What is seen of the segment, as last told.
    pub fn lan(&self) -> Lan {
        self.lan
    }

    /// Another router's adverts are heard.
    pub fn hears(&self, now: Time) -> bool {
        self.heard.is_some_and(|heard| now - heard.at <= self.down_interval())
    }

    /// The peer took the VIP in a hand-off that is under way; the addresses stay until the hand-off lets them go.
    pub fn superseded(&self) -> bool {
        self.superseded
    }

    /// The peer would take the VIP if it were given up now.
    pub(super) fn peer_can_take(&self, now: Time) -> bool {
        // On a segment where it hears nobody and we do, its clients would not be served.
        let sees = |claim: Claim| claim.lan >= self.lan.min(Lan::Hosts);
        self.peer(now).is_some_and(|claim| claim.fitness > Fitness::Cannot && !claim.standing.is_held() && sees(claim))
    }

    /// The VIP was given up, by the peer for us to take or by us for a peer that could not: it waits for whoever can serve first.
    pub(super) fn nobody_has_it(&self, now: Time) -> bool {
        self.peer(now).is_some_and(|claim| {
            let left_to_us = claim.standing == Standing::Resigned && claim.term >= self.term;
            let left_to_nobody = self.resigned && claim.fitness == Fitness::Cannot && !claim.standing.is_held();
            left_to_us || left_to_nobody
        })
    }

    /// An advert from the address that the peer names as its own.
    pub(super) fn is_from_peer(&self, source: std::net::Ipv4Addr) -> bool {
        self.peer.is_some_and(|peer| peer.claim.source == Some(source))
    }

    pub(super) fn on_peer(&mut self, claim: Claim, now: Time) {
        let known = self.term;
        self.term = known.max(claim.term);
        let back = self.peer(now).is_none();
        if back {
            // What it was like before it fell silent is no beginning.
            self.deaf_since = None;
            self.unheeded = None;
        }
        self.peer = Some(Known { claim, at: now });
        self.contest = None;
        if claim.standing.is_held() && claim.term >= known {
            // Taken: what we gave up has found its new holder.
            self.resigned = false;
        }
        match self.state {
            State::Init | State::Fault => {}
            State::Backup => self.peer_as_backup(claim, known, now),
            State::Master => self.peer_as_master(claim, back, now),
        }
    }

    fn peer_as_backup(&mut self, claim: Claim, known: Term, now: Time) {
        match claim.standing {
            held if held.is_alive() => {
                self.released = false;
                self.preempting = false;
                self.timers.set(Timer::Down, now + self.down_interval());
            }
            Standing::Resigned if claim.term >= known => self.become_master(Why::Released, now),
            // A holder whose lease is not renewed, or nobody: the silence runs on.
            _ => {}
        }
    }

    fn peer_as_master(&mut self, claim: Claim, back: bool, now: Time) {
        if claim.standing.is_held() {
            let theirs = (claim.term, claim.priority, claim.source);
            if theirs > (self.held, self.priority(), self.source.flatten()) {
                self.lose(claim, now);
            } else {
                self.win(claim, now);
            }
            return;
        }
        if self.superseded {
            self.take_back(now);
            return;
        }
        self.unheeded = None;
        if claim.term > self.held {
            // The peer knows of a later holder, which is gone: whoever holds it now is the latest.
            self.term = claim.term.saturating_add(1);
            self.held = self.term;
        }
        if claim.fitness == Fitness::Cannot {
            self.deaf_since = None;
        } else if self.serving == Some(false) && self.peer_can_take(now) {
            self.resign(Why::NotServing, now);
        } else if claim.hears || claim.lan <= self.lan {
            self.deaf_since = None;
        } else if now - *self.deaf_since.get_or_insert(now) > DEAF + self.down_interval() {
            self.withdraw(Why::SeesLess { lan: self.lan, peer: claim.lan }, now);
        }
        if back && self.state == State::Master && !self.yielding {
            // Unheard, it may have held the VIP too, and died with it: hosts still believe what they were told last.
            self.announce_anew(false, now);
        }
    }

    /// Gives the VIP up where nothing hurries: the peer hears of it when the addresses are gone, so that there are never two.
    fn withdraw(&mut self, why: Why, now: Time) {
        self.step_down(true, why, now);
        self.withdrawing = true;
    }

    /// The peer holds the VIP in a higher term.
    fn lose(&mut self, claim: Claim, now: Time) {
        if self.yielding {
            self.superseded = true;
            self.offering = false;
            self.announcements.clear();
            // What is left is the lease and the end of the hand-off.
            for speaking in [Timer::Advert, Timer::Offer, Timer::OfferAgain, Timer::Announce] {
                self.timers.stop(speaking);
            }
            self.timers.set(Timer::Down, now + self.down_interval());
            return;
        }
        self.note_dual_active(claim, now);
        self.step_down(true, Why::Superseded { term: claim.term }, now);
    }

    /// The peer holds the VIP in a lower term, and hears of ours by our heartbeats: it will step down.
    fn win(&mut self, claim: Claim, now: Time) {
        if self.superseded {
            // It has forgotten the term in which it took over: it was started anew.
            self.take_back(now);
        }
        let Some(source) = claim.source else { return };
        if self.why == Why::HandedOver && now - self.since < YIELD {
            return;
        }
        // Unless it hears none of them. Then it decides by our adverts and by priority, once our last heartbeat is old and
        // no other one has come, or at the end of a hand-off; so do we, or both would stay for ever.
        let unheeded = now - *self.unheeded.get_or_insert(now) > YIELD + self.down_interval() * 2;
        if unheeded && (claim.priority, claim.source) > (self.priority(), self.source.flatten()) {
            self.step_down(true, Why::Outranked { by: source, priority: claim.priority }, now);
            return;
        }
        let known = self.rival.is_some_and(|(rival, at)| rival == source && now - at < super::NOTE_AGAIN);
        self.rival = Some((source, now));
        if known {
            self.announce_limited(now);
        } else {
            self.note_dual_active(claim, now);
            self.announce_anew(false, now);
        }
    }

    /// Both have held the VIP since the later one of them took it.
    fn note_dual_active(&mut self, claim: Claim, now: Time) {
        if let (Standing::Held { age, .. }, Some(other)) = (claim.standing, claim.source) {
            let length = Duration::from_millis(age.into()).min(now - self.since);
            self.note(Note::DualActive { other, length: Some(length) });
        }
    }

    /// Gives the VIP to a peer that is there and can serve.
    pub(super) fn resign(&mut self, why: Why, now: Time) {
        self.emit(Output::Advert { priority: RELEASE });
        self.resigned = true;
        self.step_down(true, why, now);
    }

    /// To Backup, or to Fault if it could not serve there.
    pub(super) fn step_down(&mut self, taken: bool, why: Why, now: Time) {
        let next = if self.can_take_part() { State::Backup } else { State::Fault };
        self.leave_master(next, taken, why, now);
        if next == State::Backup {
            self.wait_as_backup(now);
        }
    }

    // === hand-off ===

    pub(super) fn on_yield(&mut self, on: bool, now: Time) {
        if self.state != State::Master {
            return;
        }
        if on {
            self.yielding = true;
            self.timers.set(Timer::Yield, now + YIELD);
        } else {
            self.yield_ended(now);
        }
    }

    /// The hand-off ended without having let the addresses go, or took too long.
    pub(super) fn yield_ended(&mut self, now: Time) {
        self.timers.stop(Timer::Yield);
        self.yielding = false;
        if self.superseded {
            self.step_down(true, Why::Superseded { term: self.term }, now);
        }
    }

    /// Yielding: the peer that has taken over is gone again, and the addresses are still here.
    pub(super) fn take_back(&mut self, now: Time) {
        self.superseded = false;
        self.yielding = false;
        self.timers.stop(Timer::Down);
        self.timers.stop(Timer::Yield);
        self.term = self.term.saturating_add(1);
        self.held = self.term;
        self.advertise(now);
        self.announce_anew(false, now);
        if self.serving == Some(false) {
            self.cannot_serve(now);
        }
    }

    /// The new holder has announced the addresses, and nothing of ours answers for them any more.
    pub(super) fn on_let_go(&mut self, now: Time) {
        if self.state == State::Master && self.yielding {
            // Its heartbeat may not have come yet.
            self.term = self.term.max(self.held.saturating_add(1));
            self.step_down(false, Why::HandedOver, now);
        }
    }

    pub(super) fn on_take_over(&mut self, now: Time) {
        if self.state == State::Backup {
            self.become_master(Why::HandedOver, now);
        }
    }

    pub(super) fn on_lan(&mut self, lan: Lan) {
        self.lan = lan;
    }
}
