//! What checks leave in the log of the process. In a file of its own, because a process has one log.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod data_support;

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use data_support::{at, listeners, plan, server, start, wait_for};
use proxy_core::plan::{Check, HttpProbe, Probe};
use proxy_core::stats::ServerState;
use tracing_subscriber::fmt::MakeWriter;

/// The log so far.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    /// Lines that have both words.
    fn count(&self, backend: &str, words: &str) -> usize {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let backend = format!("backend=\"{backend}\"");
        text.lines().filter(|line| line.contains(&backend) && line.contains(words)).count()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Lines;

    fn make_writer(&'a self) -> Lines {
        self.clone()
    }
}

#[test]
fn every_change_of_a_checks_answer_is_logged_where_that_is_wanted() {
    let lines = Lines::default();
    tracing_subscriber::fmt().with_ansi(false).with_writer(lines.clone()).init();
    let status = Arc::new(AtomicU16::new(200));
    let now = Arc::clone(&status);
    let (address, _) = server(move |mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = write!(stream, "HTTP/1.1 {} Whatever\r\n\r\n", now.load(SeqCst));
    });
    let check = Check {
        probe: Probe::Http(HttpProbe::default()),
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(5),
        rise: 2,
        fall: 2,
        log: true,
        ..Check::default()
    };
    let (bind, sockets) = listeners(1);
    let mut wanted = plan(bind, vec![at("only", address)]);
    wanted.backends.push(wanted.backends[0].clone());
    for (backend, (name, log)) in wanted.backends.iter_mut().zip([("told", true), ("quiet", false)]) {
        backend.name = name.into();
        backend.check = Some(Check { log, ..check.clone() });
    }
    let plane = start(wanted, 1, sockets);
    let all = |state| {
        let stats = plane.stats();
        stats.backends.iter().all(|backend| backend.servers[0].state == state)
    };
    const CHANGE: &str = "a check ended otherwise than the one before";

    wait_for("both servers up", || all(ServerState::Up));
    assert_eq!(lines.count("told", CHANGE), 0, "the first answer is the server's coming up");
    status.store(204, SeqCst);
    wait_for("another good answer", || lines.count("told", CHANGE) == 1);
    assert_eq!(lines.count("told", "passed=true"), 1);
    status.store(503, SeqCst);
    wait_for("both servers down", || all(ServerState::Down));
    wait_for("the line of each", || lines.count("told", "is down") + lines.count("quiet", "is down") == 2);
    assert_eq!(lines.count("told", "passed=false"), 1, "the second failure took the server down, and says so itself");
    assert_eq!(lines.count("quiet", CHANGE), 0);
}
