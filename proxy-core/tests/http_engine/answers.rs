//! Interim answers, old clients, pipelines, and clients that end their side early.

use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use crate::data_support::http::{Peer, get, numbering, ok, scripted, serving, stage};
use crate::data_support::{at, wait_for};

const EXPECTING: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";

#[test]
fn a_client_that_expects_100_gets_the_servers_and_sends_its_body_then() {
    let (server, seen) = scripted(|peer| {
        while let Ok(Some(head)) = peer.head() {
            if head.contains("Expect: 100-continue") {
                peer.say("HTTP/1.1 100 Continue\r\n\r\n");
                let body = peer.exactly(5).unwrap();
                peer.say(ok(std::str::from_utf8(&body).unwrap()));
            } else {
                peer.say(ok("next"));
            }
        }
    });
    let (front, plane) = stage(vec![at("a", server)], |_| {});
    let mut client = Peer::to(front);
    for _ in 0..2 {
        assert_eq!(client.say(EXPECTING).answer().unwrap().status(), 100);
        assert_eq!(client.say("hello").answer().unwrap().text(), "hello");
        assert_eq!(client.get("/").text(), "next");
    }
    assert_eq!(seen.connections(), 1);
    assert_eq!(plane.stats().frontends[0].http.unwrap().responses.informational, 0);
}

#[test]
fn a_client_that_expects_100_may_get_the_final_answer_instead() {
    let (server, seen) = scripted(|peer| {
        while let Ok(Some(head)) = peer.head() {
            if head.starts_with("POST") {
                peer.say("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n");
                // RFC 9110 §10.1.1: the body comes all the same, or the connection ends.
                if peer.exactly(5).is_err() {
                    return;
                }
            } else {
                peer.say(ok("next"));
            }
        }
    });
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    let mut client = Peer::to(front);
    assert_eq!(client.say(EXPECTING).answer().unwrap().status(), 417);
    assert_eq!(client.say("hello").get("/").text(), "next");
    assert_eq!(seen.connections(), 1);
    assert_eq!(client.say(EXPECTING).answer().unwrap().status(), 417);
    drop(client);
    wait_for("the server connection to follow its client", || seen.open() == 0);
}

#[test]
fn interim_answers_pass_in_their_order_and_not_to_an_old_client() {
    let (server, _) = serving(|_, peer| {
        peer.say("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n");
        peer.say("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </b.css>\r\n\r\n");
        peer.say(ok("final"));
        true
    });
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    let mut client = Peer::to(front);
    for _ in 0..2 {
        client.say(get("/"));
        let links = [Some("</a.css>"), None, Some("</b.css>")];
        for (status, link) in [103, 102, 103].into_iter().zip(links) {
            let interim = client.answer().unwrap();
            assert_eq!((interim.status(), interim.field("link")), (status, link));
        }
        assert_eq!(client.answer().unwrap().text(), "final");
    }
    let mut old = Peer::to(front);
    assert_eq!(old.say("GET / HTTP/1.0\r\nHost: a\r\n\r\n").answer().unwrap().text(), "final");
    assert_eq!(old.end(), Ok(()));
}

#[test]
fn an_old_client_keeps_its_connection_only_if_it_asks_for_it() {
    let (server, seen) = serving(|request, peer| {
        assert!(request.head.starts_with("GET / HTTP/1.1\r\n") && request.field("connection").is_none());
        peer.say(ok("x"));
        true
    });
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    let mut plain = Peer::to(front);
    let answer = plain.say("GET / HTTP/1.0\r\n\r\n").answer().unwrap();
    assert_eq!((answer.text(), answer.says("close")), ("x", true));
    assert_eq!(plain.end(), Ok(()));
    let mut keeping = Peer::to(front);
    for _ in 0..3 {
        let answer = keeping.say("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").answer().unwrap();
        assert_eq!((answer.text(), answer.says("keep-alive")), ("x", true));
    }
    assert_eq!(seen.connections(), 1);
}

#[test]
fn an_old_client_gets_a_chunked_answer_without_its_chunks() {
    let (server, seen) = serving(|_, peer| {
        peer.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n");
        peer.say("6\r\n world\r\n0\r\nX-Trailer: 1\r\n\r\n");
        true
    });
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    for connection in ["", "Connection: keep-alive\r\n"] {
        let mut old = Peer::to(front);
        let answer = old.say(format!("GET / HTTP/1.0\r\n{connection}\r\n")).answer().unwrap();
        assert_eq!(
            (answer.text(), answer.field("transfer-encoding"), answer.says("close")),
            ("hello world", None, true)
        );
    }
    // The client's connection had to end, the server's did not.
    assert_eq!(seen.connections(), 1);
}

#[test]
fn a_hundred_pipelined_requests_are_answered_in_order() {
    let (server, seen) = serving(|request, peer| {
        let body = format!("{} {} {}", request.method(), request.path(), request.text());
        match request.path().as_bytes().last() {
            Some(b'3') => peer.say(format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                body.len()
            )),
            Some(b'5') => peer.say(format!("HTTP/1.1 103 Early Hints\r\n\r\n{}", ok(&body))),
            Some(b'7') => peer.say("HTTP/1.1 204 No Content\r\n\r\n"),
            Some(_) if request.method() == "HEAD" => {
                peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()))
            }
            _ => peer.say(ok(&body)),
        };
        // Now and then a server goes, or says that it does.
        !request.path().ends_with("00")
    });
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    let mut client = Peer::to(front);
    let mut all = String::new();
    for number in 0..100 {
        all += &match number % 4 {
            0 => format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n"),
            1 => format!("POST /{number} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"),
            2 => format!(
                "POST /{number} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
            ),
            _ => format!("HEAD /{number} HTTP/1.1\r\nHost: a\r\n\r\n"),
        };
    }
    // A HEAD whose answer comes in chunks has no body either.
    let all = all.replace("HEAD /3 ", "GET /3 ").replace("HEAD /23 ", "GET /23 ").replace("HEAD /43 ", "GET /43 ");
    let all = all.replace("HEAD /63 ", "GET /63 ").replace("HEAD /83 ", "GET /83 ");
    client.say(&all);
    for number in 0..100 {
        let (method, body) = match number % 4 {
            0 => ("GET", ""),
            1 | 2 => ("POST", "body"),
            _ if number % 10 == 3 => ("GET", ""),
            _ => ("HEAD", ""),
        };
        let mut answer = client.answer_to(method).unwrap();
        if number % 10 == 5 {
            assert_eq!(answer.status(), 103, "{number}");
            answer = client.answer_to(method).unwrap();
        }
        match number % 10 {
            7 => assert_eq!(answer.status(), 204, "{number}"),
            _ if method == "HEAD" => assert_eq!((answer.status(), answer.text()), (200, ""), "{number}"),
            _ => assert_eq!(answer.text(), format!("{method} /{number} {body}")),
        }
    }
    assert_eq!(seen.requests().len(), 100);
}

#[test]
fn connect_is_refused() {
    let (server, seen) = numbering();
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    let mut client = Peer::to(front);
    let answer = client.say("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n").answer().unwrap();
    assert_eq!((answer.status(), answer.says("close")), (405, true));
    assert_eq!((client.end(), seen.connections()), (Ok(()), 0));
}

/// A server that answers when told to.
fn waiting(
    abort_on_close: bool,
) -> (Peer, Arc<AtomicBool>, Arc<crate::data_support::http::Seen>, crate::data_support::Plane) {
    let go = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&go);
    let (server, seen) = scripted(move |peer| {
        let _ = peer.head();
        peer.stream().set_nonblocking(true).unwrap();
        wait_for("the word, or the end", || told.load(SeqCst) || matches!(peer.stream().peek(&mut [0]), Ok(0)));
        peer.say(ok("late"));
    });
    let (front, plane) = stage(vec![at("a", server)], |plan| plan.backends[0].abort_on_close = abort_on_close);
    let mut client = Peer::to(front);
    client.say(get("/"));
    wait_for("the request", || seen.connections() == 1);
    (client, go, seen, plane)
}

#[test]
fn a_client_that_has_said_all_gets_its_answer() {
    let (mut client, go, _seen, _plane) = waiting(false);
    client.stream().shutdown(Shutdown::Write).unwrap();
    go.store(true, SeqCst);
    assert_eq!(client.answer().unwrap().text(), "late");
}

#[test]
fn with_abort_on_close_it_is_taken_as_gone() {
    let (mut client, _go, seen, plane) = waiting(true);
    client.stream().shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.end(), Ok(()));
    wait_for("the server to be left", || seen.open() == 0);
    assert_eq!(plane.stats().frontends[0].client_aborts, 1);
}

#[test]
fn a_client_that_resets_takes_its_server_connection_along() {
    let (client, _go, seen, plane) = waiting(false);
    client.reset();
    wait_for("the server to be left", || seen.open() == 0);
    assert_eq!(plane.stats().frontends[0].client_aborts, 1);
}
