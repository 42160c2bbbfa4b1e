//! The agent towards its peer: the sync channel, what each node tells the other, and what is known of it. How VIPs move
//! between the two is in `moves`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sync::pairing::Pairing;
use sync::{Channel, NotSent, Settings, WhyNot};
use tokio::sync::mpsc;
use vrrp::io::driver::Command;
use vrrp::peer::Keys;
use vrrp::types::Time;

use crate::causes::chain;
use crate::config::OnIsolation;
use crate::events::{Draft, Kind};
use crate::failover::planned::Planned;
use crate::handoff::kernel::KernelError;
use crate::handoff::machine::{Facts, HandOff, Input};
use crate::handoff::message::Message as HandOffMessage;
use crate::handoff::{self, Kernel, Released, Vip};
use crate::peer::{Did, Message, Report};
use crate::records::{Known, Telling};
use crate::status::Role;

use super::Agent;
use super::timeline::Timelines;

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
    pub(super) outbox: VecDeque<HandOffMessage>,
    pub(super) kernel: Option<Arc<Kernel>>,
    pub(super) timelines: Timelines,
    /// What the peer knows of our connections; `None` while it is being told.
    pub(super) telling: Option<Telling>,
    /// What we know of the peer's.
    pub(super) known: Known,
    /// Sessions so far.
    pub(super) session: u64,
    pub(super) planned: Planned,
    /// The process that we last talked to.
    instance: Option<u64>,
    pub(super) heard: bool,
    pub(super) configured: Option<(Vec<Vip>, Option<Duration>)>,
    pub(super) facts: BTreeMap<String, Facts>,
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
            digest: self.revision.digest(),
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
