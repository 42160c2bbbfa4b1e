//! wrk: as many requests as a fixed number of connections can carry, and what became of them.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::part::{Part, PartError};

/// How a load is made.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Connections at once, each with one request under way.
    pub connections: usize,
    /// For how long; whole seconds.
    pub seconds: u64,
}

/// What wrk counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// Answers.
    pub requests: u64,
    /// Answers with a status over 399.
    pub errors: u64,
    /// Connections that failed, in all the ways it tells apart: connect, read, write, timeout.
    pub failures: u64,
    /// Half of the answers came within.
    pub p50: Duration,
    /// Ninety-nine of a hundred did.
    pub p99: Duration,
}

/// wrk, under way.
#[derive(Debug)]
pub struct Wrk {
    part: Part,
    load: Load,
}

impl Wrk {
    /// Starts it towards one path of one address, in the clear.
    pub fn start(folder: &Path, name: &str, address: SocketAddr, path: &str, load: Load) -> Result<Wrk, PartError> {
        Wrk::start_url(folder, name, &format!("http://{address}{path}"), load)
    }

    /// Starts it towards a URL; with `https` it takes any certificate.
    pub fn start_url(folder: &Path, name: &str, url: &str, load: Load) -> Result<Wrk, PartError> {
        let mut command = Command::new("wrk");
        command.args(["--latency", "-t", "1", "-c", &load.connections.to_string(), "-d"]);
        command.arg(format!("{}s", load.seconds)).args(["--timeout", "10s"]).arg(url);
        Ok(Wrk { part: Part::start(name, command, folder)?, load })
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Result<Seen, PartError> {
        // It waits for its last answers for as long as its own time limit.
        let within = Duration::from_secs(self.load.seconds + 20);
        self.part.wait_said("Transfer/sec:", 0, within)?;
        Ok(parse(&std::fs::read_to_string(self.part.log()).unwrap_or_default()))
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        self.part.process().exited().is_some()
    }
}

fn parse(report: &str) -> Seen {
    let mut seen = Seen::default();
    for line in report.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["50%", time] => seen.p50 = duration(time),
            ["99%", time] => seen.p99 = duration(time),
            [count, "requests", "in", ..] => seen.requests = count.parse().unwrap_or(0),
            ["Non-2xx", .., count] => seen.errors = count.parse().unwrap_or(u64::MAX),
            ["Socket", "errors:", kinds @ ..] => {
                seen.failures = kinds.iter().filter_map(|word| word.trim_end_matches(',').parse::<u64>().ok()).sum();
            }
            _ => {}
        }
    }
    seen
}

fn duration(text: &str) -> Duration {
    let unit = text.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '.');
    let number: f64 = text[..text.len() - unit.len()].parse().unwrap_or(0.0);
    let seconds = match unit {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "m" => number * 60.0,
        _ => number,
    };
    Duration::from_secs_f64(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_with_its_errors() {
        let report = "Running 1s test @ http://127.0.0.1:1/\n  1 threads and 64 connections\n  Thread Stats   Avg      \
            Stdev     Max   +/- Stdev\n    Latency     1.30ms  440.88us  10.76ms   85.30%\n  Latency Distribution\n     \
            50%  801.00us\n     75%    1.41ms\n     90%    1.69ms\n     99%    2.83ms\n  48812 requests in 1.10s, 12.29MB read\n  \
            Socket errors: connect 0, read 3, write 0, timeout 1\n  Non-2xx or 3xx responses: 7\nRequests/sec:  44356.86\n\
            Transfer/sec:     11.17MB\n";
        let expected = Seen {
            requests: 48812,
            errors: 7,
            failures: 4,
            p50: Duration::from_micros(801),
            p99: Duration::from_micros(2830),
        };
        assert_eq!(parse(report), expected);
    }
}
