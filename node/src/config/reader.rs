//! Walks a TOML document with its positions: every key is asked for once, what nobody asked for is an error.
//!
//! A [`Section`] is a table, a [`Value`] a value with its place. Reading never stops at a mistake: it is
//! noted in [`Findings`], and `None` says that there is no value to go on with.

use std::cell::RefCell;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Findings, Place, suggestion};
use super::duration;

/// A table of the file.
pub(super) struct Section<'a> {
    findings: &'a Findings<'a>,
    /// As its header would be written; empty for the file itself.
    path: String,
    span: Range<usize>,
    table: &'a DeTable<'a>,
    asked: RefCell<Vec<&'static str>>,
    /// Keys that were refused with a reason of their own.
    refused: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    pub(super) fn root(findings: &'a Findings<'a>, document: &'a Spanned<DeTable<'a>>) -> Self {
        Section {
            findings,
            path: String::new(),
            // The whole file is no place to point at: its first character is.
            span: 0..0,
            table: document.get_ref(),
            asked: RefCell::default(),
            refused: RefCell::default(),
        }
    }

    /// A key that may be left out.
    pub(super) fn optional<T>(&self, key: &'static str, read: impl FnOnce(Value<'a>) -> Option<T>) -> Option<T> {
        self.asked.borrow_mut().push(key);
        let value = self.table.get(key)?;
        read(Value { findings: self.findings, path: self.path_to(key), value })
    }

    /// A key that must be there.
    pub(super) fn required<T>(&self, key: &'static str, read: impl FnOnce(Value<'a>) -> Option<T>) -> Option<T> {
        if !self.table.contains_key(key) {
            self.report(format!("{} needs `{key}`", self.name()));
        }
        self.optional(key, read)
    }

    /// Whether a key is there, right or wrong.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Whether no key is there.
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Keys that exist but not here; `why` goes on after the key.
    pub(super) fn refuse(&self, keys: &[&'static str], why: &str) {
        for key in keys {
            self.refused.borrow_mut().push(key);
            if let Some((written, _)) = self.table.get_key_value(*key) {
                self.findings.report(written.span(), format!("`{key}` {why}"));
            }
        }
    }

    /// Keys that a later version will know: to ignore them would be to do something else than what is written.
    pub(super) fn later(&self, keys: &[&'static str]) {
        self.refuse(keys, "is not in this version yet");
    }

    /// All entries of a table whose keys are names that the user chose.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, Place, Value<'a>)> + '_ {
        self.table.iter().map(|(key, value)| {
            let name: &'a str = key.get_ref().as_ref();
            let place = self.findings.place(key.span());
            (name, place, Value { findings: self.findings, path: self.path_to(name), value })
        })
    }

    /// Says of every key that nobody asked for that it is unknown.
    pub(super) fn finish(self) {
        let asked = self.asked.into_inner();
        let refused = self.refused.into_inner();
        for key in self.table.keys() {
            let name: &str = key.get_ref().as_ref();
            if !asked.contains(&name) && !refused.contains(&name) {
                let place = if self.path.is_empty() { String::new() } else { format!(" in [{}]", self.path) };
                let near = suggestion(name, asked.iter().copied());
                self.findings.report(key.span(), format!("unknown key `{name}`{place}{near}"));
            }
        }
    }

    /// A mistake of the table as a whole.
    pub(super) fn report(&self, message: impl Into<String>) {
        self.findings.report(self.span.clone(), message);
    }

    fn name(&self) -> String {
        if self.path.is_empty() { "the file".to_owned() } else { format!("[{}]", self.path) }
    }

    fn path_to(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

/// A value of the file.
#[derive(Clone)]
pub(super) struct Value<'a> {
    findings: &'a Findings<'a>,
    path: String,
    value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Value<'a> {
    /// A mistake in this value.
    pub(super) fn report(&self, message: impl Into<String>) {
        self.findings.report(self.value.span(), message);
    }

    /// Where it stands.
    pub(super) fn place(&self) -> Place {
        self.findings.place(self.value.span())
    }

    /// Whether it is written as a string.
    pub(super) fn is_string(&self) -> bool {
        self.value.get_ref().is_str()
    }

    /// Whether it is written as a table.
    pub(super) fn is_table(&self) -> bool {
        self.value.get_ref().is_table()
    }

    /// Whether it is `true` or `false`.
    pub(super) fn is_boolean(&self) -> bool {
        self.value.get_ref().is_bool()
    }

    /// A table with keys of ours.
    pub(super) fn section(self) -> Option<Section<'a>> {
        match self.value.get_ref() {
            DeValue::Table(table) => Some(Section {
                findings: self.findings,
                path: self.path,
                span: self.value.span(),
                table,
                asked: RefCell::default(),
                refused: RefCell::default(),
            }),
            _ => self.mismatch("a table"),
        }
    }

    /// Each element of a list.
    pub(super) fn list(self) -> Option<Vec<Value<'a>>> {
        match self.value.get_ref() {
            DeValue::Array(items) => Some(
                items.iter().map(|value| Value { findings: self.findings, path: self.path.clone(), value }).collect(),
            ),
            _ => self.mismatch("a list"),
        }
    }

    fn one_or_more(self) -> Vec<Value<'a>> {
        match self.value.get_ref() {
            DeValue::Array(_) => self.list().unwrap_or_default(),
            _ => vec![self],
        }
    }

    /// Each of one value or a list of them; `None` if one is wrong, after all were looked at.
    pub(super) fn each<T>(self, what_if_empty: &str, read: impl FnMut(Value<'a>) -> Option<T>) -> Option<Vec<T>> {
        let values = self.clone().one_or_more();
        if values.is_empty() {
            self.report(format!("`{}` is empty: {what_if_empty}", self.key()));
            return None;
        }
        let read: Vec<Option<T>> = values.into_iter().map(read).collect();
        read.into_iter().collect()
    }

    /// A string that says something.
    pub(super) fn string(self) -> Option<String> {
        match self.value.get_ref() {
            DeValue::String(text) if text.trim().is_empty() => {
                self.report(format!("`{}` is empty", self.key()));
                None
            }
            DeValue::String(text) => Some(text.to_string()),
            _ => self.mismatch("a string"),
        }
    }

    /// A string that may be empty.
    pub(super) fn text(self) -> Option<String> {
        match self.value.get_ref() {
            DeValue::String(text) => Some(text.to_string()),
            _ => self.mismatch("a string"),
        }
    }

    /// The path of a file; relative to what would not be clear, because the text travels.
    pub(super) fn absolute_path(self) -> Option<String> {
        let path = self.clone().string()?;
        if !path.starts_with('/') || path.contains('\0') {
            self.report(format!("`{}` is no absolute path", path.escape_debug()));
            return None;
        }
        Some(path)
    }

    /// What passes a check of its own.
    pub(super) fn checked<T, E: Display>(&self, value: T, check: impl FnOnce(&T) -> Result<(), E>) -> Option<T> {
        match check(&value) {
            Ok(()) => Some(value),
            Err(error) => {
                self.report(error.to_string());
                None
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(self) -> Option<bool> {
        match self.value.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            _ => self.mismatch("true or false"),
        }
    }

    /// A whole number in a range.
    pub(super) fn integer<T: TryFrom<i64> + Display + PartialOrd>(self, range: RangeInclusive<T>) -> Option<T> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let DeValue::Integer(digits) = self.value.get_ref() else { return self.mismatch(&expected) };
        let number = i64::from_str_radix(digits.as_str(), digits.radix()).ok();
        let fits = number.and_then(|number| T::try_from(number).ok()).filter(|number| range.contains(number));
        if fits.is_none() {
            self.report(format!("`{}` is {expected}, not {digits}", self.key()));
        }
        fits
    }

    /// A length of time, written as `"250ms"`, `"15s"` or `"1m30s"`.
    pub(super) fn duration(self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let written = |length: &Duration| duration::written(*length);
        let DeValue::String(text) = self.value.get_ref() else {
            return self.mismatch("a length of time such as \"250ms\", \"15s\" or \"1m30s\"");
        };
        match duration::parse(text) {
            Ok(length) if range.contains(&length) => Some(length),
            Ok(_) => {
                let (least, most) = (written(range.start()), written(range.end()));
                self.report(format!("`{}` is from {least} to {most}, not {text}", self.key()));
                None
            }
            Err(error) => {
                self.report(format!("`{text}` is no length of time: {error}"));
                None
            }
        }
    }

    /// One of some words.
    pub(super) fn choice<T: Copy>(self, choices: &[(&str, T)]) -> Option<T> {
        let words = || choices.iter().map(|(word, _)| *word);
        let DeValue::String(text) = self.value.get_ref() else {
            return self.mismatch(&format!("one of \"{}\"", words().collect::<Vec<_>>().join("\", \"")));
        };
        let chosen = choices.iter().find(|(word, _)| word == text).map(|(_, value)| *value);
        if chosen.is_none() {
            self.report(format!("unknown {} `{text}`{}", self.key(), suggestion(text, words())));
        }
        chosen
    }

    /// `ip:port` or `[v6]:port`, with a port that is not 0.
    pub(super) fn socket_address(self) -> Option<SocketAddr> {
        let text = self.clone().string()?;
        let (host, port) = self.host_and_port(&text)?;
        let Some(ip) = ip_literal(host) else {
            self.report(format!(
                "`{host}` is no IP address, and a name is not resolved here: write ip:port or [v6]:port"
            ));
            return None;
        };
        Some(SocketAddr::new(ip, port))
    }

    /// `ip:port`, `[v6]:port` or `name:port`: an address, or a name and a port.
    pub(super) fn host_address(self) -> Option<Result<SocketAddr, (String, u16)>> {
        let text = self.clone().string()?;
        let (host, port) = self.host_and_port(&text)?;
        if let Some(ip) = ip_literal(host) {
            return Some(Ok(SocketAddr::new(ip, port)));
        }
        let name = host.strip_suffix('.').unwrap_or(host);
        if !is_host_name(name) {
            self.report(format!("`{}` is neither an IP address nor a host's name", host.escape_debug()));
            return None;
        }
        Some(Err((name.to_ascii_lowercase(), port)))
    }

    /// Splits `host:port` at the last colon that is not part of a v6 address.
    pub(super) fn host_and_port<'t>(&self, text: &'t str) -> Option<(&'t str, u16)> {
        let bracketed = text.starts_with('[');
        let split = text.rsplit_once(':').filter(|(host, _)| !bracketed || host.ends_with(']'));
        let Some((host, port)) = split else {
            self.report(format!("`{text}` has no port; expected {text}:PORT"));
            return None;
        };
        if host.contains(':') && !bracketed {
            self.report(format!("`{text}` is ambiguous; a v6 address is written [v6]:port"));
            return None;
        }
        match port.parse() {
            Ok(port @ 1..) => Some((host, port)),
            _ => {
                self.report(format!("`{port}` is no port; expected a number from 1 to 65535"));
                None
            }
        }
    }

    /// An IP address alone.
    pub(super) fn ip(self) -> Option<IpAddr> {
        let text = self.clone().string()?;
        let address = text.parse().ok();
        if address.is_none() {
            self.report(format!("`{text}` is no IP address; expected one such as 10.12.8.15, without port or prefix"));
        }
        address
    }

    /// The last part of the path: what the user wrote left of the `=`.
    fn key(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or(&self.path)
    }

    /// Says that something else was expected.
    pub(super) fn mismatch<T>(&self, expected: &str) -> Option<T> {
        let found = match self.value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.report(format!("`{}` is {expected}, but this is {found}", self.key()));
        None
    }
}

/// A host's name (RFC 1123 §2.1), with the underscore that some have all the same. One that ends in a number is meant as
/// an address.
fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        let inside = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        (1..=63).contains(&label.len()) && inside && !label.starts_with('-') && !label.ends_with('-')
    };
    let number = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    name.len() <= 253 && name.split('.').all(label) && !number
}

/// The address between the brackets, or without any.
pub(super) fn ip_literal(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']')?.parse().ok().map(IpAddr::V6),
        None => host.parse().ok().map(IpAddr::V4),
    }
}
