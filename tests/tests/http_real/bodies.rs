//! Bodies that fit into no memory: they pass through, and the proxy core stays as small as it was.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use tests::place::Place;
use tests::usage::memory;

use crate::{Front, long};

/// What lbnode may grow by. Its buffers are a few dozen KiB a connection.
const GROWTH: u64 = 8 << 20;
const PIECE: usize = 256 * 1024;

/// Answers `GET /BYTES` with so many, and `PUT` with how many came.
fn server(address: SocketAddr) {
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away ends its own connection only.
            thread::spawn(move || drop(serve(stream)));
        }
    });
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let mut input = BufReader::with_capacity(PIECE, stream.try_clone()?);
    let head = head(&mut input)?;
    if let Some(bytes) = head.strip_prefix("GET /").and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok()) {
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n")?;
        pour(&mut stream, bytes)
    } else {
        let length = length(&head);
        let came = std::io::copy(&mut input.take(length), &mut std::io::sink())?;
        let text = came.to_string();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())
    }
}

fn pour(output: &mut impl Write, bytes: u64) -> std::io::Result<()> {
    let piece = vec![b'x'; PIECE];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(PIECE as u64);
        output.write_all(&piece[..now as usize])?;
        left -= now;
    }
    Ok(())
}

fn head(input: &mut impl BufRead) -> std::io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if input.read_line(&mut head)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

fn length(head: &str) -> u64 {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(name, _)| name.eq_ignore_ascii_case("content-length")).map_or(0, |(_, value)| value.parse().unwrap())
}

fn pass(name: &str, bytes: u64) {
    let place = Place::new(name).unwrap();
    server(place.at(9001));
    let front = Front::start(&place, place.at(9001), |_| {});
    let pid = front.serve.part.pid();
    let before = memory(pid);
    let mut most = 0;

    let mut down = TcpStream::connect(front.site.bind).unwrap();
    down.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(down, "GET /{bytes} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").unwrap();
    let mut input = BufReader::with_capacity(PIECE, down);
    assert_eq!(length(&head(&mut input).unwrap()), bytes);
    let mut came = 0;
    for piece in 0.. {
        let here = input.fill_buf().unwrap().len();
        if here == 0 {
            break;
        }
        assert!(input.buffer().iter().all(|byte| *byte == b'x'), "another byte in the {here} after {came}");
        input.consume(here);
        came += here as u64;
        if piece % 256 == 0 {
            most = most.max(memory(pid));
        }
    }
    assert_eq!(came, bytes);

    let mut up = TcpStream::connect(front.site.bind).unwrap();
    up.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(up, "PUT /up HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nContent-Length: {bytes}\r\n\r\n").unwrap();
    let parts = 20;
    for part in 0..parts {
        pour(&mut up, bytes / parts + if part == 0 { bytes % parts } else { 0 }).unwrap();
        most = most.max(memory(pid));
    }
    let mut answer = String::new();
    up.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with(&bytes.to_string()), "{answer}");
    assert!(most.saturating_sub(before) < GROWTH, "memory grew from {before} to {most} bytes");
}

#[test]
fn bodies_of_hundreds_of_megabytes_take_no_memory() {
    pass("bodies", 300_000_000);
}

#[test]
fn long_bodies_of_gigabytes_take_no_memory() {
    if long("long_bodies_of_gigabytes_take_no_memory") {
        pass("bodies-long", 5_000_000_000);
    }
}
