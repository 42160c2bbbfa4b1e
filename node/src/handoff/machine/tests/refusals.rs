//! Each reason why there is no hand-off, as it is told to who asked for it.

use super::super::super::message::FLOWS_MAX;
use super::*;

#[test]
fn a_job_that_fails_before_the_vip_moves_is_the_reason_that_is_told() {
    for (mut bench, told) in [
        (Bench::leaver(1), "refused: nft"),
        (Bench::leaver(2), "send Abort: nft"),
        (Bench::taker(2), "send Refused: nft"),
        (Bench::taker(3), "send Refused: nft"),
    ] {
        let outputs = bench.ends(failed());
        assert!(outputs.iter().any(|output| output.starts_with(told)), "{outputs:?}");
        assert!(bench.machine.last_refusal(WEB).is_some_and(|why| why.contains("install nftables")));
    }
}

#[test]
fn a_probe_that_does_not_arrive_is_tried_three_times_and_then_named() {
    let mut bench = Bench::taker(3);
    for _ in 0..2 {
        assert_eq!(bench.ends(Outcome::Done), [""; 0]);
        assert_eq!(bench.wait(), (PROBE_AGAIN, vec!["run Probe".to_owned()]));
    }
    bench.ends(Outcome::Done);
    let (waited, outputs) = bench.wait();
    assert_eq!(waited, PROBE_LAST);
    assert!(outputs[0].starts_with("send Refused: a frame to the peer"), "{outputs:?}");
    assert_eq!(outputs.last().map(String::as_str), Some("run RemoveTaker"));
}

#[test]
fn what_cannot_begin_is_refused_with_its_reason() {
    type Given = fn() -> Bench;
    let table: [(&str, Given); 9] = [
        ("this node is not active", || Bench::new(STANDBY)),
        ("this node doesn't have the address yet", || Bench::new(Facts { address_present: false, ..ACTIVE })),
        ("there is no session with the peer", || {
            let mut bench = Bench::new(ACTIVE);
            bench.give(Input::Disconnected);
            bench
        }),
        ("the peer's heartbeats are not heard", || {
            let mut bench = Bench::new(ACTIVE);
            bench.give(Input::PeerLost);
            bench
        }),
        ("this agent is ending", || {
            let mut bench = Bench::new(ACTIVE);
            bench.give(Input::Stop);
            bench
        }),
        ("a hand-off is under way", || Bench::leaver(1)),
        ("a hand-off is under way", || Bench::leaver(4)),
        ("a hand-off is under way", || {
            let mut bench = Bench::taker(8);
            bench.facts(ACTIVE);
            bench
        }),
        ("there is no such VIP", || {
            let mut bench = Bench::new(ACTIVE);
            bench.give(Input::Configure { vips: vec![], timeout: None });
            bench
        }),
    ];
    for (why, given) in table {
        let outputs = given().begin();
        assert_eq!(outputs, [format!("refused: {why}")]);
    }
}

#[test]
fn an_offer_that_cannot_be_taken_is_refused_with_its_reason() {
    let changed = |change: fn(&mut Body)| {
        let mut body = offer();
        change(&mut body);
        body
    };
    let table: Vec<(&str, Bench, Body)> = vec![
        ("both nodes believe", Bench::new(ACTIVE), offer()),
        ("a hand-off is under way", Bench::taker(3), offer()),
        (
            "the VIP is 192.0.2.101 there",
            Bench::new(STANDBY),
            changed(|body| {
                if let Body::Offer { address, .. } = body {
                    *address = Ipv4Addr::new(192, 0, 2, 101).into();
                }
            }),
        ),
        (
            "192.0.2.100 cannot be the peer's own",
            Bench::new(STANDBY),
            changed(|body| {
                if let Body::Offer { leaver, .. } = body {
                    leaver.address = Ipv4Addr::new(192, 0, 2, 100).into();
                }
            }),
        ),
        (
            "the peer has this node's own address or MAC",
            Bench::new(STANDBY),
            changed(|body| {
                if let Body::Offer { leaver, .. } = body {
                    leaver.mac = neighbour(11).mac;
                }
            }),
        ),
        (
            "2000001 connections are too many",
            Bench::new(STANDBY),
            changed(|body| {
                if let Body::Offer { connections, .. } = body {
                    *connections = FLOWS_MAX as u64 + 1;
                }
            }),
        ),
    ];
    for (why, mut bench, body) in table {
        let outputs = bench.give(message(Id { instance: 2, number: 9 }, body));
        assert!(outputs[0].starts_with(&format!("refused: {why}")), "{why}: {outputs:?}");
        assert!(outputs[1].starts_with(&format!("send Refused: {why}")), "{why}: {outputs:?}");
        assert_eq!(outputs.len(), 2);
    }
}

#[test]
fn with_too_many_connections_there_is_no_hand_off() {
    let mut bench = Bench::leaver(1);
    let outputs = bench.ends(prepared(vec![flow(1); FLOWS_MAX + 1]));
    assert_eq!(
        outputs,
        ["refused: 2000001 connections are too many to be handed off, 2000000 at most", "run RemoveLeaver"]
    );
}

#[test]
fn a_standby_asks_and_is_answered() {
    let ask = || Input::Ask { vip: WEB.into(), reason: "preemption".into() };
    let mut bench = Bench::new(STANDBY);
    assert_eq!(bench.give(ask()), ["send Want"]);
    assert_eq!(bench.give(ask()), ["refused: the peer has been asked already"]);
    assert_eq!(bench.ours(Body::Refused { why: "not now".into() }), ["refused: not now"]);
    assert_eq!(bench.give(ask()), ["send Want"]);
    assert_eq!(bench.wait(), (ANSWER, vec!["refused: the peer did not answer in time".to_owned()]));
    assert_eq!(bench.give(ask()), ["send Want"]);
    assert_eq!(bench.theirs(offer()), ["began"]);

    let want = || Body::Want { reason: "preemption".into() };
    let mut bench = Bench::new(ACTIVE);
    assert_eq!(bench.theirs(want()), ["wanted"]);
    let decline = Input::Decline { vip: WEB.into(), id: THEIRS, why: "not now".into() };
    assert_eq!(bench.give(decline.clone()), ["send Refused: not now"]);
    assert_eq!(bench.give(decline), [""; 0]);
    assert_eq!(bench.theirs(want()), ["wanted"]);
    assert_eq!(bench.begin(), ["began", "run Prepare"]);
    let outputs = bench.ends(failed());
    assert!(outputs[0].starts_with("send Refused: nft"), "whoever asked hears of it: {outputs:?}");
    let mut bench = Bench::new(STANDBY);
    assert_eq!(bench.theirs(want()), ["send Refused: this node doesn't have the VIP either"]);
}

#[test]
fn what_is_not_known_here_is_answered_once_and_never_what_ends_something() {
    let stray = Id { instance: 9, number: 9 };
    let abort = "send Abort: this hand-off is not known here (any more)";
    let table: [(Body, &[&str]); 11] = [
        (Body::Go, &[abort]),
        (Body::Ready, &[abort]),
        (Body::Taken, &[abort]),
        (Body::Released, &[abort]),
        (Body::Announced, &[abort]),
        (Body::Left { connections: 1 }, &[abort]),
        (Body::Settled, &["send Done"]),
        (dump(&[]), &[abort]),
        (Body::Done, &[]),
        (Body::Abort { why: String::new() }, &[]),
        (Body::Refused { why: String::new() }, &[]),
    ];
    for (body, answer) in table {
        for mut bench in [Bench::new(ACTIVE), Bench::leaver(4), Bench::taker(TAKER_SERVES)] {
            let before = bench.machine.ignored();
            assert_eq!(bench.give(message(stray, body.clone())), answer, "{body:?}");
            assert_eq!(bench.machine.ignored(), before + 1);
        }
    }
}
