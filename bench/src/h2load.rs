//! h2load: as many HTTP/2 requests as a fixed number of connections and streams can carry, and what became of them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ::tests::part::{Part, PartError};

/// What h2load counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Seen {
    /// Answers with a status of 2xx.
    pub(crate) requests: u64,
    /// Other answers.
    pub(crate) errors: u64,
    /// Requests without one.
    pub(crate) failures: u64,
}

/// Loads `url` for `seconds` over so many connections, each with so many requests under way. In the clear it begins with
/// HTTP/2 at once (prior knowledge: RFC 9113 §3.3), over TLS it takes any certificate.
pub(crate) fn run(
    folder: &Path,
    url: &str,
    connections: usize,
    streams: usize,
    seconds: u64,
) -> Result<Seen, PartError> {
    let mut command = Command::new("h2load");
    command.args(["-c", &connections.to_string(), "-m", &streams.to_string(), "-D", &seconds.to_string()]);
    command.arg(url);
    let mut part = Part::start("h2load", command, folder)?;
    part.wait_said("time for request:", 0, Duration::from_secs(seconds + 20))?;
    Ok(parse(&std::fs::read_to_string(part.log()).unwrap_or_default()))
}

fn parse(report: &str) -> Seen {
    let mut seen = Seen::default();
    for line in report.lines() {
        let Some((what, counts)) = line.split_once(": ") else { continue };
        let count = |kind: &str| {
            let of_kind = counts.split(", ").find_map(|count| count.strip_suffix(kind));
            of_kind.and_then(|number| number.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        match what {
            // Errors of its own and time-outs are among the failed ones.
            "requests" => seen.failures = count("failed"),
            "status codes" => {
                seen.requests = count("2xx");
                seen.errors = count("3xx") + count("4xx") + count("5xx");
            }
            _ => {}
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_with_its_failures() {
        let report = "finished in 1.00s, 16000.00 req/s, 1.08MB/s\n\
            requests: 16158 total, 16240 started, 16158 done, 16000 succeeded, 158 failed, 150 errored, 8 timeout\n\
            status codes: 15990 2xx, 0 3xx, 3 4xx, 7 5xx\n\
            time for request:       34us      1.87ms      1.39ms       223us    86.50%\n";
        assert_eq!(parse(report), Seen { requests: 15990, errors: 10, failures: 158 });
    }
}
