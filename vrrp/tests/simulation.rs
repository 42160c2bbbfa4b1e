//! Two or three speakers in virtual time, everything that can go wrong with them, and what must hold all the same.
//!
//! `SIM_SEEDS` says how many seeds are run, `SIM_SEED` which is the first. A failure prints its seed and the last
//! lines of what happened; `SIM_SEED=<seed> SIM_SEEDS=1` runs it again.

mod world;

use std::time::Duration;

use vrrp::types::Time;
use world::{DELAY, Disturbance, KERNEL, LAPSE, LATE, World};

/// What a gap or an overlap may last beyond the timers: a few packets, acknowledgements and late timers in a row.
const MARGIN: Duration = Duration::from_millis(25);
/// How long a segment that is dead behind its carrier takes to be believed.
const DEAF: Duration = Duration::from_secs(2);
/// How long a hand-off may keep the VIP at its old holder.
const YIELD: Duration = Duration::from_secs(3);
/// How many seeds are run if nobody says how many: about five seconds' worth.
const SEEDS: u64 = 400;

/// Invariants that look back.
#[derive(Default)]
struct Watch {
    nobody_since: Option<Time>,
    several_since: Option<Time>,
    owners_since: Option<Time>,
    /// When somebody last held the VIP on a segment that he has not had the time to find dead.
    believed: Option<Time>,
    masters: usize,
    settled: Option<(Time, Vec<bool>)>,
}

impl Watch {
    /// What does not hold in this world any more.
    fn look(&mut self, world: &World) -> Result<(), String> {
        if let Some(broken) = &world.broken {
            return Err(broken.clone());
        }
        let now = world.now;
        let since = |condition: bool, since: Option<Time>| if condition { since.or(Some(now)) } else { None };
        self.nobody_since = since(world.holders() == 0, self.nobody_since);
        let alive = world.nodes.iter().filter(|node| node.holds()).count();
        self.several_since = since(alive > 1, self.several_since);
        // Counted from when the two last told each other something new.
        let stirred = world.nodes.iter().filter_map(world::Node::since).max().unwrap_or_default();
        let stirred = stirred.max(world.stirred).max(world.path_since.unwrap_or(now));
        let believes = world.nodes.iter().any(|node| node.lan_dead && node.present);
        if believes && (now - stirred < DEAF + slowest_down(world) * 2 || world.moving()) {
            self.believed = Some(now);
        }
        self.owners_since = since(world.owners() > 1, self.owners_since);
        let before = std::mem::replace(&mut self.masters, world.masters());
        self.never_two_owners(world)?;
        frozen_nodes_lose_their_addresses(world)?;
        let Some(connected) = world.connected else { return Ok(()) };
        self.never_two_for_long(world, connected)?;
        self.never_none_for_long(world, connected)?;
        self.never_given_away_for_nothing(world, connected, before)?;
        self.settles(world, connected)
    }

    /// While heartbeats arrive, two owners can only be the last words of the one and the first of the other, or two that
    /// took over apart and have just met.
    fn never_two_owners(&self, world: &World) -> Result<(), String> {
        let (Some(since), Some(path)) = (self.owners_since, world.path_since) else { return Ok(()) };
        let together = world.now - since.max(path);
        let bound = slowest_interval(world) + MARGIN;
        if together > bound {
            return Err(format!(
                "both nodes have owned the VIP for {together:?} with a path alive, longer than {bound:?}"
            ));
        }
        Ok(())
    }

    /// The first advert that arrives ends it; two that were active apart may both be silent for an offer first. (What a dead or frozen node has left behind is the lease's business.)
    fn never_two_for_long(&self, world: &World, connected: Time) -> Result<(), String> {
        let Some(since) = self.several_since else { return Ok(()) };
        // On a dead segment only the other path is left, once there is a session.
        let dead = world.nodes.iter().any(|node| node.lan_dead);
        let connected = if dead { connected.max(world.path_since.unwrap_or(world.now)) } else { connected };
        let together = world.now - since.max(connected);
        // Who hears no heartbeats cannot know of a hand-off or a term: first both wait for what may explain the other.
        let deaf = if world.deafened.is_empty() { Duration::ZERO } else { YIELD * 2 + slowest_down(world) * 3 };
        let bound = slowest_interval(world) * 6 + deaf + MARGIN;
        if together > bound {
            return Err(format!("several nodes have had the VIP for {together:?}, longer than {bound:?}"));
        }
        Ok(())
    }

    fn never_none_for_long(&self, world: &World, connected: Time) -> Result<(), String> {
        let Some(since) = self.nobody_since else { return Ok(()) };
        let Some(able) = world.nodes.iter().filter_map(|node| node.able_since).min() else { return Ok(()) };
        let without = world.now - since.max(connected).max(able).max(self.believed.unwrap_or_default());
        let bound = slowest_down(world) + MARGIN;
        if without > bound {
            return Err(format!("nobody has had the VIP for {without:?}, longer than {bound:?}"));
        }
        Ok(())
    }

    /// Where nothing was done to the world, the last active router leaves only for one that is fit.
    fn never_given_away_for_nothing(&self, world: &World, connected: Time, before: usize) -> Result<(), String> {
        let calm = world.now - world.stirred.max(connected) > slowest_down(world) + MARGIN;
        let can_take = |node: &world::Node| node.can_hold() && node.serving;
        if calm && before > 0 && self.masters == 0 && !world.nodes.iter().any(can_take) {
            return Err("the VIP was given away although nobody could take it".to_owned());
        }
        Ok(())
    }

    /// In peace there is one active router, it is fit if anybody is, and it stays.
    fn settles(&mut self, world: &World, connected: Time) -> Result<(), String> {
        let frozen = world.nodes.iter().any(|node| node.frozen.is_some());
        // On a dead segment only a heartbeat could tell who sees less.
        if frozen || !world.deafened.is_empty() || world.now - world.stirred.max(connected) < settling(world) {
            self.settled = None;
            return Ok(());
        }
        let active = || world.nodes.iter().filter(|node| node.state() == Some(vrrp::event::State::Master));
        let fit = || world.nodes.iter().filter(|node| node.is_fit());
        if active().count() > 1 {
            return Err("several active routers in peace".to_owned());
        }
        if fit().next().is_some() && !active().any(world::Node::is_fit) {
            return Err("a fit router, and it is not active, in peace".to_owned());
        }
        let best = fit().max_by_key(|node| node.config.priority);
        if let (Some(best), Some(holder)) = (best, active().next())
            && best.config.preempt.is_some()
            && holder.config.priority < best.config.priority
        {
            return Err("a router that preempts did not".to_owned());
        }
        let states: Vec<bool> = world.nodes.iter().map(|node| node.present).collect();
        match &self.settled {
            Some((stirred, before)) if *stirred == world.stirred && *before != states => {
                Err(format!("the VIP moved in peace: {before:?}, now {states:?}"))
            }
            _ => {
                self.settled = Some((world.stirred, states));
                Ok(())
            }
        }
    }
}

fn frozen_nodes_lose_their_addresses(world: &World) -> Result<(), String> {
    for node in &world.nodes {
        if let Some(since) = node.frozen
            && node.present
            && world.now - since > LAPSE + KERNEL
        {
            return Err("a frozen node keeps its addresses".to_owned());
        }
    }
    Ok(())
}

/// The longest down interval that anybody may wait for.
fn slowest_down(world: &World) -> Duration {
    slowest_interval(world) * 4
}

fn slowest_interval(world: &World) -> Duration {
    world.nodes.iter().map(world::Node::interval).max().unwrap_or_default()
}

/// How long a world may take to settle: a lease mends, a preemption waits, an offer that nobody took is repeated.
fn settling(world: &World) -> Duration {
    let preempt = world.nodes.iter().filter_map(|node| node.config.preempt).max().unwrap_or_default();
    let offers = (slowest_interval(world) * 10).max(Duration::from_secs(1)) + slowest_interval(world) * 5;
    // A hand-off that stopped half-way keeps the VIP where it was for three seconds.
    let yields = if world.paired { YIELD + DEAF } else { Duration::ZERO };
    slowest_down(world) * 3 + preempt + offers + yields + DELAY + LATE + MARGIN
}

/// One seed, start to end.
struct Run {
    world: World,
    watch: Watch,
}

impl Run {
    fn new(seed: u64, traced: bool) -> Run {
        Run { world: World::new(seed, traced), watch: Watch::default() }
    }

    fn play(&mut self) -> Result<(), String> {
        for node in 0..self.world.nodes.len() {
            self.world.disturb(Disturbance::Start(node));
            self.pass(Duration::from_secs(1))?;
        }
        for _ in 0..3 {
            let troubles = self.world.rng.below(12);
            for _ in 0..troubles {
                let what = self.trouble(true);
                self.world.disturb(what);
                let while_ = self.world.rng.pick(&[5, 50, 500, 4000, 12_000]);
                self.pass(Duration::from_millis(while_))?;
            }
            self.recover()?;
            let troubles = self.world.rng.below(6);
            for _ in 0..troubles {
                let what = self.trouble(false);
                self.world.disturb(what);
                let while_ = self.world.rng.pick(&[5, 50, 500, 4000]);
                self.pass(Duration::from_millis(while_))?;
            }
            self.settle()?;
        }
        Ok(())
    }

    /// The network is whole; some of the nodes may still be bad.
    fn recover(&mut self) -> Result<(), String> {
        self.world.disturb(Disturbance::Undeafen);
        self.world.disturb(Disturbance::Heal);
        let all_well = self.world.rng.chance(50);
        for node in 0..self.world.nodes.len() {
            self.world.disturb(Disturbance::Link(node, true));
            if all_well || self.world.rng.chance(50) {
                self.world.disturb(Disturbance::Start(node));
                self.world.disturb(Disturbance::Maintenance(node, false));
                self.world.disturb(Disturbance::Core(node, true));
            }
        }
        self.settle()
    }

    fn settle(&mut self) -> Result<(), String> {
        // Frozen nodes thaw, and links are heard through, before the quiet begins.
        let long = settling(&self.world) + Duration::from_secs(4);
        self.pass(long + slowest_interval(&self.world) * 10)
    }

    fn trouble(&mut self, network_too: bool) -> Disturbance {
        let rng = &mut self.world.rng;
        let count = self.world.nodes.len() as u64;
        let node = usize::try_from(rng.below(count)).expect("a small number");
        let other = (node + 1) % self.world.nodes.len();
        if self.world.paired && rng.chance(15) {
            return Disturbance::HandOff(node);
        }
        let rng = &mut self.world.rng;
        if self.world.paired && network_too && rng.chance(25) {
            return match rng.below(8) {
                0 | 1 => Disturbance::CutSync(node, other),
                2 => Disturbance::CutSync(other, node),
                3 => Disturbance::Filter,
                4 => Disturbance::Deafen(node, other),
                5 => Disturbance::Undeafen,
                _ => Disturbance::LanDead(node, rng.chance(70)),
            };
        }
        if network_too && rng.chance(45) {
            return match rng.below(7) {
                0 => Disturbance::Loss(rng.pick(&[5, 20, 50, 100])),
                1 => Disturbance::Cut(node, other),
                2 => Disturbance::Cut(other, node),
                3 | 4 => Disturbance::Heal,
                _ => Disturbance::Link(node, rng.chance(60)),
            };
        }
        if self.world.paired && rng.chance(10) {
            return Disturbance::LanDead(node, rng.chance(60));
        }
        match rng.below(14) {
            0..=2 => Disturbance::Core(node, rng.chance(50)),
            3 | 4 => Disturbance::Freeze(node, Duration::from_millis(rng.pick(&[1, 30, 100, 350, 900, 1100, 3000]))),
            5 => Disturbance::KillAgent(node),
            6 => Disturbance::KillMachine(node),
            7 => Disturbance::Shutdown(node),
            8 | 9 => Disturbance::Start(node),
            10 => Disturbance::RemoveVip(node),
            11 => Disturbance::Claim(node),
            12 => Disturbance::Maintenance(node, rng.chance(40)),
            _ => Disturbance::Priority(node, rng.pick(&[1, 60, 100, 199, 254])),
        }
    }

    fn pass(&mut self, length: Duration) -> Result<(), String> {
        let end = self.world.now + length;
        self.watch.look(&self.world)?;
        while self.world.step(end) {
            self.watch.look(&self.world)?;
        }
        self.watch.look(&self.world)
    }
}

/// Says which seed it was if the election panics.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("run it again with SIM_SEED={} SIM_SEEDS=1", self.0);
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn whatever_happens_one_fit_router_ends_up_active() {
    let first = number("SIM_SEED").unwrap_or(1);
    for seed in first..first + number("SIM_SEEDS").unwrap_or(SEEDS) {
        let _named = Named(seed);
        if let Err(what) = Run::new(seed, false).play() {
            let mut again = Run::new(seed, true);
            let _ = again.play();
            for line in again.world.trace.iter().flatten() {
                eprintln!("{line}");
            }
            panic!("seed {seed}: {what}");
        }
    }
}
