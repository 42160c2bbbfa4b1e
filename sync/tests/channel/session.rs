//! What the nodes do when everything is as it should be, or only breaks.

use std::net::Ipv4Addr;
use std::time::Duration;

use sync::counters::Reason;
use sync::{Event, SpawnError, WhyNot};

use crate::bench::{Bench, Log, Node, free, talk};

#[tokio::test]
async fn two_nodes_find_each_other_and_share_keys() {
    let bench = Bench::new("find");
    let (mut a, mut b) = (bench.start("a"), bench.start("b"));
    let ((path, of_a), (_, of_b)) = (a.up().await, b.up().await);
    assert_eq!(path, bench.address);
    assert_eq!(of_a.id, of_b.id);
    assert_eq!((of_a.send, of_a.receive), (of_b.receive, of_b.send));
    assert_ne!(of_a.send, of_a.receive);
    assert_eq!(format!("{of_a:?}"), format!("Keys {{ id: {}, .. }}", of_a.id), "no secret is shown");
    for number in 0..50 {
        talk(&mut a, &mut b, number).await;
    }
    let status = a.until("a measured clock", |status| status.clock_offset.is_some()).await;
    assert!(status.connected && status.rtt.is_some_and(|rtt| rtt < Duration::from_secs(1)), "{status:?}");
    // Both run on one clock.
    assert!(status.clock_offset.expect("measured").abs() < 1_000_000, "{status:?}");
    assert_eq!((status.counters.sent, status.counters.sessions), (50, 1));
}

#[tokio::test]
async fn many_messages_arrive_in_their_order() {
    let bench = Bench::new("order");
    let (a, mut b) = bench.up().await;
    let sender = tokio::spawn(async move {
        for number in 0..5_000u64 {
            let mut message = (number, "x".repeat(200));
            while let Err(back) = a.channel.send(message) {
                assert_eq!(back.why, WhyNot::Full);
                message = back.message;
                tokio::task::yield_now().await;
            }
        }
        a
    });
    for number in 0..5_000 {
        assert_eq!(b.message().await.0, number);
    }
    let a = sender.await.expect("no panic");
    assert!(a.channel.status().borrow().connected);
}

#[tokio::test]
async fn a_peer_that_restarts_is_found_again_each_time() {
    let bench = Bench::new("restart");
    let (mut a, mut b) = bench.up().await;
    let mut ids = Vec::new();
    for number in 0..3 {
        drop(b);
        a.down().await;
        b = bench.start("b");
        ids.push(a.up().await.1.id);
        assert_eq!(b.up().await.1.id, ids[number]);
        talk(&mut a, &mut b, number as u64).await;
    }
    assert!(ids[0] != ids[1] && ids[1] != ids[2], "each session has its own keys");
    // And when the dialler restarts.
    drop(a);
    b.down().await;
    let mut a = bench.start("a");
    a.up().await;
    b.up().await;
    talk(&mut a, &mut b, 9).await;
}

#[tokio::test]
async fn a_dialler_that_died_without_a_word_is_replaced_by_its_next_start() {
    let bench = Bench::new("replace");
    let (_old, mut b) = bench.up().await;
    // Another process with the same identity: the old one's connection still stands.
    let mut a = bench.start("a");
    a.up().await;
    assert!(b.down().await.contains("replaced by a newer session"));
    b.up().await;
    assert!(b.channel.status().borrow().counters.replaced >= 1);
}

#[tokio::test]
async fn the_second_path_is_taken_when_the_first_one_is_dead() {
    let bench = Bench::new("paths");
    let dead = free(Ipv4Addr::new(127, 0, 78, 1));
    let second = free(Ipv4Addr::new(127, 0, 78, 2));
    let mut settings = bench.settings("a");
    settings.peer_addresses = vec![dead, second];
    let mut a = Node::start(settings);
    let mut settings = bench.settings("b");
    settings.listen = vec![bench.address, second];
    let mut b = Node::start(settings);
    assert_eq!(a.up().await.0, second);
    b.up().await;
    talk(&mut a, &mut b, 1).await;
    assert!(a.channel.status().borrow().counters.refused(Reason::Unreachable) >= 1);
}

#[tokio::test]
async fn an_address_that_is_taken_is_listened_at_when_it_is_free() {
    let bench = Bench::new("busy");
    let taken = std::net::TcpListener::bind(bench.address).expect("free");
    let (log, _guard) = Log::start();
    let mut b = bench.start("b");
    log.until("cannot listen").await;
    drop(taken);
    let mut a = bench.start("a");
    a.up().await;
    b.up().await;
    talk(&mut a, &mut b, 1).await;
}

#[tokio::test]
async fn what_cannot_be_sent_comes_back() {
    let bench = Bench::new("back");
    let a = bench.start("a");
    let back = a.channel.send((7, "early".into())).expect_err("nobody is there");
    assert_eq!((back.why, back.message), (WhyNot::NoSession, (7, "early".to_owned())));

    let (mut a, b) = (a, bench.start("b"));
    a.up().await;
    let back = a.channel.send((8, "x".repeat(2 << 20))).expect_err("too long");
    assert_eq!((back.why, back.message.0), (WhyNot::Unwritable, 8));

    // The other node takes nothing: its queue fills, then the sockets, then ours.
    let mut sent = 0u64;
    let full = loop {
        match a.channel.send((sent, "x".repeat(60_000))) {
            Ok(()) => sent += 1,
            Err(back) if sent > 400 => break back,
            Err(_) => {}
        }
        tokio::task::yield_now().await;
        assert!(sent < 100_000, "no end to the room");
    };
    assert_eq!(full.why, WhyNot::Full);
    // Longer than a silence may last: nothing may happen in it, and so there is nothing to wait for.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let mut b = b;
    b.up().await;
    for number in 0..sent {
        assert_eq!(b.message().await.0, number);
    }
    let (a, b) = (a.channel.status().borrow().clone(), b.channel.status().borrow().clone());
    assert!(a.connected && b.connected);
    assert!(a.counters.full >= 1 && a.counters.sessions == 1 && b.counters.sessions == 1);
}

#[tokio::test]
async fn a_peer_that_hangs_is_given_up_after_two_seconds() {
    let bench = Bench::new("hang");
    let address = bench.address;
    // A process of its own would be stopped; here the wire is cut: a relay that stops passing anything on.
    let relay = free(Ipv4Addr::new(127, 0, 78, 3));
    let listener = tokio::net::TcpListener::bind(relay).await.expect("free");
    let (cut, mut is_cut) = tokio::sync::watch::channel(false);
    let relaying = tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            let (mut near, _) = listener.accept().await.expect("accepts");
            if *is_cut.borrow() {
                held.push(near);
                continue;
            }
            // Not listening yet: the dialler tries again.
            let Ok(mut far) = tokio::net::TcpStream::connect(address).await else { continue };
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                _ = is_cut.changed() => held.extend([near, far]),
            }
        }
    });
    let mut b = bench.start("b");
    let mut settings = bench.settings("a");
    settings.peer_addresses = vec![relay];
    let mut a = Node::start(settings);
    a.up().await;
    b.up().await;
    cut.send(true).expect("the relay runs");
    for node in [&mut a, &mut b] {
        assert_eq!(node.down().await, "nothing was heard for 2 s");
        assert_eq!(node.channel.status().borrow().counters.refused(Reason::Silence), 1);
    }
    relaying.abort();
}

#[tokio::test]
async fn the_channel_ends_with_its_last_handle_and_with_its_events() {
    let bench = Bench::new("end");
    let (a, mut b) = bench.up().await;
    let Node { channel, mut events } = a;
    let other = channel.clone();
    drop(channel);
    other.send((1, "still here".into())).expect("a handle is left");
    assert_eq!(b.message().await.0, 1);
    drop(other);
    assert!(b.down().await.contains("closed"));
    while events.recv().await.is_some() {}

    let mut a = bench.start("a");
    a.up().await;
    b.up().await;
    drop(b.events);
    a.down().await;
    assert!(matches!(a.channel.send((1, String::new())), Err(back) if back.why == WhyNot::NoSession));
}

#[tokio::test]
async fn settings_that_make_no_sense_are_refused() {
    let bench = Bench::new("settings");
    let refused = |change: &dyn Fn(&mut sync::Settings)| {
        let mut settings = bench.settings("a");
        change(&mut settings);
        sync::Channel::<u64>::spawn(settings).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert!(refused(&|settings| settings.peer_addresses.clear()).contains("no address of the peer"));
    assert!(refused(&|settings| settings.node = "b".into()).contains("both called b"));
    assert!(refused(&|settings| settings.node = "a b".into()).contains("letters, digits"));
    assert!(refused(&|settings| settings.pair = "x".repeat(256)).contains("at most 255"));
    let mut settings = bench.settings("a");
    settings.pairing = bench.pairing("nobody");
    let refused = sync::Channel::<u64>::spawn(settings);
    assert!(matches!(refused, Err(SpawnError::Pairing(_))));
    let unpaired = bench.made("alone");
    let mut settings = bench.settings("a");
    settings.pairing = unpaired;
    assert!(matches!(sync::Channel::<u64>::spawn(settings), Err(SpawnError::Pairing(_))));
}

#[tokio::test]
async fn a_restarted_peer_says_another_instance() {
    let bench = Bench::new("instance");
    let mut a = bench.start("a");
    let mut instances = Vec::new();
    for _ in 0..2 {
        let b = bench.start("b");
        loop {
            if let Event::Up { instance, peer, .. } = a.next().await {
                assert_eq!(peer, "b");
                instances.push(instance);
                break;
            }
        }
        drop(b);
    }
    assert_ne!(instances[0], instances[1]);
}
