//! VIPs that move as planned: what the policy and the peer want, and the hand-offs that do it.
//!
//! Each turn of the agent's loop feeds the hand-off's machine what happened and carries out what follows, in order.
//! Nothing waits: jobs are tasks of [`super::work`].

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use vrrp::event::State;
use vrrp::heartbeat::Fitness;
use vrrp::io::driver::{Command, HandOffStep};
use vrrp::io::snapshot::{RouterSnapshot, Snapshot};

use crate::events::{Draft, Kind};
use crate::failover::planned::{Move, View};
use crate::handoff::machine::{Direction, Facts, Input, Order, Output};
use crate::handoff::message::Id;
use crate::handoff::{Neighbour, Vip};

use super::{Agent, work};

/// The peer's heartbeats are gone when none came for so long: a pause of its processors must not end connections.
const LOST: Duration = Duration::from_secs(1);

impl Agent {
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
        if let Some(peering) = &mut self.peering
            && peering.handoff.poll_timeout().is_some_and(|at| at <= now)
        {
            peering.handoff.handle_timeout(now);
        }
        while let Some(output) = self.peering.as_mut().and_then(|peering| peering.handoff.poll_output()) {
            self.carry_out(output);
        }
        self.tell_election();
        // The election first: the peer may take the VIP as soon as it hears of it, and it must not come as a surprise here.
        if self.untold.is_empty()
            && let Some(peering) = &mut self.peering
        {
            peering.post();
        }
    }

    fn carry_out(&mut self, output: Output) {
        let Some(peering) = &mut self.peering else { return };
        match output {
            Output::Send(message) => peering.outbox.push_back(message),
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
            (Fitness::Fit, Some(report)) if report.digest != self.revision.digest() => {
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
        let same = report.is_some_and(|report| report.digest == self.revision.digest());
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
}
