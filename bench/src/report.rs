//! The table for people, and the same for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

use crate::cores::Cores;
use crate::measure::{Effort, Figures, Latency};
use crate::peer::Peer;
use crate::row::{Goal, Row};

/// All figures of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    peers: Vec<Peer>,
    versions: BTreeMap<Peer, String>,
    cores: String,
    effort: Effort,
    rows: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Line {
    name: &'static str,
    unit: &'static str,
    goal: String,
    /// Ours over the other's, and for an absolute goal ours: the middle of all rounds.
    result: Option<f64>,
    met: Option<bool>,
    figures: BTreeMap<Peer, Figures>,
}

impl Report {
    /// An empty one.
    pub(crate) fn new(peers: &[Peer], effort: &Effort, cores: &Cores, lbnode: &Path) -> Report {
        let versions = peers.iter().map(|peer| (*peer, version(*peer, lbnode))).collect();
        Report { peers: peers.to_vec(), versions, cores: cores.describe(), effort: effort.clone(), rows: Vec::new() }
    }

    /// One more row.
    pub(crate) fn add(&mut self, row: &Row, figures: BTreeMap<Peer, Figures>) {
        let ours = figures.get(&Peer::Lbnode);
        let (result, met) = match row.goal {
            Goal::Ratio(other, most) => {
                let ratio =
                    ours.zip(figures.get(&other)).and_then(|(ours, others)| ratio(&ours.rounds, &others.rounds));
                (ratio, ratio.map(|ratio| ratio <= most))
            }
            Goal::Absolute(most) => {
                let figure = ours.and_then(|ours| median(&ours.rounds));
                (figure, figure.map(|figure| figure <= most))
            }
        };
        let goal = match row.goal {
            Goal::Ratio(other, most) => format!("≤ {most:.2} × {}", other.title()),
            Goal::Absolute(most) => format!("≤ {most:.2}"),
        };
        self.rows.push(Line { name: row.name, unit: row.unit(), goal, result, met, figures });
    }

    /// Markdown, ready for docs/performance.md.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        self.write_table(&mut text).expect("a string grows");
        text
    }

    fn write_table(&self, out: &mut String) -> std::fmt::Result {
        let versions: Vec<&str> = self.versions.values().map(String::as_str).collect();
        let Effort { rounds, seconds, .. } = self.effort;
        writeln!(out, "{}; {}; {rounds} rounds of {seconds} s.\n", versions.join(", "), self.cores)?;
        write!(out, "| work | unit |")?;
        for peer in &self.peers {
            write!(out, " {} |", peer.title())?;
        }
        writeln!(out, " lbnode to HAProxy | to nginx | goal | met |")?;
        writeln!(out, "|---|---|{}---|---|---|---|", "---|".repeat(self.peers.len()))?;
        for line in &self.rows {
            write!(out, "| {} | {} |", line.name, line.unit)?;
            for peer in &self.peers {
                write!(out, " {} |", line.figures.get(peer).map_or_else(|| "–".into(), cell))?;
            }
            for other in [Peer::Haproxy, Peer::Nginx] {
                let pair = line.figures.get(&Peer::Lbnode).zip(line.figures.get(&other));
                let ratio = pair.and_then(|(ours, others)| ratio(&ours.rounds, &others.rounds));
                write!(out, " {} |", ratio.map_or_else(|| "–".into(), |ratio| format!("{ratio:.2}")))?;
            }
            let met = line.met.map_or("–", |met| if met { "yes" } else { "no" });
            writeln!(out, " {} | {met} |", line.goal)?;
        }
        Ok(())
    }

    /// JSON.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, serde_json::to_string_pretty(self)?)
    }
}

fn cell(figures: &Figures) -> String {
    let Some(middle) = median(&figures.rounds) else { return "–".to_owned() };
    let mut text = if middle < 100.0 { format!("{middle:.2}") } else { format!("{middle:.0}") };
    if let Some(user) = median(&figures.user) {
        text.push_str(&if middle < 100.0 { format!(" ({user:.2} user)") } else { format!(" ({user:.0} user)") });
    }
    if let Some((p50, p99)) = median(&figures.p50).zip(median(&figures.p99)) {
        text.push_str(&format!("; p50 {p50:.0} µs, p99 {p99:.0} µs"));
    }
    if let Some((p50, arrived)) = median(&figures.p50).zip(median(&figures.arrived)) {
        let calm = |part: fn(&Latency) -> f64| median(&figures.calm.iter().map(part).collect::<Vec<_>>());
        let (p50_before, p99_before) = (calm(|calm| calm.p50), calm(|calm| calm.p99));
        text.push_str(&format!(" (p50 {p50:.0}) beside {arrived:.0} handshakes a second"));
        if figures.failed > 0 {
            text.push_str(&format!(", {} failed", figures.failed));
        }
        if let Some((p50, p99)) = p50_before.zip(p99_before) {
            text.push_str(&format!("; {p99:.0} (p50 {p50:.0}) without"));
        }
    }
    if let Some(checks) = median(&figures.checks) {
        text.push_str(&format!("; {checks:.0} checks a second"));
    }
    text
}

fn version(peer: Peer, lbnode: &Path) -> String {
    let (program, argument) = match peer {
        Peer::Lbnode => (lbnode, "--version"),
        Peer::Haproxy => (Path::new("/usr/sbin/haproxy"), "-v"),
        Peer::Nginx => (Path::new("/usr/sbin/nginx"), "-v"),
    };
    let Ok(output) = Command::new(program).arg(argument).output() else { return peer.title().to_owned() };
    // nginx says it on stderr.
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let number = said.split_whitespace().find_map(|word| {
        let word = word.rsplit('/').next()?;
        (word.contains('.') && word.starts_with(|first: char| first.is_ascii_digit())).then_some(word)
    });
    format!("{} {}", peer.title(), number.unwrap_or("?"))
}

/// The middle of the rounds' own ratios: what slows a round down meets both.
fn ratio(ours: &[f64], others: &[f64]) -> Option<f64> {
    let ratios: Vec<f64> =
        ours.iter().zip(others).filter(|(_, other)| **other > 0.0).map(|(our, other)| our / other).collect();
    median(&ratios)
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = sorted[(sorted.len() - 1) / 2];
    Some((lower + upper) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_an_even_number_lies_between_two() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn one_slow_round_that_met_both_changes_no_ratio() {
        assert_eq!(ratio(&[8.0, 80.0, 8.0], &[10.0, 100.0, 10.0]), Some(0.8));
    }
}
