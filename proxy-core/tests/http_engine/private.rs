//! NTLM and Negotiate: who the server takes a connection for is one client's alone.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use proxy_core::plan::{Action, Backend};

use crate::data_support::http::{Message, Peer, Seen, numbering, ok, rule, serving, stage};
use crate::data_support::{at, wait_for};

/// Knows its user by the connection: after `NTLM hello` a challenge, after `NTLM I am NAME` it is NAME who asks from then
/// on. Answers with the connection's number and the user.
fn acceptor(scheme: &'static str) -> (SocketAddr, Arc<Seen>) {
    let users = Mutex::new(HashMap::new());
    serving(move |request, peer| {
        let mut users = users.lock().unwrap();
        let said = request.field("authorization").and_then(|value| value.strip_prefix(scheme)).map(str::trim);
        if let Some(name) = said.and_then(|said| said.strip_prefix("I am ")) {
            users.insert(peer.number, name.to_owned());
        }
        let number = peer.number;
        match users.get(&number) {
            Some(user) => peer.say(ok(&format!("{number} {user}"))),
            None => {
                let token = if said == Some("hello") { " challenge" } else { "" };
                let body = format!("{number} nobody");
                peer.say(format!(
                    "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {scheme}{token}\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                ))
            }
        };
        true
    })
}

fn ask(client: &mut Peer, path: &str, authorization: &str) -> Message {
    let authorization =
        if authorization.is_empty() { String::new() } else { format!("Authorization: {authorization}\r\n") };
    client.say(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{authorization}\r\n")).answer().unwrap()
}

/// The handshake; on which of the server's connections it was.
fn log_in(client: &mut Peer, path: &str, scheme: &str, name: &str) -> String {
    let challenge = ask(client, path, &format!("{scheme} hello"));
    assert_eq!(challenge.status(), 401);
    let number = challenge.text().split(' ').next().unwrap().to_owned();
    let answer = ask(client, path, &format!("{scheme} I am {name}"));
    assert_eq!((answer.status(), answer.text()), (200, &*format!("{number} {name}")));
    number
}

#[test]
fn each_users_requests_stay_on_their_own_connection_and_nobody_elses_get_there() {
    for scheme in ["NTLM", "Negotiate"] {
        let (server, _) = acceptor(scheme);
        let (front, _plane) = stage(vec![at("a", server)], |_| {});
        let mut users: Vec<_> = ["ann", "bob", "cem"]
            .into_iter()
            .flat_map(|name| [(name, Peer::to(front)), (name, Peer::to(front))])
            .map(|(name, mut client)| {
                let number = log_in(&mut client, "/", scheme, name);
                (name, client, number)
            })
            .collect();
        let mut stranger = Peer::to(front);
        for _ in 0..10 {
            for (name, client, number) in &mut users {
                assert_eq!(ask(client, "/", "").text(), format!("{number} {name}"));
            }
            // Its own 401 makes a connection its own as well, and not one of theirs.
            assert_eq!(ask(&mut stranger, "/", "").status(), 401);
            assert_eq!(ask(&mut Peer::to(front), "/", "").status(), 401);
        }
    }
}

#[test]
fn a_private_connection_is_closed_with_its_client_and_never_lent() {
    let (server, seen) = acceptor("NTLM");
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    let mut client = Peer::to(front);
    log_in(&mut client, "/", "NTLM", "ann");
    let mut other = Peer::to(front);
    assert_eq!(ask(&mut other, "/", "").text(), "2 nobody");
    drop(client);
    wait_for("it to be closed", || seen.open() == 1);
    assert_eq!(ask(&mut Peer::to(front), "/", "").status(), 401);
}

#[test]
fn a_challenge_makes_a_connection_private_and_so_do_credentials() {
    for (field, status, private) in [
        ("WWW-Authenticate: NTLM", 401, true),
        ("WWW-Authenticate: Basic realm=\"a, NTLM\", Negotiate", 401, true),
        ("Proxy-Authenticate: Negotiate", 407, true),
        ("WWW-Authenticate: Basic realm=\"NTLM\"", 401, false),
    ] {
        let (server, _) = serving(move |_, peer| {
            let number = peer.number;
            peer.say(format!("HTTP/1.1 {status} No\r\n{field}\r\nContent-Length: 1\r\n\r\n{number}"));
            true
        });
        let (front, _plane) = stage(vec![at("a", server)], |_| {});
        let mut clients = [Peer::to(front), Peer::to(front)];
        for _ in 0..2 {
            assert_eq!(clients[0].get("/").text(), "1", "{field}");
            assert_eq!(clients[1].get("/").text(), if private { "2" } else { "1" }, "{field}");
        }
    }
    for (authorization, private) in
        [("Negotiate abc", true), ("ntlm abc", true), ("Basic abc", false), ("Bearer NTLM", false)]
    {
        let (server, _) = numbering();
        let (front, _plane) = stage(vec![at("a", server)], |_| {});
        let (mut client, mut other) = (Peer::to(front), Peer::to(front));
        assert_eq!(ask(&mut client, "/", authorization).text(), "1");
        assert_eq!(other.get("/").text(), if private { "2" } else { "1" }, "{authorization}");
        assert_eq!(client.get("/").text(), "1");
    }
}

#[test]
fn a_pooled_connection_that_becomes_private_leaves_the_pool_for_good() {
    let (server, _) = numbering();
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    let (mut client, mut other) = (Peer::to(front), Peer::to(front));
    assert_eq!(other.get("/").text(), "1");
    assert_eq!(ask(&mut client, "/", "NTLM x").text(), "1");
    assert_eq!(other.get("/").text(), "2");
    assert_eq!((client.get("/").text(), other.get("/").text()), ("1", "2"));
}

#[test]
fn a_client_has_one_with_each_of_two_backends() {
    let (first, second) = (acceptor("NTLM"), acceptor("NTLM"));
    let (front, _plane) = stage(vec![at("a", first.0)], |plan| {
        let other = Backend { name: "other".into(), servers: vec![at("b", second.0)], ..plan.backends[0].clone() };
        plan.backends.push(other);
        plan.frontends[0].rules = vec![rule("/b", Action::UseBackend(1))];
    });
    let mut clients = [Peer::to(front), Peer::to(front)];
    for (client, name) in clients.iter_mut().zip(["ann", "bob"]) {
        log_in(client, "/a", "NTLM", name);
        log_in(client, "/b", "NTLM", &name.to_uppercase());
    }
    for _ in 0..3 {
        for (client, name) in clients.iter_mut().zip(["ann", "bob"]) {
            assert!(ask(client, "/a", "").text().ends_with(&format!(" {name}")));
            assert!(ask(client, "/b", "").text().ends_with(&format!(" {}", name.to_uppercase())));
        }
    }
    assert_eq!((first.1.connections(), second.1.connections()), (2, 2));
}

#[test]
fn with_several_servers_a_client_stays_with_the_one_that_knows_it() {
    let servers: Vec<_> = (0..3).map(|_| acceptor("NTLM")).collect();
    let (front, _plane) = stage(servers.iter().map(|(server, _)| at(&server.to_string(), *server)).collect(), |_| {});
    let mut client = Peer::to(front);
    log_in(&mut client, "/", "NTLM", "ann");
    for _ in 0..9 {
        assert!(ask(&mut client, "/", "").text().ends_with(" ann"));
        assert_eq!(ask(&mut Peer::to(front), "/", "").status(), 401);
    }
}

#[test]
fn when_the_server_closes_it_the_next_request_goes_over_a_new_one() {
    let end = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&end);
    let (server, seen) = serving(move |_, peer| {
        let number = peer.number;
        peer.say(ok(&number.to_string()));
        if number == 1 {
            wait_for("the end", || told.load(SeqCst));
        }
        number != 1
    });
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    let mut client = Peer::to(front);
    assert_eq!(ask(&mut client, "/", "NTLM x").text(), "1");
    end.store(true, SeqCst);
    wait_for("it to be closed", || seen.open() == 0);
    // Not even one that can't be sent twice fails: the end was seen before anything was sent.
    client.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.answer().unwrap().text(), "2");
}

#[test]
fn a_server_that_is_taken_out_of_the_plan_is_not_gone_back_to() {
    let (gone, stays) = (acceptor("NTLM"), acceptor("NTLM"));
    let (front, sockets) = crate::data_support::listeners(1);
    let mut plan = crate::data_support::http::web(front, vec![at("gone", gone.0)]);
    let mut plane = crate::data_support::start(plan.clone(), 1, sockets);
    let mut client = Peer::to(front);
    log_in(&mut client, "/", "NTLM", "ann");
    plan.backends[0].servers = vec![at("stays", stays.0)];
    plane.apply(plan, Vec::new(), &[], proxy_core::plane::LogDescriptors::new()).unwrap();
    wait_for("the apply", || plane.ready());
    // That server knows nobody yet.
    assert_eq!(ask(&mut client, "/", "").status(), 401);
    log_in(&mut client, "/", "NTLM", "ann");
    assert!(ask(&mut client, "/", "").text().ends_with(" ann"));
    assert_eq!(gone.1.requests().len(), 2);
}
