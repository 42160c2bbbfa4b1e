//! Each timeout by itself: all others are too long to matter.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::data_support::http::{Peer, get, http, numbering, ok, scripted, serving, stage};
use crate::data_support::{at, pace, silent, wait_for};

const SHORT: Duration = Duration::from_millis(300);

#[test]
fn connect_a_server_that_drops_syns_is_tried_as_often_as_configured_and_then_503() {
    let (address, _held) = silent();
    let (front, plane) = stage(vec![at("silent", address)], |plan| {
        plan.backends[0].connect_timeout = Duration::from_millis(100);
        plan.backends[0].retries = 2;
    });
    let began = Instant::now();
    let mut client = Peer::to(front);
    assert_eq!(client.get("/").status(), 503);
    // Three attempts, and two pauses of a connect timeout.
    assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
    assert_eq!(client.end(), Ok(()));
    let backend = &plane.stats().backends[0];
    assert_eq!((backend.retries, backend.servers[0].connect_errors, backend.servers[0].sessions), (2, 3, 0));
}

#[test]
fn client_an_upload_that_stalls_gets_408() {
    let (server, seen) = serving(|_, _| panic!("no request is whole"));
    let (front, plane) = stage(vec![at("a", server)], |plan| plan.frontends[0].client_timeout = SHORT);
    let mut client = Peer::to(front);
    client.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n123");
    let answer = client.answer().unwrap();
    assert_eq!((answer.status(), answer.says("close")), (408, true));
    assert_eq!(client.end(), Ok(()));
    wait_for("the server to be left", || (seen.connections(), seen.open()) == (1, 0));
    assert_eq!(plane.stats().frontends[0].client_aborts, 1);
}

#[test]
fn client_an_upload_that_trickles_goes_on() {
    let (server, _) = serving(|request, peer| {
        peer.say(ok(request.text()));
        true
    });
    let (front, _plane) =
        stage(vec![at("a", server)], |plan| plan.frontends[0].client_timeout = Duration::from_millis(1500));
    let mut client = Peer::to(front);
    client.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n");
    for digit in 0..10 {
        pace(Duration::from_millis(200));
        client.say(digit.to_string());
    }
    assert_eq!(client.answer().unwrap().text(), "0123456789");
}

/// A server whose answer begins with `head`, and then never ends; how much of it was taken.
fn pours(head: &'static str, piece: Vec<u8>) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let (address, _) = scripted(move |peer| {
        let _ = peer.head();
        peer.say(head);
        while std::io::Write::write_all(&mut peer.stream(), &piece).is_ok() {
            count.fetch_add(piece.len(), SeqCst);
        }
        count.store(usize::MAX, SeqCst);
    });
    (address, sent)
}

#[test]
fn client_one_that_does_not_read_is_cut() {
    let mut chunk = b"10000\r\n".to_vec();
    chunk.extend_from_slice(&[b'x'; 0x10000]);
    chunk.extend_from_slice(b"\r\n");
    for (head, piece) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n", vec![b'x'; 0x10000]),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunk),
        ("HTTP/1.1 200 OK\r\n\r\n", vec![b'x'; 0x10000]),
    ] {
        let (server, sent) = pours(head, piece);
        let (front, plane) = stage(vec![at("a", server)], |plan| plan.frontends[0].client_timeout = SHORT);
        let mut client = Peer::to(front);
        client.say(get("/"));
        wait_for("the server to be cut", || sent.load(SeqCst) == usize::MAX);
        // Never an end that could be taken for the end of the answer.
        assert_eq!(client.rest().unwrap_err().kind(), ErrorKind::ConnectionReset, "{head}");
        assert_eq!(plane.stats().frontends[0].client_aborts, 1);
    }
}

#[test]
fn server_no_answer_is_504() {
    let (server, seen) = scripted(|peer| {
        let _ = peer.rest();
    });
    let (front, plane) = stage(vec![at("a", server)], |plan| plan.backends[0].server_timeout = SHORT);
    let began = Instant::now();
    let mut client = Peer::to(front);
    let answer = client.get("/");
    assert_eq!((answer.status(), answer.says("close")), (504, true));
    assert!(began.elapsed() >= SHORT);
    assert_eq!(client.end(), Ok(()));
    wait_for("the server to be left", || (seen.connections(), seen.open()) == (1, 0));
    assert_eq!(plane.stats().backends[0].servers[0].response_errors, 1);
}

#[test]
fn server_half_a_head_is_504_and_half_a_body_is_cut() {
    for (said, begun) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n123", true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n123\r\n", true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n123", true),
        ("HTTP/1.1 200 OK\r\n\r\n123", true),
    ] {
        let (server, seen) = scripted(move |peer| {
            let _ = peer.head();
            let _ = peer.say(said).rest();
        });
        let (front, plane) = stage(vec![at("a", server)], |plan| plan.backends[0].server_timeout = SHORT);
        let mut client = Peer::to(front);
        client.say(get("/"));
        if begun {
            assert_eq!(client.rest().unwrap_err().kind(), ErrorKind::ConnectionReset, "{said}");
        } else {
            assert_eq!(client.answer().unwrap().status(), 504, "{said}");
        }
        wait_for("the server to be left", || (seen.connections(), seen.open()) == (1, 0));
        assert_eq!(plane.stats().backends[0].servers[0].response_errors, 1, "{said}");
    }
}

#[test]
fn server_an_answer_that_trickles_goes_on() {
    let (server, _) = serving(|_, peer| {
        peer.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n");
        for digit in 0..10 {
            pace(Duration::from_millis(200));
            peer.say(digit.to_string());
        }
        true
    });
    let (front, _plane) =
        stage(vec![at("a", server)], |plan| plan.backends[0].server_timeout = Duration::from_millis(1500));
    assert_eq!(Peer::to(front).get("/").text(), "0123456789");
}

#[test]
fn request_a_head_that_comes_byte_by_byte_gets_408_however_busy_it_seems() {
    let (server, seen) = numbering();
    let (front, plane) = stage(vec![at("a", server)], |plan| http(plan).request_timeout = Duration::from_millis(500));
    for earlier in [0, 1] {
        let mut client = Peer::to(front);
        for _ in 0..earlier {
            assert_eq!(client.get("/").status(), 200);
        }
        let began = Instant::now();
        client.say("GET / HTTP/1.1\r\nHost: a\r\nX: ");
        client.stream().set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let answer = loop {
            assert!(began.elapsed() < Duration::from_secs(60), "it goes on for ever");
            client.say("x");
            match client.answer() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                answer => break answer.unwrap(),
            }
        };
        assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
        assert_eq!((answer.status(), answer.says("close")), (408, true));
    }
    assert_eq!(seen.requests().len(), 1);
    assert_eq!(plane.stats().frontends[0].client_aborts, 2);
}

#[test]
fn request_a_client_that_says_nothing_is_let_go_silently() {
    let (server, _) = numbering();
    let (front, plane) = stage(vec![at("a", server)], |plan| http(plan).request_timeout = SHORT);
    let began = Instant::now();
    assert_eq!(Peer::to(front).end(), Ok(()));
    assert!(began.elapsed() >= SHORT);
    let front = &plane.stats().frontends[0];
    assert_eq!((front.client_aborts, front.bad_requests.len(), front.bytes_out), (0, 0, 0));
}

#[test]
fn keep_alive_an_idle_client_is_let_go_silently_and_no_earlier() {
    let (server, _) = numbering();
    let (front, plane) = stage(vec![at("a", server)], |plan| {
        http(plan).keep_alive_timeout = Duration::from_millis(1500);
        http(plan).request_timeout = SHORT;
    });
    let mut client = Peer::to(front);
    for _ in 0..2 {
        assert_eq!(client.get("/").status(), 200);
        // Longer than a request may take.
        pace(2 * SHORT);
    }
    assert_eq!(client.get("/").status(), 200);
    let began = Instant::now();
    assert_eq!(client.end(), Ok(()));
    assert!(began.elapsed() >= Duration::from_millis(1400), "{:?}", began.elapsed());
    assert_eq!(plane.stats().frontends[0].client_aborts, 0);
}

#[test]
fn keep_alive_may_be_shorter_than_the_time_for_a_request() {
    let (server, _) = numbering();
    let (front, _plane) = stage(vec![at("a", server)], |plan| http(plan).keep_alive_timeout = SHORT);
    let mut client = Peer::to(front);
    assert_eq!(client.get("/").status(), 200);
    let began = Instant::now();
    assert_eq!(client.end(), Ok(()));
    assert!((SHORT..Duration::from_secs(60)).contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[test]
fn queue_who_waits_too_long_gets_503() {
    let (server, seen) = scripted(|peer| {
        let _ = peer.head();
        let _ = peer.rest();
    });
    let (front, plane) = stage(vec![at("a", server)], |plan| {
        plan.backends[0].servers[0].max_connections = Some(1);
        plan.backends[0].queue_timeout = SHORT;
    });
    let mut holder = Peer::to(front);
    holder.say(get("/hold"));
    wait_for("the only place to be taken", || seen.connections() == 1);
    let began = Instant::now();
    let mut waiting = Peer::to(front);
    assert_eq!(waiting.get("/").status(), 503);
    assert!(began.elapsed() >= SHORT);
    assert_eq!(waiting.end(), Ok(()));
    let backend = &plane.stats().backends[0];
    assert_eq!((backend.queue_timeouts, backend.queue, seen.connections()), (1, 0, 1));
}

#[test]
fn tunnel_silence_ends_both_sides_by_its_own_time_and_no_other() {
    let (server, seen) = scripted(|peer| {
        let _ = peer.head();
        peer.say("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
        let mut buffer = [0; 64];
        while let Ok(count @ 1..) = peer.some(&mut buffer) {
            peer.say(&buffer[..count]);
        }
    });
    let (front, _plane) = stage(vec![at("a", server)], |plan| {
        plan.frontends[0].client_timeout = SHORT;
        plan.backends[0].server_timeout = SHORT;
        plan.backends[0].tunnel_timeout = Some(Duration::from_millis(1500));
    });
    let mut client = Peer::to(front);
    client.say("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
    assert_eq!(client.answer().unwrap().status(), 101);
    for _ in 0..2 {
        pace(2 * SHORT);
        assert_eq!(client.say("hello").exactly(5).unwrap(), b"hello");
    }
    let began = Instant::now();
    assert_eq!(client.end(), Ok(()));
    assert!(began.elapsed() >= Duration::from_millis(1400), "{:?}", began.elapsed());
    wait_for("the server to be left", || (seen.connections(), seen.open()) == (1, 0));
}
