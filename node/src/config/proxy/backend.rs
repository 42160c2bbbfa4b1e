//! `[backend.NAME]`: servers that do the same work, and how they are used.

use std::collections::BTreeSet;
use std::time::Duration;

use proxy_core::plan::{Backend, Balance, Server};

use super::super::reader::{Section, Value};
use super::{CONNECTIONS, Certificates, Defaults, NEEDS_HTTP, Speaks, Timeouts, check, headers, persist, tls};

/// Ways to choose a server that a later version will know.
const LATER_BALANCE: [&str; 6] = ["static-round-robin", "first", "source", "uri", "random", "consistent"];

/// Reads a backend whose mode is known, or is wrong.
pub(super) fn read(
    name: &str,
    section: Section<'_>,
    mode: Option<Speaks>,
    defaults: &Defaults,
    certificates: &Certificates,
    tables: &persist::Tables,
) -> Option<Backend> {
    let http = mode != Some(Speaks::Tcp);
    section.later(&["prefer_last_server", "slow_start", "on_marked_down", "transparent"]);
    let balance = section.optional("balance", read_balance);
    let http2 = http && section.optional("http2", Value::boolean).unwrap_or(false);
    let tls = section.optional("tls", |value| tls::read_servers(value, certificates, mode, http2));
    let persist = section.optional("persist", |value| persist::read_persist(value, mode, tables));
    let broken_persist = section.has("persist") && persist.is_none();
    let (mut server_names, mut of_servers) = (Vec::new(), persist::OfServers::default());
    let servers = section.required("servers", |value| {
        let mut names = BTreeSet::new();
        let read = value.clone().each("the backend could serve nobody", |value| {
            read_server(value.section()?, &mut names, &mut server_names, &mut of_servers)
        });
        if !broken_persist {
            of_servers.check(persist.as_ref(), read.as_deref(), &value);
        }
        read
    });
    let timeouts = Timeouts::read(&section, &["connect", "server", "queue", "tunnel", "check"], true);
    let timeouts = timeouts.or(defaults.timeouts);
    let log_checks = section.optional("log_health_checks", |value| {
        let wanted = value.clone().boolean()?;
        if wanted && !section.has("check") {
            value.report("without `check` there is nothing to log");
        }
        Some(wanted)
    });
    let log_checks = log_checks.or(defaults.log_health_checks).unwrap_or(false);
    let check = section.optional("check", |value| {
        let inherited = tls.as_ref().map(tls::for_check);
        check::read(value.section()?, timeouts.check, log_checks, inherited, certificates)
    });
    if !section.has("tls") && check.as_ref().is_none_or(|check| check.tls.is_none()) {
        for place in server_names {
            place.report("`server_name` does nothing without `tls` of the backend or its check");
        }
    }
    let retries = section.optional("retries", |value| value.integer(0..=100u32)).or(defaults.retries);
    let redispatch = section.optional("redispatch", Value::boolean).or(defaults.redispatch);
    let (mut abort_on_close, mut edits) = (None, headers::Edits::default());
    if http {
        abort_on_close = section.optional("abort_on_close", Value::boolean).or(defaults.abort_on_close);
        edits = headers::read(&section);
    } else {
        section.refuse(&["http2", "abort_on_close", "request_headers", "response_headers"], NEEDS_HTTP);
    }
    section.finish();
    let or = |set: Option<Duration>, seconds| set.unwrap_or(Duration::from_secs(seconds));
    Some(Backend {
        name: name.to_owned(),
        balance: balance.unwrap_or(Balance::RoundRobin),
        servers: servers?,
        tls,
        check,
        retries: retries.unwrap_or(3),
        redispatch: redispatch.unwrap_or(true),
        connect_timeout: or(timeouts.connect, 10),
        server_timeout: or(timeouts.server, 15 * 60),
        queue_timeout: or(timeouts.queue, 60),
        tunnel_timeout: timeouts.tunnel,
        abort_on_close: abort_on_close.unwrap_or(false),
        persist,
        prefer_last_server: false,
        slow_start: None,
        cut_on_down: false,
        send_proxy: None,
        http2,
        request_edits: edits.request,
        response_edits: edits.response,
    })
}

fn read_balance(value: Value<'_>) -> Option<Balance> {
    let later = |text: &str| {
        LATER_BALANCE.contains(&text) || ["header:", "cookie:"].iter().any(|start| text.starts_with(start))
    };
    if value.is_string() {
        let text = value.clone().string()?;
        if later(&text) {
            value
                .report(format!("balance `{text}` is not in this version yet; expected `round-robin` or `least-conn`"));
            return None;
        }
    }
    value
        .choice(&[("round-robin", false), ("least-conn", true)])
        .map(|least| if least { Balance::LeastConn } else { Balance::RoundRobin })
}

fn read_server<'a>(
    section: Section<'a>,
    names: &mut BTreeSet<String>,
    server_names: &mut Vec<Value<'a>>,
    of_servers: &mut persist::OfServers<'a>,
) -> Option<Server> {
    let (stick, cookie) = of_servers.read(&section);
    let name = section.required("name", |value| {
        let name = value.clone().string()?;
        if !names.insert(name.clone()) {
            value.report(format!("this backend has a server `{name}` already"));
        }
        Some(name)
    });
    let address = section.required("address", Value::socket_address);
    let tls_name = section.optional("server_name", |value| {
        server_names.push(value.clone());
        tls::read_server_name(value)
    });
    let weight = section.optional("weight", |value| value.integer(0..=256u16));
    let backup = section.optional("backup", Value::boolean);
    let max_connections = section.optional("max_connections", |value| value.integer(CONNECTIONS));
    section.finish();
    Some(Server {
        name: name?,
        address: address?,
        tls_name,
        weight: weight.unwrap_or(1),
        backup: backup.unwrap_or(false),
        stick,
        cookie,
        max_connections,
    })
}
