//! What is sent again and what is not: nothing that must not happen twice does.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use crate::data_support::http::{Dice, Message, Peer, Seen, get, numbering, ok, serving, stage, with_body};
use crate::data_support::{Plane, at, nobody, wait_for};

#[test]
fn a_dead_server_is_left_for_another_one_with_the_last_attempt() {
    let (alive, seen) = numbering();
    let (front, plane) = stage(vec![at("dead", nobody()), at("alive", alive)], |plan| {
        plan.backends[0].retries = 2;
        plan.backends[0].redispatch = true;
        plan.backends[0].connect_timeout = std::time::Duration::from_millis(100);
    });
    // A POST, too: nothing of it was sent before.
    let answer = Peer::to(front).say(with_body("POST", "/", b"once")).answer().unwrap();
    assert_eq!((answer.status(), answer.text()), (200, "1"));
    let backend = &plane.stats().backends[0];
    assert_eq!((backend.retries, backend.redispatches, backend.servers[0].connect_errors), (2, 1, 2));
    assert_eq!(seen.requests(), ["POST /"]);
}

/// Answers the first request of each connection, unless its path is `/never`, and closes it at the second one without
/// a word; and all bodies.
fn closing() -> (std::net::SocketAddr, Arc<Seen>, Arc<Mutex<Vec<Message>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let all = Arc::clone(&asked);
    let served = Mutex::new(Vec::new());
    let (address, seen) = serving(move |request, peer| {
        let (head, body) = (request.head.clone(), request.body.clone());
        all.lock().unwrap().push(Message { head, body, trailers: String::new() });
        let first = {
            let mut served = served.lock().unwrap();
            let first = !served.contains(&peer.number);
            served.push(peer.number);
            first
        };
        let answers = first && request.path() != "/never";
        if answers {
            peer.say(ok(&peer.number.to_string()));
        }
        answers
    });
    (address, seen, asked)
}

fn closing_stage(retries: u32) -> (std::net::SocketAddr, Plane, Arc<Seen>, Arc<Mutex<Vec<Message>>>) {
    let (server, seen, asked) = closing();
    let (front, plane) = stage(vec![at("a", server)], |plan| {
        plan.backends[0].retries = retries;
        plan.backends[0].connect_timeout = std::time::Duration::from_millis(100);
    });
    (front, plane, seen, asked)
}

#[test]
fn a_get_that_met_the_end_of_a_pooled_connection_is_sent_again_whatever_the_retries() {
    let (front, plane, seen, _) = closing_stage(0);
    let mut client = Peer::to(front);
    for number in 1..=5 {
        assert_eq!(client.get(&format!("/{number}")).text(), number.to_string());
    }
    assert_eq!(seen.requests(), ["1", "2", "2", "3", "3", "4", "4", "5", "5"].map(|number| format!("GET /{number}")));
    let backend = &plane.stats().backends[0];
    assert_eq!((backend.retries, backend.servers[0].response_errors), (0, 0));
}

#[test]
fn a_clients_first_post_goes_over_a_connection_of_its_own() {
    let (server, seen) = numbering();
    let (front, plane) = stage(vec![at("a", server)], |_| {});
    let mut earlier = Peer::to(front);
    assert_eq!(earlier.get("/").text(), "1");
    wait_for("an idle connection", || plane.stats().workers[0].idle_server_connections == 1);
    let mut client = Peer::to(front);
    assert_eq!(client.say(with_body("POST", "/", b"x")).answer().unwrap().text(), "2");
    // Later ones take what there is, as anybody with a connection of its own would.
    assert_eq!(client.say(with_body("POST", "/", b"x")).answer().unwrap().text(), "2");
    assert_eq!(Peer::to(front).get("/").text(), "2");
    assert_eq!(seen.connections(), 2);
}

#[test]
fn a_later_post_that_met_the_end_of_its_connection_ends_the_clients_and_is_never_sent_twice() {
    let (front, plane, seen, _) = closing_stage(3);
    let mut client = Peer::to(front);
    assert_eq!(client.get("/get").status(), 200);
    assert_eq!(client.say(with_body("POST", "/post", b"x")).end(), Ok(()));
    assert_eq!(seen.requests(), ["GET /get", "POST /post"]);
    assert_eq!(plane.stats().backends[0].retries, 0);
}

#[test]
fn a_fresh_connection_that_ends_without_an_answer_is_502_for_a_post() {
    let (front, plane, seen, _) = closing_stage(3);
    let mut client = Peer::to(front);
    let answer = client.say(with_body("POST", "/never", b"x")).answer().unwrap();
    assert_eq!((answer.status(), answer.says("close")), (502, true));
    assert_eq!(client.end(), Ok(()));
    assert_eq!(seen.requests(), ["POST /never"]);
    assert_eq!(plane.stats().backends[0].servers[0].response_errors, 1);
}

#[test]
fn a_fresh_connection_that_ends_without_an_answer_costs_a_get_one_retry() {
    for (retries, sent) in [(0, 1), (2, 3)] {
        let (front, plane, seen, _) = closing_stage(retries);
        assert_eq!(Peer::to(front).get("/never").status(), 502);
        assert_eq!((seen.requests().len(), plane.stats().backends[0].retries), (sent, u64::from(retries)));
    }
}

#[test]
fn a_put_whose_body_was_at_hand_is_sent_again_byte_for_byte() {
    for size in [1, 100, 3900, 4096, 4097, 5000, 20_000] {
        let (front, plane, seen, asked) = closing_stage(0);
        let mut client = Peer::to(front);
        assert_eq!(client.get("/1").text(), "1");
        let body = Dice::new(size as u64).bytes(size);
        // What follows it must not suffer.
        client.say([&with_body("PUT", "/2", &body)[..], get("/3").as_bytes()].concat());
        assert_eq!(client.answer().unwrap().text(), "2", "{size}");
        assert_eq!(client.answer().unwrap().text(), "3", "{size}");
        assert_eq!(seen.requests(), ["GET /1", "PUT /2", "PUT /2", "GET /3", "GET /3"], "{size}");
        let bodies: Vec<_> = asked.lock().unwrap().iter().map(|request| request.body.clone()).collect();
        assert!(bodies[1] == body && bodies[2] == body && bodies[3].is_empty(), "{size}");
        let heads: Vec<_> = asked.lock().unwrap().iter().map(|request| request.head.clone()).collect();
        assert_eq!(heads[1], heads[2]);
        let sent: usize = heads.iter().zip(&bodies).map(|(head, body)| head.len() + body.len()).sum();
        wait_for("the count of what was sent", || plane.stats().backends[0].servers[0].bytes_in == sent as u64);
    }
}

#[test]
fn a_put_whose_body_was_not_at_hand_is_not_sent_again() {
    let (front, _plane, seen, _) = closing_stage(3);
    let mut client = Peer::to(front);
    assert_eq!(client.get("/1").text(), "1");
    assert_eq!(client.say(with_body("PUT", "/2", &vec![7; 100_000])).end(), Ok(()));
    assert_eq!(seen.requests(), ["GET /1", "PUT /2"]);
}

#[test]
fn a_chunked_put_is_not_sent_again() {
    let (front, _plane, seen, _) = closing_stage(3);
    let mut client = Peer::to(front);
    assert_eq!(client.get("/1").text(), "1");
    client.say("PUT /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n");
    assert_eq!(client.end(), Ok(()));
    assert_eq!(seen.requests(), ["GET /1", "PUT /2"]);
}

#[test]
fn nothing_is_sent_again_once_a_byte_of_an_answer_came() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let (server, _) = serving(move |_, peer| {
        counted.fetch_add(1, SeqCst);
        peer.say("H");
        false
    });
    let (front, _plane) = stage(vec![at("a", server)], |plan| plan.backends[0].retries = 3);
    assert_eq!(Peer::to(front).get("/").status(), 502);
    assert_eq!(count.load(SeqCst), 1);
}
