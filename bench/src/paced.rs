//! Latency at a fixed rate. Requests have a time at which they are due, whether or not earlier ones were answered, and
//! latency counts from there: a proxy that stalls cannot slow the questions down and look good.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use tests::wait;

use crate::client::{Client, PATIENCE, Target};

/// Connections that share the load.
const CONNECTIONS: usize = 32;

/// Why no latency is known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PacedError {
    /// A connection failed.
    #[error("ask {address} at a fixed rate")]
    Connection {
        /// Of the proxy.
        address: SocketAddr,
        /// From the system.
        #[source]
        source: io::Error,
    },
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

/// Connections that have been served once, and what they ask for.
pub(crate) struct Paced {
    address: SocketAddr,
    request: String,
    connections: Vec<Connection>,
    /// Of an answer: all are alike.
    length: usize,
}

struct Connection {
    client: Client,
    /// When the request under way was due, and how much of its answer is still to come.
    waiting: Option<(Instant, usize)>,
}

impl Paced {
    /// Establishes the connections.
    pub(crate) fn connect(target: &Target, path: &str) -> Result<Paced, PacedError> {
        let address = target.address;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
        let mut paced = Paced { address, request, connections: Vec::new(), length: 0 };
        for _ in 0..CONNECTIONS {
            let client = paced.establish(target).map_err(|source| PacedError::Connection { address, source })?;
            paced.connections.push(Connection { client, waiting: None });
        }
        Ok(paced)
    }

    fn establish(&mut self, target: &Target) -> io::Result<Client> {
        let mut client = Client::connect(target)?;
        client.write_all(self.request.as_bytes())?;
        self.length = read_answer(&mut client)?;
        client.tcp().set_nonblocking(true)?;
        Ok(client)
    }

    /// The latency of every request of so long a time.
    pub(crate) fn latencies(&mut self, rate: u32, length: Duration) -> Result<Vec<Duration>, PacedError> {
        let address = self.address;
        let failed = |source| PacedError::Connection { address, source };
        let total = (f64::from(rate) * length.as_secs_f64()) as usize;
        let gap = Duration::from_secs(1) / rate;
        let mut seen = Vec::with_capacity(total);
        // Due, and no connection is free. Never longer than `total`.
        let mut backlog = VecDeque::new();
        let (start, mut sent) = (Instant::now(), 0_u32);
        while seen.len() < total {
            if wait::cancelled() {
                return Err(PacedError::Interrupted);
            }
            let now = Instant::now();
            while (sent as usize) < total && start + gap * sent <= now {
                backlog.push_back(start + gap * sent);
                sent += 1;
            }
            for free in self.connections.iter_mut().filter(|connection| connection.waiting.is_none()) {
                let Some(due) = backlog.pop_front() else { break };
                free.client.write_all(self.request.as_bytes()).map_err(failed)?;
                free.waiting = Some((due, self.length));
            }
            if backlog.front().is_some_and(|due| due.elapsed() > PATIENCE) || start.elapsed() > length + PATIENCE {
                return Err(failed(io::Error::new(io::ErrorKind::TimedOut, "answers stay out")));
            }
            let next = (start + gap * sent).saturating_duration_since(Instant::now());
            let time = if (sent as usize) < total { next } else { gap };
            await_answers(&mut self.connections, time, &mut seen).map_err(failed)?;
        }
        Ok(seen)
    }
}

/// Reads one answer that has a Content-Length; how long it was, head and body.
pub(crate) fn read_answer(stream: &mut impl Read) -> io::Result<usize> {
    let unclear = || io::Error::new(io::ErrorKind::InvalidData, "an answer without a Content-Length");
    let mut buffer = [0; 64 * 1024];
    let mut filled = 0;
    loop {
        let more = stream.read(&mut buffer[filled..])?;
        if more == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += more;
        let Some(head) = buffer[..filled].windows(4).position(|end| end == b"\r\n\r\n") else { continue };
        let text = std::str::from_utf8(&buffer[..head]).map_err(|_| unclear())?;
        let mut fields = text.lines().filter_map(|line| line.split_once(": "));
        let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length")).map(|(_, value)| value);
        let total = head + 4 + length.and_then(|value| value.parse::<usize>().ok()).ok_or_else(unclear)?;
        if filled >= total {
            return Ok(total);
        }
    }
}

/// Waits for at most `time`, and reads what came.
fn await_answers(connections: &mut [Connection], time: Duration, seen: &mut Vec<Duration>) -> io::Result<()> {
    let waiting: Vec<usize> = (0..connections.len()).filter(|index| connections[*index].waiting.is_some()).collect();
    let mut polled: Vec<PollFd<'_>> =
        waiting.iter().map(|index| PollFd::new(connections[*index].client.tcp().as_fd(), PollFlags::POLLIN)).collect();
    ppoll(&mut polled, Some(TimeSpec::from_duration(time)), None)?;
    let ready: Vec<usize> =
        waiting.iter().zip(&polled).filter(|(_, fd)| fd.any() == Some(true)).map(|(index, _)| *index).collect();
    let mut buffer = [0; 64 * 1024];
    for index in ready {
        let Connection { client, waiting } = &mut connections[index];
        let Some((due, left)) = waiting else { continue };
        // All that is there: poll(2) knows nothing of what TLS has read already.
        while *left > 0 {
            match client.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(more) => *left = left.saturating_sub(more),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if *left == 0 {
            seen.push(due.elapsed());
            *waiting = None;
        }
    }
    Ok(())
}
