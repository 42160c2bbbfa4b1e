//! One worker: an OS thread with a current-thread runtime, its own listening sockets, and its sessions.
//!
//! Its main task beats, reads its mail and accepts; each session is a task of its own whose panic ends that
//! session only. A panic anywhere else ends the process. Every poll of every task moves the worker's poll counter.

use std::any::Any;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, Sleep, interval, sleep, sleep_until};
use tracing::{error, warn};

use crate::beat::Slot;
use crate::limits::Gate;
use crate::listener::{Arrival, Listener, ListenerKey, Source};
use crate::log::Logger;
use crate::route::{Desk, Entrance, Routes};
use crate::server::Scheme;
use crate::session::Session;
use crate::stats::WorkerShard;

/// How often a worker says that its runtime turns.
const BEAT: Duration = Duration::from_millis(50);
/// Beats between two looks at idle connections to servers.
const SWEEP_EVERY: u32 = 20;
/// Arrivals taken from one source before the others have their turn.
const BATCH: usize = 64;
/// How long accepting rests when the kernel has no descriptor or memory left.
const PAUSE: Duration = Duration::from_millis(100);

/// Ends the process when dropped by a panic: there is never half a data plane.
pub(crate) struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// What the control side wants of a worker: the latest state, not a queue of steps.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    mail: Mutex<Mail>,
    arrived: Notify,
    /// The last generation that the worker has taken up.
    pub(crate) applied: AtomicU64,
}

/// Merged until the worker reads it.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    pub(crate) generation: u64,
    pub(crate) scheme: Option<Arc<Scheme>>,
    pub(crate) added: Vec<Listener>,
    pub(crate) removed: Vec<ListenerKey>,
    pub(crate) drain: Option<Instant>,
}

impl Mailbox {
    pub(crate) fn post(&self, write: impl FnOnce(&mut Mail)) {
        write(&mut self.mail.lock().unwrap_or_else(PoisonError::into_inner));
        self.arrived.notify_one();
    }

    fn read(&self) -> Mail {
        std::mem::take(&mut *self.mail.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a worker is made of.
#[derive(Debug)]
pub(crate) struct Seed {
    pub(crate) number: u16,
    pub(crate) slot: Slot,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) shards: Arc<[WorkerShard]>,
    pub(crate) probe: Option<UnixStream>,
    pub(crate) logger: Logger,
}

/// Runs a worker on this thread until it is drained.
///
/// `started` hears at once whether the system let it begin.
pub(crate) fn run(seed: Seed, started: &SyncSender<io::Result<()>>) {
    let _guard = AbortOnPanic;
    let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        Err(error) => return started.send(Err(error)).expect("who starts a worker listens"),
    };
    started.send(Ok(())).expect("who starts a worker listens");
    seed.slot.announce_tid(nix::unistd::gettid().as_raw());
    let end = runtime.block_on(async {
        let slot = seed.slot.clone();
        let main = spawn_local(async move { polled(&slot, Worker::new(seed).serve()).await });
        main.await
    });
    if let Err(error) = end
        && error.is_panic()
    {
        resume_unwind(error.into_panic());
    }
}

/// What the sessions of a worker share with it.
#[derive(Debug)]
struct Own {
    desk: Rc<Desk>,
    ended: Notify,
}

/// One accepted client in the counters, until dropped.
struct Counted(Rc<Own>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.desk.counters().ended.add(1);
        self.0.desk.clients.set(self.0.desk.clients.get() - 1);
        if self.0.desk.is_closing() {
            self.0.ended.notify_one();
        }
    }
}

#[derive(Debug)]
struct Entry {
    key: Option<ListenerKey>,
    source: Source,
    entrance: Option<Rc<Entrance>>,
}

#[derive(Debug)]
struct Worker {
    own: Rc<Own>,
    mailbox: Arc<Mailbox>,
    gate: Arc<Gate>,
    entries: Vec<Entry>,
    routes: Routes,
    beats: u32,
    pause: Option<Pin<Box<Sleep>>>,
    deadline: Option<Instant>,
}

impl Worker {
    fn new(seed: Seed) -> Worker {
        let probe = seed.probe.map(|socket| Entry {
            key: None,
            source: Source::probe(socket).unwrap_or_else(|error| panic!("the probe can't be waited for: {error}")),
            entrance: None,
        });
        let desk = Rc::new(Desk::new(seed.number, seed.slot, seed.shards, seed.logger, Arc::clone(&seed.gate)));
        let own = Own { desk: Rc::clone(&desk), ended: Notify::new() };
        Worker {
            own: Rc::new(own),
            mailbox: seed.mailbox,
            gate: seed.gate,
            entries: probe.into_iter().collect(),
            routes: Routes::new(desk),
            beats: 0,
            pause: None,
            deadline: None,
        }
    }

    /// Until drained.
    async fn serve(mut self) {
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mailbox = Arc::clone(&self.mailbox);
        let own = Rc::clone(&self.own);
        while !self.is_drained() {
            let deadline = self.deadline.map(tokio::time::Instant::from_std);
            tokio::select! {
                biased;
                _ = beat.tick() => self.beat(),
                () = mailbox.arrived.notified() => self.take_mail(),
                () = own.ended.notified() => {}
                () = async { sleep_until(deadline.expect("guarded")).await }, if deadline.is_some() => {}
                never = poll_fn(|cx| self.poll_accept(cx)) => match never {},
            }
        }
        // Before the sessions that are left are dropped, which counts them as ended.
        own.desk.counters().reset_by_drain.add(own.desk.clients.get() as u64);
    }

    fn beat(&mut self) {
        self.own.desk.slot.beat();
        self.beats = self.beats.wrapping_add(1);
        if self.beats.is_multiple_of(SWEEP_EVERY) {
            self.routes.sweep();
            self.own.desk.counters().idle_server_connections.set(self.routes.idle() as u64);
        }
        self.own.desk.counters().server_connections.set(self.own.desk.server_connections.get() as u64);
    }

    fn is_drained(&self) -> bool {
        self.deadline.is_some_and(|deadline| self.own.desk.clients.get() == 0 || deadline <= Instant::now())
    }

    fn take_mail(&mut self) {
        let mail = self.mailbox.read();
        self.entries.retain(|entry| entry.key.is_none_or(|key| !mail.removed.contains(&key)));
        for listener in mail.added {
            let key = listener.key;
            let source = Source::clients(listener.socket)
                .unwrap_or_else(|error| panic!("the listener on {} can't be waited for: {error}", key.address));
            self.entries.push(Entry { key: Some(key), source, entrance: None });
        }
        if let Some(scheme) = mail.scheme {
            self.routes.adopt(&scheme);
        }
        for entry in &mut self.entries {
            entry.entrance = entry.key.and_then(|key| self.routes.entrance(&key.address).cloned());
        }
        if let Some(deadline) = mail.drain {
            self.deadline = Some(self.deadline.map_or(deadline, |earlier| earlier.min(deadline)));
            self.routes.close();
        }
        if self.own.desk.is_closing() {
            // The agent's copies keep the accept queues for who comes after; the probe is answered to the end.
            self.entries.retain(|entry| entry.key.is_none());
        }
        self.mailbox.applied.fetch_max(mail.generation, SeqCst);
    }

    /// Takes what has arrived. A client for whom there is no room stays in the kernel's accept queue.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Infallible> {
        if self.pause.as_mut().is_some_and(|pause| pause.as_mut().poll(cx).is_ready()) {
            self.pause = None;
        }
        let mut index = 0;
        while index < self.entries.len() {
            if self.poll_entry(index, cx) {
                index += 1;
            } else {
                self.entries.swap_remove(index);
            }
        }
        Poll::Pending
    }

    /// Whether the entry stays.
    fn poll_entry(&mut self, index: usize, cx: &mut Context<'_>) -> bool {
        let entry = &mut self.entries[index];
        for _ in 0..BATCH {
            let room = match (&entry.source, &entry.entrance) {
                (Source::Probe(_), _) => None,
                (Source::Clients(_), Some(entrance)) if self.pause.is_none() => {
                    if entrance.tls.get().is_some() && !self.own.desk.handshakes.have_room(cx) {
                        return true;
                    }
                    let Some(process) = self.gate.enter(cx) else { return true };
                    let Some(frontend) = entrance.route().live().gate.enter(cx) else { return true };
                    Some((Rc::clone(entrance), [process, frontend]))
                }
                // An address that the plan doesn't name, or a pause.
                (Source::Clients(_), _) => return true,
            };
            match (entry.source.poll_accept(cx), room) {
                (Poll::Pending, _) => return true,
                (Poll::Ready(Ok(Arrival::Client(client, peer))), Some((entrance, passes))) => {
                    self.own.desk.slot.accepted(|| client.local_addr().ok().map(|address| address.ip()));
                    if let Some(session) = (Session { client, peer, entrance, passes }).begin() {
                        start(&self.own, session);
                    }
                }
                (Poll::Ready(Ok(Arrival::Client(..) | Arrival::Answered)), _) => {}
                (Poll::Ready(Ok(Arrival::Closed)), _) => return false,
                (Poll::Ready(Err(error)), None) => {
                    warn!(%error, "the agent's probe is lost");
                    return false;
                }
                (Poll::Ready(Err(error)), Some(_)) if is_exhausted(&error) => {
                    warn!(%error, worker = self.own.desk.worker, "accepting rests for {PAUSE:?}");
                    self.own.desk.counters().accept_pauses.add(1);
                    self.pause = Some(Box::pin(sleep(PAUSE)));
                    cx.waker().wake_by_ref();
                    return true;
                }
                // A client that was gone before it was accepted.
                (Poll::Ready(Err(_)), Some(_)) => {}
            }
        }
        cx.waker().wake_by_ref();
        true
    }
}

fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// Runs one client's session as a task of its own.
fn start(own: &Rc<Own>, session: Pin<Box<dyn Future<Output = ()>>>) {
    own.desk.counters().accepted.add(1);
    own.desk.clients.set(own.desk.clients.get() + 1);
    spawn_local(Running { counted: Counted(Rc::clone(own)), session });
}

/// A session as a task. Three words: with what tokio adds they just fill two cache lines, of which there is one pair for
/// every client.
struct Running {
    counted: Counted,
    session: Pin<Box<dyn Future<Output = ()>>>,
}

impl Future for Running {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Running { counted, session } = self.get_mut();
        poll_apart(&counted.0.desk, session, cx)
    }
}

/// Runs a part of a session as a task of its own.
pub(crate) fn start_part(desk: &Rc<Desk>, part: Pin<Box<dyn Future<Output = ()>>>) {
    spawn_local(Part { desk: Rc::clone(desk), part });
}

struct Part {
    desk: Rc<Desk>,
    part: Pin<Box<dyn Future<Output = ()>>>,
}

impl Future for Part {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Part { desk, part } = self.get_mut();
        poll_apart(desk, part, cx)
    }
}

/// Polls so that it is seen on the board, and that a panic ends nothing else.
fn poll_apart(desk: &Desk, session: &mut Pin<Box<dyn Future<Output = ()>>>, cx: &mut Context<'_>) -> Poll<()> {
    desk.slot.polled();
    // After a panic it is dropped, and never polled again.
    catch_unwind(AssertUnwindSafe(|| session.as_mut().poll(cx))).unwrap_or_else(|panic| {
        desk.counters().panics.add(1);
        error!(worker = desk.worker, panic = said(&*panic), "a session panicked and was ended");
        Poll::Ready(())
    })
}

/// `future`, with every poll seen on the board.
async fn polled<T>(slot: &Slot, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    poll_fn(|cx| {
        slot.polled();
        future.as_mut().poll(cx)
    })
    .await
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU8;

    use tokio::task::LocalSet;

    use crate::beat::BeatBoard;
    use crate::log::Logs;
    use crate::stats::shards;

    fn own(board: &BeatBoard) -> Rc<Own> {
        let shards = shards(1).into();
        let logger = Logs::start(&shards).unwrap().1.remove(0);
        let desk = Rc::new(Desk::new(0, board.slot(0), shards, logger, Arc::new(Gate::new(None))));
        desk.closing_since.set(Some(tokio::time::Instant::now()));
        Rc::new(Own { desk, ended: Notify::new() })
    }

    /// Whether the polls of worker 0 move within `time`.
    #[allow(clippy::disallowed_methods, reason = "that nothing moves can only be seen by looking for a while")]
    fn moves(board: &BeatBoard, time: Duration) -> bool {
        let (before, deadline) = (board.read(0).polls, Instant::now() + time);
        while Instant::now() < deadline {
            if board.read(0).polls != before {
                return true;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        false
    }

    #[test]
    fn polls_stand_still_while_a_session_blocks_the_worker_and_go_on_afterwards() {
        const PATIENCE: Duration = Duration::from_secs(10);
        let board = BeatBoard::create().unwrap();
        let (seen, spins) = (board.clone(), Arc::new(AtomicU8::new(0)));
        let state = Arc::clone(&spins);
        let worker = std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
            runtime.block_on(async {
                let own = own(&board);
                start(
                    &own,
                    Box::pin(async move {
                        while state.load(SeqCst) < 3 {
                            if state.load(SeqCst) == 1 {
                                state.store(2, SeqCst);
                                while state.load(SeqCst) == 2 {
                                    std::hint::spin_loop();
                                }
                            }
                            sleep(Duration::from_millis(1)).await;
                        }
                    }),
                );
                own.ended.notified().await;
            });
        });
        assert!(moves(&seen, PATIENCE));
        spins.store(1, SeqCst);
        let deadline = Instant::now() + PATIENCE;
        while spins.load(SeqCst) != 2 {
            assert!(Instant::now() < deadline, "the session never began to block");
            std::thread::yield_now();
        }
        assert!(!moves(&seen, Duration::from_millis(200)), "a blocked worker seemed to go on");
        spins.store(0, SeqCst);
        assert!(moves(&seen, PATIENCE), "a worker that goes on seemed blocked");
        spins.store(3, SeqCst);
        worker.join().unwrap();
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_panic_ends_its_own_session_and_no_other() {
        let own = own(&BeatBoard::create().unwrap());
        LocalSet::new()
            .run_until(async {
                let (go, gone) = tokio::sync::oneshot::channel::<()>();
                start(&own, Box::pin(async { gone.await.expect("told to go") }));
                start(
                    &own,
                    Box::pin(async {
                        tokio::task::yield_now().await;
                        panic!("on purpose")
                    }),
                );
                own.ended.notified().await;
                assert_eq!((own.desk.clients.get(), own.desk.counters().panics.get()), (1, 1));
                go.send(()).expect("the other session is alive");
                own.ended.notified().await;
                assert_eq!((own.desk.clients.get(), own.desk.counters().panics.get()), (0, 1));
            })
            .await;
    }
}
