//! Both sides of the hand-off in virtual time, everything that can go wrong with them, and what must hold all the same.
//!
//! `SIM_SEEDS` says how many seeds are run, `SIM_SEED` which is the first. A failure prints its seed and the last
//! lines of what happened; `SIM_SEED=<seed> SIM_SEEDS=1` runs it again.

mod handoff_world;

use std::collections::BTreeMap;
use std::time::Duration;

use handoff_world::{Disturbance, World};
use node::handoff::machine::PREPARE;
use vrrp::types::Time;

/// How many seeds are run of each kind if nobody says how many: a few seconds' worth.
const SEEDS: u64 = 1_500;
/// What a machine may need beyond the time that connections are given, to be idle again.
const IDLE: Duration = Duration::from_secs(10);
/// After so long without its peer a node that is active has cleared everything away: the peer's silence is noticed,
/// then jobs run, one of which may be slow.
const ALONE: Duration = Duration::from_secs(4);

/// What all seeds did together, so that a simulation that tests nothing is noticed.
#[derive(Default)]
struct Tally {
    opened: u64,
    moved: u64,
    lost: u64,
    ends: BTreeMap<String, u64>,
}

/// One seed, start to end.
struct Run {
    world: World,
    /// Since when a node is active and its peer's process is dead.
    alone: [Option<Time>; 2],
    /// Since when each hand-off is known, by node and number.
    timeout: Option<Duration>,
}

impl Run {
    fn new(seed: u64, calm: bool, traced: bool) -> Run {
        let mut world = World::new(seed, calm, traced);
        let choices = [None, Some(Duration::from_secs(600))];
        let timeout =
            if calm { world.rng.pick(&choices) } else { Some(Duration::from_secs(world.rng.pick(&[1, 6, 15]))) };
        world.timeout = timeout;
        Run { world, alone: [None; 2], timeout }
    }

    fn start(&mut self) -> Result<(), String> {
        for node in 0..2 {
            self.world.disturb(Disturbance::Start(node));
        }
        self.pass(Duration::from_secs(2))?;
        let every = self.world.rng.pick(&[1_000, 4_000, 30_000]);
        self.world.open(Duration::from_micros(every));
        self.pass(Duration::from_millis(100))
    }

    /// Nothing goes wrong with what has moved: what is refused, and a session that breaks and is back, costs nobody anything.
    fn calm(&mut self) -> Result<(), String> {
        let lifetime = self.world.rng.pick(&[50, 1_000, 12_000]);
        self.world.lifetime = Duration::from_millis(lifetime);
        self.start()?;
        for _ in 0..self.world.rng.below(10) + 2 {
            let what = self.peaceful();
            self.world.disturb(what);
            let while_ = self.world.rng.pick(&[0, 3, 10, 40, 200, 2_500]);
            self.pass(Duration::from_millis(while_))?;
        }
        self.world.disturb(Disturbance::Heal);
        self.pass(Duration::from_secs(1))?;
        self.world.opening = None;
        self.pass(self.world.lifetime + Duration::from_secs(8))?;
        if self.world.connections() != 0 {
            return Err("the simulation's own connections do not end".to_owned());
        }
        self.is_over()
    }

    fn peaceful(&mut self) -> Disturbance {
        let rng = &mut self.world.rng;
        let node = usize::try_from(rng.below(2)).expect("a small number");
        match rng.below(20) {
            0..=7 => Disturbance::Begin(usize::from(!self.world.nodes[0].is_active())),
            8..=10 => Disturbance::Begin(node),
            11..=13 => Disturbance::Ask(node),
            14 | 15 => Disturbance::Break(rng.within(Duration::from_millis(200))),
            16 => Disturbance::JobsFail(rng.pick(&[0, 0, 20])),
            17 => Disturbance::Filter(rng.chance(30)),
            _ => Disturbance::Slow(Duration::from_millis(rng.pick(&[1, 8, 60]))),
        }
    }

    /// Everything may go wrong; connections may be lost then, but nothing gets stuck and nothing is left.
    fn faulty(&mut self) -> Result<(), String> {
        self.start()?;
        for _ in 0..self.world.rng.below(16) + 4 {
            let what = self.trouble();
            self.world.disturb(what);
            let while_ = self.world.rng.pick(&[0, 2, 6, 15, 40, 300, 3_000]);
            self.pass(Duration::from_millis(while_))?;
        }
        self.world.disturb(Disturbance::Heal);
        // Those that were told to end do so first.
        self.pass(Duration::from_secs(7))?;
        for node in 0..2 {
            self.world.disturb(Disturbance::Start(node));
        }
        self.pass(self.timeout.unwrap_or_default() + IDLE)?;
        self.is_over()?;
        self.world.calm = true;
        self.pass(Duration::from_secs(2))
    }

    fn trouble(&mut self) -> Disturbance {
        let dead = self.world.nodes.iter().position(|node| node.agent.is_none());
        let rng = &mut self.world.rng;
        if let Some(dead) = dead
            && rng.chance(40)
        {
            return Disturbance::Start(dead);
        }
        let node = usize::try_from(rng.below(2)).expect("a small number");
        match rng.below(34) {
            0..=7 => Disturbance::Begin(usize::from(!self.world.nodes[0].is_active())),
            8 => Disturbance::Begin(node),
            9..=11 => Disturbance::Ask(node),
            12..=14 => Disturbance::Break(rng.within(Duration::from_secs(3))),
            15 => Disturbance::Cut,
            16..=18 => Disturbance::Heal,
            19 | 20 => Disturbance::JobsFail(rng.pick(&[0, 10, 50, 100])),
            21 | 22 => Disturbance::Slow(Duration::from_millis(rng.pick(&[1, 8, 60, 1_500]))),
            23 => Disturbance::Filter(rng.chance(60)),
            24 | 25 => Disturbance::Fit(node, rng.chance(40)),
            26 => Disturbance::KillAgent(node),
            27 => Disturbance::KillMachine(node),
            28..=31 => Disturbance::Start(node),
            32 => Disturbance::Stop(node),
            _ => Disturbance::Reconfigure(node),
        }
    }

    /// One node is active, and nothing of any hand-off is left.
    fn is_over(&self) -> Result<(), String> {
        let active = self.world.nodes.iter().filter(|node| node.is_active()).count();
        if active != 1 {
            return Err(format!("{active} nodes are active in the end"));
        }
        for (number, node) in self.world.nodes.iter().enumerate() {
            let Some(agent) = &node.agent else { return Err(format!("node {number} is dead in the end")) };
            if !agent.machine.is_idle() {
                let progress: Vec<_> = agent.machine.progress().collect();
                return Err(format!("node {number} is not idle in the end: {progress:?}"));
            }
            if agent.election.yielding {
                return Err(format!("node {number} still yields in the end"));
            }
            if node.kernel.address != node.is_active() {
                return Err(format!("node {number} has the address without being active in the end"));
            }
            if node.kernel.has_residue() {
                return Err(format!("node {number} has something left in the end: {:?}", node.kernel));
            }
        }
        Ok(())
    }

    fn pass(&mut self, length: Duration) -> Result<(), String> {
        let end = self.world.now + length;
        self.look()?;
        while self.world.step(end) {
            self.look()?;
        }
        self.look()
    }

    fn look(&mut self) -> Result<(), String> {
        if let Some(broken) = &self.world.broken {
            return Err(broken.clone());
        }
        let now = self.world.now;
        for number in 0..2 {
            let [node, peer] = [number, 1 - number].map(|number| &self.world.nodes[number]);
            let alone = node.is_active() && peer.agent.is_none();
            self.alone[number] = if alone { self.alone[number].or(Some(now)) } else { None };
            let Some(agent) = &node.agent else { continue };
            if let Some(since) = self.alone[number]
                && now - since.max(self.world.stirred) > ALONE
                && node.kernel.has_residue()
                && self.world.jobs_work()
            {
                return Err(format!("node {number} is active alone with {:?}", node.kernel));
            }
            for progress in agent.machine.progress() {
                let bound = self.timeout.map(|timeout| timeout + PREPARE + IDLE);
                if bound.is_some_and(|bound| now - progress.since > bound) {
                    return Err(format!("node {number} is stuck: {progress:?}"));
                }
            }
        }
        Ok(())
    }
}

/// Says which seed it was if a machine panics.
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

fn run(calm: bool, play: impl Fn(&mut Run) -> Result<(), String>) -> Tally {
    let first = number("SIM_SEED").unwrap_or(1);
    let mut tally = Tally::default();
    for seed in first..first + number("SIM_SEEDS").unwrap_or(SEEDS) {
        let _named = Named(seed);
        let mut run = Run::new(seed, calm, false);
        let result = play(&mut run);
        tally.opened += run.world.opened;
        tally.moved += run.world.moved;
        tally.lost += run.world.lost;
        for (why, count) in &run.world.ends {
            *tally.ends.entry(why.clone()).or_default() += count;
        }
        if let Err(what) = result {
            let mut again = Run::new(seed, calm, true);
            let _ = play(&mut again);
            for line in again.world.trace.iter().flatten() {
                eprintln!("{line}");
            }
            panic!("seed {seed}: {what}");
        }
    }
    eprintln!("{} connections, {} moves (each side counts), {} lost", tally.opened, tally.moved, tally.lost);
    for (why, count) in &tally.ends {
        eprintln!("{count:>8} {why}");
    }
    tally
}

#[test]
fn without_faults_no_connection_is_ever_lost_and_nothing_is_left() {
    let tally = run(true, Run::calm);
    assert!(tally.moved > 0 && tally.opened > 0, "it moved nothing");
}

#[test]
fn whatever_fails_nothing_gets_stuck_and_nothing_is_left() {
    let tally = run(false, Run::faulty);
    assert!(tally.moved > 0 && tally.lost > 0, "nothing went wrong");
}
