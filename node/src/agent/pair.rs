//! The agent towards its peer: the sync channel, what the other node says of itself, and hand-offs.
//!
//! The hand-off's machine, the kernel, the election and the channel meet here: each turn of the agent's loop feeds what
//! happened and carries out what follows, in order. Nothing waits: jobs are tasks of [`super::work`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sync::pairing::Pairing;
use sync::{Channel, NotSent, Settings, WhyNot};
use tokio::sync::mpsc;
use vrrp::event::State;
use vrrp::heartbeat::Fitness;
use vrrp::io::driver::{Command, HandOffStep};
use vrrp::io::snapshot::{RouterSnapshot, Snapshot};
use vrrp::peer::Keys;
use vrrp::types::Time;

use crate::causes::chain;
use crate::config::{self, OnIsolation};
use crate::events::{Draft, Kind};
use crate::failover::planned::{Move, Planned, View};
use crate::handoff::kernel::KernelError;
use crate::handoff::machine::{Direction, Facts, HandOff, Input, Order, Output};
use crate::handoff::message::{Id, Message as HandOffMessage};
use crate::handoff::{self, Kernel, Neighbour, Released, Vip};
use crate::peer::{Did, Message, Report};
use crate::records::{Known, Telling};
use crate::status::Role;

use super::Agent;
use super::timeline::Timelines;
use super::work;

/// The peer's heartbeats are gone when none came for so long: a pause of its processors must not end connections.
const LOST: Duration = Duration::from_secs(1);
/// Within this time both nodes speak of the same two active nodes: a session that broke is back by then.
const DUAL_ACTIVE: Duration = Duration::from_secs(20);
/// How soon the channel is asked again whether it has room.
const POST_AGAIN: Duration = Duration::from_millis(2);
/// A report is about as old as a tick, and is believed a little longer.
const REPORT: Duration = Duration::from_secs(4);

/// What the agent knows of its peer, and what goes on between the two.
pub(super) struct Peering {
    pub(super) name: String,
    pub(super) channel: Option<Channel<Message>>,
    /// Why there is no channel: the nodes are not paired, or pairing cannot be read.
    pub(super) no_channel: Option<String>,
    pub(super) report: Option<(Report, Instant)>,
    /// What the peer does, and since when it is seen to.
    pub(super) role: Option<(Role, Instant)>,
    pub(super) handoff: HandOff,
    /// What the hand-off says, in order: a dump is more than the channel's queue holds at once. Its length is bounded by
    /// the largest dump ([`crate::handoff::message::FLOWS_MAX`]) and what ends a session empties it.
    outbox: VecDeque<HandOffMessage>,
    kernel: Option<Arc<Kernel>>,
    pub(super) timelines: Timelines,
    /// What the peer knows of our connections; `None` while it is being told.
    pub(super) telling: Option<Telling>,
    /// What we know of the peer's.
    pub(super) known: Known,
    /// Sessions so far.
    pub(super) session: u64,
    planned: Planned,
    /// The process that we last talked to.
    instance: Option<u64>,
    heard: bool,
    configured: Option<(Vec<Vip>, Option<Duration>)>,
    facts: BTreeMap<String, Facts>,
}

/// The channel's events, from where they come when there is one.
pub(super) type Told = mpsc::Receiver<sync::Event<Message>>;

impl Peering {
    pub(super) fn new(node: &str, peer: &str) -> Peering {
        let kernel = Kernel::open();
        if let Err(error) = &kernel {
            tracing::error!("planned switchovers will cut connections: {}", chain(error));
        }
        Peering {
            name: peer.to_owned(),
            channel: None,
            no_channel: None,
            report: None,
            role: None,
            // Another one with every start, so that the peer tells this process from the last one.
            handoff: HandOff::new(std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), node)),
            kernel: kernel.ok().map(Arc::new),
            timelines: Timelines::new(node, peer),
            telling: Some(Telling::default()),
            known: Known::default(),
            session: 0,
            outbox: VecDeque::new(),
            planned: Planned::default(),
            instance: None,
            heard: false,
            configured: None,
            facts: BTreeMap::new(),
        }
    }

    /// What the peer last said of itself, if it is not too old.
    pub(super) fn fresh_report(&self) -> Option<&Report> {
        self.report.as_ref().filter(|(_, at)| at.elapsed() < REPORT).map(|(report, _)| report)
    }

    /// Gives the channel what it has room for.
    pub(super) fn post(&mut self) {
        let Some(channel) = &self.channel else { return self.outbox.clear() };
        while let Some(message) = self.outbox.pop_front() {
            match channel.send(Message::HandOff(message)) {
                Ok(()) => {}
                Err(NotSent { message: Message::HandOff(message), why: WhyNot::Full }) => {
                    self.outbox.push_front(message);
                    return;
                }
                Err(lost) => {
                    tracing::warn!(%lost, "hand-off");
                    return self.outbox.clear();
                }
            }
        }
    }

    /// When the channel may have room again, if something waits for that.
    pub(super) fn post_again(&self) -> Option<Instant> {
        (!self.outbox.is_empty()).then(|| Instant::now() + POST_AGAIN)
    }

    /// Takes away all that hand-offs have in the kernel; while this agent lives, nobody else can.
    pub(super) async fn end_hand_offs(&self) -> Result<Released, KernelError> {
        match &self.kernel {
            Some(kernel) => kernel.clear_all().await,
            None => handoff::release().await,
        }
    }

    pub(super) fn connected(&self) -> bool {
        self.channel.as_ref().is_some_and(|channel| channel.status().borrow().connected)
    }
}

impl Agent {
    pub(super) fn time(&self) -> Time {
        Time(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Opens the channel when the nodes are paired, which may be while this agent runs.
    pub(super) fn open_channel(&mut self) -> Option<Told> {
        let (Some(peering), Some(settings)) = (&mut self.peering, &self.node.sync) else { return None };
        if peering.channel.is_some() {
            return None;
        }
        let opened =
            Pairing::open(&self.node.state_dir.join("identity")).map_err(|error| chain(&error)).and_then(|pairing| {
                let settings = Settings {
                    node: self.node.name.clone(),
                    pair: self.cluster.name.clone(),
                    pairing,
                    listen: settings.listen.clone(),
                    peer_addresses: settings.peer.addresses.clone(),
                };
                Channel::spawn(settings).map_err(|error| chain(&error))
            });
        match opened {
            Ok((channel, told)) => {
                peering.channel = Some(channel);
                peering.no_channel = None;
                Some(told)
            }
            Err(why) => {
                if peering.no_channel.as_ref() != Some(&why) {
                    tracing::warn!(
                        "there is no sync channel: {why}; `lbnode pair` makes the two nodes known to each other"
                    );
                    peering.no_channel = Some(why);
                }
                None
            }
        }
    }

    /// Something came from the channel.
    pub(super) fn channel_event(&mut self, event: sync::Event<Message>) {
        let now = self.time();
        let Some(peering) = &mut self.peering else { return };
        match event {
            sync::Event::Up { peer, instance, path, keys } => {
                tracing::info!(peer, %path, "the sync channel is up");
                let text = format!("the sync channel to {peer} is up over {path}");
                self.events.record(Draft { kind: Kind::Sync, text, ..Draft::default() });
                if peering.instance.replace(instance).is_some_and(|before| before != instance) {
                    peering.handoff.handle(Input::PeerLost, now);
                    peering.timelines.peer_restarted();
                }
                peering.handoff.handle(Input::Connected, now);
                peering.heard = true;
                peering.session += 1;
                peering.timelines.tell_again();
                let sync::Keys { id, send, receive } = keys;
                self.tell_vrrp(Command::Keys(Keys { id, send, receive }));
                self.tell_report();
                self.tell_steps();
            }
            sync::Event::Down { why } => {
                tracing::warn!(why, "the sync channel is down");
                let text = format!("the sync channel to {} is down", peering.name);
                self.events.record(Draft { kind: Kind::Sync, text, why, ..Draft::default() });
                peering.outbox.clear();
                peering.handoff.handle(Input::Disconnected, now);
            }
            sync::Event::Message(Message::Report(report)) => {
                let now = Instant::now();
                if peering.role.is_none_or(|(role, _)| role != report.role) {
                    peering.role = Some((report.role, now));
                }
                peering.report = Some((report, now));
            }
            sync::Event::Message(Message::HandOff(message)) => peering.handoff.handle(Input::Message(message), now),
            sync::Event::Message(Message::Records(records)) => self.records_told(records),
            sync::Event::Message(Message::Step(told)) => {
                peering.timelines.peer(told);
                self.place_steps();
            }
        }
    }

    /// What the peer did goes into its timeline, once the peer's clock can be read.
    pub(super) fn place_steps(&mut self) {
        let Some(peering) = &mut self.peering else { return };
        let offset = peering.channel.as_ref().and_then(|channel| channel.status().borrow().clock_offset);
        let Some(offset) = offset else { return };
        for (told, age) in peering.timelines.place(offset, &self.events) {
            if let Did::DualActive { length } = told.what
                && age < DUAL_ACTIVE
            {
                self.peer_found_dual_active(&told.vip, Duration::from_millis(length));
            }
        }
    }

    /// The peer gave a VIP up as soon as it heard of us, so that here nothing was seen of it, or not since when.
    fn peer_found_dual_active(&mut self, vip: &str, length: Duration) {
        let known = self.dual_active.as_mut().filter(|seen| seen.vip == vip && seen.at.elapsed() < DUAL_ACTIVE);
        if let Some(seen) = known {
            if seen.length.is_none() {
                seen.length = Some(length);
                self.events.amend(seen.event, |event| event.text = super::both_held(vip, Some(length)));
            }
            return;
        }
        let snapshot = self.vrrp.snapshot();
        let router = snapshot.routers.iter().find(|router| router.config.name == vip);
        if let Some(other) = router.and_then(|router| router.peer?.0.source) {
            self.were_dual_active(vip, other, Some(length));
        }
    }

    /// Tells the peer how this node is: about once a second, and after a change.
    pub(super) fn tell_report(&mut self) {
        let snapshot = self.vrrp.snapshot();
        let reasons = self.reasons(&snapshot);
        let report = Report {
            version: env!("CARGO_PKG_VERSION").into(),
            role: self.role(&snapshot),
            fit: reasons.is_empty(),
            reasons,
            priority: self.node.vrrp.priority.get(),
            proxy: self.proxy_state(),
            revision: self.revision.number,
            digest: config::digest(&self.revision.text),
        };
        let Some(peering) = &mut self.peering else { return };
        let Some(channel) = &peering.channel else { return };
        // Lost with a session that ends, and told again with the next one.
        let _ = channel.send(Message::Report(report));
    }

    /// A step of ours, for both nodes' timelines.
    pub(super) fn did(&mut self, vip: &str, did: Did, term: u64, at: Instant) {
        if let Some(peering) = &mut self.peering {
            peering.timelines.own(vip, did, term, at, &self.events);
        }
        self.tell_steps();
    }

    fn tell_steps(&mut self) {
        let Some(peering) = &mut self.peering else { return };
        let Some(channel) = &peering.channel else { return };
        while let Some(told) = peering.timelines.untold() {
            if channel.send(Message::Step(told.clone())).is_err() {
                break;
            }
            peering.timelines.told();
        }
    }

    /// The election's picture has changed.
    pub(super) fn feed_peering(&mut self, snapshot: &Snapshot) {
        let now = self.time();
        let wanted = (self.handoff_vips(snapshot), self.cluster.handoff_timeout);
        let Some(peering) = &mut self.peering else { return };
        if peering.configured.as_ref() != Some(&wanted) {
            peering.timelines.configure(snapshot.routers.iter().map(|router| router.config.name.as_str()));
            let (vips, timeout) = wanted.clone();
            peering.handoff.handle(Input::Configure { vips, timeout }, now);
            peering.configured = Some(wanted);
            peering.facts.clear();
        }
        for router in &snapshot.routers {
            let facts = Facts {
                master: router.state == State::Master && !router.superseded,
                address_present: router.present,
                announced: router.announced,
                term: router.term,
            };
            let name = &router.config.name;
            if peering.facts.get(name) != Some(&facts) {
                peering.facts.insert(name.clone(), facts);
                peering.handoff.handle(Input::Election { vip: name.clone(), facts }, now);
            }
        }
        let heard = snapshot.routers.iter().any(|router| router.peer.is_some_and(|(_, age)| age < LOST));
        if heard != std::mem::replace(&mut peering.heard, heard) {
            peering.handoff.handle(if heard { Input::PeerBack } else { Input::PeerLost }, now);
        }
    }

    fn handoff_vips(&self, snapshot: &Snapshot) -> Vec<Vip> {
        let vip = |router: &RouterSnapshot| {
            let address: IpAddr = router.source?.into();
            Some(Vip {
                name: router.config.name.clone(),
                vrid: router.config.vrid.get(),
                address: router.config.addresses[0].into(),
                interface: router.config.interface.clone(),
                own: Neighbour { address, mac: router.mac? },
            })
        };
        snapshot.routers.iter().filter_map(vip).collect()
    }

    /// What the policy wants moved, and what a deadline or the last inputs lead to.
    pub(super) fn drive_handoff(&mut self) {
        let now = self.time();
        if let Some(peering) = &mut self.peering {
            peering.post();
        }
        if let Some(peering) = &mut self.peering
            && peering.handoff.poll_timeout().is_some_and(|at| at <= now)
        {
            peering.handoff.handle_timeout(now);
        }
        while let Some(output) = self.peering.as_mut().and_then(|peering| peering.handoff.poll_output()) {
            self.carry_out(output);
        }
    }

    fn carry_out(&mut self, output: Output) {
        let Some(peering) = &mut self.peering else { return };
        match output {
            Output::Send(message) => {
                peering.outbox.push_back(message);
                peering.post();
            }
            Output::Run { vip, number, job } => {
                let kernel = peering.kernel.clone();
                self.work.spawn(work::job(kernel, vip, number, job));
            }
            Output::Election { vip, order } => {
                let step = match order {
                    Order::Yield(on) => HandOffStep::Yield(on),
                    Order::TakeOver => HandOffStep::TakeOver,
                    Order::LetGo => HandOffStep::LetGo,
                    Order::AnnounceAgain => HandOffStep::AnnounceAgain,
                };
                self.tell_vrrp(Command::HandOff { router: vip, step });
            }
            Output::Wanted { vip, id, reason } => self.wanted(vip, id, reason),
            Output::Began { vip, direction, reason, .. } => {
                tracing::info!(vip, to = self.taker(direction), reason, "hand-off begins");
            }
            Output::Moved { vip, direction, flows, took, .. } => {
                let to = self.taker(direction);
                tracing::info!(vip, to, flows, took_ms = took.as_millis(), "hand-off: the VIP has moved");
                // The taker has the event of its takeover, with the timeline.
                if direction == Direction::ToPeer {
                    let text = format!("{vip} was handed over to {to}; {flows} connections stay here until they end");
                    let draft = Draft { kind: Kind::Handoff, vip: Some(vip.clone()), text, ..Draft::default() };
                    self.events.record(draft);
                }
                self.moved(&vip, Ok(took));
            }
            Output::Finished { vip, flows, reset, lasted, why, direction, .. } => {
                tracing::info!(vip, flows, reset, lasted_ms = lasted.as_millis(), why, "hand-off is over");
                let to = self.taker(direction);
                let text = format!(
                    "the hand-off of {vip} to {to} is over: {flows} connections had stayed, {reset} were reset"
                );
                let draft = Draft { kind: Kind::Handoff, vip: Some(vip.clone()), text, why, ..Draft::default() };
                let event = self.events.record(draft);
                if let (Direction::FromPeer, Some(peering)) = (direction, &mut self.peering) {
                    peering.known.handoff_ended(&vip, event);
                }
            }
            Output::Refused { vip, why, direction, .. } => {
                tracing::warn!(vip, to = self.taker(direction), why, "no hand-off");
                let to = self.taker(direction);
                let text = format!("{vip} was not handed over to {to}");
                let why_text = why.clone();
                self.events.record(Draft {
                    kind: Kind::Handoff,
                    vip: Some(vip.clone()),
                    text,
                    why: why_text,
                    ..Draft::default()
                });
                self.moved(&vip, Err(why));
            }
        }
    }

    /// Who has the VIP afterwards.
    fn taker(&self, direction: Direction) -> String {
        match (direction, &self.peering) {
            (Direction::ToPeer, Some(peering)) => peering.name.clone(),
            _ => self.node.name.clone(),
        }
    }

    /// The peer asks for a VIP: an operator there, or because it is preferred.
    fn wanted(&mut self, vip: String, id: Id, reason: String) {
        let ready = self.peer_is_ready(&vip);
        let now = self.time();
        let Some(peering) = &mut self.peering else { return };
        let answer = match ready {
            Ok(()) => Input::Begin { vip, reason },
            Err(why) => Input::Decline { vip, id, why },
        };
        peering.handoff.handle(answer, now);
    }

    /// Whether the peer could take this VIP now, and would serve it as well; if not, why.
    pub(super) fn peer_is_ready(&self, vip: &str) -> Result<(), String> {
        let Some(peering) = &self.peering else { return Err("the node file names no peer ([sync])".into()) };
        let name = &peering.name;
        if !peering.connected() {
            return Err(format!("there is no sync channel to {name}"));
        }
        let snapshot = self.vrrp.snapshot();
        let claim = snapshot.routers.iter().find(|router| router.config.name == vip);
        let Some(claim) = claim.filter(|router| router.peer_fresh).and_then(|router| router.peer) else {
            return Err(format!("no heartbeat of {name} says anything of it"));
        };
        let report = peering.fresh_report();
        match (claim.0.fitness, report) {
            (Fitness::Fit, Some(report)) if report.digest != config::digest(&self.revision.text) => {
                Err(format!("{name} runs another configuration (revision {})", report.revision))
            }
            (Fitness::Fit, _) => Ok(()),
            (_, Some(report)) if !report.reasons.is_empty() => {
                Err(format!("{name} is not fit: {}", report.reasons.join("; ")))
            }
            _ => Err(format!("{name} is not fit")),
        }
    }

    /// Once a second: does the policy want a VIP at the other node?
    pub(super) fn look_at_plans(&mut self) {
        if self.leaving.is_some() {
            return;
        }
        let (now, snapshot) = (self.time(), self.vrrp.snapshot());
        for router in &snapshot.routers {
            let name = &router.config.name;
            let view = self.view(router);
            let Some(peering) = &mut self.peering else { return };
            let input = match peering.planned.look(name, &view, now) {
                None => continue,
                Some(Move::Give) => Input::Begin { vip: name.clone(), reason: format!("{} is fitter", peering.name) },
                Some(Move::Ask) => Input::Ask { vip: name.clone(), reason: format!("{} is preferred", self.node.name) },
            };
            peering.handoff.handle(input, now);
        }
    }

    fn view(&self, router: &RouterSnapshot) -> View {
        let name = &router.config.name;
        let fitness = match self.policy.fitness(name) {
            crate::failover::Fitness::Fit => Fitness::Fit,
            crate::failover::Fitness::Weakened(_) => Fitness::Weakened,
            crate::failover::Fitness::Unfit(_) => Fitness::Cannot,
        };
        let report = self.peering.as_ref().and_then(|peering| peering.fresh_report());
        let same = report.is_some_and(|report| report.digest == config::digest(&self.revision.text));
        View {
            active: router.state == State::Master && !router.superseded,
            standby: router.state == State::Backup,
            fitness,
            priority: router.config.priority.get(),
            preempt: self.cluster.vips.iter().find(|vip| vip.name == *name).and_then(|vip| vip.preempt),
            current: same && self.checked,
            peer: router.peer.filter(|_| router.peer_fresh).map(|(claim, _)| claim),
        }
    }

    /// The VIP was lost through this node's own fault.
    pub(super) fn lost(&mut self, vip: &str) {
        let now = self.time();
        if let Some(peering) = &mut self.peering {
            peering.planned.lost(vip, now);
        }
    }

    /// Why this node, although preferred, leaves a VIP at its peer.
    pub(super) fn damped(&self, vip: &str) -> Option<Duration> {
        self.peering.as_ref()?.planned.damped(vip, self.time())
    }

    /// Configured VIPs have changed.
    pub(super) fn retain_plans(&mut self, names: &BTreeSet<String>) {
        if let Some(peering) = &mut self.peering {
            peering.planned.retain(|name| names.contains(name));
            peering.known.retain(|name| names.contains(name));
        }
    }

    /// What the election has to know of the cluster file beside the routers.
    pub(super) fn isolation(&self) -> Command {
        Command::YieldIsolated(self.cluster.on_isolation == OnIsolation::Yield)
    }
}

/// Servers of the plan, which answer ARP if they are on a segment of ours.
pub(super) fn hints(plan: &proxy_core::plan::Plan) -> Vec<Ipv4Addr> {
    let servers = plan.backends.iter().flat_map(|backend| &backend.servers);
    let addresses = servers.filter_map(|server| match server.address.ip() {
        IpAddr::V4(v4) if !v4.is_loopback() => Some(v4),
        _ => None,
    });
    addresses.collect::<BTreeSet<_>>().into_iter().take(16).collect()
}
