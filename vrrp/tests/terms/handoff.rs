//! The steps of a hand-off, as a router is told them.

use vrrp::event::{Applied, Fault, Input, Output, State, Why};
use vrrp::heartbeat::{Claim, Fitness, Standing};

use crate::stage::{STRANGER, Stage, THEM, VIP, advert, claim, config, held, ms};

/// For how long a hand-off may last at the old holder.
const YIELD: u64 = 3000;

/// The old holder in term 4, in the middle of a hand-off: the peer has taken over.
fn superseded() -> Stage {
    let mut old = Stage::holder(100, 4);
    old.hear(Claim { term: 4, ..claim() });
    old.tell(Input::Yield(true));
    old.hear(held(5));
    old.said();
    assert!(old.router.superseded());
    old
}

#[test]
fn who_yields_goes_on_until_the_peer_has_taken_over() {
    let mut old = Stage::holder(100, 4);
    old.tell(Input::Yield(true));
    old.pass_hearing(ms(1000), Claim { term: 4, ..claim() });
    assert_eq!(old.said(), vec![advert(100); 10]);
    assert!(!old.router.superseded());
}

#[test]
fn who_yields_answers_no_claim_for_the_new_holder_may_announce_before_its_heartbeat_arrives() {
    let mut old = Stage::holder(100, 4);
    old.tell(Input::Yield(true));
    old.tell(Input::Claimed { address: VIP, mac: [2; 6] });
    assert_eq!(old.announced(), 0);
    old.tell(Input::Yield(false));
    old.tell(Input::Claimed { address: VIP, mac: [2; 6] });
    assert_eq!(old.announced(), 1);
}

#[test]
fn who_yields_keeps_the_addresses_in_silence_after_the_peer_took_over() {
    let mut old = superseded();
    old.pass_hearing(ms(2000), held(5));
    assert_eq!((old.state(), old.said()), (State::Master, vec![]));
    assert_eq!(old.announced(), 0);
}

/// Not even when something happens that an active router answers.
#[test]
fn who_was_superseded_neither_advertises_nor_announces_whatever_happens() {
    let inputs = [
        ("another priority", vec![Input::Configure(config(120))]),
        ("a claim by ARP", vec![Input::Claimed { address: VIP, mac: [2; 6] }]),
        ("removed and put back", vec![Input::Vip(Applied::Removed), Input::Vip(Applied::Present)]),
        ("announce again", vec![Input::AnnounceAgain]),
        ("a dead core", vec![Input::Serving(false)]),
    ];
    for (what, inputs) in inputs {
        let mut old = superseded();
        for input in inputs {
            old.tell(input);
        }
        old.advert(THEM, 1);
        old.advert(STRANGER, 1);
        old.pass_hearing(ms(2000), held(5));
        assert_eq!(old.state(), State::Master, "{what}");
        let said: Vec<Output> = old.said();
        assert!(!said.iter().any(|output| matches!(output, Output::Advert { .. })), "{what}: {said:?}");
    }
    for input in [Input::Claimed { address: VIP, mac: [2; 6] }, Input::Vip(Applied::Removed), Input::AnnounceAgain] {
        let mut old = superseded();
        old.announced();
        old.tell(input.clone());
        old.pass_hearing(ms(2000), held(5));
        assert_eq!(old.announced(), 0, "{input:?}");
    }
}

/// It could not serve when the hand-off began, and was waiting to offer the VIP, or offering it.
#[test]
fn a_hand_off_ends_an_offer() {
    for waits in [0, 600] {
        let mut old = Stage::holder(100, 4);
        old.tell(Input::Serving(false));
        old.pass(ms(waits));
        old.tell(Input::Yield(true));
        old.said();
        old.hear(held(5));
        assert!(old.router.superseded(), "after {waits} ms");
        old.pass_hearing(ms(2500), held(5));
        assert_eq!((old.state(), old.said()), (State::Master, vec![]), "after {waits} ms");
        assert!(!old.router.offering());
    }
}

#[test]
fn let_go_releases_without_priority_0() {
    let mut old = superseded();
    old.tell(Input::LetGo);
    assert_eq!((old.state(), old.router.why()), (State::Backup, &Why::HandedOver));
    assert_eq!(old.said(), [Output::Release { taken: false }], "its connections live on");
    assert_eq!((old.claim().standing, old.claim().term), (Standing::Free, 5));
}

#[test]
fn let_go_may_come_before_the_heartbeat_of_the_new_holder() {
    let mut old = Stage::holder(100, 4);
    old.tell(Input::Yield(true));
    old.tell(Input::LetGo);
    assert_eq!((old.state(), old.router.term()), (State::Backup, 5));
    assert_eq!(old.said(), [Output::Release { taken: false }]);
    old.hear(held(5));
    assert_eq!(old.state(), State::Backup);
}

#[test]
fn let_go_without_a_hand_off_is_nothing() {
    let mut holder = Stage::holder(100, 4);
    holder.tell(Input::LetGo);
    let mut backup = Stage::backup(100);
    backup.tell(Input::LetGo);
    assert_eq!((holder.state(), holder.said()), (State::Master, vec![]));
    assert_eq!((backup.state(), backup.said()), (State::Backup, vec![]));
}

#[test]
fn a_hand_off_that_takes_too_long_ends_by_itself() {
    let mut taken = Stage::holder(100, 4);
    taken.tell(Input::Yield(true));
    taken.hear(held(5));
    taken.pass_hearing(ms(YIELD - 1), held(5));
    assert_eq!(taken.state(), State::Master);
    taken.pass_hearing(ms(1), held(5));
    assert_eq!((taken.state(), taken.router.why()), (State::Backup, &Why::Superseded { term: 5 }));
    assert_eq!(taken.said(), [Output::Release { taken: true }]);

    let mut kept = Stage::holder(100, 4);
    kept.tell(Input::Yield(true));
    kept.pass_hearing(ms(YIELD), Claim { term: 4, ..claim() });
    assert_eq!(kept.state(), State::Master);
    kept.said();
    kept.hear(held(5));
    assert_eq!(kept.state(), State::Backup, "it yields no longer");
}

#[test]
fn a_hand_off_that_was_called_off_leaves_the_vip_with_the_higher_term() {
    let mut kept = Stage::holder(100, 4);
    kept.tell(Input::Yield(true));
    kept.tell(Input::Yield(false));
    kept.pass_hearing(ms(YIELD + 1000), Claim { term: 4, ..claim() });
    assert_eq!(kept.said(), vec![advert(100); 40]);

    let mut taken = superseded();
    taken.tell(Input::Yield(false));
    assert_eq!((taken.state(), taken.router.why()), (State::Backup, &Why::Superseded { term: 5 }));
    assert_eq!(taken.said(), [Output::Release { taken: true }]);
}

#[test]
fn taking_over_is_for_a_backup_only() {
    let mut backup = Stage::backup(100);
    backup.hear(held(4));
    backup.tell(Input::TakeOver);
    assert_eq!((backup.state(), backup.router.why()), (State::Master, &Why::HandedOver));
    assert_eq!((backup.claim().term, backup.said()), (5, vec![advert(100), Output::Hold]));

    let mut holder = Stage::holder(100, 4);
    holder.tell(Input::TakeOver);
    assert_eq!((holder.claim().term, holder.said()), (4, vec![]));
    let mut fault = Stage::backup(100);
    fault.tell(Input::Fault(Fault::Maintenance, true));
    fault.tell(Input::TakeOver);
    assert_eq!((fault.state(), fault.said()), (State::Fault, vec![]));
}

#[test]
fn the_new_holder_takes_the_old_one_for_no_rival_while_it_yields() {
    let mut new = Stage::backup(100);
    new.hear(held(4));
    new.tell(Input::TakeOver);
    new.said();
    new.pass_hearing(ms(1000), held(4));
    assert_eq!((new.noted(), new.router.superseded()), (vec![], false));
    assert_eq!(new.state(), State::Master);
}

#[test]
fn what_the_new_holder_is_told_to_announce_again_it_announces_from_the_beginning() {
    let mut new = Stage::backup(100);
    new.hear(held(4));
    new.tell(Input::TakeOver);
    new.pass(ms(1000));
    assert_eq!(new.announced(), 5);
    new.tell(Input::AnnounceAgain);
    new.pass(ms(1000));
    assert_eq!(new.announced(), 5);
    new.pass(ms(4500));
    assert_eq!(new.announced(), 5, "the second burst");
    let mut backup = Stage::backup(100);
    backup.tell(Input::AnnounceAgain);
    assert_eq!(backup.announced(), 0);
}

/// It died, or gave the VIP up for a reason of its own.
#[test]
fn a_new_holder_that_is_gone_before_the_hand_off_is_over_leaves_the_vip_where_the_addresses_are() {
    let mut silent = superseded();
    silent.pass(silent.down());
    let mut resigned = superseded();
    resigned.hear(Claim { standing: Standing::Resigned, term: 5, fitness: Fitness::Cannot, ..claim() });
    let mut released = superseded();
    released.advert(THEM, 0);
    for mut old in [silent, resigned, released] {
        assert_eq!((old.state(), old.router.superseded(), old.claim().term), (State::Master, false, 6));
        assert_eq!(old.said(), [advert(100)]);
        old.pass_hearing(ms(5000), Claim { term: 6, ..claim() });
        assert_eq!((old.state(), old.said()), (State::Master, vec![advert(100); 50]));
    }
}

#[test]
fn a_new_holder_is_there_while_its_heartbeats_or_its_adverts_come() {
    for advertises in [true, false] {
        let mut old = superseded();
        for _ in 0..25 {
            if advertises {
                old.advert(THEM, 100)
            } else {
                old.hear(held(5))
            }
            old.advert(STRANGER, 0);
            old.pass(ms(100));
        }
        assert!(old.router.superseded());
    }
}

#[test]
fn a_fault_in_the_middle_of_a_hand_off_lets_go_of_what_is_taken() {
    let mut old = superseded();
    old.tell(Input::Fault(Fault::LinkDown, true));
    assert_eq!(old.state(), State::Fault);
    assert!(old.said().contains(&Output::Release { taken: true }));
}

#[test]
fn a_core_that_dies_before_the_peer_took_over_ends_the_hand_off_in_a_resignation() {
    let mut old = Stage::holder(100, 4);
    old.hear(Claim { term: 4, ..claim() });
    old.tell(Input::Yield(true));
    old.tell(Input::Serving(false));
    assert_eq!(old.said(), [advert(0), Output::Release { taken: true }]);
    assert_eq!(old.claim().standing, Standing::Resigned);
}
