//! The smuggling corpus: what could be read in two ways, from clients and from servers, over real sockets. What is
//! refused must not reach the other side, and what reaches it must be written down here to the byte.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "smuggling/corpus.rs"]
mod corpus;
mod data_support;
#[path = "smuggling/stage.rs"]
mod stage;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use proxy_core::http::head::{BadHttp2, BadRequest, BadResponse};

const FILES: [(&str, &str); 8] = [
    ("request-line", include_str!("smuggling/request-line.txt")),
    ("fields", include_str!("smuggling/fields.txt")),
    ("host", include_str!("smuggling/host.txt")),
    ("framing", include_str!("smuggling/framing.txt")),
    ("chunks", include_str!("smuggling/chunks.txt")),
    ("connection", include_str!("smuggling/connection.txt")),
    ("pipelining", include_str!("smuggling/pipelining.txt")),
    ("responses", include_str!("smuggling/responses.txt")),
];

fn run(file: &str) {
    let (_, text) = FILES.iter().find(|(name, _)| *name == file).unwrap();
    let only = std::env::var("CASE").unwrap_or_default();
    let cases = corpus::read(text);
    let failed: Vec<String> = cases
        .iter()
        .filter(|case| case.name.contains(&only))
        .filter_map(|case| stage::play(case).err().map(|why| format!("{} (RFC {}): {why}", case.name, case.rfc)))
        .collect();
    assert!(failed.is_empty(), "{} of {} cases of {file} fail:\n{}", failed.len(), cases.len(), failed.join("\n"));
}

#[test]
fn there_are_many_different_cases_each_with_its_rule() {
    let cases: Vec<_> = FILES.iter().flat_map(|(_, text)| corpus::read(text)).collect();
    let names: HashSet<_> = cases.iter().map(|case| &case.name).collect();
    let steps: HashSet<_> = cases.iter().map(|case| format!("{:?}", case.steps)).collect();
    assert_eq!((names.len(), steps.len()), (cases.len(), cases.len()), "a case is there twice");
    assert!(cases.len() >= 150, "only {}", cases.len());
    for case in &cases {
        assert!(case.rfc.contains('§'), "case `{}` names no section", case.name);
        let checked = case.steps.iter().any(|step| matches!(step, corpus::Step::Get(..) | corpus::Step::Closed));
        assert!(checked, "case `{}` expects nothing", case.name);
    }
}

#[test]
fn every_reason_is_tried() {
    let cases: Vec<_> = FILES.iter().flat_map(|(_, text)| corpus::read(text)).collect();
    let steps = || cases.iter().flat_map(|case| &case.steps);
    for why in BadRequest::ALL.map(BadRequest::why) {
        let tried = steps().any(|step| matches!(step, corpus::Step::Get(_, what) if what == why));
        assert!(tried, "no request is refused for {why}");
    }
    for why in BadResponse::ALL.map(BadResponse::why) {
        assert!(
            cases.iter().any(|case| case.bad_answers.iter().any(|bad| bad == why)),
            "no answer is refused for {why}"
        );
    }
}

/// The words of the first column of a section's table, each with the status that its row names.
fn explained(section: &str) -> BTreeMap<&str, Option<u16>> {
    let page = include_str!("../../docs/http-refusals.md");
    let (_, text) = page.split_once(&format!("## {section}\n")).expect("the page has the section");
    let rows = text.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    rows.take_while(|line| line.starts_with('|'))
        .flat_map(|row| {
            let (_, row) = row.split_once('|').expect("a row begins with a bar");
            let (words, meaning) = row.split_once('|').expect("a row has columns");
            let status = meaning.split(['(', ')']).find_map(|part| part.parse().ok());
            words.split('`').skip(1).step_by(2).map(move |word| (word, status))
        })
        .collect()
}

#[test]
fn the_page_explains_every_reason_with_its_status_and_no_other() {
    let both = explained("Requests and answers");
    let requests: BTreeMap<_, _> =
        BadRequest::ALL.map(|bad| (bad.why(), Some(bad.status()).filter(|status| *status != 400))).into();
    let answers: BTreeSet<_> = BadResponse::ALL.map(BadResponse::why).into();
    assert_eq!(requests, both.clone().into_iter().chain(explained("Requests only")).collect());
    assert_eq!(answers, both.into_keys().chain(explained("Answers only").into_keys()).collect());
    let http2: BTreeSet<_> = BadHttp2::ALL.map(BadHttp2::why).into();
    assert_eq!(http2, explained("HTTP/2").into_keys().collect());
}

#[test]
fn request_lines() {
    run("request-line");
}

#[test]
fn header_fields() {
    run("fields");
}

#[test]
fn hosts() {
    run("host");
}

#[test]
fn framing() {
    run("framing");
}

#[test]
fn chunked_bodies() {
    run("chunks");
}

#[test]
fn connection_fields() {
    run("connection");
}

#[test]
fn pipelines() {
    run("pipelining");
}

#[test]
fn responses() {
    run("responses");
}
