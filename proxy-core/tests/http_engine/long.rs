//! Long bodies of known length, which go through the kernel: nothing is lost, and nobody is overrun.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crate::data_support::http::{Dice, Peer, get, numbering, scripted, stage};
use crate::data_support::{at, pace, wait_for};

const PIECE: usize = 1 << 16;

/// A body without a period, piece by piece; and what is made of it on the other side.
struct Stream {
    dice: Dice,
    sum: u64,
}

impl Stream {
    fn new(seed: u64) -> Stream {
        Stream { dice: Dice::new(seed), sum: 0 }
    }

    fn piece(&mut self) -> Vec<u8> {
        let piece = self.dice.bytes(PIECE);
        self.add(&piece);
        piece
    }

    /// Position counts: a piece that is lost, doubled or moved changes the sum.
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.sum = self.sum.wrapping_mul(0x100_0000_01B3) ^ u64::from(*byte);
        }
    }
}

fn sum_of(peer: &mut Peer, length: usize) -> u64 {
    let (mut stream, mut left, mut buffer) = (Stream::new(0), length, vec![0; PIECE]);
    while left > 0 {
        let most = left.min(PIECE);
        let count = peer.some(&mut buffer[..most]).unwrap();
        assert!(count > 0, "{left} bytes are missing");
        stream.add(&buffer[..count]);
        left -= count;
    }
    stream.sum
}

const LONG: usize = 1600 * PIECE;

#[test]
fn a_hundred_megabytes_come_down_as_they_are() {
    let (server, _) = scripted(|peer| {
        while let Ok(Some(_)) = peer.head() {
            let mut stream = Stream::new(5);
            peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {LONG}\r\n\r\n"));
            (0..LONG / PIECE).for_each(|_| _ = peer.say(stream.piece()));
        }
    });
    let (front, plane) = stage(vec![at("a", server)], |_| {});
    let mut expected = Stream::new(5);
    (0..LONG / PIECE).for_each(|_| drop(expected.piece()));
    let mut client = Peer::to(front);
    for _ in 0..2 {
        let head = client.say(get("/")).head().unwrap().unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"));
        assert_eq!(sum_of(&mut client, LONG), expected.sum);
    }
    wait_for("the count", || plane.stats().frontends[0].bytes_out > 2 * LONG as u64);
}

#[test]
fn a_hundred_megabytes_go_up_as_they_are() {
    let (server, _) = scripted(|peer| {
        while let Ok(Some(_)) = peer.head() {
            let sum = sum_of(peer, LONG).to_string();
            peer.say(crate::data_support::http::ok(&sum));
        }
    });
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    let mut client = Peer::to(front);
    let mut stream = Stream::new(6);
    client.say(format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {LONG}\r\n\r\n"));
    (0..LONG / PIECE).for_each(|_| _ = client.say(stream.piece()));
    assert_eq!(client.answer().unwrap().text(), stream.sum.to_string());
}

/// A server whose answer never ends, in pieces; how much of it was taken.
pub(crate) fn counted(
    piece: impl Fn() -> Vec<u8> + Send + Sync + 'static,
    framing: &'static str,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let (address, _) = scripted(move |peer| {
        let _ = peer.head();
        peer.say(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"));
        let piece = piece();
        while peer.stream().write_all(&piece).is_ok() {
            count.fetch_add(piece.len(), SeqCst);
        }
    });
    (address, sent)
}

/// Waits until it grows no more.
pub(crate) fn at_rest(sent: &AtomicUsize) -> usize {
    let (mut last, mut since) = (0, Instant::now());
    while last == 0 || since.elapsed() < Duration::from_secs(1) {
        pace(Duration::from_millis(10));
        let now = sent.load(SeqCst);
        assert!(now < 1 << 30, "nothing holds it back");
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    last
}

#[test]
fn a_slow_reader_holds_a_spliced_body_back() {
    let (server, sent) = counted(|| vec![7; PIECE], "Content-Length: 100000000000");
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    let mut client = Peer::to(front);
    client.say(get("/"));
    let held = at_rest(&sent);
    assert!(held < 64 << 20, "{held} bytes were taken for a client that reads nothing");
    let (mut read, mut buffer) = (0, vec![0; PIECE]);
    while read < held + (8 << 20) {
        read += client.stream().read(&mut buffer).unwrap();
    }
}

#[test]
fn more_long_bodies_than_there_are_pipes_arrive_all_at_once() {
    const CLIENTS: usize = 80;
    const HALF: usize = 8 * PIECE;
    let halfway = Arc::new(AtomicUsize::new(0));
    let here = Arc::clone(&halfway);
    let (server, _) = scripted(move |peer| {
        let path = peer.head().unwrap().unwrap();
        let seed = path.split(' ').nth(1).unwrap()[1..].parse().unwrap();
        let mut stream = Stream::new(seed);
        peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 2 * HALF));
        (0..HALF / PIECE).for_each(|_| _ = peer.say(stream.piece()));
        // The other half only when all have had this one.
        wait_for("everybody", || here.load(SeqCst) == CLIENTS);
        (0..HALF / PIECE).for_each(|_| _ = peer.say(stream.piece()));
    });
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    let clients: Vec<_> = (0..CLIENTS)
        .map(|seed| {
            let halfway = Arc::clone(&halfway);
            thread::spawn(move || {
                let mut client = Peer::to(front);
                client.say(get(&format!("/{seed}"))).head().unwrap();
                let mut got = client.exactly(HALF).unwrap();
                halfway.fetch_add(1, SeqCst);
                got.extend(client.exactly(HALF).unwrap());
                let mut expected = Stream::new(seed as u64);
                let expected: Vec<u8> = (0..2 * HALF / PIECE).flat_map(|_| expected.piece()).collect();
                assert!(got == expected, "client {seed}");
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
}

#[test]
fn a_client_that_leaves_inside_a_long_body_takes_its_server_connection_along() {
    let (server, sent) = counted(|| vec![7; PIECE], "Content-Length: 100000000000");
    let (other, _) = numbering();
    let (front, plane) = stage(vec![at("a", server)], |plan| {
        let other = proxy_core::plan::Backend {
            name: "other".into(),
            servers: vec![at("b", other)],
            ..plan.backends[0].clone()
        };
        plan.backends.push(other);
        plan.frontends[0].rules = vec![crate::data_support::http::rule("/b", proxy_core::plan::Action::UseBackend(1))];
    });
    for number in 1..=40 {
        let mut client = Peer::to(front);
        client.say(get("/")).exactly(1 << 20).unwrap();
        if number % 2 == 0 {
            client.reset()
        } else {
            drop(client)
        }
        wait_for("the abort", || plane.stats().frontends[0].client_aborts == number);
    }
    wait_for("all to be over", || plane.stats().workers[0].server_connections == 0);
    assert!(sent.load(SeqCst) >= 40 << 20);
    assert_eq!(Peer::to(front).get("/b").status(), 200);
}

#[test]
fn a_server_that_leaves_inside_a_long_body_cuts_its_client() {
    for reset in [false, true] {
        let (server, _) = scripted(move |peer| {
            let _ = peer.head();
            peer.say("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n").say(vec![7; 20 * PIECE]);
            if reset {
                socket2::SockRef::from(peer.stream()).set_linger(Some(Duration::ZERO)).unwrap();
            }
        });
        let (front, plane) = stage(vec![at("a", server)], |_| {});
        let mut client = Peer::to(front);
        assert_eq!(client.say(get("/")).rest().unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(plane.stats().backends[0].servers[0].response_errors, 1);
    }
}

#[test]
fn an_upload_whose_client_leaves_never_looks_whole_to_the_server() {
    let got = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&got);
    let (server, _) = scripted(move |peer| {
        let _ = peer.head();
        let end = peer.rest();
        seen.store(1 + end.map_or(0, |rest| rest.len() as u64), SeqCst);
    });
    let (front, plane) = stage(vec![at("a", server)], |_| {});
    let mut client = Peer::to(front);
    client.say("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n").say(vec![7; 20 * PIECE]);
    drop(client);
    wait_for("the server to see the end", || got.load(SeqCst) > 0);
    assert!(got.load(SeqCst) <= 1 + 20 * PIECE as u64);
    assert_eq!(plane.stats().frontends[0].client_aborts, 1);
}
