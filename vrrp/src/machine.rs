//! The election of one virtual router (RFC 9568 §6.4). No socket, no clock, no random source is inside.
//!
//! ```text
//!               startup                    silence · released · preempted
//!   Init ──────────────────────► Backup ─────────────────────────────────► Master
//!    ▲                            │  ▲ ◄──────────────────────────────────  │ │
//!    │ shutdown        a fault,   │  │ recovered     outranked · stalled    │ │ a fault, or the
//!    │ (from any)      not serving▼  │                                      │ │ VIP was taken over
//!    └──────────────────────────  Fault ◄───────────────────────────────────┘ ┘
//! ```
//! Feed it with [`Router::handle`] and [`Router::handle_timeout`], then take effects from [`Router::poll_output`]
//! until there are none, in their order, and come back at [`Router::poll_timeout`].
//!
//! An active router whose proxy core cannot serve *offers* the VIP (docs/adr/0002): one advert of priority 0, the
//! addresses kept, silence. If another router is heard, it took over; if not, this one goes on. If the other node of the
//! pair is known to be fit, nothing is offered: it resigns. What terms and heartbeats decide is in [`peer`],
//! what adverts decide in [`adverts`].

mod addresses;
mod adverts;
mod peer;

use std::collections::{BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::announcements::Announcements;
use crate::config::RouterConfig;
use crate::event::{Fault, Input, Note, Output, RELEASE, State, Why};
use crate::heartbeat::{Claim, Lan, Term};
use crate::timers::{Timer, Timers};
use crate::types::{Interval, Time};

/// How long the kernel keeps an address after the last renewal, at least.
pub const LEASE: Duration = Duration::from_secs(1);

const NOTE_AGAIN: Duration = Duration::from_secs(60);

/// The active router as it was last heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Where its adverts come from.
    pub source: Ipv4Addr,
    /// What they say.
    pub priority: u8,
    /// How often they come.
    pub interval: Interval,
    /// When the last one came.
    pub at: Time,
}

/// What the peer said last.
#[derive(Clone, Copy, Debug)]
struct Known {
    claim: Claim,
    at: Time,
}

/// One virtual router.
#[derive(Clone, Debug)]
pub struct Router {
    config: RouterConfig,
    state: State,
    why: Why,
    since: Time,
    faults: BTreeSet<Fault>,
    serving: Option<bool>,
    source: Option<Option<Ipv4Addr>>,
    timers: Timers,
    /// Active_Adver_Interval: the active router's, learned from its adverts (RFC 9568 §6.1).
    learned: Interval,
    heard: Option<Heard>,
    /// Backup: the active router released the VIP.
    released: bool,
    /// Backup: a lower priority is being ignored.
    preempting: bool,
    /// Backup: the preemption delay has passed.
    may_preempt: bool,
    /// Active: priority 0 is out, the addresses are kept.
    offering: bool,
    /// Active: it was said that nobody took the offer.
    offer_noted: bool,
    announcements: Announcements,
    /// Active: announce when the addresses are acknowledged next.
    announce_when_present: bool,
    /// Active: the other active router that was last noted.
    rival: Option<(Ipv4Addr, Time)>,
    /// The highest term that was seen.
    term: Term,
    /// Active: the term in which we are.
    held: Term,
    peer: Option<Known>,
    /// The VIP was given up for the peer to take, and it has not yet.
    resigned: bool,
    /// The VIP will be given up for the peer as soon as the addresses are gone.
    withdrawing: bool,
    /// Active: since when the peer is heard by adverts alone, and claims to be active too; and when the last one came.
    contest: Option<(Time, Time)>,
    /// Active: since when the peer holds the VIP in a lower term, as if it did not hear our heartbeats.
    unheeded: Option<Time>,
    /// Active: a hand-off to the peer is under way.
    yielding: bool,
    /// Active, yielding: the peer has taken over.
    superseded: bool,
    /// Active: since when the peer does not hear our adverts and sees more of the segment than we do.
    deaf_since: Option<Time>,
    /// When the lease was last acknowledged, or the takeover.
    renewed: Time,
    weakened: bool,
    lan: Lan,
    noted: Noted,
    outputs: VecDeque<Output>,
}

/// What was said already, so that a fact makes one event.
#[derive(Clone, Debug, Default)]
struct Noted {
    interval: Option<(Ipv4Addr, Interval)>,
    addresses: Option<(Ipv4Addr, Vec<Ipv4Addr>)>,
    own_address: Option<Time>,
    owner: Option<(Ipv4Addr, Time)>,
    duplicate: Option<Time>,
    claimed: Option<([u8; 6], Time)>,
}

impl Router {
    /// A router that waits to be told its link, its source address and whether the proxy serves.
    pub fn new(config: RouterConfig, now: Time) -> Router {
        Router {
            learned: config.advert_interval,
            config,
            state: State::Init,
            why: Why::Startup,
            since: now,
            faults: BTreeSet::new(),
            serving: None,
            source: None,
            timers: Timers::default(),
            heard: None,
            released: false,
            preempting: false,
            may_preempt: false,
            offering: false,
            offer_noted: false,
            announcements: Announcements::default(),
            announce_when_present: false,
            rival: None,
            term: 0,
            held: 0,
            peer: None,
            resigned: false,
            contest: None,
            unheeded: None,
            withdrawing: false,
            yielding: false,
            superseded: false,
            deaf_since: None,
            renewed: now,
            weakened: false,
            lan: Lan::default(),
            noted: Noted::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Takes in one fact.
    pub fn handle(&mut self, input: Input, now: Time) {
        self.notice_stall(now);
        match input {
            Input::Advert(advert) => self.on_advert(advert, now),
            Input::Fault(fault, true) => {
                if self.faults.insert(fault) {
                    self.reconsider(Why::Faulty(fault), now);
                }
            }
            Input::Fault(fault, false) => {
                if self.faults.remove(&fault) {
                    self.reconsider(Why::Recovered, now);
                }
            }
            Input::Serving(serving) => self.on_serving(serving, now),
            Input::Source(source) => self.on_source(source, now),
            Input::Vip(applied) => self.on_vip(applied, now),
            Input::Claimed { address, mac } => self.on_claimed(address, mac, now),
            Input::Configure(config) => self.on_configure(config, now),
            Input::Peer(claim) => self.on_peer(claim, now),
            Input::Weakened(weakened) => self.weakened = weakened,
            Input::Lan(lan) => self.on_lan(lan),
            Input::Yield(on) => self.on_yield(on, now),
            Input::TakeOver => self.on_take_over(now),
            Input::LetGo => self.on_let_go(now),
            Input::Resign if self.state == State::Master && !self.superseded && self.peer_can_take(now) => {
                self.resign(Why::Asked, now);
            }
            Input::Resign => {}
            Input::AnnounceAgain if self.state == State::Master && !self.superseded => self.announce_anew(false, now),
            Input::AnnounceAgain => {}
            Input::Shutdown => self.on_shutdown(now),
        }
    }

    /// Acts on every timer that is due. Calling it early or late is harmless, if what has arrived is fed first:
    /// an advert that waits to be read must not pass for silence.
    pub fn handle_timeout(&mut self, now: Time) {
        self.notice_stall(now);
        while let Some(timer) = self.timers.take_due(now) {
            match timer {
                Timer::Advert => self.advertise(now),
                Timer::Down if self.state == State::Master => self.take_back(now),
                Timer::Down => {
                    let why = match (self.released, self.preempting) {
                        (true, _) => Why::Released,
                        (false, true) => Why::Preempted,
                        (false, false) => Why::Silence,
                    };
                    self.become_master(why, now);
                }
                Timer::Preempt => self.may_preempt = true,
                Timer::Offer => self.offer_ended(now),
                Timer::OfferAgain => self.cannot_serve(now),
                Timer::Lease => {
                    self.faults.insert(Fault::LeaseNotRenewed);
                    self.reconsider(Why::Faulty(Fault::LeaseNotRenewed), now);
                    self.timers.set(Timer::Mend, now + self.down_interval());
                }
                Timer::Announce => self.announce_due(now),
                Timer::Yield => self.yield_ended(now),
                Timer::Mend => {
                    self.faults.remove(&Fault::LeaseNotRenewed);
                    self.reconsider(Why::Recovered, now);
                }
            }
        }
    }

    /// The next effect. Take them all before waiting.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Router::handle_timeout`] wants to be called. Any other call may change it.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.timers.next()
    }

    /// What it was told to be.
    pub fn config(&self) -> &RouterConfig {
        &self.config
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Why it is in this state.
    pub fn why(&self) -> &Why {
        &self.why
    }

    /// Since when.
    pub fn since(&self) -> Time {
        self.since
    }

    /// Why it cannot take part, apart from a proxy core that cannot serve.
    pub fn faults(&self) -> &BTreeSet<Fault> {
        &self.faults
    }

    /// Whether the proxy core can serve, as last told.
    pub fn serving(&self) -> bool {
        self.serving == Some(true)
    }

    /// Whether an offer is under way.
    pub fn offering(&self) -> bool {
        self.offering
    }

    /// The other router that was heard last.
    pub fn heard(&self) -> Option<Heard> {
        self.heard
    }

    fn priority(&self) -> u8 {
        self.config.priority.get()
    }

    /// Skew_Time (RFC 9568 §6.1), in whole microseconds.
    fn skew(&self) -> Duration {
        self.learned.duration() * (256 - u32::from(self.priority())) / 256
    }

    /// Active_Down_Interval (RFC 9568 §6.1).
    fn down_interval(&self) -> Duration {
        self.learned.duration() * 3 + self.skew()
    }

    fn can_take_part(&self) -> bool {
        self.faults.is_empty() && self.serving == Some(true) && self.source.flatten().is_some()
    }

    /// A router leaves Init once everything that may keep it from taking part has been told.
    fn is_told(&self) -> bool {
        self.serving.is_some() && (self.source.is_some() || !self.faults.is_empty())
    }

    /// Acts on a change of what [`Router::can_take_part`] looks at.
    fn reconsider(&mut self, why: Why, now: Time) {
        match self.state {
            State::Init if self.is_told() && self.can_take_part() => self.become_backup(Why::Startup, now),
            State::Init if self.is_told() => {
                let why = match self.faults.first() {
                    Some(fault) => Why::Faulty(*fault),
                    None => Why::NotServing,
                };
                self.change(State::Fault, why, now);
            }
            State::Init => {}
            State::Backup if !self.can_take_part() => {
                self.timers.stop_all();
                self.change(State::Fault, why, now);
            }
            State::Backup => {}
            State::Master if !self.faults.is_empty() => {
                let taken = self.superseded || self.peer_can_take(now);
                self.emit(Output::Advert { priority: RELEASE });
                self.resigned = true;
                self.leave_master(State::Fault, taken, why, now);
            }
            State::Master => {}
            State::Fault if self.can_take_part() => self.become_backup(Why::Recovered, now),
            State::Fault => {}
        }
    }

    fn on_serving(&mut self, serving: bool, now: Time) {
        if self.serving == Some(serving) {
            return;
        }
        self.serving = Some(serving);
        match (self.state, serving) {
            // An offer runs its course: the peer may be half-way through its takeover.
            (State::Master, false) => {
                if !self.offering && !self.superseded {
                    self.cannot_serve(now);
                }
            }
            (State::Master, true) => {
                self.timers.stop(Timer::OfferAgain);
                self.offer_noted = false;
            }
            (_, true) => self.reconsider(Why::Recovered, now),
            (_, false) => self.reconsider(Why::NotServing, now),
        }
    }

    fn on_source(&mut self, source: Option<Ipv4Addr>, now: Time) {
        self.source = Some(source);
        let changed = match source {
            Some(_) => self.faults.remove(&Fault::NoSourceAddress),
            None => self.faults.insert(Fault::NoSourceAddress),
        };
        if changed || self.state == State::Init {
            let why = if source.is_some() { Why::Recovered } else { Why::Faulty(Fault::NoSourceAddress) };
            self.reconsider(why, now);
        }
    }

    // === states ===

    fn become_backup(&mut self, why: Why, now: Time) {
        self.learned = self.config.advert_interval;
        self.change(State::Backup, why, now);
        self.wait_as_backup(now);
        if self.nobody_has_it(now) {
            self.become_master(Why::Released, now);
        }
    }

    fn wait_as_backup(&mut self, now: Time) {
        self.released = false;
        self.preempting = false;
        self.timers.set(Timer::Down, now + self.down_interval());
        self.arm_preemption(now);
    }

    fn arm_preemption(&mut self, now: Time) {
        self.may_preempt = false;
        match self.config.preempt {
            Some(delay) => self.timers.set(Timer::Preempt, now + delay),
            None => self.timers.stop(Timer::Preempt),
        }
    }

    fn become_master(&mut self, why: Why, now: Time) {
        self.timers.stop_all();
        self.learned = self.config.advert_interval;
        self.offering = false;
        self.offer_noted = false;
        self.announce_when_present = true;
        self.announcements.clear();
        self.rival = None;
        self.term = self.term.saturating_add(1);
        self.held = self.term;
        self.renewed = now;
        self.resigned = false;
        self.contest = None;
        self.unheeded = None;
        self.withdrawing = false;
        self.deaf_since = None;
        self.advertise(now);
        self.emit(Output::Hold);
        self.timers.set(Timer::Lease, now + LEASE);
        self.change(State::Master, why, now);
    }

    /// The caller has sent priority 0 if it is due.
    fn leave_master(&mut self, to: State, taken: bool, why: Why, now: Time) {
        self.timers.stop_all();
        self.announcements.clear();
        self.offering = false;
        self.yielding = false;
        self.superseded = false;
        self.emit(Output::Release { taken });
        self.change(to, why, now);
    }

    fn on_shutdown(&mut self, now: Time) {
        match self.state {
            State::Init => {}
            State::Master => {
                let taken = self.superseded || self.peer_can_take(now);
                self.emit(Output::Advert { priority: RELEASE });
                self.resigned = true;
                self.leave_master(State::Init, taken, Why::Shutdown, now);
            }
            State::Backup | State::Fault => self.change(State::Init, Why::Shutdown, now),
        }
        self.timers.stop_all();
        self.faults.remove(&Fault::LeaseNotRenewed);
        self.serving = None;
    }

    fn on_configure(&mut self, config: RouterConfig, now: Time) {
        let down_before = self.down_interval();
        let before = std::mem::replace(&mut self.config, config);
        match self.state {
            State::Backup => {
                if self.heard.is_none() {
                    self.learned = self.config.advert_interval;
                }
                // The running deadline shifts by the difference: a change of priority is no sign of life.
                if let Some(down) = self.timers.get(Timer::Down) {
                    let shifted = (down + self.down_interval()).since(Time(0) + down_before);
                    self.timers.set(Timer::Down, Time(0) + shifted);
                }
                if before.preempt != self.config.preempt {
                    self.arm_preemption(now);
                }
            }
            State::Master => {
                self.learned = self.config.advert_interval;
                if before.addresses != self.config.addresses {
                    self.announce_when_present = true;
                    self.emit(Output::Hold);
                }
                if !self.offering && !self.superseded {
                    self.advertise(now);
                }
            }
            State::Init | State::Fault => self.learned = self.config.advert_interval,
        }
    }

    /// Asleep for longer than the others wait for us: they have taken over, so nothing may be asserted.
    /// A backup that was asleep has no silence to go by: it gives the active router time for one more advert.
    fn notice_stall(&mut self, now: Time) {
        if self.state == State::Backup
            && self.timers.get(Timer::Down).is_some_and(|due| now - due > self.learned.duration())
        {
            self.timers.set(Timer::Down, now + self.learned.duration() + self.skew());
        }
        if self.state != State::Master {
            return;
        }
        let due = self.timers.get(Timer::Advert).or(self.timers.get(Timer::Offer));
        let Some(overdue) = due.map(|due| now - due) else { return };
        let interval = self.config.advert_interval.duration();
        if overdue > interval * 2 {
            let asleep = overdue + interval;
            self.step_down(true, Why::Stalled(asleep), now);
        }
    }

    // === offers ===

    /// Active with a proxy core that cannot serve: to the peer if it can, to nobody if it cannot, else to whoever is there.
    fn cannot_serve(&mut self, now: Time) {
        if self.peer_can_take(now) {
            self.resign(Why::NotServing, now);
        } else if self.peer(now).is_some() {
            self.nobody_takes_it(now);
        } else {
            self.offer(now);
        }
    }

    fn offer(&mut self, now: Time) {
        self.offering = true;
        self.emit(Output::Advert { priority: RELEASE });
        self.timers.stop(Timer::Advert);
        self.timers.stop(Timer::OfferAgain);
        // Three intervals and the largest skew: by then every backup that can would have taken over, even if it
        // missed the release. One more for its advert to arrive: refused a moment too late, the offer fails.
        self.timers.set(Timer::Offer, now + self.config.advert_interval.duration() * 5);
    }

    fn offer_ended(&mut self, now: Time) {
        self.offering = false;
        self.advertise(now);
        self.announce_limited(now);
        if self.serving != Some(true) {
            self.nobody_takes_it(now);
        }
    }

    fn nobody_takes_it(&mut self, now: Time) {
        if !self.offer_noted {
            self.offer_noted = true;
            self.note(Note::OfferNotTaken);
        }
        let pause = (self.config.advert_interval.duration() * 10).max(Duration::from_secs(1));
        self.timers.set(Timer::OfferAgain, now + pause);
    }

    fn advertise(&mut self, now: Time) {
        self.emit(Output::Advert { priority: self.priority() });
        self.timers.set(Timer::Advert, now + self.config.advert_interval.duration());
    }

    fn change(&mut self, to: State, why: Why, now: Time) {
        let from = std::mem::replace(&mut self.state, to);
        self.why = why.clone();
        self.since = now;
        self.emit(Output::Transition { from, to, why });
    }

    fn note(&mut self, note: Note) {
        self.emit(Output::Note(note));
    }

    fn emit(&mut self, output: Output) {
        self.outputs.push_back(output);
    }
}
