use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000;

fn path(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 7777))
}

fn config(node: &str, peer: &str) -> Config {
    Config { node: node.into(), peer: peer.into(), pair: "p".into(), paths: vec![path(1), path(2)], seed: 7 }
}

fn dialler() -> Session {
    Session::new(config("a", "b"), Time(0))
}

fn listener() -> Session {
    Session::new(config("b", "a"), Time(0))
}

fn hello(node: &str) -> Hello {
    Hello { node: node.into(), pair: "p".into(), instance: 1 }
}

fn drain(session: &mut Session) -> Vec<Output> {
    std::iter::from_fn(|| session.poll_output()).collect()
}

/// What the session wants to dial now.
fn dials(session: &mut Session, now: Time) -> Option<(Connection, SocketAddr)> {
    session.handle_timeout(now);
    drain(session).into_iter().find_map(|output| match output {
        Output::Dial { connection, path } => Some((connection, path)),
        _ => None,
    })
}

fn fail(session: &mut Session, connection: Connection, reason: Reason, now: Time) {
    session.handle(Input::Failed { connection, refusal: Refusal::new(reason, "test") }, now);
}

/// A listener with a live session.
fn up() -> (Session, Connection) {
    let mut session = listener();
    let connection = session.accept(path(1), Time(0)).expect("room");
    session.handle(Input::Greeted { connection, hello: hello("a") }, Time(0));
    drain(&mut session);
    (session, connection)
}

#[test]
fn the_name_that_sorts_first_dials_and_the_other_one_never_does() {
    assert_eq!(dials(&mut dialler(), Time(0)).map(|(_, path)| path), Some(path(1)));
    let mut session = listener();
    assert_eq!(session.poll_timeout(), None);
    assert_eq!(dials(&mut session, Time(u64::MAX)), None);
    assert_eq!(dialler().accept(path(1), Time(0)), None);
}

#[test]
fn paths_are_tried_in_their_order_and_all_again_after_a_wait_that_grows() {
    let mut session = dialler();
    let mut now = Time(0);
    let mut waits = Vec::new();
    for _ in 0..12 {
        for number in [1, 2] {
            let (connection, dialled) = dials(&mut session, now).expect("due");
            assert_eq!(dialled, path(number));
            fail(&mut session, connection, Reason::Unreachable, now);
        }
        let at = session.poll_timeout().expect("it dials again");
        waits.push(at.since(now));
        now = at;
    }
    assert!(waits.iter().all(|wait| (BACK_OFF_MIN..=BACK_OFF_MAX).contains(wait)), "{waits:?}");
    assert!(waits[0] <= 2 * BACK_OFF_MIN && waits[6..].iter().any(|wait| *wait > BACK_OFF_MAX / 5), "{waits:?}");
    assert!(waits.windows(2).any(|pair| pair[0] != pair[1]));
}

#[test]
fn an_address_that_swallows_the_call_costs_a_second_and_a_silent_peer_five() {
    let mut session = dialler();
    dials(&mut session, Time(0)).expect("due");
    assert_eq!(session.poll_timeout(), Some(Time(1_000 * MS)));
    let (connection, second) = dials(&mut session, Time(1_000 * MS)).expect("the next path");
    assert_eq!(second, path(2));
    session.handle(Input::Connected { connection }, Time(1_500 * MS));
    assert_eq!(session.poll_timeout(), Some(Time(6_500 * MS)));
    session.handle_timeout(Time(6_500 * MS));
    assert!(drain(&mut session).contains(&Output::Close { connection }));
    assert_eq!((session.counters().refused(Reason::Unreachable), session.counters().refused(Reason::Silence)), (1, 1));
}

#[test]
fn a_newer_session_replaces_the_older_one() {
    let (mut session, old) = up();
    let new = session.accept(path(2), Time(5)).expect("room");
    session.handle(Input::Greeted { connection: new, hello: hello("a") }, Time(5));
    let outputs = drain(&mut session);
    assert!(
        matches!(&outputs[..], [
        Output::Down { why }, Output::Close { connection: closed }, Output::Up { connection, .. },
    ] if why.contains("192.0.2.2") && *closed == old && *connection == new),
        "{outputs:?}"
    );
    assert_eq!(session.counters().replaced, 1);
    // What the old one still says is nothing to us.
    fail(&mut session, old, Reason::Malformed, Time(6));
    assert_eq!(drain(&mut session), []);
    assert_eq!(session.live(), Some((new, path(2))));
}

#[test]
fn another_node_and_another_pair_are_refused_and_the_session_goes_on() {
    let (mut session, live) = up();
    let strangers = [hello("c"), Hello { pair: "q".into(), ..hello("a") }];
    for hello in strangers {
        let connection = session.accept(path(1), Time(0)).expect("room");
        session.handle(Input::Greeted { connection, hello }, Time(0));
        assert!(drain(&mut session).contains(&Output::Close { connection }));
    }
    assert_eq!(session.counters().refused(Reason::Name), 2);
    assert_eq!(session.live(), Some((live, path(1))));
}

#[test]
fn a_session_is_pinged_and_two_silent_seconds_end_it() {
    let (mut session, connection) = up();
    session.handle_timeout(Time(0));
    assert_eq!(drain(&mut session), [Output::Send { connection, control: Control::Ping { sent: 0 } }]);
    assert_eq!(session.poll_timeout(), Some(Time(500 * MS)));
    session.handle(Input::Heard { connection }, Time(1_000 * MS));
    session.handle_timeout(Time(2_999 * MS));
    assert!(session.live().is_some());
    session.handle_timeout(Time(3_000 * MS));
    assert!(session.live().is_none());
    assert!(drain(&mut session).iter().any(|output| matches!(output, Output::Down { why } if why.contains("2 s"))));
    assert_eq!(session.counters().refused(Reason::Silence), 1);
}

#[test]
fn silence_does_not_count_while_we_are_the_ones_who_do_not_listen() {
    let (mut session, _) = up();
    session.handle(Input::Paused(true), Time(1_000 * MS));
    session.handle_timeout(Time(60_000 * MS));
    session.handle(Input::Paused(false), Time(60_000 * MS));
    session.handle_timeout(Time(61_999 * MS));
    assert!(session.live().is_some());
    session.handle_timeout(Time(62_000 * MS));
    assert!(session.live().is_none());
}

#[test]
fn a_ping_is_answered_with_our_clock_and_a_pong_measures_the_peers() {
    let (mut session, connection) = up();
    session.handle(Input::Control { connection, control: Control::Ping { sent: 9 }, at: Time(40) }, Time(50));
    let pong = Control::Pong { ping: 9, received: 40, sent: 50 };
    assert_eq!(drain(&mut session), [Output::Send { connection, control: pong }]);
    session.handle_timeout(Time(100));
    let pong = Control::Pong { ping: 100, received: 1_110, sent: 1_110 };
    session.handle(Input::Control { connection, control: pong, at: Time(120) }, Time(130));
    assert_eq!(session.measured(), Some(Measured { rtt: Duration::from_micros(20), offset: 1_000 }));
}

#[test]
fn a_flood_of_silent_connections_finds_eight_places_and_strangers_six() {
    let mut session = listener();
    let stranger = SocketAddr::from(([203, 0, 113, 1], 1));
    let admitted = (0..20).filter(|_| session.accept(stranger, Time(0)).is_some()).count();
    assert_eq!(admitted, STRANGERS);
    // The peer's own address, as a socket for both families shows it.
    let mapped = SocketAddr::from(([0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0201], 9));
    let peers = (0..20).filter(|_| session.accept(mapped, Time(0)).is_some()).count();
    assert_eq!(peers, OPENING - STRANGERS);
    assert_eq!(session.counters().refused(Reason::Crowded), 32);
    session.handle_timeout(Time(5_000 * MS));
    assert_eq!(session.counters().refused(Reason::Silence), 8);
    assert!(session.accept(stranger, Time(5_000 * MS)).is_some());
}

#[test]
fn strangers_that_come_and_go_are_slowed_down_and_the_peer_is_not() {
    let mut session = listener();
    let stranger = SocketAddr::from(([203, 0, 113, 1], 1));
    let come_and_go = |session: &mut Session, from, now| {
        let connection = session.accept(from, now);
        connection.inspect(|connection| fail(session, *connection, Reason::Pin, now)).is_some()
    };
    let admitted = |session: &mut Session, from, now| (0..100).filter(|_| come_and_go(session, from, now)).count();
    assert_eq!(admitted(&mut session, stranger, Time(0)), 32);
    assert_eq!(admitted(&mut session, path(1), Time(0)), 100);
    assert_eq!(admitted(&mut session, stranger, Time(100 * MS)), 2);
    assert_eq!(admitted(&mut session, stranger, Time(60_000 * MS)), 32);
}

#[test]
fn a_reason_is_noted_once_and_again_after_a_minute_or_a_session() {
    let mut session = listener();
    let notes = |session: &mut Session, now: Time| {
        let connection = session.accept(path(1), now).expect("room");
        fail(session, connection, Reason::Pin, now);
        drain(session).iter().filter(|output| matches!(output, Output::Refused { .. })).count()
    };
    assert_eq!(notes(&mut session, Time(0)), 1);
    assert_eq!(notes(&mut session, Time(59_000 * MS)), 0);
    assert_eq!(notes(&mut session, Time(60_000 * MS)), 1);
    let connection = session.accept(path(1), Time(60_000 * MS)).expect("room");
    session.handle(Input::Greeted { connection, hello: hello("a") }, Time(60_000 * MS));
    assert_eq!(notes(&mut session, Time(60_001 * MS)), 1);
    assert_eq!(session.counters().refused(Reason::Pin), 4);
}

#[test]
fn a_peer_that_ends_the_session_is_not_refused_anything() {
    let (mut session, connection) = up();
    fail(&mut session, connection, Reason::Closed, Time(1));
    assert_eq!(session.counters().refused(Reason::Closed), 0);
    assert!(matches!(&drain(&mut session)[..], [Output::Down { .. }, Output::Close { .. }]));
}

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Accept(u8),
    Greeted(usize, bool),
    Failed(usize),
    Connected(usize),
    Pong(usize, [u64; 3]),
    Ping(usize, u64),
    Paused(bool),
    End,
    Wait(u64),
    WaitUntilDue,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4u8).prop_map(Step::Accept),
        (0..6usize, prop::bool::weighted(0.8)).prop_map(|(which, good)| Step::Greeted(which, good)),
        (0..6usize).prop_map(Step::Failed),
        (0..6usize).prop_map(Step::Connected),
        (0..6usize, any::<[u64; 3]>()).prop_map(|(which, stamps)| Step::Pong(which, stamps)),
        (0..6usize, any::<u64>()).prop_map(|(which, sent)| Step::Ping(which, sent)),
        any::<bool>().prop_map(Step::Paused),
        Just(Step::End),
        (0..3_000_000u64).prop_map(Step::Wait),
        Just(Step::WaitUntilDue),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn whatever_happens_one_session_lives_and_only_the_dialler_dials(
        dials in any::<bool>(),
        seed in any::<u64>(),
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let (node, peer) = if dials { ("a", "b") } else { ("b", "a") };
        let mut now = Time(0);
        let mut session = Session::new(Config { seed, ..config(node, peer) }, now);
        // As the driver sees it: connections that exist (those of its own and those that came), and the one that is up.
        let mut connections: Vec<Connection> = Vec::new();
        let mut live: Option<Connection> = None;
        let pick = |connections: &[Connection], which: usize| {
            connections.iter().rev().nth(which).copied().unwrap_or(Connection(u64::MAX))
        };
        for step in steps {
            match step {
                Step::Accept(number) => {
                    let accepted = session.accept(path(number), now);
                    prop_assert!(accepted.is_none() || !dials);
                    connections.extend(accepted);
                }
                Step::Greeted(which, good) => {
                    let hello = hello(if good { peer } else { "x" });
                    session.handle(Input::Greeted { connection: pick(&connections, which), hello }, now);
                }
                Step::Failed(which) => fail(&mut session, pick(&connections, which), Reason::Tls, now),
                Step::Connected(which) => {
                    session.handle(Input::Connected { connection: pick(&connections, which) }, now);
                }
                Step::Pong(which, [ping, received, sent]) => {
                    let control = Control::Pong { ping, received, sent };
                    session.handle(Input::Control { connection: pick(&connections, which), control, at: now }, now);
                }
                Step::Ping(which, sent) => {
                    let control = Control::Ping { sent };
                    session.handle(Input::Control { connection: pick(&connections, which), control, at: now }, now);
                }
                Step::Paused(paused) => session.handle(Input::Paused(paused), now),
                Step::End => session.handle(Input::End { why: "asked".into() }, now),
                Step::Wait(micros) => now = Time(now.0 + micros),
                Step::WaitUntilDue => now = session.poll_timeout().unwrap_or(now).max(now),
            }
            session.handle_timeout(now);
            for output in drain(&mut session) {
                match output {
                    Output::Dial { connection, .. } => {
                        prop_assert!(dials, "the listener dials");
                        prop_assert!(live.is_none(), "a dial beside a session");
                        connections.push(connection);
                    }
                    Output::Up { connection, .. } => {
                        prop_assert!(live.is_none(), "two sessions");
                        live = Some(connection);
                    }
                    Output::Down { .. } => prop_assert!(live.take().is_some(), "down without up"),
                    Output::Send { connection, .. } => prop_assert_eq!(live, Some(connection)),
                    Output::Close { connection } => prop_assert_ne!(live, Some(connection)),
                    Output::Refused { .. } => {}
                }
            }
            prop_assert_eq!(session.live().map(|(connection, _)| connection), live);
            prop_assert!(session.opening.len() <= OPENING);
            if let Some(at) = session.dial.at {
                prop_assert!(dials && live.is_none() && session.opening.is_empty(), "one dial at a time");
                prop_assert!(at.since(now) <= BACK_OFF_MAX);
            }
            // The dialler is never stuck: it is up, tries, or waits for the next try.
            prop_assert!(!dials || live.is_some() || !session.opening.is_empty() || session.dial.at.is_some());
            prop_assert!(session.poll_timeout().is_none_or(|at| at > now), "a timeout that changes nothing");
        }
    }
}
