//! Plays one case: a data plane, a server that writes down what reaches it, and a client that reads answers plainly.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use proxy_core::http::head::BadRequest;
use proxy_core::plan::{Http, Mode};
use proxy_core::stats::Stats;

use super::corpus::{Case, Step};
use super::data_support::{PATIENCE, at, client, listeners, plan, start, wait_for};

/// What the server knows.
#[derive(Default)]
struct Seen {
    /// What has come, of all connections in their order.
    bytes: Vec<Vec<u8>>,
    /// Connections that have ended.
    ended: usize,
    /// What is answered next; then `200 ok`.
    answers: VecDeque<(Vec<u8>, bool)>,
    last: Option<TcpStream>,
}

type Server = Arc<Mutex<Seen>>;

/// What is wrong, if something is.
pub(crate) fn play(case: &Case) -> Result<(), String> {
    let (server_address, seen) = server();
    let (address, sockets) = listeners(1);
    let mut plan = plan(address, vec![at("a", server_address)]);
    let forwarded = None;
    plan.frontends[0].mode = Mode::Http(Box::new(Http {
        request_timeout: PATIENCE,
        keep_alive_timeout: PATIENCE,
        forwarded,
        request_edits: Vec::new(),
        response_edits: Vec::new(),
        client_cert_headers: Vec::new(),
        error_pages: Default::default(),
        http2: false,
    }));
    let plane = start(plan, 1, sockets);
    let mut client = Client { stream: client(address), read: Vec::new(), last: String::new(), over: false };
    let mut refused = false;
    for step in &case.steps {
        match step {
            Step::Send(bytes) => client.send(bytes),
            Step::SendEnd => client.end(),
            Step::Reached(end) => wait_for(&case.name, || seen.lock().unwrap().bytes.concat().ends_with(end)),
            Step::Answer(bytes, end) => seen.lock().unwrap().answers.push_back((bytes.clone(), *end)),
            Step::Late(bytes) => seen.lock().unwrap().last.as_ref().unwrap().write_all(bytes).unwrap(),
            Step::Get(status, what) => refused = client.get(*status, what)?,
            Step::Lacks(text) if client.last.contains(text) => {
                return Err(format!("{text:?} is in {:?}", client.last));
            }
            Step::Lacks(_) => {}
            Step::Closed => {
                refused = true;
                client.closed()?;
            }
        }
    }
    if !refused {
        client.end();
    }
    client.closed()?;
    drop(client);
    wait_for("the session's end", || plane.stats().sessions == 0);
    counted(case, &plane.stats())?;
    drop(plane);
    wait_for("the end of all server connections", || {
        let seen = seen.lock().unwrap();
        seen.ended == seen.bytes.len()
    });
    let (connections, reached) = {
        let seen = seen.lock().unwrap();
        (seen.bytes.len(), seen.bytes.concat())
    };
    if let Some(expected) = case.connections
        && expected != connections
    {
        return Err(format!("{connections} connections to the server instead of {expected}"));
    }
    let same = reached == case.reaches;
    let (reached, expected) = (reached.escape_ascii(), case.reaches.escape_ascii());
    same.then_some(()).ok_or(format!("reached the server: \"{reached}\"\n  instead of:         \"{expected}\""))
}

/// Whether each refusal moved its counter, and nothing else moved one.
fn counted(case: &Case, stats: &Stats) -> Result<(), String> {
    let gets = || {
        case.steps
            .iter()
            .filter_map(|step| if let Step::Get(status, what) = step { Some((*status, what)) } else { None })
    };
    let said = gets().map(|(_, what)| what).filter(|what| BadRequest::ALL.iter().any(|reason| reason.why() == *what));
    let mut expected: [BTreeMap<String, u64>; 2] = Default::default();
    said.chain(&case.bad_requests).for_each(|why| *expected[0].entry(why.clone()).or_default() += 1);
    case.bad_answers.iter().for_each(|why| *expected[1].entry(why.clone()).or_default() += 1);
    let counted = [&stats.frontends[0].bad_requests, &stats.backends[0].bad_responses];
    if counted != expected.each_ref() {
        return Err(format!("counted as bad requests and answers: {counted:?}\n  instead of: {expected:?}"));
    }
    let responses = stats.frontends[0].http.expect("it speaks HTTP").responses;
    let classes = [
        responses.informational,
        responses.successful,
        responses.redirection,
        responses.client_error,
        responses.server_error,
    ];
    // Of the interim answers only the last one, a switch of protocols, is one.
    let last = |status: u16| status >= 200 || status == 101;
    let class = |digit| gets().filter(|(status, _)| last(*status) && status / 100 == digit).count() as u64;
    let expected = [class(1), class(2), class(3), class(4), class(5)];
    if classes == expected { Ok(()) } else { Err(format!("answers by class: {classes:?} instead of {expected:?}")) }
}

fn server() -> (SocketAddr, Server) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Server::default();
    let shared = Arc::clone(&seen);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let seen = Arc::clone(&shared);
            let index = {
                let mut seen = seen.lock().unwrap();
                seen.last = Some(stream.try_clone().unwrap());
                seen.bytes.push(Vec::new());
                seen.bytes.len() - 1
            };
            thread::spawn(move || {
                attend(&stream, index, &seen);
                let _ = stream.shutdown(Shutdown::Both);
                seen.lock().unwrap().ended += 1;
            });
        }
    });
    (address, seen)
}

/// Answers every request of one connection.
fn attend(mut stream: &TcpStream, index: usize, seen: &Server) {
    let mut buffer = [0; 4096];
    let mut answered = 0;
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        let mut answers = Vec::new();
        let mut seen = seen.lock().unwrap();
        seen.bytes[index].extend_from_slice(&buffer[..count]);
        while let Some((length, head)) = message(&seen.bytes[index][answered..], false) {
            let ok: &[u8] = if head { b"" } else { b"ok" };
            let ok = [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", ok].concat();
            answers.push(seen.answers.pop_front().unwrap_or((ok, false)));
            answered += length;
        }
        drop(seen);
        for (answer, end) in answers {
            let _ = stream.write_all(&answer);
            if end {
                let _ = stream.shutdown(Shutdown::Write);
            }
        }
    }
}

/// How long the message at the beginning is, read as plainly as can be; and whether it is a `HEAD` request. `None`: it
/// is not whole.
fn message(bytes: &[u8], until_close: bool) -> Option<(usize, bool)> {
    let head_end = bytes.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..head_end]).to_ascii_lowercase();
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let bodiless = ["1", "204", "304"].iter().any(|status| head.get(9..).is_some_and(|rest| rest.starts_with(status)));
    let length = if until_close && bodiless {
        head_end
    } else if field("transfer-encoding").is_some() {
        head_end + chunks(&bytes[head_end..])?
    } else if let Some(length) = field("content-length") {
        head_end + length.parse::<usize>().ok()?
    } else if until_close && !bodiless {
        return None;
    } else {
        head_end
    };
    (bytes.len() >= length).then_some((length, head.starts_with("head ")))
}

fn chunks(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = bytes[at..].windows(2).position(|end| end == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[at..at + line]).ok()?, 16).ok()?;
        at += line + 2;
        if size == 0 {
            let end = |trailer: &[u8]| trailer.windows(4).position(|end| end == b"\r\n\r\n").map(|end| end + 4);
            return if bytes.get(at..)?.starts_with(b"\r\n") {
                Some(at + 2)
            } else {
                end(&bytes[at..]).map(|end| at + end)
            };
        }
        at += size + 2;
        if at > bytes.len() {
            return None;
        }
    }
}

struct Client {
    stream: TcpStream,
    /// What was read and is not accounted for.
    read: Vec<u8>,
    /// The last answer.
    last: String,
    /// The connection was closed by the other side.
    over: bool,
}

impl Client {
    /// A server that has refused may close before all is sent.
    fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    fn end(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    fn more(&mut self) -> Result<(), String> {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.over = true,
            Ok(count) => self.read.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(format!("waited in vain after \"{}\"", self.read.escape_ascii()));
            }
            Err(_) => self.over = true,
        }
        Ok(())
    }

    /// Takes one answer; whether it was a refusal of ours.
    fn get(&mut self, status: u16, what: &str) -> Result<bool, String> {
        let reason = BadRequest::ALL.into_iter().find(|reason| reason.why() == what);
        let length = loop {
            match message(&self.read, true) {
                // The answer to a HEAD request has none of the body that it announces.
                _ if what == "bodiless" && self.read.ends_with(b"\r\n\r\n") => break self.read.len(),
                Some((length, _)) => break length,
                None if self.over => break self.read.len(),
                None => self.more()?,
            }
        };
        let whole = message(&self.read, true).is_some();
        let answer: Vec<u8> = self.read.drain(..length).collect();
        let text = String::from_utf8_lossy(&answer).into_owned();
        let got = text.strip_prefix("HTTP/1.1 ").and_then(|text| text.get(..3)).and_then(|text| text.parse().ok());
        if got != Some(status) {
            return Err(format!("got {text:?} instead of {status} {what}"));
        }
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        self.last.clone_from(&text);
        let fits = match (reason, what) {
            (Some(reason), _) => reason.status() == status && body.contains(reason.sentence()),
            (None, "" | "bodiless") => true,
            (None, "cut") => !whole,
            (None, expected) => body.replace("\r\n", "\\r\\n") == expected,
        };
        if fits { Ok(reason.is_some()) } else { Err(format!("got {text:?} instead of {status} {what}")) }
    }

    /// Nothing more comes before the end.
    fn closed(&mut self) -> Result<(), String> {
        // Two seconds would be the time that a closed connection may linger for a client that goes on sending.
        self.stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        while !self.over && self.read.is_empty() {
            self.more()?;
        }
        if self.read.is_empty() { Ok(()) } else { Err(format!("more came: \"{}\"", self.read.escape_ascii())) }
    }
}
