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
            for start in [" http://a.test/", " HTTP://a.test/", " https://a.test/"] {
                request.line = request.line.replace(start, " /");
            }
        }
    }),
    ("interim-to-http-1.0", |case, ours, theirs| {
        if case.has_old() {
            ours.client.retain(|answer| !answer.is_interim());
            theirs.client.retain(|answer| !answer.is_interim());
        }
    }),
    ("chunks-to-http-1.0", |case, ours, theirs| {
        let framings = |answer: &Answer| answer.content.as_ref().map(|content| content.framing);
        let differs =
            |(our, their): (&Answer, &Answer)| (framings(our), framings(their)) == (Some("close"), Some("chunked"));
        let Some(place) = ours.client.iter().zip(&theirs.client).position(differs) else { return };
        if let Some(content) = theirs.client[place].content.as_mut().filter(|_| case.has_old()) {
            content.framing = "close";
            content.fields.retain(|field| field != "transfer-encoding: chunked");
            content.trailers.clear();
            // Ours ends with the connection; theirs may be followed by more.
            theirs.client.truncate(place + 1);
            theirs.server.truncate(ours.server.len());
        }
    }),
    ("host-of-http-1.0", |case, ours, theirs| {
        if !case.has_old() || !case.is_odd("no-host") {
            return;
        }
        for (ours, theirs) in ours.server.iter_mut().zip(&theirs.server) {
            if !theirs.fields.iter().any(|field| field.starts_with("host: ")) {
                ours.fields.retain(|field| !field.starts_with("host: "));
            }
        }
    }),
    ("body-in-http-1.0", |case, ours, theirs| {
        let refused = theirs.server.len();
        let request = case.requests.get(refused);
        if request.is_some_and(|request| request.version == b"HTTP/1.0" && !request.body.is_empty())
            && theirs.client.last().is_some_and(|answer| answer.is_refusal() && answer.status == "413")
        {
            leave_out(refused, theirs, ours);
        }
    }),
    ("cut-after-interim", |case, ours, theirs| {
        let Some(cut) = theirs.client.iter().zip(&ours.client).position(|(their, our)| their != our) else { return };
        let [our, their] = [&ours.client[cut], &theirs.client[cut]].map(|answer| answer.content.as_ref());
        let incomplete = our.zip(their).is_some_and(|(our, their)| {
            // It may even end with the last chunk as if all were there.
            !their.complete || (our.body.0.len() > their.body.0.len() && our.body.0.starts_with(&their.body.0))
        });
        if case.asks_interim() && (incomplete || !theirs.rest.is_empty()) {
            let served = theirs.server.len().min(ours.server.len());
            for outcome in [ours, theirs] {
                outcome.client.truncate(cut);
                outcome.server.truncate(served);
                outcome.rest.clear();
                outcome.closed = true;
            }
        }
    }),
    ("upgrade", |case, ours, theirs| {
        if !case.is_odd("upgrade") {
            return;
        }
        for (ours, theirs) in ours.server.iter().zip(&mut theirs.server) {
            // h2c never, and nothing from HTTP/1.0.
            if !ours.fields.iter().any(|field| field.starts_with("upgrade: ")) {
                theirs.fields.retain(|field| !field.starts_with("upgrade: "));
            }
        }
        // A WebSocket without a key.
        refused(case, &["upgrade"], theirs, ours);
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
    ("fields", |case, ours, theirs| {
        let oddities = ["fields-many", "head-long", "target-long"];
        refused(case, &oddities, theirs, ours);
        // What follows a head of nearly that size is left unread.
        if oddities.iter().any(|oddity| case.is_odd(oddity)) && !theirs.closed {
            ours.client.truncate(theirs.client.len());
            ours.server.truncate(theirs.server.len());
            theirs.closed = ours.closed;
        }
    }),
    ("expect", |case, ours, theirs| refused(case, &["expect-odd"], ours, theirs)),
    ("trailer", |case, ours, theirs| refused(case, &["trailer-odd"], ours, theirs)),
    ("target", |case, ours, theirs| refused(case, &["absolute-scheme", "target-no-slash"], ours, theirs)),
    ("request-line", |case, ours, theirs| refused(case, &["version-odd"], ours, theirs)),
    ("coding", |case, ours, theirs| refused(case, &["coding-odd"], ours, theirs)),
    ("chunk", |case, ours, theirs| refused(case, &["chunk-extension-odd", "chunk-size-bad"], ours, theirs)),
    ("length-huge", |case, ours, theirs| {
        refused(case, &["length-huge"], ours, theirs);
        refused(case, &["length-huge"], theirs, ours);
    }),
    ("bad-answer", |case, ours, theirs| {
        let odd = case.requests.len() - 2;
        ours.server.dedup();
        if case.is_odd("answer-bad") && case.asks_interim() {
            // HAProxy drops a 100 that comes right before.
            ours.client.retain(|answer| !answer.is_interim());
            theirs.client.retain(|answer| !answer.is_interim());
        }
        if case.is_odd("answer-bad") && ours.client.last().is_some_and(|answer| answer.status == "502") {
            leave_out(odd + 1, ours, theirs);
        }
        // What is wrong comes to light in the body, when an answer of our own is too late.
        let late = theirs.client.get(ours.client.len()).is_some_and(|answer| answer.status == "502");
        if case.is_odd("answer-bad") && late {
            theirs.client.truncate(ours.client.len());
            theirs.server.truncate(odd + 1);
        }
    }),
];

/// The odd request was refused by one and served by the other: it and what came after it is left out of both.
fn refused(case: &Case, oddities: &[&str], refusing: &mut Outcome, serving: &mut Outcome) {
    let odd = case.requests.len() - 2;
    if case.oddities.iter().any(|oddity| oddities.contains(oddity))
        && refusing.client.last().is_some_and(Answer::is_refusal)
        && refusing.server.len() <= odd + 1
    {
        leave_out(odd, refusing, serving);
    }
}

/// Leaves out the last answer of `refusing` and everything after it, and the requests from the given one on.
fn leave_out(request: usize, refusing: &mut Outcome, serving: &mut Outcome) {
    refusing.client.pop();
    serving.client.truncate(refusing.client.len());
    for outcome in [refusing, serving] {
        outcome.server.truncate(request);
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
