//! Heads that RFC 9113 forbids, and heads that would mean something else in HTTP/1.1: nothing of them reaches a server.

use proxy_core::stats::FrontendStats;

use crate::client::stage;
use crate::data_support::http::numbering;
use crate::data_support::{at, wait_for};
use crate::raw::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PROTOCOL_ERROR, RST_STREAM, Raw, fields, frame,
};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// An answer of this status.
    Answer(u16),
    /// The stream is reset, for this reason.
    Reset(u32),
    /// The connection ends, for this reason.
    GoAway(u32),
}
use Fate::{Answer, GoAway, Reset};

const MALFORMED: Fate = Reset(PROTOCOL_ERROR);

type Field<'a> = (&'a str, &'a str);
const METHOD: Field<'_> = (":method", "GET");
const SCHEME: Field<'_> = (":scheme", "http");
const HOST: Field<'_> = (":authority", "a.test");
const PATH: Field<'_> = (":path", "/");

/// A plain request and one field more.
fn with(field: Field<'_>) -> Vec<Field<'_>> {
    vec![METHOD, SCHEME, HOST, PATH, field]
}

/// A plain request with something else in one place.
fn but<'a>(field: Field<'a>) -> Vec<Field<'a>> {
    [METHOD, SCHEME, HOST, PATH].into_iter().map(|own| if own.0 == field.0 { field } else { own }).collect()
}

/// A plain request without one of its parts.
fn without(name: &str) -> Vec<Field<'static>> {
    [METHOD, SCHEME, HOST, PATH].into_iter().filter(|own| own.0 != name).collect()
}

fn play(front: std::net::SocketAddr, head: &[Field<'_>], body: Option<&[u8]>) -> Fate {
    let head: Vec<_> = head.iter().map(|(name, value)| (unescaped(name), unescaped(value))).collect();
    let head: Vec<_> = head.iter().map(|(name, value)| (&name[..], &value[..])).collect();
    let mut client = Raw::to(front);
    client.say(frame(HEADERS, END_HEADERS | if body.is_none() { END_STREAM } else { 0 }, 1, &fields(&head)));
    if let Some(body) = body {
        client.say(frame(DATA, END_STREAM, 1, body));
    }
    fate(&mut client)
}

fn fate(client: &mut Raw) -> Fate {
    let last = client.until(|frame| match frame.kind {
        HEADERS | RST_STREAM => frame.stream == 1,
        kind => kind == GOAWAY,
    });
    match last.kind {
        HEADERS => Answer(last.status()),
        RST_STREAM => Reset(last.code()),
        _ => GoAway(last.code()),
    }
}

/// `\xNN` as the byte that it is: names and values need not be text.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\\x") {
        bytes.extend_from_slice(before.as_bytes());
        bytes.push(u8::from_str_radix(&after[..2], 16).unwrap());
        rest = &after[2..];
    }
    [&bytes, rest.as_bytes()].concat()
}

#[test]
fn no_malformed_head_reaches_a_server() {
    let (server, seen) = numbering();
    let (front, plane) = stage(vec![at("a", server)], |_| {});
    let long = "a".repeat(33 * 1024);
    let huge = "a".repeat(70 * 1024);
    let many: Vec<_> = [METHOD, SCHEME, HOST, PATH].into_iter().chain((0..200).map(|_| ("x", "y"))).collect();
    let cases = [
        // §8.3: pseudo-header fields.
        (without(":method"), MALFORMED, "malformed"),
        (without(":scheme"), MALFORMED, "malformed"),
        (without(":path"), MALFORMED, "malformed"),
        (without(":authority"), Answer(400), "host_missing"),
        (vec![SCHEME, HOST, ("host", "a.test")], MALFORMED, "malformed"),
        (vec![METHOD, SCHEME, ("host", "a.test")], MALFORMED, "malformed"),
        (with(METHOD), MALFORMED, "malformed"),
        (with(PATH), MALFORMED, "malformed"),
        (with(SCHEME), MALFORMED, "malformed"),
        (with(HOST), MALFORMED, "malformed"),
        (with((":status", "200")), MALFORMED, "malformed"),
        (with((":protocol", "websocket")), MALFORMED, "malformed"),
        (with((":unknown", "x")), GoAway(PROTOCOL_ERROR), "protocol"),
        (with((":", "x")), GoAway(PROTOCOL_ERROR), "protocol"),
        (vec![METHOD, SCHEME, ("x", "y"), HOST, PATH], MALFORMED, "malformed"),
        (vec![METHOD, SCHEME, HOST, PATH, ("x", "y"), ("a", "b"), METHOD], MALFORMED, "malformed"),
        // §8.3.1: what they say.
        (but((":method", "")), GoAway(PROTOCOL_ERROR), "protocol"),
        (but((":method", "GET /x HTTP/1.1")), GoAway(PROTOCOL_ERROR), "protocol"),
        (but((":method", "GE\\x0d\\x0aT")), GoAway(PROTOCOL_ERROR), "protocol"),
        (but((":method", "AVERYLONGMETHODTHATNOBODYREGISTEREDANYWHERE")), Answer(400), "method"),
        (but((":path", "")), MALFORMED, "malformed"),
        (but((":path", "x")), MALFORMED, "malformed"),
        (but((":path", "*")), MALFORMED, "malformed"),
        (but((":path", "http://b.test/")), MALFORMED, "malformed"),
        (but((":path", "//b.test/ HTTP/1.1\\x0d\\x0aX: y")), MALFORMED, "malformed"),
        (but((":path", "/ HTTP/1.1")), MALFORMED, "malformed"),
        (but((":path", "/\\x0d\\x0aX: y")), MALFORMED, "malformed"),
        (but((":path", "/\\x00")), MALFORMED, "malformed"),
        (but((":path", "/\\x09")), MALFORMED, "malformed"),
        (but((":path", "/\\x7f")), MALFORMED, "malformed"),
        (but((":path", "/ü")), Answer(400), "target"),
        (but((":scheme", "ht tp")), MALFORMED, "malformed"),
        (but((":scheme", "")), MALFORMED, "malformed"),
        (but((":authority", "")), MALFORMED, "malformed"),
        (but((":authority", "a.test b.test")), MALFORMED, "malformed"),
        (but((":authority", "a.test\\x0d\\x0aX: y")), MALFORMED, "malformed"),
        (but((":authority", "a.test/x")), MALFORMED, "malformed"),
        (but((":authority", "user@a.test")), Answer(400), "host"),
        (but((":authority", "user:secret@a.test")), Answer(400), "host"),
        (but((":authority", "a.test:x")), MALFORMED, "malformed"),
        (but((":authority", "a.test:99999")), Answer(400), "host"),
        (but((":authority", "a.test,b.test")), Answer(400), "host"),
        (with(("host", "b.test")), Answer(400), "host_mismatch"),
        (with(("host", "a.test:8080")), Answer(400), "host_mismatch"),
        (with(("host", "")), Answer(400), "host"),
        (vec![METHOD, SCHEME, HOST, PATH, ("host", "a.test"), ("host", "a.test")], Answer(400), "host_repeated"),
        (vec![METHOD, SCHEME, PATH, ("host", "a.test"), ("host", "b.test")], Answer(400), "host_repeated"),
        (vec![(":method", "CONNECT"), HOST], Answer(405), "connect"),
        (vec![(":method", "CONNECT"), HOST, SCHEME], MALFORMED, "malformed"),
        (vec![(":method", "CONNECT"), HOST, PATH], MALFORMED, "malformed"),
        // §8.2: field names.
        (with(("X-Upper", "y")), GoAway(PROTOCOL_ERROR), "protocol"),
        (with(("", "y")), GoAway(PROTOCOL_ERROR), "protocol"),
        (with(("x y", "z")), GoAway(PROTOCOL_ERROR), "protocol"),
        (with(("x:y", "z")), GoAway(PROTOCOL_ERROR), "protocol"),
        (with(("x\\x0d\\x0ay", "z")), GoAway(PROTOCOL_ERROR), "protocol"),
        (with(("x\\x00", "z")), GoAway(PROTOCOL_ERROR), "protocol"),
        (with(("x\\xff", "z")), GoAway(PROTOCOL_ERROR), "protocol"),
        (with(("transfer-encoding ", "chunked")), GoAway(PROTOCOL_ERROR), "protocol"),
        // §8.2.1: field values.
        (with(("x", "y\\x0d\\x0az: 1")), GoAway(PROTOCOL_ERROR), "protocol"),
        (with(("x", "y\\x0az: 1")), GoAway(PROTOCOL_ERROR), "protocol"),
        (with(("x", "y\\x0dz")), GoAway(PROTOCOL_ERROR), "protocol"),
        (with(("x", "y\\x00")), GoAway(PROTOCOL_ERROR), "protocol"),
        (with(("x", " y")), MALFORMED, "malformed"),
        (with(("x", "y ")), MALFORMED, "malformed"),
        (with(("x", "\\x09y")), MALFORMED, "malformed"),
        (with(("cookie", "a=1 ")), MALFORMED, "malformed"),
        // §8.2.2: fields of a connection.
        (with(("connection", "close")), MALFORMED, "malformed"),
        (with(("connection", "x-forwarded-for")), MALFORMED, "malformed"),
        (with(("proxy-connection", "keep-alive")), MALFORMED, "malformed"),
        (with(("keep-alive", "timeout=1")), MALFORMED, "malformed"),
        (with(("transfer-encoding", "chunked")), MALFORMED, "malformed"),
        (with(("transfer-encoding", "identity")), MALFORMED, "malformed"),
        (with(("upgrade", "websocket")), MALFORMED, "malformed"),
        (with(("te", "gzip, trailers")), MALFORMED, "malformed"),
        // §8.1.1 and what HTTP/1.1 refuses.
        (with(("content-length", "5")), MALFORMED, "malformed"),
        (with(("content-length", "+0")), MALFORMED, "malformed"),
        (with(("content-length", "0, 0")), MALFORMED, "malformed"),
        (with(("content-length", "")), MALFORMED, "malformed"),
        (with(("content_length", "5")), Answer(400), "look_alike"),
        (with(("transfer_encoding", "chunked")), Answer(400), "look_alike"),
        (
            [with(("content-length", "0")), vec![("content-length", "0")]].concat(),
            Answer(400),
            "content_length_repeated",
        ),
        ([with(("content-length", "0")), vec![("content-length", "1")]].concat(), MALFORMED, "malformed"),
        (with(("expect", "a-miracle")), Answer(417), "expectation"),
        (with(("x", &long)), Answer(400), "head_too_long"),
        (with(("x", &huge)), Answer(431), ""),
        (many, Answer(400), "too_many_fields"),
    ];
    let counted = |stats: &FrontendStats, why: &str| {
        let counts = if ["malformed", "protocol"].contains(&why) { &stats.bad_http2 } else { &stats.bad_requests };
        counts.get(why).copied().unwrap_or_default()
    };
    for (head, expected, why) in &cases {
        let before = counted(&plane.stats().frontends[0], why);
        let what: String = format!("{head:?}").chars().take(300).collect();
        assert_eq!(play(front, head, None), *expected, "{what}");
        if !why.is_empty() {
            wait_for(&format!("{what} to be counted as {why}"), || {
                counted(&plane.stats().frontends[0], why) == before + 1
            });
        }
    }
    assert_eq!(seen.requests(), Vec::<String>::new());
    assert!(cases.len() >= 60, "only {}", cases.len());
}

#[test]
fn lengths_that_lie_end_their_stream() {
    let (server, _) = numbering();
    let (front, _plane) = stage(vec![at("a", server)], |_| {});
    let post = |length| [vec![(":method", "POST"), SCHEME, HOST, PATH], vec![("content-length", length)]].concat();
    assert_eq!(play(front, &post("5"), Some(b"hello")), Answer(200));
    for (length, body) in [("5", &b"hell"[..]), ("5", b"hello "), ("0", b"x"), ("18446744073709551616", b"x")] {
        assert_eq!(play(front, &post(length), Some(body)), MALFORMED, "{length}");
    }
}

#[test]
fn trailers_are_no_way_around() {
    let (server, seen) = numbering();
    let (front, plane) = stage(vec![at("a", server)], |_| {});
    let head: Vec<(&[u8], &[u8])> =
        vec![(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"a.test"), (b":path", b"/")];
    for (trailer, expected) in [
        (&[(&b"x-sum"[..], &b"1"[..])][..], Answer(200)),
        (&[(b":path", b"/x")], MALFORMED),
        (&[(b"transfer-encoding", b"chunked")], MALFORMED),
        (&[(b"connection", b"close")], MALFORMED),
        (&[(b"content-length", b"1")], Answer(400)),
        (&[(b"host", b"b.test")], Answer(400)),
        (&[(b"x", b" y")], Answer(200)),
    ] {
        let mut client = Raw::to(front);
        client.say(frame(HEADERS, END_HEADERS, 1, &fields(&head)));
        client.say(frame(DATA, 0, 1, b"x"));
        client.say(frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields(trailer)));
        let got = fate(&mut client);
        let shown = trailer.iter().map(|(name, value)| format!("{}: {}", name.escape_ascii(), value.escape_ascii()));
        let shown: Vec<_> = shown.collect();
        if trailer[0].1 == b" y" {
            assert_ne!(got, Answer(200), "{shown:?}");
        } else {
            assert_eq!(got, expected, "{shown:?}");
        }
    }
    assert_eq!(seen.requests(), ["POST /"]);
    assert_eq!(plane.stats().frontends[0].bad_requests["trailer_forbidden"], 2);
}

#[test]
fn a_head_may_come_in_pieces_but_nothing_between_them() {
    let (server, _) = numbering();
    let (front, plane) = stage(vec![at("a", server)], |_| {});
    let head = crate::raw::get();
    let mut client = Raw::to(front);
    client.say(frame(HEADERS, END_STREAM, 1, &head[..5]));
    client.say(frame(CONTINUATION, 0, 1, &head[5..9]));
    client.say(frame(CONTINUATION, END_HEADERS, 1, &head[9..]));
    assert_eq!(fate(&mut client), Answer(200));
    for between in [frame(DATA, 0, 1, b"x"), frame(6, 0, 0, &[0; 8]), frame(CONTINUATION, 0, 3, b"x")] {
        let mut client = Raw::to(front);
        client.say(frame(HEADERS, END_STREAM, 1, &head[..5]));
        client.say(between);
        assert_eq!(fate(&mut client), GoAway(PROTOCOL_ERROR));
    }
    wait_for("them to be counted", || plane.stats().frontends[0].bad_http2["protocol"] == 3);
}
