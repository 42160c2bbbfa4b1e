//! Every way to choose: shares, what moves when a server goes, bounds, backups, limits, servers that grow.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::plan::{HashOf, Server};

const MAP: Balance = Balance::Hash(HashOf::Source, Hashing::Map);
const CONSISTENT: Balance = Balance::Hash(HashOf::Source, Hashing::Consistent { bound: None });
const BOUNDED: Balance = Balance::Hash(HashOf::Source, Hashing::Consistent { bound: Some(125) });

fn all() -> [Balance; 8] {
    let in_turn = [Balance::RoundRobin, Balance::StaticRoundRobin, Balance::LeastConn, Balance::First];
    let [a, b, c, d] = in_turn;
    [a, b, c, d, Balance::Random, MAP, CONSISTENT, BOUNDED]
}

/// A backend as the balancer of one worker sees it.
struct Group {
    servers: Vec<Server>,
    up: Vec<bool>,
    sessions: Vec<u32>,
    warmth: Vec<Warmth>,
    balancer: Balancer,
    changes: u64,
}

fn named(name: String, weight: u16) -> Server {
    let address = SocketAddr::from(([192, 0, 2, 1], 80));
    Server { weight, ..Server::new(name, address) }
}

impl Group {
    fn of(kind: &Balance, servers: Vec<Server>, all_backups: bool) -> Group {
        let count = servers.len();
        let balancer = Balancer::new(kind, &servers, all_backups, 0);
        let (up, sessions, warmth) = (vec![true; count], vec![0; count], vec![Warmth::WHOLE; count]);
        Group { servers, up, sessions, warmth, balancer, changes: 0 }
    }

    fn new(kind: &Balance, weights: &[u16]) -> Group {
        let servers = weights.iter().enumerate().map(|(index, weight)| named(format!("server-{index}"), *weight));
        Group::of(kind, servers.collect(), false)
    }

    fn pick_other(&mut self, wanted: Wanted, except: Option<usize>) -> Pick {
        self.changes += 1;
        self.pick_again(wanted, except)
    }

    /// Nothing but sessions has changed.
    fn pick_again(&mut self, wanted: Wanted, except: Option<usize>) -> Pick {
        let Group { up, sessions, warmth, balancer, changes, .. } = self;
        balancer.follow(*changes, Instant::now, |index, _| Standing {
            usable: up[index],
            percent: 100,
            warmth: warmth[index],
        });
        balancer.pick(wanted, except, |index| sessions[index])
    }

    fn pick(&mut self, client: u64) -> Pick {
        self.pick_again(by(client), None)
    }

    fn set_up(&mut self, server: usize, up: bool) {
        self.up[server] = up;
        self.changes += 1;
    }

    /// What each server gets of so many clients who stay.
    fn fill(&mut self, clients: u64) -> Vec<u32> {
        let before = self.sessions.clone();
        for client in 0..clients {
            let Pick::Server(server) = self.pick(client) else { panic!("somebody has room") };
            self.sessions[server] += 1;
        }
        self.sessions.iter().zip(before).map(|(now, before)| now - before).collect()
    }
}

/// A client like no other.
fn by(client: u64) -> Wanted {
    Wanted { hash: Some(hash::of(&client.to_be_bytes())), last: None, home: None }
}

fn server(name: &str) -> Server {
    named(name.into(), 1)
}

const PICKS: u64 = 100_000;

#[test]
fn shares_are_in_proportion_to_the_weights() {
    let cases: [&[u16]; 5] = [&[1, 1, 1], &[1, 2, 3, 4], &[256, 1, 16], &[100, 100, 0, 50], &[7; 20]];
    // In percent of a server's own share, beside five standard deviations of what chance does.
    let exact = [(Balance::RoundRobin, 0.0), (Balance::StaticRoundRobin, 0.0), (Balance::LeastConn, 0.1)];
    let by_chance = [(Balance::Random, 0.5), (MAP, 0.5), (CONSISTENT, 5.0), (BOUNDED, 25.0)];
    for weights in cases {
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        for (index, (kind, percent)) in exact.iter().chain(&by_chance).enumerate() {
            let got = Group::new(kind, weights).fill(PICKS);
            for (count, weight) in got.iter().zip(weights) {
                let share = f64::from(*weight) / total;
                let wanted = share * PICKS as f64;
                let chance =
                    if index < exact.len() { weights.len() as f64 } else { 5.0 * (wanted * (1.0 - share)).sqrt() };
                let slots = if index < exact.len() {
                    0.0
                } else {
                    5.0 * (share * (1.0 - share) / 65_536.0).sqrt() * PICKS as f64
                };
                let off = (f64::from(*count) - wanted).abs();
                assert!(off <= wanted * percent / 100.0 + chance + slots, "{kind:?} {weights:?}: {got:?}");
            }
        }
    }
}

#[test]
fn random_comes_near_to_the_fewest_sessions() {
    let got = Group::new(&Balance::Random, &[1; 100]).fill(PICKS);
    assert!(got.iter().all(|count| (990..=1010).contains(count)), "{got:?}");
}

#[test]
fn first_fills_one_server_after_the_other() {
    let mut group = Group::new(&Balance::First, &[1, 256, 1]);
    let servers = group.servers.iter().cloned().map(|server| Server { max_connections: Some(40), ..server });
    group = Group::of(&Balance::First, servers.collect(), false);
    assert_eq!(group.fill(50), [40, 10, 0]);
    group.sessions[0] = 39;
    assert_eq!(group.pick(0), Pick::Server(0));
    group.sessions = vec![40; 3];
    assert_eq!(group.pick(0), Pick::Full);
}

/// Where each of many clients goes, by name.
fn homes(group: &mut Group) -> Vec<String> {
    let homes = (0..PICKS).map(|client| match group.pick(client) {
        Pick::Server(server) => group.servers[server].name.clone(),
        other => panic!("{other:?}"),
    });
    homes.collect()
}

fn moved(before: &[String], after: &[String]) -> usize {
    before.iter().zip(after).filter(|(one, other)| one != other).count()
}

#[test]
fn only_the_clients_of_a_server_that_goes_move_and_they_come_back() {
    for weights in [&[1; 10][..], &[10, 20, 30, 40, 1]] {
        let mut group = Group::new(&CONSISTENT, weights);
        let before = homes(&mut group);
        group.set_up(3, false);
        let after = homes(&mut group);
        let own = before.iter().filter(|home| *home == "server-3").count();
        assert_eq!(moved(&before, &after), own, "nobody else moves");
        assert!(after.iter().all(|home| home != "server-3"));
        // To all others, by their weights.
        let total: u16 = weights.iter().sum::<u16>() - weights[3];
        for (index, weight) in weights.iter().enumerate().filter(|(index, _)| *index != 3) {
            let name = format!("server-{index}");
            let heirs = before.iter().zip(&after).filter(|(was, is)| *was == "server-3" && **is == name).count() as f64;
            let wanted = own as f64 * f64::from(*weight) / f64::from(total);
            assert!((heirs - wanted).abs() <= wanted * 0.25 + 150.0, "{name}: {heirs} for {wanted}");
        }
        group.set_up(3, true);
        assert_eq!(homes(&mut group), before);
    }
}

#[test]
fn a_weight_that_changes_moves_no_more_than_it_must() {
    let before = homes(&mut Group::new(&CONSISTENT, &[10, 10, 10]));
    let after = homes(&mut Group::new(&CONSISTENT, &[10, 10, 15]));
    let to_the_heavier = before.iter().zip(&after).filter(|(was, is)| was != is && *is == "server-2").count();
    let share = PICKS as f64 * (15.0 / 35.0 - 1.0 / 3.0);
    assert_eq!(moved(&before, &after), to_the_heavier);
    assert!((to_the_heavier as f64 - share).abs() < share * 0.1, "{to_the_heavier} for {share}");
}

#[test]
fn hashes_do_not_depend_on_the_order_of_the_servers_or_on_the_worker() {
    for kind in [MAP, CONSISTENT] {
        let mut group = Group::new(&kind, &[1, 2, 3, 256, 5]);
        let before = homes(&mut group);
        let servers: Vec<Server> = group.servers.iter().rev().cloned().collect();
        let mut other = Group::of(&kind, servers.clone(), false);
        other.balancer = Balancer::new(&kind, &servers, false, 3);
        assert_eq!(homes(&mut other), before, "{kind:?}");
    }
}

/// A node with another version, or after a restart, must find the same.
#[test]
fn hashes_are_those_of_every_other_build() {
    let of = |kind| {
        let mut group = Group::new(kind, &[1, 2, 3, 4]);
        (0..12)
            .map(|client| match group.pick(client) {
                Pick::Server(server) => char::from_digit(server as u32, 10).unwrap(),
                _ => '-',
            })
            .collect::<String>()
    };
    assert_eq!((of(&MAP), of(&CONSISTENT)), ("312220213220".into(), "331213232321".into()));
}

#[test]
fn no_server_gets_beyond_its_bound() {
    // All of it from one client: the worst that hashing meets.
    let mut group = Group::new(&BOUNDED, &[1, 1, 2]);
    for sessions in 1..=4000_u32 {
        let Pick::Server(server) = group.pick(7) else { panic!("there is room") };
        group.sessions[server] += 1;
        for (have, weight) in group.sessions.iter().zip([1, 1, 2]) {
            let most = (f64::from(sessions) * 1.25 * f64::from(weight) / 4.0).ceil();
            assert!(f64::from(*have) <= most, "{:?} after {sessions}", group.sessions);
        }
    }
}

proptest! {
    #[test]
    fn a_bound_holds_and_is_not_in_the_way(
        weights in proptest::collection::vec(1_u16..=256, 1..12),
        percent in 101_u16..=1000,
        clients in proptest::collection::vec(0_u64..40, 1..400),
    ) {
        let kind = Balance::Hash(HashOf::Source, Hashing::Consistent { bound: Some(percent) });
        let mut group = Group::new(&kind, &weights);
        let mut free = Group::new(&CONSISTENT, &weights);
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        for (before, client) in clients.iter().enumerate() {
            let Pick::Server(server) = group.pick(*client) else { panic!("there is room") };
            let most = |server: usize| {
                ((before as u64 + 1) * u64::from(percent) * u64::from(weights[server])).div_ceil(100 * total)
            };
            let Pick::Server(home) = free.pick(*client) else { panic!("there is room") };
            prop_assert!(server == home || u64::from(group.sessions[home]) >= most(home), "it had room at home");
            group.sessions[server] += 1;
            prop_assert!(u64::from(group.sessions[server]) <= most(server));
        }
    }

    #[test]
    fn turns_are_in_exact_proportion_to_the_weights(
        weights in proptest::collection::vec(1_u16..=256, 1..8),
        offset in 0_usize..8,
    ) {
        let total: u32 = weights.iter().map(|weight| u32::from(*weight)).sum();
        let mut group = Group::new(&Balance::RoundRobin, &weights);
        group.balancer = Balancer::new(&Balance::RoundRobin, &group.servers, false, offset);
        let wanted: Vec<u32> = weights.iter().map(|weight| u32::from(*weight)).collect();
        prop_assert_eq!(group.fill(u64::from(total)), wanted);
    }

    /// Whatever comes and goes: nobody gets what it can't take, and nobody waits while there is somebody.
    #[test]
    fn the_choice_is_always_a_right_one(
        kind in 0_usize..8,
        all_backups: bool,
        servers in proptest::collection::vec((0_u16..4, any::<bool>(), proptest::option::of(1_u32..4)), 1..6),
        steps in proptest::collection::vec((0_usize..6, any::<bool>(), 0_u32..5, any::<u64>(), proptest::option::of(0_usize..6)), 1..60),
    ) {
        let servers = servers.into_iter().enumerate().map(|(index, (weight, backup, max_connections))| Server {
            backup,
            max_connections,
            ..named(format!("s{index}"), weight)
        });
        let mut group = Group::of(&all()[kind], servers.collect(), all_backups);
        for (server, up, sessions, client, except) in steps {
            let server = server % group.servers.len();
            group.set_up(server, up);
            group.sessions[server] = sessions;
            let wanted = if client % 3 == 0 { Wanted::default() } else { by(client) };
            let usable = |backup: bool| {
                let is = |index: &usize| {
                    let config = &group.servers[*index];
                    group.up[*index] && config.weight > 0 && config.backup == backup && Some(*index) != except
                };
                (0..group.servers.len()).filter(is).collect::<Vec<_>>()
            };
            let mut serving = usable(false);
            if serving.is_empty() {
                serving = usable(true);
                serving.truncate(if all_backups { usize::MAX } else { 1 });
            }
            let has_room = |index: usize| group.servers[index].max_connections.is_none_or(|max| group.sessions[index] < max);
            let rooms: Vec<bool> = (0..group.servers.len()).map(has_room).collect();
            match group.pick_again(wanted, except) {
                Pick::Server(chosen) => prop_assert!(serving.contains(&chosen) && rooms[chosen]),
                Pick::Busy(chosen) => prop_assert!(wanted.hash.is_some() && serving.contains(&chosen) && !rooms[chosen]),
                Pick::Full => prop_assert!(!serving.is_empty() && serving.iter().all(|index| !rooms[*index])),
                Pick::Nobody => prop_assert!(serving.is_empty()),
            }
        }
    }
}

#[test]
fn backups_serve_only_while_no_other_is_usable_and_then_the_first_or_all() {
    for kind in &all() {
        let backup = |name| Server { backup: true, ..server(name) };
        let servers = vec![backup("a"), server("b"), backup("c")];
        let mut group = Group::of(kind, servers.clone(), false);
        assert_eq!(group.pick(1), Pick::Server(1));
        assert_eq!(group.pick_other(by(1), Some(1)), Pick::Server(0));
        group.set_up(1, false);
        assert_eq!(group.fill(20), [20, 0, 0], "{kind:?}");
        assert_eq!(group.pick_other(by(1), Some(0)), Pick::Server(2));
        group.set_up(0, false);
        assert_eq!(group.pick(1), Pick::Server(2));
        let mut group = Group::of(kind, servers, true);
        group.set_up(1, false);
        let got = group.fill(200);
        assert_eq!(got[0] + got[2], 200);
        assert_eq!(got[2] == 0, *kind == Balance::First, "{kind:?} {got:?}");
    }
}

#[test]
fn full_servers_are_waited_for_and_do_not_spill_to_backups() {
    for kind in &all() {
        let full = Server { max_connections: Some(1), ..server("a") };
        let mut group = Group::of(kind, vec![full, Server { backup: true, ..server("b") }], false);
        group.sessions[0] = 1;
        let waits = if [MAP, CONSISTENT].contains(kind) { Pick::Busy(0) } else { Pick::Full };
        assert_eq!(group.pick(1), waits, "{kind:?}");
        assert_eq!(group.pick_again(Wanted::default(), None), Pick::Full);
    }
}

#[test]
fn weight_zero_and_down_take_nothing() {
    for kind in &all() {
        let mut group = Group::new(kind, &[0, 1]);
        assert_eq!(group.fill(10), [0, 10]);
        group.set_up(1, false);
        assert_eq!(group.pick(1), Pick::Nobody);
        assert_eq!(Group::new(kind, &[]).pick(1), Pick::Nobody);
    }
}

#[test]
fn a_hashed_client_waits_for_its_server_unless_there_is_a_bound() {
    for kind in [MAP, CONSISTENT, BOUNDED] {
        let servers = ["a", "b", "c"].map(|name| Server { max_connections: Some(1), ..server(name) });
        let mut group = Group::of(&kind, servers.to_vec(), false);
        let Pick::Server(home) = group.pick(5) else { panic!("all are free") };
        group.sessions[home] = 1;
        match group.pick(5) {
            Pick::Busy(busy) => assert!(kind != BOUNDED && busy == home),
            Pick::Server(other) => assert!(kind == BOUNDED && other != home),
            other => panic!("{other:?}"),
        }
        assert!(matches!(group.pick_other(by(5), Some(home)), Pick::Server(other) if other != home));
    }
}

#[test]
fn a_redispatch_is_nobodys_turn() {
    let mut group = Group::new(&Balance::RoundRobin, &[1, 1]);
    for _ in 0..5 {
        assert_eq!(group.pick_again(Wanted::default(), None), Pick::Server(0));
        assert_eq!(group.pick_again(Wanted::default(), Some(0)), Pick::Server(1));
        assert_eq!(group.pick_again(Wanted::default(), None), Pick::Server(1));
    }
}

#[test]
fn who_has_nothing_to_hash_is_served_in_turn() {
    for kind in [MAP, CONSISTENT, BOUNDED] {
        let mut group = Group::new(&kind, &[1, 1, 1]);
        let order = [(); 4].map(|()| group.pick_again(Wanted::default(), None));
        assert_eq!(order, [0, 1, 2, 0].map(Pick::Server));
    }
}

#[test]
fn the_last_server_is_preferred_while_it_serves_and_has_room() {
    for kind in &all() {
        let limited = |name| Server { max_connections: Some(5), ..server(name) };
        let backup = Server { backup: true, ..server("d") };
        let mut group = Group::of(kind, vec![limited("a"), limited("b"), limited("c"), backup], false);
        let was_with = |last| Wanted { last: Some(last), ..by(1) };
        for last in 0..3 {
            assert_eq!(group.pick_again(was_with(last), None), Pick::Server(last), "{kind:?}");
        }
        assert_ne!(group.pick_again(was_with(3), None), Pick::Server(3), "a backup that isn't needed any more");
        assert_ne!(group.pick_again(was_with(9), None), Pick::Server(9), "a server that is gone");
        group.sessions[1] = 5;
        assert_ne!(group.pick_again(was_with(1), None), Pick::Server(1), "it is full");
        group.set_up(2, false);
        assert_ne!(group.pick_again(was_with(2), None), Pick::Server(2), "it is down");
    }
}

#[test]
fn a_server_that_came_up_grows_step_by_step_where_weights_are_followed() {
    let (began, slow_start) = (Instant::now(), Duration::from_secs(16));
    for kind in &all() {
        let servers = ["a", "b"].map(|name| Server { weight: 10, max_connections: Some(64), ..server(name) });
        let mut balancer = Balancer::new(kind, &servers, false, 0);
        let standing = |index: usize, now| Standing {
            usable: true,
            percent: 100,
            warmth: if index == 1 { Warmth::at(began, slow_start, now) } else { Warmth::WHOLE },
        };
        let mut shares = BTreeMap::new();
        for second in [0, 4, 8, 15, 16] {
            let now = began + Duration::from_secs(second) + Duration::from_millis(5);
            balancer.follow(1, || now, standing);
            let mut got = [0_u32; 2];
            for client in 0..17_000 {
                // Least-conn and random see what is there now; the others don't care below the limit.
                let sessions = got.map(|count| if matches!(kind, Balance::LeastConn) { count / 400 } else { 0 });
                let Pick::Server(server) = balancer.pick(by(client), None, |index| sessions[index]) else {
                    panic!("room")
                };
                got[server] += 1;
            }
            shares.insert(second, f64::from(got[1]) / 17_000.0);
            assert_eq!(
                balancer.limit(1),
                [(0, 4), (4, 16), (8, 32), (15, 60), (16, 64)].into_iter().find(|(at, _)| *at == second).unwrap().1
            );
            assert_eq!(balancer.limit(0), 64);
        }
        if !kind.follows_weights() {
            assert!(shares.values().all(|share| share == shares.values().next().unwrap()), "{kind:?} {shares:?}");
            continue;
        }
        // Of two that are drawn, or looked at, the lighter one seems the more loaded.
        if *kind == Balance::Random {
            assert!(shares.values().is_sorted() && shares[&0] < 0.1 && shares[&16] > 0.4, "{shares:?}");
            continue;
        }
        for (second, parts) in [(0, 1.0), (4, 4.0), (8, 8.0), (15, 15.0), (16, 16.0)] {
            let wanted = parts / (16.0 + parts);
            assert!((shares[&second] - wanted).abs() < 0.04, "{kind:?} at {second} s: {shares:?}");
        }
    }
}

#[test]
fn time_is_asked_for_only_while_a_server_grows() {
    let servers = [server("a"), server("b")];
    let mut balancer = Balancer::new(&Balance::RoundRobin, &servers, false, 0);
    let began = Instant::now();
    let growing = |index, now| Standing {
        usable: true,
        percent: 100,
        warmth: if index == 0 { Warmth::at(began, Duration::from_secs(16), now) } else { Warmth::WHOLE },
    };
    balancer.follow(1, || began, growing);
    balancer.follow(1, || began + Duration::from_millis(999), |_, _| panic!("nothing has changed"));
    balancer.follow(1, || began + Duration::from_secs(20), growing);
    balancer.follow(1, || panic!("nothing grows any more"), growing);
}
