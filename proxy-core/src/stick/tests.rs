//! The table against a naive one, and by many threads at once.

use super::*;
use crate::plan::StickCounter;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};

const EXPIRE: u64 = 100;
const RATE: StickCounter = StickCounter::HttpReqRate(Duration::from_millis(40));

fn definition(size: u32, counters: &[StickCounter]) -> StickTable {
    StickTable {
        name: "t".into(),
        key: StickKey::Source { v4: 32, v6: 128 },
        size,
        expire: Duration::from_millis(EXPIRE),
        counters: counters.into(),
    }
}

fn table(size: u32, counters: &[StickCounter]) -> Table {
    Table::new(&definition(size, counters)).unwrap()
}

fn client(number: u32) -> Key {
    Key::address(IpAddr::V4(Ipv4Addr::from_bits(number)), 32, 128)
}

#[derive(Clone, Debug)]
enum Step {
    Server(u32),
    Stick(u32, u8),
    Track(u32),
    Leave(u32),
    Value(u32),
    Pass(u64),
    Clear(u32),
    ClearAll,
    Stats,
}

/// One entry of the naive table, oldest use first.
#[derive(Clone, Debug)]
struct Naive {
    client: u32,
    server: Option<u8>,
    connections: u32,
    requests: Vec<u64>,
    used: u64,
}

#[derive(Debug, Default)]
struct Model {
    entries: VecDeque<Naive>,
    size: usize,
    stats: (u64, u64, u64, u64),
}

impl Model {
    fn over(entry: &Naive, now: u64) -> bool {
        entry.used + EXPIRE <= now && entry.connections == 0
    }

    fn used(&mut self, client: u32, now: u64) -> Option<&mut Naive> {
        let index = self.entries.iter().position(|entry| entry.client == client)?;
        let mut entry = self.entries.remove(index).unwrap();
        if Model::over(&entry, now) {
            return None;
        }
        entry.used = now;
        self.entries.push_back(entry);
        self.entries.back_mut()
    }

    /// As the real one: in use is used now, and at most eight are asked.
    fn made(&mut self, client: u32, now: u64) -> Option<&mut Naive> {
        if self.used(client, now).is_none() {
            // What is over needs no eviction: two of those at a time are swept by the real one, which a model with
            // room for them mustn't count.
            if self.entries.len() == self.size && !self.evict(now) {
                self.stats.3 += 1;
                return None;
            }
            self.entries.push_back(Naive { client, server: None, connections: 0, requests: Vec::new(), used: now });
        }
        self.entries.back_mut()
    }

    fn sweep(&mut self, now: u64, most: usize) {
        for _ in 0..most {
            let Some(mut oldest) = self.entries.pop_front() else { return };
            if oldest.used + EXPIRE > now {
                return self.entries.push_front(oldest);
            }
            if oldest.connections > 0 {
                oldest.used = now;
                self.entries.push_back(oldest);
            }
        }
    }

    fn evict(&mut self, now: u64) -> bool {
        for _ in 0..self.entries.len().min(8) {
            let mut oldest = self.entries.pop_front().unwrap();
            if oldest.connections == 0 {
                self.stats.2 += 1;
                return true;
            }
            oldest.used = now;
            self.entries.push_back(oldest);
        }
        false
    }

    /// HAProxy's estimate, from every single request.
    fn rate(requests: &[u64], now: u64) -> u64 {
        let in_period = |number: u64| requests.iter().filter(|at| **at / 40 == number).count() as u64;
        let before = (now / 40).checked_sub(1).map_or(0, in_period);
        in_period(now / 40) + before * (40 - now % 40) / 40
    }
}

fn step() -> impl Strategy<Value = Step> {
    let client = || 0_u32..12;
    prop_oneof![
        3 => client().prop_map(Step::Server),
        3 => (client(), 0_u8..3).prop_map(|(client, server)| Step::Stick(client, server)),
        4 => client().prop_map(Step::Track),
        3 => client().prop_map(Step::Leave),
        2 => client().prop_map(Step::Value),
        4 => (0_u64..70).prop_map(Step::Pass),
        1 => client().prop_map(Step::Clear),
        1 => Just(Step::ClearAll).boxed(),
        1 => Just(Step::Stats),
    ]
}

proptest! {
    #[test]
    fn a_table_is_a_map_that_forgets_the_longest_unused_and_the_expired(
        size in 1_u32..8,
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let table = table(size, &[StickCounter::ConnCur, RATE, StickCounter::Gpc0]);
        let names = ["a", "b", "c"].map(|name| table.name(name));
        let mut model = Model { size: size as usize, ..Model::default() };
        let mut now = 0;
        for step in steps {
            if matches!(step, Step::Server(_) | Step::Stick(..) | Step::Track(_) | Step::Leave(_)) {
                model.sweep(now, 2);
            }
            match step {
                Step::Pass(time) => now += time,
                Step::Server(number) => {
                    let expected = model.used(number, now).and_then(|entry| entry.server);
                    match expected { Some(_) => model.stats.0 += 1, None => model.stats.1 += 1 }
                    let found = table.server(&client(number), now);
                    prop_assert_eq!(found, expected.map(|server| names[usize::from(server)]));
                }
                Step::Stick(number, server) => {
                    let made = model.made(number, now).map(|entry| entry.server = Some(server)).is_some();
                    let name = names[usize::from(server)];
                    prop_assert_eq!(table.update(&client(number), &[Update::Server(name)], now), made);
                }
                Step::Track(number) => {
                    let made = model.made(number, now).map(|entry| {
                        entry.connections += 1;
                        entry.requests.push(now);
                    });
                    let updates = [Update::Count(Event::Begin), Update::Count(Event::Request)];
                    prop_assert_eq!(table.update(&client(number), &updates, now), made.is_some());
                }
                Step::Leave(number) => {
                    let left = model.used(number, now).map(|entry| {
                        entry.connections = entry.connections.saturating_sub(1);
                    });
                    prop_assert_eq!(table.update(&client(number), &[Update::Count(Event::End)], now), left.is_some());
                }
                Step::Value(number) => {
                    let known = model.entries.iter().find(|entry| entry.client == number && !Model::over(entry, now));
                    let value = |counter| u64::from(table.value(&client(number), counter, now));
                    prop_assert_eq!(value(RATE), known.map_or(0, |entry| Model::rate(&entry.requests, now)));
                    prop_assert_eq!(
                        value(StickCounter::ConnCur),
                        known.map_or(0, |entry| u64::from(entry.connections))
                    );
                }
                Step::Clear(number) => {
                    let index = model.entries.iter()
                        .position(|entry| entry.client == number && !Model::over(entry, now));
                    prop_assert_eq!(table.clear(Some(&client(number)), now), u64::from(index.is_some()));
                    if let Some(index) = index {
                        if model.entries[index].connections == 0 {
                            model.entries.remove(index);
                        } else {
                            (model.entries[index].server, model.entries[index].requests) = (None, Vec::new());
                        }
                    }
                }
                Step::ClearAll => {
                    prop_assert_eq!(table.clear(None, now), model.entries.len() as u64);
                    model.entries.retain(|entry| entry.connections > 0);
                    for entry in &mut model.entries {
                        (entry.server, entry.used) = (None, now);
                        entry.requests.clear();
                    }
                }
                Step::Stats => {
                    model.sweep(now, 256);
                    let stats = table.stats(now);
                    prop_assert_eq!(
                        (u64::from(stats.entries), stats.hits, stats.misses, stats.evicted, stats.refused),
                        (
                            model.entries.len() as u64, model.stats.0, model.stats.1, model.stats.2, model.stats.3
                        )
                    );
                    let shown: Vec<String> = table.show(None, 100, now).into_iter().map(|entry| entry.key).collect();
                    let mut expected: Vec<_> = model.entries.iter().map(|entry| client(entry.client).to_string()).collect();
                    let mut shown = shown;
                    shown.sort();
                    expected.sort();
                    prop_assert_eq!(shown, expected);
                }
            }
        }
    }
}

#[test]
fn a_table_that_is_too_small_says_what_it_evicted() {
    let table = table(10, &[]);
    let server = table.name("a");
    for number in 0..25 {
        assert!(table.update(&client(number), &[Update::Server(server)], u64::from(number)));
    }
    let stats = table.stats(25);
    assert_eq!((stats.entries, stats.evicted, stats.refused), (10, 15, 0));
    assert_eq!(table.server(&client(14), 25), None, "the longest unused went");
    assert_eq!(table.server(&client(15), 25), Some(server));
}

#[test]
fn who_is_connected_is_not_evicted_and_a_full_table_refuses() {
    let table = table(2, &[StickCounter::ConnCur]);
    for number in 0..2 {
        assert!(table.update(&client(number), &[Update::Count(Event::Begin)], 0));
    }
    assert!(!table.update(&client(2), &[Update::Count(Event::Begin)], 10 * EXPIRE));
    assert_eq!(table.stats(20 * EXPIRE).refused, 1);
    assert_eq!(table.value(&client(0), StickCounter::ConnCur, 20 * EXPIRE), 1);
    table.update(&client(0), &[Update::Count(Event::End)], 20 * EXPIRE);
    assert!(table.update(&client(2), &[Update::Count(Event::Begin)], 20 * EXPIRE));
}

#[test]
fn the_parts_of_a_table_are_as_large_as_the_whole() {
    for size in [1, 1023, 1024, 2047, 2048, 2049, 5000, 65_536, 100_000] {
        let table = table(size, &[]);
        for number in 0..size * 2 {
            table.update(&client(number.wrapping_mul(2_654_435_761)), &[Update::Server(ServerName(0))], 0);
        }
        let stats = table.stats(0);
        assert!(stats.entries <= size && u64::from(stats.entries) + stats.evicted == u64::from(size) * 2, "{stats:?}");
        assert!(stats.entries >= size - size / 20, "{stats:?}");
    }
}

#[test]
fn many_threads_count_every_event_once() {
    const THREADS: u32 = 4;
    const EACH: u32 = 20_000;
    let table = table(50_000, &[StickCounter::ConnCur, StickCounter::ConnCnt, StickCounter::HttpReqCnt]);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let table = &table;
            scope.spawn(move || {
                let name = table.name(["a", "b", "c", "d"][thread as usize]);
                for round in 0..EACH {
                    // Some are everybody's, some are one thread's own.
                    let key = client(if round % 2 == 0 { round % 100 } else { 1000 + thread * EACH + round });
                    let begin = [Update::Count(Event::Begin), Update::Count(Event::Request), Update::Server(name)];
                    assert!(table.update(&key, &begin, 0));
                    assert!(table.server(&key, 0).is_some());
                    assert!(table.update(&key, &[Update::Count(Event::End)], 0));
                }
            });
        }
    });
    let stats = table.stats(0);
    assert_eq!(stats.entries, 50 + THREADS * EACH / 2);
    assert_eq!((stats.hits, stats.evicted, stats.refused), (u64::from(THREADS * EACH), 0, 0));
    let all: u64 = (0..100).map(|key| u64::from(table.value(&client(key), StickCounter::HttpReqCnt, 0))).sum();
    assert_eq!(all, u64::from(THREADS * EACH / 2));
    let now: u64 = (0..200_000).map(|key| u64::from(table.value(&client(key), StickCounter::ConnCur, 0))).sum();
    assert_eq!(now, 0);
}

#[test]
fn a_definition_fits_itself_with_another_expire_only() {
    let kept = table(10, &[StickCounter::Gpc0]);
    let same = StickTable { expire: Duration::from_secs(9), ..definition(10, &[StickCounter::Gpc0]) };
    assert!(kept.fits(&same));
    assert!(!kept.fits(&StickTable { size: 11, ..same.clone() }));
    assert!(!kept.fits(&StickTable { counters: Vec::new(), ..same.clone() }));
    assert!(!kept.fits(&StickTable { key: StickKey::Path, ..same }));
    kept.update(&client(1), &[Update::Count(Event::Gpc0)], 0);
    assert_eq!(kept.value(&client(1), StickCounter::Gpc0, EXPIRE), 0);
    kept.set_expire(Duration::from_secs(9));
    assert_eq!(kept.value(&client(1), StickCounter::Gpc0, EXPIRE), 1);
}
