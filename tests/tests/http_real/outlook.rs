//! RPC over HTTP (MS-RPCH), as Outlook Anywhere speaks it: two requests with a gigabyte announced, that carry a few bytes now and
//! then for as long as the client lives. What goes in on one comes out on the other.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tests::place::Place;
use tests::wait;

use crate::{Front, long};

const GIB: usize = 1 << 30;
/// A message.
const SIZE: usize = 64;
/// From one message to the next.
const GAP: Duration = Duration::from_millis(100);
/// A message may take this long through lbnode, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(2);

/// The server: what comes in on `RPC_IN_DATA` goes out on `RPC_OUT_DATA`; the answer to the former begins with its third message.
fn server(address: SocketAddr) {
    let listener = TcpListener::bind(address).unwrap();
    let (messages, pending) = sync_channel::<Vec<u8>>(16);
    thread::spawn(move || {
        let mut pending = Some(pending);
        for stream in listener.incoming().flatten() {
            let mut input = BufReader::new(stream.try_clone().unwrap());
            let head = head(&mut input);
            if head.starts_with("RPC_IN_DATA /rpc/rpcproxy.dll?mail:6001 HTTP/1.1\r\n") {
                let messages = messages.clone();
                thread::spawn(move || take_in(input, stream, &messages));
            } else if head.starts_with("RPC_OUT_DATA /rpc/rpcproxy.dll?mail:6001 HTTP/1.1\r\n") {
                let pending = pending.take().expect("one client");
                thread::spawn(move || give_out(stream, &pending));
            } else {
                panic!("what is {head:?}?");
            }
        }
    });
}

fn take_in(mut input: BufReader<TcpStream>, mut output: TcpStream, messages: &SyncSender<Vec<u8>>) {
    for number in 1.. {
        let mut message = vec![0; SIZE];
        if input.read_exact(&mut message).is_err() {
            return;
        }
        if messages.send(message).is_err() {
            return;
        }
        if number == 3 {
            let early = "HTTP/1.1 200 Success\r\nContent-Type: application/rpc\r\nContent-Length: 20\r\n\r\n";
            output.write_all(early.as_bytes()).unwrap();
        }
    }
}

fn give_out(mut output: TcpStream, pending: &Receiver<Vec<u8>>) {
    let head = format!("HTTP/1.1 200 Success\r\nContent-Type: application/rpc\r\nContent-Length: {GIB}\r\n\r\n");
    output.write_all(head.as_bytes()).unwrap();
    while let Ok(message) = pending.recv() {
        if output.write_all(&message).is_err() {
            return;
        }
    }
}

fn head(input: &mut impl BufRead) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(input.read_line(&mut head).unwrap(), 0, "the connection ended in {head:?}");
    }
    head
}

fn converse(name: &str, length: Duration) {
    let place = Place::new(name).unwrap();
    server(place.at(9001));
    let front = Front::start(&place, place.at(9001), |site| {
        site.defaults = "timeouts = { client = \"5s\", server = \"5s\", request = \"1s\", keep_alive = \"1s\" }".into();
    });
    let connect = |method: &str, length: usize| {
        let mut stream = TcpStream::connect(front.site.bind).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!(
            "{method} /rpc/rpcproxy.dll?mail:6001 HTTP/1.1\r\nAccept: application/rpc\r\nUser-Agent: MSRPC\r\nHost: mail\r\n\
            Content-Length: {length}\r\nConnection: Keep-Alive\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let mut inward = connect("RPC_IN_DATA", GIB);
    let mut outward = connect("RPC_OUT_DATA", 76);
    outward.write_all(&[7; 76]).unwrap();
    let mut answer = BufReader::new(outward);
    assert!(head(&mut answer).starts_with("HTTP/1.1 200 Success\r\n"), "the answer begins before any message");

    let (start, mut number) = (Instant::now(), 0_u64);
    while start.elapsed() < length {
        let mut message = vec![(number % 251) as u8; SIZE];
        message[..8].copy_from_slice(&number.to_be_bytes());
        inward.write_all(&message).unwrap();
        let mut back = vec![0; SIZE];
        answer
            .read_exact(&mut back)
            .unwrap_or_else(|error| panic!("message {number} after {:?}: {error}", start.elapsed()));
        assert_eq!(back, message);
        number += 1;
        if number == 4 {
            let early = head(&mut BufReader::new(&mut inward));
            assert!(early.starts_with("HTTP/1.1 200 Success\r\n"), "the answer comes before the request ends: {early}");
        }
        wait::pass(GAP);
    }
    assert!(number > 10, "{number} messages in {length:?}");
}

#[test]
fn rpc_over_http_carries_messages_both_ways_while_both_requests_last() {
    converse("rpc", Duration::from_secs(10));
}

#[test]
fn long_rpc_over_http_lives_for_minutes() {
    if long("long_rpc_over_http_lives_for_minutes") {
        converse("rpc-long", Duration::from_secs(130));
    }
}
