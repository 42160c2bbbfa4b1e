//! Which server a client gets: distribution, failing servers, limits and the queue, checks.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod data_support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use data_support::{Plane, at, client, echo, echoes, listeners, nobody, pace, plan, server, silent, start, wait_for};
use proxy_core::plan::{Balance, Check, HttpProbe, Probe};
use proxy_core::plane::{DataPlane, LogDescriptors};
use proxy_core::stats::ServerState;
use socket2::SockRef;

fn http_check() -> Check {
    Check {
        probe: Probe::Http(HttpProbe { path: "/health".into(), ..HttpProbe::default() }),
        interval: Duration::from_millis(20),
        timeout: Duration::from_millis(500),
        ..Check::default()
    }
}

/// A server that answers each request with the status that stands in the cell.
fn answering(status: u16) -> (SocketAddr, Arc<AtomicU16>) {
    let cell = Arc::new(AtomicU16::new(status));
    let now = Arc::clone(&cell);
    let (address, _) = server(move |mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = write!(stream, "HTTP/1.1 {} Whatever\r\n\r\n", now.load(SeqCst));
    });
    (address, cell)
}

/// A server that answers checks with the status that stands in the cell, and echoes to everybody else.
fn checked_echo(status: u16) -> (SocketAddr, Arc<AtomicU16>) {
    let cell = Arc::new(AtomicU16::new(status));
    let now = Arc::clone(&cell);
    let (address, _) = server(move |mut stream| {
        let mut first = [0];
        if stream.peek(&mut first).is_ok() && first == *b"G" {
            let _ = stream.read(&mut [0; 1024]);
            let _ = write!(stream, "HTTP/1.1 {} Whatever\r\n\r\n", now.load(SeqCst));
        } else {
            echo(stream);
        }
    });
    (address, cell)
}

#[test]
fn round_robin_shares_by_weight() {
    let (a, count_a) = server(echo);
    let (b, count_b) = server(echo);
    let (address, sockets) = listeners(2);
    let mut wanted = plan(address, vec![at("a", a), at("b", b)]);
    wanted.backends[0].servers[0].weight = 3;
    let _plane = start(wanted, 2, sockets);
    for _ in 0..80 {
        assert!(echoes(&mut client(address)));
    }
    let shares = (count_a.load(SeqCst), count_b.load(SeqCst));
    assert!(shares.0.abs_diff(60) <= 3 && shares.0 + shares.1 == 80, "{shares:?}");
}

#[test]
fn least_conn_counts_the_sessions_of_all_workers() {
    let (a, _) = server(echo);
    let (b, _) = server(echo);
    let (address, sockets) = listeners(2);
    let mut wanted = plan(address, vec![at("a", a), at("b", b)]);
    wanted.backends[0].balance = Balance::LeastConn;
    let plane = start(wanted, 2, sockets);
    let mut open = Vec::new();
    for _ in 0..40 {
        open.push(client(address));
        assert!(echoes(open.last_mut().unwrap()));
    }
    let stats = plane.stats();
    assert!(stats.workers.iter().all(|worker| worker.sessions > 0), "{:?}", stats.workers);
    assert_eq!((stats.backends[0].servers[0].sessions, stats.backends[0].servers[1].sessions), (20, 20));
}

#[test]
fn the_last_retry_goes_to_another_server() {
    let (good, _) = server(echo);
    let (address, sockets) = listeners(1);
    let mut wanted = plan(address, vec![at("dead", nobody()), at("good", good)]);
    wanted.backends[0].retries = 2;
    wanted.backends[0].redispatch = true;
    let plane = start(wanted, 1, sockets);
    assert!(echoes(&mut client(address)));
    let backend = &plane.stats().backends[0];
    assert_eq!((backend.retries, backend.redispatches, backend.servers[0].connect_errors), (2, 1, 2));
}

#[test]
fn a_server_that_does_not_answer_costs_one_connect_timeout() {
    let (silent, _held) = silent();
    let (address, sockets) = listeners(1);
    let plane = start(plan(address, vec![at("silent", silent)]), 1, sockets);
    let began = Instant::now();
    assert!(!echoes(&mut client(address)));
    let took = began.elapsed();
    assert!((Duration::from_millis(90)..Duration::from_secs(3)).contains(&took), "{took:?}");
    assert_eq!(plane.stats().backends[0].servers[0].connect_errors, 1);
}

#[test]
fn a_full_server_makes_clients_wait_until_a_session_ends_or_the_queue_timeout() {
    let (only, _) = server(echo);
    let (address, sockets) = listeners(2);
    let mut wanted = plan(address, vec![at("only", only)]);
    wanted.backends[0].servers[0].max_connections = Some(1);
    wanted.backends[0].queue_timeout = Duration::from_millis(600);
    let plane = start(wanted, 2, sockets);
    let mut first = client(address);
    assert!(echoes(&mut first));
    let mut second = client(address);
    wait_for("the queue", || plane.stats().backends[0].queue == 1);
    drop(first);
    assert!(echoes(&mut second));
    let mut third = client(address);
    assert!(!echoes(&mut third), "nobody left in time");
    let stats = plane.stats();
    assert_eq!((stats.backends[0].queue_timeouts, stats.backends[0].queue, stats.frontends[0].denied), (1, 0, 1));
    assert!(echoes(&mut second));
}

/// A plane whose only server has one place, and the client that holds it.
fn one_place(check: Option<Check>) -> (SocketAddr, Plane, TcpStream) {
    let (only, _) = server(echo);
    let (address, sockets) = listeners(2);
    let mut wanted = plan(address, vec![at("only", only)]);
    wanted.backends[0].servers[0].max_connections = Some(1);
    wanted.backends[0].check = check;
    let plane = start(wanted, 2, sockets);
    let mut holder = client(address);
    assert!(echoes(&mut holder));
    (address, plane, holder)
}

fn queue(plane: &DataPlane) -> u32 {
    plane.stats().backends[0].queue
}

#[test]
fn a_client_that_leaves_the_queue_gives_its_turn_back() {
    let (address, plane, holder) = one_place(None);
    let silent = client(address);
    wait_for("the first to queue", || queue(&plane) == 1);
    let mut talker = client(address);
    talker.write_all(b"hello").unwrap();
    wait_for("the second to queue", || queue(&plane) == 2);
    let mut patient = client(address);
    wait_for("the third to queue", || queue(&plane) == 3);
    drop(silent);
    wait_for("the silent one's place in the queue", || queue(&plane) == 2);
    SockRef::from(&talker).set_linger(Some(Duration::ZERO)).unwrap();
    drop(talker);
    wait_for("the reset one's place in the queue", || queue(&plane) == 1);
    drop(holder);
    assert!(echoes(&mut patient));
    let stats = plane.stats();
    assert_eq!((stats.backends[0].queue_left, stats.backends[0].servers[0].total), (2, 2));
}

#[test]
fn a_client_that_has_said_all_keeps_its_turn() {
    let (address, plane, holder) = one_place(None);
    let mut asking = client(address);
    asking.write_all(b"question").unwrap();
    asking.shutdown(Shutdown::Write).unwrap();
    wait_for("the queue", || queue(&plane) == 1);
    // It would have left by the time that a later one did.
    drop(client(address));
    wait_for("the later one to leave", || plane.stats().backends[0].queue_left == 1);
    drop(holder);
    let mut answer = String::new();
    asking.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "question");
}

#[test]
fn clients_in_the_queue_are_answered_when_the_last_server_goes_down() {
    let (checked, status) = answering(200);
    let check = Check { port: Some(checked.port()), fall: 1, ..http_check() };
    let (address, plane, mut holder) = one_place(Some(check));
    let waiting: Vec<_> = (0..20).map(|_| client(address)).collect();
    wait_for("the queue", || queue(&plane) == 20);
    status.store(503, SeqCst);
    wait_for("an empty queue", || queue(&plane) == 0);
    for mut stream in waiting {
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    assert_eq!(plane.stats().backends[0].no_server, 20);
    assert!(echoes(&mut holder), "a session at a server that is down goes on");
}

#[test]
fn a_full_frontend_leaves_clients_in_the_kernels_queue_over_all_workers() {
    let (only, _) = server(echo);
    let (address, sockets) = listeners(2);
    let mut wanted = plan(address, vec![at("only", only)]);
    wanted.frontends[0].max_connections = Some(2);
    let plane = start(wanted, 2, sockets);
    let mut streams: Vec<_> = (0..2).map(|_| client(address)).collect();
    assert!(streams.iter_mut().all(echoes));
    // Each in a thread of its own: whichever is let in must not wait for one that isn't.
    let waiting: Vec<_> =
        (0..8).map(|_| client(address)).map(|mut stream| std::thread::spawn(move || echoes(&mut stream))).collect();
    assert_eq!(plane.stats().sessions, 2);
    drop(streams);
    assert!(waiting.into_iter().all(|waiting| waiting.join().unwrap()));
    assert_eq!(plane.stats().frontends[0].denied, 0);
}

#[test]
fn checks_take_a_server_down_and_bring_it_up_and_an_apply_keeps_its_state() {
    let (main, status) = answering(503);
    let (spare, spared) = server(echo);
    let (address, sockets) = listeners(1);
    let mut wanted = plan(address, vec![at("main", main), at("spare", spare)]);
    wanted.backends[0].servers[1].backup = true;
    // The spare never answers HTTP: it is checked where the main server's answers are not read.
    wanted.backends[0].check = Some(Check { probe: Probe::Tcp, ..http_check() });
    let mut plane = start(wanted.clone(), 1, sockets);
    let state = |plane: &DataPlane| plane.stats().backends[0].servers[0].clone();
    wait_for("up by TCP", || state(&plane).state == ServerState::Up);

    let mut alone = wanted.clone();
    alone.backends[0].check = Some(http_check());
    alone.backends[0].servers.truncate(1);
    plane.apply(alone.clone(), Vec::new(), &[], LogDescriptors::new()).unwrap();
    wait_for("down by HTTP", || state(&plane).state == ServerState::Down);
    let report = state(&plane).last_check.unwrap();
    assert_eq!((report.ok, report.code, &*report.what), (false, Some(503), "got 503, expected 200-399"));
    assert!(!echoes(&mut client(address)));
    assert_eq!(plane.stats().backends[0].no_server, 1);

    // Down stays down over an apply that changes something else, and the added server is checked too.
    let mut with_spare = alone.clone();
    with_spare.backends[0].servers.push(wanted.backends[0].servers[1].clone());
    plane.apply(with_spare, Vec::new(), &[], LogDescriptors::new()).unwrap();
    wait_for("the apply", || plane.ready());
    assert_eq!(state(&plane).state, ServerState::Down);
    let before = spared.load(SeqCst);
    wait_for("a check of the spare", || spared.load(SeqCst) > before);

    status.store(204, SeqCst);
    wait_for("up again", || state(&plane).state == ServerState::Up);
}

#[test]
fn a_refused_check_says_so() {
    let (address, sockets) = listeners(1);
    let mut wanted = plan(address, vec![at("dead", nobody())]);
    wanted.backends[0].check = Some(http_check());
    let plane = start(wanted, 1, sockets);
    wait_for("the first result", || plane.stats().backends[0].servers[0].state == ServerState::Down);
    assert_eq!(plane.stats().backends[0].servers[0].last_check.clone().unwrap().what, "connection refused");
}

fn states(plane: &DataPlane) -> Vec<ServerState> {
    plane.stats().backends[0].servers.iter().map(|server| server.state).collect()
}

fn totals(plane: &DataPlane) -> Vec<u64> {
    plane.stats().backends[0].servers.iter().map(|server| server.total).collect()
}

#[test]
fn a_server_that_comes_up_takes_the_clients_from_the_queue() {
    let (full, _) = checked_echo(200);
    let (late, status) = checked_echo(503);
    let (address, sockets) = listeners(1);
    let mut wanted = plan(address, vec![at("full", full), at("late", late)]);
    wanted.backends[0].servers[0].max_connections = Some(1);
    wanted.backends[0].check = Some(http_check());
    let plane = start(wanted, 1, sockets);
    wait_for("the first results", || states(&plane) == [ServerState::Up, ServerState::Down]);
    let mut holder = client(address);
    assert!(echoes(&mut holder));
    let mut waiting: Vec<_> = (0..5).map(|_| client(address)).collect();
    wait_for("the queue", || queue(&plane) == 5);
    status.store(200, SeqCst);
    assert!(waiting.iter_mut().all(echoes));
    assert_eq!((queue(&plane), totals(&plane)), (0, vec![1, 5]));
}

#[test]
fn a_backup_serves_while_all_others_are_down_and_no_longer() {
    let (main, status) = checked_echo(200);
    let (spare, _) = checked_echo(200);
    let (address, sockets) = listeners(1);
    let mut wanted = plan(address, vec![at("main", main), at("spare", spare)]);
    wanted.backends[0].servers[1].backup = true;
    wanted.backends[0].check = Some(http_check());
    let plane = start(wanted, 1, sockets);
    wait_for("the first results", || states(&plane) == [ServerState::Up, ServerState::Up]);
    assert!(echoes(&mut client(address)));
    assert_eq!(totals(&plane), [1, 0]);
    status.store(500, SeqCst);
    wait_for("main to be down", || states(&plane) == [ServerState::Down, ServerState::Up]);
    let mut stays = client(address);
    assert!(echoes(&mut stays) && echoes(&mut client(address)));
    assert_eq!(totals(&plane), [1, 2]);
    status.store(200, SeqCst);
    wait_for("main to be up", || states(&plane) == [ServerState::Up, ServerState::Up]);
    assert!(echoes(&mut client(address)));
    assert_eq!(totals(&plane), [2, 2]);
    assert!(echoes(&mut stays), "a session at the backup goes on");
}

/// What a check says of a server that behaves like `serve`, and how many bytes the server could send at one check.
fn checked_against(serve: fn(&mut TcpStream, &AtomicUsize)) -> (String, usize) {
    let sent = Arc::new(AtomicUsize::new(0));
    let ended = Arc::new(AtomicBool::new(false));
    let (most, end) = (Arc::clone(&sent), Arc::clone(&ended));
    let (hostile, _) = server(move |mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let this = AtomicUsize::new(0);
        serve(&mut stream, &this);
        most.fetch_max(this.load(SeqCst), SeqCst);
        end.store(true, SeqCst);
    });
    let (address, sockets) = listeners(1);
    let mut wanted = plan(address, vec![at("hostile", hostile)]);
    wanted.backends[0].check = Some(Check { timeout: Duration::from_millis(150), ..http_check() });
    let plane = start(wanted, 1, sockets);
    let report = || plane.stats().backends[0].servers[0].last_check.clone();
    wait_for("the first result", || report().is_some());
    wait_for("the server to be let go", || ended.load(SeqCst));
    (report().unwrap().what, sent.load(SeqCst))
}

fn pour(stream: &mut TcpStream, sent: &AtomicUsize, bytes: &[u8]) {
    while let Ok(written) = stream.write(bytes) {
        sent.fetch_add(written, SeqCst);
    }
}

#[test]
fn hostile_answers_to_a_check_are_failures_that_cost_little() {
    type Case = (&'static str, fn(&mut TcpStream, &AtomicUsize), &'static str);
    let cases: [Case; 6] = [
        ("an endless first line", |stream, sent| pour(stream, sent, &[b'A'; 65536]), "not an HTTP/1 answer"),
        (
            "an endless reason",
            |stream, sent| {
                let _ = stream.write_all(b"HTTP/1.1 503 ");
                pour(stream, sent, &[b'A'; 65536]);
            },
            "got 503, expected 200-399",
        ),
        (
            "an endless header after a good status",
            |stream, sent| {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX: ");
                pour(stream, sent, &[b'A'; 65536]);
            },
            "got 200",
        ),
        ("binary", |stream, sent| pour(stream, sent, &[0, 255, 10, 13, 128]), "not an HTTP/1 answer"),
        (
            "a line that never ends, and silence",
            |stream, _| {
                let _ = stream.write_all(b"HTTP/1.1 200 O");
                let _ = stream.read(&mut [0]);
            },
            "no answer within 150ms",
        ),
        (
            "a byte at a time for ever",
            |stream, sent| {
                while stream.write(b"H").is_ok() {
                    sent.fetch_add(1, SeqCst);
                    pace(Duration::from_millis(5));
                }
            },
            "no answer within 150ms",
        ),
    ];
    for (name, serve, expected) in cases {
        let (what, sent) = checked_against(serve);
        assert_eq!(what, expected, "{name}");
        // What the kernel's buffers take; the check itself reads a kilobyte.
        assert!(sent < 16 << 20, "{name}: {sent} bytes were taken");
    }
}
