//! A part of a table, under one lock: entries in one block, found through chains of a hash table, in the order of
//! their last use. Pure; every step is short, whatever the size.
//!
//! All memory is set aside at the beginning, and the system gives it as it is used: nothing grows under the lock.

use std::collections::TryReserveError;
use std::hash::{BuildHasher, RandomState};

use super::counters::{Event, Layout};
use super::key::Key;

/// No entry; no server.
pub(super) const NONE: u32 = u32::MAX;
/// Entries in use that one more entry moves out of its way before it is refused.
const TRIES: u32 = 8;
/// Expired entries that one use of the shard clears away.
const SWEPT: u32 = 2;

/// One entry. Its counters are words elsewhere.
#[derive(Debug)]
struct Entry {
    key: Key,
    /// The next one in its chain; of a free entry the next free one.
    chain: u32,
    newer: u32,
    older: u32,
    /// Number of the name of its server.
    server: u32,
    /// When it was last used, in milliseconds.
    used: u64,
}

const _: () = assert!(size_of::<Entry>() == 48, "a million of them are 48 MB");

/// What happened to entries of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) hits: u64,
    pub(super) misses: u64,
    pub(super) evicted: u64,
    pub(super) refused: u64,
}

/// What all shards of a table have in common.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) hasher: RandomState,
    pub(super) layout: Layout,
}

#[derive(Debug)]
pub(super) struct Shard {
    entries: Vec<Entry>,
    words: Vec<u32>,
    /// First entries of the chains, counted from 1; 0: none. Zeros cost no memory until something else is written.
    buckets: Box<[u32]>,
    free: u32,
    newest: u32,
    oldest: u32,
    length: u32,
    capacity: u32,
    pub(super) tally: Tally,
}

impl Shard {
    /// # Errors
    /// There isn't so much memory.
    pub(super) fn new(capacity: u32, words: usize) -> Result<Shard, TryReserveError> {
        let entries = capacity as usize;
        let mut shard = Shard {
            entries: Vec::new(),
            words: Vec::new(),
            buckets: Box::default(),
            free: NONE,
            newest: NONE,
            oldest: NONE,
            length: 0,
            capacity,
            tally: Tally::default(),
        };
        shard.entries.try_reserve_exact(entries)?;
        shard.words.try_reserve_exact(entries.saturating_mul(words))?;
        let buckets = entries.next_power_of_two();
        // Asked for in vain, zeros would end the process.
        Vec::<u32>::new().try_reserve_exact(buckets)?;
        shard.buckets = vec![0; buckets].into();
        Ok(shard)
    }

    pub(super) fn len(&self) -> u32 {
        self.length
    }

    /// The entry of a key, if it isn't over; used now.
    pub(super) fn get(&mut self, key: &Key, hash: u64, now: u64, expire: u64, common: &Common) -> Option<u32> {
        self.sweep(now, expire, SWEPT, common);
        let index = self.find(key, hash)?;
        if self.is_over(index, now, expire, common) {
            self.remove(index, hash);
            return None;
        }
        self.touch(index, now);
        Some(index)
    }

    /// The entry of a key as it is, unless it is over.
    pub(super) fn peek(&self, key: &Key, hash: u64, now: u64, expire: u64, common: &Common) -> Option<u32> {
        self.find(key, hash).filter(|index| !self.is_over(*index, now, expire, common))
    }

    /// The entry of a key, made if there is none; `None`: all that could go for it are in use.
    pub(super) fn get_or_insert(
        &mut self,
        key: &Key,
        hash: u64,
        now: u64,
        expire: u64,
        common: &Common,
    ) -> Option<u32> {
        if let Some(index) = self.get(key, hash, now, expire, common) {
            return Some(index);
        }
        if self.length == self.capacity && !self.evict(now, common) {
            self.tally.refused += 1;
            return None;
        }
        let entry = Entry { key: key.clone(), chain: NONE, newer: NONE, older: NONE, server: NONE, used: now };
        let index = if self.free == NONE {
            self.entries.push(entry);
            self.words.resize(self.entries.len() * common.layout.words, 0);
            u32::try_from(self.entries.len() - 1).expect("the capacity has 32 bits")
        } else {
            let index = self.free;
            self.free = self.entries[index as usize].chain;
            self.entries[index as usize] = entry;
            self.words_of(index, common).fill(0);
            index
        };
        let bucket = self.bucket(hash);
        self.entries[index as usize].chain = std::mem::replace(&mut self.buckets[bucket], index + 1).wrapping_sub(1);
        self.length += 1;
        self.link(index);
        Some(index)
    }

    pub(super) fn server(&self, index: u32) -> u32 {
        self.entries[index as usize].server
    }

    pub(super) fn set_server(&mut self, index: u32, server: u32) {
        self.entries[index as usize].server = server;
    }

    pub(super) fn count(&mut self, index: u32, event: Event, now: u64, common: &Common) {
        common.layout.count(self.words_of(index, common), event, now);
    }

    pub(super) fn words(&self, index: u32, common: &Common) -> &[u32] {
        let first = index as usize * common.layout.words;
        &self.words[first..first + common.layout.words]
    }

    fn words_of(&mut self, index: u32, common: &Common) -> &mut [u32] {
        let first = index as usize * common.layout.words;
        &mut self.words[first..first + common.layout.words]
    }

    /// Takes away at most so many of the longest unused entries that are over; whether there may be more.
    pub(super) fn sweep(&mut self, now: u64, expire: u64, most: u32, common: &Common) -> bool {
        for _ in 0..most {
            let index = self.oldest;
            if index == NONE || self.entries[index as usize].used.saturating_add(expire) > now {
                return false;
            }
            if self.in_use(index, common) {
                self.touch(index, now);
            } else {
                self.remove(index, self.hash_of(index, common));
            }
        }
        true
    }

    /// The entries that were last used, newest first: key, server, time of the last use, words.
    pub(super) fn newest(&self, common: &Common) -> impl Iterator<Item = (&Key, u32, u64, &[u32])> {
        let mut next = self.newest;
        std::iter::from_fn(move || {
            let entry = self.entries.get(next as usize)?;
            let words = self.words(next, common);
            next = entry.older;
            Some((&entry.key, entry.server, entry.used, words))
        })
    }

    /// Forgets an entry, or, of one in use, all but that.
    pub(super) fn forget(&mut self, index: u32, common: &Common) {
        if self.in_use(index, common) {
            self.entries[index as usize].server = NONE;
            common.layout.clear(self.words_of(index, common));
        } else {
            self.remove(index, self.hash_of(index, common));
        }
    }

    /// As [`Shard::forget`], at most so many, from the longest unused on. Those in use were used last afterwards.
    pub(super) fn forget_oldest(&mut self, most: u32, now: u64, common: &Common) {
        for _ in 0..most.min(self.length) {
            let index = self.oldest;
            self.forget(index, common);
            if self.oldest == index {
                self.touch(index, now);
            }
        }
    }

    /// Makes room for one; `false`: those that were looked at are in use.
    fn evict(&mut self, now: u64, common: &Common) -> bool {
        for _ in 0..TRIES.min(self.length) {
            let index = self.oldest;
            if !self.in_use(index, common) {
                self.tally.evicted += 1;
                self.remove(index, self.hash_of(index, common));
                return true;
            }
            // A session that goes on is a use.
            self.touch(index, now);
        }
        false
    }

    fn in_use(&self, index: u32, common: &Common) -> bool {
        common.layout.in_use.is_some_and(|word| self.words(index, common)[word] > 0)
    }

    fn is_over(&self, index: u32, now: u64, expire: u64, common: &Common) -> bool {
        self.entries[index as usize].used.saturating_add(expire) <= now && !self.in_use(index, common)
    }

    fn hash_of(&self, index: u32, common: &Common) -> u64 {
        common.hasher.hash_one(&self.entries[index as usize].key)
    }

    fn bucket(&self, hash: u64) -> usize {
        hash as usize & (self.buckets.len() - 1)
    }

    /// The first entry of a chain.
    fn first(&self, bucket: usize) -> u32 {
        self.buckets[bucket].wrapping_sub(1)
    }

    fn find(&self, key: &Key, hash: u64) -> Option<u32> {
        let mut index = self.first(self.bucket(hash));
        loop {
            let entry = self.entries.get(index as usize)?;
            if entry.key == *key {
                return Some(index);
            }
            index = entry.chain;
        }
    }

    fn remove(&mut self, index: u32, hash: u64) {
        self.unlink(index);
        let (bucket, next) = (self.bucket(hash), self.entries[index as usize].chain);
        let mut before = self.first(bucket);
        if before == index {
            self.buckets[bucket] = next.wrapping_add(1);
        } else {
            while let Some(entry) = self.entries.get_mut(before as usize) {
                if entry.chain == index {
                    entry.chain = next;
                    break;
                }
                before = entry.chain;
            }
        }
        let entry = &mut self.entries[index as usize];
        // A text's memory goes with it.
        entry.key = Key::Address([0; 16]);
        entry.chain = std::mem::replace(&mut self.free, index);
        self.length -= 1;
    }

    fn touch(&mut self, index: u32, now: u64) {
        self.entries[index as usize].used = now;
        if self.newest != index {
            self.unlink(index);
            self.link(index);
        }
    }

    fn link(&mut self, index: u32) {
        let older = std::mem::replace(&mut self.newest, index);
        let entry = &mut self.entries[index as usize];
        (entry.newer, entry.older) = (NONE, older);
        match self.entries.get_mut(older as usize) {
            Some(older) => older.newer = index,
            None => self.oldest = index,
        }
    }

    fn unlink(&mut self, index: u32) {
        let Entry { newer, older, .. } = self.entries[index as usize];
        match self.entries.get_mut(newer as usize) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
        match self.entries.get_mut(older as usize) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
    }
}
