//! The events of this node: the newest in memory for readers, all that fit on disk, by a thread that may wait.
//!
//! Recording never waits. A full queue to the writer drops the line and counts it; memory and followers have the
//! event all the same. A follower that reads too slowly is told how many it missed.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::broadcast;

use super::journal::{self, Journal};
use super::record::{Draft, Event};
use crate::causes::chain;

/// Events in memory; the oldest one makes room.
pub const KEPT: usize = 1_000;
/// Lines that wait for the disk.
pub const QUEUE: usize = 1_024;
/// Events that wait for a follower; the oldest one makes room, and the follower is told.
pub const FOLLOWED: usize = 256;

/// A handle; all handles mean the same events.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    node: String,
    memory: Mutex<Memory>,
    writer: SyncSender<Job>,
    unwritten: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Memory {
    /// By their numbers, the oldest first; at most [`KEPT`].
    events: VecDeque<Arc<Event>>,
    next: u64,
    live: broadcast::Sender<Arc<Event>>,
}

/// What the writer does.
enum Job {
    Write(Vec<u8>),
    /// Says when everything before it is on disk.
    Flush(SyncSender<()>),
}

/// What a follower gets.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// A new event, or an amended one under the number that it had.
    Event(Arc<Event>),
    /// So many were not taken in time and are gone for this follower.
    Missed(u64),
    /// There will be no more.
    End,
}

/// Gets every event from a point on.
#[derive(Debug)]
pub struct Follower {
    live: broadcast::Receiver<Arc<Event>>,
}

impl Follower {
    /// Waits for the next one. May be dropped and called again.
    pub async fn next(&mut self) -> Next {
        match self.live.recv().await {
            Ok(event) => Next::Event(event),
            Err(broadcast::error::RecvError::Lagged(count)) => Next::Missed(count),
            Err(broadcast::error::RecvError::Closed) => Next::End,
        }
    }
}

impl Store {
    /// Goes on from what the node's files hold, and says what was wrong with them. Never fails: a node whose disk
    /// is broken still has its events in memory, and every new one tries the disk again.
    pub fn open(state_dir: &Path, node: &str) -> (Store, Vec<String>) {
        let mut remarks = Vec::new();
        let folder = journal::folder(state_dir);
        let found = journal::read(state_dir).unwrap_or_else(|error| {
            remarks.push(format!("the events of earlier runs are not shown: {}", chain(&error)));
            journal::Read::default()
        });
        if found.torn {
            remarks.push(format!("the last event in {} was cut off in the middle and is lost", folder.display()));
        }
        if found.unreadable > 0 {
            remarks.push(format!("{}: lines that are no events: {}", folder.display(), found.unreadable));
        }
        let (writer, jobs) = sync_channel(QUEUE);
        let store = Store::assemble(node, found.events, writer);
        let unwritten = Arc::clone(&store.shared.unwritten);
        let spawned = std::thread::Builder::new().name("events".into()).spawn(move || write(folder, &jobs, &unwritten));
        if let Err(error) = spawned {
            // Without a reader the queue refuses, and what it refuses is counted.
            remarks.push(format!("events are kept in memory only, no thread could be started: {error}"));
        }
        (store, remarks)
    }

    fn assemble(node: &str, events: Vec<Event>, writer: SyncSender<Job>) -> Store {
        let next = events.last().map_or(1, |event| event.id + 1);
        let skipped = events.len().saturating_sub(KEPT);
        let events = events.into_iter().skip(skipped).map(Arc::new).collect();
        let memory = Mutex::new(Memory { events, next, live: broadcast::Sender::new(FOLLOWED) });
        let shared = Shared { node: node.to_owned(), memory, writer, unwritten: Arc::default() };
        Store { shared: Arc::new(shared) }
    }

    /// Takes note of something that happened just now; returns its number.
    pub fn record(&self, draft: Draft) -> u64 {
        let mut memory = self.memory();
        let id = memory.next;
        memory.next += 1;
        let event = Arc::new(draft.into_event(id, &self.shared.node, SystemTime::now()));
        if memory.events.len() == KEPT {
            memory.events.pop_front();
        }
        memory.events.push_back(Arc::clone(&event));
        self.publish(&memory, event);
        id
    }

    /// Changes an event, such as by the peer's part of its timeline; its number, time and node stay.
    /// False: it is so old that memory has it no more.
    pub fn amend(&self, id: u64, change: impl FnOnce(&mut Event)) -> bool {
        let mut memory = self.memory();
        let Ok(index) = memory.events.binary_search_by_key(&id, |event| event.id) else { return false };
        let before = Arc::clone(&memory.events[index]);
        let mut event = Event::clone(&before);
        change(&mut event);
        (event.id, event.at, event.node) = (id, before.at.clone(), before.node.clone());
        event.limit();
        let event = Arc::new(event);
        memory.events[index] = Arc::clone(&event);
        self.publish(&memory, event);
        true
    }

    /// The events in memory with higher numbers than this one, or all; the oldest first.
    pub fn after(&self, id: Option<u64>) -> Vec<Arc<Event>> {
        self.memory().after(id)
    }

    /// The same, and a follower that gets whatever comes after them: nothing is missing and nothing is twice.
    pub fn follow(&self, after: Option<u64>) -> (Vec<Arc<Event>>, Follower) {
        let memory = self.memory();
        (memory.after(after), Follower { live: memory.live.subscribe() })
    }

    /// How many lines did not get to the disk since the agent started: the queue was full, or the disk refused.
    pub fn unwritten(&self) -> u64 {
        self.shared.unwritten.load(Ordering::Relaxed)
    }

    /// Waits until all events so far are on disk, for `limit` at most; whether they are, except for those that
    /// count as [`Store::unwritten`]. For the end of the agent.
    pub fn flush(&self, limit: Duration) -> bool {
        let (done, is_done) = sync_channel(1);
        // A full queue is not waited for: a disk that takes nothing takes no flush either.
        self.shared.writer.try_send(Job::Flush(done)).is_ok() && is_done.recv_timeout(limit).is_ok()
    }

    /// Under the lock, so that disk and followers see one order.
    fn publish(&self, memory: &Memory, event: Arc<Event>) {
        let mut line = serde_json::to_vec(&*event).expect("an event is plain data");
        line.push(b'\n');
        if self.shared.writer.try_send(Job::Write(line)).is_err() {
            self.shared.unwritten.fetch_add(1, Ordering::Relaxed);
        }
        // Nobody needs to follow.
        let _ = memory.live.send(event);
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // A panic inside `amend`'s change leaves the events as they were.
        self.shared.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn after(&self, id: Option<u64>) -> Vec<Arc<Event>> {
        let from = self.events.partition_point(|event| id.is_some_and(|id| event.id <= id));
        self.events.range(from..).cloned().collect()
    }
}

/// Writes until every handle of the store is gone. One complaint for each time that it stops to work.
fn write(folder: PathBuf, jobs: &Receiver<Job>, unwritten: &AtomicU64) {
    let mut journal = Journal::new(folder);
    let mut works = true;
    while let Ok(job) = jobs.recv() {
        let (result, flushed) = match job {
            Job::Write(line) => (journal.append(&line), None),
            Job::Flush(done) => (journal.sync(), Some(done)),
        };
        match result {
            Ok(()) => {
                if let Some(done) = flushed {
                    // Who asked may have stopped waiting.
                    let _ = done.try_send(());
                } else if !std::mem::replace(&mut works, true) {
                    tracing::info!(unwritten = unwritten.load(Ordering::Relaxed), "events are written to disk again");
                }
            }
            Err(error) => {
                unwritten.fetch_add(u64::from(flushed.is_none()), Ordering::Relaxed);
                if std::mem::replace(&mut works, false) {
                    tracing::error!("{}; events are kept in memory only until it works", chain(&error));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
