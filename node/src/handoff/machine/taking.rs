//! This node as the taker: it gets the VIP, and passes the packets of the older connections on to the leaver.

use std::net::IpAddr;

use vrrp::types::Time;

use super::super::job::{Job, Neighbour, Outcome, ProbeTarget};
use super::super::message::{Body, Collected, FLOWS_MAX, Id, words};
use super::giving::{Giving, complaint};
use super::place::{Place, Role};
use super::{
    Direction, IN_FLIGHT, JOB, MOVE, Node, Order, Output, PATIENCE, PREPARE, PROBE_AGAIN, PROBE_LAST, PROBES, Progress,
    SILENCE, STEP,
};

/// What it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The peer's first dump.
    Collecting,
    /// Job `Install`.
    Installing,
    /// The peer, until it has seen the probe.
    Probing,
    /// The peer's word.
    Ready,
    /// The election, until the address is announced; then whatever kept this node mute. From here on there is no way
    /// back but the elections'.
    TakingOver,
    /// The peer, until it has let the address go.
    Taken,
    /// The peer's second dump.
    Announced,
    /// Job `Settle`.
    Settling,
    /// The peer's connections, until they end.
    Serving,
}

/// A hand-off from the peer.
#[derive(Debug)]
pub(super) struct Taking {
    pub(super) id: Id,
    /// The job that it waits for.
    pub(super) job: Option<u64>,
    step: Step,
    began: Time,
    /// When it became irrevocable.
    went: Time,
    /// Of the step; of all steps together before it is irrevocable.
    deadline: Option<Time>,
    leaver: Neighbour,
    probe: ProbeTarget,
    tries: u8,
    /// When the probe is sent again, or given up.
    probe_at: Option<Time>,
    first: Collected,
    second: Collected,
    /// The leaver has let go already.
    released: bool,
    flows: u64,
    left: Option<u64>,
    /// When the leaver was heard about this last.
    heard: Time,
    /// The leaver has none left, but a newer hand-off still moves the VIP: the rules stay until it has.
    over: bool,
    /// When the rules go, whatever the leaver says.
    until: Option<Time>,
}

impl Taking {
    /// Whether the VIP didn't begin to move.
    pub(super) fn may_abort(&self) -> bool {
        matches!(self.step, Step::Collecting | Step::Installing | Step::Probing | Step::Ready)
    }

    /// Whether the VIP has moved.
    pub(super) fn is_serving(&self) -> bool {
        self.step == Step::Serving
    }

    /// Whether the election has done its part, and must not undo it.
    fn has_taken(&self) -> bool {
        matches!(self.step, Step::Taken | Step::Announced | Step::Settling)
    }

    pub(super) fn next_deadline(&self, node: &Node) -> Option<Time> {
        [self.deadline, self.probe_at, self.until, self.forgotten_at(node)].into_iter().flatten().min()
    }

    /// When a leaver that says nothing has forgotten this hand-off. Without a session it cannot say anything.
    fn forgotten_at(&self, node: &Node) -> Option<Time> {
        let connected = node.connected.filter(|_| self.is_serving())?;
        Some(self.heard.max(connected) + SILENCE)
    }

    pub(super) fn progress(&self, vip: &str) -> Progress {
        let step = match self.step {
            Step::Collecting => "receives the peer's connections",
            Step::Installing | Step::Probing => "prepares",
            Step::Ready => "is ready",
            Step::TakingOver => "takes over",
            Step::Taken | Step::Announced => "the peer lets the address go",
            Step::Settling => "settles",
            Step::Serving => "passes on what belongs to the peer's connections",
        };
        Progress {
            vip: vip.to_owned(),
            id: self.id,
            direction: Direction::FromPeer,
            step,
            connections_left: self.left,
            since: self.began,
        }
    }

    /// Waits for something else, as long as the move as a whole may still take.
    fn wait(&mut self, step: Step, now: Time) {
        self.step = step;
        self.deadline = Some((now + STEP).min(self.went + MOVE).max(now + IN_FLIGHT));
    }
}

impl Place {
    /// Why an offer cannot be taken.
    pub(super) fn objection(
        &self,
        address: IpAddr,
        leaver: Neighbour,
        connections: u64,
        node: &Node,
    ) -> Option<String> {
        let vip = &self.vip;
        if self.facts.master {
            return Some("both nodes believe that they are active".to_owned());
        }
        if let Some(why) = self.obstacle(node) {
            return Some(why.to_owned());
        }
        if address != vip.address {
            return Some(format!("the VIP is {address} there and {} here", vip.address));
        }
        if leaver.address.is_ipv4() != address.is_ipv4() || leaver.address == address {
            return Some(format!("{} cannot be the peer's own address beside {address}", leaver.address));
        }
        if leaver.mac == vip.own.mac || leaver.address == vip.own.address {
            return Some("the peer has this node's own address or MAC".to_owned());
        }
        if connections > FLOWS_MAX as u64 {
            return Some(format!("{connections} connections are too many to be handed off, {FLOWS_MAX} at most"));
        }
        None
    }

    /// Takes an offer that nothing speaks against.
    pub(super) fn take(
        &mut self,
        id: Id,
        reason: &str,
        leaver: Neighbour,
        probe: ProbeTarget,
        node: &mut Node,
        now: Time,
    ) {
        // Who offers is active: an older hand-off's connections are at home again.
        self.end_taking("the peer became active again", false, node, now);
        node.outputs.push_back(Output::Began {
            vip: self.vip.name.clone(),
            id,
            direction: Direction::FromPeer,
            reason: words(reason),
        });
        self.taking = Some(Taking {
            id,
            job: None,
            step: Step::Collecting,
            began: now,
            went: now,
            deadline: Some(now + PREPARE),
            leaver,
            probe,
            tries: 0,
            probe_at: None,
            first: Collected::default(),
            second: Collected::default(),
            released: false,
            flows: 0,
            left: None,
            heard: now,
            over: false,
            until: None,
        });
    }

    // === inputs ===

    pub(super) fn taking_message(&mut self, body: Body, node: &mut Node, now: Time) {
        let Some(taking) = &mut self.taking else { return };
        let vip = self.vip.address;
        match (taking.step, body) {
            (Step::Collecting, Body::Flows { part, flows, last }) => match taking.first.take(vip, part, &flows, last) {
                Ok(()) if last => self.install(node),
                Ok(()) => {}
                Err(why) => self.end_taking(why, true, node, now),
            },
            (Step::Probing, Body::ProbeSeen) => self.ready(node, now),
            (Step::Ready, Body::Go) => self.take_over(node, now),
            (Step::TakingOver, Body::Released) => taking.released = true,
            (Step::Taken | Step::Announced, Body::Released) => self.announced(node, now),
            (Step::TakingOver | Step::Taken | Step::Announced, Body::Flows { part, flows, last })
                if taking.released =>
            {
                match taking.second.take(vip, part, &flows, last) {
                    Ok(()) if last && taking.step == Step::Announced => self.settle(node, now),
                    Ok(()) => {}
                    // It settles with the first dump when the time is up.
                    Err(_) => node.ignored += 1,
                }
            }
            (Step::Serving, Body::Left { connections }) => {
                taking.left = Some(connections);
                taking.heard = now;
            }
            (Step::Serving, Body::Done) => taking.over = true,
            (step, Body::Done) if step != Step::Serving && !taking.may_abort() => {
                self.end_taking("the peer serves none of its connections any more", false, node, now);
            }
            (_, Body::Abort { why } | Body::Refused { why }) => self.end_taking(&words(&why), false, node, now),
            _ => node.ignored += 1,
        }
    }

    pub(super) fn taking_job_ended(&mut self, outcome: Outcome, node: &mut Node, now: Time) {
        let Some(taking) = &mut self.taking else { return };
        taking.job = None;
        match (taking.step, outcome) {
            (Step::Installing, Outcome::Done) => self.probe(node),
            (Step::Probing, Outcome::Done) => {
                taking.probe_at = Some(now + if taking.tries < PROBES { PROBE_AGAIN } else { PROBE_LAST });
            }
            (Step::Settling, Outcome::Done) => self.settled(node, now),
            (Step::Installing | Step::Probing | Step::Settling, outcome) => {
                self.end_taking(&complaint(outcome), true, node, now);
            }
            _ => node.ignored += 1,
        }
    }

    pub(super) fn taking_election(&mut self, node: &mut Node, now: Time) {
        let Some(taking) = &self.taking else { return };
        if taking.may_abort() && self.facts.master {
            self.end_taking("this node became active meanwhile", true, node, now);
        } else if taking.has_taken() && !self.facts.master {
            self.end_taking("this node lost the VIP again", true, node, now);
        }
    }

    pub(super) fn taking_connected(&mut self, node: &mut Node, _now: Time) {
        let Some(taking) = &self.taking else { return };
        let again = match taking.step {
            Step::Taken => Body::Taken,
            Step::Announced => Body::Announced,
            Step::Serving => Body::Settled,
            _ => return,
        };
        node.send(&self.vip.name, taking.id, again);
    }

    pub(super) fn expire_taking(&mut self, node: &mut Node, now: Time) {
        let Some(taking) = &mut self.taking else { return };
        if taking.until.is_some_and(|at| at <= now) || taking.forgotten_at(node).is_some_and(|at| at <= now) {
            self.end_taking("the peer has not said for too long that its connections live", true, node, now);
            return;
        }
        if taking.probe_at.is_some_and(|at| at <= now) {
            taking.probe_at = None;
            if taking.tries < PROBES {
                self.probe(node);
            } else {
                const WHY: &str = "a frame to the peer that carries the VIP did not arrive: a switch with port security or source \
                                   guard, or a hypervisor's filter, drops it; allow both nodes the VIP";
                self.end_taking(WHY, true, node, now);
            }
            return;
        }
        if taking.deadline.is_none_or(|at| at > now) {
            return;
        }
        taking.deadline = None;
        match taking.step {
            Step::Collecting | Step::Installing | Step::Probing | Step::Ready => {
                self.end_taking("it was not prepared in time", true, node, now);
            }
            // The leaver sees the higher term and lets go all the same.
            Step::TakingOver if self.facts.master => self.taken(node, now),
            Step::TakingOver => self.end_taking("this node's election did not take over in time", true, node, now),
            Step::Taken => {
                node.order(&self.vip.name, Order::AnnounceAgain);
                self.settle(node, now);
            }
            Step::Announced => self.settle(node, now),
            Step::Settling => self.end_taking("the rules could not be settled in time", true, node, now),
            Step::Serving => {}
        }
    }

    pub(super) fn look_at_taking(&mut self, node: &mut Node, now: Time) {
        let Some(taking) = &self.taking else { return };
        let facts = self.facts;
        let announced = facts.master && facts.address_present && facts.announced;
        if taking.step == Step::TakingOver && announced && self.giving.is_none() && self.leaver_is_clear() {
            self.taken(node, now);
        } else if taking.over && self.giving.as_ref().is_none_or(Giving::is_serving) {
            self.end_taking("all of the peer's connections ended", false, node, now);
        }
    }

    // === the steps ===

    fn install(&mut self, node: &mut Node) {
        let Some(taking) = &mut self.taking else { return };
        let old = taking.first.flows();
        let install = Job::Install { leaver: taking.leaver, old };
        taking.step = Step::Installing;
        let job = self.run(install, node);
        self.await_job(job);
    }

    fn probe(&mut self, node: &mut Node) {
        let Some(taking) = &mut self.taking else { return };
        taking.step = Step::Probing;
        taking.tries += 1;
        let probe = Job::Probe { target: taking.probe, source: None };
        let job = self.run(probe, node);
        self.await_job(job);
    }

    fn ready(&mut self, node: &mut Node, now: Time) {
        self.forget_jobs(Role::Taker);
        let Some(taking) = &mut self.taking else { return };
        taking.step = Step::Ready;
        taking.deadline = Some(now + STEP);
        taking.probe_at = None;
        taking.job = None;
        node.send(&self.vip.name, taking.id, Body::Ready);
    }

    fn take_over(&mut self, node: &mut Node, now: Time) {
        let Some(taking) = &mut self.taking else { return };
        taking.went = now;
        taking.wait(Step::TakingOver, now);
        node.order(&self.vip.name, Order::TakeOver);
    }

    fn taken(&mut self, node: &mut Node, now: Time) {
        let Some(taking) = &mut self.taking else { return };
        taking.wait(Step::Taken, now);
        node.send(&self.vip.name, taking.id, Body::Taken);
        if taking.released {
            self.announced(node, now);
        }
    }

    /// The leaver is mute: now nobody can be sent to it any more.
    fn announced(&mut self, node: &mut Node, now: Time) {
        let Some(taking) = &mut self.taking else { return };
        taking.released = true;
        taking.wait(Step::Announced, now);
        node.order(&self.vip.name, Order::AnnounceAgain);
        node.send(&self.vip.name, taking.id, Body::Announced);
        if taking.second.is_complete() {
            self.settle(node, now);
        }
    }

    fn settle(&mut self, node: &mut Node, now: Time) {
        let Some(taking) = &mut self.taking else { return };
        let dump = if taking.second.is_complete() { &taking.second } else { &taking.first };
        let old = dump.flows();
        taking.flows = old.len() as u64;
        taking.step = Step::Settling;
        taking.deadline = Some(now + JOB);
        (taking.first, taking.second) = (Collected::default(), Collected::default());
        let job = self.run(Job::Settle { old }, node);
        self.await_job(job);
    }

    fn settled(&mut self, node: &mut Node, now: Time) {
        let Some(taking) = &mut self.taking else { return };
        taking.step = Step::Serving;
        taking.deadline = None;
        taking.heard = now;
        taking.until = node.timeout.map(|timeout| now + timeout + PATIENCE);
        node.send(&self.vip.name, taking.id, Body::Settled);
        node.outputs.push_back(Output::Moved {
            vip: self.vip.name.clone(),
            id: taking.id,
            direction: Direction::FromPeer,
            flows: taking.flows,
            took: now - taking.began,
        });
    }

    /// It is over, whichever way; the rules go.
    pub(super) fn end_taking(&mut self, why: &str, tell: bool, node: &mut Node, now: Time) {
        let Some(taking) = self.taking.take() else { return };
        self.remove(Role::Taker, node);
        if taking.may_abort() {
            if tell {
                node.send(&self.vip.name, taking.id, Body::Refused { why: why.to_owned() });
            }
            self.refuse(Some(taking.id), Direction::FromPeer, why, node);
            return;
        }
        if tell {
            node.send(&self.vip.name, taking.id, Body::Abort { why: why.to_owned() });
        }
        if !taking.is_serving() {
            self.refused = Some(why.to_owned());
        }
        node.outputs.push_back(Output::Finished {
            vip: self.vip.name.clone(),
            id: taking.id,
            direction: Direction::FromPeer,
            flows: taking.flows,
            reset: 0,
            lasted: now - taking.began,
            why: why.to_owned(),
        });
    }

    fn await_job(&mut self, number: u64) {
        if let Some(taking) = &mut self.taking {
            taking.job = Some(number);
        }
    }
}
