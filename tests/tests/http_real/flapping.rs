//! Servers that go and come, all the time, under load: whatever can be asked again is, and every answer is counted.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use tests::h2load::{H2load, Load};
use tests::nginx::Nginx;
use tests::place::Place;
use tests::usage::descendants;
use tests::wait::{pass, wait_until};

use crate::Front;
use crate::asker::Askers;

/// What may be asked twice (RFC 9110 §9.2.2), with a body and without.
const IDEMPOTENT: &[&str] = &[
    "GET /who HTTP/1.1\r\nHost: a\r\n\r\n",
    "PUT /who HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    "DELETE /who HTTP/1.1\r\nHost: a\r\n\r\n",
];

/// Between two changes.
const BEAT: Duration = Duration::from_millis(300);
/// For what takes its time while the machine is busy.
const SLOW: Duration = Duration::from_secs(60);

/// How a server goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Going {
    /// It closes what is idle, and what isn't.
    Stops,
    /// Without a word, in the middle of whatever it does.
    Dies,
}

/// A server that goes and comes, so many times.
fn flap(start: impl Fn() -> Nginx, rounds: usize) {
    let mut server = start();
    for round in 0..rounds {
        pass(BEAT);
        if [Going::Stops, Going::Dies][round % 2] == Going::Dies {
            for worker in descendants(server.part.pid()) {
                kill(server.part.pid(), Signal::SIGKILL).unwrap();
                kill(worker.pid, Signal::SIGKILL).unwrap();
            }
        }
        drop(server);
        pass(BEAT);
        server = start();
    }
    pass(BEAT);
}

/// A server that says its name, in HTTP/2 if `http2`; its connections end now and then.
fn server(place: &Place, name: &str, address: SocketAddr, http2: &str) -> Nginx {
    let http = format!(
        "server {{ listen {address} backlog=4096 {http2}; keepalive_requests 100; add_header X-Server {name} always;
         location / {{ return 200 \"{name}\\n\"; }} }}"
    );
    Nginx::start(place, name, address, &http, "").unwrap()
}

/// Under load in both versions of HTTP.
fn survives(name: &str, http2: bool, check: &str) {
    let place = Place::new(name).unwrap();
    let [one, two] = [place.at(9001), place.at(9002)];
    let protocol = if http2 { "http2" } else { "" };
    let _one = server(&place, "one", one, protocol);
    let front = Front::start(&place, one, |site| {
        site.servers.push(("two".into(), two));
        // Nothing but what the server does may take it down, however busy the machine is.
        site.defaults = "timeouts = { connect = \"1s\", check = \"10s\" }".into();
        site.backend = format!("http2 = {http2}\n{check}");
    });
    let askers = Askers::start(front.site.bind, 8, IDEMPOTENT);
    let over = AtomicBool::new(false);
    let streams = thread::scope(|scope| {
        let streams = scope.spawn(|| {
            let load = Load { connections: 4, streams: 8, requests: 800 };
            let run =
                |number| H2load::start(place.folder(), &format!("h2load-{number}"), &front.url("/who"), load, &[]);
            let runs = (0..).take_while(|_| !over.load(SeqCst));
            runs.map(|number| run(number).unwrap().finish(SLOW).unwrap()).collect::<Vec<_>>()
        });
        flap(|| server(&place, "two", two, protocol), 4);
        wait_until("many answers", SLOW, || match askers.asked() {
            0..1000 => Err(askers.asked().to_string()),
            _ => Ok(()),
        })
        .unwrap();
        over.store(true, SeqCst);
        streams.join().unwrap()
    });
    let (counts, longest) = askers.finish();
    let answers: u64 = streams.iter().map(|seen| seen.statuses[0]).sum();
    println!("{name}: {counts:?}, the slowest after {longest:?}; {answers} by h2load");
    let both: Vec<_> = counts.keys().map(String::as_str).collect();
    assert_eq!(both, ["200 one", "200 two"], "{counts:?}\n{}", front.serve.part.tail());
    for seen in &streams {
        assert_eq!(
            (seen.succeeded, seen.failed, seen.statuses),
            (800, 0, [800, 0, 0, 0]),
            "{}",
            front.serve.part.tail()
        );
    }
}

#[test]
fn a_server_that_goes_and_comes_takes_no_request_with_it() {
    survives("flapping", false, "check = { http = { path = \"/\" }, interval = \"100ms\", rise = 1, fall = 1 }");
}

#[test]
fn posts_survive_the_end_of_a_connection_of_http_2() {
    let place = Place::new("goaway").unwrap();
    let address = place.at(9001);
    let _one = server(&place, "one", address, "http2");
    let front = Front::start(&place, address, |site| site.backend = "http2 = true".into());
    // Each connection ends after so many requests, while others are under way in it: those were not looked at.
    let posts: &[&str] = &["POST /who HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"];
    let askers = Askers::start(front.site.bind, 16, posts);
    wait_until("many answers", SLOW, || match askers.asked() {
        0..4000 => Err(askers.asked().to_string()),
        _ => Ok(()),
    })
    .unwrap();
    let (counts, _) = askers.finish();
    assert!(counts.keys().eq(["200 one"]), "{counts:?}");
}

#[test]
fn nor_does_one_that_nobody_checks() {
    survives("flapping-unchecked", false, "");
}

#[test]
fn nor_does_one_that_speaks_http_2() {
    survives("flapping-http2", true, "check = { tcp = {}, interval = \"100ms\", rise = 1, fall = 1 }");
}
