//! Persistence cookies in heads that are ready to go out: which server a request names, and what its answer sets. Pure.
//!
//! Dates in a cookie are HAProxy's: after the server's value `|` and the date of the last request, then, with
//! `max_life`, `|` and that of the first; each counts steps of 4 s since 1970 in five characters of base64.
//! A cookie that is malformed in any way names nobody. What it says is only ever compared.

use std::ops::Range;
use std::time::Duration;

use crate::plan::{Cookie, CookieMode, DATES, PREFIX, SameSite, Server};

/// Seconds of one step of a date.
const STEP: u64 = 4;
/// A date may be so much ahead of ours: clocks differ.
const AHEAD: u64 = 24 * 3600;

/// What a request's cookie said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Presented {
    /// The server that it names and that may be used.
    pub(crate) server: Option<usize>,
    /// Dates of that cookie, in steps.
    last: Option<u64>,
    first: Option<u64>,
}

/// Reads the cookie in the head of a request, and takes away what a server is not to see of it. `now` in seconds.
pub(crate) fn request(
    head: &mut Vec<u8>,
    cookie: &Cookie,
    servers: &[Server],
    may_stay: impl Fn(usize) -> bool,
    now: u64,
) -> Presented {
    let mut found = Presented::default();
    let mut at = 0;
    while let Some(Line { name, value, end }) = next_line(head, at) {
        at = end;
        if !head[name].eq_ignore_ascii_case(b"cookie") {
            continue;
        }
        let mut left = Vec::new();
        let mut changed = false;
        for pair in head[value.clone()].split(|byte| *byte == b';') {
            let Some(sent) = value_of(pair, &cookie.name) else {
                push_pair(&mut left, pair);
                continue;
            };
            let (presented, rest) = understand(sent, cookie, servers, now);
            if found.server.is_none() && presented.server.is_some_and(&may_stay) {
                found = presented;
            }
            match (cookie.mode, rest) {
                (CookieMode::Insert, _) => changed = true,
                (CookieMode::Prefix, Some(rest)) => {
                    changed = true;
                    push_pair(&mut left, &[&b" "[..], cookie.name.as_bytes(), b"=", rest].concat());
                }
                _ => push_pair(&mut left, pair),
            }
        }
        if changed {
            let line = at_line_start(head, value.start)..end;
            let (goes, comes) = if left.is_empty() { (line, left) } else { (value, left) };
            at = end - goes.len() + comes.len();
            head.splice(goes, comes);
        }
    }
    found
}

/// Sets the cookie, or changes the server's own, in the head of an answer of this server. `now` in seconds.
pub(crate) fn response(head: &mut Vec<u8>, cookie: &Cookie, server: (usize, &Server), presented: &Presented, now: u64) {
    let (index, server) = server;
    let mut cacheable = true;
    let mut at = 0;
    while let Some(Line { name, value, end }) = next_line(head, at) {
        at = end;
        if head[name.clone()].eq_ignore_ascii_case(b"cache-control") {
            let lower = head[value].to_ascii_lowercase();
            cacheable &= !lower.split(|byte| *byte == b',').any(|directive| {
                let directive = directive.trim_ascii();
                [&b"private"[..], b"no-store", b"no-cache"].contains(&directive)
            });
            continue;
        }
        if !head[name.clone()].eq_ignore_ascii_case(b"set-cookie") {
            continue;
        }
        let whole = value.start..value.start + until(&head[value.clone()], b';');
        let Some(set) = value_of(&head[whole.clone()], &cookie.name) else { continue };
        // Where it lies in the head.
        let start = whole.end - trailing_space(&head[whole.clone()]) - set.len();
        let (goes, comes): (Range<usize>, Vec<u8>) = match cookie.mode {
            // The name is ours: two of them would be one too many.
            CookieMode::Insert => (name.start..end, Vec::new()),
            CookieMode::Rewrite if server.stick => (start..start + set.len(), server.cookie_value().into()),
            CookieMode::Rewrite => continue,
            CookieMode::Prefix => {
                let name = if server.stick { server.cookie_value() } else { "" };
                (start..start, [name.as_bytes(), &[PREFIX]].concat())
            }
        };
        at = end - goes.len() + comes.len();
        head.splice(goes, comes);
    }
    if cookie.mode != CookieMode::Insert || !server.stick || is_up_to_date(cookie, index, presented, now) {
        return;
    }
    let end = head.len() - 2;
    let mut lines = set_cookie(cookie, server, presented, now);
    if cacheable {
        // A cache would give one client's server to all of them.
        lines.extend_from_slice(b"Cache-Control: private\r\n");
    }
    head.splice(end..end, lines);
}

/// What a value names, and in a prefixed one what comes behind the prefix.
fn understand<'v>(value: &'v [u8], cookie: &Cookie, servers: &[Server], now: u64) -> (Presented, Option<&'v [u8]>) {
    let named = |value: &[u8]| servers.iter().position(|server| server.cookie_value().as_bytes() == value);
    match cookie.mode {
        CookieMode::Rewrite => (Presented { server: named(value), ..Presented::default() }, None),
        CookieMode::Prefix => match memchr::memchr(PREFIX, value) {
            Some(at) => (Presented { server: named(&value[..at]), ..Presented::default() }, Some(&value[at + 1..])),
            None => (Presented::default(), None),
        },
        CookieMode::Insert => {
            let mut parts = value.split(|byte| *byte == DATES);
            let server = named(parts.next().unwrap_or_default());
            let date = |part: Option<&[u8]>| match part {
                // A cookie from before dates were wanted is as good as any, and gets them.
                None | Some([]) => Some(None),
                Some(text) => from_base64(text).map(Some),
            };
            let (Some(last), Some(first), None) = (date(parts.next()), date(parts.next()), parts.next()) else {
                return (Presented::default(), None);
            };
            let fresh = is_fresh(last, cookie.max_idle, now) && is_fresh(first, cookie.max_life, now);
            (Presented { server: server.filter(|_| fresh), last, first }, None)
        }
    }
}

fn is_fresh(date: Option<u64>, limit: Option<Duration>, now: u64) -> bool {
    let Some((date, limit)) = date.zip(limit) else { return true };
    let date = date * STEP;
    date <= now + AHEAD && now <= date + limit.as_secs()
}

/// Whether the client has the cookie that it would get.
fn is_up_to_date(cookie: &Cookie, server: usize, presented: &Presented, now: u64) -> bool {
    let dated = cookie.max_idle.is_some() || cookie.max_life.is_some();
    let last = match cookie.max_idle {
        Some(_) => presented.last == Some(step(now)),
        None => presented.last.is_some() == dated,
    };
    presented.server == Some(server) && last && presented.first.is_some() == cookie.max_life.is_some()
}

fn set_cookie(cookie: &Cookie, server: &Server, presented: &Presented, now: u64) -> Vec<u8> {
    let mut line = format!("Set-Cookie: {}={}", cookie.name, server.cookie_value());
    if cookie.max_idle.is_some() || cookie.max_life.is_some() {
        line.push(char::from(DATES));
        to_base64(step(now), &mut line);
    }
    if cookie.max_life.is_some() {
        // Another server doesn't make the client's life longer.
        let first = presented.first.filter(|_| presented.server.is_some());
        line.push(char::from(DATES));
        to_base64(first.unwrap_or(step(now)), &mut line);
    }
    line.push_str("; path=/");
    if let Some(domain) = &cookie.domain {
        line.push_str("; domain=");
        line.push_str(domain);
    }
    if cookie.http_only {
        line.push_str("; HttpOnly");
    }
    if cookie.secure {
        line.push_str("; Secure");
    }
    line.push_str(match cookie.same_site {
        None => "",
        Some(SameSite::Strict) => "; SameSite=Strict",
        Some(SameSite::Lax) => "; SameSite=Lax",
        Some(SameSite::None) => "; SameSite=None",
    });
    line.push_str("\r\n");
    line.into_bytes()
}

/// A date of ours: rounded up, as HAProxy's.
fn step(now: u64) -> u64 {
    now.div_ceil(STEP)
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The lower 30 bits in five characters, the highest first.
fn to_base64(number: u64, out: &mut String) {
    for shift in [24, 18, 12, 6, 0] {
        out.push(char::from(BASE64[(number >> shift & 63) as usize]));
    }
}

fn from_base64(text: &[u8]) -> Option<u64> {
    let digit = |number: u64, byte: &u8| {
        let digit = BASE64.iter().position(|known| known == byte)?;
        Some(number << 6 | digit as u64)
    };
    if text.len() == 5 { text.iter().try_fold(0, digit) } else { None }
}

/// A line of a head, by its places in it.
struct Line {
    name: Range<usize>,
    /// Without white space around it.
    value: Range<usize>,
    /// Behind its end of line.
    end: usize,
}

/// The next field behind `at`, which is 0 or the end of one before. Heads come from our own writer: whole and sound.
fn next_line(head: &[u8], at: usize) -> Option<Line> {
    let line = |from: usize| Some(from + memchr::memchr(b'\n', head.get(from..)?)? + 1);
    let start = if at == 0 { line(0)? } else { at };
    let end = line(start)?;
    let text = head[start..end].strip_suffix(b"\r\n")?;
    let colon = memchr::memchr(b':', text)?;
    let value = &text[colon + 1..];
    let (left, right) = (value.len() - value.trim_ascii_start().len(), trailing_space(value));
    let first = start + colon + 1 + left.min(value.len() - right);
    Some(Line { name: start..start + colon, value: first..end - 2 - right, end })
}

fn trailing_space(text: &[u8]) -> usize {
    text.len() - text.trim_ascii_end().len()
}

/// Where the line begins whose value begins there.
fn at_line_start(head: &[u8], value: usize) -> usize {
    memchr::memrchr(b'\n', &head[..value]).map_or(0, |before| before + 1)
}

fn until(text: &[u8], byte: u8) -> usize {
    memchr::memchr(byte, text).unwrap_or(text.len())
}

/// The value of a pair of this name.
fn value_of<'p>(pair: &'p [u8], name: &str) -> Option<&'p [u8]> {
    let equals = memchr::memchr(b'=', pair)?;
    (pair[..equals].trim_ascii() == name.as_bytes()).then(|| pair[equals + 1..].trim_ascii())
}

/// Appends a pair to the value of a field.
fn push_pair(value: &mut Vec<u8>, pair: &[u8]) {
    if value.is_empty() {
        return value.extend_from_slice(pair.trim_ascii_start());
    }
    value.push(b';');
    value.extend_from_slice(pair);
}

#[cfg(test)]
#[path = "persist/tests.rs"]
mod tests;
