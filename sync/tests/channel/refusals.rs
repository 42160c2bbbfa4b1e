//! What must not get in: each is refused, counted under its name, logged once, and the session goes on.

use std::time::Duration;

use serde::Serialize;
use sync::counters::Reason;
use sync::protocol::{FRAME_LIMIT, HELLO_LIMIT, Hello, preamble};
use sync::{Event, wire};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::bench::{Bench, Log, Node, connect, talk};

fn frame(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::encode(value, FRAME_LIMIT, &mut bytes).expect("short");
    bytes
}

fn hello(node: &str, pair: &str) -> Vec<u8> {
    frame(&Hello { node: node.into(), pair: pair.into(), instance: 1 })
}

fn greeting(hello: Vec<u8>) -> Vec<u8> {
    [preamble().to_vec(), hello].concat()
}

/// Says this with that identity, and waits until the node has hung up.
async fn say(bench: &Bench, identity: Option<&str>, bytes: &[u8]) {
    let folder = identity.map(|node| bench.identity(node));
    let Ok(mut stream) = connect(bench.address, folder.as_deref()).await else { return };
    // It may hang up before it has heard all.
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
    let mut rest = Vec::new();
    let _ = timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await.expect("it hangs up");
}

#[tokio::test]
async fn whatever_is_said_before_a_good_hello_is_refused_by_name() {
    let bench = Bench::new("refused");
    bench.made("stranger");
    let (log, _guard) = Log::start();
    let (mut a, mut b) = bench.up().await;

    let long = [preamble().to_vec(), u32::try_from(HELLO_LIMIT + 1).expect("short").to_be_bytes().to_vec()].concat();
    let mut trailing = hello("a", "p");
    trailing.push(0);
    trailing[3] += 1;
    let malformed = greeting(vec![0, 0, 0, 2, 0xfb, 0xff]);
    let table: [(Option<&str>, Vec<u8>, Reason, &str); 9] = [
        (Some("stranger"), Vec::new(), Reason::Pin, "unknown certificate"),
        (Some("b"), Vec::new(), Reason::Clone, "a clone of this node's identity"),
        (None, Vec::new(), Reason::Tls, "no certificate"),
        (Some("a"), b"lbnode\0\x02".to_vec(), Reason::Version, "version 2"),
        (Some("a"), greeting(hello("c", "p")), Reason::Name, "calls itself \"c\""),
        (Some("a"), long, Reason::FrameTooLong, "513 bytes"),
        (Some("a"), greeting(trailing), Reason::Trailing, "1 more than its value"),
        (Some("a"), malformed, Reason::Malformed, "could not be read"),
        (Some("a"), b"GET / HTTP/1.1\r\n\r\n".to_vec(), Reason::Malformed, ""),
    ];
    for (number, (identity, bytes, reason, words)) in table.into_iter().enumerate() {
        let before = b.channel.status().borrow().counters.refused(reason);
        say(&bench, identity, &bytes).await;
        let status = b.until(reason.name(), |status| status.counters.refused(reason) > before).await;
        assert_eq!(status.counters.refused(reason), before + 1);
        let said = status.last_error.expect("there was one");
        assert!(said.contains(words) && said.starts_with("127.0.0.1:"), "{said}");
        assert_eq!(log.about(reason.name()).len(), 1, "{reason}");
        // Again: counted, and not logged.
        say(&bench, identity, &bytes).await;
        b.until(reason.name(), |status| status.counters.refused(reason) == before + 2).await;
        assert_eq!(log.about(reason.name()).len(), 1, "{reason}");
        talk(&mut a, &mut b, number as u64).await;
    }
    let refused = log.about("pin").remove(0);
    let [stranger, peer] = ["stranger", "a"].map(|node| bench.pairing(node).identity().expect("made").pin().short());
    assert!(refused.contains("WARN") && refused.contains(&stranger) && refused.contains(&peer), "{refused}");
    say(&bench, Some("a"), &greeting(hello("a", "q"))).await;
    let status = b.until("another pair", |status| status.counters.refused(Reason::Name) == 3).await;
    assert!(status.last_error.expect("there was one").contains("of the pair \"q\""));
    assert_eq!(status.counters.sessions, 1);
}

#[tokio::test]
async fn what_is_no_tls_is_refused() {
    let bench = Bench::new("no-tls");
    let (log, _guard) = Log::start();
    let (mut a, mut b) = bench.up().await;
    for number in 1..=3 {
        let mut stream = TcpStream::connect(bench.address).await.expect("it listens");
        stream.write_all(&[0x55; 600]).await.expect("writable");
        b.until("refused", |status| status.counters.refused(Reason::Tls) == number).await;
    }
    assert_eq!(log.about("tls").len(), 1);
    talk(&mut a, &mut b, 1).await;
}

#[tokio::test]
async fn silent_connections_find_few_places_and_time_out_of_them() {
    let bench = Bench::new("idle");
    let (log, _guard) = Log::start();
    let (mut a, mut b) = bench.up().await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(TcpStream::connect(bench.address).await.expect("it listens"));
    }
    // They come from another address than the peer's, which has two of the eight places for itself.
    b.until("14 too many", |status| status.counters.refused(Reason::Crowded) == 14).await;
    // The start of a handshake, and a handshake without a hello.
    drop(idle.drain(..10).collect::<Vec<_>>());
    let places = b.until("places", |status| status.counters.refused(Reason::Closed) == 6).await;
    assert_eq!(places.counters.refused(Reason::Silence), 0);
    let mut half = TcpStream::connect(bench.address).await.expect("it listens");
    half.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).await.expect("writable");
    let mut mute = connect(bench.address, Some(&bench.identity("a"))).await.expect("a good certificate");
    let mut rest = Vec::new();
    let left = timeout(Duration::from_secs(20), mute.read_to_end(&mut rest)).await.expect("it hangs up");
    assert!(left.is_ok() || left.is_err(), "either way of hanging up");
    b.until("both timed out", |status| status.counters.refused(Reason::Silence) == 2).await;
    assert_eq!(half.read(&mut [0; 64]).await.unwrap_or(0), 0);
    for reason in ["crowded", "silence", "closed"] {
        assert_eq!(log.about(reason).len(), 1, "{reason}");
    }
    assert!(log.about("silence")[0].contains("no hello within 5 s"));
    talk(&mut a, &mut b, 1).await;
    assert_eq!(b.channel.status().borrow().counters.sessions, 1);
}

/// The peer's own identity in bad hands, or a peer with a bug: it gets in, and out again when it breaks the rules.
#[tokio::test]
async fn a_session_that_breaks_the_rules_ends_and_the_good_one_comes_back() {
    let bench = Bench::new("rules");
    let (mut a, b) = bench.up().await;
    let too_long = u32::try_from(FRAME_LIMIT + 1).expect("short").to_be_bytes().to_vec();
    // A ping with a byte behind it: Frame::Control(Control::Ping { sent: 1 }).
    let trailing = vec![0, 0, 0, 4, 0, 0, 1, 0];
    let garbage = vec![0, 0, 0, 3, 0xff, 0xff, 0xff];
    for (number, (bytes, reason)) in
        [(too_long, Reason::FrameTooLong), (trailing, Reason::Trailing), (garbage, Reason::Malformed)]
            .into_iter()
            .enumerate()
    {
        let bytes = [greeting(hello("a", "p")), bytes].concat();
        say(&bench, Some("a"), &bytes).await;
        b.until(reason.name(), |status| status.counters.refused(reason) == 1).await;
        // The last session is the good one's: it dials again as soon as it is thrown out.
        b.until("a new session", |status| status.connected && status.counters.sessions == 3 + 2 * number as u64).await;
        a.until("a new session", |status| status.connected && status.counters.sessions == 2 + number as u64).await;
    }
    b.channel.send((5, "well".into())).expect("up");
    while !matches!(a.next().await, Event::Message((5, _))) {}
}

#[tokio::test]
async fn the_dialler_refuses_an_impostor_and_waits_for_the_peer() {
    let bench = Bench::new("impostor");
    let (log, _guard) = Log::start();
    // Somebody else has the peer's address: another node, whose own peer has the same name as ours.
    let mut impostor = bench.made("impostor");
    let invitation = bench.pairing("a").invitation("a").expect("made").expect("a good name");
    impostor.trust(invitation).expect("writable");
    let mut settings = bench.settings("b");
    settings.pairing = impostor;
    let other = Node::start(settings);
    let mut a = bench.start("a");
    a.until("refused", |status| status.counters.refused(Reason::Pin) >= 2).await;
    assert_eq!(log.about("pin").len(), 1);
    // The impostor is told, and says where to look.
    let status = other.until("told", |status| status.counters.refused(Reason::Tls) >= 1).await;
    assert!(status.last_error.expect("there was one").contains("lbnode pair show"));
    drop(other);
    let mut b = bench.start("b");
    a.up().await;
    b.up().await;
    talk(&mut a, &mut b, 1).await;
}

#[tokio::test]
async fn the_dialler_refuses_its_own_clone_and_whoever_says_nothing() {
    let bench = Bench::new("dialled");
    // A copy of our own machine at the peer's address.
    let mut copy = bench.pairing("a");
    copy.trust_instead(bench.pairing("b").invitation("b").expect("made").expect("a good name")).expect("writable");
    let settings = sync::Settings { node: "z".into(), pairing: copy, ..bench.settings("b") };
    let clone = Node::start(settings);
    let mut a = bench.start("a");
    a.until("a clone", |status| status.counters.refused(Reason::Clone) >= 1).await;
    drop(clone);
    let mute = loop {
        match TcpListener::bind(bench.address).await {
            Ok(listener) => break listener,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    a.until("silence", |status| status.counters.refused(Reason::Silence) >= 1).await;
    drop(mute);
    let mut b = bench.start("b");
    a.up().await;
    b.up().await;
    talk(&mut a, &mut b, 1).await;
}
