//! The server behind the proxies: records every request byte for byte, and answers in the way its `X-Answer` names.
//!
//! It reads strictly: what it cannot read as exactly one request is recorded as unreadable, and its connection closed.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// One request as the server got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) line: String,
    /// Names as they came.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) framing: &'static str,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<String>,
    /// The body came to its end.
    pub(crate) complete: bool,
}

#[derive(Debug, Default)]
struct Records {
    by_case: HashMap<usize, Vec<Got>>,
    /// What belongs to no case.
    strays: Vec<String>,
}

/// A running server. Its threads end with their connections.
#[derive(Debug)]
pub(crate) struct Echo {
    pub(crate) address: SocketAddr,
    records: Arc<Mutex<Records>>,
}

impl Echo {
    pub(crate) fn start(address: SocketAddr) -> Echo {
        let listener = TcpListener::bind(address).unwrap();
        let records = Arc::new(Mutex::new(Records::default()));
        let shared = Arc::clone(&records);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let records = Arc::clone(&shared);
                // The proxy may go away at any time: that ends the thread and is all there is to it.
                thread::spawn(move || drop(serve(stream, &records)));
            }
        });
        Echo { address, records }
    }

    /// What came of one case, in the order in which it came.
    pub(crate) fn got(&self, case: usize) -> Vec<Got> {
        self.records.lock().unwrap().by_case.get(&case).cloned().unwrap_or_default()
    }

    /// A case is about to be sent again.
    pub(crate) fn forget(&self, case: usize) {
        self.records.lock().unwrap().by_case.remove(&case);
    }

    /// What belongs to no case.
    pub(crate) fn strays(&self) -> Vec<String> {
        self.records.lock().unwrap().strays.clone()
    }
}

fn serve(stream: TcpStream, records: &Mutex<Records>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut output = stream.try_clone()?;
    let mut input = BufReader::new(stream);
    loop {
        let raw = read_head(&mut input)?;
        if raw.is_empty() {
            return Ok(());
        }
        let parsed = parse(&raw);
        let mut got = parsed.clone().unwrap_or_else(|| Got::unreadable(&raw));
        let (case, place) = {
            let mut records = records.lock().unwrap();
            let Some(case) = case_of(&raw) else {
                records.strays.push(raw.escape_ascii().to_string());
                return Ok(());
            };
            let all = records.by_case.entry(case).or_default();
            all.push(got.clone());
            (case, all.len() - 1)
        };
        if parsed.is_none() {
            return Ok(());
        }
        if got.field("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
            output.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        got.complete = read_body(&mut input, &mut got).is_ok();
        let (close, complete) = (answer(&got), got.complete);
        records.lock().unwrap().by_case.entry(case).or_default()[place] = got;
        if !complete {
            return Ok(());
        }
        let (bytes, close) = close;
        output.write_all(&bytes)?;
        if close {
            return Ok(());
        }
    }
}

/// To the empty line; nothing when the connection ends before the first byte.
fn read_head(input: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut raw = Vec::new();
    loop {
        let before = raw.len();
        if input.read_until(b'\n', &mut raw)? == 0 || matches!(&raw[before..], b"\r\n" | b"\n") {
            return Ok(raw);
        }
    }
}

/// One head, strictly (RFC 9112).
fn parse(raw: &[u8]) -> Option<Got> {
    let text: String = raw.iter().map(|byte| char::from(*byte)).collect();
    let mut lines = text.strip_suffix("\r\n\r\n")?.split("\r\n");
    let line = lines.next()?.to_owned();
    let mut fields = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':')?;
        let token = |letter: char| letter.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(letter);
        if name.is_empty() || !name.chars().all(token) || value.contains(['\r', '\n', '\0']) {
            return None;
        }
        fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
    }
    let mut got = Got { line, fields, framing: "none", body: Vec::new(), trailers: Vec::new(), complete: false };
    got.framing = match (got.field("transfer-encoding"), got.field("content-length")) {
        (Some(_), Some(_)) => return None,
        (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => "chunked",
        (Some(_), None) => return None,
        (None, Some(length)) => length.bytes().all(|byte| byte.is_ascii_digit()).then_some("length")?,
        (None, None) => "none",
    };
    Some(got)
}

impl Got {
    /// What isn't one request.
    fn unreadable(raw: &[u8]) -> Got {
        let line = raw.escape_ascii().to_string();
        Got { line, fields: Vec::new(), framing: "unreadable", body: Vec::new(), trailers: Vec::new(), complete: false }
    }

    /// The value of the first field of a name.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// From `/p/CASE/…`, or from `X-Case`.
fn case_of(raw: &[u8]) -> Option<usize> {
    let text = String::from_utf8_lossy(raw).to_ascii_lowercase();
    let number = |mark: &str| {
        let rest = text.split(mark).nth(1)?;
        rest.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
    };
    number("/p/").or_else(|| number("x-case: "))
}

fn read_body(input: &mut impl BufRead, got: &mut Got) -> io::Result<()> {
    match got.framing {
        "length" => {
            let length: u64 = got.field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            // As far as it comes: what was there is part of the record.
            input.take(length).read_to_end(&mut got.body)?;
            if got.body.len() as u64 == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
        }
        "chunked" => loop {
            let line = read_line(input)?;
            let digits = line.split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(digits, 16).map_err(io::Error::other)?;
            if size == 0 {
                loop {
                    let line = read_line(input)?;
                    if line.is_empty() {
                        return Ok(());
                    }
                    got.trailers.push(line);
                }
            }
            let before = got.body.len();
            input.take(size).read_to_end(&mut got.body)?;
            if (got.body.len() - before) as u64 != size || !read_line(input)?.is_empty() {
                return Err(io::ErrorKind::InvalidData.into());
            }
        },
        _ => Ok(()),
    }
}

/// A line that ends in CRLF, without it.
fn read_line(input: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    input.read_until(b'\n', &mut line)?;
    let line = line.strip_suffix(b"\r\n").ok_or(io::ErrorKind::InvalidData)?;
    Ok(line.iter().map(|byte| char::from(*byte)).collect())
}

/// The answer, and whether the connection closes after it.
fn answer(got: &Got) -> (Vec<u8>, bool) {
    let head_only = got.line.starts_with("HEAD ");
    let content: &[u8] = if got.body.is_empty() { b"no body" } else { &got.body };
    let mark = "X-Echo: 1\r\nServer: echo\r\n";
    let with_length = |start: &str| {
        let mut bytes = format!("{start}{mark}Content-Length: {}\r\n\r\n", content.len()).into_bytes();
        if !head_only {
            bytes.extend_from_slice(content);
        }
        bytes
    };
    let plain = |text: String| text.into_bytes();
    let ok = "HTTP/1.1 200 OK\r\n";
    match got.field("x-answer").unwrap_or("length") {
        "empty" => (plain(format!("{ok}{mark}Content-Length: 0\r\n\r\n")), false),
        "chunked" => (chunked(ok, mark, content, head_only, ""), false),
        "trailer" => (chunked(ok, mark, content, head_only, "X-Sum: 2\r\n"), false),
        "close" => {
            let mut bytes = plain(format!("{ok}{mark}Connection: close\r\n\r\n"));
            if !head_only {
                bytes.extend_from_slice(content);
            }
            (bytes, true)
        }
        "204" => (plain(format!("HTTP/1.1 204 No Content\r\n{mark}\r\n")), false),
        "304" => (plain(format!("HTTP/1.1 304 Not Modified\r\n{mark}ETag: \"e\"\r\n\r\n")), false),
        "304-length" => (plain(format!("HTTP/1.1 304 Not Modified\r\n{mark}Content-Length: 77\r\n\r\n")), false),
        "404" => (with_length("HTTP/1.1 404 Not Found\r\n"), false),
        "500" => (with_length("HTTP/1.1 500 \r\n"), false),
        "100" => (with_length("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"), false),
        "103" => (with_length("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n"), false),
        "many-100" => (with_length(&format!("{}{ok}", "HTTP/1.1 102 Processing\r\n\r\n".repeat(5))), false),
        "old" => (with_length("HTTP/1.0 200 OK\r\n"), true),
        "old-keep-alive" => (with_length("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n"), false),
        "last" => (with_length("HTTP/1.1 200 OK\r\nConnection: close\r\n"), true),
        "cases" => (
            with_length(
                "HTTP/1.1 200 Fine, Thanks\r\nx-LOWER: a\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nX-Blank:\r\n",
            ),
            false,
        ),
        "hop" => (
            with_length("HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: between us\r\nKeep-Alive: timeout=5\r\n"),
            false,
        ),
        "long" => (with_length(&format!("{ok}X-Long: {}\r\n", "a".repeat(6000))), false),
        "bad-lengths" => (plain(format!("{ok}{mark}Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc")), true),
        "bad-both" => (
            plain(format!("{ok}{mark}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n")),
            true,
        ),
        "bad-status" => (plain(format!("HTTP/1.1 2x0 OK\r\n{mark}Content-Length: 0\r\n\r\n")), true),
        "bad-version" => (plain(format!("HTTP/3.0 200 OK\r\n{mark}Content-Length: 0\r\n\r\n")), true),
        "bad-lf" => (plain(format!("{ok}{mark}X-A: b\nContent-Length: 0\r\n\r\n")), true),
        "bad-name" => (plain(format!("{ok}{mark}X(A: b\r\nContent-Length: 0\r\n\r\n")), true),
        "bad-chunk" => (plain(format!("{ok}{mark}Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\nxyz\r\n\r\n")), true),
        "bad-fold" => (plain(format!("{ok}{mark}X-A: b\r\n c\r\nContent-Length: 0\r\n\r\n")), true),
        "bad-space" => (plain(format!("{ok}{mark}X-A : b\r\nContent-Length: 0\r\n\r\n")), true),
        "short" => (plain(format!("{ok}{mark}Content-Length: 100\r\n\r\nabc")), true),
        "nothing" => (Vec::new(), true),
        _ => (with_length(ok), false),
    }
}

fn chunked(status: &str, mark: &str, content: &[u8], head_only: bool, trailers: &str) -> Vec<u8> {
    let mut bytes = format!("{status}{mark}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
    if !head_only {
        for chunk in content.chunks(4000) {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(format!("0\r\n{trailers}\r\n").as_bytes());
    }
    bytes
}
