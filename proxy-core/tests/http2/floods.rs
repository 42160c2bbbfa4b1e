//! Clients that send what costs us and brings nobody anything: each is sent away, others notice nothing.

use std::net::SocketAddr;

use crate::client::{Client, play, stage};
use crate::data_support::Plane;
use crate::data_support::http::{http, numbering, scripted};
use crate::data_support::{at, wait_for};
use crate::raw::{
    CALM, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, RST_STREAM, Raw, SETTINGS,
    WINDOW_UPDATE, fields, frame, get,
};

/// Frames of a second's flood.
const MANY: usize = 20_000;

fn counted(plane: &Plane, why: &str) -> u64 {
    plane.stats().frontends[0].bad_http2.get(why).copied().unwrap_or_default()
}

/// A client says hello, then `flood` until it is sent away; another one is served all the while.
fn flood(front: SocketAddr, plane: &Plane, why: &str, hello: &[u8], flood: impl Fn(u32) -> Vec<u8>) {
    let before = counted(plane, why);
    let good = async { Client::to(front).await };
    play(async {
        let mut good = good.await;
        let answers = tokio::task::spawn_blocking({
            let (hello, pieces): (Vec<u8>, Vec<_>) = (hello.to_vec(), (0..MANY as u32).map(flood).collect());
            move || {
                let mut bad = Raw::to(front);
                bad.say(hello);
                for piece in pieces.chunks(200) {
                    if !bad.say(piece.concat()) {
                        break;
                    }
                }
                bad.end()
            }
        });
        while !answers.is_finished() {
            assert_eq!(good.get("/").await.status(), 200);
        }
        // It may be cut off before it has read why.
        assert!(matches!(answers.await.unwrap(), Some(CALM) | None), "{why}");
        assert_eq!(good.get("/").await.status(), 200);
    });
    wait_for(&format!("the flood to be counted as {why}"), || counted(plane, why) == before + 1);
}

#[test]
fn frames_of_no_use() {
    let (server, _) = numbering();
    let (front, plane) = stage(vec![at("a", server)], |_| {});
    let open = frame(HEADERS, END_HEADERS, 1, &get());
    let reset = frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]);
    flood(front, &plane, "settings", b"", |_| frame(SETTINGS, 0, 0, &[]));
    flood(front, &plane, "pings", b"", |_| frame(PING, 0, 0, &[7; 8]));
    flood(front, &plane, "priorities", b"", |_| frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1]));
    flood(front, &plane, "unknown_frames", b"", |_| frame(0x42, 0, 0, b"hello"));
    flood(front, &plane, "window_updates", b"", |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]));
    flood(front, &plane, "empty_data", &open, |_| frame(DATA, 0, 1, b""));
    flood(front, &plane, "resets", &[&open[..], &reset].concat(), |_| reset.clone());
    let head = [frame(HEADERS, 0, 1, &get())].concat();
    flood(front, &plane, "continuations", &head, |_| frame(CONTINUATION, 0, 1, b""));
    flood(front, &plane, "continuations", &head, |_| frame(CONTINUATION, 0, 1, &fields(&[(b"x", &[b'y'; 100])])));
}

#[test]
fn streams_that_are_reset_as_fast_as_they_are_begun() {
    let (server, seen) = scripted(|peer| {
        // It never answers.
        let _ = peer.request();
        let _ = peer.rest();
    });
    let (front, plane) = stage(vec![at("a", server)], |_| {});
    let mut bad = Raw::to(front);
    for stream in (1..MANY as u32).step_by(2) {
        let both =
            [frame(HEADERS, END_HEADERS | END_STREAM, stream, &get()), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])];
        if !bad.say(both.concat()) {
            break;
        }
    }
    assert!(matches!(bad.end(), Some(CALM) | None));
    wait_for("the flood to be counted", || counted(&plane, "resets") + counted(&plane, "excess") == 1);
    // What it began has ended, and not much of it was begun.
    wait_for("the server to be left alone", || seen.open() == 0);
    assert!(seen.connections() <= 400, "{} connections to the server", seen.connections());
    wait_for("the client to be gone", || plane.stats().sessions == 0);
}

#[test]
fn streams_that_we_are_made_to_reset() {
    let (server, _) = numbering();
    let (front, plane) = stage(vec![at("a", server)], |_| {});
    let bad = fields(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b"connection", b"close")]);
    flood(front, &plane, "resets", b"", |count| frame(HEADERS, END_HEADERS | END_STREAM, 2 * count + 1, &bad));
    assert!(counted(&plane, "malformed") >= 300);
}

#[test]
fn more_streams_than_were_offered() {
    let (server, seen) = scripted(|peer| {
        let _ = peer.request();
        let _ = peer.rest();
    });
    let (front, plane) = stage(vec![at("a", server)], |_| {});
    let mut bad = Raw::to(front);
    for stream in 0..150 {
        bad.say(frame(HEADERS, END_HEADERS | END_STREAM, 2 * stream + 1, &get()));
    }
    // REFUSED_STREAM: they may be tried again.
    let refused = bad.until(|frame| frame.kind == RST_STREAM);
    assert_eq!(refused.code(), 7);
    wait_for("the first hundred", || seen.connections() == 100);
    drop(bad);
    wait_for("the client to be gone", || plane.stats().sessions == 0 && seen.open() == 0);
}

#[test]
fn a_bomb_of_fields_and_data_in_crumbs() {
    let (server, _) = scripted(|peer| {
        let _ = peer.head();
        crate::data_support::pace(std::time::Duration::from_secs(2));
    });
    let (front, plane) = stage(vec![at("a", server)], |_| {});
    // A field that is put into the table once and named a thousand times (RFC 7541 §7.3).
    let mut bad = Raw::to(front);
    let mut bomb = get();
    bomb.extend_from_slice(&[0x40, 1, b'x', 127, 0x80 | 0x51, 30]);
    bomb.extend_from_slice(&[b'y'; 127 + 0x51 + 30 * 128]);
    bomb.extend_from_slice(&[0xbe; 10_000]);
    bad.say(frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb));
    assert_eq!(bad.end(), Some(CALM));
    wait_for("the bomb to be counted", || counted(&plane, "excess") == 1);
    // A byte a frame: what they take up here is more than the window tells.
    let mut bad = Raw::to(front);
    bad.say(frame(
        HEADERS,
        END_HEADERS,
        1,
        &fields(&[(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/")]),
    ));
    for _ in 0..60 {
        if !bad.say(frame(DATA, 0, 1, b"x").repeat(1000)) {
            break;
        }
    }
    drop(bad);
    wait_for("the client to be gone", || plane.stats().sessions == 0);
}

#[test]
fn silence_after_the_preface_has_its_time() {
    let (server, _) = numbering();
    let (front, plane) = stage(vec![at("a", server)], |plan| {
        http(plan).request_timeout = std::time::Duration::from_millis(200);
        http(plan).keep_alive_timeout = std::time::Duration::from_millis(300);
    });
    // Pings are no requests.
    let mut idle = Raw::to(front);
    for _ in 0..5 {
        idle.say(frame(PING, 0, 0, &[0; 8]));
    }
    assert_eq!(idle.end(), Some(0));
    // A head that never ends.
    let mut half = Raw::to(front);
    half.say(frame(HEADERS, 0, 1, &get()[..3]));
    assert_eq!(half.end(), Some(0));
    // An answer, then nothing.
    let mut done = Raw::to(front);
    done.say(frame(HEADERS, END_HEADERS | END_STREAM, 1, &get()));
    done.until(|frame| frame.kind == DATA && frame.flags == END_STREAM);
    assert_eq!(done.end(), Some(0));
    // The preface alone.
    let mut mute = Raw(std::net::TcpStream::connect(front).unwrap());
    mute.say(b"PRI * HTTP/2.0\r\n\r\nSM");
    while mute.next().is_some() {}
    wait_for("all to be gone", || plane.stats().sessions == 0);
}
