//! What `lbnode status` says of HTTP, from the bytes on a socket to the numbers on the page: each kind of request moves
//! its counters and no other.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tests::place::Place;
use tests::serve::{Serve, Site, binary};
use tests::wait::wait_until;

/// For anything that should be quick.
const SOON: Duration = Duration::from_secs(20);

/// A server that answers what its path says; `/short` and `/broken` are answered badly.
fn server(address: SocketAddr) {
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || attend(stream));
        }
    });
}

fn attend(stream: TcpStream) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    while let Some(Ok(first)) = lines.next() {
        lines.by_ref().map_while(Result::ok).find(String::is_empty);
        let path = first.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
        let answer = match path {
            "short" => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe".to_owned(),
            "broken" => "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello".to_owned(),
            status => format!("HTTP/1.1 {status} Such\r\nContent-Length: 0\r\n\r\n"),
        };
        if (&stream).write_all(answer.as_bytes()).is_err() || path.parse::<u16>().is_err() {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}

/// Says this on a connection of its own, and that it has said all; what comes back, until the end or a reset.
fn say(address: SocketAddr, bytes: &str) -> String {
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    client.write_all(bytes.as_bytes()).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    while let Ok(count @ 1..) = client.read(&mut part) {
        answer.extend_from_slice(&part[..count]);
    }
    String::from_utf8(answer).unwrap()
}

fn status(serve: &Serve, arguments: &[&str]) -> String {
    let output = Command::new(binary()).arg("--control").arg(&serve.control).arg("status").args(arguments).output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

fn get(path: &str) -> String {
    format!("GET /{path} HTTP/1.1\r\nHost: h\r\n\r\n")
}

#[test]
fn every_kind_of_request_moves_its_counters_and_no_other() {
    let place = Place::new("http-status").unwrap();
    let (front, tcp, back) = (place.at(8001), place.at(8002), place.at(7001));
    server(back);
    let mut site = Site::new(front, back);
    site.backend = "retries = 0".into();
    site.more = format!(
        "[[frontend.front.rule]]\nwhen = {{ path = \"/secret\" }}\ndeny = 403\n\n\
         [frontend.raw]\nmode = \"tcp\"\nbind = \"{tcp}\"\ndefault_backend = \"raw\"\n\n\
         [backend.raw]\nmode = \"tcp\"\nservers = [{{ name = \"two\", address = \"{back}\" }}]\n"
    );
    let serve = Serve::start(&place, &site.toml()).unwrap();

    let table = [
        (get("200"), "200"),
        (get("204"), "204"),
        (get("302"), "302"),
        (get("404"), "404"),
        (get("500"), "500"),
        (get("700"), "700"),
        (get("secret"), "403"),
        (get("broken"), "502"),
        (get("short"), "200"),
        ("GET /200 HTTP/1.1\nHost: h\r\n\r\n".into(), "400"),
        ("GET /200 HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n".into(), "400"),
        ("GET /200 HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n".into(), "400"),
        ("CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n".into(), "405"),
        ("GET /200 HTTP/3.0\r\nHost: h\r\n\r\n".into(), "505"),
        ("POST /200 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n".into(), "400"),
        ("GET /200 HTTP/1.1\r\nHo".into(), "400"),
    ];
    for (request, expected) in &table {
        let answer = say(front, request);
        assert_eq!(answer.get(9..12), Some(*expected), "{request:?} got {answer:?}");
    }
    assert!(say(tcp, &get("200")).starts_with("HTTP/1.1 200"));

    // Counted as a connection ends, which may be after its last byte.
    let read = || -> Value { serde_json::from_str(&status(&serve, &["--json"])).unwrap() };
    let counted = wait_until("the end of all sessions", SOON, || {
        let status = read();
        if status["frontends"][0]["sessions"] == 0 { Ok(status) } else { Err(status["frontends"].to_string()) }
    });
    let counted = counted.unwrap();
    let [http, raw] = [0, 1].map(|index| &counted["frontends"][index]);
    assert_eq!(http["http"]["requests"], 10);
    assert_eq!(http["http"]["responses"], json!({ "1xx": 0, "2xx": 3, "3xx": 1, "4xx": 8, "5xx": 3, "other": 1 }));
    let bad = json!({ "bare_lf": 1, "host_repeated": 2, "connect": 1, "version": 1, "chunk_size": 1, "truncated": 1 });
    assert_eq!(http["bad_requests"], bad);
    assert_eq!((&http["denied"], &http["client_aborts"]), (&json!(1), &json!(1)));
    assert_eq!((raw.get("http"), &raw["bad_requests"], &raw["denied"]), (None, &json!({}), &json!(0)));

    let [http, raw] = [0, 1].map(|index| &counted["backends"][index]);
    assert_eq!(http["http"]["requests"], 8);
    assert_eq!(http["http"]["responses"], json!({ "1xx": 0, "2xx": 3, "3xx": 1, "4xx": 1, "5xx": 1, "other": 1 }));
    assert_eq!(http["bad_responses"], json!({ "content_length": 1 }));
    let server = &http["servers"][0];
    assert_eq!((&server["response_errors"], &server["connect_errors"]), (&json!(2), &json!(0)));
    assert_eq!((&server["http"]["requests"], &server["sessions_total"]), (&json!(8), &json!(8)));
    assert_eq!(server["http"]["responses"], http["http"]["responses"]);
    assert_eq!((raw.get("http"), raw["servers"][0].get("http")), (None, None));

    let page = status(&serve, &[]);
    let row: Vec<&str> = page
        .lines()
        .skip_while(|line| !line.trim_start().starts_with("HTTP "))
        .nth(1)
        .unwrap_or_else(|| panic!("no line of HTTP in\n{page}"))
        .split_whitespace()
        .collect();
    assert_eq!(row[..8], ["front", "10", "3", "1", "8", "3", "1", "host_repeated"], "{page}");
}

#[test]
fn idle_server_connections_are_shown_while_they_are_idle() {
    let place = Place::new("http-idle").unwrap();
    let (front, back) = (place.at(8001), place.at(7001));
    server(back);
    let serve = Serve::start(&place, &Site::new(front, back).toml()).unwrap();
    let mut client = TcpStream::connect(front).unwrap();
    client.write_all(get("204").as_bytes()).unwrap();
    client.read_exact(&mut [0; 12]).unwrap();
    let seen = wait_until("the connection to be idle", SOON, || {
        let status: Value = serde_json::from_str(&status(&serve, &["--json"])).unwrap();
        let worker = &status["workers"][0];
        let idle = worker["server_connections"] == 1 && worker["idle_server_connections"] == 1;
        if idle { Ok(()) } else { Err(worker.to_string()) }
    });
    seen.unwrap();
}
