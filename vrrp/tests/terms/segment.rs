//! What the holder makes of a peer that does not hear its adverts.

use std::time::Duration;

use vrrp::event::{Applied, Input, Output, State, Why};
use vrrp::heartbeat::{Claim, Fitness, Lan, Standing};

use crate::stage::{INTERVAL, Stage, advert, claim, ms};

/// For how long the peer has to see more before a holder believes it, beside a down interval.
const DEAF: Duration = Duration::from_millis(700);

/// A standby that hears no adverts and sees this of the segment.
fn deaf(lan: Lan) -> Claim {
    Claim { term: 1, hears: false, lan, ..claim() }
}

fn holder(lan: Lan) -> Stage {
    let mut holder = Stage::holder(100, 1);
    holder.tell(Input::Lan(lan));
    holder
}

#[test]
fn a_peer_that_is_deaf_and_sees_more_for_long_enough_gets_the_vip() {
    let mut holder = holder(Lan::Silent);
    let long_enough = DEAF + holder.down();
    holder.pass_hearing(long_enough, deaf(Lan::Hosts));
    assert_eq!(holder.state(), State::Master);
    holder.said();
    holder.pass_hearing(INTERVAL * 2, deaf(Lan::Hosts));
    assert_eq!(holder.router.why(), &Why::SeesLess { lan: Lan::Silent, peer: Lan::Hosts });
    assert_eq!((holder.state(), holder.claim().standing), (State::Backup, Standing::Free));
    let said = holder.said();
    assert!(said.contains(&Output::Release { taken: true }));
    assert!(!said.contains(&advert(0)), "the peer hears of it when the addresses are gone");
    holder.tell(Input::Vip(Applied::Absent));
    assert_eq!(holder.claim().standing, Standing::Resigned);
}

#[test]
fn nothing_moves_when_both_see_the_same_or_the_holder_more() {
    for (ours, theirs) in [
        (Lan::Gateway, Lan::Gateway),
        (Lan::Hosts, Lan::Hosts),
        (Lan::Silent, Lan::Silent),
        (Lan::Gateway, Lan::Silent),
        (Lan::Hosts, Lan::Silent),
    ] {
        let mut holder = holder(ours);
        holder.pass_hearing(ms(20_000), deaf(theirs));
        assert_eq!(holder.state(), State::Master, "we see {ours:?}, the peer {theirs:?}");
    }
}

#[test]
fn nothing_moves_to_a_peer_that_hears_us_or_cannot_serve() {
    for claim in [Claim { hears: true, ..deaf(Lan::Gateway) }, Claim { fitness: Fitness::Cannot, ..deaf(Lan::Gateway) }]
    {
        let mut holder = holder(Lan::Silent);
        holder.pass_hearing(ms(20_000), claim);
        assert_eq!(holder.state(), State::Master, "{claim:?}");
    }
}

#[test]
fn the_time_begins_anew_when_the_peer_hears_us_in_between() {
    let mut holder = holder(Lan::Silent);
    for _ in 0..10 {
        holder.pass_hearing(DEAF, deaf(Lan::Gateway));
        holder.hear(Claim { hears: true, ..deaf(Lan::Gateway) });
    }
    assert_eq!(holder.state(), State::Master);
}

/// What was said before a silence is no beginning: nobody knows what was seen meanwhile.
#[test]
fn the_time_begins_anew_after_the_peer_was_silent() {
    let mut holder = holder(Lan::Silent);
    holder.hear(deaf(Lan::Gateway));
    holder.pass(ms(60_000));
    holder.hear(deaf(Lan::Gateway));
    assert_eq!(holder.state(), State::Master);
    holder.pass_hearing(DEAF + holder.down() + INTERVAL * 2, deaf(Lan::Gateway));
    assert_eq!(holder.state(), State::Backup);
}
