//! `[backend.NAME]`: servers that do the same work, and how they are used.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use proxy_core::plan::{Backend, Host, Server};

use super::super::reader::{Section, Value};
use super::{CONNECTIONS, Certificates, Defaults, NEEDS_HTTP, Speaks, Timeouts, balance, check, headers, persist, tls};

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
    section.later(&["transparent"]);
    let http2 = http && section.optional("http2", Value::boolean).unwrap_or(false);
    let tls = section.optional("tls", |value| tls::read_servers(value, certificates, mode, http2));
    let persist = section.optional("persist", |value| persist::read_persist(value, mode, tables));
    let broken_persist = section.has("persist") && persist.is_none();
    let (mut server_names, mut of_servers) = (Vec::new(), persist::OfServers::default());
    let servers = section.required("servers", |value| {
        let mut names = BTreeSet::new();
        let read = value.clone().each("the backend could serve nobody", |value| {
            read_server(value.section()?, section.has("check"), &mut names, &mut server_names, &mut of_servers)
        });
        if !broken_persist {
            of_servers.check(persist.as_ref(), read.as_deref(), &value);
        }
        read
    });
    let choice = balance::read(&section, http, servers.as_deref());
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
    let agent_check = section.optional("agent_check", |value| check::read_agent(value.section()?));
    if !section.has("tls") && check.as_ref().is_none_or(|check| check.tls.is_none()) {
        for place in server_names {
            place.report("`server_name` does nothing without `tls` of the backend or its check");
        }
    }
    let cut_on_down =
        section.optional("on_marked_down", |value| read_on_marked_down(value, &section, servers.as_deref()));
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
        balance: choice.balance,
        servers: servers?,
        tls,
        check,
        agent_check,
        retries: retries.unwrap_or(3),
        redispatch: redispatch.unwrap_or(true),
        connect_timeout: or(timeouts.connect, 10),
        server_timeout: or(timeouts.server, 15 * 60),
        queue_timeout: or(timeouts.queue, 60),
        tunnel_timeout: timeouts.tunnel,
        abort_on_close: abort_on_close.unwrap_or(false),
        persist,
        prefer_last_server: choice.prefer_last_server,
        slow_start: choice.slow_start,
        cut_on_down: cut_on_down.unwrap_or(false),
        all_backups: choice.all_backups,
        http2,
        request_edits: edits.request,
        response_edits: edits.response,
    })
}

/// Whether the sessions of a server that goes down are cut.
fn read_on_marked_down(value: Value<'_>, section: &Section<'_>, servers: Option<&[Server]>) -> Option<bool> {
    let named = servers.is_none_or(|servers| servers.iter().any(|server| server.host.is_some()));
    if !section.has("check") && !section.has("agent_check") && !named {
        value.report("`on_marked_down` does nothing without `check` or `agent_check`: no server ever goes down");
    }
    value.choice(&[("shutdown-sessions", true)])
}

fn read_server<'a>(
    section: Section<'a>,
    checked: bool,
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
    let address = section.required("address", Value::host_address);
    let tls_name = section.optional("server_name", |value| {
        server_names.push(value.clone());
        tls::read_server_name(value)
    });
    let weight = section.optional("weight", |value| value.integer(0..=256u16));
    let backup = section.optional("backup", Value::boolean);
    let max_connections = section.optional("max_connections", |value| value.integer(CONNECTIONS));
    let check = section.optional("check", |value| {
        if !checked {
            value.report("`check` does nothing without `check` of the backend");
        }
        value.boolean()
    });
    section.finish();
    let (address, host) = match address? {
        Ok(address) => (address, None),
        // Until it is resolved.
        Err((name, port)) => (SocketAddr::from(([0, 0, 0, 0], port)), Some(Host { name, problem: None })),
    };
    let named = host.as_ref().map(|host| host.name.clone());
    Some(Server {
        name: name?,
        address,
        host,
        tls_name: tls_name.or(named),
        weight: weight.unwrap_or(1),
        backup: backup.unwrap_or(false),
        stick,
        cookie,
        check: check.unwrap_or(true),
        max_connections,
    })
}
