//! Bodies on their way: framings, sizes, splits, trailers, and who holds whom back.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

use crate::data_support::at;
use crate::data_support::http::{Dice, Peer, chunked, get, ok, scripted, serving, stage};

/// Sizes around everything that has a border: a joined head, the window, what is spliced.
const SIZES: [usize; 17] =
    [0, 1, 2, 100, 4000, 4095, 4096, 4097, 8192, 32_000, 32_768, 32_769, 65_536, 131_071, 131_072, 131_073, 400_000];

/// Writes in pieces of random sizes.
fn say_in_pieces(mut stream: &TcpStream, bytes: &[u8], dice: &mut Dice) {
    let mut left = bytes;
    while !left.is_empty() {
        let most = [1, 10, 1000, 50_000, 500_000][dice.below(5)];
        let (piece, rest) = left.split_at((1 + dice.below(most)).min(left.len()));
        if stream.write_all(piece).is_err() {
            return;
        }
        left = rest;
        if dice.below(20) == 0 {
            thread::yield_now();
        }
    }
}

#[test]
fn bodies_of_all_sizes_and_framings_arrive_both_ways_in_whatever_pieces_they_come() {
    let (server, seen) = serving(|request, peer| {
        let mut dice = Dice::new(request.body.len() as u64 + 17);
        let answer = if request.field("x-answer") == Some("chunked") {
            let size = 1 + dice.below(70_000);
            [&b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"[..], &chunked(&request.body, size)].concat()
        } else {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.body.len());
            [head.as_bytes(), &request.body].concat()
        };
        say_in_pieces(peer.stream(), &answer, &mut dice);
        true
    });
    let (front, plane) = stage(vec![at("a", server)], |_| {});
    let mut client = Peer::to(front);
    let mut dice = Dice::new(4);
    for size in SIZES {
        for way in ["length", "chunked"] {
            for back in ["length", "chunked"] {
                let body = dice.bytes(size);
                let head = format!("POST / HTTP/1.1\r\nHost: a\r\nX-Answer: {back}\r\n");
                let request = if way == "chunked" {
                    let chunks = chunked(&body, 1 + dice.below(70_000));
                    [head.as_bytes(), b"Transfer-Encoding: chunked\r\n\r\n", &chunks].concat()
                } else {
                    [head.as_bytes(), format!("Content-Length: {size}\r\n\r\n").as_bytes(), &body].concat()
                };
                say_in_pieces(client.stream(), &request, &mut dice);
                let answer = client.answer().unwrap();
                assert!(answer.body == body, "{size} bytes by {way} and back by {back}");
            }
        }
    }
    assert_eq!((seen.connections(), seen.requests().len()), (1, SIZES.len() * 4));
    let stats = plane.stats();
    assert!(stats.frontends[0].bad_requests.is_empty() && stats.backends[0].bad_responses.is_empty());
}

#[test]
fn trailers_pass_both_ways() {
    let (server, _) = serving(|request, peer| {
        let body = format!("{}|{}", request.text(), request.trailers);
        peer.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n");
        peer.say(format!("{:x}\r\n{body}\r\n0\r\nX-Sum: 42\r\nX-More: b\r\n\r\n", body.len()));
        true
    });
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    let mut client = Peer::to(front);
    for _ in 0..2 {
        client.say("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-In\r\n\r\n");
        client.say("3\r\nabc\r\n0\r\nX-In: 1\r\n\r\n");
        let answer = client.answer().unwrap();
        assert_eq!((answer.text(), &*answer.trailers), ("abc|X-In: 1\n", "X-Sum: 42\nX-More: b\n"));
    }
}

#[test]
fn answers_without_a_body_leave_the_connection_for_the_next() {
    let (server, seen) = serving(|request, peer| {
        let head = match request.path() {
            "/head-length" => "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
            "/head-chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
            "/304" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 5000\r\nETag: \"a\"\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        };
        peer.say(head);
        true
    });
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    let mut client = Peer::to(front);
    for (method, path, status) in
        [("HEAD", "/head-length", 200), ("HEAD", "/head-chunked", 200), ("GET", "/204", 204), ("GET", "/304", 304)]
    {
        client.say(format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let answer = client.answer_to(method).unwrap();
        assert_eq!(answer.status(), status);
        assert_eq!(answer.field("content-length").is_some(), matches!(path, "/head-length" | "/304"), "{path}");
        assert_eq!(client.get("/").text(), "ok", "after {path}");
    }
    assert_eq!(seen.connections(), 1);
}

#[test]
fn an_early_answer_and_the_request_go_on_side_by_side() {
    // Each piece of the request is answered by a piece of the answer, before the next one is sent.
    let (server, seen) = scripted(|peer| {
        while let Ok(Some(head)) = peer.head() {
            if !head.starts_with("POST") {
                peer.say(ok("next"));
                continue;
            }
            peer.say("HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\n");
            for _ in 0..50 {
                let piece = peer.exactly(10_000).unwrap();
                peer.say(piece);
            }
        }
    });
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    let mut client = Peer::to(front);
    client.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n");
    assert!(client.head().unwrap().unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
    let mut dice = Dice::new(9);
    for _ in 0..50 {
        let piece = dice.bytes(10_000);
        assert!(client.say(&piece).exactly(10_000).unwrap() == piece);
    }
    assert_eq!((client.get("/").text(), seen.connections()), ("next", 1));
}

#[test]
fn a_request_goes_on_after_its_whole_answer_for_as_long_as_the_server_listens() {
    let (server, seen) = scripted(|peer| {
        let _ = peer.head();
        peer.say(ok("early"));
        let body = peer.exactly(300_000).unwrap();
        assert_eq!(body.iter().filter(|byte| **byte == 7).count(), 300_000);
        while let Ok(Some(_)) = peer.head() {
            peer.say(ok("next"));
        }
    });
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    let mut client = Peer::to(front);
    client.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n");
    assert_eq!(client.answer().unwrap().text(), "early");
    for _ in 0..30 {
        client.say([7; 10_000]);
    }
    assert_eq!((client.get("/").text(), seen.connections()), ("next", 1));
}

#[test]
fn a_server_that_closes_after_an_early_answer_ends_the_upload_not_the_answer() {
    for says in ["Connection: close\r\n", ""] {
        let (server, _) = scripted(move |peer| {
            let _ = peer.head();
            peer.say(format!("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n{says}\r\nbig"));
            // What came of the body is left unread: the close resets the connection.
        });
        let (front, plane) = stage(vec![at("a", server)], |_| {});
        let mut client = Peer::to(front);
        client.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n");
        client.say([7; 10_000]);
        let answer = client.answer().unwrap();
        assert_eq!((answer.status(), answer.text()), (413, "big"));
        assert!(client.rest().is_ok_and(|rest| rest.is_empty()), "it is closed gently");
        assert_eq!(plane.stats().backends[0].servers[0].response_errors, 0);
    }
}

#[test]
fn a_slow_reader_holds_a_copied_body_back() {
    let (server, sent) = super::long::counted(
        || b"8000\r\n".iter().copied().chain([b'x'; 0x8000]).chain(*b"\r\n").collect(),
        "Transfer-Encoding: chunked",
    );
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    let mut client = Peer::to(front);
    client.say(get("/"));
    let held = super::long::at_rest(&sent);
    assert!(held < 64 << 20, "{held} bytes were taken for a client that reads nothing");
    let (mut read, mut buffer) = (0, vec![0; 1 << 16]);
    while read < held + (8 << 20) {
        read += client.stream().read(&mut buffer).unwrap();
    }
}
