//! Both nodes hold the VIP: they took it apart from each other, and meet.

use std::time::Duration;

use vrrp::event::{Advert, Input, Note, State};
use vrrp::heartbeat::{Claim, Standing, Term};
use vrrp::types::Interval;

use crate::stage::{INTERVAL, STRANGER, Stage, THEM, US, advert, claim, heard, held, ms};

/// What one of two says to the other.
#[derive(Clone, Copy, Debug)]
enum Letter {
    Advert,
    Heartbeat,
}

/// Two routers, and what connects them.
struct Both {
    nodes: [Stage; 2],
    /// Adverts and heartbeats of each arrive.
    adverts: [bool; 2],
    heartbeats: [bool; 2],
}

const SOURCES: [std::net::Ipv4Addr; 2] = [US, THEM];

impl Both {
    /// Both hold the VIP, in these terms and with these priorities.
    fn apart(terms: [Term; 2], priorities: [i64; 2]) -> Both {
        let node = |index: usize| {
            Stage::backup_at(SOURCES[index], priorities[index]).holding(terms[index], SOURCES[1 - index])
        };
        Both { nodes: [node(0), node(1)], adverts: [true; 2], heartbeats: [true; 2] }
    }

    fn deliver(&mut self, from: usize, letter: Letter) {
        let (sender, source) = (&self.nodes[from], SOURCES[from]);
        match letter {
            Letter::Advert if self.adverts[from] => {
                let priority = sender.router.config().priority.get();
                self.nodes[1 - from].advert(source, priority);
            }
            Letter::Heartbeat if self.heartbeats[from] => {
                let claim = sender.claim();
                self.nodes[1 - from].hear(claim);
            }
            Letter::Advert | Letter::Heartbeat => {}
        }
    }

    fn masters(&self) -> Vec<usize> {
        (0..2).filter(|&index| self.nodes[index].state() == State::Master).collect()
    }

    /// Time goes by; at each interval everybody speaks.
    fn pass(&mut self, length: Duration) {
        let intervals = length.as_millis() / INTERVAL.as_millis();
        for _ in 0..intervals {
            for from in 0..2 {
                self.deliver(from, Letter::Heartbeat);
                if self.nodes[from].state() == State::Master {
                    self.deliver(from, Letter::Advert);
                }
                assert!(!self.masters().is_empty(), "nobody has the VIP");
            }
            for node in &mut self.nodes {
                node.pass(INTERVAL);
            }
            assert!(!self.masters().is_empty(), "nobody has the VIP");
        }
    }
}

/// Every order of these.
fn orders<T: Copy>(letters: &[T]) -> Vec<Vec<T>> {
    if letters.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (index, first) in letters.iter().enumerate() {
        let rest: Vec<T> = letters.iter().enumerate().filter(|(i, _)| *i != index).map(|(_, letter)| *letter).collect();
        all.extend(orders(&rest).into_iter().map(|rest| [vec![*first], rest].concat()));
    }
    all
}

#[test]
fn when_they_meet_the_lower_term_steps_down_whatever_arrives_first_and_nobody_is_without() {
    use Letter::{Advert, Heartbeat};
    for priorities in [[100, 200], [200, 100], [100, 100]] {
        for terms in [[1, 2], [9, 2], [3, 3]] {
            let wins = if terms[0] == terms[1] { priorities[0] > priorities[1] } else { terms[0] > terms[1] };
            for order in orders(&[(0, Advert), (0, Heartbeat), (1, Advert), (1, Heartbeat)]) {
                let mut both = Both::apart(terms, priorities);
                for &(from, letter) in &order {
                    both.deliver(from, letter);
                    assert!(!both.masters().is_empty(), "{terms:?} {priorities:?} {order:?}: nobody has the VIP");
                }
                both.pass(ms(2000));
                let expected = vec![if wins { 0 } else { 1 }];
                assert_eq!(both.masters(), expected, "{terms:?} {priorities:?} {order:?}");
            }
        }
    }
}

/// Neither of a standby, whose adverts are late ones, nor of one that has not heard of the higher term yet.
#[test]
fn adverts_of_the_peer_decide_nothing_while_its_heartbeats_come() {
    for claim in [Claim { term: 5, ..claim() }, held(4)] {
        let mut holder = Stage::holder(100, 5);
        for _ in 0..30 {
            holder.hear(claim);
            holder.advert(THEM, 254);
            holder.pass(INTERVAL);
        }
        assert_eq!(holder.state(), State::Master);
    }
}

#[test]
fn adverts_of_a_stranger_decide_all_the_same() {
    let mut holder = Stage::holder(100, 5);
    holder.hear(held(4));
    holder.advert(STRANGER, 254);
    assert_eq!(holder.state(), State::Backup);
}

/// Heartbeats are gone, on every path, and adverts are not.
#[test]
fn after_a_down_interval_without_heartbeats_priorities_decide() {
    for (priority, stays) in [(99, true), (100, false), (254, false)] {
        let mut holder = Stage::holder(100, 5);
        holder.hear(Claim { priority, ..held(4) });
        let silent = holder.down();
        let mut passed = Duration::ZERO;
        // The claim ages first, then the contest runs.
        while passed < silent * 2 - INTERVAL {
            holder.advert(THEM, priority);
            assert_eq!(holder.state(), State::Master, "after {passed:?}");
            holder.pass(INTERVAL);
            passed += INTERVAL;
        }
        holder.pass(INTERVAL * 2);
        holder.advert(THEM, priority);
        assert_eq!(holder.state() == State::Master, stays, "against {priority}");
    }
}

/// The nodes were configured differently: an interval there is longer than a down interval here.
#[test]
fn priorities_decide_too_where_the_peer_advertises_rarely() {
    let mut holder = Stage::holder(100, 5);
    let interval = Interval::try_from(ms(1000)).expect("in range");
    for _ in 0..2 {
        assert_eq!(holder.state(), State::Master);
        holder.tell(Input::Advert(Advert { interval, ..heard(THEM, 254) }));
        holder.pass(ms(1000));
    }
    assert_eq!(holder.state(), State::Backup);
}

/// An advert that got through once, an hour ago, has begun nothing.
#[test]
fn a_stray_advert_does_not_shorten_the_wait_for_heartbeats() {
    let mut holder = Stage::holder(100, 5);
    holder.hear(held(4));
    holder.pass(ms(5000));
    holder.advert(THEM, 254);
    holder.pass(ms(60_000));
    holder.advert(THEM, 254);
    assert_eq!(holder.state(), State::Master);
    holder.hear(held(4));
    assert_eq!(holder.state(), State::Master);
}

/// One of them has a firewall that lets no heartbeat in: it cannot know that its term is the lower one.
#[test]
fn one_remains_even_where_heartbeats_arrive_one_way_only() {
    for deaf in [0, 1] {
        for terms in [[1, 2], [2, 1]] {
            for priorities in [[100, 200], [200, 100]] {
                let mut both = Both::apart(terms, priorities);
                both.heartbeats[1 - deaf] = false;
                both.pass(ms(20_000));
                assert_eq!(both.masters().len(), 1, "{deaf} hears none, terms {terms:?}, priorities {priorities:?}");
            }
        }
    }
}

#[test]
fn one_remains_where_no_advert_arrives() {
    for terms in [[1, 2], [2, 1]] {
        let mut both = Both::apart(terms, [100, 200]);
        both.adverts = [false; 2];
        both.pass(ms(2000));
        assert_eq!(both.masters(), [if terms[0] > terms[1] { 0 } else { 1 }]);
    }
}

/// The winner has held it for six seconds, the loser for five: both held it for five.
#[test]
fn both_sides_note_that_there_were_two_and_for_how_long() {
    let since = |age| Standing::Held { renewed: 10, age };
    for (ours, theirs, both) in [(6000, 5000, 5000), (5000, 6000, 5000)] {
        let noted = |length| vec![Note::DualActive { other: THEM, length: Some(ms(length)) }];
        let mut winner = Stage::holder(100, 5);
        winner.pass(ms(ours - 1000));
        winner.said();
        winner.hear(Claim { standing: since(theirs), ..held(4) });
        assert_eq!(winner.noted(), noted(both), "the winner, ours {ours}");
        let mut loser = Stage::holder(100, 5);
        loser.pass(ms(ours - 1000));
        loser.said();
        loser.hear(Claim { standing: since(theirs), ..held(6) });
        assert_eq!(loser.noted(), noted(both), "the loser, ours {ours}");
    }
}

#[test]
fn the_winner_notes_a_rival_once_and_announces_the_addresses_again() {
    let mut winner = Stage::holder(100, 5);
    winner.hear(held(4));
    assert_eq!(winner.announced(), 1);
    winner.pass_hearing(ms(300), held(4));
    assert_eq!(winner.noted(), []);
    assert_eq!(winner.state(), State::Master);
}

/// Unheard, it may have taken the VIP, told so, died, and know nothing of it now.
#[test]
fn a_holder_announces_the_addresses_again_when_a_peer_that_was_silent_is_heard_and_only_then() {
    for (silent, announced) in [(ms(100), 0), (Stage::holder(100, 5).down() + ms(1), 1), (ms(60_000), 1)] {
        let mut holder = Stage::holder(100, 5);
        holder.pass_hearing(ms(10_000), claim());
        holder.pass(silent);
        holder.announced();
        holder.hear(claim());
        assert_eq!(holder.announced(), announced, "after {silent:?}");
    }
    let mut met = Stage::holder(100, 5);
    met.hear(claim());
    assert_eq!(met.announced(), 1, "one that was never heard before");
}

#[test]
fn the_loser_leaves_without_a_word() {
    let mut loser = Stage::holder(254, 5);
    loser.hear(held(6));
    let said = loser.said();
    assert!(!said.contains(&advert(0)) && !said.contains(&advert(254)), "{said:?}");
}
