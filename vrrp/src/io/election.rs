//! The one loop of the VRRP thread: wait (packet, ARP, netlink, applier, command, deadline) → feed →
//! flush → publish. Nothing in it waits for anything else.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, watch};

use super::address::{Key, LEASE, RENEWAL, Report, Wanted, Wish};
use super::driver::{Command, OnHeld};
use super::interface::Interface;
use super::links::Table;
use super::pair::{Pair, PairSettings};
use super::realtime::Realtime;
use super::snapshot::{Event, EventKind, Held, RouterCounters, RouterSnapshot, Snapshot, Step};
use crate::config::{Checksum, RouterConfig};
use crate::event::{Advert, Applied, Fault, Input, Note, Output, RELEASE, State};
use crate::heartbeat::{Claim, Fitness, Standing};
use crate::machine::Router;
use crate::packet::{self, DecodeError};
use crate::types::Time;

/// How often a picture is published when no state changes.
const PICTURE: Duration = Duration::from_millis(100);
/// For how long a shutdown waits for the addresses to go. Their leases end them all the same.
const FAREWELL: Duration = LEASE;

/// The other ends of everything that leads out of the thread.
pub(super) struct Wires {
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) snapshot: watch::Sender<Arc<Snapshot>>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) wanted: watch::Sender<Wanted>,
    pub(super) links: watch::Receiver<Arc<Table>>,
    pub(super) reports: mpsc::Receiver<Report>,
}

/// All routers of all interfaces.
pub(super) struct Election {
    wires: Wires,
    hints: Vec<Ipv4Addr>,
    pair: Option<Pair>,
    /// A router without peer and gateway yields.
    yield_isolated: bool,
    /// The peer has to be told before the next interval.
    news: bool,
    on_held: OnHeld,
    origin: Instant,
    slots: Vec<Slot>,
    interfaces: BTreeMap<String, Interface>,
    /// Raised by command, for every router.
    faults: BTreeSet<Fault>,
    serving: Option<bool>,
    table: Arc<Table>,
    /// The first table has come: an interface that is not in it is missing.
    links_known: bool,
    /// A wish changed since the last beat.
    wish_changed: bool,
    beat: Option<Instant>,
    /// What the guard was told: the routers, and what its last words say under which keys.
    told_held: (Vec<Held>, Vec<Claim>, Option<u32>),
    published: Option<Instant>,
    urgent: bool,
    realtime: Option<Realtime>,
    leftovers: u64,
    events_lost: u64,
}

/// One router with what the shell knows about it.
struct Slot {
    key: Key,
    config: Arc<RouterConfig>,
    router: Router,
    told: BTreeSet<Fault>,
    source: Option<Option<Ipv4Addr>>,
    wish: Wish,
    /// The last wish that the applier answered.
    answered: Option<u64>,
    counters: RouterCounters,
    dual_active: Option<(Ipv4Addr, Option<Duration>)>,
    send_failed: bool,
    /// The addresses have been there since the takeover, and have been announced.
    added: bool,
    announced: bool,
}

enum Woken {
    Ready,
    Links,
    Report(Report),
    Command(Option<Command>),
}

impl Election {
    pub(super) fn new(
        wires: Wires,
        hints: Vec<Ipv4Addr>,
        pair: &PairSettings,
        on_held: OnHeld,
        origin: Instant,
    ) -> Self {
        Election {
            wires,
            hints,
            pair: (!pair.paths.is_empty()).then(|| Pair::new(pair)),
            yield_isolated: false,
            news: false,
            on_held,
            origin,
            slots: Vec::new(),
            interfaces: BTreeMap::new(),
            faults: BTreeSet::new(),
            serving: None,
            table: Arc::default(),
            links_known: false,
            wish_changed: false,
            beat: None,
            told_held: (Vec::new(), Vec::new(), None),
            published: None,
            urgent: false,
            realtime: None,
            leftovers: 0,
            events_lost: 0,
        }
    }

    /// Runs until it is told to end, or nobody can tell it any more.
    pub(super) async fn run(mut self, realtime: Realtime) {
        self.grant(realtime);
        let mut farewell: Option<Instant> = None;
        loop {
            match self.wait(farewell).await {
                Woken::Ready => {}
                Woken::Links => self.take_links(),
                Woken::Report(report) => self.take_report(report),
                Woken::Command(Some(Command::Configure(configs))) => self.configure(configs),
                Woken::Command(Some(Command::Serving(serving))) => {
                    self.serving = Some(serving);
                    self.feed_all(&Input::Serving(serving));
                }
                Woken::Command(Some(Command::Fault { fault, raised })) => {
                    if raised {
                        self.faults.insert(fault)
                    } else {
                        self.faults.remove(&fault)
                    };
                }
                Woken::Command(Some(Command::Weakened(weakened))) => self.feed_all(&Input::Weakened(weakened)),
                Woken::Command(Some(Command::Keys(keys))) => {
                    let now = self.now();
                    if let Some(pair) = &mut self.pair {
                        pair.rekey(keys, now);
                    }
                }
                Woken::Command(Some(Command::YieldIsolated(yields))) => self.yield_isolated = yields,
                Woken::Command(Some(Command::HandOff { router, step })) => {
                    let now = self.now();
                    for slot in self.slots.iter_mut().filter(|slot| slot.config.name == router) {
                        slot.router.handle(step.into(), now);
                    }
                }
                Woken::Command(Some(Command::Shutdown) | None) => {
                    farewell = Some(Instant::now() + FAREWELL);
                    self.feed_all(&Input::Shutdown);
                }
            }
            // Adverts first: one that waits in the socket may move a deadline that looks due.
            self.read_sockets();
            self.hear_peer();
            self.look_after_links();
            self.tell_links();
            let now = self.now();
            for slot in &mut self.slots {
                slot.router.handle_timeout(now);
            }
            self.flush();
            // Before anything waits for the kernel.
            self.tell_peer();
            self.beat();
            self.tell_held();
            self.publish();
            if farewell.is_some_and(|end| self.settled() || end <= Instant::now()) {
                return;
            }
        }
    }

    async fn wait(&mut self, farewell: Option<Instant>) -> Woken {
        let deadline = self.deadline(farewell);
        let Election { wires, interfaces, pair, .. } = self;
        let readable = poll_fn(|cx| {
            // Every interface is asked, so that each one's waker is in place.
            let ready = interfaces.values().filter(|interface| interface.poll_ready(cx).is_ready()).count();
            let heartbeat = pair.as_ref().is_some_and(|pair| pair.poll_ready(cx).is_ready());
            if ready > 0 || heartbeat { Poll::Ready(()) } else { Poll::Pending }
        });
        tokio::select! {
            () = readable => Woken::Ready,
            Ok(()) = wires.links.changed() => Woken::Links,
            Some(report) = wires.reports.recv() => Woken::Report(report),
            command = wires.commands.recv(), if farewell.is_none() => Woken::Command(command),
            () = tokio::time::sleep_until(deadline.into()) => Woken::Ready,
        }
    }

    fn deadline(&self, farewell: Option<Instant>) -> Instant {
        let renewal = self.beat.map_or(self.origin, |beat| beat + RENEWAL);
        let timers = self.slots.iter().filter_map(|slot| slot.router.poll_timeout());
        let timers = timers.map(|time| self.origin + Duration::from_micros(time.0));
        let links = self.interfaces.values().filter_map(Interface::deadline);
        let heartbeat = self.pair.as_ref().and_then(|pair| pair.deadline(self.interval()));
        timers.chain(links).chain(heartbeat).chain(farewell).fold(renewal, Instant::min)
    }

    fn now(&self) -> Time {
        // Half a million years fit.
        Time(self.origin.elapsed().as_micros() as u64)
    }

    /// Only differences act. Needs no runtime: sockets open when the table of links is looked at.
    pub(super) fn configure(&mut self, configs: Vec<RouterConfig>) {
        let now = self.now();
        let keys: Vec<Key> = configs.iter().map(key).collect();
        for slot in &mut self.slots {
            if !keys.contains(&slot.key) {
                slot.router.handle(Input::Shutdown, now);
            }
        }
        self.flush();
        self.slots.retain(|slot| keys.contains(&slot.key));
        for config in configs {
            let key = key(&config);
            match self.slots.iter_mut().find(|slot| slot.key == key) {
                Some(slot) if *slot.config == config => {}
                Some(slot) => {
                    slot.config = Arc::new(config.clone());
                    slot.wish.config = Arc::clone(&slot.config);
                    slot.router.handle(Input::Configure(config), now);
                }
                None => {
                    let mut slot = Slot::new(key, config, now);
                    if let Some(serving) = self.serving {
                        slot.router.handle(Input::Serving(serving), now);
                    }
                    self.slots.push(slot);
                }
            }
        }
        let order = |slot: &Slot| keys.iter().position(|key| *key == slot.key);
        self.slots.sort_by_key(order);
        let used: BTreeSet<&str> = self.slots.iter().map(|slot| slot.config.interface.as_str()).collect();
        self.interfaces.retain(|name, _| used.contains(name.as_str()));
        for name in used {
            if !self.interfaces.contains_key(name) {
                self.interfaces.insert(name.to_owned(), Interface::default());
            }
        }
        self.wish_changed = true;
        self.urgent = true;
        let routers = self.wishes();
        self.wires.wanted.send_modify(|wanted| wanted.routers = routers);
    }

    fn take_links(&mut self) {
        self.table = Arc::clone(&self.wires.links.borrow_and_update());
        self.links_known = true;
    }

    fn take_report(&mut self, report: Report) {
        match report {
            Report::Started(realtime) => self.grant(realtime),
            Report::Applied { key, order, applied } => {
                let now = self.now();
                let slot = self.slots.iter_mut().find(|slot| slot.key == key && slot.wish.order == order);
                // An answer to an older wish says nothing about the newest.
                let Some(slot) = slot else { return };
                slot.answered = Some(order);
                if let Some(step) = slot.reached(applied) {
                    let (name, term) = (slot.config.name.clone(), slot.router.term());
                    self.event(Some(name), EventKind::Step { step, term });
                    self.urgent = true;
                }
                let Some(slot) = self.slots.iter_mut().find(|slot| slot.key == key) else { return };
                if slot.wish.held || applied == Applied::Absent {
                    slot.router.handle(Input::Vip(applied), now);
                }
                self.news |= applied == Applied::Absent;
            }
            Report::Leftovers(addresses) => {
                self.leftovers += addresses.len() as u64;
                tracing::warn!(?addresses, "took away addresses that a predecessor had left behind");
                self.event(None, EventKind::Leftovers(addresses));
            }
            Report::Failed(error) => {
                let text = chain(&error);
                tracing::error!(error = %text, "lease not changed");
                self.event(None, EventKind::LeaseFailed(text));
            }
        }
    }

    /// One of the two threads: one that may be late is as bad as both.
    fn grant(&mut self, realtime: Realtime) {
        self.realtime = Some(match self.realtime.take() {
            Some(other) => other.and(realtime),
            None => realtime,
        });
    }

    fn feed_all(&mut self, input: &Input) {
        let now = self.now();
        for slot in &mut self.slots {
            slot.router.handle(input.clone(), now);
        }
    }

    fn read_sockets(&mut self) {
        let now = self.now();
        for (name, interface) in &mut self.interfaces {
            let mut mail = Mail::default();
            for packet in interface.packets() {
                interface.heard();
                let Some(packet) = packet else {
                    interface.discard(name, "cut", &"the packet is longer than any advert");
                    continue;
                };
                match read(&packet, name, &mut self.slots) {
                    Ok((index, advert)) => {
                        interface.valid();
                        mail.put(index, advert);
                    }
                    Err(error) => interface.discard(name, error.name(), &error),
                }
            }
            for (index, advert) in mail.0 {
                self.slots[index].router.handle(Input::Advert(advert), now);
            }
            for claim in interface.claims(name, Instant::now()) {
                interface.heard();
                for slot in self.slots.iter_mut().filter(|slot| slot.config.interface == *name) {
                    if slot.router.state() == State::Master && slot.config.addresses.contains(&claim.address) {
                        slot.router.handle(Input::Claimed { address: claim.address, mac: claim.mac }, now);
                    }
                }
            }
        }
    }

    /// The newest heartbeat of the peer.
    fn hear_peer(&mut self) {
        let (time, now) = (self.now(), Instant::now());
        let Some(pair) = &mut self.pair else { return };
        pair.open(now);
        for claim in pair.read(time, now) {
            let about = |slot: &&mut Slot| {
                slot.config.vrid.get() == claim.vrid && slot.config.addresses.first() == Some(&claim.address)
            };
            for slot in self.slots.iter_mut().filter(about) {
                slot.router.handle(Input::Peer(claim), time);
            }
        }
    }

    /// At the interval, at once after a change, and until it is acknowledged.
    fn tell_peer(&mut self) {
        let (time, now, interval) = (self.now(), Instant::now(), self.interval());
        let news = std::mem::take(&mut self.news);
        let Some(pair) = &mut self.pair else { return };
        if news || pair.is_due(interval, now) {
            let claims: Vec<Claim> = self.slots.iter().map(|slot| slot.router.claim(time)).collect();
            pair.tell(&claims, news, now);
        }
    }

    /// The shortest advert interval; heartbeats keep it.
    fn interval(&self) -> Duration {
        let intervals = self.slots.iter().map(|slot| slot.config.advert_interval.duration());
        intervals.min().unwrap_or(Duration::from_millis(100))
    }

    /// The addresses of both nodes on their segments: who is heard there beside them shows that a segment lives.
    fn pair_addresses(&self) -> BTreeSet<Ipv4Addr> {
        let time = self.now();
        let peers = self.slots.iter().filter_map(|slot| slot.router.peer(time)?.source);
        self.slots.iter().flat_map(|slot| slot.config.addresses.iter().copied()).chain(peers).collect()
    }

    fn look_after_links(&mut self) {
        if !self.links_known {
            return;
        }
        let (time, now) = (self.now(), Instant::now());
        let pair = self.pair_addresses();
        for (name, interface) in &mut self.interfaces {
            interface.update(name, self.table.named(name), now);
            let vips = self.slots.iter().filter(|slot| slot.config.interface == *name);
            let targets = vips.flat_map(|slot| slot.config.addresses.iter()).chain(&self.hints).copied();
            interface.probe(name, targets, now);
            let mut routers = self.slots.iter().filter(|slot| slot.config.interface == *name);
            let yields = self.yield_isolated;
            let doubted = self.pair.is_some() && routers.any(|slot| slot.doubts_segment(yields, time));
            let others = self.hints.iter().copied().filter(|hint| !pair.contains(hint));
            interface.doubt(name, doubted, others, now);
        }
    }

    /// Tells every router what changed about its link, its source and the node.
    fn tell_links(&mut self) {
        if !self.links_known {
            return;
        }
        let now = self.now();
        let pair = self.pair_addresses();
        let vips: BTreeSet<Ipv4Addr> =
            self.slots.iter().flat_map(|slot| slot.config.addresses.iter().copied()).collect();
        for slot in &mut self.slots {
            let Some(interface) = self.interfaces.get(&slot.config.interface) else { continue };
            let primary = interface.link.as_ref().and_then(|link| link.primary(&vips));
            let source = slot.config.source.or(primary);
            let name = &slot.config.interface;
            let alone = self.pair.is_some() && self.yield_isolated && slot.router.peer(now).is_none();
            let isolated = alone && !slot.router.hears(now) && !interface.has_gateway(name, &pair, Instant::now());
            let own = [(Fault::NoSourceAddress, source.is_none()), (Fault::Isolated, isolated)];
            let link = interface.faults().chain(own);
            let mut faults: BTreeSet<Fault> = link.filter(|(_, raised)| *raised).map(|(fault, _)| fault).collect();
            slot.router.handle(Input::Lan(interface.lan(name, &pair, Instant::now())), now);
            faults.extend(&self.faults);
            // Raised before cleared, and all before the source: a router must not be fit in between.
            for &fault in faults.difference(&slot.told) {
                slot.router.handle(Input::Fault(fault, true), now);
            }
            for &fault in slot.told.difference(&faults) {
                slot.router.handle(Input::Fault(fault, false), now);
            }
            slot.told = faults;
            if slot.source != Some(source) {
                slot.router.handle(Input::Source(source), now);
                slot.source = Some(source);
            }
        }
    }

    fn flush(&mut self) {
        let mut events = Vec::new();
        let mut news = false;
        for slot in &mut self.slots {
            while let Some(output) = slot.router.poll_output() {
                let interface = self.interfaces.get(&slot.config.interface);
                match output {
                    Output::Advert { priority } => slot.advertise(interface, priority),
                    Output::Announce => {
                        slot.announce(interface);
                        if !std::mem::replace(&mut slot.announced, true) {
                            let step = EventKind::Step { step: Step::Announced, term: slot.router.term() };
                            events.push((slot.config.name.clone(), step));
                            self.urgent = true;
                        }
                    }
                    Output::Hold => {
                        slot.wish(true, false);
                        self.wish_changed = true;
                    }
                    Output::Release { taken } => {
                        slot.wish(false, taken);
                        self.wish_changed = true;
                    }
                    Output::Transition { from, to, why } => {
                        slot.counters.master_transitions += u64::from(to == State::Master);
                        news = true;
                        if let Some(step) = slot.moved(from, to) {
                            let term = slot.router.term();
                            events.push((slot.config.name.clone(), EventKind::Step { step, term }));
                        }
                        events.push((slot.config.name.clone(), EventKind::Transition { from, to, why }));
                        self.urgent = true;
                    }
                    Output::Note(note) => {
                        tracing::warn!(router = %slot.config.name, ?note, "note");
                        if let Note::DualActive { other, length } = note {
                            slot.counters.dual_active += 1;
                            slot.dual_active = Some((other, length));
                        }
                        events.push((slot.config.name.clone(), EventKind::Note(note)));
                    }
                }
            }
        }
        self.news |= news;
        for (router, kind) in events {
            self.event(Some(router), kind);
        }
    }

    /// The word on which leases are renewed: only this thread gives it, so a lease ends when it hangs.
    fn beat(&mut self) {
        let now = Instant::now();
        if !self.wish_changed && self.beat.is_some_and(|beat| now < beat + RENEWAL) {
            return;
        }
        self.beat = Some(now);
        self.wish_changed = false;
        let wanted = Wanted { beat: Some(now), routers: self.wishes() };
        self.wires.wanted.send_replace(wanted);
    }

    fn wishes(&self) -> BTreeMap<Key, Wish> {
        self.slots.iter().map(|slot| (slot.key.clone(), slot.wish.clone())).collect()
    }

    fn tell_held(&mut self) {
        let held = |slot: &Slot| {
            let source = slot.source.flatten()?;
            slot.wish.held.then(|| Held { config: slot.config.as_ref().clone(), source })
        };
        let held: Vec<Held> = self.slots.iter().filter_map(held).collect();
        let last = if self.pair.is_some() { self.last_claims() } else { Vec::new() };
        let told = (held, last, self.pair.as_ref().and_then(Pair::key_id));
        if told != self.told_held {
            let words = self.pair.as_ref().map(|pair| pair.last_words(&told.1)).unwrap_or_default();
            (self.on_held)(&told.0, &words);
            self.told_held = told;
        }
    }

    /// What the peer shall believe of us when this process is dead: every VIP is there to be taken.
    fn last_claims(&self) -> Vec<Claim> {
        let held = self.slots.iter().filter(|slot| slot.wish.held);
        // Without times: the words change only with what they say.
        let last = |slot: &Slot| {
            let claim = slot.router.claim(Time(0));
            Claim { standing: Standing::Resigned, fitness: Fitness::Cannot, hears: true, ..claim }
        };
        held.map(last).collect()
    }

    fn publish(&mut self) {
        let now = Instant::now();
        if !self.urgent && self.published.is_some_and(|at| now < at + PICTURE) {
            return;
        }
        self.urgent = false;
        self.published = Some(now);
        let time = self.now();
        let interfaces = self.interfaces.iter().map(|(name, interface)| (name.clone(), interface.counters.clone()));
        self.wires.snapshot.send_replace(Arc::new(Snapshot {
            routers: self.slots.iter().map(|slot| slot.snapshot(self.mac(slot), time)).collect(),
            interfaces: interfaces.collect(),
            paths: self.pair.as_ref().map(|pair| pair.snapshot(now)).unwrap_or_default(),
            realtime: self.realtime.clone(),
            leftovers: self.leftovers,
            events_lost: self.events_lost,
        }));
    }

    fn mac(&self, slot: &Slot) -> Option<[u8; 6]> {
        self.interfaces.get(&slot.config.interface)?.link.as_ref()?.mac
    }

    fn event(&mut self, router: Option<String>, kind: EventKind) {
        let event = Event { at: SystemTime::now(), instant: Instant::now(), router, kind };
        // Full: dropped and counted. Closed: nobody asked for events, which is no loss.
        if let Err(mpsc::error::TrySendError::Full(_)) = self.wires.events.try_send(event) {
            self.events_lost += 1;
        }
    }

    /// Every released address is known to be gone.
    fn settled(&self) -> bool {
        let gone = self.slots.iter().all(|slot| !slot.wish.held && slot.answered == Some(slot.wish.order));
        gone && self.pair.as_ref().is_none_or(Pair::is_quiet)
    }
}

impl Slot {
    fn new(key: Key, config: RouterConfig, now: Time) -> Slot {
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
    fn moved(&mut self, from: State, to: State) -> Option<Step> {
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
    fn reached(&mut self, applied: Applied) -> Option<Step> {
        match applied {
            Applied::Present if self.wish.held && !std::mem::replace(&mut self.added, true) => Some(Step::Added),
            Applied::Absent if !self.wish.held && std::mem::take(&mut self.added) => Some(Step::Removed),
            _ => None,
        }
    }

    /// Whether this router has a reason to ask if its segment is dead: one of the nodes does not hear the other's
    /// adverts while its heartbeats arrive, or nothing is heard of the peer at all and a node alone may have to yield.
    fn doubts_segment(&self, yields: bool, now: Time) -> bool {
        match self.router.peer(now) {
            Some(peer) if self.router.state() == State::Master => !peer.hears,
            Some(peer) => self.router.state() == State::Backup && peer.standing.is_held() && !self.router.hears(now),
            None => yields,
        }
    }

    fn wish(&mut self, held: bool, taken: bool) {
        self.wish = Wish { order: self.wish.order + 1, config: Arc::clone(&self.config), held, taken };
    }

    fn advertise(&mut self, interface: Option<&Interface>, priority: u8) {
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

    fn announce(&mut self, interface: Option<&Interface>) {
        for &address in &self.config.addresses {
            match interface.map(|interface| interface.announce(address)) {
                Some(Ok(sent)) => self.counters.announcements += u64::from(sent),
                Some(Err(error)) => tracing::debug!(router = %self.config.name, %address, %error, "cannot announce"),
                None => {}
            }
        }
    }

    fn snapshot(&self, mac: Option<[u8; 6]>, now: Time) -> RouterSnapshot {
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
struct Mail(Vec<(usize, Advert)>);

impl Mail {
    fn put(&mut self, index: usize, advert: Advert) {
        self.0.retain(|(i, waiting)| *i != index || waiting.source != advert.source);
        self.0.push((index, advert));
    }
}

/// All receive checks; counts what belongs to the router.
fn read(packet: &[u8], interface: &str, slots: &mut [Slot]) -> Result<(usize, Advert), DecodeError> {
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

fn key(config: &RouterConfig) -> Key {
    (config.interface.clone(), config.vrid.get())
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
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
