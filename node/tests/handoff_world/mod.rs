//! A world in virtual time for the simulation: two nodes with one VIP, the channel between them, each one's kernel and
//! election, and clients with their connections.
//!
//! Everything random comes from one seed. The machines are driven through their interface alone.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use node::handoff::job::{Flow, Job, Neighbour, Outcome, ProbeTarget, Vip};
use node::handoff::machine::{Facts, HandOff, Input, Order, Output};
use node::handoff::message::Message;
use vrrp::types::Time;

pub(crate) mod election;
pub(crate) mod kernel;

use election::{Election, HEARTBEAT, Heartbeat, Wish};
use kernel::{Fate, Kernel, mac, route};

/// The VIP's name.
pub(crate) const WEB: &str = "web";
const CLIENTS: usize = 6;
/// The most connections at a time: each one's way is looked at after every event.
const CONNECTIONS: usize = 20;
const DELAY: Duration = Duration::from_millis(2);
const KERNEL: Duration = Duration::from_millis(2);
/// The longest that an announcement needs. A message and a job together need longer.
const ANNOUNCE: Duration = Duration::from_micros(200);
const LATE: Duration = Duration::from_micros(500);
const AWAIT_PROBE: Duration = Duration::from_secs(10);
/// How many lines of a trace are kept.
const TRACE: usize = 120;

/// splitmix64.
#[derive(Clone, Debug)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn within(&mut self, most: Duration) -> Duration {
        let micros = u64::try_from(most.as_micros()).expect("a short time");
        Duration::from_micros(self.below(micros + 1))
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let index = usize::try_from(self.below(from.len() as u64)).expect("less than a length");
        from[index]
    }
}

/// What can be done to a world.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Disturbance {
    /// An operator at this node moves the VIP to the peer.
    Begin(usize),
    /// An operator at this node moves the VIP here.
    Ask(usize),
    /// The session breaks; a new one comes up after so long.
    Break(Duration),
    /// Neither sessions nor heartbeats.
    Cut,
    /// Everything works again: network, jobs, cores.
    Heal,
    /// So many percent of all jobs fail.
    JobsFail(u64),
    /// The longest that a job takes.
    Slow(Duration),
    /// The switch drops frames that a node passes on.
    Filter(bool),
    /// Whether the core can serve.
    Fit(usize, bool),
    /// The agent dies; its guard removes the address.
    KillAgent(usize),
    /// The machine dies.
    KillMachine(usize),
    /// A new agent, which clears everything first.
    Start(usize),
    /// An orderly end.
    Stop(usize),
    /// The VIP goes from the configuration and returns.
    Reconfigure(usize),
}

/// What is going to happen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Wake { node: usize, deadline: Time },
    Deliver { to: usize, session: u64, index: u64 },
    Connect,
    Session { node: usize, session: Option<u64> },
    Tick { node: usize, life: u64 },
    Heartbeat { to: usize, heartbeat: Heartbeat },
    Works { node: usize, life: u64, number: u64 },
    Ended { node: usize, life: u64, number: u64 },
    Probe { to: usize, nonce: [u8; 16] },
    Address { node: usize, life: u64, wish: u64 },
    Announced { node: usize, life: u64, first: bool },
    Opens,
    Closes { flow: Flow },
    Ends { node: usize, life: u64 },
    Returns { node: usize, life: u64 },
}

/// A job that runs.
#[derive(Clone, Debug)]
struct Running {
    job: Job,
    fails: bool,
}

/// An agent.
pub(crate) struct Agent {
    pub(crate) machine: HandOff,
    pub(crate) election: Election,
    running: BTreeMap<u64, Running>,
    wake: Option<Time>,
    stopping: bool,
    peer_told: bool,
    told: Option<Facts>,
}

/// One machine.
#[derive(Default)]
pub(crate) struct Node {
    pub(crate) kernel: Kernel,
    /// `None`: the process is not running.
    pub(crate) agent: Option<Agent>,
    /// When it was started last.
    pub(crate) since: Time,
    /// This node's end of the session.
    session: Option<u64>,
    /// When the last message from the peer arrives.
    last: Time,
    life: u64,
    wish: u64,
    wants_address: bool,
    jobs: u64,
}

impl Node {
    pub(crate) fn is_active(&self) -> bool {
        self.kernel.address && self.agent.as_ref().is_some_and(|agent| agent.election.facts.master)
    }
}

/// All of it.
pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) rng: Rng,
    pub(crate) nodes: [Node; 2],
    /// No connection may be lost.
    pub(crate) calm: bool,
    pub(crate) timeout: Option<Duration>,
    /// How long connections live at most, and how often they are opened.
    pub(crate) lifetime: Duration,
    pub(crate) opening: Option<Duration>,
    pub(crate) lost: u64,
    pub(crate) moved: u64,
    pub(crate) opened: u64,
    /// How often each end was reached, by its words.
    pub(crate) ends: BTreeMap<String, u64>,
    /// When anything went wrong last.
    pub(crate) stirred: Time,
    /// The last lines, if they are wanted.
    pub(crate) trace: Option<VecDeque<String>>,
    /// What does not hold.
    pub(crate) broken: Option<String>,
    flows: BTreeMap<Flow, (usize, usize)>,
    clients: [Option<usize>; CLIENTS],
    port: u16,
    cut: bool,
    session: Option<u64>,
    sessions: u64,
    mail: BTreeMap<u64, Message>,
    mails: u64,
    filter: bool,
    jobs_fail: u64,
    slow: Duration,
    events: BinaryHeap<Reverse<(Time, u64, Event)>>,
    scheduled: u64,
}

fn vip(node: usize) -> Vip {
    Vip {
        name: WEB.into(),
        vrid: 51,
        address: Ipv4Addr::new(192, 0, 2, 100).into(),
        interface: "eth0".into(),
        own: Neighbour { address: address(node), mac: mac(node) },
    }
}

fn address(node: usize) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, 11 + u8::try_from(node).expect("two nodes")).into()
}

impl World {
    /// Two machines that are off.
    pub(crate) fn new(seed: u64, calm: bool, traced: bool) -> World {
        World {
            now: Time(1_000_000),
            rng: Rng(seed),
            nodes: [Node::default(), Node::default()],
            calm,
            timeout: None,
            lifetime: Duration::from_secs(3),
            opening: None,
            lost: 0,
            moved: 0,
            opened: 0,
            ends: BTreeMap::new(),
            stirred: Time(0),
            trace: traced.then(VecDeque::new),
            broken: None,
            flows: BTreeMap::new(),
            clients: [None; CLIENTS],
            port: 1_024,
            cut: false,
            session: None,
            sessions: 0,
            mail: BTreeMap::new(),
            mails: 0,
            filter: false,
            jobs_fail: 0,
            slow: Duration::from_millis(8),
            events: BinaryHeap::new(),
            scheduled: 0,
        }
    }

    /// Lets the next thing happen, if it happens before `end`.
    pub(crate) fn step(&mut self, end: Time) -> bool {
        if self.events.peek().is_none_or(|Reverse((at, ..))| *at > end) {
            self.now = end;
            return false;
        }
        let Some(Reverse((at, _, event))) = self.events.pop() else { return false };
        self.now = at;
        self.happen(event);
        self.packets();
        true
    }

    /// Does something to this world, now.
    pub(crate) fn disturb(&mut self, what: Disturbance) {
        self.say(None, &what);
        match what {
            Disturbance::Begin(_) | Disturbance::Ask(_) => {}
            _ => self.stirred = self.now,
        }
        match what {
            Disturbance::Begin(node) => self.feed(node, Input::Begin { vip: WEB.into(), reason: "operator".into() }),
            Disturbance::Ask(node) => self.feed(node, Input::Ask { vip: WEB.into(), reason: "operator".into() }),
            Disturbance::Break(length) => {
                self.break_session();
                self.schedule(length, Event::Connect);
            }
            Disturbance::Cut => {
                self.cut = true;
                self.break_session();
            }
            Disturbance::Heal => {
                self.cut = false;
                self.filter = false;
                self.jobs_fail = 0;
                self.slow = Duration::from_millis(8);
                for node in 0..2 {
                    self.disturb(Disturbance::Fit(node, true));
                }
                self.schedule(HEARTBEAT, Event::Connect);
            }
            Disturbance::JobsFail(percent) => self.jobs_fail = percent,
            Disturbance::Slow(most) => self.slow = most,
            Disturbance::Filter(filter) => self.filter = filter,
            Disturbance::Fit(node, fit) => {
                let wish = self.nodes[node].agent.as_mut().and_then(|agent| agent.election.set_fit(fit));
                self.election_did(node, wish);
            }
            Disturbance::KillAgent(node) => self.kill(node),
            Disturbance::KillMachine(node) => {
                self.kill(node);
                self.nodes[node].kernel = Kernel::default();
                self.lose_flows_of(node);
            }
            Disturbance::Start(node) => self.start(node),
            Disturbance::Stop(node) => {
                let life = self.nodes[node].life;
                let Some(agent) = &mut self.nodes[node].agent else { return };
                agent.stopping = true;
                self.schedule(Duration::from_secs(6), Event::Ends { node, life });
                self.feed(node, Input::Stop);
            }
            Disturbance::Reconfigure(node) => {
                let (life, soon) = (self.nodes[node].life, self.rng.within(Duration::from_millis(50)));
                self.schedule(soon, Event::Returns { node, life });
                self.feed(node, Input::Configure { vips: Vec::new(), timeout: self.timeout });
            }
        }
        self.packets();
    }

    /// Whether jobs do what they are for, in reasonable time.
    pub(crate) fn jobs_work(&self) -> bool {
        self.jobs_fail == 0 && self.slow < Duration::from_secs(1)
    }

    /// How many connections live.
    pub(crate) fn connections(&self) -> usize {
        self.flows.len()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Wake { node, deadline } => {
                if let Some(agent) = &mut self.nodes[node].agent
                    && agent.wake == Some(deadline)
                {
                    agent.wake = None;
                    let now = self.now;
                    agent.machine.handle_timeout(now);
                    if agent.machine.poll_timeout().is_some_and(|at| at <= now) {
                        let what = format!("node {node} would spin: {:?}", agent.machine);
                        self.demand(false, &what);
                    }
                    self.flush(node);
                }
            }
            Event::Deliver { to, session, index } => {
                let message = self.mail.remove(&index);
                if let Some(message) = message
                    && self.session == Some(session)
                    && self.nodes[to].session == Some(session)
                {
                    self.feed(to, Input::Message(message));
                }
            }
            Event::Connect => self.connect(),
            Event::Session { node, session } => self.session_of(node, session),
            Event::Tick { node, life } if self.nodes[node].life == life => self.tick(node),
            Event::Heartbeat { to, heartbeat } => self.heartbeat(to, heartbeat),
            Event::Works { node, life, number } if self.nodes[node].life == life => self.works(node, number),
            Event::Ended { node, life, number } if self.nodes[node].life == life => self.ended(node, number),
            Event::Probe { to, nonce } => self.probe(to, nonce),
            Event::Address { node, life, wish } if self.nodes[node].life == life => self.address(node, wish),
            Event::Announced { node, life, first } if self.nodes[node].life == life => self.announced(node, first),
            Event::Opens => self.opens(),
            Event::Closes { flow } => {
                self.flows.remove(&flow);
            }
            Event::Ends { node, life } if self.nodes[node].life == life => {
                let idle = self.nodes[node].agent.as_ref().is_some_and(|agent| agent.machine.is_idle());
                let calm = self.jobs_work() && self.now - self.stirred > Duration::from_secs(3);
                self.demand(idle || !calm, "an agent that was stopped is not idle in time");
                self.kill(node);
            }
            Event::Returns { node, life } if self.nodes[node].life == life => {
                self.feed(node, Input::Configure { vips: vec![vip(node)], timeout: self.timeout });
                if let Some(agent) = &mut self.nodes[node].agent {
                    agent.told = None;
                }
                self.tell(node);
            }
            // Of an agent that is dead.
            _ => {}
        }
    }

    // === agents ===

    fn start(&mut self, node: usize) {
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

    /// The process is gone; the guard removes the address, and resets its connections.
    fn kill(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        if it.agent.take().is_none() {
            return;
        }
        it.life += 1;
        it.kernel.address = false;
        it.session = None;
        it.wants_address = false;
        self.lose_flows_of(node);
        self.break_session();
    }

    fn feed(&mut self, node: usize, input: Input) {
        if self.nodes[node].agent.is_none() {
            return;
        }
        self.say(Some(node), &input);
        let now = self.now;
        let Some(agent) = &mut self.nodes[node].agent else { return };
        agent.machine.handle(input, now);
        self.flush(node);
    }

    fn flush(&mut self, node: usize) {
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

    // === the channel ===

    fn connect(&mut self) {
        if self.cut || self.session.is_some() || self.nodes.iter().any(|node| node.agent.is_none()) {
            return;
        }
        self.sessions += 1;
        self.session = Some(self.sessions);
        for node in 0..2 {
            let soon = self.rng.within(DELAY);
            self.nodes[node].last = self.now + soon;
            self.schedule(soon, Event::Session { node, session: self.session });
        }
    }

    fn break_session(&mut self) {
        if self.session.take().is_none() {
            return;
        }
        for node in 0..2 {
            let soon = self.rng.within(Duration::from_millis(100));
            self.schedule(soon, Event::Session { node, session: None });
        }
        self.schedule(Duration::from_millis(300), Event::Connect);
    }

    fn session_of(&mut self, node: usize, session: Option<u64>) {
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

    fn post(&mut self, from: usize, message: Message) {
        let Some(session) = self.nodes[from].session else { return };
        let to = 1 - from;
        let at = (self.now + self.rng.within(DELAY)).max(self.nodes[to].last);
        self.nodes[to].last = at;
        self.mails += 1;
        self.mail.insert(self.mails, message);
        self.schedule(at - self.now, Event::Deliver { to, session, index: self.mails });
    }

    // === elections ===

    fn tick(&mut self, node: usize) {
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

    fn beat(&mut self, node: usize) {
        let Some(agent) = &self.nodes[node].agent else { return };
        let heartbeat = agent.election.heartbeat();
        if !self.cut {
            let soon = self.rng.within(DELAY);
            self.schedule(soon, Event::Heartbeat { to: 1 - node, heartbeat });
        }
    }

    fn heartbeat(&mut self, to: usize, heartbeat: Heartbeat) {
        let now = self.now;
        let Some(agent) = &mut self.nodes[to].agent else { return };
        let wish = agent.election.heard(heartbeat, now);
        if !std::mem::replace(&mut agent.peer_told, true) {
            self.feed(to, Input::PeerBack);
        }
        self.election_did(to, wish);
    }

    fn order(&mut self, node: usize, order: Order) {
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

    fn election_did(&mut self, node: usize, wish: Option<Wish>) {
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

    fn tell(&mut self, node: usize) {
        let Some(agent) = &mut self.nodes[node].agent else { return };
        let facts = agent.election.facts;
        if agent.told.replace(facts) == Some(facts) {
            return;
        }
        self.feed(node, Input::Election { vip: WEB.into(), facts });
    }

    fn wish(&mut self, node: usize, address: bool) {
        self.nodes[node].wish += 1;
        self.nodes[node].wants_address = address;
        let (life, wish) = (self.nodes[node].life, self.nodes[node].wish);
        let soon = self.rng.within(KERNEL);
        self.schedule(soon, Event::Address { node, life, wish });
    }

    fn address(&mut self, node: usize, wish: u64) {
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

    fn announced(&mut self, node: usize, first: bool) {
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

    // === kernels ===

    fn begin_job(&mut self, node: usize, number: u64, job: Job) {
        let alone = self.nodes[node].agent.as_ref().is_some_and(|agent| {
            let waits = |running: &Running| running.job == Job::AwaitProbe && job == Job::RemoveLeaver;
            agent.running.values().all(waits)
        });
        self.demand(alone, "a job began before the one before it had ended");
        let harmless = matches!(job, Job::Prepare | Job::Install { .. } | Job::Probe { .. } | Job::Count);
        let fails = (harmless || !self.calm) && self.rng.chance(self.jobs_fail);
        let most = if job == Job::AwaitProbe { AWAIT_PROBE } else { self.slow };
        let takes = if job == Job::AwaitProbe { most } else { ANNOUNCE + self.rng.within(most) };
        let works = self.rng.within(takes);
        let life = self.nodes[node].life;
        let arrived = self.nodes[node].kernel.probe.is_some_and(|(_, arrived)| arrived);
        let Some(agent) = &mut self.nodes[node].agent else { return };
        let takes = if job == Job::AwaitProbe && arrived { Duration::ZERO } else { takes };
        agent.running.insert(number, Running { job, fails });
        self.schedule(works.min(takes), Event::Works { node, life, number });
        self.schedule(takes, Event::Ended { node, life, number });
    }

    /// Somewhere in the middle of a job.
    fn works(&mut self, node: usize, number: u64) {
        let Some(running) = self.nodes[node].agent.as_ref().and_then(|agent| agent.running.get(&number)) else { return };
        let (job, fails) = (running.job.clone(), running.fails);
        // A job of several steps may fail at the last one; one transaction fails as a whole.
        if fails && (job != Job::Prepare || self.rng.chance(50)) {
            return;
        }
        let own = self.flows_of(node);
        self.nodes[node].jobs += 1;
        let nonce = nonce(node, self.nodes[node].jobs);
        self.nodes[node].kernel.apply(&job, nonce, own);
        match job {
            Job::Probe { target, .. } if !self.filter && !self.cut => {
                let soon = self.rng.within(DELAY);
                self.schedule(soon, Event::Probe { to: 1 - node, nonce: target.nonce });
            }
            Job::RemoveLeaver => {
                let waits = self.waiting(node);
                let life = self.nodes[node].life;
                for number in waits {
                    self.schedule(Duration::ZERO, Event::Ended { node, life, number });
                }
            }
            _ => {}
        }
    }

    fn ended(&mut self, node: usize, number: u64) {
        let Some(running) = self.nodes[node].agent.as_mut().and_then(|agent| agent.running.remove(&number)) else {
            return;
        };
        let probe = self.nodes[node].kernel.probe;
        let outcome = match running.job {
            _ if running.fails => Outcome::Failed("cannot do it: no memory".into()),
            Job::Prepare => match probe {
                Some((nonce, _)) => Outcome::Prepared {
                    flows: self.flows_of(node),
                    probe: ProbeTarget { port: 40_000, nonce },
                },
                None => Outcome::Failed("the receiver is gone".into()),
            },
            Job::AwaitProbe if probe.is_some_and(|(_, arrived)| arrived) => Outcome::ProbeSeen,
            Job::AwaitProbe => Outcome::Failed("no probe was seen".into()),
            Job::Dump => Outcome::Flows(self.flows_of(node)),
            Job::Count => Outcome::Count(self.flows_of(node).len() as u64),
            Job::Reset => {
                let count = self.flows_of(node).len() as u64;
                self.lose_flows_of(node);
                Outcome::Reset(count)
            }
            _ => Outcome::Done,
        };
        self.feed(node, Input::JobEnded { vip: WEB.into(), number, outcome });
    }

    fn probe(&mut self, to: usize, nonce: [u8; 16]) {
        if let Some((expected, arrived)) = &mut self.nodes[to].kernel.probe
            && *expected == nonce
        {
            *arrived = true;
            let (life, waits) = (self.nodes[to].life, self.waiting(to));
            for number in waits {
                self.schedule(Duration::ZERO, Event::Ended { node: to, life, number });
            }
        }
    }

    fn waiting(&self, node: usize) -> Vec<u64> {
        let agent = self.nodes[node].agent.iter();
        let running = agent.flat_map(|agent| agent.running.iter());
        running.filter(|(_, running)| running.job == Job::AwaitProbe).map(|(number, _)| *number).collect()
    }

    // === clients ===

    /// Opens connections from now on.
    pub(crate) fn open(&mut self, every: Duration) {
        if self.opening.replace(every).is_none() {
            self.schedule(every, Event::Opens);
        }
    }

    fn opens(&mut self) {
        let Some(every) = self.opening else { return };
        let again = self.rng.within(every * 2);
        self.schedule(again, Event::Opens);
        if self.flows.len() >= CONNECTIONS {
            return;
        }
        let client = usize::try_from(self.rng.below(CLIENTS as u64)).expect("a small number");
        let idle = !self.flows.values().any(|(_, of)| *of == client);
        if idle && self.rng.chance(50) {
            // Its neighbour entry was collected as garbage.
            self.clients[client] = None;
        }
        let to = self.clients[client].or_else(|| self.resolve());
        self.clients[client] = to;
        self.port = if self.port == u16::MAX { 1_024 } else { self.port + 1 };
        let host = 50 + u8::try_from(client).expect("a small number");
        let flow = Flow { client: Ipv4Addr::new(192, 0, 2, host).into(), client_port: self.port, port: 443 };
        let Some(to) = to else {
            self.demand(!self.calm, "nobody answers for the VIP");
            return;
        };
        let [a, b] = &mut self.nodes;
        match route(&mut [&mut a.kernel, &mut b.kernel], to, flow, true) {
            Fate::Accepted(node) if self.nodes[node].agent.is_some() => {
                self.flows.insert(flow, (node, client));
                self.opened += 1;
                let life = self.rng.within(self.lifetime);
                self.schedule(life, Event::Closes { flow });
            }
            Fate::Accepted(_) | Fate::Dropped => self.demand(!self.calm, "a connection cannot be opened"),
            Fate::Loops => self.demand(false, "a packet is passed on twice"),
        }
    }

    /// Who is the first to answer for the VIP.
    fn resolve(&mut self) -> Option<usize> {
        let first = usize::try_from(self.rng.below(2)).expect("a small number");
        [first, 1 - first].into_iter().find(|node| self.nodes[*node].kernel.answers())
    }

    /// Every connection's packets, at every moment.
    fn packets(&mut self) {
        let [a, b] = &mut self.nodes;
        let mut kernels = [&mut a.kernel, &mut b.kernel];
        let mut wrong: Vec<(Flow, Fate)> = Vec::new();
        for (flow, (node, client)) in &self.flows {
            let Some(to) = self.clients[*client] else { continue };
            let fate = route(&mut kernels, to, *flow, false);
            if fate != Fate::Accepted(*node) {
                wrong.push((*flow, fate));
            }
        }
        for (flow, fate) in wrong {
            self.demand(fate != Fate::Loops, "a packet is passed on twice");
            if self.calm {
                self.demand(false, &format!("a packet of {flow:?} is {fate:?}, not at {:?}", self.flows.get(&flow)));
            } else if matches!(fate, Fate::Accepted(_)) {
                self.flows.remove(&flow);
                self.lost += 1;
            }
        }
    }

    fn flows_of(&self, node: usize) -> Vec<Flow> {
        self.flows.iter().filter(|(_, (at, _))| *at == node).map(|(flow, _)| *flow).collect()
    }

    fn lose_flows_of(&mut self, node: usize) {
        let before = self.flows.len();
        self.flows.retain(|_, (at, _)| *at != node);
        let lost = before - self.flows.len();
        self.lost += lost as u64;
        self.demand(!self.calm || lost == 0, "connections were reset");
    }

    // === bookkeeping ===

    fn schedule(&mut self, delay: Duration, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse((self.now + delay, self.scheduled, event)));
    }

    pub(crate) fn demand(&mut self, holds: bool, what: &str) {
        if !holds && self.broken.is_none() {
            self.broken = Some(what.to_owned());
        }
    }

    fn say(&mut self, node: Option<usize>, what: &dyn fmt::Debug) {
        let Some(trace) = &mut self.trace else { return };
        if self.broken.is_some() {
            return;
        }
        if trace.len() == TRACE {
            trace.pop_front();
        }
        let whom = node.map_or("world".to_owned(), |node| format!("node {node}"));
        let mut text = format!("{:>12} {whom}: {what:?}", self.now.0);
        text.truncate(400);
        trace.push_back(text);
    }
}

fn nonce(node: usize, jobs: u64) -> [u8; 16] {
    let number = u128::from(jobs) * 2 + u128::try_from(node).expect("two nodes");
    number.to_be_bytes()
}
