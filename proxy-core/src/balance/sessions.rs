//! Sessions at servers, counted over all workers. Of a backend with many servers the counters lie side by side, so that a look at
//! all of them reads little memory; of one with few, workers that count at different servers don't get in each other's way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// So many servers are still few.
const FEW: usize = 64;
/// What is fetched at once.
const BLOCK: usize = 16;

/// Sessions at one server; clones count the same.
#[derive(Clone, Debug)]
pub struct Sessions {
    block: Arc<Block>,
    place: usize,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Block([AtomicU32; BLOCK]);

impl Sessions {
    /// For the servers of a backend that has so many, without end.
    pub fn of_each(servers: usize) -> impl Iterator<Item = Sessions> {
        let together = if servers > FEW { BLOCK } else { 1 };
        std::iter::repeat_with(Arc::<Block>::default)
            .flat_map(move |block| (0..together).map(move |place| Sessions { block: Arc::clone(&block), place }))
    }

    /// How many there are.
    pub fn now(&self) -> u32 {
        self.counter().load(SeqCst)
    }

    /// One more, unless there are `max` of them; whether there was room.
    #[must_use]
    pub fn begin(&self, max: u32) -> bool {
        self.counter().fetch_update(SeqCst, SeqCst, |now| (now < max).then_some(now + 1)).is_ok()
    }

    /// One that [`Sessions::begin`] found room for is over.
    pub fn end(&self) {
        self.counter().fetch_sub(1, SeqCst);
    }

    fn counter(&self) -> &AtomicU32 {
        &self.block.0[self.place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_of_few_and_of_many_has_a_count_of_its_own() {
        for servers in [2, FEW, FEW + 1, 100] {
            let all: Vec<_> = Sessions::of_each(servers).take(servers).collect();
            for (number, sessions) in (0..).zip(&all) {
                assert_eq!((0..=number).filter(|_| sessions.begin(number)).count(), number as usize);
            }
            assert!((0..).zip(&all).all(|(number, sessions)| sessions.now() == number));
            all[servers - 1].clone().end();
            assert_eq!(all[servers - 1].now() as usize, servers - 2, "{servers}");
        }
    }
}
