//! What readers, followers and the next start get of the events.

use std::fs;
use std::path::PathBuf;

use super::super::record::{Kind, Mark, What};
use super::*;

const LIMIT: Duration = Duration::from_secs(10);

/// A state directory that goes with the test.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let state_dir = std::env::temp_dir().join(format!("lbnode-events-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&state_dir);
        Place(state_dir)
    }

    fn open(&self) -> (Store, Vec<String>) {
        Store::open(&self.0, "lb-a")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn draft(text: &str) -> Draft {
    Draft { kind: Kind::Transition, text: text.into(), ..Draft::default() }
}

fn mark(what: What, ms: f64) -> Mark {
    Mark { what, node: "lb-b".into(), ms }
}

fn texts(events: &[Arc<Event>]) -> Vec<&str> {
    events.iter().map(|event| event.text.as_str()).collect()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// The next thing that a follower gets, at once or not at all.
fn next(follower: &mut Follower) -> Next {
    runtime().block_on(async { tokio::time::timeout(LIMIT, follower.next()).await.expect("it is there already") })
}

#[test]
fn events_and_their_numbers_go_on_after_a_restart() {
    let place = Place::new("restart");
    let (store, remarks) = place.open();
    assert!(remarks.is_empty(), "{remarks:?}");
    assert_eq!([store.record(draft("one")), store.record(draft("two"))], [1, 2]);
    assert!(store.flush(LIMIT));
    drop(store);
    let (store, remarks) = place.open();
    assert!(remarks.is_empty(), "{remarks:?}");
    assert_eq!(store.record(draft("three")), 3);
    assert_eq!(texts(&store.after(None)), ["one", "two", "three"]);
    assert_eq!(texts(&store.after(Some(2))), ["three"]);
    assert!(store.after(Some(3)).is_empty());
    assert_eq!(store.after(None)[0].node, "lb-a");
}

#[test]
fn an_amended_event_keeps_its_number_and_holds_after_a_restart() {
    let place = Place::new("amended");
    let (store, _) = place.open();
    let id = store.record(draft("failover"));
    store.record(draft("something else"));
    let (_, mut follower) = store.follow(None);
    assert!(store.amend(id, |event| {
        event.timeline = vec![mark(What::Added, 1.25)];
        (event.id, event.node) = (77, "somebody".into());
    }));
    assert!(!store.amend(77, |_| {}), "nobody has that number");
    let Next::Event(told) = next(&mut follower) else { panic!("followers are told") };
    assert_eq!((told.id, told.node.as_str(), told.timeline.len()), (id, "lb-a", 1));
    assert!(store.flush(LIMIT));
    let (store, _) = place.open();
    let events = store.after(None);
    assert_eq!(texts(&events), ["failover", "something else"]);
    assert_eq!(events[0].timeline, [mark(What::Added, 1.25)]);
    assert_eq!(store.record(draft("next")), 3);
}

#[test]
fn memory_keeps_the_newest_and_so_does_a_restart() {
    let place = Place::new("memory");
    let (store, _) = place.open();
    for batch in 0..3 {
        (0..500).for_each(|number| assert_eq!(store.record(draft("x")), batch * 500 + number + 1));
        assert!(store.flush(LIMIT));
    }
    let ids = |store: &Store| store.after(None).iter().map(|event| event.id).collect::<Vec<_>>();
    assert_eq!(ids(&store), (501..=1_500).collect::<Vec<_>>());
    assert!(!store.amend(500, |_| {}) && store.amend(501, |_| {}));
    assert_eq!(store.unwritten(), 0);
    assert_eq!(ids(&place.open().0), (501..=1_500).collect::<Vec<_>>());
}

#[test]
fn a_writer_that_does_not_get_on_costs_lines_and_no_time() {
    let (writer, _nobody_reads) = sync_channel(2);
    let store = Store::assemble("lb-a", Vec::new(), writer);
    for _ in 0..5 {
        store.record(draft("x"));
    }
    assert_eq!((store.unwritten(), store.after(None).len()), (3, 5));
    assert!(!store.flush(LIMIT), "and a flush does not wait for it either");
}

#[test]
fn a_broken_disk_is_counted_and_tried_again() {
    let place = Place::new("broken");
    fs::create_dir_all(&place.0).unwrap();
    fs::write(place.0.join("events"), "in the way").unwrap();
    let (store, remarks) = place.open();
    assert!(remarks[0].contains("the events of earlier runs are not shown"), "{remarks:?}");
    store.record(draft("one"));
    assert!(store.flush(LIMIT), "there is nothing that could be flushed");
    assert_eq!((store.unwritten(), texts(&store.after(None))), (1, vec!["one"]));
    fs::remove_file(place.0.join("events")).unwrap();
    store.record(draft("two"));
    assert!(store.flush(LIMIT));
    assert_eq!(store.unwritten(), 1);
    assert_eq!(texts(&place.open().0.after(None)), ["two"]);
}

#[test]
fn what_was_wrong_with_the_files_is_said_when_they_are_opened() {
    let place = Place::new("remarks");
    let folder = journal::folder(&place.0);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("events.jsonl"), "nonsense\n{\"id\":1,\"at\":").unwrap();
    let (store, remarks) = place.open();
    assert!(remarks[0].contains("cut off in the middle") && remarks[1].contains("no events: 1"), "{remarks:?}");
    assert_eq!(store.record(draft("one")), 1);
}

#[test]
fn a_follower_gets_the_past_and_what_comes_and_nothing_twice() {
    let (writer, _queue) = sync_channel(QUEUE);
    let store = Store::assemble("lb-a", Vec::new(), writer);
    store.record(draft("one"));
    store.record(draft("two"));
    let (past, mut follower) = store.follow(Some(1));
    assert_eq!(texts(&past), ["two"]);
    store.record(draft("three"));
    let Next::Event(event) = next(&mut follower) else { panic!("there is one") };
    assert_eq!(event.text, "three");
    drop(store);
    assert_eq!(next(&mut follower), Next::End);
}

#[test]
fn a_slow_follower_is_told_how_many_it_missed() {
    let (writer, _queue) = sync_channel(QUEUE);
    let store = Store::assemble("lb-a", Vec::new(), writer);
    let (_, mut follower) = store.follow(None);
    for _ in 0..FOLLOWED + 44 {
        store.record(draft("x"));
    }
    assert_eq!(next(&mut follower), Next::Missed(44));
    assert!(matches!(next(&mut follower), Next::Event(event) if event.id == 45));
}
