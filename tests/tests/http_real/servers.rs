//! nginx and Apache behind lbnode, and curl in front of it.

use std::net::SocketAddr;

use tests::apache::Apache;
use tests::nginx::Nginx;
use tests::place::Place;

use crate::{Front, curl};

/// Longer than any buffer.
const LENGTH: usize = 3_000_000;

fn content() -> Vec<u8> {
    (0..LENGTH).map(|index| (index * 31 % 251) as u8).collect()
}

/// What both servers can do alike. `/files/big` holds [`content`]; `/echo` sends the body back.
fn exercise(place: &Place, front: &Front) {
    let big = content();
    let sent = place.write("sent", &big).unwrap();
    let got = place.path("got");
    let (sent, got) = (sent.to_str().unwrap(), got.to_str().unwrap());
    let read = |path: &str| std::fs::read(path).unwrap();
    let (file, echo) = (front.url("/files/big"), front.url("/echo"));

    for version in ["--http1.1", "--http1.0"] {
        curl(&[version, "-o", got, &file]);
        assert!(read(got) == big, "{version}: GET");
        curl(&[version, "-o", got, "--data-binary", &format!("@{sent}"), "-H", "Expect:", &echo]);
        assert!(read(got) == big, "{version}: POST with a length");
        let head = curl(&[version, "--head", &file]);
        assert!(head.contains("200 OK") && head.contains(&LENGTH.to_string()), "{version}: HEAD: {head}");
        let range = curl(&[version, "-o", got, "-r", "1000-1999", "-w", "%{http_code}", &file]);
        assert!(range == "206" && read(got) == big[1000..2000], "{version}: range: {range}");
    }
    curl(&[
        "-o",
        got,
        "--data-binary",
        &format!("@{sent}"),
        "-H",
        "Transfer-Encoding: chunked",
        "-H",
        "Expect:",
        &echo,
    ]);
    assert!(read(got) == big, "POST in chunks");
    curl(&[
        "-o",
        got,
        "--data-binary",
        &format!("@{sent}"),
        "-H",
        "Expect: 100-continue",
        "--expect100-timeout",
        "30",
        &echo,
    ]);
    assert!(read(got) == big, "POST that waits for 100");

    let head = curl(&["--head", &file]);
    let tag = head.lines().find_map(|line| line.strip_prefix("ETag: ")).expect("files have an ETag").trim();
    let same = curl(&["-o", got, "-w", "%{http_code} %{size_download}", "-H", &format!("If-None-Match: {tag}"), &file]);
    assert_eq!(same, "304 0");
    let missing = curl(&["-o", "/dev/null", "-w", "%{http_code}", &front.url("/files/nothing")]);
    assert_eq!(missing, "404");

    // One connection for all of them: a GET, a 304, an upload, a 404, and a GET again.
    let connects = curl(&[
        "-o",
        "/dev/null",
        "-w",
        "%{num_connects} ",
        &file,
        "--next",
        "--silent",
        "-o",
        "/dev/null",
        "-w",
        "%{num_connects} ",
        "-H",
        &format!("If-None-Match: {tag}"),
        &file,
        "--next",
        "--silent",
        "-o",
        "/dev/null",
        "-w",
        "%{num_connects} ",
        "--data-binary",
        "abc",
        &echo,
        "--next",
        "--silent",
        "-o",
        "/dev/null",
        "-w",
        "%{num_connects} ",
        &front.url("/files/nothing"),
        "--next",
        "--silent",
        "-o",
        got,
        "-w",
        "%{num_connects}",
        &file,
    ]);
    assert_eq!(connects, "1 0 0 0 0");
    assert!(read(got) == big, "GET at the end");
}

fn big_file(place: &Place) {
    std::fs::create_dir_all(place.path("files")).unwrap();
    place.write("files/big", content()).unwrap();
}

#[test]
fn nginx_serves_through_it_in_every_way_that_curl_asks() {
    let place = Place::new("nginx").unwrap();
    let server: SocketAddr = place.at(9001);
    let _nginx = Nginx::server(&place, "one", server).unwrap();
    big_file(&place);
    let front = Front::start(&place, server, |_| {});
    exercise(&place, &front);

    assert_eq!(curl(&["-w", "%{http_code}", &front.url("/status/204")]), "204");
    assert_eq!(curl(&["-w", "%{http_code}", &front.url("/status/304")]), "304");
    assert_eq!(curl(&[&front.url("/chunked")]), "one\ntwo\nthree\n");
    assert_eq!(curl(&["--http1.0", &front.url("/chunked")]), "one\ntwo\nthree\n");
    let put = place.path("sent");
    let put = put.to_str().unwrap();
    for (name, coding) in [("length", "X-None: 1"), ("chunks", "Transfer-Encoding: chunked")] {
        let url = front.url(&format!("/files/put-{name}"));
        assert_eq!(curl(&["-T", put, "-H", coding, "-w", "%{http_code}", &url]), "201", "PUT with {name}");
        assert!(std::fs::read(place.path(&format!("files/put-{name}"))).unwrap() == content(), "PUT with {name}");
    }
}

#[test]
fn apache_serves_through_it_in_every_way_that_curl_asks() {
    let place = Place::new("apache").unwrap();
    let server: SocketAddr = place.at(9001);
    let _apache = Apache::server(&place, "one", server).unwrap();
    big_file(&place);
    let front = Front::start(&place, server, |_| {});
    exercise(&place, &front);
}

#[test]
fn a_poll_may_wait_longer_than_a_client_may_be_silent() {
    let place = Place::new("poll").unwrap();
    let server = place.at(9001);
    let _nginx = Nginx::server(&place, "one", server).unwrap();
    let front = Front::start(&place, server, |site| {
        site.defaults =
            "timeouts = { client = \"1s\", request = \"1s\", keep_alive = \"1s\", server = \"20s\" }".into();
    });
    // The server thinks for three seconds; the client has said all it has to say.
    assert_eq!(curl(&["-w", "%{http_code}", &front.url("/slow")]), "waited\n200");
}

#[test]
fn an_error_of_the_server_comes_with_its_own_words() {
    let place = Place::new("own-words").unwrap();
    let server = place.at(9001);
    let nginx = Nginx::server(&place, "one", server).unwrap();
    let front = Front::start(&place, server, |_| {});
    let answer = curl(&["-i", &front.url("/files/none")]);
    assert!(answer.contains("404 Not Found") && answer.contains("X-Server: one"), "{answer}");
    drop(nginx);
    let answer = curl(&["-i", &front.url("/who")]);
    assert!(answer.starts_with("HTTP/1.1 503 ") && !answer.contains("X-Server"), "{answer}");
}
