//! What the clients saw, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use netns_lab::load::LoadCost;
use serde_json::{Value, json};

use super::run::{Mended, Run};
use super::scenario::{Goal, Scenario};
use super::stack::Stack;

/// A client that was late by more than this has blurred the figures; a goal is never missed by less.
const NOTABLE_LATENESS: Duration = Duration::from_millis(5);

/// All results of a lab.
#[derive(Debug)]
pub(crate) struct Report {
    rows: Vec<Row>,
    left_out: Vec<(Scenario, &'static str)>,
}

/// One scenario.
#[derive(Debug)]
struct Row {
    scenario: Scenario,
    goal: Goal,
    runs: Vec<Run>,
    took_over: Vec<&'static str>,
}

impl Report {
    /// From the runs of each scenario, and why others were not run.
    pub(crate) fn new(
        results: Vec<(Scenario, Vec<Run>)>,
        left_out: Vec<(Scenario, &'static str)>,
        stack: &dyn Stack,
        advert_interval: Duration,
    ) -> Report {
        let rows = results.into_iter().map(|(scenario, runs)| {
            let mut took_over: Vec<_> =
                runs.iter().filter_map(|run| run.took_over).map(|node| stack.name(node)).collect();
            took_over.sort_unstable();
            took_over.dedup();
            Row { scenario, goal: scenario.goal(advert_interval), runs, took_over }
        });
        Report { rows: rows.collect(), left_out }
    }

    /// Whether every goal was met.
    pub(crate) fn met(&self) -> bool {
        self.rows.iter().all(Row::met)
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let left_out = self.left_out.iter().map(|(scenario, why)| json!({"name": scenario.name(), "why": why}));
        json!({
            "scenarios": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
            "left_out": left_out.collect::<Vec<_>>(),
        })
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let head = [
            "SCENARIO",
            "RUNS",
            "TOOK OVER",
            "GAP p50",
            "p99",
            "max",
            "WORST",
            "BUSY",
            "FAILED",
            "LOST",
            "TWO",
            "GOAL",
            "MET",
        ];
        let mut lines = vec![head.map(String::from)];
        lines.extend(self.rows.iter().map(Row::cells));
        let widths: Vec<usize> = (0..head.len())
            .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for line in &lines {
            let cells: Vec<String> = line
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, width))| {
                    // Words to the left, figures to the right.
                    if matches!(column, 0 | 2 | 11 | 12) {
                        format!("{cell:<width$}")
                    } else {
                        format!("{cell:>width$}")
                    }
                })
                .collect();
            text += cells.join("  ").trim_end();
            text.push('\n');
        }
        text.push('\n');
        let width = self.rows.iter().map(|row| row.scenario.name().len()).max().unwrap_or(0);
        for row in &self.rows {
            let _ = writeln!(text, "{:<width$}  {}", row.scenario.name(), row.scenario.what());
        }
        text += "\nGap: the longest time without an answer from the fault on, for a client with a new connection every\n\
                 millisecond. Worst: its slowest request; a SYN that falls into the gap is sent again after a second.\n\
                 Failed: those of its requests that were not answered. Busy: the slowest answer on a connection that was\n\
                 there before. Lost: those of them that did not live to the end. Two: the longest time in which both\n\
                 nodes' kernels had the VIP. All times in milliseconds.\n";
        for (scenario, why) in &self.left_out {
            let _ = writeln!(text, "{} was left out: {why}.", scenario.name());
        }
        for row in &self.rows {
            text += &row.remarks();
        }
        text
    }
}

impl Row {
    fn met(&self) -> bool {
        let gap_within = |goal| self.gap(99).is_some_and(|gap| gap <= goal);
        let mended = |run: &Run, good: fn(&Mended) -> bool| run.mended.as_ref().is_some_and(good);
        match self.goal {
            Goal::Gap(goal) => gap_within(goal),
            Goal::Still => {
                self.failed() == 0 && self.took_over.is_empty() && self.runs.iter().all(|run| run.cost.gap.is_some())
            }
            Goal::Seamless(goal) => {
                let latest = self.percentile(99, |run| run.cost.worst.max(busy(run)));
                let whole = |load: &LoadCost| load.lost == 0 && load.answers > 0;
                self.failed() == 0
                    && latest <= goal
                    && self.runs.iter().all(|run| run.cost.gap.is_some() && run.load.as_ref().is_some_and(whole))
            }
            Goal::NeverTwo => self.runs.iter().all(|run| {
                run.took_over.is_some() && run.two == Duration::ZERO && mended(run, |mended| !mended.returned)
            }),
            Goal::OneAgain(goal) => {
                let two = |run: &Run| run.mended.map_or(Duration::MAX, |mended| mended.two);
                gap_within(goal) && self.percentile(99, two) <= goal
            }
            Goal::StaysAway(goal) => {
                gap_within(goal)
                    && self.runs.iter().all(|run| run.took_over.is_some() && mended(run, |mended| !mended.returned))
            }
        }
    }

    /// Of one value for each run; by the nearest rank, so that it is one that did happen.
    fn percentile<T: Ord + Copy + Default>(&self, percent: usize, value: impl Fn(&Run) -> T) -> T {
        let mut values: Vec<T> = self.runs.iter().map(value).collect();
        values.sort_unstable();
        let rank = (values.len() * percent).div_ceil(100).max(1);
        values.get(rank - 1).copied().unwrap_or_default()
    }

    /// An endless gap (nobody answered again) is `None` and the longest.
    fn gap(&self, percent: usize) -> Option<Duration> {
        let gap = self.percentile(percent, |run| run.cost.gap.unwrap_or(Duration::MAX));
        (gap < Duration::MAX).then_some(gap)
    }

    fn failed(&self) -> usize {
        self.runs.iter().map(|run| run.cost.failed).sum()
    }

    fn requests(&self) -> usize {
        self.runs.iter().map(|run| run.cost.requests).sum()
    }

    fn loads(&self) -> impl Iterator<Item = &LoadCost> {
        self.runs.iter().filter_map(|run| run.load.as_ref())
    }

    /// How many lasting connections there were, and how many of them were lost.
    fn connections(&self) -> Option<(usize, usize)> {
        self.loads().map(|load| (load.connections, load.lost)).reduce(|(all, lost), more| (all + more.0, lost + more.1))
    }

    fn late(&self) -> Duration {
        let late = |run: &Run| run.cost.late.max(run.load.as_ref().map_or(Duration::ZERO, |load| load.late));
        self.percentile(100, late)
    }

    fn json(&self) -> Value {
        let gap = |percent| self.gap(percent).map(rounded);
        let took_over = match self.took_over.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            several => json!(several),
        };
        let mended = self.runs.iter().filter_map(|run| run.mended);
        json!({
            "name": self.scenario.name(),
            "runs": self.runs.len(),
            "took_over": took_over,
            "gap_ms": { "p50": gap(50), "p99": gap(99), "max": gap(100) },
            "worst_latency_ms": rounded(self.percentile(100, |run| run.cost.worst)),
            "requests": self.requests(),
            "failed": self.failed(),
            "connections": self.connections().map(|(all, lost)| self.load_json(all, lost)),
            "holders_ms": {
                "two": rounded(self.percentile(100, |run| run.two)),
                "none": rounded(self.percentile(100, |run| run.none)),
                "two_after_mending": mended.map(|mended| mended.two).max().map(rounded),
            },
            "goal": self.goal.words(),
            "goal_ms": self.goal.time().map(rounded),
            "late_ms": rounded(self.late()),
            "met": self.met(),
        })
    }

    /// Of the connections that last. `busy_worst_ms` is over the runs, of each run's slowest answer.
    fn load_json(&self, all: usize, lost: usize) -> Value {
        let mut by_loss: BTreeMap<&str, usize> = BTreeMap::new();
        for (loss, count) in self.loads().flat_map(|load| &load.by_loss) {
            *by_loss.entry(loss).or_default() += count;
        }
        let worst = |percent| rounded(self.percentile(percent, busy));
        json!({
            "open": all,
            "lost": lost,
            "lost_by_kind": by_loss,
            "busy_answers": self.loads().map(|load| load.answers).sum::<usize>(),
            "busy_worst_ms": { "p50": worst(50), "p99": worst(99), "max": worst(100) },
            "busy_p99_ms": self.loads().map(|load| load.p99).max().map(rounded),
            "transfers_intact": self.loads().map(|load| load.intact).sum::<usize>(),
        })
    }

    fn cells(&self) -> [String; 13] {
        let gap = |percent| self.gap(percent).map_or("none".into(), milliseconds);
        let (busy_worst, lost) = match self.connections() {
            Some((all, lost)) => (milliseconds(self.percentile(100, busy)), format!("{lost}/{all}")),
            None => ("-".into(), "-".into()),
        };
        [
            self.scenario.name().into(),
            self.runs.len().to_string(),
            if self.took_over.is_empty() { "nobody".into() } else { self.took_over.join(", ") },
            gap(50),
            gap(99),
            gap(100),
            milliseconds(self.percentile(100, |run| run.cost.worst)),
            busy_worst,
            format!("{}/{}", self.failed(), self.requests()),
            lost,
            milliseconds(self.percentile(100, |run| run.two)),
            self.goal.words(),
            if self.met() { "yes".into() } else { "NO".into() },
        ]
    }

    /// What the figures don't say by themselves.
    fn remarks(&self) -> String {
        let mut text = String::new();
        let name = self.scenario.name();
        let losses: BTreeMap<_, _> = self.loads().flat_map(|load| load.by_loss.clone()).collect();
        if !losses.is_empty() {
            let kinds: Vec<_> = losses.keys().copied().collect();
            let _ = writeln!(text, "{name}: connections were lost by: {}.", kinds.join(", "));
        }
        if self.late() > NOTABLE_LATENESS {
            let late = milliseconds(self.late());
            let _ = writeln!(
                text,
                "{name}: the client itself was late by up to {late} ms (this machine is busy): take off as much."
            );
        }
        text
    }
}

/// The slowest answer on a lasting connection.
fn busy(run: &Run) -> Duration {
    run.load.as_ref().map_or(Duration::ZERO, |load| load.worst)
}

fn milliseconds(length: Duration) -> String {
    format!("{:.1}", length.as_secs_f64() * 1e3)
}

/// Milliseconds with two digits: more would be noise.
fn rounded(length: Duration) -> f64 {
    (length.as_secs_f64() * 1e5).round() / 100.0
}

#[cfg(test)]
mod tests {
    use netns_lab::client::Cost;

    use super::*;

    const ZERO: Duration = Duration::ZERO;

    fn ms(length: u64) -> Duration {
        Duration::from_millis(length)
    }

    fn run(gap: Option<u64>, failed: usize) -> Run {
        let cost = Cost { gap: gap.map(ms), worst: ms(3), requests: 100, failed, late: ZERO };
        Run { cost, load: None, took_over: None, two: ZERO, none: ZERO, mended: None }
    }

    fn loaded(lost: usize, worst: u64) -> Run {
        let by_loss = if lost > 0 { BTreeMap::from([("reset", lost)]) } else { BTreeMap::new() };
        let load = LoadCost {
            connections: 2002,
            lost,
            by_loss,
            worst: ms(worst),
            answers: 9,
            intact: 2,
            ..Default::default()
        };
        Run { load: Some(load), ..run(Some(3), 0) }
    }

    fn row(scenario: Scenario, runs: Vec<Run>) -> Row {
        Row { scenario, goal: scenario.goal(ms(100)), runs, took_over: Vec::new() }
    }

    fn met(scenario: Scenario, run: Run) -> bool {
        row(scenario, vec![run]).met()
    }

    #[test]
    fn percentiles_are_gaps_that_happened() {
        let row = row(Scenario::NodeCut, (1..=20).map(|gap| run(Some(gap), 0)).collect());
        let ms = |percent| row.gap(percent).map(|gap| gap.as_millis());
        assert_eq!((ms(50), ms(99), ms(100)), (Some(10), Some(20), Some(20)));
    }

    #[test]
    fn a_goal_is_met_by_the_gap_and_a_return_by_nothing_happening() {
        assert!(met(Scenario::NodeCut, run(Some(400), 7)));
        assert!(!met(Scenario::NodeCut, run(Some(401), 0)));
        assert!(!met(Scenario::NodeCut, run(None, 0)));
        assert!(met(Scenario::Return, run(Some(3), 0)));
        assert!(!met(Scenario::Return, run(Some(3), 1)));
        assert!(!Row { took_over: vec!["lb-a"], ..row(Scenario::Return, vec![run(Some(3), 0)]) }.met());
    }

    #[test]
    fn a_planned_switchover_is_met_by_nobody_feeling_it() {
        assert!(met(Scenario::Planned, loaded(0, 10)));
        assert!(!met(Scenario::Planned, loaded(1, 10)), "a connection was lost");
        assert!(!met(Scenario::Planned, loaded(0, 11)), "an answer on an old connection was late");
        assert!(!met(Scenario::Planned, run(Some(3), 0)), "nobody was connected");
        let mut failed = loaded(0, 1);
        failed.cost.failed = 1;
        assert!(!met(Scenario::PlannedAndBack, failed), "a new request failed");
        let mut slow = loaded(0, 1);
        slow.cost.worst = ms(11);
        assert!(!met(Scenario::PlannedAndBack, slow), "a new request was slow");
    }

    #[test]
    fn two_holders_miss_the_goals_that_forbid_them() {
        let mended = |two, returned| Some(Mended { two: ms(two), returned });
        let dead = |two, took_over, mended| Run { two: ms(two), took_over, mended, ..run(Some(300), 5) };
        assert!(met(Scenario::LanDeadSyncAlive, dead(0, Some(1), mended(0, false))));
        assert!(!met(Scenario::LanDeadSyncAlive, dead(1, Some(1), mended(0, false))));
        assert!(!met(Scenario::LanDeadSyncAlive, dead(0, None, mended(0, false))), "nothing moved");
        assert!(!met(Scenario::LanDeadSyncAlive, dead(0, Some(1), mended(0, true))), "it went back");
        assert!(met(Scenario::AllCutAndHealed, dead(2000, Some(1), mended(400, true))), "while it is cut there may be");
        assert!(!met(Scenario::AllCutAndHealed, dead(2000, Some(1), mended(401, true))));
        let unheard = Run { cost: run(Some(401), 5).cost, ..dead(2000, Some(1), mended(0, true)) };
        assert!(!met(Scenario::AllCutAndHealed, unheard), "one holds it, and clients ask the other");
        let paused = |returned| dead(900, Some(1), mended(0, returned));
        assert!(met(Scenario::VmPause, paused(false)), "the kernel that goes on has it until its lease ends");
        assert!(!met(Scenario::VmPause, paused(true)));
    }

    #[test]
    fn the_json_has_the_promised_fields() {
        let rows = vec![row(Scenario::ProxyKill, vec![run(Some(40), 1)])];
        let value = Report { rows, left_out: vec![(Scenario::Planned, "no pair")] }.json();
        assert_eq!(
            value,
            json!({"scenarios": [{
                "name": "proxy-kill", "runs": 1, "took_over": null, "gap_ms": {"p50": 40.0, "p99": 40.0, "max": 40.0},
                "worst_latency_ms": 3.0, "requests": 100, "failed": 1, "connections": null,
                "holders_ms": {"two": 0.0, "none": 0.0, "two_after_mending": null},
                "goal": "gap ≤ 10", "goal_ms": 10.0, "late_ms": 0.0, "met": false,
            }], "left_out": [{"name": "planned", "why": "no pair"}]})
        );
        let planned = row(Scenario::Planned, vec![loaded(0, 4), loaded(1, 6)]).json();
        assert_eq!(
            planned["connections"],
            json!({
                "open": 4004, "lost": 1, "lost_by_kind": {"reset": 1}, "busy_answers": 18,
                "busy_worst_ms": {"p50": 4.0, "p99": 6.0, "max": 6.0}, "busy_p99_ms": 0.0, "transfers_intact": 4,
            })
        );
    }
}
