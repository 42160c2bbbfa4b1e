//! What a router makes of the fate of its addresses, and when it announces them.

use std::net::Ipv4Addr;

use super::{LEASE, NOTE_AGAIN, Router};
use crate::event::{Applied, Note, Output, State, Why};
use crate::timers::Timer;
use crate::types::Time;

impl Router {
    pub(super) fn on_vip(&mut self, applied: Applied, now: Time) {
        if self.state != State::Master {
            if applied == Applied::Absent && std::mem::take(&mut self.withdrawing) {
                self.resigned = true;
            }
            return;
        }
        match applied {
            Applied::Present => {
                self.renewed = now;
                self.timers.set(Timer::Lease, now + LEASE);
                if std::mem::take(&mut self.announce_when_present) && !self.superseded {
                    self.announce_anew(self.why == Why::Silence, now);
                }
            }
            Applied::Absent => {}
            Applied::Removed => {
                self.announce_when_present = true;
                self.note(Note::VipRemoved);
            }
        }
    }

    pub(super) fn on_claimed(&mut self, address: Ipv4Addr, mac: [u8; 6], now: Time) {
        // In a hand-off the new holder's announcement may be faster than its heartbeat.
        if self.state != State::Master || self.yielding {
            return;
        }
        if self.noted.claimed.is_none_or(|(noted, at)| noted != mac || now - at > NOTE_AGAIN) {
            self.noted.claimed = Some((mac, now));
            self.note(Note::Claimed { address, mac });
        }
        self.announce_limited(now);
    }

    pub(super) fn announce_anew(&mut self, insist: bool, now: Time) {
        self.announcements.plan(insist, now);
        self.announce_due(now);
    }

    pub(super) fn announce_due(&mut self, now: Time) {
        if self.announcements.take_due(now) {
            self.emit(Output::Announce);
        }
        match self.announcements.next() {
            Some(at) => self.timers.set(Timer::Announce, at),
            None => self.timers.stop(Timer::Announce),
        }
    }

    /// One announcement outside the plan, unless one was just made.
    pub(super) fn announce_limited(&mut self, now: Time) {
        if self.announcements.take_answer(now) {
            self.emit(Output::Announce);
        }
    }
}
