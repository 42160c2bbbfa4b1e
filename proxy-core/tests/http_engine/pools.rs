//! Server connections that are used again, and those that must not be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use proxy_core::plane::LogDescriptors;

use crate::data_support::http::{Peer, get, numbering, ok, scripted, serving, stage, web};
use crate::data_support::{Plane, at, listeners, start, wait_for};

fn idle(plane: &Plane) -> u64 {
    plane.stats().workers.iter().map(|worker| worker.idle_server_connections).sum()
}

#[test]
fn one_connection_serves_clients_one_after_the_other() {
    let (server, seen) = numbering();
    let (front, plane) = stage(vec![at("a", server)], |_| {});
    let mut clients: Vec<_> = (0..3).map(|_| Peer::to(front)).collect();
    for _ in 0..5 {
        for client in &mut clients {
            assert_eq!(client.get("/").text(), "1");
        }
    }
    assert_eq!(seen.connections(), 1);
    wait_for("it to be idle", || idle(&plane) == 1);
}

/// How the answers of two clients came, one after the other, when a server answers `answer` each time and keeps its
/// connection open.
fn twice(answer: &'static str) -> (usize, Plane) {
    let (server, seen) = serving(move |_, peer| {
        peer.say(answer);
        // HTTP/1.0 without a length: the end of the connection is the end of the answer.
        !answer.ends_with("until close")
    });
    let (front, plane) = stage(vec![at("a", server)], |_| {});
    let mut clients = [Peer::to(front), Peer::to(front)];
    for client in &mut clients {
        let answered = client.get("/");
        assert_eq!(answered.status(), 200);
        assert!(answered.text().is_empty() || answered.text() == "until close", "{answer}: {answered:?}");
    }
    (seen.connections(), plane)
}

#[test]
fn a_connection_is_used_again_only_after_an_answer_that_leaves_it_clean() {
    for (answer, connections, more) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 1, 0),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 1, 0),
        ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", 1, 0),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 2, 0),
        ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", 2, 0),
        ("HTTP/1.1 200 OK\r\n\r\nuntil close", 2, 0),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nX", 2, 2),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 2, 2),
    ] {
        let (made, plane) = twice(answer);
        assert_eq!(made, connections, "{answer}");
        let surplus = || plane.stats().backends[0].bad_responses.values().sum::<u64>();
        wait_for("the count of what nobody asked for", || surplus() == more);
    }
}

#[test]
fn what_a_server_says_unasked_on_an_idle_connection_reaches_nobody() {
    let evil = Arc::new(AtomicBool::new(false));
    let now = Arc::clone(&evil);
    let (server, seen) = serving(move |_, peer| {
        let number = peer.number;
        peer.say(ok(&number.to_string()));
        if number == 1 {
            wait_for("the word", || now.load(SeqCst));
            peer.say(ok("evil"));
        }
        true
    });
    let (front, plane) = stage(vec![at("a", server)], |_| {});
    let mut client = Peer::to(front);
    assert_eq!(client.get("/").text(), "1");
    wait_for("it to be idle", || idle(&plane) == 1);
    evil.store(true, SeqCst);
    wait_for("the sweep", || (idle(&plane), seen.open()) == (0, 0));
    assert_eq!(client.get("/").text(), "2");
}

#[test]
fn after_an_early_answer_to_a_request_that_never_ended_the_connection_is_not_used_again() {
    let (server, seen) = scripted(|peer| {
        while let Ok(Some(_)) = peer.head() {
            let number = peer.number;
            peer.say(ok(&number.to_string()));
        }
    });
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    let mut uploader = Peer::to(front);
    uploader.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nbegun");
    assert_eq!(uploader.answer().unwrap().text(), "1");
    drop(uploader);
    wait_for("it to be closed", || seen.open() == 0);
    assert_eq!(Peer::to(front).get("/").text(), "2");
}

#[test]
fn the_sweep_sees_that_servers_closed_their_idle_connections_however_many() {
    const MANY: usize = 300;
    let all = Arc::new(AtomicUsize::new(0));
    let (count, end) = (Arc::clone(&all), Arc::new(AtomicBool::new(false)));
    let told = Arc::clone(&end);
    let (server, seen) = serving(move |_, peer| {
        count.fetch_add(1, SeqCst);
        wait_for("the others", || count.load(SeqCst) == MANY);
        peer.say(ok("x"));
        wait_for("the end", || told.load(SeqCst));
        false
    });
    let (front, plane) = stage(vec![at("a", server)], |_| {});
    let mut clients: Vec<_> = (0..MANY).map(|_| Peer::to(front)).collect();
    clients.iter_mut().for_each(|client| _ = client.say(get("/")));
    assert!(clients.iter_mut().all(|client| client.answer().unwrap().status() == 200));
    wait_for("all to be idle", || idle(&plane) == MANY as u64);
    end.store(true, SeqCst);
    wait_for("none to be idle", || idle(&plane) == 0);
    assert_eq!((seen.connections(), plane.stats().workers[0].server_connections), (MANY, 0));
}

#[test]
fn there_are_never_more_server_connections_than_clients() {
    let servers: Vec<_> = (0..5).map(|_| numbering()).collect();
    let (front, plane) = stage(servers.iter().map(|(server, _)| at(&server.to_string(), *server)).collect(), |_| {});
    let mut clients: Vec<_> = (0..3).map(|_| Peer::to(front)).collect();
    for _ in 0..20 {
        for client in &mut clients {
            assert_eq!(client.get("/").status(), 200);
        }
        // One that was closed a moment ago may not have been noticed yet.
        wait_for("no more than clients", || servers.iter().map(|(_, seen)| seen.open()).sum::<usize>() <= 3);
    }
    wait_for("the beat", || (1..=3).contains(&plane.stats().workers[0].server_connections));
    drop(clients);
    wait_for("the connections to follow their clients", || plane.stats().workers[0].server_connections == 0);
}

#[test]
fn a_removed_servers_idle_connections_are_closed_and_a_staying_ones_are_not() {
    let (goes, stays) = (numbering(), numbering());
    let (front, sockets) = listeners(1);
    let mut plan = web(front, vec![at("goes", goes.0), at("stays", stays.0)]);
    let mut plane = start(plan.clone(), 1, sockets);
    let mut clients = [Peer::to(front), Peer::to(front)];
    clients.iter_mut().for_each(|client| drop(client.get("/")));
    wait_for("both to be idle", || idle(&plane) == 2);
    plan.backends[0].servers.remove(0);
    plan.revision += 1;
    plane.apply(plan, Vec::new(), &[], LogDescriptors::new()).unwrap();
    wait_for("the removed one to be left", || goes.1.open() == 0);
    assert_eq!(clients[0].get("/").text(), "1");
    assert_eq!((stays.1.connections(), stays.1.open()), (1, 1));
}

#[test]
fn a_removed_server_answers_what_it_was_asked_and_is_left_then() {
    let go = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&go);
    let goes = serving(move |_, peer| {
        wait_for("the word", || told.load(SeqCst));
        peer.say(ok("goes"));
        true
    });
    let (front, sockets) = listeners(1);
    let mut plan = web(front, vec![at("goes", goes.0)]);
    let mut plane = start(plan.clone(), 1, sockets);
    let mut client = Peer::to(front);
    client.say(get("/"));
    wait_for("the request", || goes.1.requests().len() == 1);
    let (stays, _) = numbering();
    plan.backends[0].servers = vec![at("stays", stays)];
    plane.apply(plan, Vec::new(), &[], LogDescriptors::new()).unwrap();
    wait_for("the apply", || plane.ready());
    go.store(true, SeqCst);
    assert_eq!(client.answer().unwrap().text(), "goes");
    wait_for("it to be left", || goes.1.open() == 0);
    assert_eq!(client.get("/").text(), "1");
}

#[test]
fn a_drain_closes_idle_server_connections_at_once() {
    let (server, seen) = numbering();
    let (front, plane) = stage(vec![at("a", server)], |_| {});
    let mut client = Peer::to(front);
    assert_eq!(client.get("/").status(), 200);
    wait_for("it to be idle", || idle(&plane) == 1);
    // A client that may still ask keeps the worker from ending for a while.
    let _other = Peer::to(front);
    wait_for("the other one", || plane.stats().sessions == 2);
    plane.drain(Instant::now() + Duration::from_secs(60));
    wait_for("the server to be left", || seen.open() == 0);
    assert!(!plane.drained());
}
