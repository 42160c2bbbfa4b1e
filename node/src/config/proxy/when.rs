//! `when = { … }`: what a client or a request must be like for a rule to act.

use std::net::IpAddr;

use proxy_core::plan::{Condition, Pattern, Sources, Text, check_method, check_name};

use super::super::diagnostic::suggestion;
use super::super::reader::{Section, Value};
use super::{Around, NEEDS_HTTP, Speaks, list, persist};

/// Keys that `ignore_case` concerns. Hosts are compared without regard to case anyway.
const TEXTS: [&str; 8] =
    ["path", "path_prefix", "path_suffix", "path_regex", "query", "header", "cookie", "client_cert"];
/// Keys that need a request to look at.
const HTTP: [&str; 10] =
    ["host", "host_suffix", "path", "path_prefix", "path_suffix", "path_regex", "query", "method", "header", "cookie"];

/// Keys and what their texts become.
type Forms<const N: usize> = [(&'static str, fn(String) -> Pattern); N];

/// Reads a `when`. A condition with a mistake in it has a hole.
pub(super) fn read(value: Value<'_>, mode: Option<Speaks>, around: &Around<'_>) -> Option<Condition> {
    let section = value.section()?;
    if section.is_empty() {
        section.report("it asks nothing: name a condition, or leave `when` out for a rule that always acts");
        return None;
    }
    let mut parts = Vec::new();
    let ignore_case = section.optional("ignore_case", |value| {
        if !TEXTS.iter().any(|key| section.has(key)) {
            value.report(format!("`ignore_case` is for texts beside it, and there is none: `{}`", TEXTS.join("`, `")));
        }
        value.boolean()
    });
    let ignore_case = ignore_case.unwrap_or(false);
    read_tls(&section, ignore_case, &mut parts);
    if mode == Some(Speaks::Tcp) {
        section.refuse(&HTTP, NEEDS_HTTP);
    } else {
        read_http(&section, ignore_case, &mut parts);
    }
    parts.extend(section.optional("source", |value| {
        value.each("it would hold for nobody", |value| read_source(value, around)).map(Condition::Source)
    }));
    parts.extend(section.optional("port", |value| {
        value.each("it would hold for nobody", |value| value.integer(1..=u16::MAX)).map(Condition::Port)
    }));
    parts.extend(section.optional("servers_up", |value| read_servers_up(value.section()?, around)));
    parts.extend(section.optional("rate", |value| {
        let rate = |value: Value<'_>| persist::read_rate(value.section()?, mode, &around.tables);
        let mut rates = value.each("it would hold for nobody", rate)?;
        if rates.len() == 1 { rates.pop() } else { Some(Condition::Any(rates)) }
    }));
    let several = |value: Value<'_>| {
        let read = value.clone().list()?;
        if read.is_empty() {
            value.report("it is empty; expected a list of conditions such as [{ path = \"/\" }]");
            return None;
        }
        let read: Vec<Option<Condition>> = read.into_iter().map(|value| self::read(value, mode, around)).collect();
        read.into_iter().collect()
    };
    parts.extend(section.optional("all", |value| several(value).map(Condition::All)));
    parts.extend(section.optional("any", |value| several(value).map(Condition::Any)));
    parts.extend(
        section.optional("not", |value| {
            self::read(value, mode, around).map(|condition| Condition::Not(Box::new(condition)))
        }),
    );
    section.finish();
    match parts.len() {
        // Whatever was there was wrong.
        0 => None,
        1 => parts.pop(),
        _ => Some(Condition::All(parts)),
    }
}

/// Whether a condition looks at a header of this name.
pub(super) fn looks_at(condition: &Condition, name: &str) -> bool {
    let same = |header: &str| header.eq_ignore_ascii_case(name);
    match condition {
        Condition::All(parts) | Condition::Any(parts) => parts.iter().any(|part| looks_at(part, name)),
        Condition::Not(part) => looks_at(part, name),
        Condition::Header(header, _) => same(header),
        Condition::Cookie(..) => same("cookie"),
        Condition::Host(_) => same("host"),
        _ => false,
    }
}

/// What is known of a connection before its first request.
fn read_tls(section: &Section<'_>, ignore_case: bool, parts: &mut Vec<Condition>) {
    parts.extend(section.optional("tls", Value::boolean).map(Condition::Tls));
    let names: Forms<2> = [("sni", Pattern::Is), ("sni_suffix", Pattern::Suffix)];
    for (key, pattern) in names {
        parts.extend(section.optional(key, |value| {
            let any = value.each("it would hold for nobody", |value| read_sni(value).map(pattern))?;
            Some(Condition::Sni(Text { any, ignore_case: true }))
        }));
    }
    parts.extend(
        section.optional("alpn", |value| value.each("it would hold for nobody", Value::string).map(Condition::Alpn)),
    );
    parts.extend(section.optional("client_cert", |value| {
        let any = forms(value.clone(), true)?;
        checked_text(&value, any, ignore_case).map(Condition::ClientCert)
    }));
}

/// A name as clients ask for it (RFC 6066 §3): never an address, no dot at its end.
fn read_sni(value: Value<'_>) -> Option<String> {
    let name = value.clone().string()?.to_ascii_lowercase();
    let why = if name.contains('*') {
        "names are compared as they are: write `sni_suffix = \".example.com\"`"
    } else if !name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:[]".contains(&byte)) {
        "clients ask for names of hosts, international ones in punycode"
    } else if name.parse::<IpAddr>().is_ok() {
        "clients ask for names of hosts, never for addresses"
    } else if name.ends_with('.') {
        "clients send it without the dot at the end"
    } else {
        return Some(name);
    };
    value.report(format!("`{}` would never hold: {why}", name.escape_debug()));
    None
}

fn read_http(section: &Section<'_>, ignore_case: bool, parts: &mut Vec<Condition>) {
    let hosts: Forms<2> = [("host", Pattern::Is), ("host_suffix", Pattern::Suffix)];
    for (key, pattern) in hosts {
        parts.extend(section.optional(key, |value| {
            let any = value.each("it would hold for nobody", |value| read_host(value).map(pattern))?;
            Some(Condition::Host(Text { any, ignore_case: true }))
        }));
    }
    let paths: Forms<4> = [
        ("path", Pattern::Is),
        ("path_prefix", Pattern::Prefix),
        ("path_suffix", Pattern::Suffix),
        ("path_regex", Pattern::Regex),
    ];
    for (key, pattern) in paths {
        parts.extend(section.optional(key, |value| {
            let any = value.clone().each("it would hold for nobody", |value| read_path(key, value).map(pattern))?;
            checked_text(&value, any, ignore_case).map(Condition::Path)
        }));
    }
    parts.extend(section.optional("query", |value| {
        let any = forms(value.clone(), false)?;
        checked_text(&value, any, ignore_case).map(Condition::Query)
    }));
    parts.extend(
        section.optional("method", |value| value.each("it would hold for nobody", read_method).map(Condition::Method)),
    );
    for key in ["header", "cookie"] {
        let condition = if key == "header" { Condition::Header } else { Condition::Cookie };
        section.optional(key, |value| {
            let table = value.section()?;
            if table.is_empty() {
                table.report(format!("`{key}` names none; expected {{ NAME = \"value\" }}"));
            }
            for (name, _, value) in table.entries() {
                let name = value.checked(name.to_owned(), |name| check_name(name));
                let text = forms(value.clone(), true).and_then(|any| checked_text(&value, any, ignore_case));
                parts.extend(name.zip(text).map(|(name, text)| condition(name, text)));
            }
            Some(())
        });
    }
}

fn checked_text(value: &Value<'_>, any: Vec<Pattern>, ignore_case: bool) -> Option<Text> {
    value.checked(Text { any, ignore_case }, Text::check)
}

/// `"value"`, `{ prefix = … }` and the like, a list of such; `true`, if being there is enough.
fn forms(value: Value<'_>, or_present: bool) -> Option<Vec<Pattern>> {
    if or_present && value.is_boolean() {
        if !value.clone().boolean()? {
            value.report("expected `true`: that it is there; for the opposite write not = { … }");
            return None;
        }
        return Some(vec![Pattern::Present]);
    }
    value
        .each("it would hold for nobody", |value| {
            if !value.is_table() {
                return Some(vec![Pattern::Is(value.text()?)]);
            }
            let table = value.clone().section()?;
            let kinds: Forms<4> = [
                ("prefix", Pattern::Prefix),
                ("suffix", Pattern::Suffix),
                ("contains", Pattern::Contains),
                ("regex", Pattern::Regex),
            ];
            if kinds.iter().filter(|(key, _)| table.has(key)).count() != 1 {
                value.report("expected one of `prefix`, `suffix`, `contains` and `regex`");
            }
            let mut found = None;
            for (key, pattern) in kinds {
                found = found.or(table.optional(key, |value| {
                    value.each("it would hold for nobody", |value| value.string().map(pattern))
                }));
            }
            table.finish();
            found
        })
        .map(|forms| forms.into_iter().flatten().collect())
}

/// What a `Host` header may say (RFC 9110 §7.2), without the port, which is not compared.
fn read_host(value: Value<'_>) -> Option<String> {
    let host = value.clone().string()?.to_ascii_lowercase();
    let literal = host.starts_with('[');
    if !host.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/') {
        value.report(format!("`{}` is in no Host header: write international names in punycode", host.escape_debug()));
        return None;
    }
    let port = if literal { !host.ends_with(']') } else { host.contains(':') };
    if port {
        value.report(format!(
            "`{host}` would never hold: hosts are compared without their port; there is `port` for it"
        ));
        return None;
    }
    Some(host)
}

/// Says so where no path could ever be like that; paths are compared as they were sent.
fn read_path(key: &str, value: Value<'_>) -> Option<String> {
    let path = value.clone().string()?;
    if key == "path_regex" {
        return Some(path);
    }
    let why = if key != "path_suffix" && !path.starts_with('/') && path != "*" {
        "every path begins with `/`"
    } else if path.contains(['?', '#']) {
        "a path ends before the `?`; there is `query` for what follows it"
    } else if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        "paths are compared as they are sent, with such characters as %XX"
    } else {
        return Some(path);
    };
    value.report(format!("`{}` would never hold: {why}", path.escape_debug()));
    None
}

fn read_method(value: Value<'_>) -> Option<String> {
    let method = value.clone().string()?;
    let method = value.checked(method, |method| check_method(method))?;
    // Methods are case-sensitive (RFC 9110 §9.1), and nobody has one of these in lower case.
    let upper = method.to_ascii_uppercase();
    let known = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    if upper != method && known.contains(&upper.as_str()) {
        value.report(format!("methods are compared exactly: expected `{upper}`"));
        return None;
    }
    Some(method)
}

/// A network, or the name of a list.
fn read_source(value: Value<'_>, around: &Around<'_>) -> Option<Sources> {
    let text = value.clone().string()?;
    if let Some(index) = around.lists.iter().position(|list| list.name == text) {
        return Some(Sources::List(index));
    }
    let like_an_address = text.contains(['/', ':']) || text.parse::<IpAddr>().is_ok();
    if like_an_address {
        return list::network_value(value).map(Sources::Network);
    }
    let near = suggestion(&text, around.lists.iter().map(|list| list.name.as_str()));
    value.report(format!("unknown list `{text}`{near}; a network such as 10.0.0.0/8 works too"));
    None
}

fn read_servers_up(table: Section<'_>, around: &Around<'_>) -> Option<Condition> {
    let backend = table.required("backend", |value| around.backend(&value));
    let at_least = table.optional("at_least", |value| {
        let wanted = value.clone().integer(1..=u32::MAX)?;
        let servers = backend.and_then(|backend| backend.servers);
        if let Some(servers) = servers.filter(|servers| (*servers as u64) < u64::from(wanted)) {
            value.report(format!("it would never hold: the backend has only {servers}"));
        }
        Some(wanted)
    });
    table.finish();
    Some(Condition::ServersUp { backend: backend?.index, at_least: at_least.unwrap_or(1) })
}
