//! Moves that somebody waits for: `lbnode failover`, maintenance, and the end of this agent.
//!
//! Each of them hands VIPs over first. What cannot be handed over is given up the plain way (the peer takes it at once, its
//! connections are reset): with maintenance and at the end always, by `lbnode failover` only with `--force`.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use vrrp::event::State;
use vrrp::io::driver::{Command, HandOffStep};

use crate::control::{Moved, Response};
use crate::handoff::machine::Input;

use super::Agent;

/// How long a hand-off may take to move a VIP, before the plain way.
const MOVE: Duration = Duration::from_secs(8);
/// How long the plain way may take.
const PLAIN: Duration = Duration::from_secs(3);

/// VIPs that somebody wants moved.
pub(super) struct Request {
    vips: Vec<Wanted>,
    force: bool,
    reply: oneshot::Sender<Response>,
}

struct Wanted {
    result: Moved,
    began: Instant,
    /// Until then, and what is being tried.
    waits: Option<(Way, Instant)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    HandOff,
    Plain,
}

/// Why this node gives up everything that it holds.
pub(super) enum Leaving {
    /// Maintenance begins when it is done.
    Maintenance { until: Instant, reply: oneshot::Sender<Response> },
    /// The agent ends when it is done, and the connections that stayed have ended, or at this time.
    Stop { move_until: Instant, until: Instant, closing: bool },
}

impl Agent {
    /// `lbnode failover`.
    pub(super) fn failover(
        &mut self,
        vip: Option<&str>,
        to: Option<&str>,
        force: bool,
        reply: oneshot::Sender<Response>,
    ) {
        match self.failover_wanted(vip, to, force) {
            Ok(vips) => {
                self.requests.push(Request { vips, force, reply });
                self.answer_requests();
            }
            Err(message) => drop(reply.send(Response::Failed { message })),
        }
    }

    fn failover_wanted(&mut self, vip: Option<&str>, to: Option<&str>, force: bool) -> Result<Vec<Wanted>, String> {
        let Some(peering) = &self.peering else {
            return Err("this node knows no peer: `[sync]` is missing in its node file".into());
        };
        let (own, peer) = (self.node.name.clone(), peering.name.clone());
        if let Some(to) = to
            && to != own
            && to != peer
        {
            return Err(format!("there is no node `{to}`: the nodes are {own} and {peer}"));
        }
        let snapshot = self.vrrp.snapshot();
        let meant = |name: &str| vip.is_none_or(|vip| vip == name);
        let routers: Vec<_> = snapshot.routers.iter().filter(|router| meant(&router.config.name)).collect();
        if routers.is_empty() {
            let names: Vec<&str> = snapshot.routers.iter().map(|router| router.config.name.as_str()).collect();
            return Err(format!("there is no VIP `{}`; there are: {}", vip.unwrap_or("any"), names.join(", ")));
        }
        let now = Instant::now();
        let mut vips = Vec::new();
        for router in routers {
            let name = router.config.name.clone();
            let here = router.state == State::Master;
            let there = router.peer_fresh && router.peer.is_some_and(|(claim, _)| claim.standing.is_held());
            let (from, other) = if here { (&own, &peer) } else { (&peer, &own) };
            let to = to.unwrap_or(other);
            let mut wanted = Wanted {
                result: Moved {
                    vip: name.clone(),
                    from: from.clone(),
                    to: to.to_owned(),
                    moved: false,
                    text: String::new(),
                    took_ms: None,
                },
                began: now,
                waits: None,
            };
            if to == from && (here || there) {
                wanted.result.text = format!("{name} is at {to} already");
            } else if here {
                match self.peer_is_ready(&name) {
                    Ok(()) => {
                        self.begin(&name, "an operator's failover");
                        wanted.waits = Some((Way::HandOff, now + MOVE));
                    }
                    Err(_) if force => {
                        self.plain(&name);
                        wanted.waits = Some((Way::Plain, now + PLAIN));
                    }
                    Err(why) => wanted.result.text = format!("{name} stays at {own}: {why}"),
                }
            } else if there {
                let fit = self.policy.fitness(&name).can_serve();
                if fit {
                    let time = self.time();
                    if let Some(peering) = &mut self.peering {
                        let reason = "an operator's failover".to_owned();
                        peering.handoff.handle(Input::Ask { vip: name, reason }, time);
                    }
                    wanted.waits = Some((Way::HandOff, now + MOVE));
                } else {
                    wanted.result.text = format!("{name} stays at {peer}: {own} cannot serve it");
                }
            } else {
                wanted.result.text = format!("neither {own} nor {peer} is known to hold {name}");
            }
            vips.push(wanted);
        }
        Ok(vips)
    }

    fn begin(&mut self, vip: &str, reason: &str) {
        let now = self.time();
        if let Some(peering) = &mut self.peering {
            peering.handoff.handle(Input::Begin { vip: vip.to_owned(), reason: reason.to_owned() }, now);
        }
    }

    fn plain(&mut self, vip: &str) {
        self.tell_vrrp(Command::HandOff { router: vip.to_owned(), step: HandOffStep::Resign });
    }

    /// A hand-off moved a VIP, or did not.
    pub(super) fn moved(&mut self, vip: &str, how: Result<Duration, String>) {
        let mut plain = false;
        for request in &mut self.requests {
            for wanted in request.vips.iter_mut().filter(|wanted| wanted.result.vip == vip) {
                if !matches!(wanted.waits, Some((Way::HandOff, _))) {
                    continue;
                }
                wanted.waits = None;
                match &how {
                    Ok(_) => wanted.arrived("handed over; its connections live on"),
                    Err(_) if request.force && wanted.result.from == self.node.name => {
                        wanted.waits = Some((Way::Plain, Instant::now() + PLAIN));
                        plain = true;
                    }
                    Err(why) => wanted.result.text = format!("{vip} stays at {}: {why}", wanted.result.from),
                }
            }
        }
        if plain {
            self.plain(vip);
        }
    }

    /// Looks what has become of everything that somebody waits for. Called in every turn of the loop.
    pub(super) fn answer_requests(&mut self) {
        if self.requests.is_empty() {
            return;
        }
        let snapshot = self.vrrp.snapshot();
        let now = Instant::now();
        for wanted in self.requests.iter_mut().flat_map(|request| &mut request.vips) {
            let Some((way, until)) = wanted.waits else { continue };
            let router = snapshot.routers.iter().find(|router| router.config.name == wanted.result.vip);
            let there = router.is_some_and(|router| router.peer.is_some_and(|(claim, _)| claim.standing.is_held()));
            if way == Way::Plain && there {
                wanted.waits = None;
                wanted.arrived("given up at once; its connections were reset");
            } else if until <= now {
                wanted.waits = None;
                wanted.result.text = "it did not move in time; `lbnode events` tells what happened".into();
            }
        }
        let (done, rest) = std::mem::take(&mut self.requests)
            .into_iter()
            .partition(|request| request.vips.iter().all(|wanted| wanted.waits.is_none()));
        self.requests = rest;
        for Request { vips, reply, .. } in done {
            let vips = vips.into_iter().map(|wanted| wanted.result).collect();
            // A caller that left has no use for the answer.
            let _ = reply.send(Response::Failover { vips });
        }
    }

    /// Whether this node has a VIP that its peer could take.
    fn can_hand_over(&self) -> Vec<String> {
        let snapshot = self.vrrp.snapshot();
        let held = snapshot.routers.iter().filter(|router| router.state == State::Master);
        held.map(|router| router.config.name.clone()).filter(|name| self.peer_is_ready(name).is_ok()).collect()
    }

    /// Maintenance begins: VIPs are handed over first.
    pub(super) fn leave_for_maintenance(&mut self, reply: oneshot::Sender<Response>) {
        for vip in self.can_hand_over() {
            self.begin(&vip, "maintenance");
        }
        self.leaving = Some(Leaving::Maintenance { until: Instant::now() + MOVE, reply });
        self.go_on_leaving();
    }

    /// The agent is to end within `limit`: VIPs are handed over first, and their connections have the rest of the time.
    pub(super) fn leave_for_good(&mut self, limit: Duration) {
        for vip in self.can_hand_over() {
            self.begin(&vip, "the agent is stopping");
        }
        let now = Instant::now();
        self.leaving = Some(Leaving::Stop { move_until: now + MOVE.min(limit), until: now + limit, closing: false });
    }

    /// A hand-off that has not moved its VIP yet.
    fn is_moving(&self) -> bool {
        let snapshot = self.vrrp.snapshot();
        let held = |vip: &str| {
            snapshot.routers.iter().any(|router| router.config.name == vip && router.state == State::Master)
        };
        self.peering.as_ref().is_some_and(|peering| {
            peering.handoff.progress().any(|progress| held(&progress.vip) && progress.connections_left.is_none())
        })
    }

    /// Called in every turn of the loop; `true`: the agent may end now.
    pub(super) fn go_on_leaving(&mut self) -> bool {
        let now = Instant::now();
        let moving = self.is_moving();
        match self.leaving.take() {
            None => false,
            Some(Leaving::Maintenance { until, reply }) if moving && now < until => {
                self.leaving = Some(Leaving::Maintenance { until, reply });
                false
            }
            Some(Leaving::Maintenance { reply, .. }) => {
                self.policy.handle(crate::failover::Input::Maintenance(true));
                let _ = reply.send(Response::Maintenance { on: true, changed: true });
                false
            }
            Some(Leaving::Stop { move_until, until, closing }) => {
                let idle = self.peering.as_ref().is_none_or(|peering| peering.handoff.is_idle());
                let closing = closing
                    || now >= until && !idle && {
                        let time = self.time();
                        if let Some(peering) = &mut self.peering {
                            peering.handoff.handle(Input::Stop, time);
                        }
                        true
                    };
                let done = if moving { now >= move_until } else { idle || closing && now >= until + PLAIN };
                self.leaving = Some(Leaving::Stop { move_until, until, closing });
                done
            }
        }
    }

    /// When [`Agent::go_on_leaving`] or [`Agent::answer_requests`] has to look at the clock again.
    pub(super) fn leaving_deadline(&self) -> Option<Instant> {
        let leaving = self.leaving.as_ref().map(|leaving| match leaving {
            Leaving::Maintenance { until, .. } => *until,
            Leaving::Stop { move_until, until, closing } => {
                let now = Instant::now();
                if now < *move_until {
                    *move_until
                } else if *closing {
                    *until + PLAIN
                } else {
                    *until
                }
            }
        });
        let waits = self.requests.iter().flat_map(|request| &request.vips).filter_map(|wanted| wanted.waits);
        waits.map(|(_, until)| until).chain(leaving).min()
    }
}

impl Wanted {
    fn arrived(&mut self, how: &str) {
        self.result.moved = true;
        self.result.took_ms = Some((self.began.elapsed().as_secs_f64() * 10_000.0).round() / 10.0);
        self.result.text = format!("{} went from {} to {}: {how}", self.result.vip, self.result.from, self.result.to);
    }
}
