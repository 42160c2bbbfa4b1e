//! The configuration changes under load: servers come and go, rules, binds. No request fails.

use std::fmt::Write as _;

use tests::nginx::Nginx;
use tests::place::Place;
use tests::wrk::{Load, Wrk};

use crate::{Front, curl, long};

/// The site after `number` changes: another pair of three servers, other rules, now and then another bind.
fn change(front: &mut Front, place: &Place, number: usize) {
    let all = ["one", "two", "three"];
    front.site.servers = [number % 3, (number + 1) % 3]
        .into_iter()
        .map(|index| (all[index].to_owned(), place.at(9001 + index as u16)))
        .collect();
    front.site.more.clear();
    for rule in 0..number % 4 {
        writeln!(
            front.site.more,
            "[[frontend.front.rule]]\nwhen = {{ path = \"/rule-{rule}\" }}\ndeny = 403\n\
            [[frontend.front.rule]]\nset_request_header = {{ X-Rule = \"{rule}\" }}"
        )
        .unwrap();
    }
    if number % 2 == 1 {
        let bind = place.at(8081);
        writeln!(front.site.more, "[frontend.more]\nmode = \"http\"\nbind = \"{bind}\"\ndefault_backend = \"back\"")
            .unwrap();
    }
}

fn survives(name: &str, applies: usize, seconds: u64) {
    let place = Place::new(name).unwrap();
    let _servers =
        ["one", "two", "three"].map(|name| Nginx::server(&place, name, place.at(9000 + name_number(name))).unwrap());
    let mut front = Front::start(&place, place.at(9001), |_| {});
    let mut wrk =
        Wrk::start(place.folder(), "wrk", front.site.bind, "/who", Load { connections: 32, seconds }).unwrap();
    for number in 0..applies {
        change(&mut front, &place, number);
        let toml = front.site.toml();
        front.serve.apply(&toml).unwrap();
        if number % 2 == 1 {
            let who = curl(&[&format!("http://{}/who", place.at(8081))]);
            assert!(front.site.servers.iter().any(|(name, _)| who.trim() == name), "the new bind answers: {who}");
        }
        assert!(!wrk.ended(), "the load ended before apply {number}: let it last longer than {seconds} s");
    }
    let seen = wrk.finish().unwrap();
    println!("{name}: {applies} applies, {seen:?}");
    assert!(seen.requests > 1000, "{seen:?}");
    assert_eq!((seen.errors, seen.failures), (0, 0), "{seen:?}\n{}", front.serve.part.tail());
}

fn name_number(name: &str) -> u16 {
    match name {
        "one" => 1,
        "two" => 2,
        _ => 3,
    }
}

#[test]
fn ten_applies_under_load_fail_no_request() {
    survives("applies", 10, 10);
}

#[test]
fn long_a_hundred_applies_under_load_fail_no_request() {
    if long("long_a_hundred_applies_under_load_fail_no_request") {
        survives("applies-long", 100, 90);
    }
}
