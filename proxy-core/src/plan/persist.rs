//! How a client stays with its server: by a stick table, or by a cookie.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::text::check_name;
use super::{Plan, Server};

/// What a backend remembers a client's server by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Persist {
    /// Index into [`super::Plan::stick_tables`].
    Table(usize),
    /// HTTP only.
    Cookie(Box<Cookie>),
}

/// A cookie that names a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cookie {
    /// A token.
    pub name: String,
    /// Whose cookie it is.
    pub mode: CookieMode,
    /// `Secure`: over TLS only.
    pub secure: bool,
    /// `HttpOnly`: not for scripts.
    pub http_only: bool,
    /// `SameSite`.
    pub same_site: Option<SameSite>,
    /// `Domain`.
    pub domain: Option<String>,
    /// A client that was silent for longer is balanced anew; kept in the cookie.
    pub max_idle: Option<Duration>,
    /// A cookie that is older is not followed; kept in the cookie.
    pub max_life: Option<Duration>,
}

/// Whose cookie it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CookieMode {
    /// Ours: set for the client, taken from the request before a server sees it.
    Insert,
    /// The servers': the value of what they set is replaced with the server's.
    Rewrite,
    /// The servers': the server's value and `~` come before what they set, and go before they see it again.
    Prefix,
}

/// RFC 6265bis §4.1.2.7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SameSite {
    /// `Strict`
    Strict,
    /// `Lax`
    Lax,
    /// `None`
    None,
}

/// What is known of clients for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StickTable {
    /// Unique among tables.
    pub name: String,
    /// What an entry is found by.
    pub key: StickKey,
    /// Entries at most; one more takes the place of the one that was used longest ago.
    pub size: u32,
    /// After so much time without use an entry goes.
    pub expire: Duration,
    /// What is counted of each.
    pub counters: Vec<StickCounter>,
}

/// What an entry is found by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StickKey {
    /// The client's address, with so many leading bits; an IPv4 address keeps all of its own if there are more.
    Source {
        /// 1 to 32.
        v4: u8,
        /// 1 to 128.
        v6: u8,
    },
    /// The first value of a header.
    Header(String),
    /// The first value of a cookie.
    Cookie(String),
    /// The path without the query.
    Path,
    /// The name that was asked for over TLS.
    Sni,
}

/// One thing that is counted of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StickCounter {
    /// Connections now.
    ConnCur,
    /// Connections ever.
    ConnCnt,
    /// Connections within the last period.
    ConnRate(Duration),
    /// Requests ever.
    HttpReqCnt,
    /// Requests within the last period.
    HttpReqRate(Duration),
    /// Requests that were answered 4xx, or refused, within the last period.
    HttpErrRate(Duration),
    /// Bytes from the client within the last period.
    BytesInRate(Duration),
    /// Bytes to the client within the last period.
    BytesOutRate(Duration),
    /// A counter of the rules' own.
    Gpc0,
}

/// What a cookie's value is parted by where dates follow it, as in HAProxy.
pub(crate) const DATES: u8 = b'|';
/// What is between the server's part and the rest in a prefixed cookie, as in HAProxy.
pub(crate) const PREFIX: u8 = b'~';
/// Entries that a table may have.
pub const MAX_STICK_ENTRIES: u32 = 1 << 28;

impl fmt::Display for StickCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, period) = match self {
            StickCounter::ConnCur => ("conn_cur", None),
            StickCounter::ConnCnt => ("conn_cnt", None),
            StickCounter::ConnRate(period) => ("conn_rate", Some(period)),
            StickCounter::HttpReqCnt => ("http_req_cnt", None),
            StickCounter::HttpReqRate(period) => ("http_req_rate", Some(period)),
            StickCounter::HttpErrRate(period) => ("http_err_rate", Some(period)),
            StickCounter::BytesInRate(period) => ("bytes_in_rate", Some(period)),
            StickCounter::BytesOutRate(period) => ("bytes_out_rate", Some(period)),
            StickCounter::Gpc0 => ("gpc0", None),
        };
        let Some(period) = period else { return f.write_str(name) };
        let (seconds, rest) = (period.as_secs(), period.subsec_millis());
        match (seconds, rest) {
            (0, _) | (_, 1..) => write!(f, "{name}({}ms)", period.as_millis()),
            (seconds, _) if seconds % 86_400 == 0 => write!(f, "{name}({}d)", seconds / 86_400),
            (seconds, _) if seconds % 3600 == 0 => write!(f, "{name}({}h)", seconds / 3600),
            (seconds, _) if seconds % 60 == 0 => write!(f, "{name}({}m)", seconds / 60),
            (seconds, _) => write!(f, "{name}({seconds}s)"),
        }
    }
}

impl StickKey {
    /// Whether it is known of a connection before its first request.
    pub fn is_of_connections(&self) -> bool {
        matches!(self, StickKey::Source { .. } | StickKey::Sni)
    }
}

impl StickTable {
    pub(super) fn validate(&self) -> Result<(), String> {
        if self.size == 0 || self.size > MAX_STICK_ENTRIES {
            return Err(format!("{} entries: between 1 and {MAX_STICK_ENTRIES} can be kept", self.size));
        }
        if self.expire.as_millis() == 0 {
            return Err("its entries would be over at once".into());
        }
        match &self.key {
            StickKey::Source { v4, v6 } if !(1..=32).contains(v4) || !(1..=128).contains(v6) => {
                return Err(format!("{v4} and {v6} are no lengths of prefixes"));
            }
            StickKey::Header(name) | StickKey::Cookie(name) => {
                check_name(name).map_err(|problem| problem.to_string())?;
            }
            _ => {}
        }
        let mut seen = HashSet::new();
        match self.counters.iter().find(|counter| !seen.insert(**counter)) {
            Some(twice) => Err(format!("`{twice}` is counted twice")),
            None => Ok(()),
        }
    }
}

impl Persist {
    /// For a backend whose servers are these.
    pub(super) fn validate(&self, plan: &Plan, servers: &[Server]) -> Result<(), String> {
        match self {
            Persist::Table(index) if *index >= plan.stick_tables.len() => {
                Err(format!("there is no stick table number {index}"))
            }
            Persist::Table(_) => Ok(()),
            Persist::Cookie(cookie) => {
                cookie.check().map_err(|problem| problem.to_string())?;
                let mut seen = HashSet::new();
                for server in servers {
                    let value = server.cookie_value();
                    cookie.check_value(value).map_err(|problem| format!("server `{}`: {problem}", server.name))?;
                    if !seen.insert(value) {
                        return Err(format!("server `{}`: the cookie `{value}` is another server's", server.name));
                    }
                }
                Ok(())
            }
        }
    }
}

/// Why a cookie can't be set so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what each one is")]
pub enum BadCookie {
    #[error(transparent)]
    Name(#[from] super::BadText),
    #[error("`{}` can't stand in a cookie: visible ASCII without `\"`, `,`, `;`, `\\`, `|` and `~`, 1 to 256 bytes", .0.escape_debug())]
    Value(String),
    #[error("`{}` is no domain: letters, digits, `.` and `-`", .0.escape_debug())]
    Domain(String),
    #[error("dates are kept in a cookie with `mode = \"insert\"` only")]
    Dates,
    #[error("a length of time is below 4 s, in steps of which dates are kept")]
    Short,
    #[error("browsers refuse `SameSite=None` without `Secure`: set `secure = true`")]
    SameSite,
    #[error("the cookie is the servers' own, and so are its attributes: `{0}` is for `mode = \"insert\"`")]
    Attribute(&'static str),
}

impl Cookie {
    /// Whether it can be set like that.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), BadCookie> {
        check_name(&self.name)?;
        let times = [self.max_idle, self.max_life];
        if self.mode != CookieMode::Insert {
            let attributes = [
                (self.secure, "secure"),
                (self.http_only, "http_only"),
                (self.same_site.is_some(), "same_site"),
                (self.domain.is_some(), "domain"),
            ];
            if let Some((_, name)) = attributes.into_iter().find(|(there, _)| *there) {
                return Err(BadCookie::Attribute(name));
            }
            if times.iter().any(Option::is_some) {
                return Err(BadCookie::Dates);
            }
        }
        if times.into_iter().flatten().any(|time| time < Duration::from_secs(4)) {
            return Err(BadCookie::Short);
        }
        if self.same_site == Some(SameSite::None) && !self.secure {
            return Err(BadCookie::SameSite);
        }
        let domain = |domain: &&String| {
            domain.is_empty() || !domain.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
        };
        self.domain.as_ref().filter(domain).map_or(Ok(()), |domain| Err(BadCookie::Domain(domain.clone())))
    }

    /// Whether a server can have this value in it (RFC 6265 §4.1.1, and what parts it from the rest).
    ///
    /// # Errors
    /// It can't.
    pub fn check_value(&self, value: &str) -> Result<(), BadCookie> {
        let octet = |byte: u8| byte.is_ascii_graphic() && !b"\",;\\".contains(&byte) && byte != DATES && byte != PREFIX;
        let fits = (1..=256).contains(&value.len()) && value.bytes().all(octet);
        if fits { Ok(()) } else { Err(BadCookie::Value(value.to_owned())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::valid;
    use crate::plan::{Action, Condition, Rule};

    const RATE: StickCounter = StickCounter::HttpReqRate(Duration::from_secs(10));

    fn table(plan: &mut Plan) -> &mut StickTable {
        plan.stick_tables.push(StickTable {
            name: "t".into(),
            key: StickKey::Source { v4: 32, v6: 128 },
            size: 1,
            expire: Duration::from_secs(1),
            counters: vec![RATE],
        });
        plan.stick_tables.last_mut().expect("it was put there")
    }

    fn cookie(plan: &mut Plan, change: impl FnOnce(&mut Cookie)) {
        let mut cookie = Cookie {
            name: "SRV".into(),
            mode: CookieMode::Insert,
            secure: false,
            http_only: false,
            same_site: None,
            domain: None,
            max_idle: None,
            max_life: None,
        };
        change(&mut cookie);
        plan.frontends.clear();
        plan.backends[0].persist = Some(Persist::Cookie(Box::new(cookie)));
    }

    fn rule(plan: &mut Plan, when: Option<Condition>, action: Action) {
        plan.frontends[0].rules.push(Rule { when, action });
    }

    #[test]
    fn persistence_that_cannot_be_run_is_refused_with_its_place() {
        type Case = (fn(&mut Plan), &'static str);
        let refused: [Case; 20] = [
            (|plan| table(plan).size = 0, "stick_table `t`: 0 entries: between 1 and 268435456 can be kept"),
            (|plan| table(plan).expire = Duration::ZERO, "stick_table `t`: its entries would be over at once"),
            (
                |plan| table(plan).key = StickKey::Source { v4: 0, v6: 129 },
                "stick_table `t`: 0 and 129 are no lengths of prefixes",
            ),
            (|plan| table(plan).counters.push(RATE), "stick_table `t`: `http_req_rate(10s)` is counted twice"),
            (
                |plan| {
                    table(plan);
                    table(plan);
                },
                "stick_table `t`: the name is taken",
            ),
            (
                |plan| plan.backends[0].persist = Some(Persist::Table(0)),
                "backend `left`: there is no stick table number 0",
            ),
            (
                |plan| {
                    table(plan).key = StickKey::Path;
                    plan.backends[1].persist = Some(Persist::Table(0));
                },
                "frontend `web`: TCP has no requests, by which the backend `right` knows its clients",
            ),
            (|plan| rule(plan, None, Action::Track(0)), "frontend `web`: rule 1: there is no stick table number 0"),
            (
                |plan| {
                    table(plan).key = StickKey::Header("A".into());
                    rule(plan, None, Action::Track(0));
                },
                "frontend `web`: rule 1: TCP has nothing that is a key of the stick table `t`",
            ),
            (
                |plan| {
                    table(plan);
                    rule(plan, None, Action::IncGpc0(0));
                },
                "frontend `web`: rule 1: the stick table `t` has no `gpc0`",
            ),
            (
                |plan| {
                    table(plan);
                    let counter = StickCounter::ConnRate(Duration::from_millis(90_500));
                    let when = Condition::Not(Box::new(Condition::Rate { table: 0, counter, above: 1 }));
                    rule(plan, Some(when), Action::Reject { reset: false });
                },
                "frontend `web`: rule 1: the stick table `t` has no `conn_rate(90500ms)`",
            ),
            (
                |plan| cookie(plan, |cookie| cookie.name = "a b".into()),
                "backend `left`: `a b` is no header name: letters, digits and !#$%&'*+-.^_`|~ only",
            ),
            (
                |plan| cookie(plan, |cookie| cookie.domain = Some("a\r\nb".into())),
                "backend `left`: `a\\r\\nb` is no domain: letters, digits, `.` and `-`",
            ),
            (
                |plan| cookie(plan, |cookie| cookie.same_site = Some(SameSite::None)),
                "backend `left`: browsers refuse `SameSite=None` without `Secure`: set `secure = true`",
            ),
            (
                |plan| cookie(plan, |cookie| cookie.max_life = Some(Duration::from_secs(3))),
                "backend `left`: a length of time is below 4 s, in steps of which dates are kept",
            ),
            (
                |plan| {
                    cookie(plan, |cookie| {
                        (cookie.mode, cookie.max_idle) = (CookieMode::Prefix, Some(Duration::from_secs(9)));
                    });
                },
                "backend `left`: dates are kept in a cookie with `mode = \"insert\"` only",
            ),
            (
                |plan| cookie(plan, |cookie| (cookie.mode, cookie.http_only) = (CookieMode::Rewrite, true)),
                "backend `left`: the cookie is the servers' own, and so are its attributes: `http_only` is for `mode = \"insert\"`",
            ),
            (
                |plan| {
                    cookie(plan, |_| {});
                    plan.backends[0].servers[1].cookie = Some("a;b".into());
                },
                "backend `left`: server `two`: `a;b` can't stand in a cookie: visible ASCII without `\"`, `,`, `;`, `\\`, `|` and `~`, 1 to 256 bytes",
            ),
            (
                |plan| {
                    cookie(plan, |_| {});
                    plan.backends[0].servers[1].cookie = Some("one".into());
                },
                "backend `left`: server `two`: the cookie `one` is another server's",
            ),
            (
                |plan| {
                    cookie(plan, |_| {});
                    plan.backends[0].servers[1].cookie = Some(String::new());
                },
                "backend `left`: server `two`: `` can't stand in a cookie: visible ASCII without `\"`, `,`, `;`, `\\`, `|` and `~`, 1 to 256 bytes",
            ),
        ];
        for (change, message) in refused {
            let mut plan = valid();
            change(&mut plan);
            assert_eq!(plan.validate().map_err(|error| error.to_string()), Err(message.to_owned()));
        }
    }

    #[test]
    fn counters_are_written_as_they_are_read() {
        let rate = |milliseconds| StickCounter::BytesInRate(Duration::from_millis(milliseconds)).to_string();
        let table = [(250, "250ms"), (1_500, "1500ms"), (10_000, "10s"), (90_000, "90s"), (120_000, "2m")];
        let table = table.into_iter().chain([(3_600_000, "1h"), (86_400_000, "1d")]);
        for (milliseconds, text) in table {
            assert_eq!(rate(milliseconds), format!("bytes_in_rate({text})"));
        }
        assert_eq!(StickCounter::ConnCur.to_string(), "conn_cur");
    }
}
