//! The election one behaviour at a time, through its public calls. The table of all states and inputs is in
//! `table.rs`, what several routers make of each other in `simulation.rs`.

use std::net::Ipv4Addr;
use std::time::Duration;

use vrrp::config::{Checksum, RouterConfig, Transport};
use vrrp::event::{Advert, Applied, Fault, Input, Note, Output, State, Why};
use vrrp::machine::{LEASE, Router};
use vrrp::types::{Interval, Time};

const US: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const THEM: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

fn config(priority: i64) -> RouterConfig {
    RouterConfig {
        name: "web".into(),
        interface: "eth0".into(),
        vrid: 51.try_into().expect("in range"),
        addresses: vec![Ipv4Addr::new(192, 0, 2, 100)],
        priority: priority.try_into().expect("in range"),
        advert_interval: Interval::from_centiseconds(100).expect("in range"),
        preempt: None,
        transport: Transport::Multicast,
        source: None,
        checksum: Checksum::Rfc9568,
    }
}

fn heard(priority: u8) -> Advert {
    let RouterConfig { advert_interval: interval, addresses, .. } = config(1);
    Advert { source: THEM, priority, interval, addresses }
}

fn advert(priority: u8) -> Input {
    Input::Advert(heard(priority))
}

fn ms(ms: u64) -> Time {
    Time(ms * 1000)
}

fn backup(priority: i64) -> Router {
    let mut router = Router::new(config(priority), ms(0));
    router.handle(Input::Serving(true), ms(0));
    router.handle(Input::Source(Some(US)), ms(0));
    assert_eq!(router.state(), State::Backup);
    drain(&mut router);
    router
}

fn master(priority: i64) -> (Router, Time) {
    let mut router = backup(priority);
    let now = router.poll_timeout().expect("a backup waits for silence");
    router.handle_timeout(now);
    router.handle(Input::Vip(Applied::Present), now);
    assert_eq!(router.state(), State::Master);
    drain(&mut router);
    (router, now)
}

fn drain(router: &mut Router) -> Vec<Output> {
    std::iter::from_fn(|| router.poll_output()).collect()
}

#[test]
fn rfc9568_6_4_2_silence_for_a_down_interval_makes_a_master() {
    let mut router = backup(128);
    assert_eq!(router.poll_timeout(), Some(ms(3500)), "three intervals and half of one");
    router.handle_timeout(ms(3499));
    assert_eq!(router.state(), State::Backup);
    router.handle_timeout(ms(3500));
    let outputs = drain(&mut router);
    assert_eq!(outputs[..2], [Output::Advert { priority: 128 }, Output::Hold]);
    router.handle(Input::Vip(Applied::Present), ms(3501));
    assert_eq!(drain(&mut router), [Output::Announce]);
}

#[test]
fn rfc9568_6_4_2_a_release_shortens_the_wait_to_the_skew() {
    let mut router = backup(128);
    router.handle(advert(0), ms(100));
    assert_eq!(router.poll_timeout(), Some(ms(600)));
    router.handle_timeout(ms(600));
    assert_eq!((router.state(), router.why()), (State::Master, &Why::Released));
}

#[test]
fn a_change_of_priority_shifts_the_running_deadline() {
    let mut router = backup(128);
    router.handle(Input::Configure(config(192)), ms(3000));
    assert_eq!(router.poll_timeout(), Some(ms(3250)));
}

#[test]
fn rfc9568_6_4_3_of_equal_priorities_the_higher_address_stays() {
    let (mut router, now) = master(128);
    router.handle(advert(128), now);
    assert_eq!(router.state(), State::Backup);
    assert!(!drain(&mut router).contains(&Output::Advert { priority: 0 }), "yielding sends no release");
}

#[test]
fn rfc9568_6_4_3_a_lower_priority_is_answered_at_once() {
    let (mut router, now) = master(128);
    router.handle(advert(127), now);
    assert_eq!(router.state(), State::Master);
    let outputs = drain(&mut router);
    assert!(outputs.contains(&Output::Advert { priority: 128 }) && outputs.contains(&Output::Announce));
}

#[test]
fn a_fault_sends_the_release_before_the_addresses_go() {
    let (mut router, now) = master(128);
    router.handle(Input::Fault(Fault::Maintenance, true), now);
    let outputs = drain(&mut router);
    assert_eq!(outputs[..2], [Output::Advert { priority: 0 }, Output::Release { taken: false }]);
    assert_eq!(router.state(), State::Fault);
}

#[test]
fn an_offer_that_nobody_takes_ends_in_an_advert() {
    let (mut router, now) = master(128);
    router.handle(Input::Serving(false), now);
    assert_eq!(drain(&mut router), [Output::Advert { priority: 0 }]);
    router.handle(Input::Vip(Applied::Present), now);
    for step in 1..=500 {
        let at = now + Duration::from_millis(10 * step);
        router.handle(Input::Vip(Applied::Present), at);
        router.handle_timeout(at);
    }
    assert_eq!(router.state(), State::Master);
    let outputs = drain(&mut router);
    assert!(outputs.contains(&Output::Advert { priority: 128 }));
    assert!(outputs.contains(&Output::Note(Note::OfferNotTaken)));
    assert!(!outputs.iter().any(|output| matches!(output, Output::Release { .. })));
}

#[test]
fn a_taken_offer_releases_and_a_router_that_cannot_serve_never_waits_to_take_over() {
    for offered in [true, false] {
        let (mut router, now) = master(128);
        router.handle(Input::Serving(false), now);
        let mut at = now;
        if !offered {
            at = now + Duration::from_secs(5);
            for step in 1..=500 {
                router.handle(Input::Vip(Applied::Present), now + Duration::from_millis(10 * step));
                router.handle_timeout(now + Duration::from_millis(10 * step));
            }
        }
        router.handle(advert(200), at);
        assert_eq!(router.state(), State::Fault);
        assert!(drain(&mut router).contains(&Output::Release { taken: true }));
        assert_eq!(router.poll_timeout(), None);
    }
}

#[test]
fn a_master_that_slept_past_the_others_wait_steps_down_in_silence() {
    let (mut router, now) = master(128);
    router.handle_timeout(now + Duration::from_secs(4));
    assert_eq!(router.state(), State::Backup);
    let outputs = drain(&mut router);
    assert_eq!(outputs[0], Output::Release { taken: true });
    assert!(!outputs.iter().any(|output| matches!(output, Output::Advert { .. })));
}

#[test]
fn a_backup_that_slept_past_its_deadline_listens_before_it_takes_over() {
    let mut router = backup(128);
    router.handle_timeout(ms(6000));
    assert_eq!(router.state(), State::Backup);
    assert_eq!(router.poll_timeout(), Some(ms(7500)), "one interval and half of one");
    router.handle_timeout(ms(7500));
    assert_eq!(router.state(), State::Master);
}

#[test]
fn a_router_that_wakes_after_its_lease_has_lapsed_advertises_only_the_release() {
    let (mut router, now) = master(128);
    router.handle_timeout(now + LEASE + Duration::from_millis(100));
    let outputs = drain(&mut router);
    assert_eq!(outputs[..2], [Output::Advert { priority: 0 }, Output::Release { taken: false }]);
}

#[test]
fn a_peer_that_missed_the_release_can_still_take_the_offer() {
    let (mut router, now) = master(128);
    router.handle(Input::Serving(false), now);
    // Its down interval at the lowest priority, and the way of its first advert.
    for step in 1..=401 {
        router.handle(Input::Vip(Applied::Present), now + Duration::from_millis(10 * step));
        router.handle_timeout(now + Duration::from_millis(10 * step));
    }
    router.handle(advert(1), now + Duration::from_millis(4010));
    assert_eq!(router.state(), State::Fault);
}

#[test]
fn an_unacknowledged_lease_is_a_fault_that_mends_through_backup() {
    let (mut router, now) = master(128);
    router.handle_timeout(now + LEASE);
    assert_eq!(router.state(), State::Fault);
    let mend = router.poll_timeout().expect("it will try again");
    router.handle_timeout(mend);
    assert_eq!((router.state(), router.faults().len()), (State::Backup, 0));
}

/// Runs an acknowledged router for so many milliseconds, and says when it put out what is wanted.
fn times(router: &mut Router, from: Time, length: u64, wanted: impl Fn(&Output) -> bool) -> Vec<u64> {
    let mut times = Vec::new();
    for step in 0..=length {
        let now = from + Duration::from_millis(step);
        router.handle_timeout(now);
        if router.state() == State::Master {
            router.handle(Input::Vip(Applied::Present), now);
        }
        times.extend(drain(router).iter().filter(|output| wanted(output)).map(|_| step));
    }
    times
}

#[test]
fn a_takeover_by_silence_is_announced_until_the_lease_of_the_other_has_lapsed_and_again_after_five_seconds() {
    let mut router = backup(128);
    let announced = times(&mut router, ms(3500), 7000, |output| *output == Output::Announce);
    let burst = [0, 10, 20, 50, 100];
    let insisting = [300, 500, 700, 900, 1100, 1300, 1500];
    let expected: Vec<u64> = burst.into_iter().chain(insisting).chain(burst.map(|at| 5000 + at)).collect();
    assert_eq!(announced, expected);
}

#[test]
fn a_takeover_from_a_release_does_not_insist() {
    let mut router = backup(128);
    router.handle(advert(0), ms(0));
    let announced = times(&mut router, ms(500), 4999, |output| *output == Output::Announce);
    assert_eq!(announced, [0, 10, 20, 50, 100]);
}

#[test]
fn a_claim_is_answered_ten_times_a_second_at_most_and_reported_once() {
    let (mut router, now) = master(128);
    let claim = Input::Claimed { address: Ipv4Addr::new(192, 0, 2, 100), mac: [2; 6] };
    let later = now + Duration::from_millis(600);
    for offset in 0..100 {
        router.handle(claim.clone(), later + Duration::from_millis(offset));
    }
    let outputs = drain(&mut router);
    assert_eq!(outputs.iter().filter(|output| **output == Output::Announce).count(), 1);
    assert_eq!(outputs.iter().filter(|output| matches!(output, Output::Note(Note::Claimed { .. }))).count(), 1);
    router.handle(claim, later + Duration::from_millis(100));
    assert_eq!(drain(&mut router), [Output::Announce]);
}

/// A backup that preempts after five seconds, while an active router of lower priority advertises each second.
fn preempting(until: u64, higher_at: Option<u64>) -> Option<u64> {
    let mut router = backup(128);
    router.handle(Input::Configure(RouterConfig { preempt: Some(Duration::from_secs(5)), ..config(128) }), ms(0));
    for second in 0..until {
        let priority = if higher_at == Some(second) { 200 } else { 100 };
        router.handle(advert(priority), ms(second * 1000));
        for step in 0..1000 {
            router.handle_timeout(ms(second * 1000 + step));
            if router.state() == State::Master {
                assert_eq!(router.why(), &Why::Preempted);
                return Some(second * 1000 + step);
            }
        }
    }
    None
}

#[test]
fn a_lower_priority_is_preempted_after_the_delay_and_the_running_deadline() {
    assert_eq!(preempting(20, None), Some(4000 + 3500).map(|at| at + 1000));
}

#[test]
fn a_higher_priority_starts_the_preemption_delay_anew() {
    assert_eq!(preempting(20, Some(3)), Some(11_500));
}

#[test]
fn a_duplicate_vrid_is_reported_once() {
    let mut router = backup(128);
    let third = |at| (Input::Advert(Advert { source: Ipv4Addr::new(192, 0, 2, 3), ..heard(200) }), ms(at));
    router.handle(advert(200), ms(0));
    for at in [100, 200] {
        let (input, now) = third(at);
        router.handle(input, now);
        router.handle(advert(200), now);
    }
    let duplicates = drain(&mut router);
    let other = Note::DuplicateVrid { source: Ipv4Addr::new(192, 0, 2, 3), other: THEM };
    assert_eq!(duplicates, [Output::Note(other)]);
}

#[test]
fn a_core_that_is_back_during_an_offer_lets_it_run_its_course_and_makes_no_other() {
    let (mut router, now) = master(128);
    router.handle(Input::Serving(false), now);
    assert_eq!(drain(&mut router), [Output::Advert { priority: 0 }]);
    router.handle(Input::Serving(true), now);
    assert!(router.offering());
    let adverts = times(&mut router, now, 20_000, |output| matches!(output, Output::Advert { .. }));
    assert_eq!(adverts.first(), Some(&5000), "silence until the offer ends");
    assert_eq!(adverts.len(), 16, "one each second from then on, and no second offer");
}

#[test]
fn of_two_active_routers_the_one_that_took_over_by_silence_knows_for_how_long() {
    let (mut router, now) = master(128);
    router.handle(advert(200), now + Duration::from_millis(700));
    let length = Some(Duration::from_millis(700));
    assert_eq!(drain(&mut router)[0], Output::Note(Note::DualActive { other: THEM, length }));
}

/// Without it the switches go on believing that the loser has the addresses, for as long as the winner hears nothing.
#[test]
fn an_outranked_master_says_so_once_more_and_the_winner_announces_the_addresses_again() {
    let (mut loser, now) = master(100);
    loser.handle(advert(200), now + Duration::from_millis(1));
    let last_word = drain(&mut loser);
    assert_eq!(last_word[1..3], [Output::Advert { priority: 100 }, Output::Release { taken: true }]);
    assert_eq!(loser.state(), State::Backup);

    let (mut winner, since) = master(200);
    let healed = since + Duration::from_secs(8);
    let quiet = Duration::from_millis(500);
    let mut now = since;
    while now < healed {
        now = winner.poll_timeout().expect("a master always waits for something");
        winner.handle_timeout(now);
        winner.handle(Input::Vip(Applied::Present), now);
    }
    drain(&mut winner);
    winner.handle(advert(100), now + quiet);
    let outputs = drain(&mut winner);
    assert!(outputs.contains(&Output::Announce), "{outputs:?}");
    assert!(outputs.contains(&Output::Note(Note::DualActive { other: THEM, length: None })), "{outputs:?}");
}
