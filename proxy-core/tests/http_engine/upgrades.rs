//! Upgrades: what comes after 101 is bytes, both ways; without 101 it is HTTP as before.

use std::io::ErrorKind;
use std::net::Shutdown;

use crate::data_support::http::{Peer, numbering, ok, scripted, serving, stage};
use crate::data_support::{at, wait_for};

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Switches, says `first`, and sends back what it gets.
fn switching(first: &'static str) -> (std::net::SocketAddr, std::sync::Arc<crate::data_support::http::Seen>) {
    scripted(move |peer| {
        let Ok(Some(head)) = peer.head() else { return };
        assert!(head.to_ascii_lowercase().contains("connection: upgrade\r\nupgrade: websocket\r\n"), "{head}");
        peer.say(format!("{SWITCH}{first}"));
        let mut buffer = vec![0; 1 << 16];
        while let Ok(count @ 1..) = peer.some(&mut buffer) {
            peer.say(&buffer[..count]);
        }
        peer.say("bye");
    })
}

#[test]
fn after_101_bytes_go_both_ways_and_each_side_ends_by_itself() {
    let (server, seen) = switching("");
    let (front, plane) = stage(vec![at("a", server)], |_| {});
    let mut client = Peer::to(front);
    let answer = client.say(UPGRADE).answer().unwrap();
    assert_eq!((answer.status(), answer.field("upgrade")), (101, Some("websocket")));
    for size in [1, 1000, 100_000] {
        let piece = vec![b'\n'; size];
        assert!(client.say(&piece).exactly(size).unwrap() == piece);
    }
    client.stream().shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.rest().unwrap(), b"bye");
    wait_for("the end", || plane.stats().sessions == 0 && seen.open() == 0);
    let stats = plane.stats();
    assert_eq!(stats.frontends[0].http.unwrap().responses.informational, 1);
    // The tunnel is counted at both ends.
    assert!(stats.frontends[0].bytes_in >= 101_001 && stats.backends[0].servers[0].bytes_in >= 101_001);
    assert!(stats.frontends[0].bytes_out >= 101_004 && stats.backends[0].servers[0].bytes_out >= 101_004);
}

#[test]
fn what_was_sent_along_with_either_head_is_not_lost() {
    let (server, _) = switching("welcome");
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    let mut client = Peer::to(front);
    client.say(format!("{UPGRADE}GET / HTTP/1.1\r\nHost: b\r\n\r\n"));
    assert_eq!(client.answer().unwrap().status(), 101);
    assert_eq!(client.exactly(7).unwrap(), b"welcome");
    assert_eq!(client.exactly(27).unwrap(), b"GET / HTTP/1.1\r\nHost: b\r\n\r\n"[..27]);
}

#[test]
fn a_refused_upgrade_is_an_answer_like_any_other() {
    let (server, seen) = serving(|request, peer| {
        match request.field("upgrade") {
            Some(_) => peer.say("HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno"),
            None => peer.say(ok("yes")),
        };
        true
    });
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    let mut client = Peer::to(front);
    for _ in 0..2 {
        let answer = client.say(UPGRADE).answer().unwrap();
        assert_eq!((answer.status(), answer.text()), (400, "no"));
        assert_eq!(client.get("/").text(), "yes");
    }
    assert_eq!(seen.connections(), 1);
}

#[test]
fn a_switch_that_nobody_asked_for_or_before_the_requests_end_is_no_answer() {
    let early =
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\n12";
    for request in ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", early] {
        let (server, seen) = scripted(|peer| {
            let _ = peer.head();
            let _ = peer.say(SWITCH).rest();
        });
        let (front, plane) = stage(vec![at("a", server)], |_| {});
        assert_eq!(Peer::to(front).say(request).answer().unwrap().status(), 502, "{request}");
        wait_for("the server to be left", || seen.open() == 0);
        assert_eq!(plane.stats().backends[0].bad_responses.values().sum::<u64>(), 1);
    }
}

#[test]
fn a_reset_of_one_side_of_a_tunnel_is_a_reset_of_the_other() {
    let (server, seen) = scripted(|peer| {
        let _ = peer.head();
        let _ = peer.say(SWITCH).exactly(3);
        socket2::SockRef::from(peer.stream()).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    });
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    let mut client = Peer::to(front);
    assert_eq!(client.say(UPGRADE).answer().unwrap().status(), 101);
    assert_eq!(client.say("bye").end(), Err(ErrorKind::ConnectionReset));
    let mut client = Peer::to(front);
    assert_eq!(client.say(UPGRADE).answer().unwrap().status(), 101);
    client.reset();
    wait_for("the server to be left", || (seen.connections(), seen.open()) == (2, 0));
}

#[test]
fn a_tunnels_server_connection_is_never_used_again() {
    let (server, _) = switching("");
    let (other, _) = numbering();
    let (front, plane) = stage(vec![at("a", server), at("b", other)], |_| {});
    let mut client = Peer::to(front);
    assert_eq!(client.say(UPGRADE).answer().unwrap().status(), 101);
    drop(client);
    wait_for("the end", || plane.stats().workers[0].server_connections == 0);
}
