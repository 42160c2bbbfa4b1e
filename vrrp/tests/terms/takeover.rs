//! Who holds the VIP, and when it is taken.

use vrrp::event::{Input, Output, State, Why};
use vrrp::heartbeat::{Claim, Fitness, Lan, Standing};
use vrrp::machine::LEASE;

use crate::stage::{INTERVAL, STRANGER, Stage, THEM, US, VIP, advert, claim, config, held, ms};

#[test]
fn the_higher_term_wins_over_any_priority() {
    let mut loser = Stage::holder(254, 1);
    loser.hear(Claim { priority: 1, ..held(2) });
    assert_eq!((loser.state(), loser.router.why()), (State::Backup, &Why::Superseded { term: 2 }));
    let said = loser.said();
    assert!(said.contains(&Output::Release { taken: true }), "{said:?}");
    assert!(!said.iter().any(|output| matches!(output, Output::Advert { .. })), "in silence: {said:?}");

    let mut winner = Stage::holder(1, 3);
    winner.hear(Claim { priority: 254, ..held(2) });
    assert_eq!((winner.state(), winner.router.term()), (State::Master, 3));
}

#[test]
fn of_equal_terms_the_higher_priority_stays_and_of_equal_priorities_the_higher_address() {
    let lower = Some([192, 0, 2, 4].into());
    for (priority, source, stays) in [
        (99, Some(THEM), true),
        (101, lower, false),
        (100, lower, true),
        (100, Some(THEM), false),
        // Who says no address cannot send adverts either.
        (100, None, true),
    ] {
        let mut holder = Stage::holder(100, 7);
        holder.hear(Claim { priority, source, ..held(7) });
        assert_eq!(holder.state() == State::Master, stays, "against {priority} {source:?}");
    }
}

#[test]
fn a_takeover_uses_the_highest_term_that_was_seen_and_one() {
    let mut backup = Stage::backup(100);
    backup.hear(held(6));
    backup.hear(Claim { term: 4, ..claim() });
    backup.pass(backup.down());
    assert_eq!((backup.state(), backup.router.term()), (State::Master, 7));
    assert_eq!(backup.claim().term, 7);
}

#[test]
fn a_living_claim_delays_a_takeover_by_one_down_interval() {
    let mut backup = Stage::backup(100);
    let down = backup.down();
    backup.pass(down - ms(1));
    backup.hear(held(1));
    backup.pass(down - ms(1));
    assert_eq!(backup.state(), State::Backup);
    backup.pass(ms(1));
    assert_eq!((backup.state(), backup.router.why()), (State::Master, &Why::Silence));
}

#[test]
fn a_claim_delays_nothing_when_its_lease_is_dead_or_it_is_not_held() {
    let lease = u32::try_from(LEASE.as_millis()).expect("a second");
    let renewed = |renewed| Claim { standing: Standing::Held { renewed, age: 5000 }, ..held(1) };
    for (claim, delays) in
        [(renewed(lease), true), (renewed(lease + 1), false), (renewed(u32::MAX), false), (claim(), false)]
    {
        let mut backup = Stage::backup(100);
        backup.pass(backup.down() - ms(1));
        backup.hear(claim);
        backup.pass(ms(1));
        assert_eq!(backup.state() == State::Backup, delays, "{claim:?}");
    }
}

#[test]
fn a_claim_keeps_the_vip_in_place_while_no_advert_is_heard() {
    let mut backup = Stage::backup(254);
    backup.pass_hearing(ms(10_000), Claim { priority: 1, ..held(1) });
    assert_eq!(backup.state(), State::Backup);
    assert!(!backup.claim().hears);
}

#[test]
fn resigned_is_taken_at_once() {
    let mut backup = Stage::backup(1);
    backup.hear(held(3));
    backup.pass(ms(5));
    backup.hear(Claim { standing: Standing::Resigned, fitness: Fitness::Cannot, term: 3, ..claim() });
    assert_eq!((backup.state(), backup.router.why(), backup.router.term()), (State::Master, &Why::Released, 4));
    assert_eq!(backup.said()[..2], [advert(1), Output::Hold]);
}

#[test]
fn a_resignation_of_an_earlier_term_is_history() {
    let mut backup = Stage::backup(100);
    backup.hear(held(3));
    backup.hear(Claim { standing: Standing::Resigned, term: 2, ..claim() });
    assert_eq!(backup.state(), State::Backup);
}

#[test]
fn priority_0_is_taken_at_once_from_the_peer_and_after_the_skew_from_a_stranger() {
    let mut backup = Stage::backup(100);
    backup.hear(held(3));
    backup.advert(THEM, 100);
    backup.advert(THEM, 0);
    assert_eq!((backup.state(), backup.router.why()), (State::Master, &Why::Released));

    let mut backup = Stage::backup(100);
    backup.hear(claim());
    backup.advert(STRANGER, 100);
    backup.advert(STRANGER, 0);
    let skew = backup.down() - INTERVAL * 3;
    backup.pass(skew - ms(1));
    assert_eq!(backup.state(), State::Backup);
    backup.pass(ms(1));
    assert_eq!((backup.state(), backup.router.why()), (State::Master, &Why::Released));
}

#[test]
fn a_router_that_cannot_take_part_takes_nothing() {
    for claim in [Claim { standing: Standing::Resigned, term: 3, ..claim() }, held(3), claim()] {
        let mut stage = Stage::backup(100);
        stage.tell(Input::Serving(false));
        stage.hear(claim);
        stage.tell(Input::TakeOver);
        stage.pass(ms(2000));
        assert_eq!(stage.state(), State::Fault);
        assert_eq!(stage.said(), []);
    }
}

/// The other one was the last to hold it, and may not come back with a claim that outranks ours.
#[test]
fn a_holder_that_learns_of_a_later_term_which_nobody_holds_raises_its_own() {
    let mut holder = Stage::holder(100, 2);
    holder.hear(Claim { term: 5, ..claim() });
    assert_eq!((holder.state(), holder.claim().term), (State::Master, 6));
    holder.hear(Claim { term: 6, ..claim() });
    assert_eq!(holder.claim().term, 6, "and stays there");
}

#[test]
fn a_claim_lists_what_a_node_is_and_sees() {
    let mut stage = Stage::backup(120);
    stage.hear(held(4));
    let standby = stage.claim();
    let expected = Claim { term: 4, priority: 120, source: Some(US), hears: false, ..claim() };
    assert_eq!(standby, expected);
    stage.advert(THEM, 100);
    assert_eq!(stage.claim(), Claim { hears: true, ..expected });
    stage.tell(Input::Lan(Lan::Hosts));
    stage.tell(Input::Weakened(true));
    assert_eq!(stage.claim(), Claim { hears: true, lan: Lan::Hosts, fitness: Fitness::Weakened, ..expected });
    stage.tell(Input::Serving(false));
    let claim = stage.claim();
    assert_eq!(claim, Claim { hears: true, lan: Lan::Hosts, fitness: Fitness::Cannot, ..expected });
    assert_eq!((claim.address, claim.vrid), (VIP, config(1).vrid.get()));
}

#[test]
fn the_claim_of_a_holder_tells_how_old_its_lease_and_its_takeover_are() {
    let holder = Stage::holder(120, 3);
    let Standing::Held { age, .. } = holder.claim().standing else { panic!("it holds the VIP") };
    assert_eq!(age, 1000);
    // The kernel says nothing from here on.
    let at = holder.now + ms(70);
    let claim = holder.router.claim(at);
    assert_eq!(claim.standing, Standing::Held { renewed: 70, age: 1070 });
    assert_eq!((claim.term, claim.hears), (3, true), "a holder has no adverts to hear");
}

#[test]
fn a_claim_that_has_aged_for_a_down_interval_counts_no_more() {
    let mut backup = Stage::backup(100);
    backup.hear(claim());
    let down = backup.down();
    assert!(backup.router.peer(backup.now + down).is_some());
    let later = backup.now + ms(400);
    assert!(backup.router.peer(later).is_none());
    assert_eq!(backup.router.last_claim(later), Some((claim(), ms(400))), "but is remembered");
}

/// A term is never handed out twice, nor does it begin anew.
#[test]
fn the_last_of_all_terms_is_no_panic() {
    let mut backup = Stage::backup(100);
    backup.hear(Claim { term: u64::MAX, standing: Standing::Resigned, ..claim() });
    assert_eq!((backup.state(), backup.router.term()), (State::Master, u64::MAX));
    let mut holder = Stage::holder(100, 2);
    holder.hear(Claim { term: u64::MAX, ..claim() });
    assert_eq!((holder.state(), holder.claim().term), (State::Master, u64::MAX));
    holder.tell(Input::Yield(true));
    holder.tell(Input::LetGo);
    assert_eq!((holder.state(), holder.router.term()), (State::Backup, u64::MAX));
}
