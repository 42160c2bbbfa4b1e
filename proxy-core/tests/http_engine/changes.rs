//! Plans that change under clients, and workers that drain: nobody's request fails.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use proxy_core::listener::{Listener, ListenerKey};
use proxy_core::plan::{Action, Bind, HeaderEdit, Mode, Plan};
use proxy_core::plane::LogDescriptors;

use crate::data_support::http::{Peer, get, http, numbering, ok, rule, scripted, serving, stage, web};
use crate::data_support::{Plane, at, client, echo, echoes, listeners, server, start, wait_for};

/// The plan after `number` changes.
fn changed(base: &Plan, number: u64) -> Plan {
    let mut plan = base.clone();
    plan.revision = number;
    let step = usize::try_from(number).unwrap();
    // Servers come, go, move in the order, and get other names.
    let servers = &mut plan.backends[0].servers;
    servers.rotate_left(step % 4);
    servers.truncate(1 + step % 3);
    if step % 5 == 0 {
        servers.iter_mut().for_each(|server| server.name += &format!("-{number}"));
    }
    // Rules as well.
    let set = HeaderEdit::Set("X-Step".into(), number.to_string());
    plan.frontends[0].rules = vec![rule("/nothing", Action::UseBackend(0))];
    if step % 2 == 0 {
        plan.frontends[0].rules.insert(0, rule("/", Action::EditRequest(set)));
    }
    plan.backends.push(proxy_core::plan::Backend { name: format!("new-{number}"), ..plan.backends[0].clone() });
    if step % 3 == 0 {
        plan.frontends[0].rules.push(rule("/", Action::UseBackend(1)));
    }
    plan
}

#[test]
fn a_hundred_plans_under_fifty_busy_clients_fail_no_request() {
    const CLIENTS: usize = 50;
    let servers: Vec<_> = (0..4)
        .map(|_| {
            serving(|request, peer| {
                peer.say(ok(request.path()));
                true
            })
        })
        .collect();
    let (front, sockets) = listeners(2);
    let base = web(front, servers.iter().enumerate().map(|(n, (server, _))| at(&n.to_string(), *server)).collect());
    let mut plane = start(base.clone(), 2, sockets);
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            thread::spawn(move || {
                let mut client = Peer::to(front);
                let mut asked = 0;
                while !stop.load(SeqCst) {
                    let path = format!("/{number}/{asked}");
                    let answer = client.get(&path);
                    assert_eq!((answer.status(), answer.text(), answer.says("close")), (200, &*path, false));
                    asked += 1;
                    done.fetch_add(1, SeqCst);
                }
            })
        })
        .collect();
    let mut extra: Option<Vec<ListenerKey>> = None;
    for number in 1..=100 {
        let mut plan = changed(&base, number);
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        // A second bind comes with every odd step, and goes with the next.
        if let Some(keys) = extra.take() {
            removed = keys;
        } else {
            let (address, sockets) = listeners(2);
            plan.frontends[0].binds.push(Bind { address, tls: None, accept_proxy: None });
            extra = Some(sockets.iter().map(|listener: &Listener| listener.key).collect());
            added = sockets;
        }
        plane.apply(plan, added, &removed, LogDescriptors::new()).unwrap();
        wait_for("the apply", || plane.ready());
        if let Some(keys) = &extra {
            assert_eq!(Peer::to(keys[0].address).get("/extra").status(), 200);
        }
        let before = done.load(SeqCst);
        wait_for("requests under this plan", || done.load(SeqCst) > before + 20);
    }
    stop.store(true, SeqCst);
    clients.into_iter().for_each(|client| client.join().unwrap());
    let stats = plane.stats();
    assert_eq!((stats.frontends[0].client_aborts, stats.frontends[0].bad_requests.len()), (0, 0));
    assert_eq!(stats.frontends[0].http.unwrap().responses.server_error, 0);
}

#[test]
fn a_client_of_a_removed_bind_is_told_with_its_next_answer() {
    let (server, _) = numbering();
    let (front, sockets) = listeners(1);
    let (other, others) = listeners(1);
    let keys: Vec<_> = others.iter().map(|listener| listener.key).collect();
    let mut plan = web(front, vec![at("a", server)]);
    plan.frontends[0].binds.push(Bind { address: other, tls: None, accept_proxy: None });
    let mut plane = start(plan.clone(), 1, sockets.into_iter().chain(others).collect());
    let (mut stays, mut told) = (Peer::to(front), Peer::to(other));
    assert!(!stays.get("/").says("close") && !told.get("/").says("close"));
    plan.frontends[0].binds.pop();
    plane.apply(plan, Vec::new(), &keys, LogDescriptors::new()).unwrap();
    wait_for("the apply", || plane.ready());
    let answer = told.get("/");
    assert_eq!((answer.status(), answer.says("close")), (200, true));
    assert_eq!(told.end(), Ok(()));
    assert!(!stays.get("/").says("close"));
}

#[test]
fn a_bind_that_speaks_another_protocol_from_now_on_ends_its_clients_gently() {
    let (web_server, _) = numbering();
    let (echo_server, _) = server(echo);
    let (front, sockets) = listeners(1);
    let mut plan = web(front, vec![at("a", web_server)]);
    let mut plane = start(plan.clone(), 1, sockets);
    let (mut idle, mut asking) = (Peer::to(front), Peer::to(front));
    assert_eq!((idle.get("/").status(), asking.get("/").status()), (200, 200));
    asking.say("GET / HTTP/1.1\r\n");
    let before = plan.frontends[0].mode.clone();
    plan.frontends[0].mode = Mode::Tcp;
    plan.backends[0].servers = vec![at("b", echo_server)];
    plane.apply(plan.clone(), Vec::new(), &[], LogDescriptors::new()).unwrap();
    wait_for("the apply", || plane.ready());
    let mut tcp = client(front);
    assert!(echoes(&mut tcp));
    // They came to HTTP, and are served by what there was.
    let answer = asking.say("Host: a\r\n\r\n").answer().unwrap();
    assert_eq!((answer.status(), answer.says("close")), (200, true));
    let answer = idle.get("/");
    assert_eq!((answer.status(), answer.says("close")), (200, true));
    // And back again.
    plan.frontends[0].mode = before;
    plan.backends[0].servers = vec![at("a", web_server)];
    plane.apply(plan, Vec::new(), &[], LogDescriptors::new()).unwrap();
    wait_for("the apply", || plane.ready());
    assert!(echoes(&mut tcp), "a TCP session goes on");
    assert_eq!(Peer::to(front).get("/").status(), 200);
}

/// Whether the clients inside hear of a drain in time; and the drain ends.
fn drains(plane: &Plane) {
    wait_for("the end of the drain", || plane.drained());
    assert_eq!(plane.stats().reset_by_drain, 0);
}

#[test]
fn a_drain_ends_idle_clients_within_a_second_or_so_and_lets_busy_ones_finish() {
    let go = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&go);
    let (server, seen) = serving(move |request, peer| {
        if request.path() == "/slow" {
            wait_for("the word", || told.load(SeqCst));
        }
        peer.say(ok(request.path()));
        true
    });
    let (front, plane) = stage(vec![at("a", server)], |_| {});
    let mut idle: Vec<_> = (0..20).map(|_| Peer::to(front)).collect();
    idle.iter_mut().for_each(|client| drop(client.get("/")));
    // One that never said anything.
    idle.push(Peer::to(front));
    let mut busy: Vec<_> = (0..3).map(|_| Peer::to(front)).collect();
    busy.iter_mut().for_each(|client| _ = client.say(get("/slow")));
    wait_for("all to be inside", || (plane.stats().sessions, seen.requests().len()) == (24, 23));
    let began = Instant::now();
    plane.drain(began + Duration::from_secs(60));
    // A request that was under way when the drain began is answered.
    let mut last = idle.remove(0);
    let answer = last.get("/last");
    assert_eq!((answer.status(), answer.text(), answer.says("close")), (200, "/last", true));
    assert_eq!(last.end(), Ok(()));
    for client in &mut idle {
        assert_eq!(client.end(), Ok(()));
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(!plane.drained());
    go.store(true, SeqCst);
    for client in &mut busy {
        let answer = client.answer().unwrap();
        assert_eq!((answer.text(), answer.says("close")), ("/slow", true));
        assert_eq!(client.end(), Ok(()));
    }
    drains(&plane);
}

#[test]
fn a_drain_that_begins_inside_an_answer_lets_it_end() {
    let go = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&go);
    let (server, _) = serving(move |_, peer| {
        peer.say("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nbef");
        wait_for("the word", || told.load(SeqCst));
        peer.say("ore");
        true
    });
    let (front, plane) = stage(vec![at("a", server)], |_| {});
    let mut client = Peer::to(front);
    let head = client.say(get("/")).head().unwrap().unwrap();
    assert!(!head.contains("close"));
    plane.drain(Instant::now() + Duration::from_secs(60));
    wait_for("the drain", || TcpStream::connect(front).is_err());
    go.store(true, SeqCst);
    assert_eq!(client.exactly(6).unwrap(), b"before");
    assert_eq!(client.end(), Ok(()));
    drains(&plane);
}

#[test]
fn an_answer_that_is_cut_at_the_deadline_of_a_drain_does_not_look_whole() {
    for head in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"] {
        let (server, _) = scripted(move |peer| {
            let _ = peer.head();
            let _ = peer.say(head).say("begun").rest();
        });
        let (front, plane) = stage(vec![at("a", server)], |_| {});
        let mut client = Peer::to(front);
        client.say(get("/")).head().unwrap();
        assert_eq!(client.exactly(5).unwrap(), b"begun");
        plane.drain(Instant::now());
        assert_eq!(client.end(), Err(ErrorKind::ConnectionReset), "{head}");
        wait_for("the end of the drain", || plane.drained());
        assert_eq!(plane.stats().reset_by_drain, 1);
    }
}

#[test]
fn a_shorter_timeout_of_a_new_plan_holds_for_who_is_inside() {
    let (server, _) = numbering();
    let (front, sockets) = listeners(1);
    let mut plan = web(front, vec![at("a", server)]);
    let mut plane = start(plan.clone(), 1, sockets);
    let mut inside = Peer::to(front);
    assert_eq!(inside.get("/").status(), 200);
    http(&mut plan).keep_alive_timeout = Duration::from_millis(200);
    plane.apply(plan, Vec::new(), &[], LogDescriptors::new()).unwrap();
    wait_for("the apply", || plane.ready());
    // From its next request on.
    assert_eq!(inside.get("/").status(), 200);
    assert_eq!(inside.end(), Ok(()));
}
