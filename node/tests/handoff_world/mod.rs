//! A world in virtual time for the simulation: two nodes with one VIP, the channel between them, each one's kernel and
//! election, and clients with their connections.
//!
//! Everything random comes from one seed. The machines are driven through their interface alone.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use node::handoff::job::{Flow, Job, Neighbour, Vip};
use node::handoff::machine::{Facts, HandOff, Input};
use node::handoff::message::Message;
use vrrp::types::Time;

mod agents;
mod clients;
mod election;
mod jobs;
mod kernel;

use election::{Election, HEARTBEAT, Heartbeat};
use kernel::{Kernel, mac};

/// The VIP's name.
pub(crate) const WEB: &str = "web";
const CLIENTS: usize = 16;
/// The most connections at a time: each one's way is looked at after every event.
const CONNECTIONS: usize = 20;
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
    /// The agent dies; its guard clears up.
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
    /// The longest that a message travels.
    delay: Duration,
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
        let mut rng = Rng(seed);
        let delay = rng.pick(&[300, 2_000, 12_000]);
        World {
            now: Time(1_000_000),
            rng,
            delay: Duration::from_micros(delay),
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
        let matters = matches!(
            event,
            Event::Works { .. }
                | Event::Address { .. }
                | Event::Announced { .. }
                | Event::Opens
                | Event::Ends { .. }
                | Event::Returns { .. }
        );
        self.happen(event);
        if matters {
            self.packets();
        }
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
