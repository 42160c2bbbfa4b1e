//! One VIP of a node: its two possible roles, the jobs of both, and what has to be cleared away behind them.

use std::collections::VecDeque;
use std::time::Duration;

use vrrp::types::Time;

use super::super::job::{Job, Outcome, Vip};
use super::super::message::{Body, Id, Message, words};
use super::giving::Giving;
use super::taking::Taking;
use super::{ANSWER, Direction, Facts, Node, Output, Progress};

/// How soon a removal that failed is tried again; a mute node that becomes active would be silent.
const REMOVE_AGAIN: Duration = Duration::from_millis(500);
/// After so many failures it is said, and tried less often.
const REMOVALS: u8 = 10;
const REMOVE_SELDOM: Duration = Duration::from_secs(2);

/// Which of a node's two sets of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Leaver,
    Taker,
}

fn role(job: &Job) -> Role {
    match job {
        Job::Install { .. } | Job::Probe { .. } | Job::Settle { .. } | Job::RemoveTaker => Role::Taker,
        Job::Prepare | Job::AwaitProbe | Job::Mute | Job::Dump | Job::Reset | Job::RemoveLeaver | Job::Count => {
            Role::Leaver
        }
    }
}

/// What a role has left in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Residue {
    None,
    /// A hand-off is using it.
    InUse,
    /// The job is queued or running.
    Going {
        number: u64,
        tries: u8,
    },
    /// The job failed.
    Again {
        at: Time,
        tries: u8,
    },
}

/// The jobs of a VIP, of which the kernel sees one at a time.
#[derive(Debug, Default)]
struct Jobs {
    /// A few at most: each hand-off waits for one, and takes the rest back when it ends.
    queue: VecDeque<(u64, Job)>,
    /// And whether it is one that waits for the peer's probe.
    running: Vec<(u64, bool)>,
}

impl Jobs {
    fn next(&mut self) -> Option<(u64, Job)> {
        let position = if self.running.is_empty() {
            0
        } else if self.running.iter().all(|(_, waits)| *waits) {
            self.queue.iter().position(|(_, job)| *job == Job::RemoveLeaver)?
        } else {
            return None;
        };
        let (number, job) = self.queue.remove(position)?;
        self.running.push((number, job == Job::AwaitProbe));
        Some((number, job))
    }
}

/// What becomes of a VIP once nothing of it is under way.
#[derive(Debug)]
enum Next {
    Same,
    Removed,
    Changed(Vip),
}

/// One VIP.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) vip: Vip,
    next: Next,
    pub(super) facts: Facts,
    /// This node as the leaver.
    pub(super) giving: Option<Giving>,
    /// This node as the taker.
    pub(super) taking: Option<Taking>,
    jobs: Jobs,
    leaver: Residue,
    taker: Residue,
    /// What this node asked the peer for, and until when it waits.
    asked: Option<(Id, Time)>,
    /// What the peer asked for. One at a time: a newer request replaces it.
    wanted: Option<Id>,
    pub(super) refused: Option<String>,
}

impl Place {
    pub(super) fn new(vip: Vip) -> Place {
        Place {
            vip,
            next: Next::Same,
            facts: Facts::default(),
            giving: None,
            taking: None,
            jobs: Jobs::default(),
            leaver: Residue::None,
            taker: Residue::None,
            asked: None,
            wanted: None,
            refused: None,
        }
    }

    // === inputs ===

    pub(super) fn ask(&mut self, reason: String, node: &mut Node, now: Time) {
        let why = if self.facts.master {
            Some("this node has the VIP already")
        } else if self.asked.is_some() {
            Some("the peer has been asked already")
        } else {
            self.obstacle(node)
        };
        if let Some(why) = why {
            node.refused(&self.vip.name, None, Direction::FromPeer, why);
            return;
        }
        let id = node.id();
        self.asked = Some((id, now + ANSWER));
        node.send(&self.vip.name, id, Body::Want { reason });
    }

    pub(super) fn decline(&mut self, id: Id, why: String, node: &mut Node) {
        if self.wanted == Some(id) {
            self.wanted = None;
            node.send(&self.vip.name, id, Body::Refused { why });
        }
    }

    pub(super) fn message(&mut self, message: Message, node: &mut Node, now: Time) {
        let of_giving = self.giving.as_ref().is_some_and(|giving| giving.id == message.id);
        let of_taking = self.taking.as_ref().is_some_and(|taking| taking.id == message.id);
        match message.body {
            Body::Want { reason } => self.want(message.id, &reason, node),
            // A peer that says it twice is confused; the first one counts.
            Body::Offer { .. } if of_giving || of_taking => node.ignored += 1,
            Body::Offer { reason, address, leaver, probe, connections } => {
                self.asked = None;
                let objection = self.objection(address, leaver, connections, node);
                match objection {
                    None => self.take(message.id, &reason, leaver, probe, node, now),
                    Some(why) => {
                        self.refused = Some(why.clone());
                        node.refused(&self.vip.name, Some(message.id), Direction::FromPeer, &why);
                        node.send(&self.vip.name, message.id, Body::Refused { why });
                    }
                }
            }
            Body::Refused { why } if self.asked.is_some_and(|(id, _)| id == message.id) => {
                self.asked = None;
                self.refuse(Some(message.id), Direction::FromPeer, &words(&why), node);
            }
            body if of_giving => self.giving_message(body, node, now),
            body if of_taking => self.taking_message(body, node, now),
            body => node.disown(&Message { vip: message.vip, id: message.id, body }),
        }
    }

    fn want(&mut self, id: Id, reason: &str, node: &mut Node) {
        if !(self.facts.master && self.facts.address_present) {
            let why = "this node doesn't have the VIP either".to_owned();
            node.send(&self.vip.name, id, Body::Refused { why });
            return;
        }
        if let Some(older) = self.wanted.replace(id) {
            node.send(&self.vip.name, older, Body::Refused { why: "a newer request replaces this one".to_owned() });
        }
        node.outputs.push_back(Output::Wanted { vip: self.vip.name.clone(), id, reason: words(reason) });
    }

    pub(super) fn job_ended(&mut self, number: u64, outcome: Outcome, node: &mut Node, now: Time) {
        let Some(position) = self.jobs.running.iter().position(|(running, _)| *running == number) else {
            node.ignored += 1;
            return;
        };
        self.jobs.running.remove(position);
        for residue in [&mut self.leaver, &mut self.taker] {
            if let Residue::Going { number: removal, tries } = *residue
                && removal == number
            {
                *residue = match outcome {
                    Outcome::Failed(_) if tries < REMOVALS => Residue::Again { at: now + REMOVE_AGAIN, tries },
                    Outcome::Failed(ref why) => {
                        self.refused = Some(format!(
                            "what a hand-off left in the kernel cannot be removed ({why}); `lbnode release` does it"
                        ));
                        Residue::Again { at: now + REMOVE_SELDOM, tries: REMOVALS - 1 }
                    }
                    _ => Residue::None,
                };
                return;
            }
        }
        if self.giving.as_ref().is_some_and(|giving| giving.job == Some(number)) {
            self.giving_job_ended(outcome, node, now);
        } else if self.taking.as_ref().is_some_and(|taking| taking.job == Some(number)) {
            self.taking_job_ended(outcome, node, now);
        }
    }

    pub(super) fn election(&mut self, facts: Facts, node: &mut Node, now: Time) {
        self.facts = facts;
        self.giving_election(node, now);
        self.taking_election(node, now);
    }

    pub(super) fn connected(&mut self, node: &mut Node, now: Time) {
        self.giving_connected(node, now);
        self.taking_connected(node, now);
    }

    pub(super) fn disconnected(&mut self, node: &mut Node, now: Time) {
        const WHY: &str = "the session with the peer broke";
        self.wanted = None;
        if let Some((id, _)) = self.asked.take() {
            self.refuse(Some(id), Direction::FromPeer, WHY, node);
        }
        if self.giving.as_ref().is_some_and(|giving| giving.may_abort()) {
            self.abort_giving(WHY, true, node);
        }
        if self.taking.as_ref().is_some_and(|taking| taking.may_abort()) {
            self.end_taking(WHY, true, node, now);
        }
    }

    pub(super) fn peer_lost(&mut self, node: &mut Node, now: Time) {
        if let Some((id, _)) = self.asked.take() {
            self.refuse(Some(id), Direction::FromPeer, "the peer is gone", node);
        }
        self.wanted = None;
        self.giving_peer_lost(node, now);
        if self.taking.is_some() {
            self.end_taking("the peer is gone, and its connections with it", false, node, now);
        }
    }

    /// Another VIP under this name, or none.
    pub(super) fn configure(&mut self, vip: Option<Vip>, node: &mut Node, now: Time) {
        self.next = match vip {
            Some(vip) if vip == self.vip => Next::Same,
            Some(vip) => Next::Changed(vip),
            None => Next::Removed,
        };
        match self.next {
            Next::Same => {}
            Next::Removed => self.close("the VIP is configured no more", node, now),
            Next::Changed(_) => self.close("the VIP's configuration changed", node, now),
        }
    }

    /// Ends whatever is under way, at once.
    pub(super) fn close(&mut self, why: &str, node: &mut Node, now: Time) {
        if let Some((id, _)) = self.asked.take() {
            self.refuse(Some(id), Direction::FromPeer, why, node);
        }
        if let Some(id) = self.wanted.take() {
            node.send(&self.vip.name, id, Body::Refused { why: why.to_owned() });
        }
        self.close_giving(why, node, now);
        if self.taking.is_some() {
            self.end_taking(why, true, node, now);
        }
    }

    // === time ===

    pub(super) fn deadline(&self, node: &Node) -> Option<Time> {
        let again = [self.leaver, self.taker].into_iter().filter_map(|residue| match residue {
            Residue::Again { at, .. } => Some(at),
            _ => None,
        });
        let giving = self.giving.as_ref().and_then(Giving::next_deadline);
        let taking = self.taking.as_ref().and_then(|taking| taking.next_deadline(node));
        again.chain(giving).chain(taking).chain(self.asked.map(|(_, until)| until)).min()
    }

    pub(super) fn expire(&mut self, node: &mut Node, now: Time) {
        if let Some((id, until)) = self.asked
            && until <= now
        {
            self.asked = None;
            self.refuse(Some(id), Direction::FromPeer, "the peer did not answer in time", node);
        }
        for role in [Role::Leaver, Role::Taker] {
            if let Residue::Again { at, tries } = *self.residue(role)
                && at <= now
            {
                self.remove_now(role, tries, node);
            }
        }
        self.expire_giving(node, now);
        self.expire_taking(node, now);
    }

    /// What holds after every input, whichever it was.
    pub(super) fn look(&mut self, node: &mut Node, now: Time) {
        self.look_at_giving(node, now);
        self.look_at_taking(node, now);
        if self.is_idle() {
            match std::mem::replace(&mut self.next, Next::Same) {
                Next::Changed(vip) => self.vip = vip,
                next => self.next = next,
            }
        }
        while let Some((number, job)) = self.jobs.next() {
            node.outputs.push_back(Output::Run { vip: self.vip.clone(), number, job });
        }
    }

    // === what both roles use ===

    /// Whether the VIP is on its way, or about to be: there is room for one such hand-off.
    fn is_moving(&self) -> bool {
        self.giving.as_ref().is_some_and(|giving| !giving.is_serving())
            || self.taking.as_ref().is_some_and(|taking| !taking.is_serving())
    }

    /// Why there can be no new hand-off, whichever way.
    pub(super) fn obstacle(&self, node: &Node) -> Option<&'static str> {
        if node.stopping {
            Some("this agent is ending")
        } else if !matches!(self.next, Next::Same) {
            Some("the VIP's configuration is being changed")
        } else if node.connected.is_none() {
            Some("there is no session with the peer")
        } else if !node.peer {
            Some("the peer's heartbeats are not heard")
        } else if self.is_moving() {
            Some("a hand-off is under way")
        } else {
            None
        }
    }

    /// Notes why there is no hand-off, and says so.
    pub(super) fn refuse(&mut self, id: Option<Id>, direction: Direction, why: &str, node: &mut Node) {
        self.refused = Some(why.to_owned());
        node.refused(&self.vip.name, id, direction, why);
    }

    /// The peer's request, for the one who answers it.
    pub(super) fn take_wanted(&mut self) -> Option<Id> {
        self.wanted.take()
    }

    /// Queues a job that leaves something behind, or works on what is there.
    pub(super) fn run(&mut self, job: Job, node: &mut Node) -> u64 {
        *self.residue(role(&job)) = Residue::InUse;
        self.queue(job, node)
    }

    /// Clears away what a role has left, and takes back what it still wanted to have done.
    pub(super) fn remove(&mut self, role: Role, node: &mut Node) {
        self.forget_jobs(role);
        if *self.residue(role) == Residue::InUse {
            self.remove_now(role, 0, node);
        }
    }

    fn remove_now(&mut self, role: Role, tries: u8, node: &mut Node) {
        let job = match role {
            Role::Leaver => Job::RemoveLeaver,
            Role::Taker => Job::RemoveTaker,
        };
        let number = self.queue(job, node);
        *self.residue(role) = Residue::Going { number, tries: tries + 1 };
    }

    /// Takes back what a role wanted to have done and what did not begin yet.
    pub(super) fn forget_jobs(&mut self, of: Role) {
        self.jobs.queue.retain(|(_, job)| role(job) != of || matches!(job, Job::RemoveLeaver | Job::RemoveTaker));
    }

    /// Whether an earlier hand-off of this node has left nothing that keeps it from answering for the VIP.
    pub(super) fn leaver_is_clear(&self) -> bool {
        self.leaver == Residue::None
    }

    /// Whether this node has, or may have, rules that send packets on to the leaver.
    pub(super) fn passes_on(&self) -> bool {
        self.taker != Residue::None
    }

    fn queue(&mut self, job: Job, node: &mut Node) -> u64 {
        node.jobs += 1;
        self.jobs.queue.push_back((node.jobs, job));
        node.jobs
    }

    fn residue(&mut self, role: Role) -> &mut Residue {
        match role {
            Role::Leaver => &mut self.leaver,
            Role::Taker => &mut self.taker,
        }
    }

    // === what is told ===

    pub(super) fn progress(&self) -> impl Iterator<Item = Progress> + '_ {
        let giving = self.giving.as_ref().map(|giving| giving.progress(&self.vip.name));
        let taking = self.taking.as_ref().map(|taking| taking.progress(&self.vip.name));
        giving.into_iter().chain(taking)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.giving.is_none()
            && self.taking.is_none()
            && self.jobs.queue.is_empty()
            && self.jobs.running.is_empty()
            && [self.leaver, self.taker].iter().all(|residue| matches!(residue, Residue::None))
    }

    pub(super) fn is_gone(&self) -> bool {
        matches!(self.next, Next::Removed) && self.is_idle()
    }
}
