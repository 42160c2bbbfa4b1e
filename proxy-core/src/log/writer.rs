//! The thread that empties the workers' rings into the sinks. Nobody waits for it, and it waits for no sink that can say
//! that it is full.
//!
//! While lines come it looks every few milliseconds, so that a worker under load never has to wake it; when none came for
//! that long it sleeps, and the next line wakes it.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU8, Ordering::Acquire, Ordering::SeqCst, fence};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, SystemTime};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::ring::Ring;
use super::sink::{Sink, SinkLive};
use crate::worker::AbortOnPanic;

/// Between two looks while lines come: as long as a line may wait.
const NAP: Duration = Duration::from_millis(5);
/// Between two looks while nothing comes, but a sink that was full has lines left.
const RETRY: Duration = Duration::from_millis(20);
/// Between two looks at a sink that is only there for sessions of an earlier plan.
const RETIRED: Duration = Duration::from_secs(1);

/// What the writer is told.
#[derive(Debug)]
pub(super) enum Order {
    /// Write the lines of this sink to this descriptor from now on.
    Open(Arc<SinkLive>, Option<OwnedFd>),
    /// This one is of the current plan no more: close it when no session knows it any more.
    Retire(u32),
    /// Answer once everything that is there now is written.
    Flush(SyncSender<()>),
}

/// How workers wake the writer: not at all while it is awake, and while it naps only when a ring fills.
#[derive(Debug, Default)]
pub(super) struct Signal {
    rest: AtomicU8,
    thread: OnceLock<Thread>,
}

const AWAKE: u8 = 0;
const NAPS: u8 = 1;
const SLEEPS: u8 = 2;

impl Signal {
    /// A line was pushed into this ring.
    pub(super) fn pushed(&self, ring: &Ring) {
        match self.rest.load(SeqCst) {
            SLEEPS => self.wake(),
            NAPS if ring.half_full() => self.wake(),
            _ => {}
        }
    }

    fn wake(&self) {
        if self.rest.swap(AWAKE, SeqCst) != AWAKE {
            self.unpark();
        }
    }

    /// Whatever the writer does, it looks once more before it sleeps.
    pub(super) fn unpark(&self) {
        self.thread.get().expect("the thread was named before anybody could push").unpark();
    }

    pub(super) fn name(&self, thread: Thread) {
        self.thread.get_or_init(|| thread);
    }
}

#[derive(Debug)]
pub(super) struct Writer {
    rings: Arc<[Ring]>,
    signal: Arc<Signal>,
    inbox: Receiver<Order>,
    sinks: Vec<Sink>,
    /// Who is to be told when everything that was there when they asked is written.
    flushing: Vec<SyncSender<()>>,
    /// The same, in the next round: what is there now is not in this one.
    asked: Vec<SyncSender<()>>,
    line: Vec<u8>,
    pid: u32,
}

impl Writer {
    pub(super) fn new(rings: Arc<[Ring]>, signal: Arc<Signal>, inbox: Receiver<Order>) -> Writer {
        Writer {
            rings,
            signal,
            inbox,
            sinks: Vec::new(),
            flushing: Vec::new(),
            asked: Vec::new(),
            line: Vec::new(),
            pid: std::process::id(),
        }
    }

    /// Until nobody is left to give orders.
    pub(super) fn run(mut self) {
        let _guard = AbortOnPanic;
        loop {
            self.flushing.append(&mut self.asked);
            let forgotten = self.forgotten();
            // The rings before the orders: whoever pushed a line knew a sink that was ordered earlier.
            let ends: Vec<u64> = self.rings.iter().map(Ring::end).collect();
            let over = self.take_orders();
            let came = self.round(&ends);
            self.sinks.retain(|sink| !forgotten.contains(&sink.live.id));
            if over {
                return;
            }
            if self.asked.is_empty() {
                self.rest(came);
            }
        }
    }

    /// Sinks that no plan and no session knows any more. Their last lines are in the rings already.
    fn forgotten(&self) -> Vec<u32> {
        let forgotten = self.sinks.iter().filter(|sink| Arc::strong_count(&sink.live) == 1).map(|sink| sink.live.id);
        let forgotten = forgotten.collect();
        // Whoever let go of one pushed its lines before.
        fence(Acquire);
        forgotten
    }

    /// Whether it is over.
    fn take_orders(&mut self) -> bool {
        loop {
            match self.inbox.try_recv() {
                Ok(Order::Open(live, fd)) => {
                    let index = self.sinks.iter().position(|sink| sink.live.id == live.id);
                    let index = index.unwrap_or_else(|| {
                        self.sinks.push(Sink::new(live));
                        self.sinks.len() - 1
                    });
                    self.sinks[index].open(fd);
                }
                Ok(Order::Retire(id)) => {
                    self.sinks.iter_mut().filter(|sink| sink.live.id == id).for_each(|sink| sink.retired = true);
                }
                Ok(Order::Flush(done)) => self.asked.push(done),
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => return true,
            }
        }
    }

    /// What the rings had into the sinks, and on as far as they take it. Whether a line came.
    fn round(&mut self, ends: &[u64]) -> bool {
        let now = SystemTime::now();
        let mut came = false;
        let Writer { rings, sinks, line, pid, .. } = self;
        for (ring, end) in rings.iter().zip(ends) {
            came |= ring.drain(*end, line, |id, line| {
                let sink = sinks.iter_mut().find(|sink| sink.live.id == id);
                sink.expect("a sink outlives whoever knows it").take(line, now, *pid);
            });
        }
        sinks.iter_mut().for_each(Sink::flush);
        if sinks.iter().all(Sink::is_empty) {
            for done in self.flushing.drain(..) {
                // Who waited too long is gone.
                let _ = done.send(());
            }
        }
        came
    }

    fn rest(&self, came: bool) {
        let stuck = self.sinks.iter().any(|sink| !sink.is_empty());
        self.signal.rest.store(if came || stuck { NAPS } else { SLEEPS }, SeqCst);
        // In one order with a worker's push and its look at us: one of both sees the other.
        let missed = if came || stuck { Ring::half_full } else { |ring: &Ring| !ring.is_empty() };
        if !self.rings.iter().any(missed) {
            match (came, stuck) {
                (true, false) => std::thread::park_timeout(NAP),
                (true, true) => self.wait_for_room(NAP),
                (false, true) => self.wait_for_room(RETRY),
                (false, false) if self.sinks.iter().any(|sink| sink.retired) => std::thread::park_timeout(RETIRED),
                (false, false) => std::thread::park(),
            }
        }
        self.signal.rest.store(AWAKE, SeqCst);
    }
    /// Until a sink that was full has room again; no longer than so.
    fn wait_for_room(&self, at_most: Duration) {
        let full = self.sinks.iter().filter_map(Sink::full);
        let mut full: Vec<_> = full.map(|fd| PollFd::new(fd, PollFlags::POLLOUT)).collect();
        let timeout = PollTimeout::try_from(at_most).expect("a few milliseconds fit");
        if full.is_empty() || poll(&mut full, timeout).is_err() {
            std::thread::park_timeout(at_most);
        }
    }
}
