//! The log of sessions and requests: a line each, in HAProxy's formats or as JSON.
//!
//! A worker writes a line into its own ring ([`Logger`], no lock, no system call on the way); one thread for the process
//! empties the rings into the sinks ([`Logs`]). A ring or a sink that is full drops the line and counts it: nothing ever
//! waits for whoever takes the log.
//!
//! ```text
//! worker ──► Logger ──► ring ─┐
//! worker ──► Logger ──► ring ─┴─► writer thread ──► a queue a sink ──► descriptor, opened by the agent
//! ```

pub(crate) mod clock;
mod json;
mod line;
mod record;
mod ring;
mod sink;
#[cfg(test)]
mod tests;
mod text;
mod writer;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

pub(crate) use record::{
    Ended, HttpRecord, HttpTimers, Load, Phase, TcpRecord, TcpTimers, Termination, Way, request_line,
};

use crate::plan::{Log, LogFormat, LogSink};
use crate::stats::{LogSinkStats, WorkerShard};
use clock::Clock;
use ring::Ring;
use sink::SinkLive;
use writer::{Order, Signal, Writer};

/// Orders that may wait for the writer; a further one waits for room, which it has in milliseconds.
const ORDERS: usize = 16;

/// The descriptors of a plan's sinks, by their index.
pub type Descriptors = BTreeMap<u16, OwnedFd>;

/// The sinks of one plan, in its order. A session keeps those that it began with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sinks(Arc<[Arc<SinkLive>]>);

/// A worker's hand on the log.
#[derive(Debug)]
pub(crate) struct Logger {
    number: usize,
    rings: Arc<[Ring]>,
    signal: Arc<Signal>,
    shards: Arc<[WorkerShard]>,
    scratch: RefCell<Scratch>,
}

/// What is used again for each line.
#[derive(Debug, Default)]
struct Scratch {
    line: Vec<u8>,
    clock: Clock,
    /// How far the writer was known to have read.
    seen: u64,
}

/// The log as a whole; dropping it ends the writer once it has written what is there.
#[derive(Debug)]
pub(crate) struct Logs {
    signal: Arc<Signal>,
    /// `None`: being dropped.
    orders: Option<SyncSender<Order>>,
    sinks: Sinks,
    next: u32,
}

impl Logger {
    /// Logs a request. `log` is the frontend's, `sinks` are of the same plan.
    pub(crate) fn http(&self, sinks: &Sinks, log: Log, record: &HttpRecord<'_>) {
        self.put(sinks, log, |line, clock| match log.format {
            LogFormat::Http => line::http(line, record, clock),
            LogFormat::Tcp => line::tcp(line, &record.as_tcp(), clock),
            LogFormat::Json => json::http(line, record, clock),
        });
    }

    /// Logs a session of a TCP frontend.
    pub(crate) fn tcp(&self, sinks: &Sinks, log: Log, record: &TcpRecord<'_>) {
        self.put(sinks, log, |line, clock| match log.format {
            // `httplog` has no form for a session without a request: HAProxy falls back to `tcplog` as well.
            LogFormat::Http | LogFormat::Tcp => line::tcp(line, record, clock),
            LogFormat::Json => json::tcp(line, record, clock),
        });
    }

    fn put(&self, sinks: &Sinks, log: Log, format: impl FnOnce(&mut Vec<u8>, &mut Clock)) {
        let Some(sink) = sinks.0.get(log.sink) else { return };
        let Scratch { line, clock, seen } = &mut *self.scratch.borrow_mut();
        line.clear();
        format(line, clock);
        let ring = &self.rings[self.number];
        if ring.push(sink.id, line, seen) {
            self.signal.pushed(ring);
        } else {
            self.shards[self.number].log_drops.add(1);
        }
    }
}

impl Logs {
    /// Starts the writer; a logger a worker comes with it.
    pub(crate) fn start(shards: &Arc<[WorkerShard]>) -> io::Result<(Logs, Vec<Logger>)> {
        let rings: Arc<[Ring]> = shards.iter().map(|_| Ring::default()).collect();
        let signal = Arc::<Signal>::default();
        let (orders, inbox) = sync_channel(ORDERS);
        let writer = Writer::new(Arc::clone(&rings), Arc::clone(&signal), inbox);
        let thread = std::thread::Builder::new().name("log".into()).spawn(move || writer.run())?;
        signal.name(thread.thread().clone());
        let logger = |number| Logger {
            number,
            rings: Arc::clone(&rings),
            signal: Arc::clone(&signal),
            shards: Arc::clone(shards),
            scratch: RefCell::default(),
        };
        let loggers = (0..rings.len()).map(logger).collect();
        Ok((Logs { signal, orders: Some(orders), sinks: Sinks::default(), next: 0 }, loggers))
    }

    /// The sinks of a plan, with the descriptors that came for them; one without counts its lines as dropped. A sink that
    /// the plan before had too keeps its queue and its counts, and goes on with the new descriptor.
    pub(crate) fn open(&mut self, plan: &[LogSink], mut descriptors: Descriptors) -> Sinks {
        let before = std::mem::take(&mut self.sinks);
        let sinks = (0..).zip(plan).map(|(index, config)| {
            let kept = before.0.iter().find(|live| live.config == *config).cloned();
            let live = kept.unwrap_or_else(|| {
                self.next += 1;
                Arc::new(SinkLive::new(self.next, config.clone()))
            });
            self.order(Order::Open(Arc::clone(&live), descriptors.remove(&index)));
            live
        });
        self.sinks = Sinks(sinks.collect());
        let retired = before.0.iter().filter(|old| !self.sinks.0.iter().any(|live| live.id == old.id));
        retired.for_each(|old| self.order(Order::Retire(old.id)));
        self.sinks.clone()
    }

    /// Goes on with these descriptors, where one came.
    pub(crate) fn reopen(&self, mut descriptors: Descriptors) {
        for (index, live) in (0..).zip(self.sinks.0.iter()) {
            if let Some(fd) = descriptors.remove(&index) {
                self.order(Order::Open(Arc::clone(live), Some(fd)));
            }
        }
    }

    /// Has what was logged until now written, and waits for it, but no longer than `within`: a sink may be stuck.
    pub(crate) fn flush(&self, within: Duration) {
        let (done, heard) = sync_channel(1);
        self.order(Order::Flush(done));
        // Too late, or no writer: what could be written is.
        let _ = heard.recv_timeout(within);
    }

    /// What there is to say about the sinks of the current plan.
    pub(crate) fn stats(&self) -> Vec<LogSinkStats> {
        self.sinks.0.iter().map(|live| live.stats()).collect()
    }

    fn order(&self, order: Order) {
        // Without a writer the process is about to end: its panic ends it.
        if self.orders.as_ref().is_some_and(|orders| orders.send(order).is_ok()) {
            self.signal.unpark();
        }
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.orders = None;
        self.signal.unpark();
    }
}
