//! The agents' shells: what a machine says is done, what happens is told to it; the session between them, and their
//! elections.

use std::collections::BTreeMap;
use std::time::Duration;

use node::handoff::machine::{HandOff, Input, Order, Output};
use node::handoff::message::Message;

use super::election::{Election, HEARTBEAT, Heartbeat, Wish};
use super::kernel::Kernel;
use super::{ANNOUNCE, Agent, Event, KERNEL, LATE, WEB, World, vip};

impl World {
    pub(super) fn start(&mut self, node: usize) {
        if self.nodes[node].agent.is_some() {
            return;
        }
        let now = self.now;
        let it = &mut self.nodes[node];
        it.life += 1;
        it.since = now;
        it.wants_address = false;
        let life = it.life;
        // What an older process left is cleared by name.
        it.kernel = Kernel::default();
        it.agent = Some(Agent {
            machine: HandOff::new(life * 2 + node as u64),
            election: Election::new(node == 0, false, now),
            running: BTreeMap::new(),
            wake: None,
            stopping: false,
            peer_told: false,
            told: None,
        });
        self.feed(node, Input::Configure { vips: vec![vip(node)], timeout: self.timeout });
        self.schedule(HEARTBEAT, Event::Tick { node, life });
        let soon = self.rng.within(HEARTBEAT * 2);
        self.schedule(soon, Event::Connect);
    }

    /// The process is gone; the guard removes the address and whatever hand-offs left (a route alone would go on
    /// answering for the VIP), and resets its connections.
    pub(super) fn kill(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        if it.agent.take().is_none() {
            return;
        }
        it.life += 1;
        it.kernel = Kernel::default();
        it.session = None;
        it.wants_address = false;
        self.lose_flows_of(node);
        self.break_session();
    }

    pub(super) fn feed(&mut self, node: usize, input: Input) {
        if self.nodes[node].agent.is_none() {
            return;
        }
        self.say(Some(node), &input);
        let now = self.now;
        let Some(agent) = &mut self.nodes[node].agent else { return };
        agent.machine.handle(input, now);
        self.flush(node);
    }

    pub(super) fn flush(&mut self, node: usize) {
        while let Some(output) = self.nodes[node].agent.as_mut().and_then(|agent| agent.machine.poll_output()) {
            self.say(Some(node), &output);
            match output {
                Output::Send(message) => self.post(node, message),
                Output::Run { number, job, .. } => self.begin_job(node, number, job),
                Output::Election { order, .. } => self.order(node, order),
                Output::Wanted { id, .. } => {
                    let answer = if self.rng.chance(80) {
                        Input::Begin { vip: WEB.into(), reason: "the peer asks".into() }
                    } else {
                        Input::Decline { vip: WEB.into(), id, why: "not now".into() }
                    };
                    self.feed(node, answer);
                }
                Output::Began { .. } => {}
                Output::Moved { .. } => self.moved += 1,
                Output::Finished { why, .. } | Output::Refused { why, .. } => *self.ends.entry(why).or_default() += 1,
            }
        }
        let now = self.now;
        let Some(agent) = &mut self.nodes[node].agent else { return };
        if let Some(deadline) = agent.machine.poll_timeout()
            && agent.wake != Some(deadline)
        {
            agent.wake = Some(deadline);
            let at = deadline.since(now) + self.rng.within(LATE);
            self.schedule(at, Event::Wake { node, deadline });
        }
    }

    // === the session ===

    pub(super) fn connect(&mut self) {
        if self.cut || self.session.is_some() || self.nodes.iter().any(|node| node.agent.is_none()) {
            return;
        }
        self.sessions += 1;
        self.session = Some(self.sessions);
        for node in 0..2 {
            let soon = self.rng.within(self.delay);
            self.nodes[node].last = self.now + soon;
            self.schedule(soon, Event::Session { node, session: self.session });
        }
    }

    pub(super) fn break_session(&mut self) {
        if self.session.take().is_none() {
            return;
        }
        for node in 0..2 {
            let soon = self.rng.within(Duration::from_millis(100));
            self.schedule(soon, Event::Session { node, session: None });
        }
        self.schedule(Duration::from_millis(300), Event::Connect);
    }

    pub(super) fn session_of(&mut self, node: usize, session: Option<u64>) {
        // The end of an older one that was noticed late, or the beginning of one that broke since.
        if self.nodes[node].agent.is_none() || session != self.session {
            return;
        }
        let before = std::mem::replace(&mut self.nodes[node].session, session);
        match (before, session) {
            (_, Some(_)) => self.feed(node, Input::Connected),
            (Some(_), None) => self.feed(node, Input::Disconnected),
            (None, None) => {}
        }
    }

    pub(super) fn post(&mut self, from: usize, message: Message) {
        let Some(session) = self.nodes[from].session else { return };
        let to = 1 - from;
        let at = (self.now + self.rng.within(self.delay)).max(self.nodes[to].last);
        self.nodes[to].last = at;
        self.mails += 1;
        self.mail.insert(self.mails, message);
        self.schedule(at - self.now, Event::Deliver { to, session, index: self.mails });
    }

    // === elections ===

    pub(super) fn tick(&mut self, node: usize) {
        let (now, life) = (self.now, self.nodes[node].life);
        self.schedule(HEARTBEAT, Event::Tick { node, life });
        let Some(agent) = &mut self.nodes[node].agent else { return };
        let lost = agent.peer_told && !agent.election.hears_peer(now);
        let wish = if agent.stopping { None } else { agent.election.tick(now) };
        if lost {
            agent.peer_told = false;
            self.feed(node, Input::PeerLost);
        }
        self.election_did(node, wish);
        self.beat(node);
    }

    pub(super) fn beat(&mut self, node: usize) {
        let Some(agent) = &self.nodes[node].agent else { return };
        let heartbeat = agent.election.heartbeat();
        if !self.cut {
            let soon = self.rng.within(self.delay);
            self.schedule(soon, Event::Heartbeat { to: 1 - node, heartbeat });
        }
    }

    pub(super) fn heartbeat(&mut self, to: usize, heartbeat: Heartbeat) {
        let now = self.now;
        let Some(agent) = &mut self.nodes[to].agent else { return };
        let wish = agent.election.heard(heartbeat, now);
        if !std::mem::replace(&mut agent.peer_told, true) {
            self.feed(to, Input::PeerBack);
        }
        self.election_did(to, wish);
    }

    pub(super) fn order(&mut self, node: usize, order: Order) {
        let now = self.now;
        if order == Order::LetGo && !self.nodes[node].agent.as_ref().is_some_and(|agent| agent.stopping) {
            let peer = self.nodes[1 - node].agent.as_ref().map(|agent| agent.election.master_at);
            let yielded = self.nodes[node].agent.as_ref().and_then(|agent| agent.election.yielding_at);
            let taken = peer.is_none_or(|at| at >= yielded);
            self.demand(!self.calm || taken, "the address was let go, and the peer never had it");
        }
        let Some(agent) = &mut self.nodes[node].agent else { return };
        let wish = agent.election.ordered(order, now);
        self.election_did(node, wish);
    }

    pub(super) fn election_did(&mut self, node: usize, wish: Option<Wish>) {
        let life = self.nodes[node].life;
        match wish {
            Some(Wish::Hold) => self.wish(node, true),
            Some(Wish::LetGo) => self.wish(node, false),
            Some(Wish::Lose) => {
                self.lose_flows_of(node);
                self.wish(node, false);
            }
            Some(Wish::Announce) => {
                let soon = self.rng.within(ANNOUNCE);
                self.schedule(soon, Event::Announced { node, life, first: false });
            }
            None => {}
        }
        if wish.is_some() {
            self.beat(node);
        }
        self.tell(node);
    }

    pub(super) fn tell(&mut self, node: usize) {
        let Some(agent) = &mut self.nodes[node].agent else { return };
        let facts = agent.election.facts;
        if agent.told.replace(facts) == Some(facts) {
            return;
        }
        self.feed(node, Input::Election { vip: WEB.into(), facts });
    }

    pub(super) fn wish(&mut self, node: usize, address: bool) {
        self.nodes[node].wish += 1;
        self.nodes[node].wants_address = address;
        let (life, wish) = (self.nodes[node].life, self.nodes[node].wish);
        let soon = self.rng.within(KERNEL);
        self.schedule(soon, Event::Address { node, life, wish });
    }

    pub(super) fn address(&mut self, node: usize, wish: u64) {
        let it = &mut self.nodes[node];
        if it.wish != wish {
            return;
        }
        it.kernel.address = it.wants_address;
        let (present, life) = (it.wants_address, it.life);
        let Some(agent) = &mut it.agent else { return };
        agent.election.facts.address_present = present;
        if present {
            let soon = self.rng.within(ANNOUNCE);
            self.schedule(soon, Event::Announced { node, life, first: true });
        }
        self.tell(node);
    }

    pub(super) fn announced(&mut self, node: usize, first: bool) {
        if !self.nodes[node].is_active() {
            return;
        }
        self.say(Some(node), &"announced");
        for client in self.clients.iter_mut().flatten() {
            *client = node;
        }
        if first && let Some(agent) = &mut self.nodes[node].agent {
            agent.election.facts.announced = true;
            self.tell(node);
        }
    }
}
