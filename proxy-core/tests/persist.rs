//! Clients that stay with their server over sockets: by stick tables in both modes, by cookies of each kind; and rules that
//! look at what the tables count.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod data_support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};
use std::time::Duration;

use data_support::http::{Peer, get, serving, web};
use data_support::{Plane, at, listeners, start, wait_for};
use proxy_core::plan::{
    Action, Check, Condition, Cookie, CookieMode, HttpProbe, Mode, Persist, Plan, Probe, Reply, Rule, Server,
    StickCounter, StickKey, StickTable,
};
use proxy_core::plane::LogDescriptors;
use proxy_core::stats::ServerState;
use socket2::{Domain, Socket, Type};

const HOUR: Duration = Duration::from_secs(3600);

/// A server that says its name and which cookies it saw, and answers checks with the status in the cell.
fn named(name: &'static str, fields: &'static str) -> (Server, Arc<AtomicU16>) {
    let health = Arc::new(AtomicU16::new(200));
    let now = Arc::clone(&health);
    let (address, _) = serving(move |request, peer| {
        let status = if request.path() == "/health" { now.load(SeqCst) } else { 200 };
        let body = format!("{name} {}", request.field("cookie").unwrap_or("-"));
        peer.say(format!("HTTP/1.1 {status} Whatever\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len()));
        true
    });
    (at(name, address), health)
}

fn table(counters: &[StickCounter]) -> StickTable {
    StickTable {
        name: "t".into(),
        key: StickKey::Source { v4: 32, v6: 128 },
        size: 100,
        expire: HOUR,
        counters: counters.into(),
    }
}

fn cookie(mode: CookieMode) -> Cookie {
    Cookie {
        name: "SRV".into(),
        mode,
        secure: false,
        http_only: true,
        same_site: None,
        domain: None,
        max_idle: None,
        max_life: None,
    }
}

/// A plane of one worker whose servers are checked, and whose clients are in the table `t`.
fn stage(servers: Vec<Server>, mode: &Mode, change: impl FnOnce(&mut Plan)) -> (SocketAddr, Plane, Plan) {
    let (address, sockets) = listeners(1);
    let mut plan = web(address, servers);
    plan.frontends[0].mode = mode.clone();
    plan.stick_tables = vec![table(&[])];
    plan.backends[0].persist = Some(Persist::Table(0));
    plan.backends[0].check = Some(Check {
        probe: Probe::Http(HttpProbe { path: "/health".into(), ..HttpProbe::default() }),
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(5),
        rise: 1,
        fall: 1,
        ..Check::default()
    });
    change(&mut plan);
    let plane = start(plan.clone(), 1, sockets);
    let servers = plan.backends[0].servers.len();
    (0..servers).for_each(|server| becomes(&plane, server, true));
    (address, plane, plan)
}

fn both_modes() -> [Mode; 2] {
    let (address, _) = listeners(1);
    [Mode::Tcp, web(address, Vec::new()).frontends.remove(0).mode]
}

fn becomes(plane: &Plane, server: usize, up: bool) {
    wait_for("a check", || {
        let state = plane.stats().backends[0].servers[server].state;
        if up { matches!(state, ServerState::Up | ServerState::Drain) } else { state == ServerState::Down }
    });
}

/// A connection from 127.0.0.`host`.
fn from(host: u8, address: SocketAddr) -> Peer {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, host)), 0).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    Peer::new(socket.into())
}

/// Which server a new connection from there comes to.
fn reaches(host: u8, address: SocketAddr) -> String {
    from(host, address).get("/").text()[..1].to_owned()
}

#[test]
fn a_client_stays_with_its_server_while_others_are_balanced() {
    for mode in &both_modes() {
        let servers = vec![named("a", "").0, named("b", "").0, named("c", "").0];
        let (address, plane, _) = stage(servers, mode, |_| {});
        let homes: Vec<String> = (1..=3).map(|host| reaches(host, address)).collect();
        assert_eq!(homes, ["a", "b", "c"]);
        for _ in 0..4 {
            for host in [3, 1, 2] {
                assert_eq!(reaches(host, address), homes[usize::from(host) - 1], "{mode:?}");
            }
        }
        let stats = &plane.stats().stick_tables[0];
        assert_eq!((stats.entries, stats.size, stats.evicted), (3, 100, 0));
        assert_eq!((stats.hits, stats.misses), (12, 3));
    }
}

#[test]
fn a_client_whose_server_goes_down_moves_and_stays_there() {
    for mode in &both_modes() {
        let ((a, health), (b, _)) = (named("a", ""), named("b", ""));
        let (address, plane, _) = stage(vec![a, b], mode, |_| {});
        assert_eq!(reaches(1, address), "a");
        health.store(503, SeqCst);
        becomes(&plane, 0, false);
        assert_eq!(reaches(1, address), "b");
        health.store(200, SeqCst);
        becomes(&plane, 0, true);
        for _ in 0..3 {
            assert_eq!(reaches(1, address), "b", "{mode:?}");
        }
    }
}

#[test]
fn a_client_that_was_lent_to_a_fallback_comes_back_to_its_own_server() {
    for mode in &both_modes() {
        let ((a, health), (sorry, _)) = (named("a", ""), named("s", ""));
        let (address, plane, _) = stage(vec![a, Server { backup: true, stick: false, ..sorry }], mode, |_| {});
        assert_eq!(reaches(1, address), "a");
        health.store(503, SeqCst);
        becomes(&plane, 0, false);
        assert_eq!((reaches(1, address), reaches(2, address)), ("s".into(), "s".into()));
        assert_eq!(plane.stats().stick_tables[0].entries, 1, "nobody stays there");
        health.store(200, SeqCst);
        becomes(&plane, 0, true);
        assert_eq!((reaches(1, address), reaches(2, address)), ("a".into(), "a".into()), "{mode:?}");
    }
}

#[test]
fn a_draining_server_keeps_its_clients_and_an_apply_that_reorders_them_too() {
    for mode in &both_modes() {
        let servers = vec![named("a", "").0, named("b", "").0];
        let (address, mut plane, mut plan) = stage(servers, mode, |_| {});
        assert_eq!((reaches(1, address), reaches(2, address)), ("a".into(), "b".into()));
        plan.backends[0].servers.reverse();
        plan.backends[0].servers[1].weight = 0;
        plan.stick_tables[0].expire = 2 * HOUR;
        plane.apply(plan.clone(), Vec::new(), &[], LogDescriptors::new()).unwrap();
        wait_for("the apply", || plane.ready());
        for _ in 0..3 {
            let homes = [1, 2, 3].map(|host| reaches(host, address));
            assert_eq!(homes, ["a", "b", "b"], "{mode:?}");
        }
        plan.backends[0].servers.pop();
        plane.apply(plan, Vec::new(), &[], LogDescriptors::new()).unwrap();
        wait_for("the apply", || plane.ready());
        assert_eq!(reaches(1, address), "b", "its server is gone");
        assert_eq!(plane.stats().stick_tables[0].entries, 3);
    }
}

#[test]
fn a_client_waits_for_its_own_server_while_others_have_room() {
    let servers = [named("a", "").0, named("b", "").0];
    let servers = servers.map(|server| Server { max_connections: Some(1), ..server });
    let (address, plane, _) = stage(servers.into(), &Mode::Tcp, |_| {});
    let mut first = from(1, address);
    assert_eq!(first.get("/").text(), "a -");
    let mut second = from(1, address);
    second.say(get("/"));
    wait_for("the queue", || plane.stats().backends[0].queue == 1);
    assert_eq!(reaches(2, address), "b", "nobody waits for somebody else's server");
    drop(first);
    assert_eq!(second.answer().unwrap().text(), "a -");
    assert_eq!(plane.stats().backends[0].queue, 0);
}

#[test]
fn who_waits_for_a_server_that_goes_down_goes_elsewhere() {
    let ((a, health), (b, _)) = (named("a", ""), named("b", ""));
    let servers = vec![Server { max_connections: Some(1), ..a }, b];
    let (address, plane, _) = stage(servers, &Mode::Tcp, |_| {});
    let mut first = from(1, address);
    assert_eq!(first.get("/").text(), "a -");
    let mut second = from(1, address);
    second.say(get("/"));
    wait_for("the queue", || plane.stats().backends[0].queue == 1);
    health.store(503, SeqCst);
    assert_eq!(second.answer().unwrap().text(), "b -");
}

#[test]
fn a_table_that_is_too_small_is_said_to_be() {
    let (address, plane, _) = stage(vec![named("a", "").0], &Mode::Tcp, |plan| plan.stick_tables[0].size = 1);
    (1..=5).for_each(|host| assert_eq!(reaches(host, address), "a"));
    let stats = &plane.stats().stick_tables[0];
    assert_eq!((stats.entries, stats.evicted), (1, 4));
}

fn act(action: Action) -> Rule {
    Rule { when: None, action }
}

fn above(counter: StickCounter, above: u32, action: Action) -> Rule {
    Rule { when: Some(Condition::Rate { table: 0, counter, above }), action }
}

fn deny(status: u16) -> Action {
    Action::Deny(Reply { status, body: None, content_type: "text/plain".into() })
}

#[test]
fn requests_over_a_rate_are_denied_for_whom_it_concerns() {
    let rate = StickCounter::HttpReqRate(HOUR);
    let [_, http] = &both_modes();
    let (address, plane, _) = stage(vec![named("a", "").0], http, |plan| {
        plan.stick_tables[0] = table(&[rate, StickCounter::HttpErrRate(HOUR)]);
        plan.frontends[0].rules = vec![
            act(Action::Track(0)),
            above(StickCounter::HttpErrRate(HOUR), 1, Action::Reject { reset: false }),
            above(rate, 3, deny(429)),
        ];
    });
    let mut client = from(1, address);
    let answers: Vec<u16> = (0..5).map(|_| client.get("/").status()).collect();
    assert_eq!(answers, [200, 200, 200, 429, 429]);
    assert!(client.say(get("/")).answer().is_err(), "too many errors");
    assert_eq!(from(2, address).get("/").status(), 200);
    assert_eq!(plane.stats().stick_tables[0].entries, 2);
}

#[test]
fn connections_at_once_and_over_a_rate_are_rejected() {
    for mode in &both_modes() {
        let rate = StickCounter::ConnRate(HOUR);
        let (address, _plane, _) = stage(vec![named("a", "").0], mode, |plan| {
            plan.stick_tables[0] = table(&[StickCounter::ConnCur, rate]);
            plan.frontends[0].rules = vec![
                act(Action::Track(0)),
                above(StickCounter::ConnCur, 1, Action::Reject { reset: false }),
                above(rate, 100, Action::Reject { reset: false }),
            ];
        });
        let serves = |peer: &mut Peer| peer.say(get("/")).answer().is_ok();
        let mut first = from(1, address);
        assert!(serves(&mut first) && serves(&mut first));
        assert!(!serves(&mut from(1, address)), "one at a time");
        assert!(serves(&mut from(2, address)), "that is another one");
        drop(first);
        wait_for("its end to be counted", || serves(&mut from(1, address)));
        let mut count = 0;
        wait_for("the rate", || {
            count += 1;
            !serves(&mut from(2, address)) && count > 98
        });
    }
}

#[test]
fn a_rule_counts_what_another_one_looks_at() {
    let [_, http] = &both_modes();
    let (address, _plane, _) = stage(vec![named("a", "").0], http, |plan| {
        plan.stick_tables[0] = table(&[StickCounter::Gpc0]);
        plan.frontends[0].rules =
            vec![above(StickCounter::Gpc0, 1, deny(403)), data_support::http::rule("/trap", Action::IncGpc0(0))];
    });
    let mut client = from(1, address);
    let answers: Vec<u16> = ["/", "/trap", "/", "/trap", "/"].map(|path| client.get(path).status()).into();
    assert_eq!(answers, [200, 200, 200, 200, 403]);
    assert_eq!(from(2, address).get("/").status(), 200);
}

#[test]
fn bytes_are_counted_while_they_pass() {
    for mode in &both_modes() {
        let rate = StickCounter::BytesOutRate(HOUR);
        let (address, _plane, _) = stage(vec![named("a", "").0], mode, |plan| {
            plan.stick_tables[0] = table(&[rate]);
            plan.frontends[0].rules = vec![act(Action::Track(0)), above(rate, 50, Action::Reject { reset: false })];
        });
        let mut long = from(1, address);
        assert_eq!(long.get("/").status(), 200);
        // The session of TCP goes on, and is counted all the same.
        wait_for("its bytes", || from(1, address).say(get("/")).answer().is_err());
    }
}

fn ask(address: SocketAddr, cookie: &str) -> data_support::http::Message {
    let cookie = if cookie.is_empty() { String::new() } else { format!("Cookie: {cookie}\r\n") };
    from(1, address).say(format!("GET / HTTP/1.1\r\nHost: a.test\r\n{cookie}\r\n")).answer().unwrap()
}

#[test]
fn an_inserted_cookie_holds_a_client_until_its_server_goes_down() {
    let ((a, health), (b, _)) = (named("a", ""), named("b", ""));
    let b = Server { cookie: Some("bee".into()), ..b };
    let [_, http] = &both_modes();
    let (address, plane, _) = stage(vec![a, b], http, |plan| {
        plan.backends[0].persist = Some(Persist::Cookie(Box::new(cookie(CookieMode::Insert))));
    });
    let first = ask(address, "x=1");
    assert_eq!((first.text(), first.field("set-cookie")), ("a x=1", Some("SRV=a; path=/; HttpOnly")));
    assert_eq!(first.field("cache-control"), Some("private"));
    for _ in 0..3 {
        let again = ask(address, "SRV=a; x=1");
        assert_eq!((again.text(), again.field("set-cookie"), again.field("cache-control")), ("a x=1", None, None));
        assert_eq!(ask(address, "SRV=bee").text(), "b -");
    }
    for hostile in ["SRV=c", "SRV=\"", "SRV=a|x|y|z", "SRV=;SRV", "SRV==a=="] {
        assert!(ask(address, hostile).field("set-cookie").is_some(), "{hostile}");
    }
    health.store(503, SeqCst);
    becomes(&plane, 0, false);
    let moved = ask(address, "SRV=a; x=1");
    assert_eq!((moved.text(), moved.field("set-cookie")), ("b x=1", Some("SRV=bee; path=/; HttpOnly")));
}

#[test]
fn the_servers_own_cookie_is_rewritten_or_prefixed() {
    let own = "Set-Cookie: SRV=id; path=/app\r\n";
    let [_, http] = &both_modes();
    let plain = |mode| Cookie { http_only: false, ..cookie(mode) };
    for (mode, set, sent, seen) in [
        (CookieMode::Rewrite, ["SRV=a; path=/app", "SRV=b; path=/app"], ["SRV=a", "SRV=b"], ["a SRV=a", "b SRV=b"]),
        (
            CookieMode::Prefix,
            ["SRV=a~id; path=/app", "SRV=b~id; path=/app"],
            ["SRV=a~id; x=1", "SRV=b~id"],
            ["a SRV=id; x=1", "b SRV=id"],
        ),
    ] {
        let (address, _plane, _) = stage(vec![named("a", own).0, named("b", own).0], http, |plan| {
            plan.backends[0].persist = Some(Persist::Cookie(Box::new(plain(mode))));
        });
        let answers = [ask(address, ""), ask(address, "")];
        assert_eq!([0, 1].map(|one: usize| answers[one].field("set-cookie").unwrap()), set);
        for _ in 0..2 {
            assert_eq!([1, 0].map(|one| ask(address, sent[one]).text().to_owned()), [seen[1], seen[0]], "{mode:?}");
        }
    }
}
