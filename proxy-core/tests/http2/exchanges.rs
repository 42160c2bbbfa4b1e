//! Requests and answers of every shape, as both sides see them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use proxy_core::plan::{Action, HeaderEdit, Reply};

use crate::client::{Answer, Client, all, get, play, request, send_all, stage};
use crate::data_support::http::{Message, chunked, http, numbering, ok, rule, scripted, serving};
use crate::data_support::{at, nobody, wait_for};

/// A server that answers with `answer`, and what it was asked.
fn answering(answer: impl AsRef<[u8]> + Send + Sync + 'static) -> (std::net::SocketAddr, Arc<Mutex<Vec<Message>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&asked);
    let (server, _) = scripted(move |peer| {
        while let Ok(Some(request)) = peer.request() {
            kept.lock().unwrap().push(request);
            peer.say(&answer);
        }
    });
    (server, asked)
}

#[test]
fn a_request_is_asked_and_answered_as_over_http_1() {
    let (server, asked) = answering(
        "HTTP/1.1 201 Made\r\nServer: x\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nSet-Cookie: a\r\n\
        Content-Length: 5\r\nSet-Cookie: b\r\n\r\nhello",
    );
    let (front, plane) = stage(vec![at("a", server)], |plan| {
        http(plan).request_edits.push(HeaderEdit::Set("X-Edited".into(), "yes".into()));
        http(plan).response_edits.push(HeaderEdit::Set("X-Said".into(), "too".into()));
    });
    let answer = play(async {
        let mut client = Client::to(front).await;
        let mut request = request("PUT", "/x?y=1");
        request.headers_mut().append("cookie", HeaderValue::from_static("a=1"));
        request.headers_mut().append("cookie", HeaderValue::from_static("b=2"));
        request.headers_mut().append("x-much", HeaderValue::from_bytes("ü ok".as_bytes()).unwrap());
        client.ask(request).await.unwrap()
    });
    assert_eq!((answer.status(), answer.text()), (201, "hello"));
    let fields: Vec<_> =
        answer.head.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(
        fields,
        [("server", "x"), ("set-cookie", "a"), ("set-cookie", "b"), ("content-length", "5"), ("x-said", "too")]
    );
    let asked = asked.lock().unwrap();
    assert!(asked[0].head.starts_with("PUT /x?y=1 HTTP/1.1\r\nhost: a.test\r\n"), "{}", asked[0].head);
    assert_eq!((asked[0].field("cookie"), asked[0].field("x-edited")), (Some("a=1; b=2"), Some("yes")));
    assert_eq!((asked[0].field("content-length"), asked[0].field("connection")), (Some("0"), None));
    let stats = &plane.stats().frontends[0];
    assert_eq!((stats.total, stats.http.unwrap().requests), (1, 1));
}

#[test]
fn answers_without_a_body_end_with_their_head() {
    for (method, answer, status, length) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200, Some("5")),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", 204, None),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, Some("5")),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, Some("0")),
    ] {
        let (server, _) = answering(answer);
        let (front, _plane) = stage(vec![at("a", server)], |_| {});
        play(async {
            let mut client = Client::to(front).await;
            for _ in 0..2 {
                let answer = client.ask(request(method, "/")).await.unwrap();
                assert_eq!((answer.status(), answer.body.len()), (status, 0), "{method}");
                assert_eq!(answer.field("content-length"), length, "{method}");
            }
        });
    }
}

#[test]
fn trailers_pass_both_ways() {
    let (server, asked) = answering(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: grpc-status\r\n\r\n5\r\nhello\r\n0\r\n\
        grpc-status: 0\r\ngrpc-message: fine\r\n\r\n",
    );
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    let answer = play(async {
        let mut client = Client::to(front).await;
        let mut grpc = request("POST", "/call");
        grpc.headers_mut().insert("te", HeaderValue::from_static("trailers"));
        let (response, mut body) = client.begin(grpc).await;
        body.send_data(Bytes::from_static(b"abc"), false).unwrap();
        body.send_data(Bytes::from_static(b"defg"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("7"));
        body.send_trailers(trailers).unwrap();
        Answer::of(response.await.unwrap()).await.unwrap()
    });
    assert_eq!((answer.status(), answer.text()), (200, "hello"));
    let trailers = answer.trailers.unwrap();
    assert_eq!((trailers["grpc-status"].as_bytes(), trailers["grpc-message"].as_bytes()), (&b"0"[..], &b"fine"[..]));
    let asked = asked.lock().unwrap();
    assert_eq!((asked[0].field("te"), &*asked[0].trailers), (Some("trailers"), "x-sum: 7\n"));
    assert_eq!(asked[0].body, b"abcdefg");
}

#[test]
fn a_body_is_framed_by_its_length_or_by_chunks() {
    let (server, asked) = answering(ok("x"));
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    play(async {
        let mut client = Client::to(front).await;
        for length in [Some("6"), None] {
            let mut post = request("POST", "/");
            if let Some(length) = length {
                post.headers_mut().insert("content-length", HeaderValue::from_static(length));
            }
            let (response, mut body) = client.begin(post).await;
            send_all(&mut body, b"abcdef", true).await.unwrap();
            assert_eq!(Answer::of(response.await.unwrap()).await.unwrap().status(), 200);
        }
    });
    let asked = asked.lock().unwrap();
    assert_eq!((asked[0].field("content-length"), asked[0].field("transfer-encoding")), (Some("6"), None));
    assert_eq!((asked[1].field("content-length"), asked[1].field("transfer-encoding")), (None, Some("chunked")));
    assert!(asked.iter().all(|asked| asked.body == b"abcdef"));
}

#[test]
fn a_client_may_wait_for_100_continue() {
    let (server, _) = scripted(|peer| {
        let head = peer.head().unwrap().unwrap();
        assert!(head.contains("expect: 100-continue"), "{head}");
        peer.say("HTTP/1.1 100 Continue\r\n\r\n");
        assert_eq!(peer.exactly(4).unwrap(), b"body");
        peer.say("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n").say(ok("thanks"));
    });
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    play(async {
        let mut client = Client::to(front).await;
        let mut post = request("POST", "/");
        post.headers_mut().insert("expect", HeaderValue::from_static("100-continue"));
        post.headers_mut().insert("content-length", HeaderValue::from_static("4"));
        let (mut response, mut body) = client.begin(post).await;
        let interim = std::future::poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!(interim.status(), 100);
        send_all(&mut body, b"body", true).await.unwrap();
        let interim = std::future::poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!((interim.status().as_u16(), interim.headers()["link"].as_bytes()), (103, &b"</x>"[..]));
        assert_eq!(Answer::of(response.await.unwrap()).await.unwrap().text(), "thanks");
    });
}

#[test]
fn an_answer_before_the_end_of_its_request_is_whole_and_ends_the_request() {
    let (server, _) = scripted(|peer| {
        peer.head().unwrap();
        peer.say("HTTP/1.1 413 Too much\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
    });
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    play(async {
        let mut client = Client::to(front).await;
        let (response, mut body) = client.begin(request("POST", "/")).await;
        body.send_data(Bytes::from_static(b"some"), false).unwrap();
        let answer = Answer::of(response.await.unwrap()).await.unwrap();
        assert_eq!((answer.status(), answer.text()), (413, "no"));
        let reset = std::future::poll_fn(|cx| body.poll_reset(cx)).await.unwrap();
        assert_eq!(reset, h2::Reason::NO_ERROR);
        // The connection goes on.
        assert_eq!(client.get("/").await.status(), 413);
    });
}

#[test]
fn what_has_no_end_but_the_servers_close_ends_well_and_a_cut_does_not() {
    let (server, _) = scripted(|peer| {
        let request = peer.request().unwrap().unwrap();
        match request.path() {
            "/close" => peer.say("HTTP/1.1 200 OK\r\n\r\nall of it"),
            "/length" => peer.say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\na part of it"),
            _ => peer.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n"),
        };
    });
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    play(async {
        let mut client = Client::to(front).await;
        assert_eq!(client.get("/close").await.text(), "all of it");
        for path in ["/length", "/chunks"] {
            let error = client.ask(get(path)).await.unwrap_err();
            assert_eq!(error.reason(), Some(h2::Reason::INTERNAL_ERROR), "{path}");
        }
        assert_eq!(client.get("/close").await.text(), "all of it");
    });
}

#[test]
fn our_own_answers_are_answers() {
    let deny =
        rule("/deny", Action::Deny(Reply { status: 403, body: Some("no".into()), content_type: "text/x".into() }));
    let reset = rule("/reset", Action::Reject { reset: true });
    let close = rule("/close", Action::Reject { reset: false });
    let (front, plane) = stage(vec![at("a", nobody())], |plan| plan.frontends[0].rules = vec![deny, reset, close]);
    play(async {
        let mut client = Client::to(front).await;
        let answer = client.get("/deny").await;
        assert_eq!((answer.status(), answer.text(), answer.field("connection")), (403, "no", None));
        assert_eq!(client.get("/").await.status(), 503);
        for (path, reason) in [("/reset", h2::Reason::INTERNAL_ERROR), ("/close", h2::Reason::CANCEL)] {
            assert_eq!(client.ask(get(path)).await.unwrap_err().reason(), Some(reason));
        }
        // With a body that nobody awaits.
        let (response, _body) = client.begin(request("POST", "/deny")).await;
        assert_eq!(Answer::of(response.await.unwrap()).await.unwrap().status(), 403);
    });
    assert_eq!(plane.stats().frontends[0].denied, 4);
}

#[test]
fn many_streams_at_once_share_pooled_connections() {
    let (server, seen) = numbering();
    let (front, plane) = stage(vec![at("a", server)], |_| {});
    play(async {
        let client = Client::to(front).await;
        for _ in 0..20 {
            let mut asked = Vec::new();
            for _ in 0..50 {
                let mut send = client.send.clone().ready().await.unwrap();
                asked.push(send.send_request(get("/"), true).unwrap().0);
            }
            for response in asked {
                assert_eq!(Answer::of(response.await.unwrap()).await.unwrap().status(), 200);
            }
        }
    });
    assert_eq!(seen.requests().len(), 1000);
    assert!(seen.connections() < 200, "{} connections", seen.connections());
    assert_eq!(plane.stats().frontends[0].http.unwrap().responses.successful, 1000);
}

#[test]
fn whom_a_server_knows_by_the_connection_is_sent_to_http_1() {
    let (server, seen) = serving(|request, peer| {
        match request.path() {
            "/basic" => peer.say("HTTP/1.1 401 \r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n"),
            "/mutual" => peer.say("HTTP/1.1 200 \r\nWWW-Authenticate: Negotiate oYG\r\nContent-Length: 2\r\n\r\nhi"),
            _ => peer.say(
                "HTTP/1.1 401 \r\nWWW-Authenticate: Negotiate\r\nWWW-Authenticate: NTLM\r\nContent-Length: 2\r\n\r\nno",
            ),
        };
        true
    });
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    play(async {
        let mut client = Client::to(front).await;
        let error = client.ask(get("/")).await.unwrap_err();
        assert_eq!(error.reason(), Some(h2::Reason::HTTP_1_1_REQUIRED));
        assert_eq!(client.get("/basic").await.status(), 401);
        assert_eq!(client.get("/mutual").await.text(), "hi");
    });
    // Nobody else gets a connection that might be somebody's.
    wait_for("the server connections of its own to go", || seen.open() <= 1);
}

#[test]
fn http_1_and_what_is_neither_go_on_as_before() {
    let (server, _) = numbering();
    let (front, plane) = stage(vec![at("a", server)], |_| {});
    let mut old = crate::data_support::http::Peer::to(front);
    assert_eq!(old.get("/").status(), 200);
    // Only the first bytes of a connection may be HTTP/2's.
    old.say("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert_eq!(old.answer().unwrap().status(), 505);
    let (front, _plain) = stage(vec![at("a", server)], |plan| http(plan).http2 = false);
    let mut client = crate::data_support::http::Peer::to(front);
    client.say("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert_eq!(client.answer().unwrap().status(), 505);
    assert_eq!(plane.stats().frontends[0].bad_requests["version"], 1);
}

#[test]
fn a_chunked_answer_of_any_cut_is_its_data() {
    let body: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
    let whole = body.clone();
    let (server, _) = scripted(move |peer| {
        while let Ok(Some(request)) = peer.request() {
            let size: usize = request.path()[1..].parse().unwrap();
            peer.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").say(chunked(&whole, size));
        }
    });
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    play(async {
        let mut client = Client::to(front).await;
        for size in [1, 7, 1000, 16_384, 32_768, 100_000, 1_000_000] {
            assert_eq!(client.get(&format!("/{size}")).await.body, body, "{size}");
        }
    });
}

#[test]
fn a_client_that_leaves_its_answer_is_noticed_and_others_are_not_disturbed() {
    let (server, seen) = scripted(|peer| {
        let request = peer.request().unwrap().unwrap();
        if request.path() == "/slow" {
            // It waits until somebody hangs up.
            let _ = peer.rest();
        } else {
            peer.say(ok("quick"));
        }
    });
    let (front, plane) = stage(vec![at("a", server)], |plan| plan.backends[0].abort_on_close = true);
    play(async {
        let mut client = Client::to(front).await;
        client.send = client.send.clone().ready().await.unwrap();
        let (response, mut body) = client.send.send_request(get("/slow"), true).unwrap();
        let mut other = client.send.clone().ready().await.unwrap();
        let quick = other.send_request(get("/"), true).unwrap().0;
        assert_eq!(Answer::of(quick.await.unwrap()).await.unwrap().text(), "quick");
        while seen.connections() < 2 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert!(seen.open() >= 1, "the slow one is still asked");
        body.send_reset(h2::Reason::CANCEL);
        drop(response);
        while plane.stats().frontends[0].client_aborts == 0 || seen.open() > 1 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(client.get("/").await.text(), "quick");
    });
}

#[test]
fn a_request_whose_pooled_connection_ends_is_sent_again_or_answered() {
    // Each connection answers once, says nothing of its end, and takes the next request with it.
    let (server, seen) = scripted(|peer| {
        peer.request().unwrap();
        peer.say(ok("once"));
        let _ = peer.head();
    });
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    play(async {
        let mut client = Client::to(front).await;
        assert_eq!(client.get("/").await.text(), "once");
        assert_eq!(client.get("/").await.text(), "once");
        // Not to be sent twice: over HTTP/1 the client's connection would end, which a stream can't.
        assert_eq!(client.ask(request("POST", "/")).await.unwrap().status(), 502);
    });
    assert!(seen.connections() >= 2);
}

#[test]
fn the_whole_of_a_body_comes_before_its_end() {
    let (server, _) = numbering();
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    play(async {
        let mut client = Client::to(front).await;
        client.send = client.send.clone().ready().await.unwrap();
        let (response, _) = client.send.send_request(get("/"), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        assert_eq!(all(&mut body).await.unwrap(), b"1");
        assert!(body.is_end_stream());
    });
}
