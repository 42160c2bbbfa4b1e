//! One router with what the shell knows about it: what it was told, what it wants of the kernel, what it has counted.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use super::address::{Key, Wish};
use super::interface::Interface;
use super::snapshot::{RouterCounters, RouterSnapshot, Step};
use crate::config::{Checksum, RouterConfig};
use crate::event::{Advert, Applied, Fault, Input, RELEASE, State};
use crate::heartbeat::{Claim, Fitness, Lan, Standing};
use crate::machine::Router;
use crate::packet::{self, DecodeError};
use crate::types::Time;

/// One router with what the shell knows about it.
pub(super) struct Slot {
    pub(super) key: Key,
    pub(super) config: Arc<RouterConfig>,
    pub(super) router: Router,
    pub(super) told: BTreeSet<Fault>,
    pub(super) source: Option<Option<Ipv4Addr>>,
    pub(super) wish: Wish,
    /// The last wish that the applier answered.
    pub(super) answered: Option<u64>,
    pub(super) counters: RouterCounters,
    pub(super) dual_active: Option<(Ipv4Addr, Option<Duration>)>,
    pub(super) send_failed: bool,
    /// The addresses have been there since the takeover, and have been announced.
    pub(super) added: bool,
    pub(super) announced: bool,
}

impl Slot {
    pub(super) fn new(key: Key, config: RouterConfig, now: Time) -> Slot {
        let router = Router::new(config.clone(), now);
        let config = Arc::new(config);
        Slot {
            wish: Wish { order: 0, config: Arc::clone(&config), held: false, taken: false },
            key,
            config,
            router,
            told: BTreeSet::new(),
            source: None,
            answered: None,
            counters: RouterCounters::default(),
            dual_active: None,
            send_failed: false,
            added: false,
            announced: false,
        }
    }

    /// What a transition means for the way of the VIP.
    pub(super) fn moved(&mut self, from: State, to: State) -> Option<Step> {
        match (from, to) {
            (_, State::Master) => {
                self.added = false;
                self.announced = false;
                Some(Step::TookOver)
            }
            (State::Master, _) => Some(Step::Resigned),
            _ => None,
        }
    }

    /// What an answer of the applier means for it.
    pub(super) fn reached(&mut self, applied: Applied) -> Option<Step> {
        match applied {
            Applied::Present if self.wish.held && !std::mem::replace(&mut self.added, true) => Some(Step::Added),
            Applied::Absent if !self.wish.held && std::mem::take(&mut self.added) => Some(Step::Removed),
            _ => None,
        }
    }

    /// Whether this router has a reason to ask if its segment is dead: one of the nodes does not hear the other's
    /// adverts while its heartbeats arrive, or nothing is heard of the peer at all and a node alone may have to yield.
    pub(super) fn doubts_segment(&self, yields: bool, now: Time) -> bool {
        match self.router.peer(now) {
            Some(peer) if self.router.state() == State::Master => !peer.hears,
            Some(peer) => self.router.state() == State::Backup && peer.standing.is_held() && !self.router.hears(now),
            None => yields,
        }
    }

    /// Tells the router what changed about its link, its source and the node.
    pub(super) fn tell(&mut self, faults: BTreeSet<Fault>, source: Option<Ipv4Addr>, lan: Lan, now: Time) {
        if self.router.lan() != lan {
            self.router.handle(Input::Lan(lan), now);
        }
        // Raised before cleared, and all before the source: a router must not be fit in between.
        for &fault in faults.difference(&self.told) {
            self.router.handle(Input::Fault(fault, true), now);
        }
        for &fault in self.told.difference(&faults) {
            self.router.handle(Input::Fault(fault, false), now);
        }
        self.told = faults;
        if self.source != Some(source) {
            self.router.handle(Input::Source(source), now);
            self.source = Some(source);
        }
    }

    /// What the peer shall believe of us when this process is dead: the VIP is there to be taken.
    pub(super) fn last_claim(&self) -> Claim {
        // Without times: the words change only with what they say.
        let claim = self.router.claim(Time(0));
        Claim { standing: Standing::Resigned, fitness: Fitness::Cannot, hears: true, ..claim }
    }

    pub(super) fn wish(&mut self, held: bool, taken: bool) {
        self.wish = Wish { order: self.wish.order + 1, config: Arc::clone(&self.config), held, taken };
    }

    pub(super) fn advertise(&mut self, interface: Option<&Interface>, priority: u8) {
        let (Some(interface), Some(source)) = (interface, self.source.flatten()) else {
            self.counters.send_errors += 1;
            return;
        };
        for destination in packet::destinations(&self.config) {
            let message = packet::encode(&self.config, priority, source, destination);
            match interface.send(&message, source, destination) {
                Ok(()) => {
                    self.counters.adverts_sent += 1;
                    self.counters.priority_zero_sent += u64::from(priority == RELEASE);
                    self.send_failed = false;
                }
                Err(error) => {
                    self.counters.send_errors += 1;
                    if !std::mem::replace(&mut self.send_failed, true) {
                        tracing::warn!(router = %self.config.name, %source, %destination, %error, "cannot send an advert");
                    }
                }
            }
        }
    }

    pub(super) fn announce(&mut self, interface: Option<&Interface>) {
        for &address in &self.config.addresses {
            match interface.map(|interface| interface.announce(address)) {
                Some(Ok(sent)) => self.counters.announcements += u64::from(sent),
                Some(Err(error)) => tracing::debug!(router = %self.config.name, %address, %error, "cannot announce"),
                None => {}
            }
        }
    }

    pub(super) fn snapshot(&self, mac: Option<[u8; 6]>, now: Time) -> RouterSnapshot {
        RouterSnapshot {
            config: self.config.as_ref().clone(),
            state: self.router.state(),
            why: self.router.why().clone(),
            age: now.since(self.router.since()),
            heard: self.router.heard().map(|heard| (heard.source, heard.priority, now.since(heard.at))),
            faults: self.router.faults().clone(),
            serving: self.router.serving(),
            offering: self.router.offering(),
            source: self.source.flatten(),
            mac,
            term: self.router.term(),
            peer: self.router.last_claim(now),
            peer_fresh: self.router.peer(now).is_some(),
            hears: self.router.hears(now),
            lan: self.router.lan(),
            superseded: self.router.superseded(),
            present: self.added,
            announced: self.wish.held && self.added && self.announced,
            counters: self.counters.clone(),
            dual_active: self.dual_active,
        }
    }
}

/// Adverts that wait for their routers: the newest of each sender, for what lay in the socket while we slept is history.
#[derive(Default)]
pub(super) struct Mail(pub(super) Vec<(usize, Advert)>);

impl Mail {
    pub(super) fn put(&mut self, index: usize, advert: Advert) {
        self.0.retain(|(i, waiting)| *i != index || waiting.source != advert.source);
        self.0.push((index, advert));
    }
}

/// All receive checks; counts what belongs to the router.
pub(super) fn read(packet: &[u8], interface: &str, slots: &mut [Slot]) -> Result<(usize, Advert), DecodeError> {
    let received = packet::decode(packet)?;
    let ours = |slot: &Slot| slot.config.interface == interface && slot.config.vrid.get() == received.vrid;
    let index = slots.iter().position(ours).ok_or(DecodeError::UnknownVrid(received.vrid))?;
    let slot = &mut slots[index];
    let (advert, checksum): (Advert, Checksum) = received.check(&slot.config)?;
    slot.counters.adverts_received += 1;
    slot.counters.priority_zero_received += u64::from(advert.priority == RELEASE);
    slot.counters.other_checksum += u64::from(checksum != slot.config.checksum);
    Ok((index, advert))
}

pub(super) fn key(config: &RouterConfig) -> Key {
    (config.interface.clone(), config.vrid.get())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Interval;

    fn advert(source: u8, priority: u8) -> Advert {
        let interval = Interval::from_centiseconds(10).expect("in range");
        Advert { source: Ipv4Addr::new(192, 0, 2, source), priority, interval, addresses: Vec::new() }
    }

    fn fed(adverts: &[(u8, u8)]) -> Vec<(u8, u8)> {
        let mut mail = Mail::default();
        for &(source, priority) in adverts {
            mail.put(0, advert(source, priority));
        }
        mail.0.iter().map(|(_, advert)| (advert.source.octets()[3], advert.priority)).collect()
    }

    /// Also where the older one is a release: who advertises after it has taken it back.
    #[test]
    fn after_a_stall_only_the_newest_advert_of_a_sender_counts() {
        assert_eq!(fed(&[(1, 100), (2, 50), (1, 110), (1, 120)]), [(2, 50), (1, 120)]);
        assert_eq!(fed(&[(1, 100), (1, 0)]), [(1, 0)]);
        assert_eq!(fed(&[(1, 0), (1, 100), (1, 90)]), [(1, 90)]);
    }
}
