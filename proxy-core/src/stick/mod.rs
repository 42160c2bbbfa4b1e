//! Stick tables: what is known of clients for a while, shared by all workers.
//!
//! An entry has the name of the server that its client is to stay with, and counters. It goes when it wasn't used for
//! `expire`, or when one more needs its place: then the one that was used longest ago does, of its shard (below
//! 2048 entries there is one shard). An entry with connections that go on (`conn_cur`) is in use: it stays. Every change
//! is one [`Update`] of one key. Servers are known by name: an apply may reorder or remove them.

mod counters;
mod key;
mod shard;
mod tracks;

#[cfg(test)]
mod tests;

use std::collections::TryReserveError;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use counters::Event;
pub use key::Key;
pub(crate) use tracks::Tracks;

use crate::plan::{StickCounter, StickKey, StickTable};
use crate::stats::{StickEntry, StickTableStats};
use counters::Layout;
use shard::{Common, NONE, Shard, Tally};

/// Entries of one shard at least, and shards at most.
const SHARD: u32 = 1024;
const SHARDS: u32 = 64;
/// Entries that are swept or forgotten while a shard is locked.
const AT_ONCE: u32 = 256;

/// The name of a server, as the table knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerName(u32);

/// A change of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// Its client stays with this server.
    Server(ServerName),
    /// Something is counted.
    Count(Event),
}

/// One table. Times are milliseconds of its own clock, [`Table::now`].
#[derive(Debug)]
pub struct Table {
    definition: StickTable,
    /// In milliseconds; an apply may change it.
    expire: AtomicU64,
    epoch: Instant,
    common: Common,
    shards: Box<[Mutex<Shard>]>,
    /// By number. Only an apply adds to it.
    names: Mutex<Vec<Box<str>>>,
}

impl Table {
    /// An empty one; `definition` was validated.
    ///
    /// # Errors
    /// There isn't so much memory.
    pub fn new(definition: &StickTable) -> Result<Table, TryReserveError> {
        let layout = Layout::new(&definition.counters);
        let shards = (definition.size / SHARD).clamp(1, SHARDS);
        // A power of two, so that bits of the hash choose one.
        let shards = if shards.is_power_of_two() { shards } else { shards.next_power_of_two() / 2 };
        let shard = |number: u32| {
            let capacity = definition.size / shards + u32::from(number < definition.size % shards);
            Ok(Mutex::new(Shard::new(capacity, layout.words)?))
        };
        let shards = (0..shards).map(shard).collect::<Result<_, TryReserveError>>()?;
        Ok(Table {
            definition: definition.clone(),
            expire: AtomicU64::new(milliseconds(definition.expire)),
            epoch: Instant::now(),
            common: Common { hasher: RandomState::new(), layout },
            shards,
            names: Mutex::default(),
        })
    }

    /// Whether it can go on under this definition.
    pub(crate) fn fits(&self, definition: &StickTable) -> bool {
        let StickTable { name, key, size, counters, expire: _ } = &self.definition;
        (name, key, size, counters) == (&definition.name, &definition.key, &definition.size, &definition.counters)
    }

    pub(crate) fn set_expire(&self, expire: Duration) {
        self.expire.store(milliseconds(expire), Relaxed);
    }

    /// What its entries are found by.
    pub fn key(&self) -> &StickKey {
        &self.definition.key
    }

    /// The time for everything below.
    pub fn now(&self) -> u64 {
        milliseconds(self.epoch.elapsed())
    }

    /// The name of a server, for [`Update::Server`].
    pub fn name(&self, name: &str) -> ServerName {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let number = names.iter().position(|known| **known == *name).unwrap_or_else(|| {
            names.push(name.into());
            names.len() - 1
        });
        ServerName(u32::try_from(number).expect("fewer than 2^32 names"))
    }

    /// The server that a client is to stay with. A use.
    pub fn server(&self, key: &Key, now: u64) -> Option<ServerName> {
        let hash = self.hash(key);
        let mut shard = self.shard(hash);
        let index = shard.get(key, hash, now, self.expire(), &self.common);
        let server = index.map(|index| shard.server(index)).filter(|server| *server != NONE);
        let counter = if server.is_some() { &mut shard.tally.hits } else { &mut shard.tally.misses };
        *counter += 1;
        server.map(ServerName)
    }

    /// Changes an entry, which is made if need be, but not to count an end. A use. `false`: there is no place for one
    /// more, because those that could go are in use.
    pub fn update(&self, key: &Key, updates: &[Update], now: u64) -> bool {
        let hash = self.hash(key);
        let mut shard = self.shard(hash);
        let expire = self.expire();
        let index = if updates == [Update::Count(Event::End)] {
            shard.get(key, hash, now, expire, &self.common)
        } else {
            shard.get_or_insert(key, hash, now, expire, &self.common)
        };
        let Some(index) = index else { return false };
        for update in updates {
            match update {
                Update::Server(ServerName(server)) => shard.set_server(index, *server),
                Update::Count(event) => shard.count(index, *event, now, &self.common),
            }
        }
        true
    }

    /// Whether it counts such events.
    pub(crate) fn counts(&self, event: Event) -> bool {
        self.common.layout.counts(event)
    }

    /// What a counter says of a client; 0 if nothing is known. No use.
    pub fn value(&self, key: &Key, counter: StickCounter, now: u64) -> u32 {
        let hash = self.hash(key);
        let shard = self.shard(hash);
        let index = shard.peek(key, hash, now, self.expire(), &self.common);
        index.map_or(0, |index| self.common.layout.value(shard.words(index, &self.common), counter, now))
    }

    /// What is to be said of it.
    pub fn stats(&self, now: u64) -> StickTableStats {
        let (mut entries, mut tally) = (0, Tally::default());
        for shard in &self.shards {
            while lock(shard).sweep(now, self.expire(), AT_ONCE, &self.common) {}
            let shard = lock(shard);
            let Tally { hits, misses, evicted, refused } = shard.tally;
            entries += shard.len();
            tally.hits += hits;
            tally.misses += misses;
            tally.evicted += evicted;
            tally.refused += refused;
        }
        let Tally { hits, misses, evicted, refused } = tally;
        StickTableStats {
            name: self.definition.name.clone(),
            size: self.definition.size,
            entries,
            hits,
            misses,
            evicted,
            refused,
        }
    }

    /// The entries that were used last, at most so many; with `wanted` the one of this key, as it is shown.
    pub fn show(&self, wanted: Option<&Key>, most: usize, now: u64) -> Vec<StickEntry> {
        let expire = self.expire();
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = lock(shard);
            let live = shard.newest(&self.common).filter(|(key, ..)| wanted.is_none_or(|wanted| wanted == *key));
            found.extend(
                live.take(most).map(|(key, server, used, words)| {
                    (key.clone(), server, used, self.common.layout.values(words, now))
                }),
            );
        }
        found.sort_by_key(|(_, _, used, _)| std::cmp::Reverse(*used));
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = |(key, server, used, counters): (Key, u32, u64, Vec<(String, u32)>)| StickEntry {
            key: key.to_string(),
            server: names.get(server as usize).map(|name| name.to_string()),
            expires_in_ms: used.saturating_add(expire).saturating_sub(now),
            counters: counters.into_iter().collect(),
        };
        found.into_iter().take(most).map(entry).collect()
    }

    /// Forgets everything, or what is known of one key; of who is connected, all but that. How many entries it was.
    pub fn clear(&self, wanted: Option<&Key>, now: u64) -> u64 {
        if let Some(key) = wanted {
            let hash = self.hash(key);
            let mut shard = self.shard(hash);
            let Some(index) = shard.peek(key, hash, now, self.expire(), &self.common) else { return 0 };
            shard.forget(index, &self.common);
            return 1;
        }
        let mut count = 0;
        for shard in &self.shards {
            let mut left = lock(shard).len();
            count += u64::from(left);
            while left > 0 {
                let step = left.min(AT_ONCE);
                lock(shard).forget_oldest(step, now, &self.common);
                left -= step;
            }
        }
        count
    }

    /// A key as it is written; `None`: it is none of this table.
    pub fn parse_key(&self, text: &str) -> Option<Key> {
        match self.definition.key {
            StickKey::Source { v4, v6 } => text.parse().ok().map(|address| Key::address(address, v4, v6)),
            _ => Key::text(text.as_bytes()),
        }
    }

    fn expire(&self) -> u64 {
        self.expire.load(Relaxed)
    }

    fn hash(&self, key: &Key) -> u64 {
        self.common.hasher.hash_one(key)
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        // The low bits choose the chain within it.
        lock(&self.shards[(hash >> 48) as usize & (self.shards.len() - 1)])
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
