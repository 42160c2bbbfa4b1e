//! Connections that last, and what became of them: the other half of what a switchover is judged by. New
//! connections are [`crate::client`]'s.
//!
//! Idle ones say something once at the beginning and once at the end; busy ones say something every [`BEAT`] and
//! time the answer; one upload and one download go on all the time, each byte compared. All of it runs on one thread
//! inside the client's namespace and ends by itself.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::netns::{Netns, NetnsError};
use crate::stream_server::{CHUNK, DOWNLOAD, ECHO, NONE_WRONG, UPLOAD, chunk, fill, first_wrong};

/// From one message of a busy connection to its next.
pub const BEAT: Duration = Duration::from_millis(50);
/// After so long without progress a connection counts as lost.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// What a busy connection says.
const MESSAGE: usize = 64;
/// Marks the last message of an idle connection.
const LAST: u64 = 1 << 63;
/// So many connect, or say their last, at once: the listeners' queues are not what is tested.
const OPENING: usize = 64;
/// What the transfers may need from the end of the pacing on.
const HURRY: Duration = Duration::from_secs(30);

/// How many connections of which kind.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// That say nothing.
    pub idle: usize,
    /// That say something every [`BEAT`].
    pub busy: usize,
    /// The length of the upload and of the download in bytes; 0: none.
    pub transfer: u64,
    /// How long each of the two is stretched, unless [`Load::finish`] comes first: then the rest goes at once.
    pub stretch: Duration,
    /// The end, if nobody calls [`Load::finish`].
    pub limit: Duration,
}

impl Default for Spec {
    /// 2,000 connections, a tenth of them busy, and 100 MB each way over twenty seconds.
    fn default() -> Spec {
        Spec {
            idle: 1800,
            busy: 200,
            transfer: 100_000_000,
            stretch: Duration::from_secs(20),
            limit: Duration::from_secs(120),
        }
    }
}

impl Spec {
    /// All connections.
    pub fn connections(&self) -> usize {
        self.idle + self.busy + if self.transfer > 0 { 2 } else { 0 }
    }
}

/// What a connection was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Says nothing.
    Idle,
    /// Says something every [`BEAT`].
    Busy,
    /// Sends the pattern.
    Upload,
    /// Receives the pattern.
    Download,
}

/// How a connection was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// It was refused.
    Refused,
    /// It was reset.
    Reset,
    /// The other side ended it.
    Ended,
    /// Nothing moved for [`PATIENCE`].
    TimedOut,
    /// Other bytes came than were expected.
    Damaged,
    /// Anything else: no route, no socket.
    Other,
}

impl Loss {
    /// In a report.
    pub fn name(self) -> &'static str {
        match self {
            Loss::Refused => "refused",
            Loss::Reset => "reset",
            Loss::Ended => "ended",
            Loss::TimedOut => "timed_out",
            Loss::Damaged => "damaged",
            Loss::Other => "other",
        }
    }
}

impl From<io::Error> for Loss {
    fn from(error: io::Error) -> Loss {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Loss::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Loss::Reset,
            io::ErrorKind::UnexpectedEof => Loss::Ended,
            io::ErrorKind::TimedOut => Loss::TimedOut,
            _ => Loss::Other,
        }
    }
}

/// An answer to a busy connection.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// When it was complete, or the load was told to finish: what it then says all at once is nobody's fault.
    pub at: Instant,
    /// How long it took.
    pub took: Duration,
    /// By how much the message itself was sent too late.
    pub late: Duration,
}

/// A connection that was lost.
#[derive(Clone, Copy, Debug)]
pub struct Lost {
    /// When.
    pub at: Instant,
    /// What it was for.
    pub kind: Kind,
    /// How.
    pub loss: Loss,
}

/// An upload or download that arrived whole.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Which of the two.
    pub kind: Kind,
    /// Its first byte.
    pub start: Instant,
    /// Its last byte.
    pub end: Instant,
}

/// What the connections saw.
#[derive(Clone, Debug, Default)]
pub struct LoadRecording {
    /// How many there were.
    pub connections: usize,
    /// Of the busy ones.
    pub answers: Vec<Answer>,
    /// Every loss; also of those that were never opened.
    pub losses: Vec<Lost>,
    /// What arrived whole.
    pub transfers: Vec<Transfer>,
}

/// What a fault cost them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadCost {
    /// How many there were.
    pub connections: usize,
    /// How many were lost, whenever.
    pub lost: usize,
    /// The same by [`Loss::name`].
    pub by_loss: BTreeMap<&'static str, usize>,
    /// The slowest answer to a busy one since the fault.
    pub worst: Duration,
    /// The median of those answers.
    pub p50: Duration,
    /// Their 99th percentile.
    pub p99: Duration,
    /// How many answers there were.
    pub answers: usize,
    /// Transfers that arrived whole.
    pub intact: usize,
    /// How late this load itself was with a message, at worst.
    pub late: Duration,
}

impl LoadRecording {
    /// The cost of what began at `fault`.
    pub fn cost(&self, fault: Instant) -> LoadCost {
        let since = || self.answers.iter().filter(|answer| answer.at >= fault);
        let mut took: Vec<Duration> = since().map(|answer| answer.took).collect();
        took.sort_unstable();
        // By the nearest rank, so that it is an answer that did happen.
        let percentile = |percent: usize| {
            let rank = (took.len() * percent).div_ceil(100).max(1);
            took.get(rank - 1).copied().unwrap_or_default()
        };
        let mut by_loss = BTreeMap::new();
        for lost in &self.losses {
            *by_loss.entry(lost.loss.name()).or_default() += 1;
        }
        LoadCost {
            connections: self.connections,
            lost: self.losses.len(),
            by_loss,
            worst: percentile(100),
            p50: percentile(50),
            p99: percentile(99),
            answers: took.len(),
            intact: self.transfers.len(),
            late: since().map(|answer| answer.late).max().unwrap_or_default(),
        }
    }
}

/// How far a load is told to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Going,
    Finishing,
    /// Nobody wants to know any more.
    Dropped,
}

/// A load that is running.
#[derive(Debug)]
pub struct Load {
    phase: watch::Sender<Phase>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<io::Result<LoadRecording>>>,
}

/// Between the thread and its owner.
#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    spec: Spec,
    deadline: Instant,
    finished: OnceLock<Instant>,
    opening: Semaphore,
    ready: AtomicUsize,
    lost: AtomicUsize,
    recording: Mutex<LoadRecording>,
}

impl Load {
    /// Opens the connections to `target`, a [`crate::stream_server`] or whatever carries to one, inside `netns`.
    pub fn start(netns: &Netns, target: SocketAddr, spec: Spec) -> Result<Load, NetnsError> {
        let recording = LoadRecording {
            connections: spec.connections(),
            // Room for half a minute: growing the list must not be what the worst answer shows.
            answers: Vec::with_capacity(spec.busy * 20 * 30),
            ..LoadRecording::default()
        };
        let shared = Arc::new(Shared {
            target,
            spec,
            deadline: Instant::now() + spec.limit,
            finished: OnceLock::new(),
            opening: Semaphore::new(OPENING),
            ready: AtomicUsize::new(0),
            lost: AtomicUsize::new(0),
            recording: Mutex::new(recording),
        });
        let (phase, phases) = watch::channel(Phase::Going);
        let inside = Arc::clone(&shared);
        let thread = netns.thread("load", move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(carry(&inside, phases)))
        })?;
        Ok(Load { phase, shared, thread: Some(thread) })
    }

    /// Whether every connection was opened and answered once; the error says how far it is.
    pub fn ready(&self) -> Result<(), String> {
        let (ready, lost) = (self.shared.ready.load(Ordering::Relaxed), self.shared.lost.load(Ordering::Relaxed));
        match self.shared.spec.connections() {
            all if ready >= all => Ok(()),
            all => Err(format!("{ready} of {all} connections work, {lost} were lost")),
        }
    }

    /// How many connections were lost so far.
    pub fn lost(&self) -> usize {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Whether nothing goes on any more: all were lost, or [`Spec::limit`] has come.
    pub fn ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Asks the idle ones for a last answer, lets the transfers end at full speed, and hands over what was seen.
    pub fn finish(mut self) -> io::Result<LoadRecording> {
        self.shared.finished.get_or_init(Instant::now);
        self.phase.send_replace(Phase::Finishing);
        match self.thread.take().expect("only this and Drop take it").join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.phase.send_replace(Phase::Dropped);
        if let Some(thread) = self.thread.take() {
            // Whoever drops a load does not want to know what it saw.
            let _ = thread.join();
        }
    }
}

/// One connection's view of the whole.
#[derive(Clone, Debug)]
struct Session {
    shared: Arc<Shared>,
    phases: watch::Receiver<Phase>,
    kind: Kind,
}

async fn carry(shared: &Arc<Shared>, mut phases: watch::Receiver<Phase>) -> LoadRecording {
    let mut tasks = JoinSet::new();
    let spec = shared.spec;
    let session = |kind| Session { shared: Arc::clone(shared), phases: phases.clone(), kind };
    for number in 0..spec.idle {
        tasks.spawn(session(Kind::Idle).watched(move |session| idle(session, number)));
    }
    for number in 0..spec.busy {
        tasks.spawn(session(Kind::Busy).watched(move |session| busy(session, number)));
    }
    if spec.transfer > 0 {
        tasks.spawn(session(Kind::Upload).watched(upload));
        tasks.spawn(session(Kind::Download).watched(download));
    }
    tokio::select! {
        () = async { while tasks.join_next().await.is_some() {} } => {}
        // The sender outlives this thread, so an error is as good as a drop.
        _ = phases.wait_for(|phase| *phase == Phase::Dropped) => {}
    }
    drop(tasks);
    std::mem::take(&mut *shared.recording.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Session {
    /// Runs `life` and writes down how it was lost, if it was.
    async fn watched<F: Future<Output = Result<(), Loss>>>(self, life: impl FnOnce(Session) -> F) {
        let (shared, kind) = (Arc::clone(&self.shared), self.kind);
        let end = tokio::time::Instant::from_std(shared.deadline + HURRY);
        let outcome = tokio::time::timeout_at(end, life(self)).await.unwrap_or(Err(Loss::TimedOut));
        if let Err(loss) = outcome {
            shared.lost.fetch_add(1, Ordering::Relaxed);
            shared.write(|recording| recording.losses.push(Lost { at: Instant::now(), kind, loss }));
        }
    }

    async fn open(&self, first: u8) -> Result<TcpStream, Loss> {
        // Never closed while somebody waits; and if it were, the connection could be opened all the same.
        let _place = self.shared.opening.acquire().await;
        let mut stream = patiently(TcpStream::connect(self.shared.target)).await?;
        stream.set_nodelay(true)?;
        patiently(stream.write_u8(first)).await?;
        Ok(stream)
    }

    fn ready(&self) {
        self.shared.ready.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns when the end has come.
    async fn finishing(&mut self) {
        let deadline = tokio::time::Instant::from_std(self.shared.deadline);
        let told = self.phases.wait_for(|phase| *phase != Phase::Going);
        // Either of them; what it was makes no difference.
        let _ = tokio::time::timeout_at(deadline, told).await;
    }
}

impl Shared {
    fn write(&self, change: impl FnOnce(&mut LoadRecording)) {
        change(&mut self.recording.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

async fn idle(mut session: Session, number: usize) -> Result<(), Loss> {
    let mut stream = session.open(ECHO).await?;
    echo(&mut stream, number as u64).await?;
    session.ready();
    let mut byte = [0];
    tokio::select! {
        heard = stream.read(&mut byte) => return Err(match heard {
            Ok(0) => Loss::Ended,
            Ok(_) => Loss::Damaged,
            Err(error) => error.into(),
        }),
        () = session.finishing() => {}
    }
    let _place = session.shared.opening.acquire().await;
    echo(&mut stream, LAST | number as u64).await
}

async fn busy(mut session: Session, number: usize) -> Result<(), Loss> {
    let mut stream = session.open(ECHO).await?;
    // Spread over the beat, so that they don't all speak at once.
    let offset = BEAT.mul_f64(number as f64 / session.shared.spec.busy as f64);
    let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + offset, BEAT);
    // Those that were missed by a slow answer are not made up for.
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sent = 0_u64;
    loop {
        let late = tokio::select! {
            due = beat.tick() => due.elapsed(),
            () = session.finishing() => return Ok(()),
        };
        let begin = Instant::now();
        echo(&mut stream, ((number as u64) << 32) + sent).await?;
        let end = session.shared.finished.get().map_or_else(Instant::now, |finished| *finished.min(&Instant::now()));
        let answer = Answer { at: end, took: end.saturating_duration_since(begin), late };
        session.shared.write(|recording| recording.answers.push(answer));
        if sent == 0 {
            session.ready();
        }
        sent += 1;
    }
}

/// Says something that no other connection says at any time, and compares the answer.
async fn echo(stream: &mut TcpStream, seed: u64) -> Result<(), Loss> {
    let (mut message, mut answer) = ([0; MESSAGE], [0; MESSAGE]);
    message[..8].copy_from_slice(&seed.to_be_bytes());
    fill(seed, &mut message[8..]);
    patiently(stream.write_all(&message)).await?;
    patiently(stream.read_exact(&mut answer)).await?;
    if answer == message { Ok(()) } else { Err(Loss::Damaged) }
}

async fn upload(session: Session) -> Result<(), Loss> {
    let mut stream = session.open(UPLOAD).await?;
    let (start, length) = (Instant::now(), session.shared.spec.transfer);
    patiently(stream.write_u64(length)).await?;
    let mut pace = Pace::new(&session);
    let mut piece = vec![0; CHUNK];
    let mut done = 0;
    while done < length {
        pace.wait().await;
        let piece = &mut piece[..chunk(length - done)];
        fill(done, piece);
        patiently(stream.write_all(piece)).await?;
        if done == 0 {
            session.ready();
        }
        done += piece.len() as u64;
    }
    let arrived = (patiently(stream.read_u64()).await?, patiently(stream.read_u64()).await?);
    session.arrived(start, arrived == (length, NONE_WRONG))
}

async fn download(session: Session) -> Result<(), Loss> {
    let mut stream = session.open(DOWNLOAD).await?;
    let (start, length) = (Instant::now(), session.shared.spec.transfer);
    patiently(stream.write_u64(length)).await?;
    let mut pace = Pace::new(&session);
    let mut piece = vec![0; CHUNK];
    let mut done = 0;
    while done < length {
        pace.wait().await;
        let piece = &mut piece[..chunk(length - done)];
        patiently(stream.read_exact(piece)).await?;
        if first_wrong(done, piece).is_some() {
            return Err(Loss::Damaged);
        }
        if done == 0 {
            session.ready();
        }
        done += piece.len() as u64;
    }
    let ended = patiently(stream.read(&mut piece)).await? == 0;
    session.arrived(start, ended)
}

impl Session {
    fn arrived(&self, start: Instant, whole: bool) -> Result<(), Loss> {
        if !whole {
            return Err(Loss::Damaged);
        }
        let transfer = Transfer { kind: self.kind, start, end: Instant::now() };
        self.shared.write(|recording| recording.transfers.push(transfer));
        Ok(())
    }
}

/// Stretches a transfer until the end has come; then nothing waits any more.
struct Pace {
    ticks: tokio::time::Interval,
    session: Session,
    over: bool,
}

impl Pace {
    fn new(session: &Session) -> Pace {
        let chunks = session.shared.spec.transfer.div_ceil(CHUNK as u64).max(1);
        let chunks = u32::try_from(chunks).unwrap_or(u32::MAX);
        let tick = (session.shared.spec.stretch / chunks).max(Duration::from_micros(1));
        Pace { ticks: tokio::time::interval(tick), session: session.clone(), over: false }
    }

    async fn wait(&mut self) {
        if !self.over {
            tokio::select! {
                _ = self.ticks.tick() => {}
                () = self.session.finishing() => self.over = true,
            }
        }
    }
}

async fn patiently<T>(step: impl Future<Output = io::Result<T>>) -> Result<T, Loss> {
    Ok(tokio::time::timeout(PATIENCE, step).await.map_err(|_| Loss::TimedOut)??)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(at: Instant, took: u64) -> Answer {
        Answer { at, took: Duration::from_millis(took), late: Duration::ZERO }
    }

    #[test]
    fn what_was_answered_before_the_fault_does_not_count_but_every_loss_does() {
        let fault = Instant::now();
        let (before, after) = (fault - Duration::from_millis(5), fault + Duration::from_millis(5));
        let lost = |at, loss| Lost { at, kind: Kind::Idle, loss };
        let recording = LoadRecording {
            connections: 10,
            answers: vec![answer(before, 90), answer(after, 2), answer(after, 7), answer(after, 3)],
            losses: vec![lost(before, Loss::Reset), lost(after, Loss::Reset), lost(after, Loss::Ended)],
            transfers: Vec::new(),
        };
        let cost = recording.cost(fault);
        assert_eq!((cost.worst, cost.p50), (Duration::from_millis(7), Duration::from_millis(3)));
        assert_eq!((cost.connections, cost.lost, cost.answers, cost.intact), (10, 3, 3, 0));
        assert_eq!(cost.by_loss, BTreeMap::from([("ended", 1), ("reset", 2)]));
    }

    #[test]
    fn without_answers_there_is_no_worst_one() {
        assert_eq!(LoadRecording::default().cost(Instant::now()).worst, Duration::ZERO);
    }
}
