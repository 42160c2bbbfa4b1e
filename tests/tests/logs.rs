//! The log lines of lbnode beside those that HAProxy writes about the same requests, both sent to a syslog server over UDP.
//! What must differ between two runs is smoothed: dates, ports, milliseconds, and bytes of answers that each words itself.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use tests::haproxy::Haproxy;
use tests::place::Place;
use tests::serve::{Serve, Site};

const PATIENCE: Duration = Duration::from_secs(10);

/// What a client sends, and what becomes of its connection.
const CASES: [(&str, &str); 11] = [
    ("a request", "GET /a?b=c HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("HTTP/1.0", "GET /old HTTP/1.0\r\n\r\n"),
    ("absolute-form", "GET http://a/abs HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("what could end the quotes", "GET /\"}{| HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("no request at all", "GARBAGE\r\n\r\n"),
    ("a space before the colon", "GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n"),
    ("half a request, then silence", "GET /half HTTP/1.1\r\nHo"),
    ("a server that is silent", "GET /silent HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a server that talks nonsense", "POST /nonsense HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"),
    ("a server that leaves half-way", "GET /cut HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a denied path", "GET /denied HTTP/1.1\r\nHost: a\r\n\r\n"),
];

#[test]
fn the_same_requests_leave_the_same_lines() {
    let place = Place::new("logs").unwrap();
    let server = serve(place.at(7001));
    let (theirs, ours) = (Syslog::start(), Syslog::start());

    let haproxy = place.at(8001);
    let sections = format!(
        "  log {} len 8192 local0\n\
        defaults\n  mode http\n  log global\n  option httplog\n  timeout connect 1s\n  timeout client 1s\n  \
        timeout server 500ms\n  timeout http-request 500ms\n\
        frontend front\n  bind {haproxy}\n  http-request deny if {{ path /denied }}\n  default_backend back\n\
        backend back\n  server one {server}\n",
        theirs.address
    );
    let _haproxy = Haproxy::start(&place, "haproxy", haproxy, &sections).unwrap();
    // The line about the attempt to see whether it listens.
    theirs.line();

    let lbnode = place.at(8002);
    let mut site = Site::new(lbnode, server);
    site.defaults = format!(
        "timeouts = {{ connect = \"1s\", client = \"1s\", server = \"500ms\", request = \"500ms\" }}\n\
        log = {{ target = \"syslog:{}\" }}",
        ours.address
    );
    site.more = "[[frontend.front.rule]]\nwhen = { path = \"/denied\" }\ndeny = 403\n".into();
    let _lbnode = Serve::start(&place, &site.toml()).unwrap();

    for (what, request) in CASES {
        ask(haproxy, request);
        let expected = smooth(&theirs.line(), "haproxy");
        ask(lbnode, request);
        assert_eq!(smooth(&ours.line(), "lbnode"), expected, "{what}");
    }
}

/// Sends, and reads to the end.
fn ask(proxy: SocketAddr, request: &str) {
    let mut client = TcpStream::connect(proxy).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(request.as_bytes()).unwrap();
    if request.ends_with("\r\n\r\n") {
        let mut answer = [0; 4096];
        assert!(client.read(&mut answer).unwrap() > 0, "no answer to {request:?}");
        // What is left of it comes, or the end.
        let _ = client.shutdown(Shutdown::Write);
    }
    let _ = client.read_to_end(&mut Vec::new());
}

/// `<134>Nov 21 16:28:07 haproxy[1]: 127.0.0.1:1 [...] front back/one 0/0/0/1/1 200 52 - - ---- 1/1/0/0/0 0/0 "..."`
fn smooth(line: &str, tag: &str) -> String {
    let (header, rest) = line.split_once("]: ").unwrap();
    let (priority, stamp) = header.split_once('>').unwrap();
    let (stamp, pid) = stamp.rsplit_once(&format!(" {tag}[")).unwrap();
    assert!(stamp.len() == "Nov 21 16:28:07".len() && pid.parse::<u32>().is_ok(), "{line}");
    let words: Vec<&str> = rest.splitn(13, ' ').collect();
    let [client, date, frontend, way, times, status, bytes, "-", "-", state, load, queues, request] = words[..] else {
        panic!("too few words: {line}");
    };
    let (address, port) = client.rsplit_once(':').unwrap();
    assert!(port.parse::<u16>().is_ok() && bytes.parse::<u64>().is_ok(), "{line}");
    assert_eq!(date.len(), "[21/Nov/2026:16:28:07.315]".len(), "{line}");
    let reached = |time: &str| if time == "-1" { "-1" } else { time.parse::<u32>().map(|_| "n").unwrap() };
    let times: Vec<_> = times.split('/').map(reached).collect();
    // Their values are of the moment: another session may still be on its way out.
    assert_eq!(load.split('/').filter(|count| count.parse::<u32>().is_ok()).count(), 5, "{line}");
    let times = times.join("/");
    format!("{priority} {address} {frontend} {way} {times} {status} {state} {queues} {request}")
}

struct Syslog {
    socket: UdpSocket,
    address: SocketAddr,
}

impl Syslog {
    fn start() -> Syslog {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let address = socket.local_addr().unwrap();
        Syslog { socket, address }
    }

    /// The next one about a client; HAProxy tells of its own start as well.
    fn line(&self) -> String {
        let mut bytes = [0; 8192];
        loop {
            let length = self.socket.recv(&mut bytes).expect("a log line within ten seconds");
            let line = String::from_utf8(bytes[..length].to_vec()).unwrap();
            if line.contains(" front ") {
                return line.strip_suffix('\n').expect("a line has an end").to_owned();
            }
        }
    }
}

/// A server that does as the path says.
fn serve(address: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    address
}

fn answer(mut stream: TcpStream) {
    let mut request = Vec::new();
    let mut bytes = [0; 4096];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut bytes) {
            Ok(read @ 1..) => request.extend_from_slice(&bytes[..read]),
            _ => return,
        }
    }
    let text = String::from_utf8_lossy(&request);
    let answer: &[u8] = match text.split_whitespace().nth(1) {
        Some("/silent") => {
            // Until the proxy has lost patience.
            let _ = stream.read(&mut bytes);
            return;
        }
        Some("/nonsense") => b"nonsense\r\n\r\n",
        Some("/cut") => b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        _ => b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc",
    };
    let _ = stream.write_all(answer);
}
