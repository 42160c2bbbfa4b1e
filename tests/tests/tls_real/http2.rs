//! HTTP/2 in front: h2load, nghttp and curl in the clear and over TLS; WebSockets over it.

use std::time::Duration;

use tests::h2load::{H2load, Load};
use tests::nginx::Nginx;
use tests::part::Part;
use tests::place::Place;
use tests::python::script;

use crate::site::{Front, pki, run};

const LOAD: Load = Load { connections: 8, streams: 32, requests: 20_000 };
const PATIENCE: Duration = Duration::from_secs(90);

#[test]
fn h2load_fails_no_request() {
    let place = Place::new("h2load").unwrap();
    let server = place.at(9001);
    let _nginx = Nginx::server(&place, "one", server).unwrap();
    std::fs::create_dir_all(place.path("files")).unwrap();
    place.write("files/page", vec![b'p'; 60_000]).unwrap();
    let body = place.write("body", vec![b'b'; 20_000]).unwrap().display().to_string();
    let front = Front::start(&place, server, |_| {});
    let (clear, tls) = (format!("http://{}", front.clear), format!("https://{}", front.tls()));
    let less = Load { requests: 2000, ..LOAD };
    let runs: [(&str, &str, &str, Load, &[&str]); 5] = [
        ("clear", &clear, "/who", LOAD, &[]),
        ("tls", &tls, "/who", LOAD, &[]),
        ("pages", &tls, "/files/page", less, &[]),
        ("uploads", &tls, "/echo", less, &["-d", &body]),
        ("http1", &tls, "/who", Load { streams: 1, ..less }, &["--h1"]),
    ];
    for (name, base, path, load, more) in runs {
        let h2load = H2load::start(place.folder(), name, &format!("{base}{path}"), load, more).unwrap();
        let seen = h2load.finish(PATIENCE).unwrap();
        let all = load.requests as u64;
        assert_eq!((seen.failed, seen.succeeded, seen.statuses), (0, all, [all, 0, 0, 0]), "{name}: {seen:?}");
        let protocol = if name == "http1" { "http/1.1" } else { "h2" };
        assert!(seen.protocol.starts_with(protocol), "{name}: {seen:?}");
        println!("{name}: {all} requests");
    }
}

#[test]
fn nghttp_and_curl_are_answered_in_the_clear_and_over_tls() {
    let place = Place::new("nghttp").unwrap();
    let server = place.at(9001);
    let _nginx = Nginx::server(&place, "one", server).unwrap();
    let front = Front::start(&place, server, |_| {});
    let (clear, tls) = (format!("http://{}", front.clear), format!("https://{}", front.tls()));
    for base in [&clear, &tls] {
        // Twice the same two, on one connection; -y: whoever it is.
        let (who, chunked) = (format!("{base}/who"), format!("{base}/chunked"));
        let said = run("timeout", &["30", "nghttp", "-y", "-m2", &who, &chunked], "");
        assert_eq!(said.code, 0, "{said:?}");
        // What is chunked comes in pieces, with others between them.
        let seen = ["one\n", "two\n", "three\n"].map(|piece| said.text.matches(piece).count());
        assert_eq!(seen, [4, 2, 2], "{said:?}");
        let post = run("timeout", &["30", "nghttp", "-y", "-nv", "-d", "/etc/hostname", &format!("{base}/echo")], "");
        assert!(post.code == 0 && post.text.contains(":status: 200"), "{post:?}");
        // A PRIORITY tree and a dependency, as nghttp makes them, and a HEAD.
        let head = run("timeout", &["30", "nghttp", "-y", "-nv", "-H:method: HEAD", &who], "");
        assert!(head.code == 0 && head.text.contains(":status: 200") && !head.text.contains("recv DATA"), "{head:?}");
    }
    let arguments = ["-sS", "-m", "20", "--http2-prior-knowledge", "-w", "%{http_version}", &format!("{clear}/who")];
    assert_eq!(run("curl", &arguments, "").text, "one\n2");
    // The old way from HTTP/1.1 (h2c) is none any more (RFC 9113 section 3.1): it stays HTTP/1.1.
    let arguments = ["-sS", "-m", "20", "--http2", "-w", "%{http_version}", &format!("{clear}/who")];
    assert_eq!(run("curl", &arguments, "").text, "one\n1.1");
}

#[test]
fn http2_that_is_switched_off_is_not_spoken() {
    let place = Place::new("h2-off").unwrap();
    let server = place.at(9001);
    let _nginx = Nginx::server(&place, "one", server).unwrap();
    let front = Front::start(&place, server, |site| {
        site.more = site.more.replace("[frontend.clear]\n", "[frontend.clear]\nhttp2 = false\n");
    });
    let arguments = ["-sS", "-m", "20", "--http2-prior-knowledge", &format!("http://{}/who", front.clear)];
    let said = run("curl", &arguments, "");
    assert!(said.code != 0 && said.text.is_empty(), "{said:?}");
    assert_eq!(front.get("a.test", "/who", &["--http2", "-w", "%{http_version}"]), "one\n2", "the other frontend");
}

#[test]
fn websockets_share_a_connection_with_requests() {
    let place = Place::new("h2-websocket").unwrap();
    let server = place.at(9001);
    let mut command = script("websocket_echo.py");
    command.args([server.ip().to_string(), server.port().to_string()]);
    let mut echo = Part::start("echo", command, place.folder()).unwrap();
    echo.wait_listening(server).unwrap();
    let front = Front::start(&place, server, |_| {});
    let root = pki().file("root.crt");
    for (name, at, more) in [("clear", front.clear, vec![]), ("tls", front.tls(), vec![root.as_str(), "a.test"])] {
        let mut command = script("websocket_h2.py");
        command.args([at.ip().to_string(), at.port().to_string(), "200".into()]).args(more);
        let mut client = Part::start(&format!("client-{name}"), command, place.folder()).unwrap();
        let status = client.process().wait(PATIENCE).unwrap();
        let said = client.tail();
        assert!(
            status.success() && said.contains("all closed with 1000"),
            "{name}: {said}\n{}",
            front.serve.part.tail()
        );
    }
    // The same over HTTP/1.1 and TLS.
    let mut command = script("websocket_client.py");
    command.args([
        format!("wss://a.test:{}/chat", front.tls().port()),
        "100".into(),
        front.tls().ip().to_string(),
        root,
    ]);
    let mut client = Part::start("client-http1", command, place.folder()).unwrap();
    let status = client.process().wait(PATIENCE).unwrap();
    assert!(status.success() && client.tail().contains("closed with 1000"), "{}", client.tail());
}
