//! Is a worker alive? Pure: signs of life in, silence out.
//!
//! Only silence that the worker could have broken counts: rounds for which we were late ourselves are
//! forgiven, and so is a worker that waited for a CPU for half of the time or more, or still waits for one. Beats alone
//! lie (a burst of long work delays one by half a second), so any poll of any task is a sign of life too.

use std::time::{Duration, Instant};

use proxy_core::beat::Reading;

use super::policy::Timing;

/// What is known of one worker in one round.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sign {
    /// From the board.
    pub(super) reading: Reading,
    /// How its thread stands with the scheduler; asked for by [`Liveness::wants_scheduled`].
    pub(super) scheduled: Option<Scheduled>,
    /// A probe was answered since the last round.
    pub(super) probe_answered: bool,
    /// A probe was sent since the last round.
    pub(super) probe_sent: bool,
}

/// What the kernel tells of a thread's turns on a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Scheduled {
    /// Nanoseconds on a CPU, ever.
    pub(super) ran: u64,
    /// Nanoseconds of waiting for one, ever. The kernel adds a wait when it ends.
    pub(super) waited: u64,
    /// It runs, or waits for a CPU right now.
    pub(super) runnable: bool,
}

/// A worker that is silent for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hung {
    pub(super) worker: u16,
    pub(super) silent: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
struct Worker {
    last: Reading,
    /// Without beat and poll.
    silent: Duration,
    /// With a probe unanswered; `None`: none is out.
    unanswered: Option<Duration>,
    /// What the kernel told when silence became suspicious, and for how long it lasts since.
    suspected: Option<(Scheduled, Duration)>,
}

/// The judgement over all workers.
#[derive(Debug)]
pub(super) struct Liveness {
    timing: Timing,
    last_round: Instant,
    workers: Vec<Worker>,
    /// Draining workers accept nothing, so only beats count.
    probing: bool,
}

impl Liveness {
    pub(super) fn new(timing: Timing, workers: u16, now: Instant) -> Liveness {
        let workers = vec![Worker::default(); usize::from(workers)];
        Liveness { timing, last_round: now, workers, probing: true }
    }

    /// Probes are not answered any more.
    pub(super) fn stop_probing(&mut self) {
        self.probing = false;
        self.workers.iter_mut().for_each(|worker| worker.unanswered = None);
    }

    /// Whether the next round needs to know if the worker gets a CPU: a healthy one costs no look-up.
    pub(super) fn wants_scheduled(&self, worker: u16) -> bool {
        self.workers.get(usize::from(worker)).is_some_and(|worker| worker.silence() >= self.timing.suspect_after)
    }

    /// One round, every [`Timing::round`]; `signs` by worker. The worker that is silent for longest, if any is hung.
    pub(super) fn round(&mut self, now: Instant, signs: &[Sign]) -> Option<Hung> {
        let passed = now.saturating_duration_since(self.last_round);
        self.last_round = now;
        // Late ourselves: whoever we find silent may have had no chance to be heard either.
        let counted = if passed > self.timing.round + self.timing.late { Duration::ZERO } else { passed };
        for (worker, sign) in self.workers.iter_mut().zip(signs) {
            worker.hear(sign, counted, self.probing);
            worker.suspect(sign, counted, &self.timing);
        }
        let numbered = (0..).zip(&self.workers);
        let hung = numbered.filter(|(_, worker)| worker.is_hung(&self.timing));
        hung.max_by_key(|(_, worker)| worker.silence()).map(|(number, w)| Hung { worker: number, silent: w.silence() })
    }
}

impl Worker {
    fn silence(&self) -> Duration {
        self.silent.max(self.unanswered.unwrap_or_default())
    }

    fn hear(&mut self, sign: &Sign, counted: Duration, probing: bool) {
        let alive = (sign.reading.beat, sign.reading.polls) != (self.last.beat, self.last.polls);
        self.silent = if alive { Duration::ZERO } else { self.silent + counted };
        self.last = sign.reading;
        if !probing {
            return;
        }
        if sign.probe_answered {
            self.unanswered = None;
        } else if let Some(unanswered) = &mut self.unanswered {
            *unanswered += counted;
        }
        if sign.probe_sent && self.unanswered.is_none() {
            self.unanswered = Some(Duration::ZERO);
        }
    }

    fn suspect(&mut self, sign: &Sign, counted: Duration, timing: &Timing) {
        let after = timing.suspect_after;
        if self.silence() < after {
            self.suspected = None;
        } else if let Some((_, lasting)) = &mut self.suspected {
            *lasting += counted;
        } else if let Some(scheduled) = sign.scheduled {
            self.suspected = Some((scheduled, Duration::ZERO));
        }
        let hung = self.is_hung(timing);
        if let (Some((base, lasting)), Some(scheduled)) = (&mut self.suspected, sign.scheduled) {
            let most = |now: u64, then: u64| Duration::from_nanos(now.saturating_sub(then)) * 2 >= *lasting;
            // One long wait is counted nowhere yet. Asked only when all depends on it: what a thread ran is counted by ticks.
            let waits = hung && scheduled.runnable && !most(scheduled.ran, base.ran);
            if !lasting.is_zero() && (waits || most(scheduled.waited, base.waited)) {
                // Starved: this silence is the machine's, not the worker's. Counting starts again from the suspicion.
                (*base, *lasting) = (scheduled, Duration::ZERO);
                self.silent = self.silent.min(after);
                self.unanswered = self.unanswered.map(|unanswered| unanswered.min(after));
            }
        }
    }

    fn is_hung(&self, timing: &Timing) -> bool {
        self.silent >= timing.hung_after || self.unanswered.is_some_and(|silent| silent >= timing.probe_hung_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND: Duration = Duration::from_millis(10);

    struct Bench {
        liveness: Liveness,
        now: Instant,
        sign: Sign,
    }

    impl Bench {
        fn new() -> Bench {
            let now = Instant::now();
            Bench { liveness: Liveness::new(Timing::default(), 1, now), now, sign: Sign::default() }
        }

        /// Rounds until the worker is hung; the time that took.
        fn until_hung(&mut self, at_most: Duration, each: impl Fn(&mut Sign)) -> Option<Duration> {
            let begin = self.now;
            while self.now - begin < at_most {
                self.now += ROUND;
                each(&mut self.sign);
                if let Some(hung) = self.liveness.round(self.now, &[self.sign]) {
                    assert_eq!(hung.worker, 0);
                    return Some(self.now - begin);
                }
            }
            None
        }
    }

    #[test]
    fn beats_or_polls_alone_are_life() {
        let minute = Duration::from_secs(60);
        assert_eq!(Bench::new().until_hung(minute, |sign| sign.reading.beat += 1), None);
        assert_eq!(Bench::new().until_hung(minute, |sign| sign.reading.polls += 1), None);
    }

    #[test]
    fn silence_of_150_ms_is_a_hang() {
        let hung = Bench::new().until_hung(Duration::from_secs(1), |sign| sign.scheduled = Some(Scheduled::default()));
        assert_eq!(hung, Some(Duration::from_millis(150)));
    }

    #[test]
    fn a_thread_whose_scheduler_statistics_cannot_be_read_is_judged_all_the_same() {
        assert_eq!(Bench::new().until_hung(Duration::from_secs(1), |_| {}), Some(Duration::from_millis(150)));
    }

    #[test]
    fn our_own_lateness_is_forgiven() {
        let mut bench = Bench::new();
        for _ in 0..20 {
            bench.now += Duration::from_millis(200);
            assert_eq!(bench.liveness.round(bench.now, &[bench.sign]), None);
        }
    }

    #[test]
    fn a_starved_worker_is_not_hung_until_it_gets_its_cpu_and_does_nothing() {
        let mut bench = Bench::new();
        let starving = |sign: &mut Sign| sign.scheduled.get_or_insert_default().waited += 8_000_000;
        assert_eq!(bench.until_hung(Duration::from_secs(5), starving), None);
        assert!(bench.until_hung(Duration::from_secs(5), |_| {}).is_some());
    }

    /// The kernel counts a wait when it ends.
    #[test]
    fn a_worker_that_waits_for_a_cpu_in_one_piece_is_not_hung() {
        let waits = |sign: &mut Sign| sign.scheduled = Some(Scheduled { runnable: true, ..Scheduled::default() });
        let mut bench = Bench::new();
        assert_eq!(bench.until_hung(Duration::from_secs(5), waits), None);
        assert!(bench.until_hung(Duration::from_secs(5), |sign| sign.scheduled = Some(Scheduled::default())).is_some());
        let unanswered = |sign: &mut Sign| {
            waits(sign);
            sign.reading.beat += 1;
            sign.probe_sent = true;
        };
        assert_eq!(Bench::new().until_hung(Duration::from_secs(5), unanswered), None);
    }

    #[test]
    fn a_worker_that_runs_and_runs_is_hung_in_time() {
        let spins = |sign: &mut Sign| {
            let scheduled = sign.scheduled.get_or_insert_default();
            scheduled.runnable = true;
            scheduled.ran += 10_000_000;
        };
        assert_eq!(Bench::new().until_hung(Duration::from_secs(1), spins), Some(Duration::from_millis(150)));
    }

    #[test]
    fn a_probe_without_an_answer_for_250_ms_is_a_hang() {
        let mut bench = Bench::new();
        let hung = bench.until_hung(Duration::from_secs(1), |sign| {
            sign.reading.beat += 1;
            sign.probe_sent = true;
        });
        assert_eq!(hung, Some(Duration::from_millis(260)));
        bench.liveness.stop_probing();
        assert_eq!(bench.until_hung(Duration::from_secs(1), |sign| sign.reading.beat += 1), None);
    }
}
