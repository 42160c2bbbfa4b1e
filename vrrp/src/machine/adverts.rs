//! What a router makes of the adverts of others (RFC 9568 §6.4), and of what is odd about them.

use super::{Heard, NOTE_AGAIN, Router};
use crate::event::{Advert, Note, OWNER, Output, RELEASE, State, Why};
use crate::timers::Timer;
use crate::types::Time;

impl Router {
    pub(super) fn on_advert(&mut self, advert: Advert, now: Time) {
        if self.source == Some(Some(advert.source)) {
            if self.noted.own_address.is_none_or(|at| now - at > NOTE_AGAIN) {
                self.noted.own_address = Some(now);
                self.note(Note::OwnAddress);
            }
            return;
        }
        self.note_oddities(&advert, now);
        match self.state {
            State::Init => {}
            State::Fault => self.remember(&advert, now),
            State::Backup => self.advert_as_backup(&advert, now),
            State::Master if self.offering => self.advert_while_offering(&advert, now),
            State::Master => self.advert_as_master(&advert, now),
        }
    }

    /// RFC 9568 §6.4.2 (430 to 460).
    fn advert_as_backup(&mut self, advert: &Advert, now: Time) {
        if advert.priority == RELEASE && self.is_from_peer(advert.source) {
            // There is nobody else to leave the skew time to.
            self.become_master(Why::Released, now);
            return;
        }
        if advert.priority == RELEASE {
            self.released = true;
            let skewed = now + self.skew();
            let earlier = self.timers.get(Timer::Down).map_or(skewed, |down| down.min(skewed));
            self.timers.set(Timer::Down, earlier);
            return;
        }
        let outranks = advert.priority >= self.priority();
        if !outranks && self.may_preempt {
            // Discarded: the running deadline stays untouched, and ends in our takeover.
            self.preempting = true;
            self.remember(advert, now);
            return;
        }
        if outranks {
            self.arm_preemption(now);
        }
        self.released = false;
        self.preempting = false;
        self.remember(advert, now);
        self.learned = advert.interval;
        self.timers.set(Timer::Down, now + self.down_interval());
    }

    /// RFC 9568 §6.4.3 (700 to 765).
    fn advert_as_master(&mut self, advert: &Advert, now: Time) {
        if self.superseded {
            match advert.priority {
                _ if !self.is_from_peer(advert.source) => {}
                RELEASE => self.take_back(now),
                _ => self.timers.set(Timer::Down, now + self.down_interval()),
            }
            return;
        }
        if advert.priority == RELEASE {
            self.advertise(now);
            return;
        }
        self.remember(advert, now);
        if self.is_from_peer(advert.source) && self.leave_to_terms(advert, now) {
            return;
        }
        let ours = self.source.flatten().map(u32::from);
        let outranked = advert.priority > self.priority()
            || (advert.priority == self.priority() && Some(u32::from(advert.source)) > ours);
        if outranked {
            // Where nobody preempts, a higher priority beside us can only mean that both were active all along.
            if self.why == Why::Silence && self.config.preempt.is_none() {
                let length = Some(now - self.since);
                self.note(Note::DualActive { other: advert.source, length });
            }
            // Our last word, which the other one outranks and so answers: with an advert, and by announcing the addresses
            // again. It may not have heard of us yet, and the switches still believe that we have them.
            self.emit(Output::Advert { priority: self.priority() });
            self.learned = advert.interval;
            let why = Why::Outranked { by: advert.source, priority: advert.priority };
            // An active router whose offer nobody took may not wait as a backup: it could not serve.
            self.step_down(true, why, now);
            return;
        }
        // RFC 9568 §6.4.3 (755): tell it, and the switches, at once.
        self.advertise(now);
        let known = self.rival.is_some_and(|(rival, at)| rival == advert.source && now - at < NOTE_AGAIN);
        self.rival = Some((advert.source, now));
        // The last word of the one that we just preempted is no second active router.
        let preempted = self.why == Why::Preempted && now - self.since < self.down_interval();
        if known || preempted {
            self.announce_limited(now);
        } else {
            self.note(Note::DualActive { other: advert.source, length: None });
            self.announce_anew(false, now);
        }
    }

    fn advert_while_offering(&mut self, advert: &Advert, now: Time) {
        if advert.priority == RELEASE {
            return;
        }
        self.remember(advert, now);
        self.learned = advert.interval;
        // A peer that was started anew took it in a lower term: it may have heard of ours, and stepped down again.
        self.resigned = self.is_from_peer(advert.source);
        self.step_down(true, Why::TakenOver { by: advert.source }, now);
    }

    /// An advert of the peer while we are active: its heartbeat says in which term. Only when none comes for a down
    /// interval, priorities decide.
    fn leave_to_terms(&mut self, advert: &Advert, now: Time) -> bool {
        if self.peer(now).is_some() {
            return true;
        }
        // One that got through long ago has begun nothing. What is long, the slower of the two says.
        let pause = self.down_interval().max(advert.interval.duration() * 3);
        let going_on = self.contest.filter(|(_, last)| now - *last < pause);
        let since = going_on.map_or(now, |(since, _)| since);
        self.contest = Some((since, now));
        now - since < self.down_interval()
    }

    fn remember(&mut self, advert: &Advert, now: Time) {
        let Advert { source, priority, interval, .. } = *advert;
        self.heard = (priority != RELEASE).then_some(Heard { source, priority, interval, at: now });
    }

    fn note_oddities(&mut self, advert: &Advert, now: Time) {
        let source = advert.source;
        if let Some(other) = self.heard
            && other.source != source
            && advert.priority != RELEASE
            && now - other.at < self.down_interval()
            && self.noted.duplicate.is_none_or(|at| now - at > NOTE_AGAIN)
        {
            self.noted.duplicate = Some(now);
            self.note(Note::DuplicateVrid { source, other: other.source });
        }
        if advert.priority == OWNER
            && self.noted.owner.is_none_or(|(owner, at)| owner != source || now - at > NOTE_AGAIN)
        {
            self.noted.owner = Some((source, now));
            self.note(Note::Owner(source));
        }
        if advert.interval != self.config.advert_interval {
            let seen = Some((source, advert.interval));
            if self.noted.interval != seen {
                self.noted.interval = seen;
                self.note(Note::IntervalLearned { source, interval: advert.interval });
            }
        }
        if advert.addresses != self.config.addresses {
            let seen = Some((source, advert.addresses.clone()));
            if self.noted.addresses != seen {
                self.noted.addresses = seen;
                self.note(Note::AddressListMismatch(source));
            }
        }
    }
}
