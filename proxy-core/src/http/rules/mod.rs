//! The rules of a frontend, compiled once for a plan and walked for each request, or each connection in TCP. Pure, but
//! for what they count in stick tables.
//!
//! Rules see the request as the rules before them left it: with its new path, and with the header edits so far, the
//! frontend's own first (as HAProxy's `http-request` rules do). Nothing is allocated unless a path is changed.

mod compile;
mod condition;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use regex::bytes::Regex;

use super::edits::Edits;
use super::head::Request;
use super::lists::Lists;
use crate::plan::{HeaderEdit, Redirect, Reply, StickKey};
use crate::stick::{Event, Key, Table, Tracks, Update};
use crate::tls::Facts;
use crate::tls::hello::Hello;

use condition::{Test, View};

/// Compiled rules. A clone shares everything but the scratch memory of the regular expressions: one for each worker
/// keeps them from fighting over it.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    shared: Arc<Shared>,
    regexes: Box<[Regex]>,
}

#[derive(Debug)]
struct Shared {
    steps: Box<[Step]>,
    /// The frontend's own edits of every request, which conditions see.
    before: Box<[HeaderEdit]>,
    request_edits: Box<[HeaderEdit]>,
    response_edits: Box<[HeaderEdit]>,
    lists: Arc<Lists>,
    looks_into_hellos: bool,
}

#[derive(Debug)]
struct Step {
    when: Option<Test>,
    act: Act,
}

/// [`crate::plan::Action`]; edits and regular expressions by their numbers.
#[derive(Debug)]
enum Act {
    End(End),
    EditRequest(usize),
    EditResponse(usize),
    SetPath(String),
    Rewrite { regex: usize, to: String },
    Track(usize),
    IncGpc0(usize),
}

#[derive(Debug)]
enum End {
    Deny(Reply),
    Return(Reply),
    Reject { reset: bool },
    Tarpit(Duration),
    Redirect { to: Redirect, code: u16 },
    UseBackend(usize),
}

/// What conditions look at.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    /// Where the client is.
    pub(crate) client: IpAddr,
    /// The port that it came to.
    pub(crate) port: u16,
    /// `None`: it didn't come over TLS to us.
    pub(crate) tls: Option<&'a Facts>,
    /// In TCP, of TLS that is only passed on.
    pub(crate) hello: Option<&'a Hello>,
    /// `None` in TCP, where conditions on a request never hold.
    pub(crate) request: Option<&'a Request<'a, 'a>>,
    /// How many servers of a backend, by its index, can be used.
    pub(crate) servers_up: &'a dyn Fn(usize) -> u32,
    /// Stick tables, by index.
    pub(crate) tables: &'a [Arc<Table>],
    /// What the session is counted in.
    pub(crate) tracks: &'a Tracks,
}

/// What a walk came to.
#[derive(Debug, Default)]
pub(crate) struct Outcome<'r> {
    pub(crate) verdict: Verdict<'r>,
    /// For [`Rules::request_edits`].
    pub(crate) request_edits: Picked,
    /// For [`Rules::response_edits`].
    pub(crate) response_edits: Picked,
    /// In place of the request's target, if a rule changed its path.
    pub(crate) target: Option<String>,
}

/// How a walk ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Verdict<'r> {
    /// No rule ended it: the frontend's own backend.
    #[default]
    None,
    /// Index of the backend.
    UseBackend(usize),
    Deny(&'r Reply),
    Return(&'r Reply),
    Reject {
        reset: bool,
    },
    Tarpit(Duration),
    Redirect {
        to: &'r Redirect,
        code: u16,
    },
}

/// Which edits the walk passed, by number. Free of allocations for the first 64.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Picked {
    first: u64,
    beyond: Vec<usize>,
}

impl Picked {
    fn add(&mut self, number: usize) {
        match number {
            0..64 => self.first |= 1 << number,
            _ => self.beyond.push(number),
        }
    }

    /// Ascending: rules are walked from the top.
    fn numbers(&self) -> impl Iterator<Item = usize> + Clone {
        let mut bits = self.first;
        let first = std::iter::from_fn(move || {
            let number = bits.trailing_zeros() as usize;
            bits &= bits.checked_sub(1)?;
            Some(number)
        });
        first.chain(self.beyond.iter().copied())
    }
}

impl Rules {
    /// Whether a rule asks for what the hello of a TLS client says, which where TLS is only passed on must be looked for.
    pub(crate) fn looks_into_hellos(&self) -> bool {
        self.shared.looks_into_hellos
    }

    /// Top to bottom, to the first rule that ends it.
    pub(crate) fn walk(&self, subject: &Subject<'_>) -> Outcome<'_> {
        let mut outcome = Outcome::default();
        for step in &self.shared.steps {
            if step.when.as_ref().is_none_or(|test| self.view(subject, &outcome).holds(test)) {
                match &step.act {
                    Act::EditRequest(number) => outcome.request_edits.add(*number),
                    Act::EditResponse(number) => outcome.response_edits.add(*number),
                    Act::SetPath(path) => {
                        if let Some(target) = subject.target(&outcome) {
                            outcome.target = with_path(target, |_| Some(path.clone().into_bytes())).or(outcome.target);
                        }
                    }
                    Act::Rewrite { regex, to } => {
                        if let Some(target) = subject.target(&outcome) {
                            let replaced = with_path(target, |path| replace(&self.regexes[*regex], path, to));
                            outcome.target = replaced.or(outcome.target);
                        }
                    }
                    Act::Track(table) => {
                        if let Some((table, key)) = self.view(subject, &outcome).entry(*table) {
                            subject.tracks.track(table, key, subject.request.is_some());
                        }
                    }
                    Act::IncGpc0(table) => {
                        if let Some((table, key)) = self.view(subject, &outcome).entry(*table) {
                            table.update(&key, &[Update::Count(Event::Gpc0)], table.now());
                        }
                    }
                    Act::End(end) => {
                        outcome.verdict = end.verdict();
                        break;
                    }
                }
            }
        }
        outcome
    }

    /// What a stick table finds the client by, after the walk; `None`: it has nothing of the kind.
    pub(crate) fn key(&self, subject: &Subject<'_>, outcome: &Outcome<'_>, key: &StickKey) -> Option<Key> {
        self.view(subject, outcome).key(key)
    }

    /// The edits of a request that a walk picked.
    pub(crate) fn request_edits<'a>(&'a self, picked: &'a Picked) -> impl Edits<'a> {
        picked.numbers().map(|number| &self.shared.request_edits[number])
    }

    /// The edits of a response that a walk picked.
    pub(crate) fn response_edits<'a>(&'a self, picked: &'a Picked) -> impl Edits<'a> {
        picked.numbers().map(|number| &self.shared.response_edits[number])
    }

    fn view<'a>(&'a self, subject: &'a Subject<'a>, outcome: &'a Outcome<'_>) -> View<'a> {
        View { rules: self, subject, target: subject.target(outcome), edits: &outcome.request_edits }
    }
}

impl Subject<'_> {
    /// The server's name that the client asked for.
    fn sni(&self) -> Option<&str> {
        match (self.tls, self.hello) {
            (Some(facts), _) => facts.server_name.as_deref(),
            (None, hello) => hello?.sni.as_deref(),
        }
    }

    /// Whether the protocol was agreed on with the client, or is on offer where nothing is agreed on with us.
    fn speaks(&self, protocol: &str) -> bool {
        match (self.tls, self.hello) {
            (Some(facts), _) => facts.alpn.as_deref() == Some(protocol.as_bytes()),
            (None, Some(hello)) => hello.alpn.iter().any(|offered| **offered == *protocol.as_bytes()),
            (None, None) => false,
        }
    }

    /// The target as it is by now.
    fn target<'a>(&'a self, outcome: &'a Outcome<'_>) -> Option<&'a str> {
        outcome.target.as_deref().or(self.request.map(|request| request.target))
    }
}

impl End {
    fn verdict(&self) -> Verdict<'_> {
        match self {
            End::Deny(reply) => Verdict::Deny(reply),
            End::Return(reply) => Verdict::Return(reply),
            End::Reject { reset } => Verdict::Reject { reset: *reset },
            End::Tarpit(time) => Verdict::Tarpit(*time),
            End::Redirect { to, code } => Verdict::Redirect { to, code: *code },
            End::UseBackend(index) => Verdict::UseBackend(*index),
        }
    }
}

/// Path and query (with its `?`) of a target in origin-form or `*`.
fn path_and_query(target: &str) -> (&str, &str) {
    target.split_at(target.find('?').unwrap_or(target.len()))
}

/// The target with another path; `None`: `change` wants none, or the target is `*`, which has no path.
fn with_path(target: &str, change: impl FnOnce(&str) -> Option<Vec<u8>>) -> Option<String> {
    let (path, query) = path_and_query(target);
    let mut changed = change(path).filter(|_| path != "*")?;
    if changed.first() != Some(&b'/') {
        // What is no path would be no target either.
        changed.insert(0, b'/');
    }
    changed.extend_from_slice(query.as_bytes());
    // A target is ASCII; a pattern that cut a character in two would leave the path as it was.
    String::from_utf8(changed).ok()
}

/// The path with the first match replaced; `None`: it doesn't match.
fn replace(regex: &Regex, path: &str, to: &str) -> Option<Vec<u8>> {
    let groups = regex.captures(path.as_bytes())?;
    let all = groups.get(0).expect("a match has its whole");
    let mut changed = path.as_bytes()[..all.start()].to_vec();
    groups.expand(to.as_bytes(), &mut changed);
    changed.extend_from_slice(&path.as_bytes()[all.end()..]);
    Some(changed)
}
