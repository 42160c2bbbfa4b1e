//! What a client saw, as a table and as JSON.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::scenario::{Run, Scenario};
use super::stack::Stack;

/// A client that was late by more than this has blurred the figures; a goal is never missed by less.
const NOTABLE_LATENESS: Duration = Duration::from_millis(5);

/// All results of a lab.
#[derive(Debug)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

/// One scenario.
#[derive(Debug)]
struct Row {
    scenario: Scenario,
    runs: usize,
    took_over: Vec<&'static str>,
    /// Sorted; an endless gap (nobody answered again) is `None` and sorts last.
    gaps: Vec<Option<Duration>>,
    worst: Duration,
    requests: usize,
    failed: usize,
    late: Duration,
    goal: Option<Duration>,
}

impl Report {
    /// From the runs of each scenario.
    pub(crate) fn new(results: &[(Scenario, Vec<Run>)], stack: &dyn Stack, advert_interval: Duration) -> Report {
        let rows = results.iter().map(|(scenario, runs)| {
            let mut took_over: Vec<_> =
                runs.iter().filter_map(|run| run.took_over).map(|node| stack.name(node)).collect();
            took_over.sort_unstable();
            took_over.dedup();
            let mut gaps: Vec<_> = runs.iter().map(|run| run.cost.gap).collect();
            gaps.sort_unstable_by_key(|gap| gap.unwrap_or(Duration::MAX));
            Row {
                scenario: *scenario,
                runs: runs.len(),
                took_over,
                gaps,
                worst: runs.iter().map(|run| run.cost.worst).max().unwrap_or_default(),
                requests: runs.iter().map(|run| run.cost.requests).sum(),
                failed: runs.iter().map(|run| run.cost.failed).sum(),
                late: runs.iter().map(|run| run.cost.late).max().unwrap_or_default(),
                goal: scenario.goal(advert_interval),
            }
        });
        Report { rows: rows.collect() }
    }

    /// Whether every goal was met.
    pub(crate) fn met(&self) -> bool {
        self.rows.iter().all(Row::met)
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        json!({ "scenarios": self.rows.iter().map(Row::json).collect::<Vec<_>>() })
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let head = [
            "SCENARIO",
            "WHAT WAS DONE",
            "RUNS",
            "TOOK OVER",
            "GAP p50",
            "p99",
            "max",
            "WORST",
            "REQUESTS",
            "FAILED",
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
                    if matches!(column, 0 | 1 | 3 | 11) { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
                })
                .collect();
            text += cells.join("  ").trim_end();
            text.push('\n');
        }
        text += "\nGap: the longest time without an answer from the fault on, for a client with a new connection every\n\
                 millisecond. Worst: the slowest request; a SYN that falls into the gap is sent again after a second.\n\
                 All times in milliseconds.\n";
        for row in self.rows.iter().filter(|row| row.late > NOTABLE_LATENESS) {
            let _ = writeln!(
                text,
                "{}: the client itself was late by up to {} ms (this machine is busy): take off as much.",
                row.scenario.name(),
                milliseconds(row.late)
            );
        }
        text
    }
}

impl Row {
    fn met(&self) -> bool {
        match self.goal {
            Some(goal) => self.percentile(99).is_some_and(|gap| gap <= goal),
            None => self.failed == 0 && self.took_over.is_empty() && self.gaps.iter().all(Option::is_some),
        }
    }

    /// By the nearest rank, so that it is a gap that did happen.
    fn percentile(&self, percent: usize) -> Option<Duration> {
        let rank = (self.gaps.len() * percent).div_ceil(100).max(1);
        self.gaps.get(rank - 1).copied().flatten()
    }

    fn json(&self) -> Value {
        let gap = |percent| self.percentile(percent).map(rounded);
        let took_over = match self.took_over.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            several => json!(several),
        };
        json!({
            "name": self.scenario.name(),
            "runs": self.runs,
            "took_over": took_over,
            "gap_ms": { "p50": gap(50), "p99": gap(99), "max": gap(100) },
            "worst_latency_ms": rounded(self.worst),
            "requests": self.requests,
            "failed": self.failed,
            "goal_ms": self.goal.map(rounded),
            "met": self.met(),
        })
    }

    fn cells(&self) -> [String; 12] {
        let gap = |percent| self.percentile(percent).map_or("none".into(), milliseconds);
        [
            self.scenario.name().into(),
            self.scenario.what().into(),
            self.runs.to_string(),
            if self.took_over.is_empty() { "nobody".into() } else { self.took_over.join(", ") },
            gap(50),
            gap(99),
            gap(100),
            milliseconds(self.worst),
            self.requests.to_string(),
            self.failed.to_string(),
            self.goal.map_or("0 failed".into(), |goal| format!("≤ {}", goal.as_millis())),
            if self.met() { "yes".into() } else { "NO".into() },
        ]
    }
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
    use super::*;

    fn row(scenario: Scenario, gaps: &[Option<u64>], failed: usize) -> Row {
        Row {
            scenario,
            runs: gaps.len(),
            took_over: Vec::new(),
            gaps: gaps.iter().map(|gap| gap.map(Duration::from_millis)).collect(),
            worst: Duration::from_millis(1003),
            requests: 100,
            failed,
            late: Duration::ZERO,
            goal: scenario.goal(Duration::from_millis(100)),
        }
    }

    #[test]
    fn percentiles_are_gaps_that_happened() {
        let gaps: Vec<_> = (1..=20).map(Some).collect();
        let row = row(Scenario::NodeCut, &gaps, 0);
        let ms = |percent| row.percentile(percent).map(|gap| gap.as_millis());
        assert_eq!((ms(50), ms(99), ms(100)), (Some(10), Some(20), Some(20)));
    }

    #[test]
    fn a_goal_is_met_by_the_gap_and_a_return_by_nothing_happening() {
        assert!(row(Scenario::NodeCut, &[Some(400)], 7).met());
        assert!(!row(Scenario::NodeCut, &[Some(401)], 0).met());
        assert!(!row(Scenario::NodeCut, &[None], 0).met());
        assert!(row(Scenario::Return, &[Some(3)], 0).met());
        assert!(!row(Scenario::Return, &[Some(3)], 1).met());
        assert!(!Row { took_over: vec!["lb-a"], ..row(Scenario::Return, &[Some(3)], 0) }.met());
    }

    #[test]
    fn the_json_has_the_promised_fields() {
        let value = Report { rows: vec![row(Scenario::ProxyKill, &[Some(40)], 1)] }.json();
        assert_eq!(
            value,
            json!({"scenarios": [{
                "name": "proxy-kill", "runs": 1, "took_over": null, "gap_ms": {"p50": 40.0, "p99": 40.0, "max": 40.0},
                "worst_latency_ms": 1003.0, "requests": 100, "failed": 1, "goal_ms": 100.0, "met": true,
            }]})
        );
    }
}
