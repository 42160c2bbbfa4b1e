//! How a backend chooses its servers: `balance` and what goes with it.

use std::ops::RangeInclusive;
use std::time::Duration;

use proxy_core::plan::{Balance, HashOf, Hashing, Server, check_name};

use super::super::diagnostic::suggestion;
use super::super::reader::{Section, Value};
use super::NEEDS_HTTP;
use super::timeouts::TIMEOUT;

/// Percent of the mean load.
const BOUND: RangeInclusive<u16> = 101..=1000;
/// What `balance` may be.
const WORDS: [&str; 9] = [
    "round-robin",
    "static-round-robin",
    "least-conn",
    "first",
    "random",
    "source",
    "uri",
    "header:NAME",
    "cookie:NAME",
];

/// What the keys say.
pub(super) struct Read {
    pub(super) balance: Balance,
    pub(super) all_backups: bool,
    pub(super) prefer_last_server: bool,
    pub(super) slow_start: Option<Duration>,
}

/// Reads them, for these servers if they could be read.
pub(super) fn read(section: &Section<'_>, http: bool, servers: Option<&[Server]>) -> Read {
    let said = section.optional("balance", |value| read_balance(&value, http));
    // Who mistyped what is to be hashed is told of that alone.
    let may_hash = said.as_ref().map_or(section.has("balance"), |balance| matches!(balance, Balance::Hash(..)));
    let consistent = section.optional("hash", |value| {
        if !may_hash {
            value.report("`hash` does nothing: only balance `source`, `uri`, `header:NAME` and `cookie:NAME` hash");
        }
        value.choice(&[("map", false), ("consistent", true)])
    });
    let bound = section.optional("hash_bound", |value| {
        if consistent != Some(true) {
            value.report("`hash_bound` needs `hash = \"consistent\"`");
        }
        value.integer(BOUND)
    });
    let mut balance = said.unwrap_or(Balance::RoundRobin);
    if let Balance::Hash(_, hashing) = &mut balance
        && consistent == Some(true)
    {
        *hashing = Hashing::Consistent { bound };
    }
    let all_backups = section.optional("all_backups", |value| {
        let all = value.clone().boolean()?;
        if all && servers.is_some_and(|servers| !servers.iter().any(|server| server.backup)) {
            value.report("`all_backups` does nothing: no server has `backup = true`");
        }
        Some(all)
    });
    let all_backups = all_backups.unwrap_or(false);
    if let Some(servers) = servers {
        section.optional("balance", |value| value.checked((), |()| balance.check(servers, all_backups)));
    }
    Read {
        prefer_last_server: read_prefer_last(section, http, &balance),
        slow_start: section.optional("slow_start", |value| read_slow_start(value, section, &balance, servers)),
        balance,
        all_backups,
    }
}

fn read_balance(value: &Value<'_>, http: bool) -> Option<Balance> {
    let text = value.clone().string()?;
    let of = match text.split_once(':') {
        None => match &*text {
            "round-robin" => return Some(Balance::RoundRobin),
            "static-round-robin" => return Some(Balance::StaticRoundRobin),
            "least-conn" => return Some(Balance::LeastConn),
            "first" => return Some(Balance::First),
            "random" => return Some(Balance::Random),
            "source" => HashOf::Source,
            "uri" => HashOf::Uri,
            _ => return unknown(value, &text),
        },
        Some(("header", name)) => HashOf::Header(value.checked(name.to_owned(), |name| check_name(name))?),
        Some(("cookie", name)) => HashOf::Cookie(value.checked(name.to_owned(), |name| check_name(name))?),
        Some(_) => return unknown(value, &text),
    };
    if !http && of != HashOf::Source {
        value.report(format!("balance `{text}` {NEEDS_HTTP}"));
        return None;
    }
    Some(Balance::Hash(of, Hashing::Map))
}

fn unknown(value: &Value<'_>, text: &str) -> Option<Balance> {
    value.report(format!("unknown balance `{text}`{}", suggestion(text, WORDS)));
    None
}

fn read_prefer_last(section: &Section<'_>, http: bool, balance: &Balance) -> bool {
    if !http {
        section.refuse(&["prefer_last_server"], NEEDS_HTTP);
        return false;
    }
    let wanted = section.optional("prefer_last_server", |value| {
        let wanted = value.clone().boolean()?;
        if wanted && balance.is_by_request() {
            value.report(
                "`prefer_last_server` can't be had with a `balance` by which each request has a server of its own",
            );
        }
        Some(wanted)
    });
    wanted.unwrap_or(false)
}

fn read_slow_start(
    value: Value<'_>,
    section: &Section<'_>,
    balance: &Balance,
    servers: Option<&[Server]>,
) -> Option<Duration> {
    if !section.has("check") {
        value.report("`slow_start` does nothing without `check`: no server ever goes down and comes up");
    }
    let limited = servers.is_none_or(|servers| servers.iter().any(|server| server.max_connections.is_some()));
    if !balance.follows_weights() && !limited {
        value.report("`slow_start` does nothing: this `balance` has fixed shares, and no server has `max_connections`");
    }
    value.duration(TIMEOUT)
}
