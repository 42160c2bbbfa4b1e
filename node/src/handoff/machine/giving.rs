//! This node as the leaver: it gives the VIP away and keeps the connections that it has.

use vrrp::types::Time;

use super::super::job::{Flow, Job, Outcome, ProbeTarget};
use super::super::message::{Body, FLOWS_MAX, Id, chunks, words};
use super::place::{Place, Role};
use super::{COUNT_EVERY, Direction, IN_FLIGHT, JOB, MOVE, Node, Order, Output, PREPARE, Progress, SILENCE, STEP};

/// What it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Job `Prepare`.
    Preparing,
    /// The peer, until it is ready. The offer is out.
    Offered,
    /// The peer, until it has the VIP. From here on there is no way back but the elections'.
    Yielding,
    /// Job `Mute`.
    Muting,
    /// The kernel, until the address is gone.
    LettingGo,
    /// The peer, until it has announced again.
    Released,
    /// Job `Dump`.
    Dumping,
    /// The peer, until its rules are as they stay.
    Dumped,
    /// The connections, until they end.
    Serving,
    /// Job `Reset`, the last one.
    Resetting,
}

/// A hand-off to the peer.
#[derive(Debug)]
pub(super) struct Giving {
    pub(super) id: Id,
    /// The job that it waits for.
    pub(super) job: Option<u64>,
    reason: String,
    /// The peer's request that this is the answer to, as long as no offer is out.
    wanted: Option<Id>,
    step: Step,
    began: Time,
    /// When it became irrevocable.
    went: Time,
    /// The highest term then.
    term: u64,
    /// Of the step.
    deadline: Option<Time>,
    probe_seen: bool,
    /// The kernel has let the address go: from now on being active is news.
    gone: bool,
    /// Nobody passes packets on any more: this node becomes active again soon, or the connections are lost.
    orphaned: bool,
    flows: u64,
    left: Option<u64>,
    /// How many times in a row nothing was left.
    zeroes: u8,
    count_at: Option<Time>,
    /// When the connections that are left are reset.
    until: Option<Time>,
    /// Why they are.
    why: String,
}

impl Giving {
    /// Whether the VIP didn't begin to move.
    pub(super) fn may_abort(&self) -> bool {
        matches!(self.step, Step::Preparing | Step::Offered)
    }

    /// Whether the VIP has moved.
    pub(super) fn is_serving(&self) -> bool {
        matches!(self.step, Step::Serving | Step::Resetting)
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        [self.deadline, self.count_at, self.until].into_iter().flatten().min()
    }

    pub(super) fn progress(&self, vip: &str) -> Progress {
        let step = match self.step {
            Step::Preparing => "prepares",
            Step::Offered => "offered, the peer prepares",
            Step::Yielding => "the peer takes over",
            Step::Muting | Step::LettingGo => "lets the address go",
            Step::Released | Step::Dumping | Step::Dumped => "the peer settles",
            Step::Serving => "serves the connections that are left",
            Step::Resetting => "resets the connections that are left",
        };
        Progress {
            vip: vip.to_owned(),
            id: self.id,
            direction: Direction::ToPeer,
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
    /// Gives the VIP to the peer.
    pub(super) fn begin(&mut self, reason: String, node: &mut Node, now: Time) {
        let wanted = self.take_wanted();
        let obstacle = if !self.facts.master {
            Some("this node is not active")
        } else if !self.facts.address_present {
            Some("this node doesn't have the address yet")
        } else if self.giving.is_some() {
            Some("a hand-off is under way")
        } else {
            self.obstacle(node)
        };
        if let Some(why) = obstacle {
            if let Some(id) = wanted {
                node.send(&self.vip.name, id, Body::Refused { why: why.to_owned() });
            }
            self.refuse(None, Direction::ToPeer, why, node);
            return;
        }
        let job = self.run(Job::Prepare, node);
        let id = node.id();
        node.outputs.push_back(Output::Began {
            vip: self.vip.name.clone(),
            id,
            direction: Direction::ToPeer,
            reason: reason.clone(),
        });
        self.giving = Some(Giving {
            id,
            job: Some(job),
            reason,
            wanted,
            step: Step::Preparing,
            began: now,
            went: now,
            term: self.facts.term,
            deadline: Some(now + PREPARE),
            probe_seen: false,
            gone: false,
            orphaned: false,
            flows: 0,
            left: None,
            zeroes: 0,
            count_at: None,
            until: None,
            why: String::new(),
        });
    }

    // === inputs ===

    pub(super) fn giving_message(&mut self, body: Body, node: &mut Node, now: Time) {
        let Some(giving) = &mut self.giving else { return };
        match (giving.step, body) {
            (Step::Offered, Body::Ready) if giving.probe_seen => self.go(node, now),
            (Step::Offered, Body::Ready) => self.abort_giving("the peer was ready without a probe", true, node),
            (Step::Preparing | Step::Offered, Body::Refused { why } | Body::Abort { why }) => {
                self.abort_giving(&words(&why), false, node);
            }
            (Step::Yielding, Body::Taken) => self.mute(node, now),
            (Step::Yielding, Body::Refused { why } | Body::Abort { why }) => self.not_taken(&words(&why), node, now),
            (Step::Released, Body::Announced) => self.dump(node, now),
            (Step::Dumping | Step::Dumped, Body::Settled) => self.serve(node, now),
            (Step::Muting | Step::LettingGo, Body::Abort { .. }) => giving.orphaned = true,
            (Step::Released | Step::Dumping | Step::Dumped, Body::Abort { .. }) => {
                giving.orphaned = true;
                self.serve(node, now);
            }
            (Step::Serving, Body::Abort { .. }) if !giving.orphaned => {
                giving.orphaned = true;
                giving.until = Some(giving.until.map_or(now + SILENCE, |until| until.min(now + SILENCE)));
            }
            _ => node.ignored += 1,
        }
    }

    pub(super) fn giving_job_ended(&mut self, outcome: Outcome, node: &mut Node, now: Time) {
        let Some(giving) = &mut self.giving else { return };
        giving.job = None;
        match (giving.step, outcome) {
            (Step::Preparing, Outcome::Prepared { flows, probe }) => self.offer(&flows, probe, node),
            (Step::Offered, Outcome::ProbeSeen) => {
                giving.probe_seen = true;
                let id = giving.id;
                node.send(&self.vip.name, id, Body::ProbeSeen);
            }
            (Step::Preparing | Step::Offered, outcome) => self.abort_giving(&complaint(outcome), true, node),
            (Step::Muting, Outcome::Done) => self.let_go(node, now),
            (Step::Muting, outcome) => self.cut(&complaint(outcome), node, now),
            (Step::Dumping | Step::Dumped, Outcome::Flows(flows)) => self.dumped(flows, node, now),
            // The taker settles with the first dump, and tells when.
            (Step::Dumping, _) => giving.wait(Step::Dumped, now),
            (Step::Serving, Outcome::Count(count)) => self.counted(count, node, now),
            (Step::Serving, _) => giving.count_at = Some(now + COUNT_EVERY),
            (Step::Resetting, Outcome::Reset(count)) => self.reset(count, node, now),
            (Step::Resetting, _) => self.reset(0, node, now),
            (Step::Yielding | Step::LettingGo | Step::Released | Step::Dumped, _) => node.ignored += 1,
        }
    }

    pub(super) fn giving_election(&mut self, node: &mut Node, now: Time) {
        let Some(giving) = &mut self.giving else { return };
        match giving.step {
            Step::Preparing | Step::Offered if !(self.facts.master && self.facts.address_present) => {
                self.abort_giving("this node lost the VIP meanwhile", true, node);
            }
            Step::LettingGo if !self.facts.address_present => self.released(node, now),
            Step::Resetting if !self.facts.address_present => giving.gone = true,
            _ => {}
        }
    }

    pub(super) fn giving_connected(&mut self, node: &mut Node, now: Time) {
        let Some(giving) = &mut self.giving else { return };
        let again = match giving.step {
            Step::Yielding => Body::Go,
            Step::Released => Body::Released,
            // The dump may have been lost half-way, and is not kept.
            Step::Dumped => return self.dump(node, now),
            _ => return,
        };
        let id = giving.id;
        node.send(&self.vip.name, id, again);
    }

    pub(super) fn giving_peer_lost(&mut self, node: &mut Node, now: Time) {
        const WHY: &str = "the peer is gone";
        let Some(giving) = &mut self.giving else { return };
        match giving.step {
            Step::Preparing | Step::Offered => self.abort_giving(WHY, true, node),
            Step::Yielding => self.not_taken(WHY, node, now),
            Step::Released | Step::Dumping | Step::Dumped => self.serve(node, now),
            // They run their course: the address may go, if the election sees it so.
            Step::Muting | Step::LettingGo | Step::Serving | Step::Resetting => {}
        }
    }

    pub(super) fn close_giving(&mut self, why: &str, node: &mut Node, now: Time) {
        match &self.giving {
            Some(giving) if giving.may_abort() => self.abort_giving(why, true, node),
            Some(giving) if giving.step != Step::Resetting => self.cut(why, node, now),
            _ => {}
        }
    }

    pub(super) fn expire_giving(&mut self, node: &mut Node, now: Time) {
        let Some(giving) = &mut self.giving else { return };
        if giving.count_at.is_some_and(|at| at <= now) {
            giving.count_at = None;
            let job = self.run(Job::Count, node);
            if let Some(giving) = &mut self.giving {
                giving.job = Some(job);
            }
        }
        let comes_back = self.taking.as_ref().is_some_and(|taking| !taking.is_serving());
        let Some(giving) = &mut self.giving else { return };
        if giving.until.is_some_and(|at| at <= now) {
            if comes_back {
                // A reset would meet the new connections too, once this node is active again.
                giving.until = Some(now + COUNT_EVERY);
            } else {
                self.cut("handed-off connections may not live any longer", node, now);
            }
            return;
        }
        if giving.deadline.is_none_or(|at| at > now) {
            return;
        }
        giving.deadline = None;
        match giving.step {
            Step::Preparing | Step::Offered => self.abort_giving("it was not prepared in time", true, node),
            Step::Yielding => self.not_taken("the peer did not take over in time", node, now),
            Step::Muting => self.cut("this node could not be muted in time", node, now),
            Step::LettingGo if self.facts.master && self.facts.address_present => {
                self.end_giving("this node's election kept the address", 0, node, now);
            }
            Step::LettingGo => self.released(node, now),
            Step::Released => self.dump(node, now),
            Step::Dumping => giving.wait(Step::Dumped, now),
            Step::Dumped => self.serve(node, now),
            Step::Serving => {}
            Step::Resetting => self.reset(0, node, now),
        }
    }

    /// Whoever became active again serves its connections itself, and must answer for the VIP.
    pub(super) fn look_at_giving(&mut self, node: &mut Node, now: Time) {
        let active = self.facts.master && self.facts.address_present;
        if active && self.giving.as_ref().is_some_and(|giving| giving.gone) {
            self.end_giving("this node is active again", 0, node, now);
        }
    }

    // === before the VIP moves ===

    fn offer(&mut self, flows: &[Flow], probe: ProbeTarget, node: &mut Node) {
        if flows.len() > FLOWS_MAX {
            let why = format!("{} connections are too many to be handed off, {FLOWS_MAX} at most", flows.len());
            self.abort_giving(&why, true, node);
            return;
        }
        let job = self.run(Job::AwaitProbe, node);
        let Some(giving) = &mut self.giving else { return };
        giving.step = Step::Offered;
        giving.job = Some(job);
        giving.wanted = None;
        giving.flows = flows.len() as u64;
        let offer = Body::Offer {
            reason: giving.reason.clone(),
            address: self.vip.address,
            leaver: self.vip.own,
            probe,
            connections: giving.flows,
        };
        node.send(&self.vip.name, giving.id, offer);
        for part in chunks(flows) {
            node.send(&self.vip.name, giving.id, part);
        }
    }

    /// Undoes everything.
    pub(super) fn abort_giving(&mut self, why: &str, tell: bool, node: &mut Node) {
        let Some(giving) = self.giving.take() else { return };
        if let Some(id) = giving.wanted {
            node.send(&self.vip.name, id, Body::Refused { why: why.to_owned() });
        } else if tell && giving.step != Step::Preparing {
            node.send(&self.vip.name, giving.id, Body::Abort { why: why.to_owned() });
        }
        self.remove(Role::Leaver, node);
        self.refuse(Some(giving.id), Direction::ToPeer, why, node);
    }

    // === while it moves ===

    fn go(&mut self, node: &mut Node, now: Time) {
        let Some(giving) = &mut self.giving else { return };
        giving.went = now;
        giving.term = self.facts.term;
        giving.wait(Step::Yielding, now);
        node.order(&self.vip.name, Order::Yield(true));
        node.send(&self.vip.name, giving.id, Body::Go);
    }

    /// The peer doesn't have the VIP, as far as it says. The election knows better if it saw a higher term.
    fn not_taken(&mut self, why: &str, node: &mut Node, now: Time) {
        let Some(giving) = &self.giving else { return };
        if !self.facts.master || self.facts.term > giving.term {
            self.mute(node, now);
            return;
        }
        node.order(&self.vip.name, Order::Yield(false));
        self.abort_giving(why, true, node);
    }

    fn mute(&mut self, node: &mut Node, now: Time) {
        let job = self.run(Job::Mute, node);
        if let Some(giving) = &mut self.giving {
            giving.job = Some(job);
            giving.wait(Step::Muting, now);
        }
    }

    fn let_go(&mut self, node: &mut Node, now: Time) {
        let Some(giving) = &mut self.giving else { return };
        node.order(&self.vip.name, Order::LetGo);
        giving.wait(Step::LettingGo, now);
        if !self.facts.address_present {
            self.released(node, now);
        }
    }

    fn released(&mut self, node: &mut Node, now: Time) {
        let Some(giving) = &mut self.giving else { return };
        giving.gone = true;
        giving.wait(Step::Released, now);
        if giving.orphaned || !node.peer {
            self.serve(node, now);
            return;
        }
        node.send(&self.vip.name, giving.id, Body::Released);
    }

    fn dump(&mut self, node: &mut Node, now: Time) {
        let job = self.run(Job::Dump, node);
        if let Some(giving) = &mut self.giving {
            giving.job = Some(job);
            giving.wait(Step::Dumping, now);
        }
    }

    fn dumped(&mut self, mut flows: Vec<Flow>, node: &mut Node, now: Time) {
        let Some(giving) = &mut self.giving else { return };
        // There were fewer a moment ago. Those beyond the limit are reset by the taker.
        flows.truncate(FLOWS_MAX);
        giving.flows = flows.len() as u64;
        for part in chunks(&flows) {
            node.send(&self.vip.name, giving.id, part);
        }
        giving.wait(Step::Dumped, now);
    }

    // === when it has moved ===

    fn serve(&mut self, node: &mut Node, now: Time) {
        let Some(giving) = &mut self.giving else { return };
        giving.step = Step::Serving;
        giving.deadline = None;
        giving.job = None;
        giving.count_at = Some(now + COUNT_EVERY);
        giving.until = node.timeout.map(|timeout| now + timeout);
        if giving.orphaned {
            let soon = now + SILENCE;
            giving.until = Some(giving.until.map_or(soon, |until| until.min(soon)));
        }
        let moved = Output::Moved {
            vip: self.vip.name.clone(),
            id: giving.id,
            direction: Direction::ToPeer,
            flows: giving.flows,
            took: now - giving.began,
        };
        self.forget_jobs(Role::Leaver);
        node.outputs.push_back(moved);
        // What the peer left here when it gave the VIP to this node is at home again.
        self.end_taking("the VIP went back to the peer", false, node, now);
    }

    fn counted(&mut self, count: u64, node: &mut Node, now: Time) {
        let Some(giving) = &mut self.giving else { return };
        giving.left = Some(count);
        giving.zeroes = if count == 0 { giving.zeroes + 1 } else { 0 };
        giving.count_at = Some(now + COUNT_EVERY);
        node.send(&self.vip.name, giving.id, Body::Left { connections: count });
        if giving.zeroes >= 2 {
            self.end_giving("all of its connections ended", 0, node, now);
        }
    }

    /// Resets what is left, at whatever step, and ends.
    fn cut(&mut self, why: &str, node: &mut Node, now: Time) {
        self.forget_jobs(Role::Leaver);
        let job = self.run(Job::Reset, node);
        let Some(giving) = &mut self.giving else { return };
        if matches!(giving.step, Step::Yielding | Step::Muting) {
            node.order(&self.vip.name, Order::LetGo);
        }
        giving.step = Step::Resetting;
        giving.job = Some(job);
        giving.why = why.to_owned();
        giving.deadline = Some(now + JOB);
        giving.count_at = None;
        giving.until = None;
    }

    fn reset(&mut self, count: u64, node: &mut Node, now: Time) {
        let Some(giving) = &mut self.giving else { return };
        let why = std::mem::take(&mut giving.why);
        self.end_giving(&why, count, node, now);
    }

    /// It is over, and the taker's rules can go as well. They do so first, or what is late would meet silence here.
    fn end_giving(&mut self, why: &str, reset: u64, node: &mut Node, now: Time) {
        let Some(giving) = self.giving.take() else { return };
        node.send(&self.vip.name, giving.id, Body::Done);
        node.outputs.push_back(Output::Finished {
            vip: self.vip.name.clone(),
            id: giving.id,
            direction: Direction::ToPeer,
            flows: giving.flows,
            reset,
            lasted: now - giving.began,
            why: why.to_owned(),
        });
        self.remove(Role::Leaver, node);
    }
}

/// What a job says that did not do what it was for.
pub(super) fn complaint(outcome: Outcome) -> String {
    match outcome {
        Outcome::Failed(why) => why,
        other => format!("the kernel's side answered something else than was asked: {other:?}"),
    }
}
