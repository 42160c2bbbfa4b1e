//! What one session is counted in: at most one entry of each table, from the `track` that names it to the session's end.

use std::cell::{OnceCell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::{Event, Key, Table, Update};
use crate::stats::Counter;

/// How often the bytes of a session that only carries them are counted.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The entries of one session; dropped, it ends in each of them. One word, in every session, until there is an entry.
#[derive(Debug, Default)]
pub(crate) struct Tracks(OnceCell<Box<RefCell<Vec<Slot>>>>);

/// One of them.
#[derive(Debug)]
struct Slot {
    table: Arc<Table>,
    key: Key,
    /// What the session does now is counted here.
    current: bool,
}

impl Tracks {
    /// Counts the session in this entry, from now on instead of in another one of the table; and a request, if it is one.
    pub(crate) fn track(&self, table: &Arc<Table>, key: Key, request: bool) {
        let mut slots = self.0.get_or_init(Box::default).borrow_mut();
        let known = slots.iter().position(|slot| Arc::ptr_eq(&slot.table, table));
        let known = match known {
            Some(index) if slots[index].key != key => {
                slots.swap_remove(index).end();
                None
            }
            known => known,
        };
        let began = known.is_none().then_some(Update::Count(Event::Begin));
        let asked = request.then_some(Update::Count(Event::Request));
        let counted = match (began, asked) {
            (Some(began), Some(asked)) => table.update(&key, &[began, asked], table.now()),
            (Some(one), None) | (None, Some(one)) => table.update(&key, &[one], table.now()),
            (None, None) => true,
        };
        match known {
            Some(index) => slots[index].current = true,
            None if counted => slots.push(Slot { table: Arc::clone(table), key, current: true }),
            // The table is full of entries in use, and says so.
            None => {}
        }
    }

    /// Another request begins, which nothing tracks yet.
    pub(crate) fn next_request(&self) {
        if let Some(slots) = self.0.get() {
            slots.borrow_mut().iter_mut().for_each(|slot| slot.current = false);
        }
    }

    /// Counts this where the session is tracked now.
    pub(crate) fn count(&self, event: Event) {
        let Some(slots) = self.0.get().filter(|_| !matches!(event, Event::In(0) | Event::Out(0))) else { return };
        for slot in slots.borrow().iter().filter(|slot| slot.current && slot.table.counts(event)) {
            slot.table.update(&slot.key, &[Update::Count(event)], slot.table.now());
        }
    }

    /// Runs to the end of `relay`, and counts meanwhile what it adds to `up` and `down`.
    pub(crate) async fn watch<T>(&self, up: &Counter, down: &Counter, relay: impl Future<Output = T>) -> T {
        if self.0.get().is_none_or(|slots| slots.borrow().iter().all(|slot| !slot.current)) {
            return relay.await;
        }
        let count = || {
            let (more_in, more_out) = (up.get(), down.get());
            up.set(0);
            down.set(0);
            self.count(Event::In(more_in));
            self.count(Event::Out(more_out));
        };
        let mut relay = std::pin::pin!(relay);
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                end = &mut relay => {
                    count();
                    return end;
                }
                _ = ticks.tick() => count(),
            }
        }
    }
}

impl Slot {
    fn end(self) {
        if self.table.counts(Event::End) {
            self.table.update(&self.key, &[Update::Count(Event::End)], self.table.now());
        }
    }
}

impl Drop for Tracks {
    fn drop(&mut self) {
        let slots = self.0.take().map(|slots| slots.take()).unwrap_or_default();
        slots.into_iter().for_each(Slot::end);
    }
}
