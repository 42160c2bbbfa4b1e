//! How a backend's servers are checked: `check`, and `agent_check`.

use std::net::IpAddr;
use std::time::Duration;

use proxy_core::plan::{
    AgentCheck, Check, Content, HttpProbe, Observe, OnError, Probe, Program, SendProxy, ServerTls, check_expression,
    check_probe_header,
};

use super::super::reader::{Section, Value};
use super::timeouts::TIMEOUT;
use super::{Certificates, tls};

/// What can be asked.
const KINDS: [&str; 5] = ["tcp", "http", "smtp", "imap", "program"];
/// Who a program runs as unless somebody says so.
const NOBODY: &str = "nobody";

/// A probe, and where it goes if not to the server itself.
struct Kind {
    probe: Probe,
    address: Option<IpAddr>,
    port: Option<u16>,
}

/// Reads a backend's `check`; `timeout` and `inherited` hold if it has none of its own.
pub(super) fn read(
    section: Section<'_>,
    timeout: Option<Duration>,
    log: bool,
    inherited: (Option<ServerTls>, Option<SendProxy>),
    certificates: &Certificates,
) -> Option<Check> {
    let tls = section.optional("tls", |value| {
        if section.has("program") {
            value.report("a program makes its connections itself: leave `tls` out");
        }
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
    let send_proxy = section.optional("send_proxy", |value| {
        if section.has("program") {
            value.report("a program makes its connections itself: leave `send_proxy` out");
        }
        if value.is_boolean() {
            if value.clone().boolean()? {
                value.report("`send_proxy` is \"v1\", \"v2\" or false; without it a check is as the backend");
            }
            return Some(None);
        }
        read_send_proxy(value).map(Some)
    });
    let kind = read_kind(&section);
    let pause = |key| section.optional(key, |value| value.duration(TIMEOUT));
    let interval = pause("interval").unwrap_or(Duration::from_secs(2));
    let (fast_interval, down_interval) = (pause("fast_interval"), pause("down_interval"));
    let own = pause("timeout");
    let rise = section.optional("rise", |value| value.integer(1..=100u32));
    let fall = section.optional("fall", |value| value.integer(1..=100u32));
    let observe = section.optional("observe", |value| read_observe(value.section()?));
    section.finish();
    let Kind { probe, address, port } = kind?;
    let (own_tls, own_send_proxy) = match probe {
        Probe::Program(_) => (None, None),
        // As HAProxy: what listens elsewhere may be something else.
        _ if address.is_some() || port.is_some() => (tls.unwrap_or(inherited.0), send_proxy.flatten()),
        _ => (tls.unwrap_or(inherited.0), send_proxy.unwrap_or(inherited.1)),
    };
    Some(Check {
        tls: own_tls,
        send_proxy: own_send_proxy,
        probe,
        address,
        port,
        interval,
        fast_interval,
        down_interval,
        timeout: own.or(timeout).unwrap_or(interval),
        rise: rise.unwrap_or(2),
        fall: fall.unwrap_or(3),
        observe,
        log,
    })
}

/// `"v1"` or `"v2"`.
pub(super) fn read_send_proxy(value: Value<'_>) -> Option<SendProxy> {
    value.choice(&[("v1", SendProxy::V1), ("v2", SendProxy::V2)])
}

/// The one of [`KINDS`] that is there; with `tls` alone, whether a handshake succeeds.
fn read_kind(section: &Section<'_>) -> Option<Kind> {
    let mut read = Vec::new();
    for key in KINDS {
        let kind = section.optional(key, |value| {
            if !read.is_empty() {
                value.report(format!("a check is one of `{}`, and there is another one", KINDS.join("`, `")));
            }
            let table = value.section()?;
            let (mut address, mut port) = (None, None);
            if key != "program" {
                address = table.optional("address", Value::ip);
                port = table.optional("port", |value| value.integer(1..=u16::MAX));
            }
            let probe = match key {
                "http" => read_http(&table),
                "smtp" => Some(Probe::Smtp {
                    name: table.optional("name", read_name).unwrap_or_else(|| "localhost".to_owned()),
                }),
                "imap" => Some(Probe::Imap),
                "program" => read_program(&table),
                _ => Some(Probe::Tcp),
            };
            table.finish();
            Some(probe.map(|probe| Kind { probe, address, port }))
        });
        if section.has(key) {
            read.push(kind.flatten());
        }
    }
    if read.is_empty() {
        if section.has("tls") {
            return Some(Kind { probe: Probe::Tcp, address: None, port: None });
        }
        section.report(format!("a check needs one of `{}`, such as `tcp = {{}}`", KINDS.join("`, `")));
    }
    read.into_iter().next().flatten()
}

fn read_http(table: &Section<'_>) -> Option<Probe> {
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
    let host = table.optional("host", read_name);
    let headers = table.optional("headers", |value| {
        let headers = value.section()?;
        let headers = headers.entries().map(|(name, _, value)| {
            let text = value.clone().text()?;
            value.checked((name.to_owned(), text), |(name, text)| check_probe_header(name, text))
        });
        // Each is looked at, also after a bad one.
        let headers: Vec<Option<(String, String)>> = headers.collect();
        headers.into_iter().collect()
    });
    let expect = table.optional("expect", |value| value.each("no answer would be good", status_range));
    let looks_into_body = |value: &Value<'_>| {
        if method == Some("HEAD") {
            value.report("an answer to HEAD has no body");
        }
    };
    let text = table.optional("body", |value| {
        looks_into_body(&value);
        value.string().map(Content::Text)
    });
    let expression = table.optional("body_regex", |value| {
        looks_into_body(&value);
        if table.has("body") {
            value.report("either `body` or `body_regex`");
        }
        let pattern = value.clone().string()?;
        value.checked(pattern, |pattern| check_expression(pattern)).map(Content::Regex)
    });
    let default = HttpProbe::default();
    Some(Probe::Http(HttpProbe {
        method: method.map_or(default.method, ToOwned::to_owned),
        path: path.unwrap_or(default.path),
        host,
        headers: headers.unwrap_or_default(),
        expect: expect.unwrap_or(default.expect),
        body: text.or(expression),
    }))
}

/// A host's, as it stands in a line of a protocol.
fn read_name(value: Value<'_>) -> Option<String> {
    let name = value.clone().string()?;
    let valid = name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
    if !valid {
        value.report(format!("`{name}` is no host name"));
    }
    valid.then_some(name)
}

fn read_program(table: &Section<'_>) -> Option<Probe> {
    let path = table.required("path", Value::absolute_path);
    let args = table.optional("args", |value| {
        let args = value.list()?.into_iter().map(|value| {
            let argument = value.clone().text()?;
            if argument.contains('\0') {
                value.report("an argument has no NUL in it");
                return None;
            }
            Some(argument)
        });
        args.collect::<Vec<Option<String>>>().into_iter().collect()
    });
    let user = table.optional("user", Value::string).unwrap_or_else(|| NOBODY.to_owned());
    Some(Probe::Program(Program { path: path?, args: args.unwrap_or_default(), user }))
}

fn read_observe(table: Section<'_>) -> Option<Observe> {
    let errors = table.optional("errors", |value| value.integer(1..=1_000_000u32));
    let window = table.optional("window", |value| value.duration(TIMEOUT));
    let on_error = table.optional("on_error", |value| {
        value.choice(&[
            ("fail-check", OnError::FailCheck),
            ("fast-interval", OnError::FastInterval),
            ("sudden-death", OnError::SuddenDeath),
            ("mark-down", OnError::MarkDown),
        ])
    });
    table.finish();
    Some(Observe {
        errors: errors.unwrap_or(10),
        window: window.unwrap_or(Duration::from_secs(10)),
        on_error: on_error.unwrap_or_default(),
    })
}

/// Reads a backend's `agent_check`.
pub(super) fn read_agent(table: Section<'_>) -> Option<AgentCheck> {
    let address = table.optional("address", Value::ip);
    let port = table.required("port", |value| value.integer(1..=u16::MAX));
    let send = table.optional("send", |value| {
        let text = value.clone().text()?;
        if text.len() > 1024 {
            value.report("an agent is sent 1024 bytes at most");
        }
        Some(text)
    });
    let interval = table.optional("interval", |value| value.duration(TIMEOUT)).unwrap_or(Duration::from_secs(2));
    let timeout = table.optional("timeout", |value| value.duration(TIMEOUT));
    table.finish();
    Some(AgentCheck {
        address,
        port: port?,
        send: send.unwrap_or_default(),
        interval,
        timeout: timeout.unwrap_or(interval),
    })
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
