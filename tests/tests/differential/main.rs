//! Ten thousand requests through lbnode and through HAProxy, to the same kind of server: what did the server get, and what
//! the client? Every difference belongs to a class that docs/differences.md explains, or the test fails.
//!
//! ```text
//! generate  requests from a seed: valid ones, and ones that are a little wrong
//! echo      the server: records what it got, answers as it was asked to
//! exchange  the client: sends a case, records what came back
//! compare   both records, without what any two proxies may do differently
//! classes   the differences that have a name and a reason
//! strict    what holds of lbnode whatever HAProxy does
//! ```
//! `DIFF_SEED` and `DIFF_CASES` choose others; a failure prints the seed and the bytes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod classes;
mod compare;
mod echo;
mod exchange;
mod generate;
mod strict;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tests::haproxy::Haproxy;
use tests::place::Place;
use tests::serve::{Serve, Site};

use crate::compare::Outcome;
use crate::echo::Echo;
use crate::generate::Case;

/// Cases under way at once, at one proxy.
const CLIENTS: usize = 16;
const SEED: u64 = 2026;
const CASES: usize = 10_000;
/// How many unexplained differences are printed.
const SHOWN: usize = 10;
/// How often HAProxy is asked again.
const ATTEMPTS: usize = 4;

#[test]
fn every_difference_from_haproxy_has_a_name_and_a_reason() {
    let (seed, count) = (number("DIFF_SEED", SEED), number("DIFF_CASES", CASES as u64) as usize);
    let cases: Vec<Case> = (0..count).map(|index| generate::case(seed, index)).collect();
    let place = Place::new("differential").unwrap();

    let their_echo = Echo::start(place.at(7001));
    let haproxy = place.at(8001);
    let _haproxy = Haproxy::start(&place, "haproxy", haproxy, &sections(haproxy, their_echo.address)).unwrap();
    let theirs = outcomes(&cases, haproxy, &their_echo);

    let echo = Echo::start(place.at(7002));
    let lbnode = place.at(8002);
    let mut site = Site::new(lbnode, echo.address);
    site.defaults = "timeouts = { client = \"2s\", server = \"2s\", request = \"2s\", keep_alive = \"2s\" }".into();
    let _lbnode = Serve::start(&place, &site.toml()).unwrap();
    let ours = outcomes(&cases, lbnode, &echo);

    let mut unexplained = Vec::new();
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for ((case, ours), theirs) in cases.iter().zip(&ours).zip(&theirs) {
        if let Err(breach) = strict::check(case, ours) {
            unexplained.push(format!("lbnode: {breach}\n{}", describe(case, &[ours.clone(), theirs.clone()])));
        }
        let again = || once(case, haproxy, &their_echo);
        match explain(case, ours, theirs, again) {
            Verdict::Same => {}
            Verdict::Classes(classes) => classes.into_iter().for_each(|class| *seen.entry(class).or_default() += 1),
            Verdict::Unexplained(difference) => unexplained.push(difference),
        }
    }
    let strays = echo.strays();
    println!("seed {seed}, {count} cases: differences by class {seen:#?}, {} unexplained", unexplained.len());
    assert!(strays.is_empty(), "seed {seed}: lbnode sent what no case holds: {strays:#?}");
    assert!(
        unexplained.is_empty(),
        "seed {seed}: {} unexplained, the first:\n{}",
        unexplained.len(),
        unexplained.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join("\n")
    );
    if (seed, count) == (SEED, CASES) {
        let never: Vec<&str> = classes::names().filter(|class| !seen.contains_key(class)).collect();
        assert!(never.is_empty(), "these differences are gone; so should be their classes: {never:?}");
    }
}

#[test]
fn the_table_of_differences_has_the_classes_of_the_test() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/differences.md");
    let text = std::fs::read_to_string(page).unwrap();
    let documented: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(name, _)| name).collect();
    assert_eq!(documented, classes::names().collect::<Vec<_>>());
}

enum Verdict {
    Same,
    Classes(Vec<&'static str>),
    /// In words.
    Unexplained(String),
}

/// HAProxy now and then cuts a long answer short when the connection is to be closed after it, and is asked again. lbnode is
/// not: what it did once has to be right.
fn explain(case: &Case, ours: &Outcome, theirs: &Outcome, again: impl Fn() -> Outcome) -> Verdict {
    let (mut theirs, mut left) = (theirs.clone(), None);
    for _ in 0..=ATTEMPTS {
        if *ours == theirs {
            return Verdict::Same;
        }
        left = match classes::explain(case, ours, &theirs) {
            Ok(classes) => return Verdict::Classes(classes),
            Err(left) => Some(left),
        };
        theirs = again();
    }
    Verdict::Unexplained(left.map(|left| describe(case, &left)).unwrap_or_default())
}

fn once(case: &Case, proxy: SocketAddr, echo: &Echo) -> Outcome {
    echo.forget(case.number);
    let seen = exchange::run(proxy, case);
    compare::outcome(seen, echo.got(case.number))
}

/// What became of each case at one proxy.
fn outcomes(cases: &[Case], proxy: SocketAddr, echo: &Echo) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = cases.get(index) else { return done };
            done.push((index, exchange::run(proxy, case)));
        }
    };
    let mut clients: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    clients.sort_by_key(|(index, _)| *index);
    clients.into_iter().map(|(index, client)| compare::outcome(client, echo.got(cases[index].number))).collect()
}

fn sections(bind: SocketAddr, server: SocketAddr) -> String {
    format!(
        "defaults\n  mode http\n  timeout connect 2s\n  timeout client 2s\n  timeout server 2s\n  \
        timeout http-request 2s\n  timeout http-keep-alive 2s\n  maxconn 2000\n\
        frontend front\n  bind {bind}\n  default_backend back\n\
        backend back\n  server one {server}\n"
    )
}

/// The case, and the lines that one outcome has and the other has not.
fn describe(case: &Case, [ours, theirs]: &[Outcome; 2]) -> String {
    let lines = |outcome: &Outcome| format!("{outcome:#?}").lines().map(str::to_owned).collect::<Vec<_>>();
    let (ours, theirs) = (lines(ours), lines(theirs));
    let start = ours.iter().zip(&theirs).take_while(|(our, their)| our == their).count();
    let same_end =
        ours[start..].iter().rev().zip(theirs[start..].iter().rev()).take_while(|(our, their)| our == their).count();
    let part = |lines: &[String]| lines[start..lines.len() - same_end].join("\n");
    format!(
        "case {} {:?}\n{}\n--- lbnode\n{}\n--- haproxy\n{}\n",
        case.number,
        case.oddities,
        case.bytes.escape_ascii(),
        part(&ours),
        part(&theirs)
    )
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().unwrap())
}
