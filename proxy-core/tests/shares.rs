//! What each server gets of what is really asked, through sockets and several workers: by weight, while one starts
//! slowly, and by who has the fewest sessions.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod data_support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use data_support::http::{Peer, get, ok, serving, web};
use data_support::{Plane, at, client, echo, listeners, plan, server, start, wait_for};
use proxy_core::plan::{Balance, Check, HttpProbe, Probe, Server};
use proxy_core::stats::ServerState;

const WORKERS: u16 = 4;
const REQUESTS: usize = 100_000;

/// Says its name and nothing else, to any number of requests at once, all of which are the same.
fn name_sayer(name: char, request: usize) -> Server {
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{name}");
    let (address, _) = server(move |mut stream| {
        let (mut bytes, mut have) = ([0; 16 * 1024], 0);
        while let Ok(read @ 1..) = stream.read(&mut bytes) {
            have += read;
            let answers = answer.repeat(have / request);
            have %= request;
            if stream.write_all(answers.as_bytes()).is_err() {
                return;
            }
        }
    });
    at(&name.to_string(), address)
}

/// How many of so many requests, all said at once, each of `names` answered.
fn ask(to: SocketAddr, count: usize, names: &str) -> Vec<usize> {
    let mut stream = TcpStream::connect(to).unwrap();
    let mut sender = stream.try_clone().unwrap();
    let sending = thread::spawn(move || sender.write_all(get("/").repeat(count).as_bytes()).unwrap());
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n";
    let mut answers = vec![0; count * (head.len() + 1)];
    stream.read_exact(&mut answers).unwrap();
    sending.join().unwrap();
    let mut counts = vec![0; names.len()];
    for answer in answers.chunks(head.len() + 1) {
        let (said, name) = answer.split_at(head.len());
        assert_eq!(said, head.as_bytes());
        counts[names.bytes().position(|one| one == name[0]).unwrap()] += 1;
    }
    counts
}

#[test]
fn a_hundred_thousand_requests_are_shared_by_weight() {
    let (address, sockets) = listeners(WORKERS);
    let request = forwarded_length();
    let weights = [("a", 1), ("b", 2), ("c", 5), ("d", 0), ("e", 12)];
    let servers = weights.iter().map(|(name, weight)| {
        let mut server = name_sayer(name.chars().next().unwrap(), request);
        server.weight = *weight;
        server
    });
    let plane = start(web(address, servers.collect()), WORKERS, sockets);
    let clients = 16;
    let askers: Vec<_> =
        (0..clients).map(|_| thread::spawn(move || ask(address, REQUESTS / clients, "abcde"))).collect();
    let mut met = vec![0; 5];
    for asker in askers {
        asker.join().unwrap().iter().zip(&mut met).for_each(|(count, met)| *met += count);
    }
    println!("{met:?}");
    assert_eq!(met.iter().sum::<usize>(), REQUESTS);
    for ((name, weight), met) in weights.iter().zip(&met) {
        let share = REQUESTS * usize::from(*weight) / 20;
        // Each worker has turns of its own, in which nobody is off by more than two.
        assert!(met.abs_diff(share) <= 2 * usize::from(WORKERS), "{name}: {met} instead of {share}");
    }
    // What is said of them is what they did.
    let stats = plane.stats();
    let counted: Vec<_> = stats.backends[0].servers.iter().map(|server| server.total as usize).collect();
    assert_eq!(counted, met);
    assert!(stats.workers.iter().filter(|worker| worker.accepted > 0).count() > 1, "one worker had them all");
}

/// Bytes of [`get`]'s request as a server gets it.
fn forwarded_length() -> usize {
    let (address, sockets) = listeners(1);
    let length = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let seen = Arc::clone(&length);
    let (one, _) = serving(move |request, peer| {
        seen.store(request.head.len(), SeqCst);
        peer.say(ok("x"));
        true
    });
    let _plane = start(web(address, vec![at("one", one)]), 1, sockets);
    Peer::to(address).get("/");
    length.load(SeqCst)
}

#[test]
fn a_server_that_starts_slowly_gets_what_it_has_grown_to() {
    const SLOW_START: Duration = Duration::from_secs(3);
    let (address, sockets) = listeners(1);
    let alive = Arc::new(AtomicBool::new(true));
    let checked = Arc::clone(&alive);
    let answerer = |name: &'static str, checked: Arc<AtomicBool>| {
        let (address, _) = serving(move |request, peer| {
            let well = request.path() != "/health" || checked.load(SeqCst);
            if well {
                peer.say(ok(name));
            }
            well
        });
        at(name, address)
    };
    let steady = Arc::new(AtomicBool::new(true));
    let mut wanted = web(address, vec![answerer("a", steady), answerer("b", checked)]);
    wanted.backends[0].slow_start = Some(SLOW_START);
    wanted.backends[0].check = Some(Check {
        probe: Probe::Http(HttpProbe { path: "/health".into(), ..HttpProbe::default() }),
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(5),
        rise: 1,
        fall: 1,
        ..Check::default()
    });
    let plane = start(wanted, 1, sockets);
    let await_state = |state| wait_for("the state", || plane.stats().backends[0].servers[1].state == state);
    await_state(ServerState::Up);
    alive.store(false, SeqCst);
    await_state(ServerState::Down);
    alive.store(true, SeqCst);
    await_state(ServerState::Up);
    let since = Instant::now();
    let mut asker = Peer::to(address);
    // In each quarter of the time, and afterwards: what it got, and what it should have.
    let (mut got, mut due, mut all) = ([0_u32; 5], [0_f64; 5], [0_u32; 5]);
    while since.elapsed() < SLOW_START + SLOW_START / 4 {
        let passed = since.elapsed().as_secs_f64() / SLOW_START.as_secs_f64();
        let part = ((passed * 4.0) as usize).min(4);
        let share = ((passed * 16.0).floor() / 16.0).clamp(1.0 / 16.0, 1.0);
        due[part] += share / (1.0 + share);
        all[part] += 1;
        got[part] += u32::from(asker.get("/").text() == "b");
    }
    println!("{got:?} of {all:?}, due {due:?}");
    for part in 0..5 {
        // A step may be seen late; each has its turns anew.
        let tolerance = 0.05 * f64::from(all[part]) + 8.0;
        assert!((f64::from(got[part]) - due[part]).abs() <= tolerance, "part {part}: {got:?} of {all:?}, due {due:?}");
    }
    // A share that doesn't grow would be within the tolerance of some of them, not of the first and the last.
    assert!(all.iter().all(|all| *all > 50), "too few to tell: {all:?}");
}

/// Says its name, then echoes.
fn greeter(name: char) -> Server {
    let (address, _) = server(move |mut stream| {
        if stream.write_all(&[name as u8]).is_ok() {
            echo(stream);
        }
    });
    at(&name.to_string(), address)
}

/// A plane whose servers have long sessions.
fn greeters(names: &str) -> (SocketAddr, Plane) {
    let (address, sockets) = listeners(WORKERS);
    let mut wanted = plan(address, names.chars().map(greeter).collect());
    wanted.backends[0].balance = Balance::LeastConn;
    wanted.frontends[0].client_timeout = data_support::http::NEVER;
    wanted.backends[0].server_timeout = data_support::http::NEVER;
    (address, start(wanted, WORKERS, sockets))
}

fn sessions(plane: &Plane) -> Vec<u32> {
    plane.stats().backends[0].servers.iter().map(|server| server.sessions).collect()
}

fn accepted(plane: &Plane) -> Vec<u64> {
    plane.stats().workers.iter().map(|worker| worker.accepted).collect()
}

/// Who greets; the worker has seen it all by then.
fn greeting(stream: &mut TcpStream) -> usize {
    let mut name = [0];
    loop {
        match stream.read_exact(&mut name) {
            Ok(()) => return usize::from(name[0] - b'a'),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn whoever_comes_goes_to_who_has_the_fewest_sessions_over_all_workers_however_they_arrive() {
    let (address, plane) = greeters("abcd");
    let mut held: Vec<(usize, TcpStream)> = Vec::new();
    let mut of_worker = vec![0; usize::from(WORKERS)];
    // Nearly all that stay are one worker's; of the others' most leave at once.
    for count in 0..240 {
        let (before, workers) = (sessions(&plane), accepted(&plane));
        let mut stream = client(address);
        let server = greeting(&mut stream);
        let fewest = *before.iter().min().unwrap();
        assert_eq!(before[server], fewest, "client {count} went to {server} of {before:?}");
        let worker = accepted(&plane).iter().zip(&workers).position(|(now, before)| now > before).unwrap();
        if worker == 0 || count % 16 == 0 {
            of_worker[worker] += 1;
            held.push((server, stream));
        } else {
            drop(stream);
        }
        // Some of one server's leave, all at once: the next ones are to make up for them.
        if count % 60 == 59 {
            held.retain(|(server, _)| *server != count / 60);
        }
        let here = |server| held.iter().filter(|(of, _)| *of == server).count() as u32;
        let expected: Vec<u32> = (0..4).map(here).collect();
        wait_for("those who left to be gone", || sessions(&plane) == expected);
    }
    println!("sessions by worker {of_worker:?}, by server {:?}", sessions(&plane));
    assert!(of_worker[0] > 2 * of_worker[1..].iter().sum::<usize>(), "{of_worker:?}");
}

#[test]
fn of_many_who_come_at_once_no_server_gets_more_than_the_workers_may_miss_of_each_other() {
    let (address, plane) = greeters("abcd");
    // Half of the servers have sessions already: whoever takes turns would keep that difference.
    let mut before: Vec<(usize, TcpStream)> = (0..40)
        .map(|_| {
            let mut stream = client(address);
            (greeting(&mut stream), stream)
        })
        .collect();
    before.retain(|(server, _)| *server > 1);
    wait_for("the others to be gone", || sessions(&plane) == [0, 0, 10, 10]);
    let clients: Vec<_> = (0..8)
        .map(|_| {
            thread::spawn(move || {
                let mut streams: Vec<TcpStream> = (0..50).map(|_| client(address)).collect();
                assert!(streams.iter_mut().all(|stream| greeting(stream) < 4));
                streams
            })
        })
        .collect();
    let held: Vec<_> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    let sessions = sessions(&plane);
    println!("{sessions:?}");
    assert_eq!(sessions.iter().sum::<u32>() as usize, before.len() + held.len());
    // Between its look and its take each worker may miss one choice of each other one.
    let uneven = sessions.iter().max().unwrap() - sessions.iter().min().unwrap();
    assert!(uneven <= u32::from(WORKERS), "{sessions:?}");
}
