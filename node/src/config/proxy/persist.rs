//! `[stick_table.NAME]`, `persist` of backends, and what rules say of tables: how clients stay with their servers.

use std::time::Duration;

use proxy_core::plan::{
    Condition, Cookie, CookieMode, MAX_STICK_ENTRIES, Persist, SameSite, Server, StickCounter, StickKey, StickTable,
    check_name,
};

use super::super::diagnostic::suggestion;
use super::super::duration;
use super::super::reader::{Section, Value};
use super::{NEEDS_HTTP, Speaks};

/// How long entries and cookies may live.
const EXPIRE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(365 * 86_400);
/// Of a rate.
const PERIOD: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);
/// Dates in cookies count steps of 4 s.
const DATED: std::ops::RangeInclusive<Duration> = Duration::from_secs(4)..=Duration::from_secs(365 * 86_400);
const KEYS: &str = "`source`, `source/24`, `source/24/64`, `header:NAME`, `cookie:NAME`, `path` or `sni`";

/// The tables of the file, by index.
#[derive(Default)]
pub(super) struct Tables {
    pub(super) tables: Vec<StickTable>,
    /// Those that are wrong, which was said where they are: nobody who names them is.
    broken: Vec<usize>,
}

impl Tables {
    /// The table that a value names, for a frontend or backend of this mode.
    pub(super) fn find(&self, value: &Value<'_>, mode: Option<Speaks>) -> Option<usize> {
        let wanted = value.clone().string()?;
        let Some(index) = self.tables.iter().position(|table| table.name == wanted) else {
            let near = suggestion(&wanted, self.tables.iter().map(|table| table.name.as_str()));
            value.report(format!("unknown stick table `{wanted}`{near}"));
            return None;
        };
        if mode == Some(Speaks::Tcp) && !self.tables[index].key.is_of_connections() {
            value.report(format!("`{wanted}` finds clients by something of requests, which {NEEDS_HTTP}"));
        }
        Some(index)
    }

    /// Says so if a table doesn't count this.
    pub(super) fn counts(&self, index: usize, counter: StickCounter, value: &Value<'_>) {
        let StickTable { name, counters, .. } = &self.tables[index];
        if !counters.contains(&counter) && !self.broken.contains(&index) {
            let known: Vec<String> = counters.iter().map(ToString::to_string).collect();
            let known = if known.is_empty() { "nothing".to_owned() } else { format!("`{}`", known.join("`, `")) };
            value.report(format!("the stick table `{name}` counts no `{counter}`; its `counters` say {known}"));
        }
    }
}

/// Reads all tables.
pub(super) fn read(root: &Section<'_>) -> Tables {
    let mut all = Tables::default();
    root.optional("stick_table", |value| {
        for (name, _, value) in value.section()?.entries() {
            let read = value.section().and_then(|table| read_table(name, table));
            if read.is_none() {
                all.broken.push(all.tables.len());
            }
            // The name counts even if the table is broken.
            all.tables.push(read.unwrap_or_else(|| StickTable {
                name: name.to_owned(),
                key: StickKey::Source { v4: 32, v6: 128 },
                size: 1,
                expire: *EXPIRE.start(),
                counters: Vec::new(),
            }));
        }
        Some(())
    });
    all
}

fn read_table(name: &str, table: Section<'_>) -> Option<StickTable> {
    let key = table.required("key", read_key);
    let size = table.required("size", |value| value.integer(1..=MAX_STICK_ENTRIES));
    let expire = table.required("expire", |value| value.duration(EXPIRE));
    let counters = if table.has("counters") {
        let mut seen = Vec::new();
        table.optional("counters", |value| {
            value.each("leave it out", |value| {
                let counter = read_counter(value.clone())?;
                if seen.contains(&counter) {
                    value.report(format!("`{counter}` is there twice"));
                }
                seen.push(counter);
                Some(counter)
            })
        })
    } else {
        table.optional("counters", |_| None::<Vec<StickCounter>>);
        Some(Vec::new())
    };
    table.optional("replicate", |value| {
        if value.clone().boolean()? {
            value.report("`replicate = true` is not in this version yet: each node has a table of its own");
        }
        Some(())
    });
    table.finish();
    Some(StickTable { name: name.to_owned(), key: key?, size: size?, expire: expire?, counters: counters? })
}

fn read_key(value: Value<'_>) -> Option<StickKey> {
    let text = value.clone().string()?;
    let bad = || {
        value.report(format!("`{text}` is no key; expected {KEYS}"));
        None
    };
    if let Some((kind, name)) = text.split_once(':') {
        let name = name.trim();
        return match kind {
            "header" | "cookie" => {
                let name = value.checked(name.to_owned(), |name| check_name(name))?;
                Some(if kind == "header" { StickKey::Header(name) } else { StickKey::Cookie(name) })
            }
            _ => bad(),
        };
    }
    let mut parts = text.split('/');
    let kind = parts.next().unwrap_or_default();
    let bits: Vec<Option<u8>> = parts.map(|bits| bits.parse().ok()).collect();
    match (kind, &bits[..]) {
        ("source", []) => Some(StickKey::Source { v4: 32, v6: 128 }),
        ("source", [Some(v4 @ 1..=32)]) => Some(StickKey::Source { v4: *v4, v6: 128 }),
        ("source", [Some(v4 @ 1..=32), Some(v6 @ 1..=128)]) => Some(StickKey::Source { v4: *v4, v6: *v6 }),
        ("path", []) => Some(StickKey::Path),
        ("sni", []) => Some(StickKey::Sni),
        _ => bad(),
    }
}

/// A counter with a period.
type Rate = fn(Duration) -> StickCounter;

/// `conn_cur`, `http_req_rate(10s)` and the like.
fn read_counter(value: Value<'_>) -> Option<StickCounter> {
    const PLAIN: [(&str, StickCounter); 4] = [
        ("conn_cur", StickCounter::ConnCur),
        ("conn_cnt", StickCounter::ConnCnt),
        ("http_req_cnt", StickCounter::HttpReqCnt),
        ("gpc0", StickCounter::Gpc0),
    ];
    const RATES: [(&str, Rate); 5] = [
        ("conn_rate", StickCounter::ConnRate),
        ("http_req_rate", StickCounter::HttpReqRate),
        ("http_err_rate", StickCounter::HttpErrRate),
        ("bytes_in_rate", StickCounter::BytesInRate),
        ("bytes_out_rate", StickCounter::BytesOutRate),
    ];
    let text = value.clone().string()?;
    let (name, period) = match text.split_once('(') {
        Some((name, rest)) => (name, Some(rest.strip_suffix(')').unwrap_or(rest))),
        None => (&*text, None),
    };
    if let Some((_, counter)) = PLAIN.iter().find(|(known, _)| *known == name) {
        if period.is_some() {
            value.report(format!("`{name}` has no period: it counts from the beginning"));
            return None;
        }
        return Some(*counter);
    }
    let Some((_, rate)) = RATES.iter().find(|(known, _)| *known == name) else {
        let near = suggestion(name, PLAIN.iter().map(|(name, _)| *name).chain(RATES.iter().map(|(name, _)| *name)));
        value.report(format!("unknown counter `{name}`{near}"));
        return None;
    };
    match period.map(duration::parse) {
        Some(Ok(period)) if PERIOD.contains(&period) => Some(rate(period)),
        Some(Err(error)) => {
            value.report(format!("`{text}` has no period: {error}"));
            None
        }
        Some(Ok(_)) => {
            value.report(format!("the period of `{text}` is none from 1s to 1d"));
            None
        }
        None => {
            value.report(format!("a rate has a period, such as `{name}(10s)`"));
            None
        }
    }
}

/// `rate = { table, counter, above }` of a `when`.
pub(super) fn read_rate(table: Section<'_>, mode: Option<Speaks>, tables: &Tables) -> Option<Condition> {
    let index = table.required("table", |value| tables.find(&value, mode));
    let counter = table.required("counter", |value| {
        let counter = read_counter(value.clone())?;
        index.iter().for_each(|index| tables.counts(*index, counter, &value));
        Some(counter)
    });
    let above = table.required("above", |value| value.integer(0..=u32::MAX - 1));
    table.finish();
    Some(Condition::Rate { table: index?, counter: counter?, above: above? })
}

/// `persist` of a backend.
pub(super) fn read_persist(value: Value<'_>, mode: Option<Speaks>, tables: &Tables) -> Option<Persist> {
    let section = value.section()?;
    if section.has("table") == section.has("cookie") {
        section.report("clients are known by one of `table = \"NAME\"` and `cookie = { name = \"NAME\" }`");
    }
    let table = section.optional("table", |value| tables.find(&value, mode)).map(Persist::Table);
    let mut cookie = None;
    if mode == Some(Speaks::Tcp) {
        section.refuse(&["cookie"], NEEDS_HTTP);
    } else {
        cookie = section.optional("cookie", read_cookie).map(|cookie| Persist::Cookie(Box::new(cookie)));
    }
    section.finish();
    table.or(cookie)
}

fn read_cookie(value: Value<'_>) -> Option<Cookie> {
    let table = value.clone().section()?;
    let name = table.required("name", |value| {
        let name = value.clone().string()?;
        value.checked(name, |name| check_name(name))
    });
    let mode = table.optional("mode", |value| {
        value.choice(&[
            ("insert", CookieMode::Insert),
            ("rewrite", CookieMode::Rewrite),
            ("prefix", CookieMode::Prefix),
        ])
    });
    let flag = |key| table.optional(key, Value::boolean).unwrap_or(false);
    let (secure, http_only) = (flag("secure"), flag("http_only"));
    let same_site = table.optional("same_site", |value| {
        value.choice(&[("strict", SameSite::Strict), ("lax", SameSite::Lax), ("none", SameSite::None)])
    });
    let domain = table.optional("domain", Value::string);
    let max_idle = table.optional("max_idle", |value| value.duration(DATED));
    let max_life = table.optional("max_life", |value| value.duration(DATED));
    table.finish();
    let mode = mode.unwrap_or(CookieMode::Insert);
    let cookie = Cookie { name: name?, mode, secure, http_only, same_site, domain, max_idle, max_life };
    value.checked(cookie, Cookie::check)
}

/// What servers say of persistence, and where.
#[derive(Default)]
pub(super) struct OfServers<'a> {
    /// `stick` and `cookie`, where they are written.
    said: Vec<(Value<'a>, &'static str)>,
}

impl<'a> OfServers<'a> {
    /// Reads `stick` and `cookie` of a server.
    pub(super) fn read(&mut self, section: &Section<'a>) -> (bool, Option<String>) {
        let stick = section.optional("stick", |value| {
            let stick = value.clone().boolean()?;
            if !stick {
                self.said.push((value, "stick"));
            }
            Some(stick)
        });
        let cookie = section.optional("cookie", |value| {
            self.said.push((value.clone(), "cookie"));
            value.string()
        });
        (stick.unwrap_or(true), cookie)
    }

    /// What is said says something, and every server can be named in the backend's cookie. `servers`: where they are.
    pub(super) fn check(&self, persist: Option<&Persist>, servers: Option<&[Server]>, place: &Value<'_>) {
        for (value, key) in &self.said {
            match (key, persist) {
                (_, None) => value.report(format!("`{key}` does nothing without `persist` of the backend")),
                (&"cookie", Some(Persist::Table(_))) => {
                    value.report("`cookie` does nothing where clients are known by a stick table");
                }
                _ => {}
            }
        }
        let Some(Persist::Cookie(cookie)) = persist else { return };
        let servers = servers.unwrap_or_default();
        for (index, server) in servers.iter().enumerate() {
            let own = server.cookie_value();
            if let Err(error) = cookie.check_value(own) {
                let hint =
                    if server.cookie.is_none() { "; give it another name there: `cookie = \"…\"`" } else { "" };
                place.report(format!("server `{}`: {error}{hint}", server.name));
            }
            if let Some(other) = servers[..index].iter().find(|other| other.cookie_value() == own) {
                let (name, other) = (&server.name, &other.name);
                place.report(format!("server `{name}`: the cookie `{own}` is that of the server `{other}` already"));
            }
        }
    }
}
