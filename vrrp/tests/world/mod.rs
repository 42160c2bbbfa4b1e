//! A world in virtual time for the simulation: speakers, the network between them, and each one's kernel.
//!
//! Everything random comes from one seed. What the world does to its nodes is in `World::disturb`; it never looks
//! into the election beyond its state.

mod pair;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use vrrp::config::{Checksum, RouterConfig, Transport};
use vrrp::event::{Advert, Applied, Fault, Input, Output, State, Why};
use vrrp::heartbeat::Lan;
use vrrp::machine::Router;
use vrrp::types::{Interval, Time};

/// The longest that a packet travels.
pub(crate) const DELAY: Duration = Duration::from_millis(3);
/// The longest that a kernel needs for an address, and to say so.
pub(crate) const KERNEL: Duration = Duration::from_millis(2);
/// The longest that a timer fires late.
pub(crate) const LATE: Duration = Duration::from_micros(500);
/// The longest that an address stays after its last renewal.
pub(crate) const LAPSE: Duration = Duration::from_millis(1200);
/// How often a shell renews.
const RENEWAL: Duration = Duration::from_millis(250);
/// How many lines of a trace are kept.
const TRACE: usize = 60;

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
    /// So many percent of all packets are lost from now on.
    Loss(u64),
    /// Packets from the first to the second are lost.
    Cut(usize, usize),
    /// No loss, no cuts. Firewalls stay.
    Heal,
    /// Carrier.
    Link(usize, bool),
    /// The proxy core dies or returns.
    Core(usize, bool),
    /// Nothing on this node runs for so long, except its kernel.
    Freeze(usize, Duration),
    /// The process dies; the kernel keeps the addresses until they lapse.
    KillAgent(usize),
    /// The machine dies.
    KillMachine(usize),
    /// An orderly end.
    Shutdown(usize),
    /// A new process without memory.
    Start(usize),
    /// Somebody deletes the addresses.
    RemoveVip(usize),
    /// Somebody else answers for the address.
    Claim(usize),
    /// Operator.
    Maintenance(usize, bool),
    /// Operator: another priority.
    Priority(usize, i64),
    /// Heartbeats over the second path are lost from the first to the second.
    CutSync(usize, usize),
    /// Protocol 112 is filtered between the nodes, and nothing else.
    Filter,
    /// A firewall lets no heartbeat of the first into the second, on any path; everything else arrives.
    Deafen(usize, usize),
    /// No such firewall.
    Undeafen,
    /// The switch passes nothing to or from this node; its carrier stays.
    LanDead(usize, bool),
    /// An operator's failover from this node: begun, and carried on as far as chance will have it.
    HandOff(usize),
}

/// What is going to happen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Wake { node: usize, deadline: Time },
    Advert { from: usize, to: usize, priority: u8 },
    Told { node: usize, life: u64, applied: u8 },
    Apply { node: usize, wish: u64 },
    Renew { node: usize, life: u64 },
    Lapse { node: usize },
    Thaw { node: usize, life: u64 },
    Heard { node: usize },
    Beat { node: usize, life: u64 },
    Heartbeat { from: usize, to: usize, letter: usize },
    Session,
    TakeOver { node: usize, life: u64 },
    LetGo { node: usize, life: u64 },
}

/// What the kernel reports, by the number that travels in [`Event::Told`].
const APPLIED: [Applied; 3] = [Applied::Present, Applied::Absent, Applied::Removed];
const PRESENT: u8 = 0;
const ABSENT: u8 = 1;
const REMOVED: u8 = 2;

/// One machine.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) config: RouterConfig,
    /// `None`: the process is not running.
    pub(crate) router: Option<Router>,
    pub(crate) serving: bool,
    pub(crate) linked: bool,
    /// The link came up, and nothing was heard through it yet.
    unheard: bool,
    pub(crate) maintenance: bool,
    /// The switch passes nothing to or from it.
    pub(crate) lan_dead: bool,
    /// Since when nothing runs here.
    pub(crate) frozen: Option<Time>,
    /// The kernel has the addresses.
    pub(crate) present: bool,
    /// Since when the router is in Backup or Master, and the world wants nothing else.
    pub(crate) able_since: Option<Time>,
    address: Ipv4Addr,
    life: u64,
    inbox: VecDeque<Input>,
    wanted: bool,
    wish: u64,
    lapse: Time,
    wake: Option<Time>,
    /// The state of its router when its last heartbeat was sent: a change is told at once.
    told: Option<State>,
    sequence: u64,
    /// The highest sequence of the peer that was obeyed in this session.
    obeyed: u64,
}

impl Node {
    /// Whether nothing keeps this node from holding the VIP.
    pub(crate) fn is_fit(&self) -> bool {
        self.can_hold() && self.serving && !self.lan_dead
    }

    /// Whether nothing but a dead proxy core may keep this node from holding the VIP.
    pub(crate) fn can_hold(&self) -> bool {
        self.router.is_some() && self.frozen.is_none() && self.linked && !self.unheard && !self.maintenance
    }

    /// Whether it has the addresses and means to.
    pub(crate) fn holds(&self) -> bool {
        let superseded = self.router.as_ref().is_some_and(Router::superseded);
        self.present && self.wanted && self.linked && self.frozen.is_none() && !superseded
    }

    pub(crate) fn state(&self) -> Option<State> {
        self.router.as_ref().map(Router::state)
    }

    pub(crate) fn since(&self) -> Option<Time> {
        self.router.as_ref().map(Router::since)
    }

    pub(crate) fn interval(&self) -> Duration {
        self.config.advert_interval.duration()
    }
}

/// All of it.
pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) rng: Rng,
    pub(crate) nodes: Vec<Node>,
    /// When anything was done to this world last.
    pub(crate) stirred: Time,
    /// Since when every packet arrives at every node whose link is up.
    pub(crate) connected: Option<Time>,
    /// The last lines, if they are wanted.
    pub(crate) trace: Option<VecDeque<String>>,
    /// What an output broke, found while it was carried out.
    pub(crate) broken: Option<String>,
    /// The two nodes are a pair, with a channel between them.
    pub(crate) paired: bool,
    /// Since when heartbeats of both have arrived over at least one path.
    pub(crate) path_since: Option<Time>,
    loss: u64,
    cuts: Vec<(usize, usize)>,
    sync_cuts: Vec<(usize, usize)>,
    filtered: bool,
    /// From whom no heartbeat gets to whom.
    pub(crate) deafened: Vec<(usize, usize)>,
    /// The lives of both nodes when they met: who starts anew has no keys.
    session: Option<(u64, u64)>,
    letters: Vec<pair::Letter>,
    events: BinaryHeap<Reverse<(Time, u64, Event)>>,
    scheduled: u64,
}

impl World {
    /// A world of two or three nodes, none started, with what the seed makes of their configuration.
    pub(crate) fn new(seed: u64, traced: bool) -> World {
        let mut rng = Rng(seed);
        let count = if rng.chance(60) { 2 } else { 3 };
        let common = rng.pick(&[1, 10, 10, 10, 100]);
        let mixed = rng.chance(15);
        let equal = rng.chance(30);
        let paired = count == 2 && rng.chance(70);
        // Within a pair the policy preempts, by a hand-off.
        let preempt = !paired && rng.chance(40);
        let nodes = (1..=count)
            .map(|index| {
                let interval = if mixed { rng.pick(&[1, 10, 100]) } else { common };
                let priority = if equal { 100 } else { rng.pick(&[1_i64, 50, 100, 128, 200, 254]) };
                let preempt = (preempt && rng.chance(70)).then(|| rng.within(Duration::from_secs(3)));
                Node::new(index, config(priority, interval, preempt))
            })
            .collect();
        let mut world = World {
            now: Time(1_000_000),
            rng,
            nodes,
            stirred: Time(0),
            connected: Some(Time(0)),
            trace: traced.then(VecDeque::new),
            broken: None,
            loss: 0,
            cuts: Vec::new(),
            paired,
            path_since: None,
            sync_cuts: Vec::new(),
            filtered: false,
            deafened: Vec::new(),
            session: None,
            letters: Vec::new(),
            events: BinaryHeap::new(),
            scheduled: 0,
        };
        if paired {
            world.schedule(pair::MEET, Event::Session);
        }
        world
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
        self.follow();
        true
    }

    /// Does something to this world, now.
    pub(crate) fn disturb(&mut self, what: Disturbance) {
        self.stirred = self.now;
        self.say(None, &what);
        match what {
            Disturbance::Loss(percent) => self.loss = percent,
            Disturbance::Cut(from, to) => self.cuts.push((from, to)),
            Disturbance::Heal => {
                self.loss = 0;
                self.cuts.clear();
                self.sync_cuts.clear();
                self.filtered = false;
                for node in 0..self.nodes.len() {
                    self.lan(node, false);
                }
            }
            Disturbance::Link(node, up) => self.link(node, up),
            Disturbance::Core(node, serving) => {
                self.nodes[node].serving = serving;
                self.feed(node, Input::Serving(serving));
            }
            Disturbance::Freeze(node, length) => {
                if self.nodes[node].router.is_some() && self.nodes[node].frozen.is_none() {
                    self.nodes[node].frozen = Some(self.now);
                    let life = self.nodes[node].life;
                    self.schedule(length, Event::Thaw { node, life });
                }
            }
            Disturbance::KillAgent(node) => self.kill(node),
            Disturbance::KillMachine(node) => {
                self.kill(node);
                self.nodes[node].present = false;
            }
            Disturbance::Shutdown(node) => {
                if self.nodes[node].frozen.is_none() {
                    self.feed(node, Input::Shutdown);
                    let released = !self.nodes[node].wanted;
                    self.demand(released, "a router that was shut down keeps its addresses");
                    self.kill(node);
                    self.nodes[node].present = false;
                }
            }
            Disturbance::Start(node) => self.start(node),
            Disturbance::RemoveVip(node) => {
                if self.nodes[node].present {
                    self.nodes[node].present = false;
                    self.removed(node);
                }
            }
            Disturbance::Claim(node) => {
                let address = self.nodes[node].config.addresses[0];
                self.feed(node, Input::Claimed { address, mac: [2, 0, 0, 0, 0, 99] });
            }
            Disturbance::Maintenance(node, on) => {
                self.nodes[node].maintenance = on;
                self.feed(node, Input::Fault(Fault::Maintenance, on));
            }
            Disturbance::Priority(node, priority) => {
                self.nodes[node].config.priority = priority.try_into().expect("in range");
                let config = self.nodes[node].config.clone();
                self.feed(node, Input::Configure(config));
            }
            Disturbance::CutSync(from, to) => self.sync_cuts.push((from, to)),
            Disturbance::Filter => self.filtered = true,
            Disturbance::Deafen(from, to) => self.deafened.push((from, to)),
            Disturbance::Undeafen => self.deafened.clear(),
            Disturbance::LanDead(node, dead) => self.lan(node, dead),
            Disturbance::HandOff(node) => self.hand_off(node),
        }
        // A dead segment leaves the other path.
        let whole = self.loss == 0 && self.cuts.is_empty() && self.sync_cuts.is_empty() && !self.filtered;
        let shaken = matches!(
            what,
            Disturbance::Link(..) | Disturbance::Heal | Disturbance::Undeafen | Disturbance::LanDead(..)
        );
        self.connected = if whole { self.connected.filter(|_| !shaken).or(Some(self.now)) } else { None };
        self.follow();
    }

    /// How many have the addresses and a network to answer on.
    pub(crate) fn holders(&self) -> usize {
        self.nodes.iter().filter(|node| node.present && node.linked && !node.lan_dead).count()
    }

    /// A hand-off has reached its middle.
    pub(crate) fn moving(&self) -> bool {
        self.nodes.iter().filter_map(|node| node.router.as_ref()).any(Router::superseded)
    }

    /// How many have the VIP by the election, awake, and not merely until a hand-off lets it go.
    pub(crate) fn owners(&self) -> usize {
        let owns = |node: &&Node| {
            let superseded = node.router.as_ref().is_some_and(Router::superseded);
            node.frozen.is_none() && node.state() == Some(State::Master) && !superseded
        };
        self.nodes.iter().filter(owns).count()
    }

    /// How many believe that they are active.
    pub(crate) fn masters(&self) -> usize {
        self.nodes.iter().filter(|node| node.state() == Some(State::Master)).count()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Wake { node, deadline } => {
                if self.nodes[node].wake == Some(deadline) {
                    self.nodes[node].wake = None;
                    self.wake(node);
                }
            }
            Event::Advert { from, to, priority } => {
                if self.nodes[to].linked {
                    self.heard(to);
                    let sender = &self.nodes[from];
                    let advert = Advert {
                        source: sender.address,
                        priority,
                        interval: sender.config.advert_interval,
                        addresses: sender.config.addresses.clone(),
                    };
                    self.feed(to, Input::Advert(advert));
                }
            }
            Event::Told { node, life, applied } => {
                if self.nodes[node].life == life {
                    self.feed(node, Input::Vip(APPLIED[usize::from(applied)]));
                    if applied == ABSENT {
                        self.tell_peer(node);
                    }
                }
            }
            Event::Apply { node, wish } => self.apply(node, wish),
            Event::Renew { node, life } => {
                if self.nodes[node].life == life {
                    if self.nodes[node].frozen.is_none() && self.nodes[node].wanted {
                        self.wish(node);
                    }
                    self.schedule(RENEWAL, Event::Renew { node, life });
                }
            }
            Event::Lapse { node } => {
                if self.nodes[node].present && self.nodes[node].lapse <= self.now {
                    self.nodes[node].present = false;
                    self.say(Some(node), &"addresses lapsed");
                    self.removed(node);
                }
            }
            Event::Thaw { node, life } => {
                if self.nodes[node].life == life {
                    self.thaw(node);
                }
            }
            Event::Heard { node } => {
                if self.nodes[node].linked && !self.nodes[node].lan_dead {
                    self.heard(node);
                }
            }
            Event::Beat { node, life } => self.beat(node, life),
            Event::Heartbeat { from, to, letter } => self.heartbeat(from, to, letter),
            Event::Session => self.meet(),
            Event::TakeOver { node, life } => self.take_over(node, life),
            Event::LetGo { node, life } => self.let_go(node, life),
        }
    }

    fn start(&mut self, node: usize) {
        if self.nodes[node].router.is_some() {
            return;
        }
        let now = self.now;
        let it = &mut self.nodes[node];
        it.router = Some(Router::new(it.config.clone(), now));
        it.life += 1;
        let life = it.life;
        let mut told = vec![Input::Serving(it.serving), Input::Source(Some(it.address))];
        let faults =
            [(Fault::LinkDown, !it.linked), (Fault::LinkUnheard, it.unheard), (Fault::Maintenance, it.maintenance)];
        told.extend(faults.into_iter().filter(|(_, is)| *is).map(|(fault, _)| Input::Fault(fault, true)));
        told.push(Input::Lan(if it.lan_dead { Lan::Silent } else { Lan::Gateway }));
        let first = usize::try_from(self.rng.below(told.len() as u64)).expect("less than a length");
        told.rotate_left(first);
        for input in told {
            self.feed(node, input);
        }
        self.schedule(RENEWAL, Event::Renew { node, life });
        if self.paired {
            self.schedule(Duration::ZERO, Event::Beat { node, life });
        }
    }

    fn kill(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        it.router = None;
        it.life += 1;
        it.wish += 1;
        it.wanted = false;
        it.frozen = None;
        it.inbox.clear();
        it.wake = None;
        self.follow_path();
    }

    fn thaw(&mut self, node: usize) {
        self.stirred = self.now;
        self.nodes[node].frozen = None;
        self.say(Some(node), &"thawed");
        // What has arrived goes first: a backup may not take its own sleep for silence.
        // Of adverts and heartbeats a shell takes the newest of each sender.
        let inbox: Vec<Input> = self.nodes[node].inbox.drain(..).collect();
        for (index, input) in inbox.iter().enumerate() {
            let stale = match input {
                Input::Peer(_) => inbox[index + 1..].iter().any(|later| matches!(later, Input::Peer(_))),
                Input::Advert(Advert { source, .. }) => inbox[index + 1..]
                    .iter()
                    .any(|later| matches!(later, Input::Advert(later) if later.source == *source)),
                _ => false,
            };
            if !stale {
                self.feed(node, input.clone());
            }
        }
        self.wake(node);
        if self.nodes[node].wanted {
            self.wish(node);
        }
    }

    fn link(&mut self, node: usize, up: bool) {
        if self.nodes[node].linked == up {
            return;
        }
        self.nodes[node].linked = up;
        if up {
            self.nodes[node].unheard = true;
            self.feed(node, Input::Fault(Fault::LinkUnheard, true));
            // Other hosts' broadcasts.
            let soon = self.rng.within(Duration::from_secs(2));
            self.schedule(soon, Event::Heard { node });
        }
        self.feed(node, Input::Fault(Fault::LinkDown, !up));
    }

    fn heard(&mut self, node: usize) {
        if std::mem::take(&mut self.nodes[node].unheard) {
            self.stirred = self.now;
            self.feed(node, Input::Fault(Fault::LinkUnheard, false));
        }
    }

    // === a node's shell ===

    fn feed(&mut self, node: usize, input: Input) {
        let now = self.now;
        if self.nodes[node].frozen.is_some() {
            self.nodes[node].inbox.push_back(input);
            return;
        }
        if self.nodes[node].router.is_none() {
            return;
        }
        self.say(Some(node), &input);
        let Some(router) = &mut self.nodes[node].router else { return };
        router.handle(input, now);
        self.flush(node);
    }

    fn wake(&mut self, node: usize) {
        let now = self.now;
        if self.nodes[node].frozen.is_some() {
            return;
        }
        let Some(router) = &mut self.nodes[node].router else { return };
        router.handle_timeout(now);
        let spins = router.poll_timeout().is_some_and(|at| at <= now);
        self.flush(node);
        self.demand(!spins, "a timeout left a deadline that is due: a shell would spin");
    }

    fn flush(&mut self, node: usize) {
        let mut released = false;
        let mut let_go = None;
        while let Some(output) = self.nodes[node].router.as_mut().and_then(Router::poll_output) {
            self.say(Some(node), &output);
            match output {
                Output::Advert { priority } => {
                    released |= priority == 0;
                    self.demand(self.nodes[node].wanted || priority != 0, "a release without the VIP");
                    self.send(node, priority);
                }
                Output::Hold => {
                    self.nodes[node].wanted = true;
                    self.wish(node);
                }
                Output::Release { taken } => {
                    let_go = Some(taken);
                    self.nodes[node].wanted = false;
                    self.wish(node);
                }
                Output::Transition { from, why, .. } => {
                    let own_fault = matches!(why, Why::Faulty(_) | Why::Shutdown);
                    let owed = from == State::Master && own_fault;
                    self.demand(!owed || released && let_go.is_some(), "a fault of the active router releases");
                    let in_order = released || let_go != Some(false) || why == Why::HandedOver;
                    self.demand(in_order, "priority 0 goes before the addresses, unless they are taken or handed over");
                }
                Output::Announce | Output::Note(_) => {}
            }
        }
        let it = &mut self.nodes[node];
        let Some(router) = &it.router else { return };
        let agrees = (router.state() == State::Master) == it.wanted;
        let changed = it.told != Some(router.state());
        if let Some(deadline) = router.poll_timeout()
            && it.wake != Some(deadline)
        {
            it.wake = Some(deadline);
            let at = deadline.since(self.now) + self.rng.within(LATE);
            self.schedule(at, Event::Wake { node, deadline });
        }
        self.demand(agrees, "addresses are wanted by the active router, and by no other");
        if changed {
            self.tell_peer(node);
        }
    }

    fn send(&mut self, from: usize, priority: u8) {
        for to in 0..self.nodes.len() {
            let dead = self.nodes[from].lan_dead || self.nodes[to].lan_dead;
            let cut = self.cuts.contains(&(from, to)) || !self.nodes[from].linked || dead || self.filtered;
            if to != from && !cut && !self.rng.chance(self.loss) {
                let delay = self.rng.within(DELAY);
                self.schedule(delay, Event::Advert { from, to, priority });
            }
        }
    }

    // === a node's kernel ===

    fn wish(&mut self, node: usize) {
        self.nodes[node].wish += 1;
        let wish = self.nodes[node].wish;
        let soon = self.rng.within(KERNEL);
        self.schedule(soon, Event::Apply { node, wish });
    }

    fn apply(&mut self, node: usize, wish: u64) {
        if self.nodes[node].wish != wish {
            return;
        }
        let it = &mut self.nodes[node];
        it.present = it.wanted;
        let life = it.life;
        let applied = if it.wanted { PRESENT } else { ABSENT };
        if it.wanted {
            let lease = Duration::from_secs(1) + self.rng.within(LAPSE - Duration::from_secs(1));
            self.nodes[node].lapse = self.now + lease;
            self.schedule(lease, Event::Lapse { node });
        }
        let soon = self.rng.within(KERNEL);
        self.schedule(soon, Event::Told { node, life, applied });
    }

    fn removed(&mut self, node: usize) {
        let Node { life, wanted, frozen, .. } = self.nodes[node];
        if wanted {
            let soon = self.rng.within(KERNEL);
            self.schedule(soon, Event::Told { node, life, applied: REMOVED });
            if frozen.is_none() {
                self.wish(node);
            }
        }
    }

    // === bookkeeping ===

    fn schedule(&mut self, delay: Duration, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse((self.now + delay, self.scheduled, event)));
    }

    fn follow(&mut self) {
        for it in &mut self.nodes {
            let able = it.is_fit() && matches!(it.state(), Some(State::Backup | State::Master));
            it.able_since = if able { it.able_since.or(Some(self.now)) } else { None };
        }
        self.follow_path();
    }

    fn demand(&mut self, holds: bool, what: &str) {
        if !holds && self.broken.is_none() {
            self.broken = Some(what.to_owned());
        }
    }

    fn say(&mut self, node: Option<usize>, what: &dyn fmt::Debug) {
        let Some(trace) = &mut self.trace else { return };
        if trace.len() == TRACE {
            trace.pop_front();
        }
        let whom = node.map_or("world".to_owned(), |node| format!("node {node}"));
        trace.push_back(format!("{:>12} {whom}: {what:?}", self.now.0));
    }
}

impl Node {
    fn new(index: u8, config: RouterConfig) -> Node {
        Node {
            config,
            router: None,
            serving: true,
            linked: true,
            unheard: false,
            maintenance: false,
            lan_dead: false,
            frozen: None,
            present: false,
            able_since: None,
            address: Ipv4Addr::new(192, 0, 2, index),
            life: 0,
            inbox: VecDeque::new(),
            wanted: false,
            wish: 0,
            lapse: Time(0),
            wake: None,
            told: None,
            sequence: 0,
            obeyed: 0,
        }
    }
}

fn config(priority: i64, centiseconds: u16, preempt: Option<Duration>) -> RouterConfig {
    RouterConfig {
        name: "web".into(),
        interface: "eth0".into(),
        vrid: 51.try_into().expect("in range"),
        addresses: vec![Ipv4Addr::new(192, 0, 2, 100)],
        priority: priority.try_into().expect("in range"),
        advert_interval: Interval::from_centiseconds(centiseconds).expect("in range"),
        preempt,
        transport: Transport::Multicast,
        source: None,
        checksum: Checksum::Rfc9568,
    }
}
