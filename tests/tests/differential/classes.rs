//! The differences that have a name. docs/differences.md says of each what we do, what HAProxy does, and why.
//!
//! A class smooths both outcomes: what it is about becomes the same in both. A case may have several differences; it is
//! explained when nothing is left of them, by the classes that changed something.

use crate::compare::{Answer, Outcome};
use crate::generate::Case;

/// Makes equal what the class is about, and nothing else.
type Smooth = fn(&Case, &mut Outcome, &mut Outcome);

/// In the order of the page.
const CLASSES: &[(&str, Smooth)] = &[
    ("version", |_, ours, theirs| {
        for outcome in [ours, theirs] {
            for request in &mut outcome.server {
                request.line = request.line.replace(" HTTP/1.0", " HTTP/1.1");
            }
            for answer in &mut outcome.client {
                answer.status = answer.status.replace("HTTP/1.0 ", "HTTP/1.1 ");
            }
        }
    }),
    ("connection-options", |_, ours, theirs| {
        for request in ours.server.iter_mut().chain(&mut theirs.server) {
            request.fields.retain(|field| !field.starts_with("x-hop: "));
        }
        for content in ours.client.iter_mut().chain(&mut theirs.client).filter_map(|answer| answer.content.as_mut()) {
            content.fields.retain(|field| !field.starts_with("x-hop: "));
        }
    }),
    ("absolute-form", |_, ours, theirs| {
        for request in ours.server.iter_mut().chain(&mut theirs.server) {
            request.line = request.line.replace(" http://a.test/", " /");
        }
    }),
    ("chunks-to-http-1.0", |case, ours, theirs| {
        let ours = ours.client.iter().filter_map(|answer| answer.content.as_ref());
        let theirs = theirs.client.iter_mut().filter_map(|answer| answer.content.as_mut());
        for (ours, theirs) in ours.zip(theirs) {
            if case.has_old() && (ours.framing, theirs.framing) == ("close", "chunked") {
                theirs.framing = "close";
                theirs.fields.retain(|field| field != "transfer-encoding: chunked");
                theirs.trailers.clear();
            }
        }
    }),
    ("interim-to-http-1.0", |case, _, theirs| {
        if case.has_old() {
            theirs.client.retain(|answer| !answer.is_interim());
        }
    }),
    ("h2c", |case, _, theirs| {
        if case.is_odd("upgrade") {
            for request in &mut theirs.server {
                request.fields.retain(|field| field != "upgrade: h2c");
            }
        }
    }),
    ("refusal-status", |_, ours, theirs| {
        for (ours, theirs) in ours.client.iter().zip(&mut theirs.client) {
            if ours.is_refusal() && theirs.is_refusal() {
                theirs.status.clone_from(&ours.status);
            }
        }
    }),
    ("bare-lf", |case, ours, theirs| {
        let oddities = ["lf-after-field", "lf-after-request-line", "lf-ends-head", "chunk-lf", "lines-before"];
        refused(case, &oddities, ours, theirs);
    }),
    ("fold", |case, ours, theirs| refused(case, &["fold"], ours, theirs)),
    ("control-bytes", |case, ours, theirs| {
        refused(case, &["control-in-value", "nul-in-value", "target-control"], ours, theirs);
    }),
    ("host", |case, ours, theirs| refused(case, &["no-host", "empty-host", "bad-host", "two-hosts"], ours, theirs)),
    ("length-twice", |case, ours, theirs| refused(case, &["length-twice-same", "length-list"], ours, theirs)),
    ("length-and-chunked", |case, ours, theirs| refused(case, &["length-and-chunked"], ours, theirs)),
    ("coding-old-version", |case, ours, theirs| refused(case, &["coding-old-version"], ours, theirs)),
    ("connect", |case, ours, theirs| refused(case, &["method-connect"], ours, theirs)),
    ("fields", |case, ours, theirs| refused(case, &["fields-many", "head-long", "target-long"], theirs, ours)),
    ("expect", |case, ours, theirs| refused(case, &["expect-odd"], ours, theirs)),
    ("trailer", |case, ours, theirs| refused(case, &["trailer-odd"], ours, theirs)),
];

/// The odd request was refused by one and served by the other: it and what came after it is left out of both.
fn refused(case: &Case, oddities: &[&str], refusing: &mut Outcome, serving: &mut Outcome) {
    let odd = case.requests.len() - 2;
    if !case.oddities.iter().any(|oddity| oddities.contains(oddity))
        || !refusing.client.last().is_some_and(Answer::is_refusal)
        || refusing.server.len() > odd + 1
    {
        return;
    }
    refusing.client.pop();
    serving.client.truncate(refusing.client.len());
    for outcome in [refusing, serving] {
        outcome.server.truncate(odd);
        outcome.rest.clear();
        outcome.closed = true;
    }
}

/// The classes that explain a difference, or what is left of it.
pub(crate) fn explain(case: &Case, ours: &Outcome, theirs: &Outcome) -> Result<Vec<&'static str>, Box<[Outcome; 2]>> {
    let (mut ours, mut theirs) = (ours.clone(), theirs.clone());
    let mut found = Vec::new();
    for (name, smooth) in CLASSES {
        if ours == theirs {
            break;
        }
        let before = (ours.clone(), theirs.clone());
        smooth(case, &mut ours, &mut theirs);
        if before != (ours.clone(), theirs.clone()) {
            found.push(*name);
        }
    }
    if ours == theirs { Ok(found) } else { Err(Box::new([ours, theirs])) }
}

/// All of them.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    CLASSES.iter().map(|(name, _)| *name)
}
