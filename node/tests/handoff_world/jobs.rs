//! What the kernels do for the machines: jobs that take their time, and may fail.

use std::time::Duration;

use node::handoff::job::{Job, Outcome, ProbeTarget};
use node::handoff::machine::Input;

use super::{ANNOUNCE, AWAIT_PROBE, Event, Running, WEB, World};

impl World {
    pub(super) fn begin_job(&mut self, node: usize, number: u64, job: Job) {
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
    pub(super) fn works(&mut self, node: usize, number: u64) {
        let Some(running) = self.nodes[node].agent.as_ref().and_then(|agent| agent.running.get(&number)) else {
            return;
        };
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
                let soon = self.rng.within(self.delay);
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

    pub(super) fn ended(&mut self, node: usize, number: u64) {
        let Some(running) = self.nodes[node].agent.as_mut().and_then(|agent| agent.running.remove(&number)) else {
            return;
        };
        let probe = self.nodes[node].kernel.probe;
        let outcome = match running.job {
            _ if running.fails => Outcome::Failed("cannot do it: no memory".into()),
            Job::Prepare => match probe {
                Some((nonce, _)) => {
                    Outcome::Prepared { flows: self.flows_of(node), probe: ProbeTarget { port: 40_000, nonce } }
                }
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

    pub(super) fn probe(&mut self, to: usize, nonce: [u8; 16]) {
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

    pub(super) fn waiting(&self, node: usize) -> Vec<u64> {
        let agent = self.nodes[node].agent.iter();
        let running = agent.flat_map(|agent| agent.running.iter());
        running.filter(|(_, running)| running.job == Job::AwaitProbe).map(|(number, _)| *number).collect()
    }
}

fn nonce(node: usize, jobs: u64) -> [u8; 16] {
    let number = u128::from(jobs) * 2 + u128::try_from(node).expect("two nodes");
    number.to_be_bytes()
}
