//! Whether a condition holds for a client or a request.

use std::sync::Arc;

use memchr::memmem;

use super::{Picked, Rules, Subject, path_and_query};
use crate::http::lists::Networks;
use crate::http::{cookie, host};
use crate::plan::{HeaderEdit, StickCounter, StickKey};
use crate::stick::{Key, Table};

/// [`crate::plan::Condition`]; regular expressions and lists by their numbers.
#[derive(Debug)]
pub(super) enum Test {
    All(Box<[Test]>),
    Any(Box<[Test]>),
    Not(Box<Test>),
    Tls(bool),
    Sni(Texts),
    Alpn(Box<[String]>),
    ClientCert(Texts),
    Host(Texts),
    Path(Texts),
    Query(Texts),
    Method(Box<[String]>),
    Header(String, Texts),
    Cookie(String, Texts),
    Source { networks: Networks, lists: Box<[usize]> },
    Port(Box<[u16]>),
    ServersUp { backend: usize, at_least: u32 },
    Rate { table: usize, counter: StickCounter, above: u32 },
}

/// [`crate::plan::Text`].
#[derive(Debug)]
pub(super) struct Texts {
    pub(super) any: Box<[Form]>,
    pub(super) ignore_case: bool,
}

/// [`crate::plan::Pattern`].
#[derive(Debug)]
pub(super) enum Form {
    Present,
    Is(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    /// It knows by itself whether case matters.
    Regex(usize),
}

/// The request as the rules before have left it.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) rules: &'a Rules,
    pub(super) subject: &'a Subject<'a>,
    pub(super) target: Option<&'a str>,
    pub(super) edits: &'a Picked,
}

impl View<'_> {
    pub(super) fn holds(&self, test: &Test) -> bool {
        match test {
            Test::All(all) => all.iter().all(|test| self.holds(test)),
            Test::Any(any) => any.iter().any(|test| self.holds(test)),
            Test::Not(test) => !self.holds(test),
            Test::Tls(tls) => self.subject.tls.is_some() == *tls,
            Test::Sni(texts) => self.subject.sni().is_some_and(|name| self.is(name.as_bytes(), texts)),
            Test::Alpn(any) => any.iter().any(|protocol| self.subject.speaks(protocol)),
            Test::ClientCert(texts) => {
                let client = self.subject.tls.and_then(|facts| facts.client.as_ref());
                client.is_some_and(|client| self.is(client.subject.as_bytes(), texts))
            }
            Test::Host(texts) => self.host().is_some_and(|host| self.is(host::without_port(host).as_bytes(), texts)),
            Test::Path(texts) => self.target.is_some_and(|all| self.is(path_and_query(all).0.as_bytes(), texts)),
            Test::Query(texts) => self.target.is_some_and(|all| {
                let query = path_and_query(all).1;
                self.is(query.strip_prefix('?').unwrap_or(query).as_bytes(), texts)
            }),
            Test::Method(any) => {
                self.subject.request.is_some_and(|request| any.iter().any(|method| method == request.method))
            }
            Test::Header(name, texts) => self.any_value(name, |value| self.is(value, texts)),
            Test::Cookie(name, texts) => self.any_value("Cookie", |value| {
                cookie::pairs(value).any(|(sent, value)| sent == name.as_bytes() && self.is(value, texts))
            }),
            Test::Source { networks, lists } => {
                let client = self.subject.client;
                networks.contains(client) || lists.iter().any(|list| self.rules.shared.lists.contains(*list, client))
            }
            Test::Port(any) => any.contains(&self.subject.port),
            Test::ServersUp { backend, at_least } => (self.subject.servers_up)(*backend) >= *at_least,
            Test::Rate { table, counter, above } => {
                self.entry(*table).is_some_and(|(table, key)| table.value(&key, *counter, table.now()) > *above)
            }
        }
    }

    fn is(&self, text: &[u8], texts: &Texts) -> bool {
        let same = |a: &[u8], b: &str| {
            if texts.ignore_case { a.eq_ignore_ascii_case(b.as_bytes()) } else { a == b.as_bytes() }
        };
        texts.any.iter().any(|form| match form {
            Form::Present => true,
            Form::Is(all) => same(text, all),
            Form::Prefix(part) => text.get(..part.len()).is_some_and(|beginning| same(beginning, part)),
            Form::Suffix(part) => {
                text.len().checked_sub(part.len()).is_some_and(|beginning| same(&text[beginning..], part))
            }
            Form::Contains(part) if part.is_empty() => true,
            Form::Contains(part) if texts.ignore_case => text.windows(part.len()).any(|window| same(window, part)),
            Form::Contains(part) => memmem::find(text, part.as_bytes()).is_some(),
            Form::Regex(number) => self.rules.regexes[*number].is_match(text),
        })
    }

    /// Whether a field of this name, by now, has a value like this.
    fn any_value(&self, name: &str, is: impl Fn(&[u8]) -> bool) -> bool {
        let Some(request) = self.subject.request else { return false };
        let (mut sent, mut found) = (true, false);
        for edit in self.edits() {
            match edit {
                HeaderEdit::Set(edited, value) if edited.eq_ignore_ascii_case(name) => {
                    (sent, found) = (false, is(value.as_bytes()));
                }
                HeaderEdit::Remove(edited) if edited.eq_ignore_ascii_case(name) => (sent, found) = (false, false),
                HeaderEdit::Add(edited, value) if edited.eq_ignore_ascii_case(name) => found |= is(value.as_bytes()),
                _ => {}
            }
        }
        let fields = if sent { request.fields } else { &[] };
        found || fields.iter().any(|field| field.name.eq_ignore_ascii_case(name) && is(field.value))
    }

    /// A stick table, and what it finds the client by.
    pub(super) fn entry(&self, table: usize) -> Option<(&Arc<Table>, Key)> {
        let table = self.subject.tables.get(table)?;
        Some((table, self.key(table.key())?))
    }

    pub(super) fn key(&self, key: &StickKey) -> Option<Key> {
        match key {
            StickKey::Source { v4, v6 } => Some(Key::address(self.subject.client, *v4, *v6)),
            StickKey::Sni => Key::text(self.subject.sni()?.as_bytes()),
            StickKey::Path => Key::text(path_and_query(self.target?).0.as_bytes()),
            StickKey::Header(name) => self.first_value(name, Key::text),
            StickKey::Cookie(name) => self.first_value("Cookie", |value| {
                cookie::pairs(value).find(|(sent, _)| *sent == name.as_bytes()).and_then(|(_, value)| Key::text(value))
            }),
        }
    }

    /// What `pick` makes of the first field of this name, by now, of which it makes something.
    fn first_value<T>(&self, name: &str, pick: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        let (mut sent, mut found) = (true, None);
        for edit in self.edits() {
            match edit {
                HeaderEdit::Set(edited, value) if edited.eq_ignore_ascii_case(name) => {
                    (sent, found) = (false, pick(value.as_bytes()));
                }
                HeaderEdit::Remove(edited) if edited.eq_ignore_ascii_case(name) => (sent, found) = (false, None),
                HeaderEdit::Add(edited, value) if edited.eq_ignore_ascii_case(name) => {
                    found = found.or_else(|| pick(value.as_bytes()));
                }
                _ => {}
            }
        }
        let fields = if sent { self.subject.request?.fields } else { &[] };
        let mut fields = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        fields.find_map(|field| pick(field.value)).or(found)
    }

    fn host(&self) -> Option<&str> {
        let set = self.edits().filter_map(|edit| match edit {
            HeaderEdit::Set(name, value) if name.eq_ignore_ascii_case("Host") => Some(value.as_str()),
            _ => None,
        });
        set.last().or(self.subject.request?.host)
    }

    fn edits(&self) -> impl Iterator<Item = &HeaderEdit> {
        self.rules.shared.before.iter().chain(self.rules.request_edits(self.edits))
    }
}
