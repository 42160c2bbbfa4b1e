//! How many sessions each client address has at a frontend; kept only for frontends with such a limit.
//!
//! Locks are taken when a session begins and ends, one of [`SHARDS`] by address; no request takes one.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const SHARDS: usize = 16;

/// Sessions by client address, over all workers. An address without a session takes no memory.
#[derive(Debug, Default)]
pub(crate) struct PerSource {
    hasher: RandomState,
    shards: [Mutex<HashMap<IpAddr, u32>>; SHARDS],
}

/// One session of an address, until dropped.
#[derive(Debug)]
pub(crate) struct FromSource {
    all: Arc<PerSource>,
    address: IpAddr,
}

impl PerSource {
    /// Counts one more, unless there are `limit` already.
    pub(crate) fn enter(self: &Arc<PerSource>, address: IpAddr, limit: u32) -> Option<FromSource> {
        let mut shard = self.shard(address);
        let sessions = shard.get(&address).copied().unwrap_or(0);
        if sessions >= limit {
            return None;
        }
        shard.insert(address, sessions + 1);
        Some(FromSource { all: Arc::clone(self), address })
    }

    fn shard(&self, address: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        let shard = self.hasher.hash_one(address) as usize % SHARDS;
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FromSource {
    fn drop(&mut self) {
        if let Entry::Occupied(mut entry) = self.all.shard(self.address).entry(self.address) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_limit_and_leaves_nothing_behind() {
        let all = Arc::new(PerSource::default());
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let first = all.enter(one, 2).expect("the first");
        let second = all.enter(one, 2).expect("the second");
        assert!(all.enter(one, 2).is_none());
        assert!(all.enter(one, 3).is_some(), "a raised limit lets one more in");
        assert!(all.enter(other, 2).is_some());
        drop(first);
        assert!(all.enter(one, 2).is_some());
        drop(second);
        assert!(all.shards.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }
}
