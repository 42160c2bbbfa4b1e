//! Servers that speak HTTP/2, behind clients that don't: real sockets on both sides.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod data_support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use data_support::http::{Peer, get, stage, with_body};
use data_support::{Plane, at, wait_for};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Request, Response};
use proxy_core::plan::Plan;
use tokio::runtime::Builder;
use tokio::time::sleep;

/// What a server saw.
#[derive(Debug, Default)]
struct Seen {
    connections: AtomicUsize,
    requests: AtomicUsize,
    resets: AtomicUsize,
}

/// A server that does what the path says.
fn server() -> (SocketAddr, Arc<Seen>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let (address, seen) = (listener.local_addr().unwrap(), Arc::new(Seen::default()));
    let counts = Arc::clone(&seen);
    thread::spawn(move || {
        Builder::new_current_thread().enable_all().build().unwrap().block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((socket, _)) = listener.accept().await {
                counts.connections.fetch_add(1, SeqCst);
                tokio::spawn(serve(socket, Arc::clone(&counts)));
            }
        });
    });
    (address, seen)
}

async fn serve(socket: tokio::net::TcpStream, seen: Arc<Seen>) {
    let mut builder = h2::server::Builder::new();
    let Ok(mut connection) = builder.enable_connect_protocol().handshake::<_, Bytes>(socket).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        seen.requests.fetch_add(1, SeqCst);
        if request.uri().path() == "/last" {
            connection.graceful_shutdown();
        }
        tokio::spawn(answer(request, respond, Arc::clone(&seen)));
    }
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, seen: Arc<Seen>) {
    let (parts, mut body) = request.into_parts();
    let ok = || Response::builder().header("x-te", parts.headers.get("te").cloned().unwrap());
    match parts.uri.path() {
        // The request line as HTTP/2 has it.
        "/said" => {
            let text = format!("{} {} {:?}", parts.method, parts.uri, parts.headers);
            let mut send = respond.send_response(ok().body(()).unwrap(), false).unwrap();
            send.send_data(text.into(), true).unwrap();
        }
        "/echo" => {
            let mut send = respond.send_response(ok().body(()).unwrap(), false).unwrap();
            while let Some(Ok(data)) = body.data().await {
                let _ = body.flow_control().release_capacity(data.len());
                send.send_data(data, false).unwrap();
            }
            let trailers = body.trailers().await.unwrap().unwrap_or_default();
            send.send_trailers(trailers).unwrap();
        }
        // As gRPC says that a call came to nothing.
        "/trailers-only" => {
            let response = ok().header("grpc-status", "5").body(()).unwrap();
            respond.send_response(response, true).unwrap();
        }
        "/early" => {
            respond
                .send_informational(Response::builder().status(103).header("link", "</x>").body(()).unwrap())
                .unwrap();
            respond.send_response(ok().status(404).body(()).unwrap(), true).unwrap();
        }
        "/refuse" => respond.send_reset(Reason::REFUSED_STREAM),
        "/refuse-first" if seen.requests.load(SeqCst) == 1 => respond.send_reset(Reason::REFUSED_STREAM),
        "/fail-first" if seen.requests.load(SeqCst) == 1 => respond.send_reset(Reason::INTERNAL_ERROR),
        "/half" => {
            let mut send = respond.send_response(ok().body(()).unwrap(), false).unwrap();
            send.send_data(Bytes::from_static(b"half"), false).unwrap();
            // A reset would take back what has not gone yet.
            sleep(Duration::from_millis(50)).await;
            send.send_reset(Reason::INTERNAL_ERROR);
        }
        "/wait" => {
            tokio::select! {
                reset = std::future::poll_fn(|cx| respond.poll_reset(cx)) => {
                    assert_eq!(reset.unwrap(), Reason::CANCEL);
                    seen.resets.fetch_add(1, SeqCst);
                }
                () = sleep(Duration::from_secs(60)) => {}
            }
        }
        "/socket" => {
            assert_eq!(parts.extensions.get::<h2::ext::Protocol>().unwrap().as_str(), "websocket");
            let mut send = respond.send_response(ok().body(()).unwrap(), false).unwrap();
            while let Some(Ok(data)) = body.data().await {
                let _ = body.flow_control().release_capacity(data.len());
                send.send_data(data, false).unwrap();
            }
            send.send_data(Bytes::new(), true).unwrap();
        }
        path => {
            let length: usize = path[1..].parse().unwrap_or(2);
            let response = ok().header("content-length", length).body(()).unwrap();
            let mut send = respond.send_response(response, length == 0).unwrap();
            if length > 0 {
                send.send_data(vec![b'x'; length].into(), true).unwrap();
            }
        }
    }
}

fn front(server: SocketAddr, change: impl FnOnce(&mut Plan)) -> (SocketAddr, Plane) {
    stage(vec![at("one", server)], |plan| {
        plan.backends[0].http2 = true;
        change(plan);
    })
}

#[test]
fn a_request_is_said_in_http_2_and_its_answer_in_http_1() {
    let (server, seen) = server();
    let (address, _plane) = front(server, |_| {});
    let mut client = Peer::to(address);
    let said = client.say(
        "GET /said?x HTTP/1.1\r\nHost: A.test:8080\r\nConnection: x-mine\r\nX-Mine: 1\r\nTE: gzip\r\nX-Kept: y\r\n\r\n",
    );
    let said = said.answer().unwrap();
    assert_eq!(said.field("x-te"), Some("trailers"));
    let text = said.text();
    assert!(text.starts_with("GET http://A.test:8080/said?x {"), "{text}");
    assert!(
        text.contains("x-kept") && !text.contains("x-mine") && !text.contains("connection") && !text.contains("host"),
        "{text}"
    );
    for length in [0, 1, 65_535, 1_000_000] {
        assert_eq!(client.get(&format!("/{length}")).body.len(), length);
    }
    let head = client.say("HEAD /77 HTTP/1.1\r\nHost: a.test\r\n\r\n").answer_to("HEAD").unwrap();
    assert_eq!((head.status(), head.field("content-length")), (200, Some("77")));
    assert_eq!(client.get("/2").status(), 200);
    assert_eq!(seen.connections.load(SeqCst), 1);
}

#[test]
fn bodies_and_trailers_pass_both_ways() {
    let (server, _) = server();
    let (address, _plane) = front(server, |_| {});
    let mut client = Peer::to(address);
    let body: Vec<u8> = (0..3_000_000u32).map(|index| (index % 251) as u8).collect();
    // While it is sent, it comes back.
    let mut sender = client.stream().try_clone().unwrap();
    let request = with_body("POST", "/echo", &body);
    let sending = thread::spawn(move || std::io::Write::write_all(&mut sender, &request).unwrap());
    let echoed = client.answer().unwrap();
    sending.join().unwrap();
    assert!(echoed.body == body);
    client.say("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n");
    let echoed = client.answer().unwrap();
    assert_eq!((echoed.text(), &*echoed.trailers), ("abcde", "x-sum: 5\n"));
}

#[test]
fn an_answer_that_is_all_head_and_an_interim_one_pass() {
    let (server, _) = server();
    let (address, _plane) = front(server, |_| {});
    let mut client = Peer::to(address);
    let only = client.get("/trailers-only");
    assert_eq!((only.status(), only.field("grpc-status"), only.field("content-length")), (200, Some("5"), Some("0")));
    let interim = client.get("/early");
    assert_eq!((interim.status(), interim.field("link")), (103, Some("</x>")));
    assert_eq!(client.answer().unwrap().status(), 404);
}

#[test]
fn many_clients_share_a_connection_and_a_leaving_server_gets_no_more() {
    let (server, seen) = server();
    let (address, _plane) = front(server, |_| {});
    let clients: Vec<_> = (0..20)
        .map(|_| {
            thread::spawn(move || {
                let mut client = Peer::to(address);
                for _ in 0..20 {
                    assert_eq!(client.get("/1000").body.len(), 1000);
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!((seen.connections.load(SeqCst), seen.requests.load(SeqCst)), (1, 400));
    let mut client = Peer::to(address);
    for _ in 0..3 {
        assert_eq!(client.get("/last").status(), 200);
        wait_for("the end of the connection to be seen", || client.get("/2").status() == 200);
    }
    assert!(seen.connections.load(SeqCst) > 1);
}

#[test]
fn what_the_server_breaks_off_is_no_answer_and_what_the_client_does_is_told_to_the_server() {
    let (server, seen) = server();
    let (address, _plane) = front(server, |_| {});
    let refused = Peer::to(address).say(with_body("POST", "/refuse", b"x")).answer().unwrap();
    assert_eq!(refused.status(), 502);
    seen.requests.store(0, SeqCst);
    assert!(Peer::to(address).say(get("/half")).answer().is_err());
    let mut waiting = Peer::to(address);
    waiting.say(get("/wait"));
    wait_for("the request", || seen.requests.load(SeqCst) == 2);
    waiting.reset();
    wait_for("the server to hear that nobody waits", || seen.resets.load(SeqCst) == 1);
    // None of it has harmed the connection.
    assert_eq!((Peer::to(address).get("/2").status(), seen.connections.load(SeqCst)), (200, 1));
}

#[test]
fn what_the_server_refused_is_asked_again_whatever_it_is_and_what_it_failed_is_not() {
    for (path, retries, status, requests) in
        [("/refuse-first", 0, 200, 2), ("/refuse", 0, 502, 5), ("/refuse", 3, 502, 8), ("/fail-first", 3, 502, 1)]
    {
        let (server, seen) = server();
        let (address, plane) = front(server, |plan| plan.backends[0].retries = retries);
        for body in [1, 20_000] {
            let mut client = Peer::to(address);
            seen.requests.store(0, SeqCst);
            // What follows it must not suffer.
            client.say([&with_body("POST", path, &vec![b'x'; body])[..], get("/2").as_bytes()].concat());
            assert_eq!(client.answer().unwrap().status(), status, "{path} {retries} {body}");
            if status == 200 {
                assert_eq!(client.answer().unwrap().text(), "xx");
            }
            let all = requests + usize::from(status == 200);
            assert_eq!(seen.requests.load(SeqCst), all, "{path} {retries} {body}");
        }
        let failed = if status == 200 { 0 } else { 2 };
        assert_eq!(plane.stats().backends[0].servers[0].response_errors, failed, "{path}");
        assert_eq!(seen.connections.load(SeqCst), 1, "the connection is as good as before");
    }
}

#[test]
fn a_websocket_of_http_1_reaches_a_server_of_http_2() {
    let (server, _) = server();
    let (address, _plane) = front(server, |_| {});
    let mut client = Peer::to(address);
    // The example of RFC 6455 §1.3.
    client.say(
        "GET /socket HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    let head = client.head().unwrap().unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains(&"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_ascii_lowercase()), "{head}");
    client.say("up and down");
    assert_eq!(client.exactly(11).unwrap(), b"up and down");
    client.stream().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.end(), Ok(()));
}

#[test]
fn a_server_that_does_not_answer_in_http_2_is_not_reached() {
    let (server, _) = data_support::server(|stream| {
        let mut peer = Peer::new(stream);
        let _ = peer.head();
        peer.say("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    });
    let (address, plane) = front(server, |_| {});
    assert_eq!(Peer::to(address).get("/").status(), 503);
    assert_eq!(plane.stats().backends[0].servers[0].connect_errors, 1);
}
