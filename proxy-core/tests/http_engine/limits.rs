//! Limits of frontends, servers and sources, and what those get that wait.

use std::io::ErrorKind;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proxy_core::plan::Action;
use socket2::{Domain, Socket, Type};

use crate::data_support::http::{NEVER, Peer, Seen, get, http, numbering, ok, rule, scripted, serving, stage, web};
use crate::data_support::{Plane, at, listeners, pace, silent, start, wait_for};

#[test]
fn a_full_frontend_leaves_clients_in_the_accept_queue_until_one_goes() {
    let (server, _) = numbering();
    let (front, plane) = stage(vec![at("a", server)], |plan| plan.frontends[0].max_connections = Some(2));
    let mut inside = [Peer::to(front), Peer::to(front)];
    assert!(inside.iter_mut().all(|client| client.get("/").status() == 200));
    let mut outside = Peer::to(front);
    outside.say(get("/"));
    // One inside goes on all the while.
    for _ in 0..20 {
        assert_eq!(inside[0].get("/").status(), 200);
    }
    assert_eq!(plane.stats().workers[0].accepted, 2);
    drop(inside);
    assert_eq!(outside.answer().unwrap().status(), 200);
}

/// A server with one place, that answers when it is told to; and who holds the place.
struct OnePlace {
    front: SocketAddr,
    plane: Plane,
    seen: Arc<Seen>,
    go: std::sync::mpsc::SyncSender<()>,
    holder: Peer,
}

fn one_place(abort_on_close: bool) -> OnePlace {
    let (go, told) = sync_channel(64);
    let told = Mutex::new(told);
    let (server, seen) = serving(move |request, peer| {
        let go = told.lock().unwrap().recv().is_ok();
        peer.say(ok(request.path()));
        go
    });
    let (front, plane) = stage(vec![at("a", server)], |plan| {
        plan.backends[0].servers[0].max_connections = Some(1);
        plan.backends[0].abort_on_close = abort_on_close;
    });
    let mut holder = Peer::to(front);
    holder.say(get("/holder"));
    wait_for("the place to be taken", || seen.requests().len() == 1);
    OnePlace { front, plane, seen, go, holder }
}

impl OnePlace {
    fn queue(&self) -> u32 {
        self.plane.stats().backends[0].queue
    }

    /// One more in the queue.
    fn joins(&self, path: &str) -> Peer {
        let before = self.queue();
        let mut client = Peer::to(self.front);
        client.say(get(path));
        wait_for("one more in the queue", || self.queue() == before + 1);
        client
    }
}

#[test]
fn the_queue_of_a_full_server_is_served_in_its_order() {
    let mut place = one_place(false);
    let mut clients: Vec<_> = (0..8).map(|number| place.joins(&format!("/{number}"))).collect();
    for _ in 0..9 {
        place.go.send(()).unwrap();
    }
    assert_eq!(place.holder.answer().unwrap().text(), "/holder");
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.answer().unwrap().text(), format!("/{number}"));
    }
    let expected: Vec<_> = (0..8).map(|number| format!("GET /{number}")).collect();
    assert_eq!(place.seen.requests()[1..], expected);
    // A place is a request's, not a connection's: those who keep theirs open and idle hold none.
    wait_for("the last place to be free", || place.plane.stats().backends[0].servers[0].sessions == 0);
}

#[test]
fn a_client_that_resets_leaves_the_queue_and_no_request_of_it_is_sent() {
    let mut place = one_place(false);
    let goes = place.joins("/goes");
    let mut stays = place.joins("/stays");
    goes.reset();
    wait_for("it to be gone", || place.queue() == 1);
    place.go.send(()).unwrap();
    place.go.send(()).unwrap();
    assert_eq!(place.holder.answer().unwrap().status(), 200);
    assert_eq!(stays.answer().unwrap().text(), "/stays");
    assert_eq!(place.seen.requests(), ["GET /holder", "GET /stays"]);
    assert_eq!(place.plane.stats().backends[0].queue_left, 1);
}

#[test]
fn a_client_that_has_said_all_keeps_its_turn() {
    let place = one_place(false);
    let mut asking = place.joins("/half");
    asking.stream().shutdown(Shutdown::Write).unwrap();
    // It would have left by the time that a later one did.
    place.joins("/later").reset();
    wait_for("the later one to leave", || place.plane.stats().backends[0].queue_left == 1);
    place.go.send(()).unwrap();
    place.go.send(()).unwrap();
    assert_eq!(asking.answer().unwrap().text(), "/half");
}

#[test]
fn with_abort_on_close_it_leaves_the_queue() {
    let mut place = one_place(true);
    let mut asking = place.joins("/half");
    asking.stream().shutdown(Shutdown::Write).unwrap();
    wait_for("it to be gone", || place.queue() == 0);
    assert_eq!(asking.end(), Ok(()));
    place.go.send(()).unwrap();
    assert_eq!(place.holder.answer().unwrap().status(), 200);
    assert_eq!(place.plane.stats().backends[0].queue_left, 1);
}

#[test]
fn a_tunnel_keeps_its_place_until_it_ends() {
    let (server, seen) = scripted(|peer| {
        let _ = peer.head();
        peer.say("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello");
        let _ = peer.rest();
    });
    let (front, plane) = stage(vec![at("a", server)], |plan| plan.backends[0].servers[0].max_connections = Some(1));
    let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    let mut first = Peer::to(front);
    first.say(upgrade);
    assert_eq!(first.answer().unwrap().status(), 101);
    assert_eq!(first.exactly(5).unwrap(), b"hello");
    let sessions = || plane.stats().backends[0].servers[0].sessions;
    assert_eq!(sessions(), 1);
    let mut second = Peer::to(front);
    second.say(upgrade);
    wait_for("the second to queue", || plane.stats().backends[0].queue == 1);
    assert_eq!(seen.connections(), 1);
    drop(first);
    assert_eq!(second.answer().unwrap().status(), 101);
    drop(second);
    wait_for("no tunnel", || sessions() == 0);
    // "hello", twice.
    let server = &plane.stats().backends[0].servers[0];
    assert!(server.bytes_out >= 10, "{}", server.bytes_out);
}

fn from(source: [u8; 4], to: SocketAddr) -> Peer {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    Peer::new(TcpStream::from(socket))
}

#[test]
fn a_source_has_so_many_connections_and_another_one_its_own() {
    let (server, _) = numbering();
    let (front, plane) = stage(vec![at("a", server)], |plan| plan.frontends[0].max_connections_per_source = Some(2));
    let mut first = Peer::to(front);
    let mut second = Peer::to(front);
    assert_eq!((first.get("/").status(), second.get("/").status()), (200, 200));
    assert!(Peer::to(front).say(get("/")).answer().is_err());
    assert_eq!(plane.stats().frontends[0].denied, 1);
    assert_eq!(from([127, 0, 0, 2], front).get("/").status(), 200);
    drop(second);
    wait_for("room", || plane.stats().sessions == 1);
    assert_eq!((first.get("/").status(), Peer::to(front).get("/").status()), (200, 200));
}

#[test]
fn a_herd_at_a_server_that_takes_no_connection_does_not_stop_others() {
    let (dead, _held) = silent();
    let (alive, _) = numbering();
    let (front, sockets) = listeners(1);
    let mut plan = web(front, vec![at("alive", alive)]);
    plan.backends.push(proxy_core::plan::Backend { name: "slow".into(), ..plan.backends[0].clone() });
    plan.backends[1].servers = vec![at("dead", dead)];
    plan.backends[1].connect_timeout = NEVER;
    plan.backends[0].connect_timeout = Duration::from_secs(20);
    plan.frontends[0].rules = vec![rule("/slow", Action::UseBackend(1))];
    let plane = start(plan, 1, sockets);
    let herd: Vec<_> = (0..1000)
        .map(|_| {
            let mut client = Peer::to(front);
            client.say(get("/slow"));
            client
        })
        .collect();
    wait_for("the herd", || plane.stats().backends[1].servers[0].sessions == 1000);
    for _ in 0..5 {
        let began = Instant::now();
        assert_eq!(Peer::to(front).get("/").status(), 200);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
    assert_eq!(plane.stats().backends[1].servers[0].sessions, 1000);
    drop(herd);
}

#[test]
fn a_client_that_pipelines_into_a_full_buffer_is_held_back() {
    let (go, told) = sync_channel::<()>(1);
    let told = Mutex::new(told);
    let (server, seen) = serving(move |_, peer| {
        let _ = told.lock().unwrap().recv();
        peer.say(ok("x"));
        true
    });
    let (front, _plane) = stage(vec![at("a", server)], |plan| http(plan).request_timeout = NEVER);
    let client = Peer::to(front);
    client.stream().set_nonblocking(true).unwrap();
    let request = get("/").repeat(1000);
    // As much as the kernel takes, and no more: what is read of it has a bound.
    let (mut sent, mut last) = (0, Instant::now());
    while last.elapsed() < Duration::from_secs(1) {
        match std::io::Write::write(&mut client.stream(), request.as_bytes()) {
            Ok(count) => (sent, last) = (sent + count, Instant::now()),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        pace(Duration::from_millis(1));
    }
    assert!(sent < 64 << 20, "{sent} bytes were taken");
    wait_for("the first request", || seen.requests().len() == 1);
    drop(go);
}
