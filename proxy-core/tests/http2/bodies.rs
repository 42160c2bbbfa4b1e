//! Long bodies, and who waits for whom.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;

use crate::client::{Answer, Client, all, get, play, request, send_all, stage};
use crate::data_support::http::{Dice, ok, scripted};
use crate::data_support::{at, pace, wait_for};

const LONG: usize = 20 * 1024 * 1024;

/// A server that answers with [`LONG`] bytes, counts what of them has left it, and takes requests of any length.
fn generous() -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let said = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&said);
    let (server, _) = scripted(move |peer| {
        while let Ok(Some(request)) = peer.request() {
            if request.path() == "/up" {
                peer.say(ok(&request.body.len().to_string()));
                continue;
            }
            peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {LONG}\r\n\r\n"));
            let mut stream = peer.stream();
            let piece = Dice::new(1).bytes(64 * 1024);
            for _ in 0..LONG / piece.len() {
                if std::io::Write::write_all(&mut stream, &piece).is_err() {
                    return;
                }
                counted.fetch_add(piece.len(), SeqCst);
            }
        }
    });
    (server, said)
}

#[test]
fn long_bodies_pass_whole_both_ways_and_beside_each_other() {
    let (server, _) = generous();
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    let piece = Dice::new(1).bytes(64 * 1024);
    play(async {
        let mut client = Client::to(front).await;
        client.send = client.send.clone().ready().await.unwrap();
        let down = client.send.send_request(get("/down"), true).unwrap().0;
        let (up, mut body) = client.begin(request("POST", "/up")).await;
        let sent = tokio::spawn(async move {
            let long = vec![7; LONG];
            send_all(&mut body, &long, true).await.unwrap();
        });
        let got = all(&mut down.await.unwrap().into_body()).await.unwrap();
        assert!(got.len() == LONG && got.chunks(piece.len()).all(|chunk| chunk == piece));
        sent.await.unwrap();
        assert_eq!(Answer::of(up.await.unwrap()).await.unwrap().text(), LONG.to_string());
    });
}

#[test]
fn a_client_that_does_not_read_holds_its_server_and_nobody_else() {
    let (server, said) = generous();
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    play(async {
        let mut client = Client::to(front).await;
        client.send = client.send.clone().ready().await.unwrap();
        let response = client.send.send_request(get("/down"), true).unwrap().0;
        let mut body = response.await.unwrap().into_body();
        let first = body.data().await.unwrap().unwrap();
        // What is under way fills buffers, then stands.
        let mut before = usize::MAX;
        while before != said.load(SeqCst) {
            before = said.load(SeqCst);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        assert!(before < LONG - 1024 * 1024, "{before} bytes have left the server");
        let (up, mut post) = client.begin(request("POST", "/up")).await;
        send_all(&mut post, b"quick", true).await.unwrap();
        assert_eq!(Answer::of(up.await.unwrap()).await.unwrap().text(), "5");
        body.flow_control().release_capacity(first.len()).unwrap();
        assert_eq!(first.len() + all(&mut body).await.unwrap().len(), LONG);
    });
}

#[test]
fn a_server_that_does_not_read_holds_its_client() {
    let (server, seen) = scripted(|peer| {
        peer.head().unwrap();
        pace(Duration::from_millis(500));
        let body = peer.exactly(LONG).unwrap();
        peer.say(ok(&body.len().to_string()));
    });
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    play(async {
        let mut client = Client::to(front).await;
        let mut post = request("POST", "/");
        post.headers_mut().insert("content-length", LONG.into());
        let (response, mut body) = client.begin(post).await;
        let long = Bytes::from(vec![7; LONG]);
        body.reserve_capacity(LONG);
        let mut rest = long.clone();
        let mut most = 0;
        while !rest.is_empty() {
            let room = std::future::poll_fn(|cx| body.poll_capacity(cx)).await.unwrap().unwrap();
            most = most.max(room);
            let piece = rest.split_to(room.min(rest.len()));
            body.send_data(piece, rest.is_empty()).unwrap();
        }
        assert!(most <= 64 * 1024, "a window of {most} bytes");
        assert_eq!(Answer::of(response.await.unwrap()).await.unwrap().text(), LONG.to_string());
    });
    wait_for("the server to be done", || seen.open() <= 1);
}
