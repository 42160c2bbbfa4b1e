//! The signed datagrams: what is believed, what is refused and as what, and that no byte of anybody's makes it panic.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use hmac::{Hmac, Mac};
use proptest::prelude::*;
use sha2::Sha256;
use vrrp::heartbeat::{Claim, Fitness, Lan, Standing};
use vrrp::peer::{Keys, MAX_DATAGRAM, Peer, Refused};
use vrrp::types::Time;

const NOW: Time = Time(1_000_000);
/// How long keys are good after newer ones came.
const OLD_KEYS: Duration = Duration::from_secs(10);
/// VIPs in one datagram.
const FULL: usize = 24;
/// What comes before the content: the name and version, the id of the keys, the sequence.
const HEAD: usize = 15;
const TAG: usize = 32;

/// Both ends' keys of one session.
fn session(id: u32) -> (Keys, Keys) {
    let [one, other] = [1, 2].map(|end| [id.to_be_bytes()[3] ^ (end << 4); 32]);
    (Keys { id, send: one, receive: other }, Keys { id, send: other, receive: one })
}

/// Both nodes, on two paths, in session 7.
fn pair() -> (Peer, Peer) {
    let (ours, theirs) = session(7);
    let (mut us, mut them) = (Peer::new(2), Peer::new(2));
    us.rekey(ours, NOW);
    them.rekey(theirs, NOW);
    (us, them)
}

fn claim(vrid: u8) -> Claim {
    Claim {
        address: Ipv4Addr::new(192, 0, 2, vrid),
        vrid,
        term: 5,
        standing: Standing::Held { renewed: 10, age: 5000 },
        fitness: Fitness::Fit,
        priority: 100,
        source: Some(Ipv4Addr::new(192, 0, 2, 1)),
        hears: true,
        lan: Lan::Gateway,
    }
}

/// The claim that takes the most bytes.
fn longest() -> Claim {
    let standing = Standing::Held { renewed: u32::MAX, age: u32::MAX };
    Claim { term: u64::MAX, standing, priority: 254, lan: Lan::Gateway, ..claim(255) }
}

/// The one datagram that tells these.
fn datagram(from: &mut Peer, claims: &[Claim]) -> Vec<u8> {
    let mut datagrams = from.datagrams(claims);
    assert_eq!(datagrams.len(), 1);
    datagrams.remove(0)
}

#[test]
fn what_one_tells_the_other_hears() {
    let (mut us, mut them) = pair();
    for claims in
        [vec![], vec![claim(1)], vec![claim(1), longest(), Claim { standing: Standing::Resigned, ..claim(3) }]]
    {
        let datagram = datagram(&mut us, &claims);
        assert_eq!(them.open(0, &datagram, NOW), Ok(Some(claims)));
    }
}

#[test]
fn without_keys_nothing_is_said_and_nothing_believed() {
    let (mut us, _) = pair();
    let mut nobody = Peer::new(2);
    assert_eq!((nobody.datagrams(&[claim(1)]), nobody.last_words(&[claim(1)]), nobody.sent()), (vec![], vec![], 0));
    assert_eq!(nobody.open(0, &datagram(&mut us, &[claim(1)]), NOW), Err(Refused::UnknownKey(7)));
}

#[test]
fn what_came_over_a_path_once_is_refused_there_and_so_is_what_is_older() {
    let (mut us, mut them) = pair();
    let old = datagram(&mut us, &[claim(1)]);
    let new = datagram(&mut us, &[claim(2)]);
    assert_eq!(them.open(0, &new, NOW), Ok(Some(vec![claim(2)])));
    for _ in 0..2 {
        assert_eq!(them.open(0, &new, NOW), Err(Refused::Replayed));
        assert_eq!(them.open(0, &old, NOW), Err(Refused::Replayed));
    }
}

#[test]
fn the_same_over_another_path_shows_that_the_path_lives_and_is_no_news() {
    let (mut us, mut them) = pair();
    let old = datagram(&mut us, &[claim(1)]);
    let new = datagram(&mut us, &[claim(2)]);
    assert_eq!(them.open(0, &new, NOW), Ok(Some(vec![claim(2)])));
    assert_eq!(them.open(1, &old, NOW), Ok(None), "a slow path");
    assert_eq!(them.open(1, &new, NOW), Ok(None));
    assert_eq!(them.open(1, &new, NOW), Err(Refused::Replayed));
    assert_eq!(them.open(2, &new, NOW), Err(Refused::Foreign), "there is no such path");
}

#[test]
fn a_datagram_with_any_bit_changed_is_refused() {
    let (mut us, mut them) = pair();
    let good = datagram(&mut us, &[claim(1)]);
    for index in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[index] ^= 1 << bit;
            let refused = them.open(0, &bad, NOW).expect_err("it was changed");
            match index {
                0..3 => assert_eq!(refused, Refused::Foreign),
                3..7 => assert!(matches!(refused, Refused::UnknownKey(_)), "{refused:?}"),
                _ => assert_eq!(refused, Refused::Forged),
            }
        }
    }
    assert_eq!(them.open(0, &good, NOW), Ok(Some(vec![claim(1)])), "and the good one is believed after them");
}

#[test]
fn what_is_too_short_too_long_or_another_protocol_is_foreign() {
    let (mut us, mut them) = pair();
    let good = datagram(&mut us, &[claim(1)]);
    for length in 0..HEAD + TAG {
        assert_eq!(them.open(0, &good[..length], NOW), Err(Refused::Foreign), "{length} bytes");
    }
    for length in HEAD + TAG..good.len() {
        assert_eq!(them.open(0, &good[..length], NOW), Err(Refused::Forged), "{length} bytes");
    }
    let mut long = good.clone();
    long.resize(MAX_DATAGRAM, 0);
    assert_eq!(them.open(0, &long, NOW), Err(Refused::Forged));
    long.push(0);
    assert_eq!(them.open(0, &long, NOW), Err(Refused::Foreign));
    let mut later = good;
    later[2] += 1;
    assert_eq!(them.open(0, &later, NOW), Err(Refused::Foreign), "a later version");
}

/// Each direction has a key of its own.
#[test]
fn what_we_said_ourselves_is_forged_when_it_comes_back() {
    let (mut us, _) = pair();
    let own = datagram(&mut us, &[claim(1)]);
    assert_eq!(us.open(0, &own, NOW), Err(Refused::Forged));
}

#[test]
fn old_keys_are_good_for_ten_seconds_and_not_after() {
    let (mut us, mut them) = pair();
    let [first, second, late] = [1, 2, 3].map(|vrid| datagram(&mut us, &[claim(vrid)]));
    them.rekey(session(8).1, NOW);
    assert_eq!(them.open(0, &first, NOW), Ok(Some(vec![claim(1)])));
    let last = Time(NOW.0 - 1) + OLD_KEYS;
    assert_eq!(them.open(0, &second, last), Ok(Some(vec![claim(2)])));
    assert_eq!(them.open(0, &late, NOW + OLD_KEYS), Err(Refused::UnknownKey(7)));
}

#[test]
fn under_old_keys_nothing_is_news_once_something_came_under_new_ones() {
    let (mut us, mut them) = pair();
    let old = datagram(&mut us, &[claim(1)]);
    us.rekey(session(8).0, NOW);
    them.rekey(session(8).1, NOW);
    let new = datagram(&mut us, &[claim(2)]);
    assert_eq!(them.open(0, &new, NOW), Ok(Some(vec![claim(2)])));
    assert_eq!(them.open(0, &old, NOW), Ok(None));
}

#[test]
fn of_three_sessions_the_first_is_forgotten_at_once() {
    let (mut us, mut them) = pair();
    let first = datagram(&mut us, &[claim(1)]);
    for id in [8, 9] {
        them.rekey(session(id).1, NOW);
    }
    assert_eq!(them.open(0, &first, NOW), Err(Refused::UnknownKey(7)));
    assert_eq!(them.key_id(), Some(9));
}

/// Whoever tells of them twice must not open the way for what was recorded.
#[test]
fn the_same_keys_again_forget_nothing() {
    let (mut us, mut them) = pair();
    let recorded = datagram(&mut us, &[claim(1)]);
    assert!(them.open(0, &recorded, NOW).is_ok());
    them.rekey(session(7).1, NOW);
    assert_eq!(them.open(0, &recorded, NOW), Err(Refused::Replayed));
    them.rekey(session(8).1, NOW);
    them.rekey(session(7).1, NOW);
    assert_eq!(them.open(0, &recorded, NOW), Err(Refused::Replayed));
    assert_eq!(them.key_id(), Some(7));
}

#[test]
fn last_words_outlive_everything_that_is_signed_with_the_same_keys() {
    let (mut us, mut them) = pair();
    let resigned = Claim { standing: Standing::Resigned, ..claim(1) };
    let words = us.last_words(&[resigned]);
    let on_its_way = datagram(&mut us, &[claim(1)]);
    assert_eq!(them.open(0, &on_its_way, NOW), Ok(Some(vec![claim(1)])));
    assert_eq!(them.open(0, &words[0], NOW), Ok(Some(vec![resigned])));
    for path in 0..2 {
        let later = datagram(&mut us, &[claim(1)]);
        let heard = them.open(path, &later, NOW);
        assert!(matches!(heard, Ok(None) | Err(Refused::Replayed)), "path {path}: {heard:?}");
    }
    assert_eq!(them.open(1, &words[0], NOW), Ok(None), "the other copy");
    // Whoever comes after has keys of his own.
    us.rekey(session(8).0, NOW);
    them.rekey(session(8).1, NOW);
    assert_eq!(them.open(0, &datagram(&mut us, &[claim(1)]), NOW), Ok(Some(vec![claim(1)])));
}

#[test]
fn last_words_of_many_vips_are_all_believed() {
    let (us, mut them) = pair();
    let claims: Vec<Claim> = (0..255).map(|vrid| Claim { standing: Standing::Resigned, ..claim(vrid) }).collect();
    let mut heard = Vec::new();
    for words in us.last_words(&claims) {
        heard.extend(them.open(0, &words, NOW).expect("they are good").expect("news"));
    }
    assert_eq!(heard, claims);
}

#[test]
fn an_acknowledgement_says_what_was_heard_and_never_more_than_was_said() {
    let (mut us, mut them) = pair();
    assert_eq!((us.sent(), us.acknowledged()), (0, 0));
    let datagrams: Vec<_> = (0..3).map(|_| datagram(&mut us, &[claim(1)])).collect();
    them.open(1, &datagrams[1], NOW).expect("good");
    let answer = datagram(&mut them, &[]);
    us.open(0, &answer, NOW).expect("good");
    assert_eq!((us.sent(), us.acknowledged()), (3, 2));
    // Last words carry the highest numbers, which nobody said while alive.
    for words in us.last_words(&[claim(1)]) {
        them.open(0, &words, NOW).expect("good");
    }
    let answer = datagram(&mut them, &[]);
    us.open(0, &answer, NOW).expect("good");
    assert_eq!((us.sent(), us.acknowledged()), (3, 3));
    // An older answer takes nothing back.
    let (_, mut others) = pair();
    us.rekey(session(7).0, NOW);
    for _ in 0..9 {
        let answer = datagram(&mut others, &[]);
        let _ = us.open(1, &answer, NOW);
    }
    assert_eq!(us.acknowledged(), 3);
}

#[test]
fn more_vips_than_fit_go_into_several_datagrams() {
    let (mut us, mut them) = pair();
    let claims: Vec<Claim> = (0..=u8::MAX).map(claim).collect();
    let datagrams = us.datagrams(&claims);
    assert_eq!(datagrams.len(), claims.len().div_ceil(FULL));
    assert_eq!(us.sent(), datagrams.len() as u64);
    let opened = datagrams.iter().map(|datagram| them.open(0, datagram, NOW).expect("good").expect("news"));
    assert_eq!(opened.flatten().collect::<Vec<_>>(), claims);
}

#[test]
fn a_datagram_that_one_path_lost_is_news_on_the_other() {
    let (mut us, mut them) = pair();
    let claims: Vec<Claim> = (0..=u8::MAX).map(claim).collect();
    for lost in 0..claims.len().div_ceil(FULL) {
        let datagrams = us.datagrams(&claims);
        let mut heard = BTreeSet::new();
        let mut read = |path, datagram: &[u8]| {
            let news = them.open(path, datagram, NOW).expect("good");
            heard.extend(news.into_iter().flatten().map(|claim| claim.vrid));
        };
        datagrams.iter().enumerate().filter(|(index, _)| *index != lost).for_each(|(_, datagram)| read(0, datagram));
        datagrams.iter().for_each(|datagram| read(1, datagram));
        assert_eq!(heard.len(), claims.len(), "without number {lost}");
    }
}

#[test]
fn a_full_datagram_fits_any_link_whatever_its_numbers() {
    let (mut us, _) = pair();
    let full = us.last_words(&[longest(); FULL]).remove(0);
    assert!(full.len() <= MAX_DATAGRAM, "{} bytes", full.len());
    for datagram in us.datagrams(&[longest(); 200]) {
        assert!(datagram.len() <= MAX_DATAGRAM, "{} bytes", datagram.len());
    }
}

#[test]
fn every_refusal_has_a_name_of_its_own() {
    let all = [Refused::Foreign, Refused::UnknownKey(1), Refused::Forged, Refused::Replayed, Refused::Malformed];
    let names: BTreeSet<&str> = all.iter().map(|refused| refused.name()).collect();
    assert_eq!(names.len(), all.len());
}

#[test]
fn keys_are_not_printed() {
    let text = format!("{:?}", session(7).0);
    assert!(text.contains('7') && !text.contains("23"), "{text}");
}

/// Any content under a good signature.
fn signed(sequence: u64, body: &[u8]) -> Vec<u8> {
    let keys = session(7).0;
    let signed = [&b"lb\x01"[..], &keys.id.to_be_bytes(), &sequence.to_be_bytes(), body].concat();
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&keys.send).expect("of any length");
    mac.update(&signed);
    [signed, mac.finalize().into_bytes().to_vec()].concat()
}

/// It comes from another version of lbnode.
#[test]
fn what_cannot_be_read_under_a_good_signature_is_malformed_and_holds_nothing_up() {
    let (mut us, mut them) = pair();
    let none_left = [0, 0, 0, 0];
    let fewer_than_it_says = [0, 0, 1];
    // A part of something that would have begun before the first sequence.
    let before_the_first = [0, 2, 0];
    for body in [&[][..], &none_left, &fewer_than_it_says, &before_the_first, &[0xff; 12]] {
        assert_eq!(them.open(0, &signed(1, body), NOW), Err(Refused::Malformed), "{body:?}");
    }
    assert_eq!(them.open(0, &datagram(&mut us, &[claim(1)]), NOW), Ok(Some(vec![claim(1)])));
}

fn any_claim() -> impl Strategy<Value = Claim> {
    let standing = prop_oneof![
        Just(Standing::Free),
        Just(Standing::Resigned),
        any::<(u32, u32)>().prop_map(|(renewed, age)| Standing::Held { renewed, age }),
    ];
    let fitness = prop_oneof![Just(Fitness::Cannot), Just(Fitness::Weakened), Just(Fitness::Fit)];
    let lan = prop_oneof![Just(Lan::Down), Just(Lan::Silent), Just(Lan::Hosts), Just(Lan::Gateway)];
    let numbers = any::<(u32, u8, u64, u8, Option<u32>, bool)>();
    (numbers, standing, fitness, lan).prop_map(
        |((address, vrid, term, priority, source, hears), standing, fitness, lan)| {
            let (address, source) = (address.into(), source.map(Ipv4Addr::from));
            Claim { address, vrid, term, standing, fitness, priority, source, hears, lan }
        },
    )
}

/// What a network, or somebody in it, can do to bytes.
#[derive(Clone, Debug)]
enum Change {
    Set(usize, u8),
    Insert(usize, u8),
    Remove(usize),
    Cut(usize),
    /// The beginning of this one, the rest of another one.
    Splice(usize),
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Change::Insert(at, byte)),
        any::<usize>().prop_map(Change::Remove),
        any::<usize>().prop_map(Change::Cut),
        any::<usize>().prop_map(Change::Splice),
    ]
}

fn changed(bytes: &[u8], other: &[u8], change: &Change) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    let within = |at: usize, length: usize| at % length.max(1);
    match *change {
        Change::Set(at, byte) => {
            let at = within(at, changed.len());
            changed.get_mut(at).into_iter().for_each(|old| *old = byte);
        }
        Change::Insert(at, byte) => changed.insert(within(at, changed.len() + 1), byte),
        Change::Remove(at) if !changed.is_empty() => drop(changed.remove(within(at, bytes.len()))),
        Change::Remove(_) => {}
        Change::Cut(at) => changed.truncate(within(at, bytes.len())),
        Change::Splice(at) => {
            let at = within(at, bytes.len().min(other.len()));
            changed = [&bytes[..at.min(bytes.len())], &other[at.min(other.len())..]].concat();
        }
    }
    changed
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_claims_arrive_as_they_were_told(claims in prop::collection::vec(any_claim(), 0..60)) {
        let (mut us, mut them) = pair();
        let mut heard = Vec::new();
        for datagram in us.datagrams(&claims) {
            prop_assert!(datagram.len() <= MAX_DATAGRAM);
            heard.extend(them.open(0, &datagram, NOW).expect("good").expect("news"));
        }
        prop_assert_eq!(heard, claims);
    }

    #[test]
    fn no_bytes_are_believed_that_nobody_signed(
        bytes in prop::collection::vec(any::<u8>(), 0..1400),
        sequence in any::<u64>(),
        path in 0..4usize,
    ) {
        let (_, mut them) = pair();
        prop_assert!(them.open(path, &bytes, NOW).is_err());
        // With a head that looks right.
        let head = [&b"lb\x01"[..], &7_u32.to_be_bytes(), &sequence.to_be_bytes()].concat();
        prop_assert!(them.open(path, &[head, bytes].concat(), NOW).is_err());
    }

    #[test]
    fn no_content_under_a_good_signature_is_a_panic(
        bodies in prop::collection::vec((any::<u64>(), prop::collection::vec(any::<u8>(), 0..200)), 1..8),
    ) {
        let (mut us, mut them) = pair();
        for (sequence, body) in bodies {
            let _ = them.open(0, &signed(sequence, &body), NOW);
            let answer = datagram(&mut them, &[]);
            prop_assert_eq!(us.open(0, &answer, NOW), Ok(Some(vec![])));
            prop_assert!(us.acknowledged() <= us.sent());
        }
    }

    #[test]
    fn nothing_that_was_changed_on_its_way_is_believed(
        claims in prop::collection::vec(any_claim(), 0..30),
        changes in prop::collection::vec(any_change(), 1..8),
    ) {
        let (mut us, mut them) = pair();
        let sent: Vec<Vec<u8>> = (0..2).flat_map(|_| us.datagrams(&claims)).collect();
        let bad = changes.iter().fold(sent[0].clone(), |bytes, change| changed(&bytes, &sent[sent.len() - 1], change));
        let heard = them.open(0, &bad, NOW);
        // Chance may give back what it took, or put one together that was sent.
        prop_assert!(sent.contains(&bad) || heard.is_err(), "{:?}", heard);
    }
}
