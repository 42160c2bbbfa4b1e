//! When a core is started, killed and given up on. Pure: [`Policy::handle`] takes what happened,
//! [`Policy::poll_output`] gives what to do, [`Policy::poll_timeout`] when to call [`Policy::expire`].
//!
//! A core is always restarted: a node without one is of no use. The back-off keeps a broken one from eating the
//! machine, and the crash-loop verdict keeps the failover policy from trusting it because it is up just now.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::liveness::Hung;
use super::{CoreState, Exit};

/// Every interval and deadline of supervision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two looks at the board. 10 ms.
    pub round: Duration,
    /// A round that is later than this is forgiven. 30 ms.
    pub late: Duration,
    /// From when on it is looked up whether a silent worker gets a CPU. 60 ms.
    pub suspect_after: Duration,
    /// Without beat and poll a worker is hung. 150 ms.
    pub hung_after: Duration,
    /// Between two probes of a worker's accept loop. 100 ms.
    pub probe_every: Duration,
    /// Without an answer to a probe a worker is hung. 250 ms.
    pub probe_hung_after: Duration,
    /// Without progress it is killed. 2 s.
    pub kill_after: Duration,
    /// From start to ready. 10 s.
    pub ready_within: Duration,
    /// From plan to answer. 10 s.
    pub apply_within: Duration,
    /// For a core that may be adopted to say who it is. 2 s.
    pub adopt_within: Duration,
    /// From the end of its channel to its own; with many connections the kernel takes a while to close them. 5 s.
    pub linger: Duration,
    /// Added to a drain's deadline before the core is killed. 2 s.
    pub stop_grace: Duration,
    /// Wait before the second restart in a row; doubles. The first is at once. 100 ms.
    pub backoff_first: Duration,
    /// It doubles up to here. 5 s.
    pub backoff_max: Duration,
    /// Up for so long, a core's past is forgotten. 30 s.
    pub healthy_after: Duration,
    /// Exits within [`Timing::loop_within`] that make a crash loop. 3.
    pub loop_exits: usize,
    /// 30 s.
    pub loop_within: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            round: Duration::from_millis(10),
            late: Duration::from_millis(30),
            suspect_after: Duration::from_millis(60),
            hung_after: Duration::from_millis(150),
            probe_every: Duration::from_millis(100),
            probe_hung_after: Duration::from_millis(250),
            kill_after: Duration::from_secs(2),
            ready_within: Duration::from_secs(10),
            apply_within: Duration::from_secs(10),
            adopt_within: Duration::from_secs(2),
            linger: Duration::from_secs(5),
            stop_grace: Duration::from_secs(2),
            backoff_first: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
            healthy_after: Duration::from_secs(30),
            loop_exits: 3,
            loop_within: Duration::from_secs(30),
        }
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub(super) enum Input {
    /// There is nothing to adopt.
    Begin,
    /// A core that was left behind is ours.
    Adopted { pid: u32 },
    /// The plan runs.
    Ready { pid: u32, revision: u64 },
    /// What a round of [`super::liveness::Liveness`] found.
    Round(Option<Hung>),
    /// The core is of no more use while it lives: it broke the protocol, refused its first plan, or is silent.
    Broken(String),
    /// It closed its control channel: it was killed, and the kernel still closes the rest, or it ends in order.
    Closed,
    /// The process is gone, or never came to be.
    Exited(Exit),
    /// The core ends, and not because we told it to.
    Drains { deadline: Duration },
    /// The agent wants it to end.
    Stop { deadline: Duration },
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// Start a core.
    Spawn,
    /// Kill the core, for a reason that is logged.
    Kill(String),
    /// Tell it to drain.
    Drain(Duration),
    /// Tell the agent.
    State(CoreState),
}

#[derive(Clone, Debug)]
enum Phase {
    /// No core; the next one starts then.
    Down { start_at: Option<Instant> },
    /// Not ready yet.
    Starting { deadline: Instant },
    /// Carries traffic.
    Up { since: Instant, pid: u32, revision: u64, hung: bool },
    /// Sentenced; its exit is awaited.
    Dying { why: String },
    /// Is about to be gone, or ends as somebody else told it; there will be another one.
    Leaving { kill_at: Instant },
    /// Ends as told.
    Stopping { kill_at: Option<Instant> },
    /// For good.
    Over,
}

/// The life of cores.
#[derive(Debug)]
pub(super) struct Policy {
    timing: Timing,
    phase: Phase,
    /// Recent ones, as far as [`Timing::loop_within`] goes back.
    exits: VecDeque<Instant>,
    /// Restarts in a row without health in between.
    failures: u32,
    crash_loop: Option<Exit>,
    outputs: VecDeque<Output>,
}

impl Policy {
    pub(super) fn new(timing: Timing) -> Policy {
        Policy {
            timing,
            phase: Phase::Down { start_at: None },
            exits: VecDeque::new(),
            failures: 0,
            crash_loop: None,
            outputs: VecDeque::new(),
        }
    }

    /// The standing verdict.
    pub(super) fn crash_loop(&self) -> Option<&Exit> {
        self.crash_loop.as_ref()
    }

    /// The supervisor has nothing left to do.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    pub(super) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Down { start_at } => *start_at,
            Phase::Starting { deadline: at } | Phase::Leaving { kill_at: at } => Some(*at),
            Phase::Up { since, .. } => {
                (self.failures > 0 || self.crash_loop.is_some()).then(|| *since + self.timing.healthy_after)
            }
            Phase::Stopping { kill_at } => *kill_at,
            Phase::Dying { .. } | Phase::Over => None,
        }
    }

    pub(super) fn handle(&mut self, input: Input, now: Instant) {
        match (input, &mut self.phase) {
            (_, Phase::Over) => {}
            (Input::Begin, _) => self.spawn(now),
            (Input::Adopted { pid }, _) => {
                self.phase = Phase::Starting { deadline: now + self.timing.ready_within };
                self.state(CoreState::Adopted { pid });
            }
            (Input::Ready { pid, revision }, Phase::Starting { .. }) => {
                self.phase = Phase::Up { since: now, pid, revision, hung: false };
                self.state(CoreState::Ready { pid, revision });
            }
            (Input::Ready { pid, revision }, Phase::Up { revision: running, .. }) => {
                *running = revision;
                self.state(CoreState::Ready { pid, revision });
            }
            (Input::Round(Some(Hung { worker, silent })), Phase::Up { hung, .. }) => {
                let news = !std::mem::replace(hung, true);
                if silent >= self.timing.kill_after {
                    let why = format!("worker {worker} made no progress for {} ms", silent.as_millis());
                    self.kill(why);
                } else if news {
                    self.state(CoreState::Hung { worker, silent });
                }
            }
            (Input::Round(None), Phase::Up { pid, revision, hung, .. }) => {
                if std::mem::replace(hung, false) {
                    let ready = CoreState::Ready { pid: *pid, revision: *revision };
                    self.state(ready);
                }
            }
            (Input::Drains { deadline }, Phase::Starting { .. } | Phase::Up { .. }) => {
                self.phase = Phase::Leaving { kill_at: now + deadline + self.timing.stop_grace };
                self.state(CoreState::Draining);
            }
            (Input::Closed, Phase::Starting { .. } | Phase::Up { .. }) => {
                self.phase = Phase::Leaving { kill_at: now + self.timing.linger };
                self.state(CoreState::Ending);
            }
            (Input::Closed, Phase::Leaving { kill_at } | Phase::Stopping { kill_at: Some(kill_at) }) => {
                *kill_at = (*kill_at).min(now + self.timing.linger);
            }
            (
                Input::Broken(why),
                Phase::Starting { .. } | Phase::Up { .. } | Phase::Leaving { .. } | Phase::Stopping { .. },
            ) => self.kill(why),
            (Input::Exited(_), Phase::Stopping { .. }) => self.over(),
            (Input::Exited(exit), Phase::Dying { why }) => {
                let exit = Exit { status: format!("{} ({why})", exit.status), ..exit };
                self.exited(exit, now);
            }
            (Input::Exited(exit), _) => self.exited(exit, now),
            (Input::Stop { .. }, Phase::Down { .. }) => self.over(),
            (Input::Stop { .. }, Phase::Starting { .. } | Phase::Dying { .. }) => {
                self.phase = Phase::Stopping { kill_at: None };
                self.outputs.push_back(Output::Kill("it is to end before it was ready".into()));
            }
            (Input::Stop { deadline }, Phase::Up { .. } | Phase::Leaving { .. } | Phase::Stopping { .. }) => {
                self.phase = Phase::Stopping { kill_at: Some(now + deadline + self.timing.stop_grace) };
                self.outputs.push_back(Output::Drain(deadline));
                self.state(CoreState::Draining);
            }
            // News of a core that is down or sentenced change nothing.
            (Input::Ready { .. } | Input::Round(_) | Input::Broken(_) | Input::Drains { .. } | Input::Closed, _) => {}
        }
    }

    /// What [`Policy::poll_timeout`] announced.
    pub(super) fn expire(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Down { start_at: Some(at) } if *at <= now => self.spawn(now),
            Phase::Starting { deadline } if *deadline <= now => {
                self.kill(format!("not ready within {} s", self.timing.ready_within.as_secs()));
            }
            Phase::Leaving { kill_at } if *kill_at <= now => self.kill("it did not end within its deadline".into()),
            Phase::Up { since, pid, revision, hung } if *since + self.timing.healthy_after <= now => {
                let state = (!*hung).then_some(CoreState::Ready { pid: *pid, revision: *revision });
                self.failures = 0;
                self.exits.clear();
                if self.crash_loop.take().is_some()
                    && let Some(state) = state
                {
                    self.state(state);
                }
            }
            Phase::Stopping { kill_at: kill_at @ Some(_) } if kill_at.is_some_and(|at| at <= now) => {
                *kill_at = None;
                self.outputs.push_back(Output::Kill("it did not end within its deadline".into()));
            }
            _ => {}
        }
    }

    fn spawn(&mut self, now: Instant) {
        self.phase = Phase::Starting { deadline: now + self.timing.ready_within };
        self.state(CoreState::Starting);
        self.outputs.push_back(Output::Spawn);
    }

    fn kill(&mut self, why: String) {
        let stopping = matches!(self.phase, Phase::Stopping { .. });
        self.outputs.push_back(Output::Kill(why.clone()));
        self.phase = if stopping { Phase::Stopping { kill_at: None } } else { Phase::Dying { why } };
    }

    fn exited(&mut self, exit: Exit, now: Instant) {
        self.state(CoreState::Exited(exit.clone()));
        self.exits.push_back(now);
        while self.exits.front().is_some_and(|first| *first + self.timing.loop_within < now) {
            self.exits.pop_front();
        }
        if self.exits.len() >= self.timing.loop_exits || self.crash_loop.is_some() {
            self.crash_loop = Some(exit.clone());
            self.state(CoreState::CrashLoop { exits: self.exits.len(), last: exit });
        }
        let wait = self.backoff();
        self.failures = self.failures.saturating_add(1);
        if wait.is_zero() {
            return self.spawn(now);
        }
        self.phase = Phase::Down { start_at: Some(now + wait) };
        self.state(CoreState::Backoff { wait });
    }

    fn backoff(&self) -> Duration {
        match self.failures {
            0 => Duration::ZERO,
            n => self.timing.backoff_first.saturating_mul(1 << (n - 1).min(20)).min(self.timing.backoff_max),
        }
    }

    fn over(&mut self) {
        self.phase = Phase::Over;
        self.state(CoreState::Stopped);
    }

    fn state(&mut self, state: CoreState) {
        self.outputs.push_back(Output::State(state));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    struct Bench {
        policy: Policy,
        now: Instant,
    }

    impl Bench {
        fn new() -> Bench {
            Bench { policy: Policy::new(Timing::default()), now: Instant::now() }
        }

        fn give(&mut self, input: Input) -> Vec<Output> {
            self.policy.handle(input, self.now);
            std::iter::from_fn(|| self.policy.poll_output()).collect()
        }

        /// Waits for the next deadline; how long that was, and what came of it.
        fn wait(&mut self) -> (Duration, Vec<Output>) {
            let at = self.policy.poll_timeout().expect("a deadline");
            let waited = at - self.now;
            self.now = at;
            self.policy.expire(at);
            (waited, std::iter::from_fn(|| self.policy.poll_output()).collect())
        }

        fn up() -> Bench {
            let mut bench = Bench::new();
            assert_eq!(bench.give(Input::Begin), [Output::State(CoreState::Starting), Output::Spawn]);
            bench.ready();
            bench
        }

        fn ready(&mut self) {
            assert_eq!(self.give(Input::Ready { pid: 7, revision: 1 }), [Output::State(READY)]);
        }
    }

    const READY: CoreState = CoreState::Ready { pid: 7, revision: 1 };

    fn exit(status: &str) -> Exit {
        Exit { status: status.into(), last_log: None }
    }

    fn silent(milliseconds: u64) -> Input {
        Input::Round(Some(Hung { worker: 1, silent: Duration::from_millis(milliseconds) }))
    }

    #[test]
    fn the_first_exit_is_followed_by_a_start_at_once_and_further_ones_by_longer_and_longer_waits() {
        let mut bench = Bench::up();
        let first = bench.give(Input::Exited(exit("signal 9")));
        assert_eq!(first.last(), Some(&Output::Spawn));
        for expected in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            let outputs = bench.give(Input::Exited(exit("signal 9")));
            assert!(!outputs.contains(&Output::Spawn), "{outputs:?}");
            let (waited, outputs) = bench.wait();
            assert_eq!(waited, Duration::from_millis(expected));
            assert_eq!(outputs, [Output::State(CoreState::Starting), Output::Spawn]);
        }
    }

    #[test]
    fn three_exits_in_half_a_minute_are_a_crash_loop_until_a_core_stays_up() {
        let mut bench = Bench::up();
        for _ in 0..2 {
            bench.give(Input::Exited(exit("exit status 1")));
        }
        assert_eq!(bench.policy.crash_loop(), None);
        let third = bench.give(Input::Exited(exit("exit status 2")));
        let verdict = CoreState::CrashLoop { exits: 3, last: exit("exit status 2") };
        assert!(third.contains(&Output::State(verdict)), "{third:?}");
        bench.wait();
        bench.ready();
        assert_eq!(bench.policy.crash_loop(), Some(&exit("exit status 2")));
        let (waited, outputs) = bench.wait();
        assert_eq!((waited, outputs), (Duration::from_secs(30), vec![Output::State(READY)]));
        assert_eq!(bench.policy.crash_loop(), None);
        let after = bench.give(Input::Exited(exit("signal 9")));
        assert_eq!(after.last(), Some(&Output::Spawn), "the past is forgotten");
    }

    #[test]
    fn three_exits_over_a_long_time_are_none() {
        let mut bench = Bench::up();
        for _ in 0..5 {
            bench.give(Input::Exited(exit("signal 9")));
            if bench.policy.poll_timeout().is_some_and(|at| at < bench.now + Duration::from_secs(6)) {
                bench.wait();
            }
            bench.now += 16_000 * MS;
        }
        assert_eq!(bench.policy.crash_loop(), None);
    }

    #[test]
    fn a_hung_worker_is_reported_once_and_killed_only_after_two_seconds() {
        let mut bench = Bench::up();
        let hung = CoreState::Hung { worker: 1, silent: 150 * MS };
        assert_eq!(bench.give(silent(150)), [Output::State(hung)]);
        assert_eq!(bench.give(silent(1990)), []);
        let killed = bench.give(silent(2000));
        assert!(matches!(&killed[..], [Output::Kill(why)] if why.contains("2000 ms")), "{killed:?}");
        assert_eq!(bench.give(silent(2010)), []);
        let gone = bench.give(Input::Exited(exit("signal 9")));
        let Output::State(CoreState::Exited(how)) = &gone[0] else { panic!("{gone:?}") };
        assert!(how.status.contains("signal 9") && how.status.contains("no progress"), "{how:?}");
    }

    #[test]
    fn a_worker_that_goes_on_is_ready_again() {
        let mut bench = Bench::up();
        bench.give(silent(200));
        assert_eq!(bench.give(Input::Round(None)), [Output::State(READY)]);
        assert_eq!(bench.give(Input::Round(None)), []);
    }

    #[test]
    fn a_core_that_is_not_ready_in_time_is_killed() {
        let mut bench = Bench::new();
        bench.give(Input::Begin);
        let (waited, outputs) = bench.wait();
        assert_eq!(waited, Duration::from_secs(10));
        assert!(matches!(&outputs[..], [Output::Kill(_)]), "{outputs:?}");
    }

    #[test]
    fn an_adopted_core_is_watched_like_a_child() {
        let mut bench = Bench::new();
        assert_eq!(bench.give(Input::Adopted { pid: 7 }), [Output::State(CoreState::Adopted { pid: 7 })]);
        bench.ready();
        assert!(matches!(&bench.give(silent(2000))[..], [Output::Kill(_)]));
    }

    #[test]
    fn a_core_that_leaves_by_itself_is_not_called_hung_is_killed_after_its_deadline_and_replaced() {
        let mut bench = Bench::up();
        let deadline = 30_000 * MS;
        assert_eq!(bench.give(Input::Drains { deadline }), [Output::State(CoreState::Draining)]);
        let silent = Timing::default().kill_after;
        assert_eq!(bench.give(Input::Round(Some(Hung { worker: 0, silent }))), []);
        assert_eq!(bench.give(Input::Drains { deadline: 2 * deadline }), []);
        let (waited, killed) = bench.wait();
        assert_eq!(waited, deadline + Timing::default().stop_grace);
        assert!(matches!(&killed[..], [Output::Kill(_)]), "{killed:?}");
        let exit = Exit { status: "killed by SIGKILL".into(), last_log: None };
        assert_eq!(bench.give(Input::Exited(exit)).last(), Some(&Output::Spawn));
    }

    #[test]
    fn what_is_told_to_stop_drains_and_is_killed_after_its_deadline_and_never_restarted() {
        let mut bench = Bench::up();
        let deadline = Duration::from_secs(5);
        let outputs = bench.give(Input::Stop { deadline });
        assert_eq!(outputs, [Output::Drain(deadline), Output::State(CoreState::Draining)]);
        let (waited, outputs) = bench.wait();
        assert_eq!(waited, Duration::from_secs(7));
        assert!(matches!(&outputs[..], [Output::Kill(_)]));
        assert_eq!(bench.give(Input::Exited(exit("signal 9"))), [Output::State(CoreState::Stopped)]);
        assert!(bench.policy.is_over());
    }

    #[test]
    fn a_core_that_closed_its_channel_is_not_relied_on_and_is_killed_if_it_stays() {
        let mut bench = Bench::up();
        assert_eq!(bench.give(Input::Closed), [Output::State(CoreState::Ending)]);
        let (waited, killed) = bench.wait();
        assert_eq!(waited, Timing::default().linger);
        assert!(matches!(&killed[..], [Output::Kill(_)]), "{killed:?}");
    }

    #[test]
    fn one_that_ends_as_told_has_no_longer_than_its_deadline_and_than_any_other_once_its_channel_is_closed() {
        let (linger, grace) = (Timing::default().linger, Timing::default().stop_grace);
        for deadline in [Duration::ZERO, 30_000 * MS] {
            for told in [Input::Stop { deadline }, Input::Drains { deadline }] {
                let mut bench = Bench::up();
                bench.give(told);
                assert_eq!(bench.give(Input::Closed), []);
                assert_eq!(bench.wait().0, linger.min(deadline + grace));
            }
        }
    }

    /// State × input: what each news does in each phase.
    #[test]
    fn each_news_in_each_phase() {
        let down = || {
            let mut bench = Bench::up();
            bench.give(Input::Exited(exit("x")));
            bench.give(Input::Exited(exit("x")));
            bench
        };
        let starting = || {
            let mut bench = Bench::new();
            bench.give(Input::Begin);
            bench
        };
        let leaving = || {
            let mut bench = Bench::up();
            bench.give(Input::Closed);
            bench
        };
        let dying = || {
            let mut bench = Bench::up();
            bench.give(Input::Broken("b".into()));
            bench
        };
        let stopping = || {
            let mut bench = Bench::up();
            bench.give(Input::Stop { deadline: MS });
            bench
        };
        let over = || {
            let mut bench = stopping();
            bench.give(Input::Exited(exit("x")));
            bench
        };
        type Make<'a> = &'a dyn Fn() -> Bench;
        let phases: [(&str, Make<'_>); 7] = [
            ("down", &down),
            ("starting", &starting),
            ("up", &Bench::up),
            ("leaving", &leaving),
            ("dying", &dying),
            ("stopping", &stopping),
            ("over", &over),
        ];
        let inputs: [(&str, Input); 7] = [
            ("ready", Input::Ready { pid: 7, revision: 2 }),
            ("round", Input::Round(None)),
            ("hung", silent(150)),
            ("broken", Input::Broken("b".into())),
            ("closed", Input::Closed),
            ("exited", Input::Exited(exit("x"))),
            ("stop", Input::Stop { deadline: MS }),
        ];
        let word = |output: &Output| match output {
            Output::Spawn => "spawn".to_owned(),
            Output::Kill(_) => "kill".to_owned(),
            Output::Drain(_) => "drain".to_owned(),
            Output::State(state) => state.name().to_owned(),
        };
        let mut table = String::new();
        for (phase, make) in phases {
            for (input, value) in &inputs {
                let words: Vec<_> = make().give(value.clone()).iter().map(word).collect();
                table += &format!("{phase} {input}: {}\n", words.join(" "));
            }
        }
        let expected = "\
down ready: \ndown round: \ndown hung: \ndown broken: \ndown closed: \ndown exited: exited crash-loop backoff
down stop: stopped
starting ready: ready\nstarting round: \nstarting hung: \nstarting broken: kill\nstarting closed: ending
starting exited: exited starting spawn\nstarting stop: kill
up ready: ready\nup round: \nup hung: hung\nup broken: kill\nup closed: ending
up exited: exited starting spawn\nup stop: drain draining
leaving ready: \nleaving round: \nleaving hung: \nleaving broken: kill\nleaving closed: \n\
leaving exited: exited starting spawn\nleaving stop: drain draining
dying ready: \ndying round: \ndying hung: \ndying broken: \ndying closed: \n\
dying exited: exited starting spawn\ndying stop: kill
stopping ready: \nstopping round: \nstopping hung: \nstopping broken: kill\nstopping closed: \n\
stopping exited: stopped\nstopping stop: drain draining
over ready: \nover round: \nover hung: \nover broken: \nover closed: \nover exited: \nover stop: \n";
        assert_eq!(table, expected);
    }
}
