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
use super::slot::{Mail, Slot, key, read};
use super::snapshot::{Event, EventKind, Held, Snapshot, Step};
use crate::config::RouterConfig;
use crate::event::{Applied, Fault, Input, Note, Output, State};
use crate::heartbeat::Claim;
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
    /// Every router's addresses.
    vips: BTreeSet<Ipv4Addr>,
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
    told_held: ToldHeld,
    published: Option<Instant>,
    urgent: bool,
    realtime: Option<Realtime>,
    leftovers: u64,
    events_lost: u64,
}

/// What the guard was told: the routers with the sources of their adverts, and what its last words say under which keys.
type ToldHeld = (Vec<(Arc<RouterConfig>, Ipv4Addr)>, Vec<Claim>, Option<u32>);

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
            vips: BTreeSet::new(),
            interfaces: BTreeMap::new(),
            faults: BTreeSet::new(),
            serving: None,
            table: Arc::default(),
            links_known: false,
            wish_changed: false,
            beat: None,
            told_held: ToldHeld::default(),
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
                Woken::Command(command) => farewell = self.obey(command),
            }
            // Commands before what the peer says: it may say it because of a message that was sent behind the command.
            while farewell.is_none()
                && let Ok(command) = self.wires.commands.try_recv()
            {
                farewell = self.obey(Some(command));
            }
            // Adverts first: one that waits in the socket may move a deadline that looks due.
            self.read_sockets();
            self.hear_peer();
            self.look_after_links();
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

    /// Does as it is told; when it is told to end, or nobody can tell it any more: until when it may take.
    fn obey(&mut self, command: Option<Command>) -> Option<Instant> {
        match command {
            Some(Command::Configure(configs)) => self.configure(configs),
            Some(Command::Serving(serving)) => {
                self.serving = Some(serving);
                self.feed_all(&Input::Serving(serving));
            }
            Some(Command::Fault { fault, raised }) => {
                if raised {
                    self.faults.insert(fault)
                } else {
                    self.faults.remove(&fault)
                };
            }
            Some(Command::Weakened(weakened)) => self.feed_all(&Input::Weakened(weakened)),
            Some(Command::Keys(keys)) => {
                let now = self.now();
                if let Some(pair) = &mut self.pair {
                    pair.rekey(keys, now);
                }
            }
            Some(Command::YieldIsolated(yields)) => self.yield_isolated = yields,
            Some(Command::HandOff { router, step }) => {
                let now = self.now();
                for slot in self.slots.iter_mut().filter(|slot| slot.config.name == router) {
                    slot.router.handle(step.into(), now);
                }
            }
            Some(Command::Shutdown) | None => {
                self.feed_all(&Input::Shutdown);
                return Some(Instant::now() + FAREWELL);
            }
        }
        None
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
        self.vips = self.slots.iter().flat_map(|slot| slot.config.addresses.iter().copied()).collect();
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
    fn pair_addresses(&self, now: Time) -> BTreeSet<Ipv4Addr> {
        let peers = self.slots.iter().filter_map(|slot| slot.router.peer(now)?.source);
        self.vips.iter().copied().chain(peers).collect()
    }

    /// Takes in what became of the interfaces, asks those that are silent or doubted, and tells every router what
    /// changed about its link, its source and the node.
    fn look_after_links(&mut self) {
        if !self.links_known {
            return;
        }
        let (time, now) = (self.now(), Instant::now());
        let pair = self.pair_addresses(time);
        let yields = self.pair.is_some() && self.yield_isolated;
        for (name, interface) in &mut self.interfaces {
            interface.update(name, self.table.named(name), now);
            let vips = self.slots.iter().filter(|slot| slot.config.interface == *name);
            let targets = vips.flat_map(|slot| slot.config.addresses.iter()).chain(&self.hints).copied();
            interface.probe(name, targets, now);
            let mut routers = self.slots.iter().filter(|slot| slot.config.interface == *name);
            let doubted = self.pair.is_some() && routers.any(|slot| slot.doubts_segment(yields, time));
            let others = self.hints.iter().copied().filter(|hint| !pair.contains(hint));
            interface.doubt(name, doubted, others, now);
            interface.confirm(name, yields, now);
        }
        for slot in &mut self.slots {
            let Some(interface) = self.interfaces.get(&slot.config.interface) else { continue };
            let primary = interface.link.as_ref().and_then(|link| link.primary(&self.vips));
            let source = slot.config.source.or(primary);
            let alone = yields && slot.router.peer(time).is_none() && !slot.router.hears(time);
            let isolated = alone && !interface.has_gateway(&pair, now);
            let own = [(Fault::NoSourceAddress, source.is_none()), (Fault::Isolated, isolated)];
            let raised = interface.faults().chain(own).filter(|(_, raised)| *raised).map(|(fault, _)| fault);
            let faults = raised.chain(self.faults.iter().copied()).collect();
            slot.tell(faults, source, interface.lan(&pair, now), time);
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
                        let term = slot.router.term();
                        events.push((slot.config.name.clone(), EventKind::Transition { from, to, why, term }));
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
        let held = || self.slots.iter().filter(|slot| slot.wish.held);
        let routers = held().filter_map(|slot| Some((Arc::clone(&slot.config), slot.source.flatten()?))).collect();
        let last = if self.pair.is_some() { held().map(Slot::last_claim).collect() } else { Vec::new() };
        let told = (routers, last, self.pair.as_ref().and_then(Pair::key_id));
        if told != self.told_held {
            let routers: Vec<Held> = told
                .0
                .iter()
                .map(|(config, source)| Held { config: config.as_ref().clone(), source: *source })
                .collect();
            let words = self.pair.as_ref().map(|pair| pair.last_words(&told.1)).unwrap_or_default();
            (self.on_held)(&routers, &words);
            self.told_held = told;
        }
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
