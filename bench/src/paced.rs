//! Latency at a fixed rate. Requests have a time at which they are due, whether or not earlier ones were answered, and
//! latency counts from there: a proxy that stalls cannot slow the questions down and look good.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use tests::wait;

/// Connections that share the load.
const CONNECTIONS: usize = 32;
/// An answer later than this is none.
const PATIENCE: Duration = Duration::from_secs(10);

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

struct Connection {
    stream: TcpStream,
    /// When the request under way was due, and how much of its answer is still to come.
    waiting: Option<(Instant, usize)>,
}

/// The latency of every request.
pub(crate) fn latencies(
    address: SocketAddr,
    path: &str,
    rate: u32,
    length: Duration,
) -> Result<Vec<Duration>, PacedError> {
    let failed = |source| PacedError::Connection { address, source };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let (mut connections, answer) = connect(address, &request).map_err(failed)?;
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
        for free in connections.iter_mut().filter(|connection| connection.waiting.is_none()) {
            let Some(due) = backlog.pop_front() else { break };
            free.stream.write_all(request.as_bytes()).map_err(failed)?;
            free.waiting = Some((due, answer));
        }
        if backlog.front().is_some_and(|due| due.elapsed() > PATIENCE) || start.elapsed() > length + PATIENCE {
            return Err(failed(io::Error::new(io::ErrorKind::TimedOut, "answers stay out")));
        }
        let next = (start + gap * sent).saturating_duration_since(Instant::now());
        await_answers(&mut connections, if (sent as usize) < total { next } else { gap }, &mut seen).map_err(failed)?;
    }
    Ok(seen)
}

/// Connections with one request behind them, and the length of an answer: all are alike.
fn connect(address: SocketAddr, request: &str) -> io::Result<(Vec<Connection>, usize)> {
    let mut connections = Vec::new();
    let mut length = 0;
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request.as_bytes())?;
        length = read_answer(&mut stream)?;
        stream.set_nonblocking(true)?;
        connections.push(Connection { stream, waiting: None });
    }
    Ok((connections, length))
}

/// Reads one answer that has a Content-Length; how long it was, head and body.
pub(crate) fn read_answer(stream: &mut TcpStream) -> io::Result<usize> {
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
        waiting.iter().map(|index| PollFd::new(connections[*index].stream.as_fd(), PollFlags::POLLIN)).collect();
    ppoll(&mut polled, Some(TimeSpec::from_duration(time)), None)?;
    let ready: Vec<usize> =
        waiting.iter().zip(&polled).filter(|(_, fd)| fd.any() == Some(true)).map(|(index, _)| *index).collect();
    let mut buffer = [0; 64 * 1024];
    for index in ready {
        let Connection { stream, waiting } = &mut connections[index];
        let Some((due, left)) = waiting else { continue };
        match stream.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(more) => *left = left.saturating_sub(more),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if *left == 0 {
            seen.push(due.elapsed());
            *waiting = None;
        }
    }
    Ok(())
}
