//! What takes a server out and brings it back beside the plain checks: what clients meet with, what it says of itself,
//! and how checks behave at servers that flap or fall silent.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod data_support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use data_support::http::{Peer, get, serving, stage};
use data_support::{at, client, echo, echoes, listeners, nobody, plan, server, start, wait_for};
use proxy_core::plan::{AgentCheck, Check, Host, HttpProbe, Observe, OnError, Probe, SendProxy, Server};
use proxy_core::plane::{DataPlane, LogDescriptors};
use proxy_core::stats::{ServerState, ServerStats};

const SOON: Duration = Duration::from_millis(20);
/// Longer than any test: no check comes by itself after the first.
const NEVER: Duration = Duration::from_secs(600);

fn first(plane: &DataPlane) -> ServerStats {
    plane.stats().backends[0].servers[0].clone()
}

fn is(plane: &DataPlane, state: ServerState) -> bool {
    first(plane).state == state
}

fn observe(errors: u32, on_error: OnError) -> Option<Observe> {
    Some(Observe { errors, window: Duration::from_secs(60), on_error })
}

#[test]
fn a_server_that_answers_checks_and_fails_requests_is_taken_out() {
    let status = Arc::new(AtomicU16::new(200));
    let now = Arc::clone(&status);
    let (address, _) = serving(move |request, peer| {
        let status = if request.path() == "/health" { 200 } else { now.load(SeqCst) };
        peer.say(format!("HTTP/1.1 {status} Such\r\nContent-Length: 0\r\n\r\n"));
        true
    });
    let (front, plane) = stage(vec![at("only", address)], |plan| {
        plan.backends[0].check = Some(Check {
            probe: Probe::Http(HttpProbe { path: "/health".into(), ..HttpProbe::default() }),
            interval: NEVER,
            fast_interval: Some(SOON),
            // It is to be seen that it was down.
            down_interval: Some(NEVER),
            rise: 1,
            observe: observe(3, OnError::MarkDown),
            ..Check::default()
        });
    });
    wait_for("its first check", || is(&plane, ServerState::Up));
    let ask = || Peer::to(front).get("/").status();
    // 4xx, 501 and 505 are no fault of a server, and a good answer ends a row.
    for next in [500, 503, 404, 500, 500, 501, 502, 504, 505] {
        status.store(next, SeqCst);
        assert_eq!(ask(), next);
    }
    assert!(is(&plane, ServerState::Up));
    status.store(500, SeqCst);
    for _ in 0..3 {
        assert_eq!(ask(), 500);
    }
    wait_for("it to be down", || is(&plane, ServerState::Down));
    let report = first(&plane).last_check.unwrap();
    assert_eq!((report.ok, &*report.what), (false, "clients met with 3 errors in a row"));
    assert_eq!(ask(), 503);
    assert_eq!(plane.stats().backends[0].no_server, 1);
}

#[test]
fn checks_bring_back_what_clients_have_taken_out() {
    let (address, _) = serving(|request, peer| {
        let answers = request.path() == "/health";
        if answers {
            peer.say("HTTP/1.1 200 Fine\r\nContent-Length: 0\r\n\r\n");
        }
        answers
    });
    let (front, plane) = stage(vec![at("only", address)], |plan| {
        plan.backends[0].retries = 0;
        plan.backends[0].check = Some(Check {
            probe: Probe::Http(HttpProbe { path: "/health".into(), ..HttpProbe::default() }),
            interval: NEVER,
            down_interval: Some(Duration::from_millis(300)),
            rise: 1,
            fall: 2,
            observe: observe(2, OnError::FailCheck),
            ..Check::default()
        });
    });
    wait_for("its first check", || is(&plane, ServerState::Up));
    // Broken answers: it closes instead. Two errors are one failed check, and two of those take it down.
    wait_for("it to be down", || {
        Peer::to(front).say(get("/")).answer().unwrap();
        is(&plane, ServerState::Down)
    });
    assert!(plane.stats().backends[0].servers[0].response_errors >= 4);
    wait_for("its next check", || is(&plane, ServerState::Up));
}

#[test]
fn connects_that_fail_count_in_tcp_and_the_next_check_comes_soon() {
    let (healthy, checks) = server(echo);
    let (address, sockets) = listeners(1);
    let mut wanted = plan(address, vec![at("only", nobody())]);
    wanted.backends[0].check = Some(Check {
        port: Some(healthy.port()),
        // A server doesn't see a check that says nothing.
        send_proxy: Some(SendProxy::V1),
        interval: NEVER,
        fast_interval: Some(SOON),
        observe: observe(1, OnError::FastInterval),
        ..Check::default()
    });
    let plane = start(wanted, 1, sockets);
    // By then the check itself may have seen the connection, but not counted it.
    wait_for("its first check", || is(&plane, ServerState::Up));
    let before = checks.load(SeqCst);
    assert!(!echoes(&mut client(address)));
    wait_for("a further check", || checks.load(SeqCst) > before);
    assert!(is(&plane, ServerState::Up));
}

/// An echoing server on another address, where no agent is asked, and how many came.
fn elsewhere() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.2:0").unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            seen.fetch_add(1, SeqCst);
            thread::spawn(move || echo(stream));
        }
    });
    (address, count)
}

/// An agent that says the line in the cell, after it has heard what it is to be sent.
fn agent(greeting: &'static str) -> (SocketAddr, Arc<Mutex<String>>) {
    let line = Arc::new(Mutex::new("up 100%\n".to_owned()));
    let now = Arc::clone(&line);
    let (address, _) = server(move |mut stream| {
        let mut heard = vec![0; greeting.len()];
        if stream.read_exact(&mut heard).is_ok() && heard == greeting.as_bytes() {
            let line = now.lock().unwrap().clone();
            let _ = stream.write_all(line.as_bytes());
        }
    });
    (address, line)
}

#[test]
fn a_server_says_itself_what_it_can_take() {
    let (echoing, _) = server(echo);
    let (spare, spared) = elsewhere();
    let (agent, line) = agent("hello\n");
    let (address, sockets) = listeners(1);
    let mut wanted = plan(address, vec![at("only", echoing), at("spare", spare)]);
    wanted.backends[0].servers[0].weight = 10;
    wanted.backends[0].servers[1].backup = true;
    wanted.backends[0].agent_check = Some(AgentCheck {
        address: None,
        port: agent.port(),
        send: "hello\n".into(),
        interval: SOON,
        timeout: Duration::from_secs(5),
    });
    let mut plane = start(wanted.clone(), 1, sockets);
    let says = |plane: &DataPlane, words: &str, state, weight| {
        *line.lock().unwrap() = words.to_owned();
        wait_for(words, || {
            let server = first(plane);
            (server.state, server.weight) == (state, weight)
        });
    };
    says(&plane, "up 100%\n", ServerState::Up, 10);
    says(&plane, "75%\r\n", ServerState::Up, 8);
    says(&plane, "0%\n", ServerState::Drain, 0);
    says(&plane, "100%\n", ServerState::Up, 10);
    // A session at it goes on; new ones go elsewhere.
    let mut stays = client(address);
    assert!(echoes(&mut stays));
    for (words, state, weight) in [
        ("drain\n", ServerState::Drain, 0),
        ("maint # tonight\n", ServerState::Maintenance, 10),
        ("ready down\n", ServerState::Down, 10),
    ] {
        says(&plane, words, state, weight);
        let before = spared.load(SeqCst);
        assert!(echoes(&mut client(address)) && echoes(&mut stays), "{words}");
        assert_eq!(spared.load(SeqCst), before + 1, "{words}");
    }
    // What means nothing changes nothing, and is said.
    *line.lock().unwrap() = "what?\n".into();
    let agent = |plane: &DataPlane| first(plane).agent.unwrap_or_default();
    wait_for("its words", || agent(&plane) == "said `what?`, which means nothing");
    assert!(is(&plane, ServerState::Down));
    // Without the check nothing is left of what it said.
    wanted.backends[0].agent_check = None;
    plane.apply(wanted, Vec::new(), &[], LogDescriptors::new()).unwrap();
    wait_for("the apply", || is(&plane, ServerState::Up));
    assert_eq!(first(&plane).agent, None);
}

#[test]
fn an_agent_that_is_not_there_changes_nothing() {
    let (echoing, _) = server(echo);
    let (address, sockets) = listeners(1);
    let mut wanted = plan(address, vec![at("only", echoing)]);
    let agent_check = AgentCheck {
        address: None,
        port: nobody().port(),
        send: String::new(),
        interval: SOON,
        timeout: Duration::from_secs(5),
    };
    wanted.backends[0].agent_check = Some(agent_check);
    let plane = start(wanted, 1, sockets);
    wait_for("why it said nothing", || first(&plane).agent.as_deref() == Some("connection refused"));
    assert!(is(&plane, ServerState::Up));
    assert!(echoes(&mut client(address)));
}

#[test]
fn a_flapping_server_changes_its_state_only_after_so_many_in_a_row() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    // Two bad answers, then a good one, for ever.
    let (address, _) = server(move |mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let status = if count.fetch_add(1, SeqCst).is_multiple_of(3) { 200 } else { 500 };
        let _ = write!(stream, "HTTP/1.1 {status} Such\r\n\r\n");
    });
    let (bind, sockets) = listeners(1);
    let mut wanted = plan(bind, vec![at("flaps", address)]);
    let probe = Probe::Http(HttpProbe::default());
    wanted.backends[0].check = Some(Check { probe, interval: Duration::from_millis(5), ..Check::default() });
    let plane = start(wanted, 1, sockets);
    wait_for("its first check", || asked.load(SeqCst) > 1);
    let since = first(&plane);
    wait_for("thirty checks", || asked.load(SeqCst) > 30);
    assert_eq!((since.state, first(&plane).state), (ServerState::Up, ServerState::Up));
}

#[test]
fn many_servers_that_accept_and_say_nothing_hold_up_no_other_check() {
    let (silent, accepted) = server(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let (good, _) = server(|mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 200 Fine\r\n\r\n");
    });
    let (bind, sockets) = listeners(1);
    let mut servers: Vec<Server> = (0..200).map(|number| at(&format!("silent{number}"), silent)).collect();
    servers.push(at("good", good));
    let mut wanted = plan(bind, servers);
    let probe = Probe::Http(HttpProbe::default());
    wanted.backends[0].check = Some(Check { probe, interval: SOON, timeout: NEVER, ..Check::default() });
    let plane = start(wanted, 1, sockets);
    wait_for("all to be asked", || accepted.load(SeqCst) == 200);
    wait_for("the good one", || plane.stats().backends[0].servers[200].state == ServerState::Up);
    assert!(is(&plane, ServerState::Checking));
}

#[test]
fn a_server_whose_name_has_no_address_is_down_and_says_why() {
    let (echoing, _) = server(echo);
    let (bind, sockets) = listeners(1);
    let mut wanted = plan(bind, vec![at("lost", SocketAddr::from(([0, 0, 0, 0], 80))), at("good", echoing)]);
    let problem = Some("`lost.test` has no address: no such name".to_owned());
    wanted.backends[0].servers[0].host = Some(Host { name: "lost.test".into(), problem: problem.clone() });
    // With a check and without one.
    let mut plane = start(wanted.clone(), 1, sockets);
    for check in [None, Some(Check { interval: SOON, ..Check::default() })] {
        wanted.backends[0].check = check;
        plane.apply(wanted.clone(), Vec::new(), &[], LogDescriptors::new()).unwrap();
        assert_eq!(
            (first(&plane).state, first(&plane).last_check.map(|check| check.what)),
            (ServerState::Down, problem.clone())
        );
        assert!((0..3).all(|_| echoes(&mut client(bind))));
    }
    // It has one now.
    wanted.backends[0].servers[0].address = echoing;
    plane.apply(wanted, Vec::new(), &[], LogDescriptors::new()).unwrap();
    wait_for("its first check", || is(&plane, ServerState::Up));
}

#[test]
fn a_server_that_is_not_to_be_checked_counts_as_up() {
    let (echoing, _) = server(echo);
    let (bind, sockets) = listeners(1);
    let mut wanted = plan(bind, vec![at("lost", nobody()), at("fallback", echoing)]);
    wanted.backends[0].servers[1].backup = true;
    // It fails at both.
    wanted.backends[0].check = Some(Check { port: Some(nobody().port()), interval: SOON, ..Check::default() });
    let mut plane = start(wanted.clone(), 1, sockets);
    let state = |plane: &DataPlane, wanted| {
        wait_for("its state", || plane.stats().backends[0].servers[1].state == wanted);
        plane.stats().backends[0].servers[1].last_check.is_some()
    };
    assert!(state(&plane, ServerState::Down));
    wanted.backends[0].servers[1].check = false;
    plane.apply(wanted.clone(), Vec::new(), &[], LogDescriptors::new()).unwrap();
    assert!(!state(&plane, ServerState::Up), "nothing is left of its checks");
    wait_for("the other one to be down", || is(&plane, ServerState::Down));
    assert!(echoes(&mut client(bind)));
    wanted.backends[0].servers[1].check = true;
    plane.apply(wanted, Vec::new(), &[], LogDescriptors::new()).unwrap();
    assert!(state(&plane, ServerState::Down));
}
