//! Certificates are replaced while clients are served: none of them notices, but for who looks at the new one.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use tests::h2load::{self, H2load};
use tests::nginx::Nginx;
use tests::place::Place;
use tests::wrk::{Load, Wrk};

use crate::site::{Front, pki, serial_of, serial_shown};

/// How often the certificate is replaced.
const TIMES: usize = 10;
const SECONDS: u64 = 8;

/// One connection that stays open: `openssl s_client`, spoken to through pipes.
struct Lasting {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Lasting {
    fn open(front: &Front) -> Lasting {
        // It ends by itself some time after a test that didn't end it.
        let mut child = Command::new("timeout")
            .args(["120", "openssl", "s_client", "-quiet", "-servername", "a.test", "-connect"])
            .arg(front.tls().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Lasting { child, input, output }
    }

    /// A request and the last line of its answer.
    fn ask(&mut self) -> String {
        self.input.write_all(b"GET /who HTTP/1.1\r\nHost: a.test\r\n\r\n").unwrap();
        let mut line = String::new();
        while !line.starts_with("one") {
            line.clear();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the connection ended");
        }
        line
    }
}

impl Drop for Lasting {
    fn drop(&mut self) {
        // Ended already: fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_certificate_that_is_replaced_under_load_costs_no_request_and_no_connection() {
    let place = Place::new("tls-replaced").unwrap();
    let server = place.at(9001);
    let _nginx = Nginx::server(&place, "one", server).unwrap();
    let leaf = place.path("a.pem").display().to_string();
    std::fs::copy(pki().path("a.pem"), &leaf).unwrap();
    let mut front = Front::start(&place, server, |site| {
        site.more = site.more.replace(&pki().file("a.pem"), &leaf);
        site.defaults = "timeouts = { keep_alive = \"1m\" }".into();
    });
    let mut lasting = Lasting::open(&front);
    assert_eq!(lasting.ask(), "one\n");

    let load = Load { connections: 8, seconds: SECONDS };
    let mut wrk = Wrk::start_url(place.folder(), "wrk", &format!("https://{}/who", front.tls()), load).unwrap();
    // Each of these ends its connections, and begins new ones.
    let many = h2load::Load { connections: 4, streams: 8, requests: 2000 };
    let h2 = |number: usize| {
        let url = format!("https://{}/who", front.tls());
        H2load::start(place.folder(), &format!("h2load-{number}"), &url, many, &[]).unwrap()
    };
    let mut loads: Vec<H2load> = (0..2).map(h2).collect();
    let mut fresh = 0;
    for number in 0..TIMES {
        let (name, expected) = if number % 2 == 0 { ("a-next", "a-next") } else { ("a", "a") };
        std::fs::copy(pki().path(&format!("{name}.pem")), &leaf).unwrap();
        let toml = front.site.toml();
        front.serve.apply(&toml).unwrap();
        assert_eq!(serial_shown(front.tls(), "a.test", &[]), serial_of(expected), "after replacement {number}");
        assert_eq!(lasting.ask(), "one\n", "after replacement {number}");
        for version in ["--http1.1", "--http2"] {
            assert_eq!(front.get("a.test", "/who", &[version]), "one\n");
            fresh += 1;
        }
        if number % 3 == 2 {
            let url = format!("https://{}/who", front.tls());
            loads.push(H2load::start(place.folder(), &format!("h2load-{}", loads.len()), &url, many, &[]).unwrap());
        }
        assert!(!wrk.ended(), "the load ended before replacement {number}: let it last longer than {SECONDS} s");
    }
    let loaded = loads.len();
    for load in loads {
        let seen = load.finish(Duration::from_secs(60)).unwrap();
        assert_eq!((seen.failed, seen.succeeded), (0, 2000), "{seen:?}\n{}", front.serve.part.tail());
    }
    let seen = wrk.finish().unwrap();
    println!("{TIMES} replacements, {fresh} new connections by curl, {loaded} times h2load, wrk {seen:?}");
    assert!(seen.requests > 500, "{seen:?}");
    assert_eq!((seen.errors, seen.failures), (0, 0), "{seen:?}\n{}", front.serve.part.tail());
    assert_eq!(lasting.ask(), "one\n", "at the end");
}
