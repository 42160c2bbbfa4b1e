use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;

use super::*;

/// A folder that goes with the test.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let path = std::env::temp_dir().join(format!("lbnode-pairing-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Place(path)
    }

    fn open(&self) -> Pairing {
        self.try_open().expect("readable")
    }

    fn try_open(&self) -> Result<Pairing, PairingError> {
        Pairing::open(&self.0.join("identity"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join("identity").join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn invitation(node: &str, certificate: &[u8]) -> Invitation {
    Invitation::new(node, Pin::of(certificate)).expect("a good name")
}

fn own_pin(pairing: &Pairing) -> Pin {
    pairing.identity().expect("there is one").pin()
}

#[test]
fn an_identity_stays_what_it_is_and_is_private() {
    let place = Place::new("stays");
    assert!(place.open().identity().is_none());
    let pin = place.open().create("a").expect("a new one").pin();
    assert_eq!(own_pin(&place.open()), pin);
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&place.file("")), 0o700);
    for name in ["key.pem", "certificate.pem"] {
        assert_eq!(mode(&place.file(name)), 0o600, "{name}");
    }
    assert!(!format!("{:?}", place.open()).contains("PRIVATE"));
}

#[test]
fn an_identity_is_replaced_only_when_that_is_asked_for() {
    let place = Place::new("replaced");
    let mut pairing = place.open();
    let pin = pairing.create("a").expect("a new one").pin();
    assert!(matches!(pairing.create("a"), Err(PairingError::AlreadyThere(there)) if there == pin));
    let new = pairing.create_anew("a").expect("asked for").pin();
    assert_ne!(new, pin);
    assert_eq!(own_pin(&place.open()), new);
}

#[test]
fn a_peer_is_trusted_once_and_another_one_only_by_force() {
    let place = Place::new("trust");
    let mut pairing = place.open();
    pairing.create("a").expect("a new one");
    assert_eq!(pairing.trust(invitation("b", b"1")).expect("the first"), Change::Done);
    assert_eq!(pairing.trust(invitation("b", b"1")).expect("the same"), Change::Already);
    for other in [invitation("b", b"2"), invitation("c", b"1")] {
        assert!(matches!(pairing.trust(other), Err(PairingError::OtherPeer(_))));
    }
    assert_eq!(pairing.trust_instead(invitation("c", b"2")).expect("asked for"), Change::Done);
    let peer = Peer { name: "c".into(), pins: vec![Pin::of(b"2")] };
    assert_eq!(place.open().peer(), Some(&peer));
}

#[test]
fn a_node_does_not_join_itself() {
    let place = Place::new("own");
    let mut pairing = place.open();
    pairing.create("a").expect("a new one");
    let own = pairing.invitation("a").expect("there is one").expect("a good name");
    assert!(matches!(pairing.trust(own), Err(PairingError::Own)));
    assert_eq!(place.open().peer(), None);
}

#[test]
fn a_rotation_survives_a_crash_between_any_two_steps() {
    let place = Place::new("rotation");
    let old = place.open().create("a").expect("a new one").pin();

    // Before anything was promoted the old one holds, whatever lies beside it.
    let staged = place.open().stage("a").expect("staged");
    assert_eq!(own_pin(&place.open()), old);
    fs::remove_file(place.file("next-certificate.pem")).expect("there");
    assert_eq!(own_pin(&place.open()), old);
    let staged_again = place.open().stage("a").expect("over the torn one");
    assert_ne!(staged, staged_again);

    // The key was replaced, the certificate was not.
    fs::rename(place.file("next-key.pem"), place.file("key.pem")).expect("there");
    let mut cut = place.open();
    assert_eq!(own_pin(&cut), staged_again);
    // What writes next ends it first.
    let third = cut.stage("a").expect("staged");
    assert_eq!(own_pin(&place.open()), staged_again);
    assert_eq!(place.open().promote(third).expect("whole").pin(), third);
    assert_eq!(own_pin(&place.open()), third);
    assert!(!place.file("next-key.pem").exists() && !place.file("next-certificate.pem").exists());
}

#[test]
fn a_rotation_that_is_given_up_leaves_the_old_identity() {
    let place = Place::new("given-up");
    let mut pairing = place.open();
    let old = pairing.create("a").expect("a new one").pin();
    let staged = pairing.stage("a").expect("staged");
    assert!(matches!(pairing.promote(old), Err(PairingError::NotStaged(_))), "only what was announced");
    pairing.unstage().expect("forgotten");
    assert!(matches!(pairing.promote(staged), Err(PairingError::NotStaged(_))));
    assert_eq!(own_pin(&place.open()), old);
    assert!(!place.file("next-key.pem").exists());
}

#[test]
fn a_first_identity_that_was_cut_in_two_is_whole_again() {
    let place = Place::new("first");
    let pin = place.open().stage("a").expect("staged");
    fs::rename(place.file("next-key.pem"), place.file("key.pem")).expect("there");
    assert_eq!(own_pin(&place.open()), pin);
    fs::remove_file(place.file("next-certificate.pem")).expect("there");
    assert!(place.open().identity().is_none(), "a key that was never shown");
    place.open().create("a").expect("made over it");
    assert!(place.open().identity().is_some());
}

#[test]
fn the_pins_of_a_rotating_peer_are_kept_until_the_new_one_was_seen() {
    let place = Place::new("peer-rotates");
    let mut pairing = place.open();
    assert!(matches!(pairing.accept_only(Pin::of(b"1")), Err(PairingError::NotPaired)));
    pairing.trust(invitation("b", b"1")).expect("the first");
    pairing.accept_also(Pin::of(b"1"), Pin::of(b"2")).expect("paired");
    assert_eq!(place.open().peer().expect("there").pins, [Pin::of(b"1"), Pin::of(b"2")]);
    // Told again of another one: never more than two.
    pairing.accept_also(Pin::of(b"1"), Pin::of(b"3")).expect("paired");
    assert_eq!(place.open().peer().expect("there").pins, [Pin::of(b"1"), Pin::of(b"3")]);
    pairing.accept_only(Pin::of(b"3")).expect("paired");
    assert_eq!(place.open().peer().expect("there").pins, [Pin::of(b"3")]);
}

#[test]
fn a_torn_or_garbled_file_is_named_with_its_remedy() {
    let place = Place::new("torn");
    let mut pairing = place.open();
    pairing.create("a").expect("a new one");
    pairing.trust(invitation("b", b"1")).expect("the first");
    let whole = fs::read_to_string(place.file("peer")).expect("there");
    for length in 0..whole.len() {
        fs::write(place.file("peer"), &whole[..length]).expect("writable");
        // Without the line's end it still says all.
        let read = place.try_open().map(|pairing| pairing.peer().cloned());
        if length == whole.len() - 1 {
            assert_eq!(read.expect("whole"), pairing.peer().cloned());
            continue;
        }
        let error = read.expect_err("torn").to_string();
        assert!(error.contains("identity/peer") && error.contains("lbnode pair join"), "{length}: {error}");
    }
    fs::write(place.file("peer"), &whole).expect("writable");
    fs::write(place.file("certificate.pem"), "-----BEGIN CERT").expect("writable");
    let error = place.try_open().expect_err("torn").to_string();
    assert!(error.contains("certificate.pem") && error.contains("lbnode pair init"), "{error}");
    fs::remove_file(place.file("key.pem")).expect("there");
    let error = place.try_open().expect_err("no key").to_string();
    assert!(error.contains("no key.pem"), "{error}");
    fs::write(place.file("peer"), vec![b'#'; 20 << 10]).expect("writable");
    fs::remove_file(place.file("certificate.pem")).expect("there");
    let error = place.try_open().expect_err("too long").to_string();
    assert!(error.contains("longer than"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_file_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), name in 0..3usize) {
        let place = Place::new("garbage");
        fs::create_dir_all(place.file("")).expect("writable");
        fs::write(place.file(["peer", "certificate.pem", "key.pem"][name]), bytes).expect("writable");
        let _ = place.try_open();
    }
}
