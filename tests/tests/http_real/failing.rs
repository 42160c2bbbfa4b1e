//! Servers that are there and serve nobody: one accepts and never answers, one answers its checks and fails its clients.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use tests::nginx::Nginx;
use tests::place::Place;

use crate::asker::{Asker, Counts};
use crate::{Front, wait_for};

const GET: &str = "GET /who HTTP/1.1\r\nHost: a\r\n\r\n";

/// The time that a server has.
const TIMEOUT: Duration = Duration::from_millis(300);

/// A server that accepts, and no more.
fn silent(address: SocketAddr) {
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || listener.incoming().flatten().collect::<Vec<_>>());
}

/// What becomes of so many requests, one after the other on one connection.
fn ask(front: &Front, count: usize) -> Counts {
    let mut asker = Asker::new(front.site.bind);
    (0..count).fold(Counts::new(), |mut counts, _| {
        *counts.entry(asker.ask(GET)).or_default() += 1;
        counts
    })
}

fn counts<const N: usize>(expected: [(&str, usize); N]) -> Counts {
    expected.into_iter().map(|(what, count)| (what.to_owned(), count)).collect()
}

/// nginx and the silent one, with these lines of the backend.
fn beside_nginx(place: &Place, backend: &str, log: Option<SocketAddr>) -> (Front, Nginx) {
    let [one, two] = [place.at(9001), place.at(9002)];
    let nginx = Nginx::server(place, "one", one).unwrap();
    silent(two);
    let front = Front::start(place, one, |site| {
        site.servers.push(("silent".into(), two));
        site.defaults = format!("timeouts = {{ server = \"{}ms\" }}", TIMEOUT.as_millis());
        if let Some(log) = log {
            site.defaults += &format!("\nlog = {{ target = \"syslog:{log}\" }}");
        }
        site.backend = backend.into();
    });
    (front, nginx)
}

#[test]
fn what_a_silent_server_was_asked_is_not_asked_again_and_is_in_the_log() {
    let place = Place::new("silent").unwrap();
    let log = UdpSocket::bind("127.0.0.1:0").unwrap();
    log.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let (front, _nginx) = beside_nginx(&place, "", Some(log.local_addr().unwrap()));
    let began = Instant::now();
    // It may have done what it was asked, and will say so too late: that is not asked of anybody else.
    assert_eq!(ask(&front, 10), counts([("200 one", 5), ("504 lbnode", 5)]));
    assert!(began.elapsed() >= 5 * TIMEOUT, "{:?}", began.elapsed());
    let mut bytes = [0; 4096];
    let lines: Vec<String> = (0..10)
        .map(|_| log.recv(&mut bytes).map(|length| String::from_utf8_lossy(&bytes[..length]).into_owned()).unwrap())
        .collect();
    let of = |words: [&str; 3]| lines.iter().filter(|line| words.iter().all(|word| line.contains(word))).count();
    assert_eq!(of([" back/silent ", " 504 ", " sH-- "]), 5, "{lines:#?}");
    assert_eq!(of([" back/one ", " 200 ", " ---- "]), 5, "{lines:#?}");
    // Connections of the process, the frontend, the backend and the server; then the retries.
    let tries =
        |line: &String| line.split("-- ").last().and_then(|rest| rest.split([' ', '/']).nth(4)?.parse::<u32>().ok());
    assert!(lines.iter().all(|line| tries(line) == Some(0)), "{lines:#?}");
}

#[test]
fn a_silent_server_fails_a_check_that_asks_it_something() {
    let place = Place::new("silent-checked").unwrap();
    let check = "check = { http = { path = \"/who\" }, interval = \"100ms\", timeout = \"2s\" }";
    let (front, _nginx) = beside_nginx(&place, check, None);
    wait_for(&front.serve, "one", "up", "passed");
    wait_for(&front.serve, "silent", "down", "no answer within 2s");
    assert_eq!(ask(&front, 50), counts([("200 one", 50)]));
}

#[test]
fn a_silent_server_that_passes_its_check_is_taken_out_by_what_clients_meet_with() {
    let place = Place::new("silent-observed").unwrap();
    let check = "check = { tcp = {}, interval = \"1h\", observe = { errors = 3, on_error = \"mark-down\" } }";
    let (front, _nginx) = beside_nginx(&place, check, None);
    ["one", "silent"].iter().for_each(|name| wait_for(&front.serve, name, "up", "passed"));
    let met = ask(&front, 40);
    wait_for(&front.serve, "silent", "down", "clients met with 3 errors in a row");
    assert_eq!(met, counts([("200 one", 37), ("504 lbnode", 3)]));
}

#[test]
fn a_server_that_answers_checks_and_fails_requests_is_taken_out_and_comes_back() {
    let place = Place::new("failing").unwrap();
    let [one, two] = [place.at(9001), place.at(9002)];
    let _one = Nginx::server(&place, "one", one).unwrap();
    let http = format!(
        "server {{ listen {two}; add_header X-Server two always; location = /health {{ return 200 \"fine\\n\"; }}
         location / {{ return 500 \"not at all\\n\"; }} }}"
    );
    let _two = Nginx::start(&place, "two", two, &http, "").unwrap();
    // How many errors it takes: those of one row, or of as many rows as there are failed checks to a fall.
    for (on_error, fall, errors) in [("mark-down", 3, 4), ("fail-check", 1, 4), ("fail-check", 2, 8)] {
        let mut front = Front::start(&place, one, |site| {
            site.servers.push(("two".into(), two));
            site.backend = format!(
                "check = {{ http = {{ path = \"/health\", expect = \"200-404\" }}, interval = \"1h\", fall = {fall}, rise = 1, \
                 observe = {{ errors = 4, window = \"1m\", on_error = \"{on_error}\" }} }}"
            );
        });
        ["one", "two"].iter().for_each(|name| wait_for(&front.serve, name, "up", "passed"));
        let met = ask(&front, 100);
        wait_for(&front.serve, "two", "down", "clients met with 4 errors in a row");
        // The check's thread may be a few requests late, and then it sees two rows as one.
        let failed = met["500 two"];
        println!("{on_error}, fall {fall}: {failed} of 100 failed");
        assert_eq!(met, counts([("200 one", 100 - failed), ("500 two", failed)]));
        assert!((errors..errors + 12).contains(&failed), "{on_error}, fall {fall}: {met:?}");
        assert_eq!(ask(&front, 50), counts([("200 one", 50)]), "{on_error}: nothing goes there any more");
        // Its next check brings it back.
        let soon = front.site.toml().replace("1h", "100ms");
        front.serve.apply(&soon).unwrap();
        wait_for(&front.serve, "two", "up", "passed");
    }
}
