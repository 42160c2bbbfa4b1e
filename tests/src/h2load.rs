//! h2load: as many requests as a fixed number of HTTP/2 connections can carry, and what became of them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::part::{Part, PartError};

/// How a load is made.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Connections at once.
    pub connections: usize,
    /// Requests at once on each of them.
    pub streams: usize,
    /// Requests in all.
    pub requests: usize,
}

/// What h2load counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Answers with a status under 400.
    pub succeeded: u64,
    /// Requests that failed, in any of the ways it tells apart: failed, errored, timed out.
    pub failed: u64,
    /// Answers by their class, 2xx to 5xx.
    pub statuses: [u64; 4],
    /// What the connections speak; empty in the clear.
    pub protocol: String,
}

/// h2load, under way.
#[derive(Debug)]
pub struct H2load {
    part: Part,
}

impl H2load {
    /// Starts it towards a URL; `more` are further arguments.
    pub fn start(folder: &Path, name: &str, url: &str, load: Load, more: &[&str]) -> Result<H2load, PartError> {
        let mut command = Command::new("h2load");
        command.args(["-c", &load.connections.to_string(), "-m", &load.streams.to_string()]);
        command.args(["-n", &load.requests.to_string(), "-N", "20s", "-T", "20s"]).args(more).arg(url);
        Ok(H2load { part: Part::start(name, command, folder)? })
    }

    /// Waits for its end.
    pub fn finish(mut self, within: Duration) -> Result<Seen, PartError> {
        self.part.wait_said("req/s           :", 0, within)?;
        Ok(parse(&std::fs::read_to_string(self.part.log()).unwrap_or_default()))
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        self.part.process().exited().is_some()
    }

    /// What it said so far.
    pub fn tail(&self) -> String {
        self.part.tail()
    }
}

fn parse(report: &str) -> Seen {
    let mut seen = Seen::default();
    for line in report.lines() {
        let numbers =
            || line.split(|letter: char| !letter.is_ascii_digit()).filter_map(|word| word.parse::<u64>().ok());
        if line.starts_with("requests: ") {
            // total, started, done, succeeded, failed, errored, timeout; a failed one is counted in both of the middle ones.
            let all: Vec<u64> = numbers().collect();
            if let [total, _, _, succeeded, ..] = all[..] {
                (seen.succeeded, seen.failed) = (succeeded, total - succeeded.min(total));
            }
        } else if line.starts_with("status codes: ") {
            // `200 2xx, 0 3xx, ...`: every second number is the class.
            let counts = line.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
            seen.statuses.iter_mut().zip(counts).for_each(|(status, count)| *status = count);
        } else if let Some(protocol) = line.strip_prefix("Application protocol: ") {
            seen.protocol = protocol.to_owned();
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_with_its_failures() {
        let report = "Application protocol: h2\nprogress: 100% done\n\n\
            finished in 132.24ms, 15123.27 req/s, 7.31MB/s\n\
            requests: 2000 total, 2000 started, 2000 done, 1990 succeeded, 10 failed, 7 errored, 1 timeout\n\
            status codes: 1990 2xx, 0 3xx, 2 4xx, 1 5xx\n\
            traffic: 990.27KB (1014039) total, 15.84KB (16224) headers (space savings 96.10%), 859.38KB (880000) data\n";
        let expected = Seen { succeeded: 1990, failed: 10, statuses: [1990, 0, 2, 1], protocol: "h2".into() };
        assert_eq!(parse(report), expected);
    }
}
