//! `on_marked_down = "shutdown-sessions"`: who is with a server that goes down is cut or moved at once, nobody else.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod data_support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use data_support::http::{NEVER, Peer, Seen, get, ok, scripted, serving, stage};
use data_support::{Plane, at, client, echo, echoes, listeners, plan, server, silent, start, wait_for};
use proxy_core::plan::{AgentCheck, Backend, Check, Host, HttpProbe, Plan, Probe};
use proxy_core::plane::LogDescriptors;
use proxy_core::stats::{ServerState, ServerStats};

const SOON: Duration = Duration::from_millis(20);

/// Its servers are asked for `/health` all the time, and cut.
fn cutting(backend: &mut Backend) {
    backend.cut_on_down = true;
    backend.check = Some(Check {
        probe: Probe::Http(HttpProbe { path: "/health".into(), ..HttpProbe::default() }),
        interval: SOON,
        rise: 1,
        fall: 1,
        ..Check::default()
    });
}

/// Sessions live as long as the test.
fn patient(bind: SocketAddr, servers: Vec<proxy_core::plan::Server>) -> Plan {
    let mut plan = plan(bind, servers);
    plan.frontends[0].client_timeout = NEVER;
    plan.backends[0].server_timeout = NEVER;
    plan
}

/// Answers checks as `up` says, and anything else with its own `name`, byte by byte.
fn named(name: u8) -> (SocketAddr, Arc<AtomicBool>, Arc<Seen>) {
    let up = Arc::new(AtomicBool::new(true));
    let now = Arc::clone(&up);
    let (address, seen) = scripted(move |peer| {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = peer.some(&mut buffer) {
            if buffer.starts_with(b"GET /health") {
                peer.say(format!("HTTP/1.1 {} Such\r\n\r\n", if now.load(SeqCst) { 200 } else { 503 }));
                return;
            }
            peer.say(vec![name; count]);
        }
    });
    (address, up, seen)
}

/// Which server is at the other end.
fn who(stream: &mut TcpStream) -> u8 {
    let mut name = [0];
    stream.write_all(b"?").unwrap();
    stream.read_exact(&mut name).unwrap();
    name[0]
}

/// How a silent session ends.
fn end(mut stream: TcpStream) -> Result<usize, ErrorKind> {
    stream.read(&mut [0]).map_err(|error| error.kind())
}

fn of(plane: &Plane, server: usize) -> ServerStats {
    plane.stats().backends[0].servers[server].clone()
}

#[test]
fn silent_sessions_of_a_server_that_goes_down_are_reset_on_all_workers_and_no_others() {
    const WORKERS: u16 = 4;
    let (a, a_is_up, a_seen) = named(b'a');
    let (b, ..) = named(b'b');
    let (address, sockets) = listeners(WORKERS);
    let mut wanted = patient(address, vec![at("a", a), at("b", b)]);
    cutting(&mut wanted.backends[0]);
    let plane = start(wanted, WORKERS, sockets);
    wait_for("both", || (0..2).all(|server| of(&plane, server).state == ServerState::Up));
    let streams: Vec<_> = (0..64).map(|_| client(address)).collect();
    let (at_a, mut at_b): (Vec<_>, Vec<_>) =
        streams.into_iter().partition(|stream| who(&mut stream_of(stream)) == b'a');
    let busy = plane.stats().workers.iter().filter(|worker| worker.sessions > 0).count();
    assert!(busy > 1 && !at_a.is_empty() && !at_b.is_empty(), "{busy} workers, {} and {}", at_a.len(), at_b.len());
    a_is_up.store(false, SeqCst);
    let count = at_a.len();
    for stream in at_a {
        assert_eq!(end(stream), Err(ErrorKind::ConnectionReset));
    }
    wait_for("the sessions' end", || of(&plane, 0).sessions == 0);
    assert_eq!((of(&plane, 0).cut_when_down, of(&plane, 1).cut_when_down), (count as u64, 0));
    assert!(at_b.iter_mut().all(|stream| who(stream) == b'b'));
    // The server heard of it, too: what is open there is checks, which come and go.
    wait_for("its end at the server", || a_seen.open() == 0);
}

/// A second handle, to talk through a shared reference.
fn stream_of(stream: &TcpStream) -> Box<TcpStream> {
    Box::new(stream.try_clone().unwrap())
}

#[test]
fn a_server_that_comes_back_cuts_nobody_and_falls_again() {
    let (a, a_is_up, _) = named(b'a');
    let (spare, ..) = named(b'b');
    let (address, sockets) = listeners(1);
    let mut wanted = patient(address, vec![at("a", a), at("b", spare)]);
    wanted.backends[0].servers[1].backup = true;
    cutting(&mut wanted.backends[0]);
    let plane = start(wanted, 1, sockets);
    let mut at_backup = Vec::new();
    for round in 1..=3 {
        wait_for("the server", || of(&plane, 0).state == ServerState::Up);
        assert!(at_backup.iter_mut().all(|stream| who(stream) == b'b'), "it went on at the backup");
        let mut stream = client(address);
        assert_eq!(who(&mut stream), b'a');
        a_is_up.store(false, SeqCst);
        assert_eq!(end(stream), Err(ErrorKind::ConnectionReset));
        let mut stream = client(address);
        assert_eq!(who(&mut stream), b'b');
        at_backup.push(stream);
        assert_eq!(of(&plane, 0).cut_when_down, round);
        a_is_up.store(true, SeqCst);
    }
}

#[test]
fn without_the_key_sessions_go_on_at_a_server_that_is_down() {
    let (a, a_is_up, _) = named(b'a');
    let (address, sockets) = listeners(1);
    let mut wanted = patient(address, vec![at("a", a)]);
    cutting(&mut wanted.backends[0]);
    wanted.backends[0].cut_on_down = false;
    let mut plane = start(wanted.clone(), 1, sockets);
    let mut stream = client(address);
    assert_eq!(who(&mut stream), b'a');
    // Who came before the key did stays.
    wanted.backends[0].cut_on_down = true;
    plane.apply(wanted, Vec::new(), &[], LogDescriptors::new()).unwrap();
    wait_for("the apply", || plane.ready());
    let late = client(address);
    assert_eq!(who(&mut stream_of(&late)), b'a');
    a_is_up.store(false, SeqCst);
    assert_eq!(end(late), Err(ErrorKind::ConnectionReset));
    assert_eq!((who(&mut stream), of(&plane, 0).cut_when_down), (b'a', 1));
}

#[test]
fn requests_are_sent_again_where_that_is_safe_and_cut_where_it_is_not() {
    let up = Arc::new(AtomicBool::new(true));
    let now = Arc::clone(&up);
    let (a, seen) = serving(move |request, peer| {
        match request.path() {
            "/health" if now.load(SeqCst) => drop(peer.say(ok(""))),
            "/health" => return false,
            "/half" => drop(peer.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")),
            "/chat" => drop(
                peer.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi"),
            ),
            "/idle" => drop(peer.say(ok("a"))),
            _ => {}
        }
        true
    });
    let (b, _) = serving(|_, peer| {
        peer.say(ok("b"));
        true
    });
    let (front, plane) = stage(vec![at("a", a), at("b", b)], |plan| {
        plan.backends[0].servers[1].backup = true;
        plan.backends[0].retries = 3;
        plan.backends[0].redispatch = true;
        cutting(&mut plan.backends[0]);
    });
    wait_for("the server", || of(&plane, 0).state == ServerState::Up);
    let [mut silent, mut unsafe_silent, mut half, mut chat, mut idle] = [(); 5].map(|()| Peer::to(front));
    silent.say(get("/silent"));
    unsafe_silent.say("POST /silent HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    half.say(get("/half"));
    assert!(half.head().unwrap().unwrap().starts_with("HTTP/1.1 200 ") && half.exactly(4).unwrap() == b"half");
    chat.say("GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert!(chat.answer().unwrap().status() == 101 && chat.exactly(2).unwrap() == b"hi");
    assert_eq!(idle.get("/idle").text(), "a");
    wait_for("all requests at the server", || {
        seen.requests().iter().filter(|request| request.ends_with("/silent")).count() == 2
    });
    up.store(false, SeqCst);
    assert_eq!(silent.answer().unwrap().text(), "b", "nobody had heard anything of an answer");
    assert_eq!(unsafe_silent.answer().unwrap().status(), 502);
    assert_eq!(half.end(), Err(ErrorKind::ConnectionReset));
    assert_eq!(chat.end(), Err(ErrorKind::ConnectionReset));
    assert_eq!(idle.get("/idle").text(), "b", "who asks for nothing is with no server");
    wait_for("the end of all", || of(&plane, 0).sessions == 0);
    let (first, backend) = (of(&plane, 0), plane.stats().backends[0].clone());
    assert_eq!((first.cut_when_down, first.response_errors), (4, 0));
    assert_eq!((backend.retries, backend.redispatches), (1, 1));
}

#[test]
fn what_a_server_says_of_itself_cuts_its_sessions_too() {
    let line = Arc::new(Mutex::new("up\n"));
    let said = Arc::clone(&line);
    let (agent, _) = server(move |mut stream| {
        let said = *said.lock().unwrap();
        let _ = stream.write_all(said.as_bytes());
    });
    let (echoing, _) = server(echo);
    let (address, sockets) = listeners(1);
    let mut wanted = patient(address, vec![at("only", echoing)]);
    wanted.backends[0].cut_on_down = true;
    wanted.backends[0].agent_check = Some(AgentCheck {
        address: None,
        port: agent.port(),
        send: String::new(),
        interval: SOON,
        timeout: Duration::from_secs(5),
    });
    let plane = start(wanted, 1, sockets);
    for words in ["down\n", "maint\n"] {
        *line.lock().unwrap() = "up ready\n";
        wait_for("the server", || of(&plane, 0).state == ServerState::Up);
        let mut stream = client(address);
        assert!(echoes(&mut stream));
        *line.lock().unwrap() = "drain\n";
        wait_for("the weight", || of(&plane, 0).state == ServerState::Drain);
        assert!(echoes(&mut stream), "who drains keeps whom it has");
        *line.lock().unwrap() = words;
        assert_eq!(end(stream), Err(ErrorKind::ConnectionReset), "{words}");
    }
    assert_eq!(of(&plane, 0).cut_when_down, 2);
}

#[test]
fn a_server_whose_name_has_lost_its_address_is_down_for_whom_it_has() {
    let (echoing, _) = server(echo);
    let (address, sockets) = listeners(1);
    let mut wanted = patient(address, vec![at("lost", echoing), at("other", echoing)]);
    wanted.backends[0].cut_on_down = true;
    wanted.backends[0].servers[0].host = Some(Host { name: "lost.test".into(), problem: None });
    let mut plane = start(wanted.clone(), 1, sockets);
    let (mut first, mut second) = (client(address), client(address));
    assert!(echoes(&mut first) && echoes(&mut second));
    assert_eq!((of(&plane, 0).sessions, of(&plane, 1).sessions), (1, 1));
    wanted.backends[0].servers[0].address = SocketAddr::from(([0, 0, 0, 0], 80));
    plane.apply(wanted, Vec::new(), &[], LogDescriptors::new()).unwrap();
    assert_eq!(end(first), Err(ErrorKind::ConnectionReset));
    assert!(echoes(&mut second));
}

#[test]
fn who_is_still_being_connected_goes_to_another_server_or_nowhere() {
    for other in [true, false] {
        let (deaf, _held) = silent();
        let (echoing, _) = server(echo);
        let (address, sockets) = listeners(1);
        let mut wanted = patient(address, vec![at("lost", deaf), at("other", echoing)]);
        let backend = &mut wanted.backends[0];
        backend.servers[1].backup = true;
        backend.servers.truncate(1 + usize::from(other));
        (backend.cut_on_down, backend.redispatch, backend.retries) = (true, true, 3);
        backend.connect_timeout = NEVER;
        backend.servers[0].host = Some(Host { name: "lost.test".into(), problem: None });
        let mut plane = start(wanted.clone(), 1, sockets);
        let mut stream = client(address);
        stream.write_all(b"x").unwrap();
        wait_for("the connect", || of(&plane, 0).sessions == 1);
        wanted.backends[0].servers[0].address = SocketAddr::from(([0, 0, 0, 0], 80));
        plane.apply(wanted, Vec::new(), &[], LogDescriptors::new()).unwrap();
        let heard = stream.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(heard, if other { Ok(1) } else { Err(ErrorKind::ConnectionReset) });
        assert_eq!(plane.stats().backends[0].redispatches, u64::from(other));
    }
}
