//! What a choice costs: nanoseconds a pick, for each way to balance and so many servers.
//!
//! `pick [SERVERS…]`, 3, 30 and 1000 unless said. Sessions are counted as the proxy counts them, and end in the order in which
//! they began, two for each server later. Counting them and hashing a number are part of the time, which is the
//! thread's on its processor: what else runs there doesn't count.

use std::collections::VecDeque;
use std::hint::black_box;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use proxy_core::balance::{Balancer, Pick, Sessions, Standing, Wanted, Warmth, hash};
use proxy_core::plan::{Balance, HashOf, Hashing, Server};

/// How long each is tried.
const FOR: Duration = Duration::from_millis(300);
/// Picks between two looks at the clock.
const ROUND: u64 = 1024;
/// Picks before: the slots of consistent hashing are filled as they are asked for.
const WARM_UP: u64 = 400 * ROUND;

fn main() {
    let asked: Vec<usize> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let counts = if asked.is_empty() { vec![3, 30, 1000] } else { asked };
    let by_uri = |hashing| Balance::Hash(HashOf::Uri, hashing);
    let ways = [
        ("round-robin", Balance::RoundRobin),
        ("static-round-robin", Balance::StaticRoundRobin),
        ("least-conn", Balance::LeastConn),
        ("first", Balance::First),
        ("random", Balance::Random),
        ("hash, map", by_uri(Hashing::Map)),
        ("hash, consistent", by_uri(Hashing::Consistent { bound: None })),
        ("hash, bound 125 %", by_uri(Hashing::Consistent { bound: Some(125) })),
    ];
    println!("ns a pick; after a change of the servers (µs)");
    print!("{:20}", "servers");
    counts.iter().for_each(|count| print!("{count:>20}"));
    println!();
    for (name, way) in &ways {
        print!("{name:20}");
        for count in &counts {
            let (pick, change) = measure(way, *count);
            print!("{:>20}", format!("{pick:.0} ({change:.1})"));
        }
        println!();
    }
}

/// Nanoseconds a pick, and microseconds for one after a change.
fn measure(way: &Balance, count: usize) -> (f64, f64) {
    let servers: Vec<Server> = (0..count).map(server).collect();
    let sessions: Vec<Sessions> = Sessions::of_each(count).take(count).collect();
    let mut balancer = Balancer::new(way, &servers, false, 0);
    let standing = |_, _| Standing { usable: true, percent: 100, warmth: Warmth::WHOLE };
    let mut taken = VecDeque::new();
    let (mut client, mut began) = (0_u64, used());
    while client <= WARM_UP || used() - began < FOR {
        if client == WARM_UP {
            began = used();
        }
        for _ in 0..ROUND {
            client += 1;
            balancer.follow(0, Instant::now, standing);
            let wanted = Wanted { hash: Some(hash::of(&client.to_le_bytes())), last: None, home: None };
            if let Pick::Server(server) = black_box(balancer.pick(wanted, None, |server| sessions[server].now()))
                && sessions[server].begin(u32::MAX)
            {
                taken.push_back(server);
            }
            if taken.len() > 2 * count
                && let Some(left) = taken.pop_front()
            {
                sessions[left].end();
            }
        }
    }
    let pick = (used() - began).as_nanos() as f64 / (client - WARM_UP) as f64;
    let (mut changes, began) = (0_u64, used());
    while used() - began < FOR / 3 {
        changes += 1;
        balancer.follow(changes, Instant::now, standing);
        black_box(balancer.pick(Wanted::default(), None, |server| sessions[server].now()));
    }
    (pick, (used() - began).as_nanos() as f64 / changes as f64 / 1000.0)
}

/// Processor time of this thread.
fn used() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("a thread may look at its own");
    let of = |time: nix::sys::time::TimeVal| Duration::from_micros(time.num_microseconds().unsigned_abs());
    of(usage.user_time()) + of(usage.system_time())
}

/// One of several weights, with room for what it may have to hold.
fn server(index: usize) -> Server {
    let weight = [1, 1, 1, 10, 100][index % 5];
    let address = SocketAddr::from(([192, 0, 2, 1], 80));
    Server { weight, max_connections: Some(1_000_000), ..Server::new(format!("server-{index}"), address) }
}
