//! Every way to choose a server, on real sockets and over several workers; servers that go and come under load.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod data_support;

#[path = "http2/client.rs"]
#[allow(dead_code, reason = "these tests use a part")]
mod client;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use data_support::http::{Gate, Peer, get, ok, serving, stage, web};
use data_support::{PATIENCE, Plane, at, client as connect, echo, listeners, plan, server, start, wait_for};
use proxy_core::plan::{Balance, Check, HashOf, Hashing, HttpProbe, Plan, Probe, Server};
use proxy_core::stats::ServerState;
use socket2::{Domain, Socket, Type};

const CONSISTENT: Hashing = Hashing::Consistent { bound: None };

/// A server that says its name, then echoes.
fn greeter(name: char) -> Server {
    let (address, _) = server(move |mut stream| {
        use std::io::Write as _;
        if stream.write_all(&[name as u8]).is_ok() {
            echo(stream);
        }
    });
    at(&name.to_string(), address)
}

/// A plane of two workers with greeters of these names.
fn greeters(names: &str, change: impl FnOnce(&mut Plan)) -> (SocketAddr, Plane) {
    let (address, sockets) = listeners(2);
    let mut plan = plan(address, names.chars().map(greeter).collect());
    change(&mut plan);
    (address, start(plan, 2, sockets))
}

/// Who greets.
fn greeting(client: &mut TcpStream) -> char {
    let mut name = [0];
    client.read_exact(&mut name).unwrap();
    name[0].into()
}

/// A client that comes from a certain address.
fn from(source: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

/// Where clients from many addresses go.
fn homes(to: SocketAddr) -> String {
    (1..=40).map(|last| greeting(&mut from(Ipv4Addr::new(127, 1, 2, last), to))).collect()
}

/// A server that answers with its name.
fn answerer(name: char) -> Server {
    let (address, _) = serving(move |_, peer| {
        peer.say(ok(&name.to_string()));
        true
    });
    at(&name.to_string(), address)
}

/// A server that answers with its name while `alive`, checks too, and else closes whatever comes.
fn mortal(name: char, alive: &Arc<AtomicBool>) -> Server {
    let alive = Arc::clone(alive);
    let (address, _) = serving(move |_, peer| {
        let well = alive.load(SeqCst);
        if well {
            peer.say(ok(&name.to_string()));
        }
        well
    });
    at(&name.to_string(), address)
}

fn check() -> Check {
    Check {
        probe: Probe::Http(HttpProbe { path: "/health".into(), ..HttpProbe::default() }),
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(5),
        rise: 1,
        fall: 1,
        ..Check::default()
    }
}

fn await_state(plane: &Plane, server: usize, state: ServerState) {
    wait_for("the server's state", || plane.stats().backends[0].servers[server].state == state);
}

#[test]
fn static_round_robin_shares_by_weight() {
    let (address, plane) = greeters("ab", |plan| {
        plan.backends[0].balance = Balance::StaticRoundRobin;
        plan.backends[0].servers[0].weight = 3;
    });
    for _ in 0..80 {
        greeting(&mut connect(address));
    }
    wait_for("the last session to be counted", || {
        plane.stats().backends[0].servers.iter().map(|one| one.total).sum::<u64>() == 80
    });
    let first = plane.stats().backends[0].servers[0].total;
    assert!(first.abs_diff(60) <= 3, "{first}");
}

#[test]
fn least_conn_is_right_over_all_workers() {
    let (address, sockets) = listeners(4);
    let mut wanted = plan(address, "abc".chars().map(greeter).collect());
    wanted.backends[0].balance = Balance::LeastConn;
    wanted.backends[0].servers[2].weight = 2;
    let plane = start(wanted, 4, sockets);
    let mut clients: Vec<TcpStream> = Vec::new();
    for count in 1..=80_u32 {
        clients.push(connect(address));
        greeting(clients.last_mut().unwrap());
        let sessions: Vec<u32> = plane.stats().backends[0].servers.iter().map(|server| server.sessions).collect();
        // Each worker knows of everybody's sessions: nobody is off by more than the one that rounding makes.
        let off = sessions.iter().zip([1, 1, 2]).map(|(have, weight)| have.abs_diff(count * weight / 4)).max();
        assert!(off <= Some(1), "{sessions:?} of {count}");
    }
    assert!(plane.stats().workers.iter().filter(|worker| worker.accepted > 0).count() >= 3, "one worker had them all");
}

#[test]
fn first_lets_the_later_servers_sleep() {
    let (address, plane) = greeters("abc", |plan| {
        plan.backends[0].balance = Balance::First;
        plan.backends[0].servers.iter_mut().for_each(|server| server.max_connections = Some(2));
    });
    let mut clients: Vec<_> = (0..5).map(|_| connect(address)).map(|mut one| (greeting(&mut one), one)).collect();
    assert_eq!(clients.iter().map(|(name, _)| *name).collect::<String>(), "aabbc");
    let (_, left) = clients.remove(0);
    drop(left);
    // The place is free when the worker has seen the end.
    wait_for("the place", || plane.stats().backends[0].servers[0].sessions == 1);
    assert_eq!(greeting(&mut connect(address)), 'a');
}

#[test]
fn random_uses_every_server() {
    let (address, _plane) = greeters("abc", |plan| plan.backends[0].balance = Balance::Random);
    let met: BTreeSet<char> = (0..100).map(|_| greeting(&mut connect(address))).collect();
    assert_eq!(met.len(), 3);
}

#[test]
fn an_address_goes_to_the_same_server_through_every_worker_and_every_node() {
    for hashing in [Hashing::Map, CONSISTENT] {
        let balanced =
            |names| greeters(names, |plan| plan.backends[0].balance = Balance::Hash(HashOf::Source, hashing));
        let (one, _one) = balanced("abcd");
        let (other, _other) = balanced("dbca");
        let before = homes(one);
        assert_eq!(before.chars().collect::<BTreeSet<_>>().len(), 4, "{before}");
        assert_eq!((homes(one), homes(other)), (before.clone(), before));
    }
}

#[test]
fn only_the_clients_of_a_server_that_goes_down_move_and_they_return() {
    let alive: Vec<_> = (0..4).map(|_| Arc::new(AtomicBool::new(true))).collect();
    let servers: Vec<Server> = "abcd".chars().zip(&alive).map(|(name, alive)| mortal(name, alive)).collect();
    let (address, plane) = stage(servers, |plan| {
        plan.backends[0].balance = Balance::Hash(HashOf::Uri, CONSISTENT);
        plan.backends[0].check = Some(check());
    });
    let mut asker = Peer::to(address);
    let mut homes = || (0..60).map(|path| asker.get(&format!("/{path}?{path}")).text().to_owned()).collect::<Vec<_>>();
    await_state(&plane, 1, ServerState::Up);
    let before = homes();
    alive[1].store(false, SeqCst);
    await_state(&plane, 1, ServerState::Down);
    let during = homes();
    for (was, is) in before.iter().zip(&during) {
        assert!(is != "b" && (was == is || was == "b"), "{before:?} {during:?}");
    }
    alive[1].store(true, SeqCst);
    await_state(&plane, 1, ServerState::Up);
    assert_eq!(homes(), before);
}

#[test]
fn requests_go_by_what_is_hashed_of_them_and_else_in_turn() {
    let ask = |asker: &mut Peer, path: &str, field: &str| {
        asker.say(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{field}\r\n\r\n")).answer().unwrap().text().to_owned()
    };
    let cases: [(HashOf, [&str; 3]); 3] = [
        (HashOf::Uri, ["/KEY?1", "/KEY", ""]),
        (HashOf::Header("X-User".into()), ["X-User: KEY", "x-user:KEY", "X-Other: a"]),
        (HashOf::Cookie("sid".into()), ["Cookie: sid=KEY", "Cookie: a=b; sid=KEY; sid=x", "Cookie: other=KEY"]),
    ];
    for (what, [one, same, without]) in cases {
        let (address, _plane) = stage("abcd".chars().map(answerer).collect(), |plan| {
            plan.backends[0].balance = Balance::Hash(what.clone(), Hashing::Map);
        });
        let mut asker = Peer::to(address);
        let mut with = |text: &str, key: u32| {
            let text = text.replace("KEY", &key.to_string());
            if what == HashOf::Uri { ask(&mut asker, &text, "X: y") } else { ask(&mut asker, "/", &text) }
        };
        let homes: Vec<String> = (0..30).map(|key| with(one, key)).collect();
        assert_eq!((0..30).map(|key| with(same, key)).collect::<Vec<_>>(), homes, "{what:?}");
        assert_eq!(homes.iter().collect::<BTreeSet<_>>().len(), 4, "{what:?}");
        if !without.is_empty() {
            assert_eq!((0..8).map(|_| with(without, 0)).collect::<String>(), "abcdabcd");
        }
    }
}

#[test]
fn a_bound_spreads_what_would_meet_at_one_server() {
    let (arrived, leave) = (Arc::new(Gate::default()), Arc::new(Gate::default()));
    let slow = |name: char| {
        let (arrived, leave) = (Arc::clone(&arrived), Arc::clone(&leave));
        let (address, _) = serving(move |_, peer| {
            arrived.arrive();
            leave.wait_for(1);
            peer.say(ok(&name.to_string()));
            true
        });
        at(&name.to_string(), address)
    };
    let (address, plane) = stage("abcd".chars().map(slow).collect(), |plan| {
        plan.backends[0].balance = Balance::Hash(HashOf::Uri, Hashing::Consistent { bound: Some(125) });
    });
    let mut askers: Vec<Peer> = (0..16).map(|_| Peer::to(address)).collect();
    for (index, asker) in askers.iter_mut().enumerate() {
        asker.say(get("/popular"));
        arrived.wait_for(index + 1);
        let most = ((index as u32 + 1) * 125).div_ceil(400);
        let sessions: Vec<u32> = plane.stats().backends[0].servers.iter().map(|server| server.sessions).collect();
        assert!(sessions.iter().all(|have| *have <= most), "{sessions:?}");
    }
    leave.arrive();
    let met: BTreeMap<String, u32> = askers.iter_mut().fold(BTreeMap::new(), |mut met, asker| {
        *met.entry(asker.answer().unwrap().text().to_owned()).or_default() += 1;
        met
    });
    assert!(met.len() == 4 && met.values().all(|count| *count <= 5), "{met:?}");
}

#[test]
fn a_client_that_hashes_to_a_full_server_waits_for_it_and_holds_up_nobody_else() {
    let (address, plane) = greeters("ab", |plan| {
        plan.backends[0].balance = Balance::Hash(HashOf::Source, Hashing::Map);
        plan.backends[0].servers.iter_mut().for_each(|server| server.max_connections = Some(1));
    });
    let sources = (1..=40).map(|last| Ipv4Addr::new(127, 1, 2, last));
    let mut by_home: BTreeMap<char, Vec<Ipv4Addr>> = BTreeMap::new();
    for source in sources {
        let mut one = from(source, address);
        by_home.entry(greeting(&mut one)).or_default().push(source);
        drop(one);
        wait_for("it to leave", || plane.stats().backends[0].servers.iter().all(|server| server.sessions == 0));
    }
    let at = |home, index: usize| from(by_home[&home][index], address);
    let mut holder = at('a', 0);
    greeting(&mut holder);
    let mut waiting = at('a', 1);
    wait_for("the queue", || plane.stats().backends[0].queue == 1);
    let mut other = at('b', 0);
    assert_eq!(greeting(&mut other), 'b', "there is room at another server for who belongs there");
    assert_eq!(plane.stats().backends[0].queue, 1);
    drop(holder);
    assert_eq!(greeting(&mut waiting), 'a');
}

#[test]
fn all_backups_serve_if_they_are_told_to() {
    let (address, _plane) = greeters("abc", |plan| {
        plan.backends[0].servers[0].weight = 0;
        plan.backends[0].servers[1..].iter_mut().for_each(|server| server.backup = true);
        plan.backends[0].all_backups = true;
    });
    let met: BTreeSet<char> = (0..20).map(|_| greeting(&mut connect(address))).collect();
    assert_eq!(met, ['b', 'c'].into());
}

#[test]
fn a_connection_stays_with_its_last_server_if_the_plan_says_so() {
    for prefer in [false, true] {
        let (address, plane) = stage("abc".chars().map(answerer).collect(), |plan| {
            plan.backends[0].prefer_last_server = prefer;
        });
        for _ in 0..3 {
            let mut asker = Peer::to(address);
            let met: BTreeSet<String> = (0..6).map(|_| asker.get("/").text().to_owned()).collect();
            assert_eq!(met.len(), if prefer { 1 } else { 3 });
        }
        let met = plane.stats().backends[0].servers.iter().filter(|server| server.total > 0).count();
        assert_eq!(met, 3, "each connection has one of its own");
    }
}

#[test]
fn the_streams_of_a_client_have_one_last_server() {
    let (address, _plane) = client::stage("abc".chars().map(answerer).collect(), |plan| {
        plan.backends[0].prefer_last_server = true;
    });
    client::play(async {
        let mut asker = client::Client::to(address).await;
        let first = asker.get("/").await.text().to_owned();
        for _ in 0..6 {
            assert_eq!(asker.get("/").await.text(), first);
        }
    });
}

#[test]
fn a_client_whose_private_connection_ended_goes_to_the_same_server() {
    // It says its name, and closes after each answer.
    let closing = |name: char| {
        let (address, _) = serving(move |_, peer| {
            peer.say(format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n{name}"));
            false
        });
        at(&name.to_string(), address)
    };
    let (address, _plane) = stage("abc".chars().map(closing).collect(), |_| {});
    let mut asker = Peer::to(address);
    let mut ask = |field: &str| {
        asker.say(format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n")).answer().unwrap().text().to_owned()
    };
    let first = ask("Authorization: NTLM x\r\n");
    assert_eq!([(); 4].map(|()| ask("")), [(); 4].map(|()| first.clone()));
}

#[test]
fn a_server_that_comes_back_starts_slowly_but_not_when_the_process_starts() {
    let alive: Vec<_> = (0..2).map(|_| Arc::new(AtomicBool::new(true))).collect();
    let servers: Vec<Server> = "ab".chars().zip(&alive).map(|(name, alive)| mortal(name, alive)).collect();
    let (address, plane) = stage(servers, |plan| {
        plan.backends[0].check = Some(check());
        plan.backends[0].slow_start = Some(Duration::from_secs(3600));
    });
    let mut asker = Peer::to(address);
    let mut share = || (0..170).filter(|_| asker.get("/").text() == "b").count();
    await_state(&plane, 0, ServerState::Up);
    await_state(&plane, 1, ServerState::Up);
    assert_eq!(share(), 85);
    assert_eq!(plane.stats().backends[0].servers[1].throttle, None);
    alive[1].store(false, SeqCst);
    await_state(&plane, 1, ServerState::Down);
    alive[1].store(true, SeqCst);
    await_state(&plane, 1, ServerState::Up);
    assert_eq!(share(), 10, "a sixteenth beside a whole");
    assert_eq!(plane.stats().backends[0].servers[1].throttle, Some(6));
}

#[test]
fn who_waits_for_a_server_that_grows_is_let_in_step_by_step() {
    let alive = Arc::new(AtomicBool::new(true));
    let (address, sockets) = listeners(2);
    let stays = Arc::new(Gate::default());
    let (held, checked) = (Arc::clone(&stays), Arc::clone(&alive));
    let (server, _) = serving(move |request, peer| {
        if request.path() == "/health" && !checked.load(SeqCst) {
            return false;
        }
        if request.path() != "/health" {
            held.wait_for(1);
        }
        peer.say(ok("x"));
        true
    });
    let mut wanted = web(address, vec![at("a", server)]);
    wanted.backends[0].check = Some(check());
    wanted.backends[0].slow_start = Some(Duration::from_secs(2));
    wanted.backends[0].servers[0].max_connections = Some(16);
    let plane = start(wanted, 2, sockets);
    await_state(&plane, 0, ServerState::Up);
    alive.store(false, SeqCst);
    await_state(&plane, 0, ServerState::Down);
    alive.store(true, SeqCst);
    await_state(&plane, 0, ServerState::Up);
    let mut askers: Vec<Peer> = (0..16).map(|_| Peer::to(address)).collect();
    askers.iter_mut().for_each(|asker| {
        asker.say(get("/"));
    });
    // Nobody leaves: only the growing limit lets them in.
    wait_for("some to wait", || plane.stats().backends[0].queue > 0);
    wait_for("all to be let in", || plane.stats().backends[0].servers[0].sessions == 16);
    stays.arrive();
    assert!(askers.iter_mut().all(|asker| asker.answer().unwrap().status() == 200));
}

/// What can be sent again is never lost with a server.
#[test]
fn no_request_fails_while_servers_go_down_and_come_up_under_load() {
    for balance in [Balance::RoundRobin, Balance::LeastConn, Balance::Hash(HashOf::Uri, CONSISTENT), Balance::Random] {
        let alive: Vec<_> = (0..3).map(|_| Arc::new(AtomicBool::new(true))).collect();
        let servers: Vec<Server> = "abc".chars().zip(&alive).map(|(name, alive)| mortal(name, alive)).collect();
        let (address, sockets) = listeners(2);
        let mut wanted = web(address, servers);
        let backend = &mut wanted.backends[0];
        (backend.retries, backend.redispatch, backend.check) = (3, true, Some(check()));
        backend.balance = balance.clone();
        let plane = start(wanted, 2, sockets);
        let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let askers: Vec<_> = (0..6)
            .map(|number| {
                let (over, asked) = (Arc::clone(&over), Arc::clone(&asked));
                thread::spawn(move || {
                    let mut wrong = Vec::new();
                    while !over.load(SeqCst) {
                        let mut asker = Peer::to(address);
                        for request in 0..20 {
                            match asker.say(get(&format!("/{number}/{request}"))).answer() {
                                Ok(answer) if answer.status() == 200 => {}
                                // A kept connection of ours may end between two requests: that loses none.
                                other => {
                                    wrong.push(format!("{other:?}"));
                                    break;
                                }
                            }
                            asked.fetch_add(1, SeqCst);
                        }
                    }
                    wrong
                })
            })
            .collect();
        for round in 0..6 {
            let (server, before) = (round % 3, asked.load(SeqCst));
            alive[server].store(false, SeqCst);
            await_state(&plane, server, ServerState::Down);
            wait_for("requests meanwhile", || asked.load(SeqCst) > before + 100);
            alive[server].store(true, SeqCst);
            await_state(&plane, server, ServerState::Up);
        }
        over.store(true, SeqCst);
        let wrong: Vec<String> = askers.into_iter().flat_map(|asker| asker.join().unwrap()).collect();
        assert!(wrong.is_empty(), "{balance:?}: {} of {}: {wrong:?}", wrong.len(), asked.load(SeqCst));
        wait_for("all sessions to end", || plane.stats().backends[0].servers.iter().all(|server| server.sessions == 0));
    }
}
