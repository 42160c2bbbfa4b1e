//! The client whose view decides: one request a millisecond, each on a connection of its own.
//!
//! It runs on one thread inside the client's namespace and writes down when each request began and ended and
//! what came of it. It also writes down how late it was itself, so that a busy machine is not blamed on the pair.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::netns::{Netns, NetnsError};

/// From one request to the next.
pub const PACE: Duration = Duration::from_millis(1);
/// After so long without an answer a request counts as failed.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// Requests under way at once, a third more than fit into [`PATIENCE`]. Only a client that was denied its processor comes
/// to so many, as it makes up for what it missed; further ones wait, and count as late. Else they would take all descriptors
/// of the process, the servers' and other tests' among them.
const MOST: usize = 4000;

const REQUEST: &[u8] = b"GET / HTTP/1.0\r\nHost: lab\r\n\r\n";

/// What came of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A complete answer with status 200.
    Answered,
    /// The connection was refused.
    Refused,
    /// The connection was reset or ended without a whole answer.
    Cut,
    /// Nothing for [`PATIENCE`].
    TimedOut,
    /// Anything else: no route, no socket.
    Other,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// When it began.
    pub start: Instant,
    /// When its outcome was known.
    pub end: Instant,
    /// What that was.
    pub outcome: Outcome,
    /// By how much the client itself began it too late.
    pub late: Duration,
}

/// What one client saw, in the order in which outcomes became known.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// Every request.
    pub records: Vec<Record>,
}

/// What a fault cost, seen from the client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// The longest time without an answer; `None`: there was none at all after the fault.
    pub gap: Option<Duration>,
    /// The longest that any answered or failed request took.
    pub worst: Duration,
    /// Requests that began after the fault, and those it found under way.
    pub requests: usize,
    /// Those of them that failed.
    pub failed: usize,
    /// How late the client itself was with one of them, at worst.
    pub late: Duration,
}

impl Recording {
    /// The cost of a fault at `fault`.
    ///
    /// The gap is the longest time between two answers that follow each other, of requests that began after the
    /// fault, the first one measured from the fault itself. A request that was under way at the fault adds to
    /// the worst latency and the failures, but its answer proves nothing about the time after. Once the client has
    /// stopped asking, the time between late answers (a SYN is sent again after a second) is nobody's gap.
    pub fn cost(&self, fault: Instant) -> Cost {
        let touched = || self.records.iter().filter(|record| record.end >= fault);
        let mut answers: Vec<Instant> = touched()
            .filter(|record| record.start >= fault && record.outcome == Outcome::Answered)
            .map(|record| record.end)
            .collect();
        answers.sort_unstable();
        let asked_until = self.records.iter().map(|record| record.start).max();
        let in_time = answers.iter().take_while(|answer| Some(**answer) <= asked_until).count();
        answers.truncate(in_time.max(1));
        let before = std::iter::once(&fault).chain(&answers);
        let gap = before.zip(&answers).map(|(earlier, later)| later.duration_since(*earlier)).max();
        Cost {
            gap,
            worst: touched().map(|record| record.end.duration_since(record.start)).max().unwrap_or_default(),
            requests: touched().count(),
            failed: touched().filter(|record| record.outcome != Outcome::Answered).count(),
            late: touched().map(|record| record.late).max().unwrap_or_default(),
        }
    }
}

/// A client that is running.
#[derive(Debug)]
pub struct Client {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    thread: Option<JoinHandle<io::Result<Recording>>>,
}

impl Client {
    /// Starts asking `target` from inside `netns`.
    pub fn start(netns: &Netns, target: SocketAddr) -> Result<Client, NetnsError> {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicUsize::new(0));
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&answered));
        let thread = netns.thread("client", move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(ask(target, &stopped, &counter, MOST)))
        })?;
        Ok(Client { stop, answered, thread: Some(thread) })
    }

    /// How many requests were answered so far.
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Begins no more requests, waits for those under way ([`PATIENCE`] at most) and hands over what was seen.
    pub fn finish(mut self) -> io::Result<Recording> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().expect("only this and Drop take it").join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Whoever drops a client does not want to know what it saw.
            let _ = thread.join();
        }
    }
}

/// One request from inside `netns`, for tests that need no more.
pub fn ask_once(netns: &Netns, target: SocketAddr) -> Outcome {
    netns.run(move || match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(request(target)),
        Err(_) => Outcome::Other,
    })
}

async fn ask(target: SocketAddr, stop: &AtomicBool, answered: &Arc<AtomicUsize>, most: usize) -> Recording {
    // Room for a minute: growing the list must not be what the worst latency shows.
    let records = Arc::new(Mutex::new(Vec::with_capacity(60_000)));
    let mut under_way = JoinSet::new();
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while !stop.load(Ordering::Relaxed) {
        let due = pace.tick().await;
        if under_way.len() >= most {
            under_way.join_next().await;
        }
        let late = due.elapsed();
        let (records, answered) = (Arc::clone(&records), Arc::clone(answered));
        under_way.spawn(async move {
            let start = Instant::now();
            let outcome = request(target).await;
            if outcome == Outcome::Answered {
                answered.fetch_add(1, Ordering::Relaxed);
            }
            let record = Record { start, end: Instant::now(), outcome, late };
            records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
        });
        while under_way.try_join_next().is_some() {}
    }
    while under_way.join_next().await.is_some() {}
    let records = std::mem::take(&mut *records.lock().unwrap_or_else(PoisonError::into_inner));
    Recording { records }
}

async fn request(target: SocketAddr) -> Outcome {
    match tokio::time::timeout(PATIENCE, exchange(target)).await {
        Err(_) => Outcome::TimedOut,
        Ok(Ok(true)) => Outcome::Answered,
        Ok(Ok(false)) => Outcome::Cut,
        Ok(Err(error)) => match error.kind() {
            io::ErrorKind::ConnectionRefused => Outcome::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Outcome::Cut,
            io::ErrorKind::TimedOut => Outcome::TimedOut,
            _ => Outcome::Other,
        },
    }
}

/// Whether a whole answer with status 200 arrived.
async fn exchange(target: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect(target).await?;
    stream.write_all(REQUEST).await?;
    let mut answer = [0; 512];
    let mut filled = 0;
    loop {
        match stream.read(&mut answer[filled..]).await? {
            0 => return Ok(whole(&answer[..filled])),
            more => filled += more,
        }
        if filled == answer.len() {
            return Ok(false);
        }
    }
}

/// Status 200, a blank line, and a body.
fn whole(answer: &[u8]) -> bool {
    let status = answer.split(|byte| *byte == b' ').nth(1);
    let body = answer.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4);
    status == Some(b"200") && body.is_some_and(|at| at < answer.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_more_requests_are_under_way_than_may_be_and_those_that_wait_are_late() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let target = silent.local_addr().expect("it has an address");
        let (stop, answered) = (AtomicBool::new(false), Arc::default());
        let server = async {
            let mut held = Vec::new();
            while held.len() < 5 {
                held.push(silent.accept().await.expect("a request comes").0);
            }
            // Fifty more were due meanwhile.
            let sixth = tokio::time::timeout(50 * PACE, silent.accept()).await;
            assert!(sixth.is_err(), "five may be under way");
            drop(held);
            let sixth = silent.accept().await.expect("one more comes");
            stop.store(true, Ordering::Relaxed);
            drop(sixth);
            while let Ok(accepted) = silent.accept().await {
                drop(accepted);
            }
        };
        let seen = tokio::select! {
            seen = ask(target, &stop, &answered, 5) => seen,
            () = server => unreachable!("it accepts for ever"),
        };
        assert!(seen.records.iter().any(|record| record.late >= 40 * PACE), "the sixth was kept waiting");
    }

    fn recording(fault: Instant, requests: &[(i64, i64, Outcome)]) -> Recording {
        let at = |ms: i64| match u64::try_from(ms) {
            Ok(ms) => fault + Duration::from_millis(ms),
            Err(_) => fault - Duration::from_millis(ms.unsigned_abs()),
        };
        let record = |(start, end, outcome): &(i64, i64, Outcome)| Record {
            start: at(*start),
            end: at(*end),
            outcome: *outcome,
            late: Duration::ZERO,
        };
        Recording { records: requests.iter().map(record).collect() }
    }

    #[test]
    fn the_gap_begins_at_the_fault_and_needs_a_request_from_after_it() {
        let fault = Instant::now() + Duration::from_secs(60);
        let seen = recording(
            fault,
            &[
                (-9, -8, Outcome::Answered),
                (-1, 5, Outcome::Answered),
                (3, 40, Outcome::Answered),
                (41, 42, Outcome::Answered),
            ],
        );
        let cost = seen.cost(fault);
        assert_eq!(cost.gap, Some(Duration::from_millis(40)));
        assert_eq!((cost.requests, cost.failed), (3, 0));
        assert_eq!(cost.worst, Duration::from_millis(37));
    }

    #[test]
    fn a_hole_later_in_the_window_counts_too() {
        let fault = Instant::now() + Duration::from_secs(60);
        let seen = recording(
            fault,
            &[
                (0, 1, Outcome::Answered),
                (2, 3, Outcome::Refused),
                (90, 91, Outcome::Answered),
                (92, 93, Outcome::Answered),
            ],
        );
        let cost = seen.cost(fault);
        assert_eq!(cost.gap, Some(Duration::from_millis(90)));
        assert_eq!((cost.requests, cost.failed), (4, 1));
    }

    #[test]
    fn what_comes_after_the_last_request_is_no_gap() {
        let fault = Instant::now();
        let ok = Outcome::Answered;
        let seen = recording(fault, &[(1, 1030, ok), (20, 21, ok), (22, 23, ok), (30, 31, ok)]);
        assert_eq!(seen.cost(fault).gap, Some(Duration::from_millis(21)));
        assert_eq!(recording(fault, &[(1, 1030, ok)]).cost(fault).gap, Some(Duration::from_millis(1030)));
    }

    #[test]
    fn no_answer_at_all_is_no_gap_of_zero() {
        let fault = Instant::now();
        assert_eq!(recording(fault, &[(1, 3001, Outcome::TimedOut)]).cost(fault).gap, None);
    }

    #[test]
    fn half_an_answer_is_none() {
        assert!(whole(b"HTTP/1.0 200 OK\r\n\r\ns1"));
        assert!(!whole(b"HTTP/1.0 200 OK\r\n\r\n"));
        assert!(!whole(b"HTTP/1.0 503 No\r\n\r\nsorry"));
        assert!(!whole(b""));
    }
}
