//! Clients that are slow on purpose: slowhttptest. Their connections end by the time limits, and others are served meanwhile.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use tests::nginx::Nginx;
use tests::part::Part;
use tests::place::Place;
use tests::wait;

use crate::{Front, curl};

const CONNECTIONS: usize = 100;
/// Of lbnode, towards slow clients.
const LIMIT: &str = "6s";
/// An ordinary client that had to wait for the slow ones would wait for longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The attack would last this long.
const SECONDS: u64 = 60;

/// Starts slowhttptest with `kind`, and waits until lbnode has most of its connections and then none; an ordinary client asks all
/// the while. What slowhttptest itself says of them is no measure: one that doesn't read doesn't see that it was closed.
fn withstands(name: &str, path: &str, kind: &[&str]) {
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
    command.args(["-p", "3", "-u", &front.url(path)]).args(kind);
    let mut attack = Part::start("slowhttptest", command, place.folder()).unwrap();
    let ask = || {
        let before = Instant::now();
        assert_eq!(curl(&[&front.url("/who")]), "one\n");
        assert!(before.elapsed() < PATIENCE, "an ordinary client waited {:?}", before.elapsed());
    };
    let within = Duration::from_secs(SECONDS / 2);
    attack
        .wait("its connections", within, || match connections(front.site.bind) {
            most if most >= CONNECTIONS * 3 / 4 => Ok(()),
            some => Err(some.to_string()),
        })
        .unwrap();
    wait::wait_until("their end", within, || {
        ask();
        // The ordinary client's own may still be closing.
        match connections(front.site.bind) {
            0..=3 => Ok(()),
            some => Err(some.to_string()),
        }
    })
    .unwrap();
}

/// How many connections the kernel knows at an address, but for those that are over (TIME_WAIT).
fn connections(address: SocketAddr) -> usize {
    let IpAddr::V4(ip) = address.ip() else { panic!("places are IPv4") };
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let (listening, over) = ("0A", "06");
    let states = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    states.filter(|fields| fields[1] == local && ![listening, over].contains(&fields[3])).count()
}

#[test]
fn clients_that_never_finish_their_headers_are_closed_and_others_served() {
    withstands("slow-headers", "/files/big", &["-H", "-i", "1"]);
}

#[test]
fn clients_that_do_not_send_their_bodies_are_closed_and_others_served() {
    withstands("slow-bodies", "/echo", &["-B", "-i", "10", "-s", "8192"]);
}

#[test]
fn clients_that_do_not_read_their_answers_are_closed_and_others_served() {
    withstands("slow-reads", "/files/big", &["-X", "-w", "1", "-y", "1", "-n", "10", "-z", "32", "-k", "1"]);
}
