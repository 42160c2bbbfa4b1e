//! Bytes over TLS: they are all there, in their order, and an end is told from a cut.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

use rustls::HandshakeKind;

use super::ends::{Ca, accept, ask, body, head, secure_back, secure_front, shake_hands};
use crate::data_support::http::{get, ok, stage, with_body};
use crate::data_support::{at, echo, listeners, plan, server, start, wait_for};

/// Bytes that tell where they belong.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251) as u8 ^ (index / 65_521) as u8).collect()
}

/// Answers each request with the body that it brought, or with so many bytes as its path says.
fn web(stream: &mut (impl Read + Write)) {
    loop {
        let Ok(head) = head(stream) else { return };
        if head.is_empty() {
            return;
        }
        let lower = head.to_ascii_lowercase();
        let length =
            lower.split("content-length: ").nth(1).map_or(0, |rest| rest.split('\r').next().unwrap().parse().unwrap());
        let mut content = vec![0; length];
        stream.read_exact(&mut content).unwrap();
        if let Some(wanted) = head.split(' ').nth(1).and_then(|path| path[1..].parse().ok()) {
            content = pattern(wanted);
        }
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", content.len());
        if stream
            .write_all(answer.as_bytes())
            .and_then(|()| stream.write_all(&content))
            .and_then(|()| stream.flush())
            .is_err()
        {
            return;
        }
    }
}

#[test]
fn requests_and_long_bodies_pass_both_ways_over_tls_on_both_sides() {
    let ca = Ca::new();
    let config = Arc::new(ca.server(&["b.test"]));
    let (behind, connections) = server(move |socket| web(&mut accept(socket, &config)));
    let (address, plane) = stage(vec![at("one", behind)], |plan| {
        secure_front(plan, &ca);
        secure_back(plan, &ca);
    });
    let mut client = shake_hands(address, &Arc::new(ca.client())).unwrap();
    for length in [0, 1, 100, 16_383, 16_384, 16_385, 32_768, 100_000, 5_000_000] {
        assert!(ask(&mut client, get(&format!("/{length}")).as_bytes()).unwrap() == pattern(length), "down {length}");
        let up = pattern(length);
        let (mut sending, up) = (with_body("POST", "/echo", &up), up);
        // Both directions at once: the echo comes while the rest is sent.
        let answered = if length < 1_000_000 {
            ask(&mut client, &sending).unwrap()
        } else {
            sending.truncate(sending.len());
            client.write_all(&sending).unwrap();
            body(&mut client).unwrap()
        };
        assert!(answered == up, "up {length}");
    }
    assert_eq!(connections.load(SeqCst), 1, "the server connection was not used again");
    let stats = plane.stats();
    let tls = stats.frontends[0].tls.as_ref().expect("its bind speaks TLS");
    assert_eq!((tls.full, tls.resumed, tls.failed.len()), (1, 0, 0));
}

#[test]
fn a_client_that_reads_slowly_gets_it_all_and_holds_its_server_back() {
    let ca = Ca::new();
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    const LENGTH: usize = 64 << 20;
    let (behind, _) = server(move |mut socket| {
        let _ = head(&mut socket);
        let _ = socket.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n").as_bytes());
        for chunk in pattern(LENGTH).chunks(64 << 10) {
            if socket.write_all(chunk).is_err() {
                return;
            }
            counter.fetch_add(chunk.len(), SeqCst);
        }
    });
    let (address, _plane) = stage(vec![at("one", behind)], |plan| secure_front(plan, &ca));
    let mut client = shake_hands(address, &Arc::new(ca.client())).unwrap();
    client.write_all(get("/").as_bytes()).unwrap();
    let mut first = [0; 1];
    client.read_exact(&mut first).unwrap();
    // Nobody reads on: the server soon stands still, short of the end.
    let mut before = usize::MAX;
    wait_for("a server that stands still", || {
        crate::data_support::pace(std::time::Duration::from_millis(100));
        std::mem::replace(&mut before, sent.load(SeqCst)) == sent.load(SeqCst)
    });
    assert!(sent.load(SeqCst) < LENGTH / 2, "{} bytes were taken from the server", sent.load(SeqCst));
    head(&mut client).unwrap();
    let mut content = vec![0; LENGTH];
    client.read_exact(&mut content).unwrap();
    assert!(content == pattern(LENGTH));
}

#[test]
fn tcp_passes_over_tls_and_each_side_may_end_first() {
    let ca = Ca::new();
    let config = Arc::new(ca.server(&["b.test"]));
    let (behind, _) = server(move |socket| {
        // All of it first, then all of it back: the end of one direction goes through before the other begins.
        let mut stream = accept(socket, &config);
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&all).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
    });
    let (address, sockets) = listeners(1);
    let mut plan = plan(address, vec![at("one", behind)]);
    plan.backends[0].connect_timeout = crate::data_support::PATIENCE;
    secure_front(&mut plan, &ca);
    secure_back(&mut plan, &ca);
    let _plane = start(plan, 1, sockets);
    let mut client = shake_hands(address, &Arc::new(ca.client())).unwrap();
    let said = pattern(1_000_000);
    client.write_all(&said).unwrap();
    client.conn.send_close_notify();
    client.flush().unwrap();
    client.sock.shutdown(Shutdown::Write).unwrap();
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).expect("the end was said, not cut");
    assert!(heard == said);
}

#[test]
fn an_answer_that_ends_with_its_connection_is_whole_only_if_the_server_said_so() {
    let ca = Ca::new();
    let config = Arc::new(ca.server(&["b.test"]));
    let (behind, _) = server(move |socket| {
        let mut stream = accept(socket, &config);
        let whole = head(&mut stream).unwrap().starts_with("GET /whole");
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nsome of it").unwrap();
        if whole {
            stream.conn.send_close_notify();
        }
        stream.flush().unwrap();
    });
    let (address, _plane) = stage(vec![at("one", behind)], |plan| {
        secure_front(plan, &ca);
        secure_back(plan, &ca);
    });
    let config = Arc::new(ca.client());
    let read = |path: &str| {
        let mut client = shake_hands(address, &config).unwrap();
        client.write_all(get(path).as_bytes()).unwrap();
        let mut all = String::new();
        client.read_to_string(&mut all).map(|_| all).map_err(|error| error.kind())
    };
    assert!(read("/whole").unwrap().ends_with("some of it"));
    let cut = read("/cut");
    assert!(matches!(cut, Err(ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof)), "{cut:?}");
}

#[test]
fn records_that_come_in_single_bytes_are_put_together() {
    let ca = Ca::new();
    let (behind, _) = server(|mut socket| web(&mut socket));
    let (address, _plane) = stage(vec![at("one", behind)], |plan| secure_front(plan, &ca));
    // A relay that passes on one byte a write.
    let (slow, _) = server(move |mut socket| {
        let mut on = TcpStream::connect(address).unwrap();
        on.set_nodelay(true).unwrap();
        let (mut back_from, mut back_to) = (on.try_clone().unwrap(), socket.try_clone().unwrap());
        thread::spawn(move || std::io::copy(&mut back_from, &mut back_to));
        let mut byte = [0];
        while socket.read(&mut byte).is_ok_and(|count| count > 0) && on.write_all(&byte).is_ok() {}
    });
    let mut client = shake_hands(slow, &Arc::new(ca.client())).unwrap();
    for _ in 0..3 {
        assert_eq!(ask(&mut client, &with_body("POST", "/echo", b"hello")).unwrap(), b"hello");
    }
}

#[test]
fn keys_that_are_changed_in_the_middle_change_nothing_else() {
    let ca = Ca::new();
    let (behind, _) = server(|mut socket| web(&mut socket));
    let (address, _plane) = stage(vec![at("one", behind)], |plan| secure_front(plan, &ca));
    let mut client = shake_hands(address, &Arc::new(ca.client())).unwrap();
    for _ in 0..5 {
        assert_eq!(ask(&mut client, get("/70000").as_bytes()).unwrap(), pattern(70_000));
        client.conn.refresh_traffic_keys().unwrap();
    }
}

#[test]
fn sessions_are_resumed_with_clients_and_with_servers() {
    let ca = Ca::new();
    let kinds = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (config, seen) = (Arc::new(ca.server(&["b.test"])), Arc::clone(&kinds));
    let (behind, _) = server(move |socket| {
        let mut stream = accept(socket, &config);
        let asked = head(&mut stream).unwrap();
        seen.lock().unwrap().push(stream.conn.handshake_kind().unwrap());
        assert!(!asked.is_empty());
        stream.write_all(ok("once").replace("OK\r\n", "OK\r\nConnection: close\r\n").as_bytes()).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
    });
    let (address, plane) = stage(vec![at("one", behind)], |plan| {
        secure_front(plan, &ca);
        secure_back(plan, &ca);
    });
    let config = Arc::new(ca.client());
    for expected in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
        let mut client = shake_hands(address, &config).unwrap();
        assert_eq!(client.conn.handshake_kind(), Some(expected));
        assert_eq!(ask(&mut client, get("/").as_bytes()).unwrap(), b"once");
    }
    assert_eq!(*kinds.lock().unwrap(), [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed]);
    let stats = plane.stats();
    let tls = stats.frontends[0].tls.as_ref().unwrap();
    assert_eq!((tls.full, tls.resumed), (1, 2));
}

#[test]
fn what_is_in_the_clear_behind_may_be_an_echo() {
    let ca = Ca::new();
    let (behind, _) = server(echo);
    let (address, sockets) = listeners(1);
    let mut plan = plan(address, vec![at("one", behind)]);
    secure_front(&mut plan, &ca);
    let _plane = start(plan, 1, sockets);
    let mut client = shake_hands(address, &Arc::new(ca.client())).unwrap();
    for round in 0..100u8 {
        client.write_all(&[round; 100]).unwrap();
        let mut back = [0; 100];
        client.read_exact(&mut back).unwrap();
        assert_eq!(back, [round; 100]);
    }
}
