//! Clients that are slow on purpose: slowhttptest. Their connections end by the time limits, and others are served meanwhile.

use std::process::Command;
use std::time::{Duration, Instant};

use tests::nginx::Nginx;
use tests::part::Part;
use tests::place::Place;

use crate::{Front, curl};

const CONNECTIONS: usize = 200;
/// Of lbnode, towards slow clients.
const LIMIT: &str = "4s";
/// An ordinary client that had to wait for the slow ones would wait for longer.
const PATIENCE: Duration = Duration::from_secs(3);
/// The attack would last this long.
const SECONDS: u64 = 40;

/// Runs slowhttptest with `kind` until all its connections are closed; an ordinary client asks all the while.
fn withstands(name: &str, kind: &[&str]) {
    let place = Place::new(name).unwrap();
    let server = place.at(9001);
    let _nginx = Nginx::server(&place, "one", server).unwrap();
    place.write("files/big", vec![b'x'; 8 << 20]).unwrap();
    let front = Front::start(&place, server, |site| {
        site.defaults = format!(
            "timeouts = {{ client = \"{LIMIT}\", request = \"{LIMIT}\", keep_alive = \"{LIMIT}\", server = \"30s\" }}"
        );
    });
    let mut command = Command::new("slowhttptest");
    command.args(["-c", &CONNECTIONS.to_string(), "-r", &CONNECTIONS.to_string(), "-l", &SECONDS.to_string()]);
    command.args(["-p", "3", "-u", &front.url("/files/big")]).args(kind);
    let mut attack = Part::start("slowhttptest", command, place.folder()).unwrap();
    let (start, mut asked) = (Instant::now(), 0);
    while attack.process().exited().is_none() {
        let before = Instant::now();
        assert_eq!(curl(&[&front.url("/who")]), "one\n");
        assert!(before.elapsed() < PATIENCE, "an ordinary client waited {:?}", before.elapsed());
        asked += 1;
        assert!(start.elapsed() < Duration::from_secs(SECONDS), "they are still there: {}", attack.tail());
    }
    // It ends by itself when no connection is left.
    let said = attack.tail();
    assert!(said.contains("No open connections left"), "after {:?}: {said}", start.elapsed());
    assert!(asked > 10, "{asked} requests in {:?}", start.elapsed());
}

#[test]
fn clients_that_never_finish_their_headers_are_closed_and_others_served() {
    withstands("slow-headers", &["-H", "-i", "1"]);
}

#[test]
fn clients_that_do_not_send_their_bodies_are_closed_and_others_served() {
    withstands("slow-bodies", &["-B", "-i", "10", "-s", "8192"]);
}

#[test]
fn clients_that_do_not_read_their_answers_are_closed_and_others_served() {
    withstands("slow-reads", &["-X", "-w", "1", "-y", "1", "-n", "10", "-z", "32", "-k", "1"]);
}
