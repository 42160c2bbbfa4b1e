//! How a backend's servers are checked.

use std::time::Duration;

use proxy_core::plan::{Check, Probe, ServerTls};

use super::super::reader::{Section, Value};
use super::timeouts::TIMEOUT;
use super::{Certificates, tls};

/// Reads a backend's `check`; `timeout` and `inherited` hold if it has none of its own.
pub(super) fn read(
    section: Section<'_>,
    timeout: Option<Duration>,
    log: bool,
    inherited: Option<ServerTls>,
    certificates: &Certificates,
) -> Option<Check> {
    let tls = section.optional("tls", |value| {
        if value.is_boolean() {
            if value.clone().boolean()? {
                value.report(
                    "`tls` is false, or a table such as { verify = \"none\" }; without it a check is as the backend",
                );
            }
            return Some(None);
        }
        tls::read_servers(value, certificates, None, false).map(Some)
    });
    let tcp = section.optional("tcp", |value| {
        let table = value.section()?;
        let port = table.optional("port", |value| value.integer(1..=u16::MAX));
        table.finish();
        Some((Probe::Tcp, port))
    });
    let http = section.optional("http", |value| {
        if tcp.is_some() {
            value.report("a check is either `tcp` or `http`");
        }
        read_http(value.section()?)
    });
    let interval = section.optional("interval", |value| value.duration(TIMEOUT)).unwrap_or(Duration::from_secs(2));
    let own = section.optional("timeout", |value| value.duration(TIMEOUT));
    let rise = section.optional("rise", |value| value.integer(1..=100u32));
    let fall = section.optional("fall", |value| value.integer(1..=100u32));
    let kind = tcp.or(http);
    if kind.is_none() && !section.has("tcp") && !section.has("http") {
        section.report("a check needs `tcp = {}` or `http = { ... }`");
    }
    section.finish();
    let (probe, port) = kind?;
    Some(Check {
        probe,
        tls: tls.unwrap_or(inherited),
        port,
        interval,
        timeout: own.or(timeout).unwrap_or(interval),
        rise: rise.unwrap_or(2),
        fall: fall.unwrap_or(3),
        log,
    })
}

fn read_http(table: Section<'_>) -> Option<(Probe, Option<u16>)> {
    let method =
        table.optional("method", |value| value.choice(&[("GET", "GET"), ("HEAD", "HEAD"), ("OPTIONS", "OPTIONS")]));
    let path = table.optional("path", |value| {
        let path = value.clone().string()?;
        let valid = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
        if !valid {
            value.report(format!("`{path}` is no path: it begins with `/` and has no spaces or control characters"));
        }
        valid.then_some(path)
    });
    let host = table.optional("host", |value| {
        let host = value.clone().string()?;
        let valid = host.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
        if !valid {
            value.report(format!("`{host}` is no host name"));
        }
        valid.then_some(host)
    });
    let expect = table.optional("expect", |value| value.each("no answer would be good", status_range));
    let port = table.optional("port", |value| value.integer(1..=u16::MAX));
    table.finish();
    let probe = Probe::Http {
        method: method.unwrap_or("GET").to_owned(),
        path: path.unwrap_or_else(|| "/".to_owned()),
        host,
        expect: expect.unwrap_or_else(|| vec![(200, 399)]),
    };
    Some((probe, port))
}

/// `"200"` or `"200-399"`.
fn status_range(value: Value<'_>) -> Option<(u16, u16)> {
    let text = value.clone().string()?;
    let (first, last) = text.split_once('-').unwrap_or((&text, &text));
    let number = |text: &str| text.trim().parse().ok().filter(|code| (100..=599).contains(code));
    let range = number(first).zip(number(last)).filter(|(first, last)| first <= last);
    if range.is_none() {
        value.report(format!("`{text}` is no status: expected one such as \"200\" or a range such as \"200-399\""));
    }
    range
}
