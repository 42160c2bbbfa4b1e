//! WebSockets in streams (RFC 8441).

use bytes::Bytes;
use h2::ext::Protocol;
use http::{HeaderValue, Method, Request};

use crate::client::{Answer, Client, play, request, stage};
use crate::data_support::http::{Peer, ok, scripted};
use crate::data_support::{at, wait_for};

/// Says yes to whoever asks for an upgrade, then what it hears in upper case; no to everybody else.
fn shouting() -> std::net::SocketAddr {
    let (server, _) = scripted(|peer| {
        while let Ok(Some(asked)) = peer.request() {
            if asked.path() == "/no" || !asked.says("upgrade") {
                peer.say("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
                continue;
            }
            assert_eq!((asked.method(), asked.field("upgrade")), ("GET", Some("websocket")));
            assert_eq!(asked.field("sec-websocket-key").map(str::len), Some(24));
            assert_eq!(asked.field("sec-websocket-version"), Some("13"));
            peer.say(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Accept: x\r\nSec-WebSocket-Protocol: chat\r\n\r\nhello",
            );
            let mut buffer = [0; 1000];
            while let Ok(count @ 1..) = peer.some(&mut buffer) {
                peer.say(buffer[..count].to_ascii_uppercase());
            }
            peer.say("bye");
            return;
        }
    });
    server
}

fn socket(path: &str) -> Request<()> {
    let mut request = request("CONNECT", path);
    assert_eq!(request.method(), Method::CONNECT);
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    request.headers_mut().insert("sec-websocket-version", HeaderValue::from_static("13"));
    request
}

#[test]
fn a_websocket_is_a_stream_whose_ends_are_its_own() {
    let (front, plane) = stage(vec![at("a", shouting())], |_| {});
    play(async {
        let mut client = Client::to(front).await;
        // The server's settings tell that it can be asked for.
        assert_eq!(client.ask(request("GET", "/")).await.unwrap().status(), 403);
        assert!(client.send.is_extended_connect_protocol_enabled());
        let (response, mut up) = client.begin(socket("/chat")).await;
        let answer = response.await.unwrap();
        assert_eq!(answer.status(), 200);
        let fields: Vec<_> = answer.headers().keys().map(|name| name.as_str()).collect();
        assert_eq!(fields, ["sec-websocket-protocol"]);
        let mut down = answer.into_body();
        assert_eq!(down.data().await.unwrap().unwrap(), "hello");
        for word in ["one", "two"] {
            up.send_data(Bytes::from_static(word.as_bytes()), false).unwrap();
            assert_eq!(down.data().await.unwrap().unwrap(), word.to_uppercase());
        }
        // Other requests go on beside it.
        assert_eq!(client.ask(request("GET", "/")).await.unwrap().status(), 403);
        up.send_data(Bytes::new(), true).unwrap();
        assert_eq!(crate::client::all(&mut down).await.unwrap(), b"bye");
    });
    wait_for("the tunnel to be counted", || plane.stats().frontends[0].http.unwrap().responses.informational == 1);
}

#[test]
fn a_server_may_refuse_and_only_websockets_are_known() {
    let (front, _plane) = stage(vec![at("a", shouting())], |_| {});
    play(async {
        let mut client = Client::to(front).await;
        assert_eq!(client.ask(request("GET", "/")).await.unwrap().status(), 403);
        let (response, _up) = client.begin(socket("/no")).await;
        let answer = Answer::of(response.await.unwrap()).await.unwrap();
        assert_eq!((answer.status(), answer.text()), (403, "no"));
        let mut other = socket("/chat");
        other.extensions_mut().insert(Protocol::from_static("connect-udp"));
        let (response, _up) = client.begin(other).await;
        assert_eq!(response.await.unwrap().status(), 501);
        // One that has ended before it began.
        let ended = client.ask(socket("/chat")).await.unwrap_err();
        assert_eq!(ended.reason(), Some(h2::Reason::PROTOCOL_ERROR));
    });
}

#[test]
fn a_reset_on_either_side_is_one_on_the_other() {
    let (gone, waits) = std::sync::mpsc::sync_channel(1);
    let (gone, waits) = (std::sync::Mutex::new(gone), std::sync::Mutex::new(waits));
    let (server, _) = scripted(move |peer: &mut Peer| {
        let asked = peer.request().unwrap().unwrap();
        if asked.path() == "/" {
            peer.say(ok("x"));
            return;
        }
        peer.say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
        if asked.path() == "/dies" {
            peer.exactly(1).unwrap();
            let reset = socket2::SockRef::from(peer.stream()).set_linger(Some(std::time::Duration::ZERO));
            return reset.unwrap();
        }
        gone.lock().unwrap().send(peer.end()).unwrap();
    });
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    play(async {
        let mut client = Client::to(front).await;
        assert_eq!(client.ask(request("GET", "/")).await.unwrap().status(), 200);
        let (response, mut up) = client.begin(socket("/dies")).await;
        let mut down = response.await.unwrap().into_body();
        up.send_data(Bytes::from_static(b"x"), false).unwrap();
        let end = down.data().await.unwrap().unwrap_err();
        assert_eq!(end.reason(), Some(h2::Reason::INTERNAL_ERROR));
        let (response, mut up) = client.begin(socket("/waits")).await;
        assert_eq!(response.await.unwrap().status(), 200);
        up.send_reset(h2::Reason::CANCEL);
        let seen = tokio::task::spawn_blocking(move || waits.lock().unwrap().recv().unwrap()).await.unwrap();
        assert_eq!(seen, Err(std::io::ErrorKind::ConnectionReset));
    });
}
