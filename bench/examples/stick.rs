//! What a stick table costs: lookups and updates in a table of 1,000,000 addresses by all cores at once, and its memory.
//!
//! `cargo run --release -p bench --example stick [ENTRIES]` prints, for a table that only sticks and for one that counts,
//! bytes of memory an entry, and the nanoseconds of a lookup with an update behind it: the median, the 99th and the
//! 99.9th percentile, timed one by one, less what the clock itself takes.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use proxy_core::plan::{StickCounter, StickKey, StickTable};
use proxy_core::stick::{Event, Key, Table, Update};

const ROUNDS: u32 = 1_000_000;

fn main() {
    let entries = std::env::args().nth(1).and_then(|entries| entries.parse().ok()).unwrap_or(1_000_000);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let clock = clock();
    println!("{entries} entries, {threads} threads, the clock takes {clock} ns");
    let ten = Duration::from_secs(10);
    let counters = [StickCounter::ConnCur, StickCounter::ConnRate(ten), StickCounter::HttpReqRate(ten)];
    for (name, counters) in [("sticks", &[][..]), ("conn_cur and two rates", &counters[..])] {
        let before = resident();
        let definition = StickTable {
            name: "bench".into(),
            key: StickKey::Source { v4: 32, v6: 128 },
            // Parts of a table fill unevenly: a little more room keeps all of them.
            size: entries + entries / 16,
            expire: Duration::from_secs(3600),
            counters: counters.into(),
        };
        let table = Table::new(&definition).expect("there is the memory");
        let server = table.name("server");
        (0..entries).for_each(|number| {
            table.update(&client(number), &[Update::Server(server)], table.now());
        });
        let stats = table.stats(table.now());
        let bytes = (resident() - before) / u64::from(stats.entries.max(1));
        println!("{name}: {} entries, {} evicted, {bytes} bytes each", stats.entries, stats.evicted);
        let start = Barrier::new(threads);
        let mut all: Vec<u64> = thread::scope(|scope| {
            let run = |seed: usize| {
                let (table, start) = (&table, &start);
                move || {
                    start.wait();
                    rounds(table, entries, seed as u64, clock)
                }
            };
            let runs: Vec<_> = (1..=threads).map(|seed| scope.spawn(run(seed))).collect();
            runs.into_iter().flat_map(|run| run.join().expect("it doesn't panic")).collect()
        });
        all.sort_unstable();
        let at = |part: usize| all[(all.len() - 1) * part / 1000];
        println!("  lookup and update: p50 {} ns, p99 {} ns, p99.9 {} ns", at(500), at(990), at(999));
    }
}

/// Nanoseconds of each round.
fn rounds(table: &Table, entries: u32, seed: u64, clock: u64) -> Vec<u64> {
    let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let now = table.now();
    let mut took = Vec::with_capacity(ROUNDS as usize);
    for _ in 0..ROUNDS {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let key = client((random >> 20) as u32 % entries);
        let began = Instant::now();
        let server = table.server(&key, now);
        table.update(&key, &[Update::Count(Event::Request)], now);
        let nanoseconds = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        assert!(server.is_some() || table.stats(now).evicted > 0, "it is in the table");
        took.push(nanoseconds.saturating_sub(clock));
    }
    took
}

fn client(number: u32) -> Key {
    // Addresses as they come: near each other.
    Key::address(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number)), 32, 128)
}

/// What it takes to look at the clock twice.
fn clock() -> u64 {
    let mut all: Vec<u128> = (0..10_001).map(|_| Instant::now().elapsed().as_nanos()).collect();
    all.sort_unstable();
    u64::try_from(all[5_000]).unwrap_or(0)
}

/// Bytes of memory that this process has.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("a process may read its own");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).expect("it is there") * 1024
}
