//! A server dies under load: what it had not begun to answer is asked of the other one.

use nix::sys::signal::{Signal, kill};
use tests::nginx::Nginx;
use tests::place::Place;
use tests::usage::descendants;
use tests::wait;
use tests::wrk::{Load, Wrk};

use crate::{Front, curl};

const SECONDS: u64 = 8;

#[test]
fn a_server_that_dies_under_load_takes_no_request_with_it() {
    let place = Place::new("stopped").unwrap();
    let _one = Nginx::server(&place, "one", place.at(9001)).unwrap();
    let two = Nginx::server(&place, "two", place.at(9002)).unwrap();
    let front = Front::start(&place, place.at(9001), |site| {
        site.servers.push(("two".into(), place.at(9002)));
        site.backend = "check = { http = { path = \"/who\" }, interval = \"500ms\", rise = 1, fall = 1 }".into();
    });
    let wrk =
        Wrk::start(place.folder(), "wrk", front.site.bind, "/who", Load { connections: 32, seconds: SECONDS }).unwrap();
    wait::wait_until("both servers to answer", std::time::Duration::from_secs(5), || {
        let who = [curl(&[&front.url("/who")]), curl(&[&front.url("/who")])];
        if who[0] == who[1] { Err(format!("{who:?}")) } else { Ok(()) }
    })
    .unwrap();
    // At once and without a word, its worker first.
    for process in descendants(two.part.pid()) {
        kill(process.pid, Signal::SIGSTOP).unwrap();
        kill(two.part.pid(), Signal::SIGKILL).unwrap();
        kill(process.pid, Signal::SIGKILL).unwrap();
    }
    let seen = wrk.finish().unwrap();
    println!("stopped: {seen:?}");
    assert!(seen.requests > 1000, "{seen:?}");
    assert_eq!((seen.errors, seen.failures), (0, 0), "{seen:?}\n{}", front.serve.part.tail());
    assert_eq!(curl(&[&front.url("/who"), &front.url("/who"), &front.url("/who")]), "one\none\none\n");
}
