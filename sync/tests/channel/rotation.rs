//! A new identity over the live session, and a crash between any two of its steps.

use sync::RotateError;
use sync::counters::Reason;
use sync::pairing::Pin;

use crate::bench::{Bench, talk};

fn own(bench: &Bench, node: &str) -> Pin {
    bench.pairing(node).identity().expect("made").pin()
}

fn accepted(bench: &Bench, node: &str) -> Vec<Pin> {
    bench.pairing(node).peer().expect("paired").pins.clone()
}

#[tokio::test]
async fn both_nodes_rotate_and_the_old_certificates_are_forgotten() {
    let bench = Bench::new("rotate");
    let (mut a, mut b) = bench.up().await;
    for (number, (node, other)) in [("a", "b"), ("b", "a"), ("a", "b")].into_iter().enumerate() {
        let old = own(&bench, node);
        let channel = if node == "a" { &a.channel } else { &b.channel };
        let new = channel.rotate().await.expect("connected");
        assert_ne!(new, old);
        assert_eq!(own(&bench, node), new);
        a.up().await;
        b.up().await;
        talk(&mut a, &mut b, number as u64).await;
        // It is on the disk a moment after the session is up.
        let watched = if node == "a" { &b } else { &a };
        while accepted(&bench, other) != [new] {
            watched.until("still up", |status| status.connected).await;
            tokio::task::yield_now().await;
        }
    }
    for node in [&a, &b] {
        assert_eq!(node.channel.status().borrow().counters.refused(Reason::Pin), 0);
    }
}

#[tokio::test]
async fn without_a_peer_nothing_is_rotated() {
    let bench = Bench::new("alone");
    let old = own(&bench, "a");
    let a = bench.start("a");
    assert!(matches!(a.channel.rotate().await, Err(RotateError::NotConnected)));
    assert_eq!(own(&bench, "a"), old);
}

#[tokio::test]
async fn a_crash_between_two_steps_leaves_a_pair_that_finds_itself() {
    let bench = Bench::new("crash");
    let old = own(&bench, "a");

    // Made, not announced.
    bench.pairing("a").stage("a").expect("writable");
    let (a, b) = bench.up().await;
    drop((a, b));

    // Announced and accepted, the answer lost.
    let staged = bench.pairing("a").stage("a").expect("writable");
    bench.pairing("b").accept_also(old, staged).expect("writable");
    let (a, b) = bench.up().await;
    assert_eq!(accepted(&bench, "b"), [old, staged], "the old one is still in use");
    drop((a, b));

    // Put in place, not used yet.
    bench.pairing("a").promote(staged).expect("writable");
    let (a, mut b) = bench.up().await;
    while accepted(&bench, "b") != [staged] {
        tokio::task::yield_now().await;
    }
    drop(a);
    b.down().await;

    // And once more, in whole.
    let mut a = bench.start("a");
    a.up().await;
    b.up().await;
    let new = a.channel.rotate().await.expect("connected");
    a.up().await;
    b.up().await;
    talk(&mut a, &mut b, 1).await;
    assert_eq!(own(&bench, "a"), new);
}

#[tokio::test]
async fn only_one_rotation_is_under_way() {
    let bench = Bench::new("two");
    let (a, _b) = bench.up().await;
    let (first, second) = tokio::join!(a.channel.rotate(), a.channel.rotate());
    assert!(first.is_ok(), "{first:?}");
    assert!(matches!(second, Err(RotateError::Busy)), "{second:?}");
}
