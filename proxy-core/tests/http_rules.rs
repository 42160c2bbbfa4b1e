//! Rules over sockets: what a client gets, and what of its request a server sees.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod data_support;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use data_support::{PATIENCE, at, client, echo, echoes, listeners, plan, server, start};
use proxy_core::plan::{
    Action, ClientSupplied, Condition, Forwarded, HeaderEdit, Http, Mode, Pattern, Plan, Redirect, Reply, Rule,
    Sources, Text,
};
use proxy_core::plane::LogDescriptors;

/// Answers each request with its head, as it came.
fn mirror(mut stream: TcpStream) {
    let (mut seen, mut byte) = (Vec::new(), [0]);
    while stream.read(&mut byte).is_ok_and(|read| read == 1) {
        seen.push(byte[0]);
        if seen.ends_with(b"\r\n\r\n") {
            let head = format!("HTTP/1.1 200 OK\r\nServer: mirror\r\nContent-Length: {}\r\n\r\n", seen.len());
            if stream.write_all(&[head.as_bytes(), &seen].concat()).is_err() {
                return;
            }
            seen.clear();
        }
    }
}

fn rule(path: &str, action: Action) -> Rule {
    let text = Text { any: vec![Pattern::Prefix(path.into())], ignore_case: false };
    Rule { when: Some(Condition::Path(text)), action }
}

/// What is read to the end of `request`'s connection.
fn asked(plan: impl FnOnce(&mut Plan, &mut Http), request: &str) -> std::io::Result<String> {
    let (address, sockets) = listeners(1);
    let (backend, _) = server(mirror);
    let mut made = self::plan(address, vec![at("a", backend)]);
    let mut http = Http {
        request_timeout: PATIENCE,
        keep_alive_timeout: PATIENCE,
        forwarded: None,
        request_edits: Vec::new(),
        response_edits: vec![HeaderEdit::Set("X-Frame-Options".into(), "DENY".into())],
        client_cert_headers: Vec::new(),
        error_pages: BTreeMap::from([(403, "<p>no</p>".to_owned())]),
        http2: false,
    };
    plan(&mut made, &mut http);
    made.frontends[0].mode = Mode::Http(Box::new(http));
    let _plane = start(made, 1, sockets);
    let mut stream = client(address);
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn ruled(rules: Vec<Rule>, request: &str) -> String {
    asked(|plan, _| plan.frontends[0].rules = rules, request).unwrap()
}

const ECP: &str = "GET /ecp/x?y=1 HTTP/1.1\r\nHost: mail.test:8080\r\nConnection: close\r\n\r\n";

/// An answer without its date.
fn undated(answer: &str) -> String {
    let (head, rest) = answer.split_once("Date: ").expect("an answer of ours has a date");
    let (date, rest) = rest.split_once("\r\n").unwrap();
    assert!(date.len() == 29 && date.ends_with(" GMT"), "{date}");
    format!("{head}{rest}")
}

#[test]
fn a_denied_request_gets_the_page_of_its_status_and_a_later_rule_is_not_asked() {
    let reply = Reply { status: 403, body: None, content_type: "text/plain".into() };
    let rules = vec![rule("/ecp", Action::Deny(reply)), rule("/", Action::Reject { reset: true })];
    assert_eq!(
        undated(&ruled(rules, ECP)),
        "HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\nContent-Type: text/html; charset=utf-8\r\n\
        Cache-Control: no-cache\r\nX-Frame-Options: DENY\r\nConnection: close\r\n\r\n<p>no</p>"
    );
}

#[test]
fn a_redirect_to_another_scheme_leaves_the_port_behind() {
    let to = Redirect::Scheme("https".into());
    assert_eq!(
        undated(&ruled(vec![rule("/ecp", Action::Redirect { to, code: 301 })], ECP)),
        "HTTP/1.1 301 Moved Permanently\r\nContent-Length: 0\r\nLocation: https://mail.test/ecp/x?y=1\r\n\
        X-Frame-Options: DENY\r\nConnection: close\r\n\r\n"
    );
}

#[test]
fn a_returned_answer_leaves_the_connection_for_the_next_request() {
    let reply = Reply { status: 200, body: Some("pong".into()), content_type: "text/plain".into() };
    let ping = "GET /ping HTTP/1.1\r\nHost: a\r\n\r\n";
    let answers = ruled(vec![rule("/ping", Action::Return(reply))], &format!("{ping}HEAD{}{ECP}", &ping[3..]));
    let (first, rest) = answers.split_once("\r\n\r\npong").unwrap();
    assert!(first.starts_with("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Type: text/plain\r\n"), "{first}");
    let (second, third) = rest.split_once("\r\n\r\n").unwrap();
    assert!(second.starts_with("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n"), "{second}");
    assert!(third.starts_with("HTTP/1.1 200 OK\r\nServer: mirror\r\n"), "{third}");
}

#[test]
fn a_rejected_connection_is_closed_or_reset_without_an_answer() {
    let rules = |reset| vec![rule("/ecp", Action::Reject { reset })];
    assert_eq!(ruled(rules(false), ECP), "");
    let reset = asked(|plan, _| plan.frontends[0].rules = rules(true), ECP);
    assert_eq!(reset.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
}

#[test]
fn a_tarpit_holds_the_client_before_it_says_no() {
    let (time, begun) = (Duration::from_millis(300), Instant::now());
    let answer = ruled(vec![rule("/ecp", Action::Tarpit(time))], ECP);
    assert!(answer.starts_with("HTTP/1.1 500 Internal Server Error\r\n"), "{answer}");
    assert!(begun.elapsed() >= time);
}

#[test]
fn what_rules_and_settings_change_is_what_the_server_sees_and_the_client_gets() {
    let set = |name: &str, value: &str| HeaderEdit::Set(name.into(), value.into());
    let answer = asked(
        |plan, http| {
            let loopback = Sources::Network("127.0.0.0/8".parse().unwrap());
            plan.frontends[0].rules = vec![
                rule("/ecp", Action::Rewrite { path_regex: "^/ecp/(.*)".into(), to: "/owa/$1".into() }),
                rule("/owa/", Action::EditRequest(set("X-Rule", "1"))),
                Rule {
                    when: Some(Condition::Source(vec![loopback])),
                    action: Action::EditResponse(HeaderEdit::Remove("Server".into())),
                },
            ];
            plan.backends[0].request_edits = vec![set("X-Backend", "1")];
            plan.backends[0].response_edits = vec![set("X-Frame-Options", "SAMEORIGIN"), set("X-Back", "1")];
            http.request_edits = vec![set("X-Front", "1"), HeaderEdit::Remove("X-Secret".into())];
            http.forwarded =
                Some(Forwarded { except: Vec::new(), client_supplied: ClientSupplied::Remove, rfc7239: true });
        },
        "GET /ecp/x?y=1 HTTP/1.1\r\nhost: mail.test\r\nX-Secret: 1\r\nConnection: close\r\n\
        X-Forwarded-For: 10.0.0.1\r\naCCEPT: */*\r\n\r\n",
    )
    .unwrap();
    let seen = "GET /owa/x?y=1 HTTP/1.1\r\nhost: mail.test\r\naCCEPT: */*\r\nX-Front: 1\r\nX-Rule: 1\r\nX-Backend: 1\r\n\
        X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: mail.test\r\n\
        Forwarded: for=127.0.0.1;host=mail.test;proto=http\r\n\r\n";
    let length = seen.len();
    let head = "X-Back: 1\r\nX-Frame-Options: DENY\r\nConnection: close\r\n\r\n";
    assert_eq!(answer, format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{head}{seen}"));
}

#[test]
fn in_tcp_rules_choose_by_where_a_client_comes_from() {
    let (address, sockets) = listeners(1);
    let (backend, _) = server(echo);
    let mut plan = self::plan(address, vec![at("a", backend)]);
    plan.frontends[0].rules =
        vec![Rule { when: Some(Condition::Source(vec![Sources::List(0)])), action: Action::Reject { reset: true } }];
    let list = |text: &str| proxy_core::plan::List { name: "l".into(), networks: vec![text.parse().unwrap()] };
    plan.lists = vec![list("192.0.2.0/24")];
    let mut plane = start(plan.clone(), 1, sockets);
    assert!(echoes(&mut client(address)));
    plan.lists = vec![list("127.0.0.0/8")];
    plan.revision += 1;
    plane.apply(plan, Vec::new(), &[], LogDescriptors::new()).unwrap();
    data_support::wait_for("the list's new content", || !echoes(&mut client(address)));
}
