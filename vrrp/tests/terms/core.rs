//! What a holder does that cannot serve any more: give the VIP to a peer that can, and to nobody that cannot.

use vrrp::event::{Fault, Input, Note, Output, State, Why};
use vrrp::heartbeat::{Claim, Fitness, Lan, Standing};
use vrrp::types::Time;

use crate::stage::{STRANGER, Stage, THEM, US, advert, claim, config, held, ms};

/// A holder in term 2, priority 100, that has just heard this.
fn holder(claim: Claim) -> Stage {
    let mut holder = Stage::holder(100, 2);
    holder.hear(claim);
    holder.said();
    holder
}

#[test]
fn a_core_that_dies_resigns_when_the_peer_could_serve() {
    for fitness in [Fitness::Fit, Fitness::Weakened] {
        let mut holder = holder(Claim { fitness, term: 2, ..claim() });
        holder.tell(Input::Serving(false));
        assert_eq!((holder.state(), holder.router.why()), (State::Fault, &Why::NotServing));
        assert_eq!(holder.said(), [advert(0), Output::Release { taken: true }]);
        let claim = holder.claim();
        assert_eq!((claim.standing, claim.term, claim.fitness), (Standing::Resigned, 2, Fitness::Cannot));
    }
}

#[test]
fn a_core_that_dies_keeps_the_vip_and_offers_nothing_when_the_peer_cannot_serve_either() {
    let unfit = Claim { fitness: Fitness::Cannot, term: 2, ..claim() };
    let mut holder = holder(unfit);
    holder.tell(Input::Serving(false));
    assert_eq!(holder.said(), [Output::Note(Note::OfferNotTaken)]);
    holder.pass_hearing(ms(10_000), unfit);
    assert_eq!((holder.state(), holder.router.offering()), (State::Master, false));
    let said = holder.said();
    assert!(said.iter().all(|output| *output == advert(100)), "adverts and nothing else: {said:?}");
    assert_eq!(said.len(), 100, "one each interval");
}

#[test]
fn a_core_that_dies_offers_the_vip_when_the_peer_is_silent() {
    let mut holder = Stage::holder(100, 1);
    holder.tell(Input::Serving(false));
    assert!(holder.router.offering());
    assert_eq!(holder.said(), [advert(0)]);
    assert_eq!(holder.state(), State::Master);
}

#[test]
fn a_claim_from_before_the_last_down_interval_is_as_good_as_silence() {
    let mut holder = holder(claim());
    holder.pass(holder.down() + ms(1));
    holder.said();
    holder.tell(Input::Serving(false));
    assert!(holder.router.offering());
}

#[test]
fn a_holder_that_cannot_serve_resigns_as_soon_as_the_peer_could() {
    let unfit = Claim { fitness: Fitness::Cannot, term: 2, ..claim() };
    let mut holder = holder(unfit);
    holder.tell(Input::Serving(false));
    holder.pass_hearing(ms(300), unfit);
    holder.said();
    holder.hear(Claim { fitness: Fitness::Fit, ..unfit });
    assert_eq!(holder.said(), [advert(0), Output::Release { taken: true }]);
    assert_eq!((holder.state(), holder.claim().standing), (State::Fault, Standing::Resigned));
}

#[test]
fn an_offer_ends_in_a_resignation_when_a_fit_peer_is_heard() {
    let mut holder = Stage::holder(100, 1);
    holder.tell(Input::Serving(false));
    holder.said();
    holder.hear(Claim { term: 1, ..claim() });
    assert_eq!(holder.said(), [advert(0), Output::Release { taken: true }]);
    assert_eq!(holder.state(), State::Fault);
}

/// It was started anew and took the offer in a lower term; when it hears of ours it steps down again, and has to know
/// that it may have the VIP all the same.
#[test]
fn a_peer_that_took_the_offer_is_told_that_the_vip_is_its_own() {
    let mut holder = Stage::holder(100, 5);
    holder.tell(Input::Serving(false));
    holder.advert(THEM, 100);
    assert_eq!((holder.state(), holder.claim().standing), (State::Fault, Standing::Resigned));
    let mut stranger = Stage::holder(100, 5);
    stranger.tell(Input::Serving(false));
    stranger.advert(STRANGER, 100);
    assert_eq!((stranger.state(), stranger.claim().standing), (State::Fault, Standing::Free));
}

#[test]
fn a_peer_on_a_dead_segment_is_not_resigned_to() {
    for (ours, theirs, resigns) in [
        (Lan::Gateway, Lan::Gateway, true),
        (Lan::Gateway, Lan::Hosts, true),
        (Lan::Gateway, Lan::Silent, false),
        (Lan::Gateway, Lan::Down, false),
        (Lan::Hosts, Lan::Silent, false),
        // There it would be no worse than here.
        (Lan::Silent, Lan::Silent, true),
        (Lan::Silent, Lan::Down, false),
        (Lan::Down, Lan::Down, true),
    ] {
        let mut holder = holder(Claim { lan: theirs, term: 2, ..claim() });
        holder.tell(Input::Lan(ours));
        holder.tell(Input::Serving(false));
        assert_eq!(holder.state() == State::Fault, resigns, "we see {ours:?}, the peer {theirs:?}");
    }
}

#[test]
fn faults_and_a_shutdown_tell_that_the_vip_is_there_to_be_taken() {
    for (claim, taken) in [(claim(), true), (Claim { fitness: Fitness::Cannot, ..claim() }, false)] {
        let shutdown = (Input::Shutdown, State::Init, Why::Shutdown);
        let fault = |fault| (Input::Fault(fault, true), State::Fault, Why::Faulty(fault));
        let source = (Input::Source(None), State::Fault, Why::Faulty(Fault::NoSourceAddress));
        for (input, state, why) in [shutdown, fault(Fault::Maintenance), fault(Fault::LinkDown), source] {
            let mut holder = holder(Claim { term: 2, ..claim });
            holder.tell(input);
            assert_eq!((holder.state(), holder.router.why()), (state, &why));
            assert_eq!(holder.said(), [advert(0), Output::Release { taken }], "{why:?}");
            assert_eq!((holder.claim().standing, holder.claim().term), (Standing::Resigned, 2), "{why:?}");
        }
    }
}

#[test]
fn a_backup_that_leaves_has_nothing_to_resign() {
    for input in [Input::Shutdown, Input::Fault(Fault::Maintenance, true), Input::Serving(false)] {
        let mut backup = Stage::backup(100);
        backup.hear(held(2));
        backup.tell(input);
        assert_eq!(backup.claim().standing, Standing::Free);
    }
}

#[test]
fn a_lease_that_is_not_renewed_is_a_resignation() {
    let mut holder = holder(Claim { term: 2, ..claim() });
    // From here on the kernel is silent.
    let lapsed = Time(0) + (holder.now - Time(0)) + ms(1000);
    let mut at = holder.now;
    while at < lapsed {
        at = at + ms(10);
        holder.router.handle_timeout(at);
    }
    assert_eq!(holder.router.why(), &Why::Faulty(Fault::LeaseNotRenewed));
    assert_eq!(holder.router.claim(at).standing, Standing::Resigned);
}

#[test]
fn resigned_is_said_until_the_peer_holds_the_vip_or_we_do_again() {
    let mut first = holder(Claim { term: 2, ..claim() });
    first.tell(Input::Serving(false));
    first.hear(Claim { term: 2, ..claim() });
    first.hear(Claim { term: 1, standing: held(1).standing, ..claim() });
    assert_eq!(first.claim().standing, Standing::Resigned, "neither a standby nor a holder of an older term took it");
    first.hear(held(3));
    assert_eq!((first.claim().standing, first.claim().term), (Standing::Free, 3));

    let mut again = holder(Claim { term: 2, ..claim() });
    again.tell(Input::Fault(Fault::Maintenance, true));
    again.tell(Input::Fault(Fault::Maintenance, false));
    assert_eq!((again.state(), again.claim().standing), (State::Backup, Standing::Resigned));
    again.pass(again.down());
    assert_eq!((again.state(), again.claim().term), (State::Master, 3));
}

#[test]
fn weakened_is_told_and_moves_nothing() {
    let mut holder = holder(Claim { term: 2, ..claim() });
    holder.tell(Input::Weakened(true));
    holder.pass_hearing(ms(5000), Claim { term: 2, ..claim() });
    assert_eq!((holder.state(), holder.claim().fitness), (State::Master, Fitness::Weakened));
    assert_eq!(holder.claim().source, Some(US));
    holder.tell(Input::Weakened(false));
    assert_eq!(holder.claim().fitness, Fitness::Fit);
    assert_eq!(holder.router.config(), &config(100));
}

/// Both cores died within milliseconds: the holder resigned, and the peer could not take it any more.
#[test]
fn whose_core_is_back_first_takes_what_nobody_has_at_once() {
    let mut resigned = holder(Claim { term: 2, ..claim() });
    resigned.tell(Input::Serving(false));
    resigned.hear(Claim { fitness: Fitness::Cannot, term: 2, ..claim() });
    resigned.tell(Input::Serving(true));
    assert_eq!((resigned.state(), resigned.claim().term), (State::Master, 3));

    let mut other = Stage::backup(100);
    other.tell(Input::Serving(false));
    other.hear(Claim { standing: Standing::Resigned, fitness: Fitness::Cannot, term: 2, ..claim() });
    assert_eq!(other.state(), State::Fault);
    other.tell(Input::Serving(true));
    assert_eq!((other.state(), other.claim().term), (State::Master, 3));
}

#[test]
fn who_resigned_waits_for_a_peer_that_can_serve() {
    let mut resigned = holder(Claim { term: 2, ..claim() });
    resigned.tell(Input::Serving(false));
    resigned.tell(Input::Serving(true));
    assert_eq!(resigned.state(), State::Backup, "the peer may be half-way through its takeover");
}
