//! The log from record to descriptor: formats against lines that HAProxy wrote, sinks that take lines, and sinks that don't.
#![allow(clippy::disallowed_methods, reason = "the pause between two looks at a state")]

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::*;
use crate::stats::{shards, sum};

const PATIENCE: Duration = Duration::from_secs(10);
const HTTP: Log = Log { sink: 0, format: LogFormat::Http };
/// As in the lines below: it is put where HAProxy had its own date, of the zone where it ran.
const DATE: &str = "{date}";

fn ms(milliseconds: u64) -> Option<Duration> {
    Some(Duration::from_millis(milliseconds))
}

fn date() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_795_278_487_315)
}

fn end(by: Ended, during: Phase) -> Termination {
    Termination::new(by, during)
}

/// What HAProxy logs for the plainest request: one client, who is counted.
fn way<'a>() -> Way<'a> {
    Way {
        client: SocketAddr::from(([127, 0, 0, 1], 54_246)),
        date: date(),
        frontend: "fe",
        tls: false,
        backend: Some("be"),
        server: Some("s1"),
        bytes: 52,
        end: Termination::default(),
        load: Load { process: 1, frontend: 1, ..Load::default() },
        why: None,
        unique_id: None,
    }
}

fn served<'a>() -> HttpRecord<'a> {
    let timers = HttpTimers { request: ms(0), queue: ms(0), connect: ms(0), response: ms(0), active: Duration::ZERO };
    HttpRecord { way: way(), timers, status: Some(200), request: Some(b"GET / HTTP/1.1") }
}

/// A request that got no further than us.
fn refused<'a>(by: Ended, during: Phase) -> HttpRecord<'a> {
    let way = Way { backend: None, server: None, bytes: 0, end: end(by, during), ..way() };
    HttpRecord { way, timers: HttpTimers::default(), status: Some(400), request: None }
}

fn made(write: impl FnOnce(&mut Vec<u8>, &mut Clock)) -> String {
    let (mut out, mut clock) = (Vec::new(), Clock::default());
    write(&mut out, &mut clock);
    String::from_utf8(out).unwrap()
}

fn dated(line: &str) -> String {
    line.replace(DATE, &made(|out, clock| clock.haproxy(out, date())))
}

/// A change of a record, and the line.
type Case<R> = (fn(&mut R), &'static str);

#[test]
fn requests_are_logged_as_haproxy_logs_them() {
    // HAProxy 2.6.12 wrote these lines for the traffic that the records describe.
    let table: [Case<HttpRecord<'static>>; 18] = [
        (|_| {}, r#"127.0.0.1:54246 [{date}] fe be/s1 0/0/0/0/0 200 52 - - ---- 1/1/0/0/0 0/0 "GET / HTTP/1.1""#),
        (
            |record| {
                (record.way.tls, record.timers.response, record.timers.active) = (true, ms(1), Duration::from_millis(1))
            },
            r#"127.0.0.1:54246 [{date}] fe~ be/s1 0/0/0/1/1 200 52 - - ---- 1/1/0/0/0 0/0 "GET / HTTP/1.1""#,
        ),
        (
            |record| record.way.client = "[::1]:43092".parse().unwrap(),
            r#"::1:43092 [{date}] fe be/s1 0/0/0/0/0 200 52 - - ---- 1/1/0/0/0 0/0 "GET / HTTP/1.1""#,
        ),
        (
            |record| record.request = Some(b"GET /?a=1&b={x|y}~\\ HTTP/1.1"),
            r#"127.0.0.1:54246 [{date}] fe be/s1 0/0/0/0/0 200 52 - - ---- 1/1/0/0/0 0/0 "GET /?a=1&b={x|y}~\ HTTP/1.1""#,
        ),
        (
            |record| record.request = Some(b"GET /a\"b#\x7f\xe9 HTTP/1.1"),
            r#"127.0.0.1:54246 [{date}] fe be/s1 0/0/0/0/0 200 52 - - ---- 1/1/0/0/0 0/0 "GET /a#22b#23#7F#E9 HTTP/1.1""#,
        ),
        (
            |record| *record = refused(Ended::Proxy, Phase::Request),
            r#"127.0.0.1:54246 [{date}] fe fe/<NOSRV> -1/-1/-1/-1/0 400 0 - - PR-- 1/1/0/0/0 0/0 "<BADREQ>""#,
        ),
        (
            |record| {
                *record = refused(Ended::ClientTimeout, Phase::Request);
                (record.status, record.timers.active) = (Some(408), Duration::from_millis(1001));
            },
            r#"127.0.0.1:54246 [{date}] fe fe/<NOSRV> -1/-1/-1/-1/1001 408 0 - - cR-- 1/1/0/0/0 0/0 "<BADREQ>""#,
        ),
        (
            |record| {
                *record = refused(Ended::Client, Phase::Request);
                record.timers.active = Duration::from_millis(100);
            },
            r#"127.0.0.1:54246 [{date}] fe fe/<NOSRV> -1/-1/-1/-1/100 400 0 - - CR-- 1/1/0/0/0 0/0 "<BADREQ>""#,
        ),
        (
            |record| {
                *record = refused(Ended::Proxy, Phase::Request);
                (record.status, record.way.bytes, record.timers.request) = (Some(403), 192, ms(0));
                record.request = Some(b"GET /deny HTTP/1.1");
            },
            r#"127.0.0.1:54246 [{date}] fe fe/<NOSRV> 0/-1/-1/-1/0 403 192 - - PR-- 1/1/0/0/0 0/0 "GET /deny HTTP/1.1""#,
        ),
        (
            |record| {
                *record = refused(Ended::Local, Phase::Request);
                (record.status, record.way.bytes, record.timers.request) = (Some(302), 83, ms(0));
                record.request = Some(b"GET /redir HTTP/1.1");
            },
            r#"127.0.0.1:54246 [{date}] fe fe/<NOSRV> 0/-1/-1/-1/0 302 83 - - LR-- 1/1/0/0/0 0/0 "GET /redir HTTP/1.1""#,
        ),
        (
            |record| {
                *record = refused(Ended::Proxy, Phase::Tarpit);
                (record.status, record.way.bytes) = (Some(500), 208);
                (record.timers.queue, record.timers.active) = (ms(402), Duration::from_millis(401));
                record.request = Some(b"GET /tarpit HTTP/1.1");
            },
            r#"127.0.0.1:54246 [{date}] fe fe/<NOSRV> -1/402/-1/-1/401 500 208 - - PT-- 1/1/0/0/0 0/0 "GET /tarpit HTTP/1.1""#,
        ),
        (
            |record| {
                *record = refused(Ended::Proxy, Phase::Request);
                record.status = None;
                record.request = Some(b"GET /reject HTTP/1.1");
            },
            r#"127.0.0.1:54246 [{date}] fe fe/<NOSRV> -1/-1/-1/-1/0 -1 0 - - PR-- 1/1/0/0/0 0/0 "GET /reject HTTP/1.1""#,
        ),
        (
            |record| {
                (record.way.backend, record.way.server, record.way.bytes) = (Some("down"), Some("d1"), 217);
                (record.way.end, record.way.load.retries) = (end(Ended::Server, Phase::Connect), 1);
                record.timers = HttpTimers {
                    request: ms(0),
                    queue: ms(501),
                    active: Duration::from_millis(501),
                    ..HttpTimers::default()
                };
                record.status = Some(503);
            },
            r#"127.0.0.1:54246 [{date}] fe down/d1 0/501/-1/-1/501 503 217 - - SC-- 1/1/0/0/1 0/0 "GET / HTTP/1.1""#,
        ),
        (
            |record| {
                (record.way.server, record.way.bytes, record.way.end) =
                    (None, 217, end(Ended::ServerTimeout, Phase::Queue));
                record.way.load = Load { process: 2, frontend: 2, backend: 1, backend_queue: 1, ..Load::default() };
                record.timers = HttpTimers {
                    request: ms(0),
                    queue: ms(301),
                    active: Duration::from_millis(301),
                    ..HttpTimers::default()
                };
                record.status = Some(503);
            },
            r#"127.0.0.1:54246 [{date}] fe be/<NOSRV> 0/301/-1/-1/301 503 217 - - sQ-- 2/2/1/0/0 0/1 "GET / HTTP/1.1""#,
        ),
        (
            |record| {
                (record.way.end, record.way.bytes, record.status) =
                    (end(Ended::ServerTimeout, Phase::Headers), 198, Some(504));
                (record.timers.response, record.timers.active) = (None, Duration::from_millis(1001));
            },
            r#"127.0.0.1:54246 [{date}] fe be/s1 0/0/0/-1/1001 504 198 - - sH-- 1/1/0/0/0 0/0 "GET / HTTP/1.1""#,
        ),
        (
            |record| (record.way.end, record.way.bytes) = (end(Ended::Server, Phase::Data), 54),
            r#"127.0.0.1:54246 [{date}] fe be/s1 0/0/0/0/0 200 54 - - SD-- 1/1/0/0/0 0/0 "GET / HTTP/1.1""#,
        ),
        (
            |record| {
                record.way.end = end(Ended::ClientTimeout, Phase::Data);
                record.timers.active = Duration::from_millis(3018);
                record.request = Some(b"POST /u HTTP/1.1");
            },
            r#"127.0.0.1:54246 [{date}] fe be/s1 0/0/0/0/3018 200 52 - - cD-- 1/1/0/0/0 0/0 "POST /u HTTP/1.1""#,
        ),
        (
            |record| (record.way.load.retries, record.way.load.redispatched) = (2, true),
            r#"127.0.0.1:54246 [{date}] fe be/s1 0/0/0/0/0 200 52 - - ---- 1/1/0/0/+2 0/0 "GET / HTTP/1.1""#,
        ),
    ];
    for (change, line) in table {
        let mut record = served();
        change(&mut record);
        assert_eq!(made(|out, clock| line::http(out, &record, clock)), dated(line));
    }
}

#[test]
fn sessions_are_logged_as_haproxy_logs_them() {
    let table: [Case<TcpRecord<'static>>; 5] = [
        (|_| {}, "127.0.0.1:54246 [{date}] tcp tcp/s1 1/0/2002 41 sD 1/1/0/0/0 0/0"),
        (
            |record| {
                (record.way.bytes, record.way.end) = (0, end(Ended::Client, Phase::Data));
                record.timers.total = Duration::from_millis(100);
            },
            "127.0.0.1:54246 [{date}] tcp tcp/s1 1/0/100 0 CD 1/1/0/0/0 0/0",
        ),
        (
            |record| {
                (record.way.bytes, record.way.end) = (0, end(Ended::Server, Phase::Connect));
                record.way.load.retries = 1;
                record.timers = TcpTimers { queue: ms(503), connect: None, total: Duration::from_millis(502) };
            },
            "127.0.0.1:54246 [{date}] tcp tcp/s1 503/-1/502 0 SC 1/1/0/0/1 0/0",
        ),
        (
            |record| {
                (record.way.bytes, record.way.end) = (0, end(Ended::Server, Phase::Connect));
                (record.way.backend, record.way.server) = (None, None);
                record.timers = TcpTimers::default();
            },
            "127.0.0.1:54246 [{date}] tcp tcp/<NOSRV> -1/-1/0 0 SC 1/1/0/0/0 0/0",
        ),
        (
            |record| (record.way.end, record.way.tls) = (Termination::default(), true),
            "127.0.0.1:54246 [{date}] tcp~ tcp/s1 1/0/2002 41 -- 1/1/0/0/0 0/0",
        ),
    ];
    for (change, line) in table {
        let way = Way {
            frontend: "tcp",
            backend: Some("tcp"),
            bytes: 41,
            end: end(Ended::ServerTimeout, Phase::Data),
            ..way()
        };
        let timers = TcpTimers { queue: ms(1), connect: ms(0), total: Duration::from_millis(2002) };
        let mut record = TcpRecord { way, timers };
        change(&mut record);
        assert_eq!(made(|out, clock| line::tcp(out, &record, clock)), dated(line));
    }
}

#[test]
fn a_request_line_is_cut_where_haproxy_cuts_it() {
    let long = [b"GET /".as_slice(), &[b'x'; 1500]].concat();
    let record = HttpRecord { request: Some(&long), ..served() };
    let line = made(|out, clock| line::http(out, &record, clock));
    assert!(line.ends_with(&format!(" \"GET /{}\"", "x".repeat(1023 - 5))));
    // Cut before it is escaped.
    let quotes = [b"GET /".as_slice(), &[b'"'; 1500]].concat();
    let record = HttpRecord { request: Some(&quotes), ..served() };
    let line = made(|out, clock| line::http(out, &record, clock));
    assert!(line.ends_with(&format!(" \"GET /{}\"", "#22".repeat(1023 - 5))));
}

#[test]
fn json_has_every_fact_under_its_key() {
    let mut record = served();
    record.request = Some(b"GET /a\"b?c=d HTTP/1.1");
    record.way.client = "[2001:db8::1]:443".parse().unwrap();
    let text = concat!(
        r#"{"time":"2026-11-21T16:28:07.315Z","kind":"http","client":"2001:db8::1","client_port":443,"#,
        r#""frontend":"fe","tls":false,"backend":"be","server":"s1","#,
        r#""method":"GET","target":"/a\"b?c=d","version":"HTTP/1.1","status":200,"#,
        r#""request_ms":0,"queue_ms":0,"connect_ms":0,"response_ms":0,"total_ms":0,"bytes":52,"termination":"--","#,
        r#""process_sessions":1,"frontend_sessions":1,"backend_sessions":0,"server_sessions":0,"#,
        r#""retries":0,"redispatched":false,"server_queue":0,"backend_queue":0,"why":null,"unique_id":null}"#,
    );
    assert_eq!(made(|out, clock| json::http(out, &record, clock)), text);

    let mut record = refused(Ended::Proxy, Phase::Request);
    record.way.why = Some("repeated Content-Length");
    let text = made(|out, clock| json::http(out, &record, clock));
    for part in [
        r#""backend":null,"server":null,"method":null,"target":null,"version":null,"status":400,"request_ms":null"#,
        r#""termination":"PR""#,
        r#""why":"repeated Content-Length","unique_id":null}"#,
    ] {
        assert!(text.contains(part), "{text}");
    }

    let record = TcpRecord { way: way(), timers: TcpTimers { queue: ms(1), connect: None, total: PATIENCE } };
    let text = made(|out, clock| json::tcp(out, &record, clock));
    assert!(text.contains(r#""server":"s1","queue_ms":1,"connect_ms":null,"total_ms":10000,"bytes":52"#), "{text}");
}

/// A log with two workers and one sink.
struct Bench {
    logs: Logs,
    loggers: Vec<Logger>,
    shards: Arc<[WorkerShard]>,
    sinks: Sinks,
}

impl Bench {
    fn new(target: &str, facility: Option<u8>, fd: Option<OwnedFd>) -> Bench {
        let shards: Arc<[WorkerShard]> = shards(2).into();
        let (mut logs, loggers) = Logs::start(&shards).unwrap();
        let sinks = logs.open(&[sink(target, facility)], fd.map(|fd| (0, fd)).into_iter().collect());
        Bench { logs, loggers, shards, sinks }
    }

    fn file(fd: impl Into<OwnedFd>) -> Bench {
        Bench::new("file:/test", None, Some(fd.into()))
    }

    fn log(&self, worker: usize, record: &HttpRecord<'_>) {
        self.loggers[worker].http(&self.sinks, HTTP, record);
    }

    /// A request whose target is its number.
    fn number(&self, worker: usize, number: usize) {
        let line = format!("GET /{number} HTTP/1.1");
        self.log(worker, &HttpRecord { request: Some(line.as_bytes()), ..served() });
    }

    fn stats(&self) -> LogSinkStats {
        self.logs.stats().remove(0)
    }

    /// Lines that somebody knows what became of.
    fn accounted(&self) -> u64 {
        let LogSinkStats { written, dropped, .. } = self.stats();
        written + dropped + sum(&self.shards, |shard| &shard.log_drops)
    }
}

fn sink(target: &str, facility: Option<u8>) -> LogSink {
    LogSink { target: target.into(), facility }
}

fn wait_for(what: &str, mut state: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !state() {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn scratch(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("proxy-core-log-{name}-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

/// A pipe whose writing end does not wait.
fn pipe() -> (std::io::PipeReader, OwnedFd) {
    let (reader, writer) = std::io::pipe().unwrap();
    let writer = OwnedFd::from(writer);
    let flags = nix::fcntl::OFlag::O_NONBLOCK;
    nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(flags)).unwrap();
    (reader, writer)
}

fn numbers(text: &str) -> Vec<usize> {
    let number = |line: &str| {
        assert!(line.starts_with("127.0.0.1:54246 [") && line.ends_with(" HTTP/1.1\""), "not a line: {line}");
        line.split_once("GET /").unwrap().1.split_once(' ').unwrap().0.parse().unwrap()
    };
    text.lines().map(number).collect()
}

/// What halog says about a file, by the words that its lines begin with.
fn halog(how: &str, file: &PathBuf) -> Vec<Vec<String>> {
    // Its fields are counted for lines with a syslog server's header; ours have none.
    let halog = Command::new("halog")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .args(["-q", "-s", "-4", how])
        .stdin(File::open(file).unwrap())
        .stderr(Stdio::inherit())
        .output()
        .expect("halog runs: it comes with the package haproxy");
    assert!(halog.status.success());
    let text = String::from_utf8(halog.stdout).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

#[test]
fn halog_counts_what_was_logged() {
    let path = scratch("halog");
    let bench = Bench::file(OpenOptions::new().create(true).append(true).open(&path).unwrap());
    // 1,000 requests: of every ten six are served by s1, two by s2, one fails there, and one is none.
    for number in 0..1000 {
        let mut record = served();
        record.timers.response = ms(number % 100);
        record.timers.active = Duration::from_millis(number % 100);
        match number % 10 {
            0..6 => {}
            6 | 7 => record.way.server = Some("s2"),
            8 => {
                record.way.server = Some("s2");
                (record.status, record.way.end) = (Some(503), end(Ended::Server, Phase::Connect));
                (record.timers.connect, record.timers.response) = (None, None);
            }
            _ => record = refused(Ended::Proxy, Phase::Request),
        }
        bench.log(number as usize % 2, &record);
    }
    bench.logs.flush(PATIENCE);
    assert_eq!(bench.stats(), LogSinkStats { target: "file:/test".into(), written: 1000, dropped: 0 });

    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    assert_eq!(halog("-c", &path), [words(&["1000"])]);
    let mut statuses = halog("-st", &path);
    statuses.sort();
    assert_eq!(statuses, [words(&["200", "800"]), words(&["400", "100"]), words(&["503", "100"])]);
    let mut codes = halog("-tc", &path);
    codes.sort();
    assert_eq!(codes, [words(&["--", "800"]), words(&["PR", "100"]), words(&["SC", "100"])]);
    // Name, requests by class of status (1xx to 5xx, other), all, served.
    let mut servers = halog("-srv", &path);
    servers.iter_mut().for_each(|server| server.truncate(9));
    servers.sort();
    let expected = [
        words(&["be/s1", "0", "600", "0", "0", "0", "0", "600", "600"]),
        words(&["be/s2", "0", "200", "0", "0", "100", "0", "300", "200"]),
        words(&["fe/<NOSRV>", "0", "0", "0", "100", "0", "0", "100", "0"]),
    ];
    assert_eq!(servers, expected);
    // Percentile, requests, request, queue, connect, response, data: of those that were answered at all.
    let half = halog("-pct", &path).into_iter().find(|line| line[0] == "50.0").unwrap();
    assert!((45..=55).contains(&half[4].parse::<u32>().unwrap()), "{half:?}");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_pipe_that_nobody_reads_costs_lines_and_no_worker_waits() {
    const LINES: usize = 100_000;
    let (mut reader, writer) = pipe();
    let bench = Bench::file(writer);
    let began = Instant::now();
    let Bench { logs, loggers, shards, sinks } = bench;
    let loggers = std::thread::scope(|scope| {
        let workers = loggers.into_iter().map(|logger| {
            let sinks = sinks.clone();
            scope.spawn(move || {
                let number = |number: usize| format!("GET /{number} HTTP/1.1");
                for line in (0..LINES).map(number) {
                    logger.http(&sinks, HTTP, &HttpRecord { request: Some(line.as_bytes()), ..served() });
                }
                logger
            })
        });
        let workers: Vec<_> = workers.collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    // 5 us a line would be slow already; a wait for the reader would be for ever.
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    let bench = Bench { logs, loggers, shards, sinks };

    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    wait_for("every line to be accounted for", || bench.accounted() == 2 * LINES as u64);
    bench.number(0, LINES);
    bench.logs.flush(PATIENCE);
    let written = bench.stats().written;
    assert!(bench.accounted() - written > 0, "nothing was dropped");
    drop(bench);
    let text = reading.join().unwrap();
    let numbers = numbers(&text);
    assert_eq!(numbers.len() as u64, written);
    assert_eq!(numbers.last(), Some(&LINES), "a pipe that is read again takes lines again");
}

#[test]
fn datagrams_reach_a_syslog_server_with_haproxys_header() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(server.local_addr().unwrap()).unwrap();
    let target = format!("syslog:{}", server.local_addr().unwrap());
    let bench = Bench::new(&target, Some(16), Some(socket.into()));
    for number in 0..200 {
        bench.number(0, number);
    }
    let now = || made(|out, clock| clock.syslog(out, SystemTime::now()));
    let mut bytes = [0; 2048];
    for number in 0..200 {
        let length = server.recv(&mut bytes).unwrap();
        let text = std::str::from_utf8(&bytes[..length]).unwrap();
        let line = text.strip_suffix('\n').unwrap();
        let (header, line) = line.split_at(line.find("127.0.0.1").unwrap());
        let (stamp, tag) = header.split_at("<134>Nov 21 16:28:07".len());
        assert_eq!(tag, format!(" lbnode[{}]: ", std::process::id()));
        assert_eq!(stamp.len(), "<134>".len() + now().len());
        assert!(stamp.starts_with("<134>"));
        assert_eq!(numbers(line), [number]);
    }
    wait_for("the count", || bench.stats().written == 200);
}

#[test]
fn a_syslog_server_that_is_not_there_stops_nothing() {
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(nobody).unwrap();
    let bench = Bench::new(&format!("syslog:{nobody}"), Some(16), Some(socket.into()));
    for number in 0..5000 {
        bench.number(number % 2, number);
    }
    wait_for("every line to be accounted for", || bench.accounted() == 5000);
}

#[test]
fn a_syslog_daemon_that_restarts_gets_what_came_meanwhile() {
    let path = scratch("daemon");
    let first = UnixDatagram::bind(&path).unwrap();
    let socket = UnixDatagram::unbound().unwrap();
    socket.connect(&path).unwrap();
    let bench = Bench::new(&format!("syslog:{}", path.display()), Some(16), Some(socket.into()));
    let received = |daemon: &UnixDatagram| {
        daemon.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bytes = [0; 2048];
        let length = daemon.recv(&mut bytes).unwrap();
        let text = String::from_utf8(bytes[..length].to_vec()).unwrap();
        numbers(&text[text.find("127.0.0.1").unwrap()..])
    };
    bench.number(0, 1);
    assert_eq!(received(&first), [1]);
    drop(first);
    std::fs::remove_file(&path).unwrap();
    bench.number(0, 2);
    bench.number(1, 3);
    let second = UnixDatagram::bind(&path).unwrap();
    let mut got = [received(&second), received(&second)].concat();
    got.sort_unstable();
    assert_eq!(got, [2, 3]);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_stopped_syslog_daemon_costs_lines_and_gets_the_rest_when_it_goes_on() {
    let path = scratch("stopped");
    let daemon = UnixDatagram::bind(&path).unwrap();
    let socket = UnixDatagram::unbound().unwrap();
    socket.connect(&path).unwrap();
    let bench = Bench::new(&format!("syslog:{}", path.display()), Some(16), Some(socket.into()));
    for number in 0..50_000 {
        bench.number(number % 2, number);
    }
    wait_for("lines to be dropped", || bench.accounted() - bench.stats().written > 0);
    // A line may arrive before it is counted, so that the daemon never waits for one.
    daemon.set_nonblocking(true).unwrap();
    let mut bytes = [0; 2048];
    let mut received = 0;
    wait_for("the daemon to get what was not dropped", || {
        while daemon.recv(&mut bytes).is_ok() {
            received += 1;
        }
        bench.accounted() == 50_000 && received == bench.stats().written
    });
    assert!(received > 0);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_full_disk_and_a_sink_that_was_not_opened_cost_lines_only() {
    let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
    for fd in [Some(full.into()), None] {
        let bench = Bench::new("file:/test", None, fd);
        bench.number(0, 1);
        bench.number(1, 2);
        bench.logs.flush(PATIENCE);
        assert_eq!(bench.stats(), LogSinkStats { target: "file:/test".into(), written: 0, dropped: 2 });
    }
}

#[test]
fn a_stream_socket_as_standard_output_takes_whole_lines() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let bench = Bench::new("stdout", None, Some(ours.into()));
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        (&theirs).read_to_string(&mut text).unwrap();
        text
    });
    for number in 0..3000 {
        bench.number(0, number);
    }
    bench.logs.flush(PATIENCE);
    assert_eq!(bench.stats().dropped, 0);
    drop(bench);
    assert_eq!(numbers(&reading.join().unwrap()), (0..3000).collect::<Vec<_>>());
}

#[test]
fn a_line_that_was_torn_is_not_continued_by_another() {
    let (mut reader, writer) = pipe();
    // A page is left. Longer writes than that are not atomic: the pipe takes the beginning.
    let full = nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_GETPIPE_SZ).unwrap() as usize;
    let filled = File::from(writer.try_clone().unwrap()).write(&vec![b'.'; full - 4096]).unwrap();
    let eye = writer.try_clone().unwrap();
    let bench = Bench::file(writer);
    let long = [1; 1023];
    for _ in 0..2 {
        let json = Log { sink: 0, format: LogFormat::Json };
        bench.loggers[0].http(&bench.sinks, json, &HttpRecord { request: Some(&long), ..served() });
    }
    wait_for("a full pipe", || {
        let mut room = [nix::poll::PollFd::new(eye.as_fd(), nix::poll::PollFlags::POLLOUT)];
        nix::poll::poll(&mut room, nix::poll::PollTimeout::ZERO).unwrap() == 0
    });
    let path = scratch("torn");
    let other = OpenOptions::new().create(true).append(true).open(&path).unwrap();
    bench.logs.reopen([(0, other.into())].into());
    bench.number(0, 7);
    bench.logs.flush(PATIENCE);
    let rest = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = rest.lines().collect();
    let [second, last] = lines[..] else { panic!("not two lines: {rest}") };
    assert!(second.starts_with("{\"time\"") && second.ends_with('}'), "{second}");
    assert_eq!(numbers(last), [7]);
    assert_eq!((bench.stats().written, bench.stats().dropped), (2, 1));
    let mut before = vec![0; filled + 1];
    reader.read_exact(&mut before).unwrap();
    assert_eq!(before.last(), Some(&b'{'));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn an_apply_keeps_the_sinks_that_stay_and_closes_those_that_no_session_knows() {
    let (mut first, writer) = pipe();
    let mut bench = Bench::file(writer);
    bench.number(0, 1);
    bench.logs.flush(PATIENCE);
    let old = bench.sinks.clone();
    let (mut second, writer) = pipe();
    let (mut kept, kept_writer) = pipe();
    let plan = [sink("file:/other", None), sink("file:/test", None)];
    bench.sinks = bench.logs.open(&plan, [(0, writer), (1, kept_writer)].into());
    bench.number(0, 2);
    // A session of the plan before.
    bench.loggers[1].http(&old, HTTP, &HttpRecord { request: Some(b"GET /3 HTTP/1.1"), ..served() });
    bench.logs.flush(PATIENCE);
    let counts: Vec<_> = bench.logs.stats().into_iter().map(|sink| (sink.target, sink.written)).collect();
    assert_eq!(counts, [("file:/other".to_owned(), 1), ("file:/test".to_owned(), 2)]);
    bench.logs.open(&[], Descriptors::new());
    bench.number(0, 4);
    drop(old);
    bench.sinks = Sinks::default();
    bench.logs.flush(PATIENCE);
    // To their ends: the writer closed them, for the log lives on.
    let mut text = [const { String::new() }; 3];
    bench.logs.flush(PATIENCE);
    first.read_to_string(&mut text[0]).unwrap();
    second.read_to_string(&mut text[1]).unwrap();
    kept.read_to_string(&mut text[2]).unwrap();
    assert_eq!(text.map(|text| numbers(&text)), [vec![1], vec![2, 4], vec![3]]);
}

#[test]
fn a_writer_that_sleeps_is_woken_by_the_next_line() {
    let (mut reader, writer) = pipe();
    let bench = Bench::file(writer);
    let mut byte = [0];
    for number in 0..20 {
        // Longer than it naps.
        std::thread::sleep(Duration::from_millis(15));
        bench.number(number % 2, number);
        while byte != *b"\n" {
            reader.read_exact(&mut byte).unwrap();
        }
        byte = [0];
    }
}
