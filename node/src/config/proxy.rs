//! The part of `cluster.toml` that becomes the proxy core's [`Plan`]: defaults, frontends, backends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use proxy_core::plan::{Backend, Balance, Check, Frontend, Mode, Plan, Probe, Server};

use super::diagnostic::suggestion;
use super::reader::{Section, Value, ip_literal};

/// What a timeout may be: more than nothing, and no longer than a connection can sensibly wait.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(30 * 86_400);
/// What `handoff_timeout` may be, and what it is unless somebody says so.
const HANDOFF: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30 * 86_400);
const HANDOFF_DEFAULT: Duration = Duration::from_secs(600);
/// Sessions at once.
const CONNECTIONS: RangeInclusive<u32> = 1..=10_000_000;

/// What `[defaults]` and a backend's or frontend's own keys may set; `None`: not said there.
#[derive(Clone, Copy, Default)]
struct Timeouts {
    connect: Option<Duration>,
    client: Option<Duration>,
    server: Option<Duration>,
    queue: Option<Duration>,
    check: Option<Duration>,
}

#[derive(Clone, Copy, Default)]
struct Defaults {
    timeouts: Timeouts,
    retries: Option<u32>,
    redispatch: Option<bool>,
    /// The inner `None`: never.
    handoff_timeout: Option<Option<Duration>>,
}

/// What the tables read here say.
pub(super) struct Read {
    pub(super) plan: Plan,
    /// The binds of each frontend, as they are written.
    pub(super) bind_names: Vec<Vec<String>>,
    /// `None`: never.
    pub(super) handoff_timeout: Option<Duration>,
}

/// Reads what the proxy core runs. With mistakes the plan has holes, and nobody gets it.
pub(super) fn read(root: &Section<'_>, vips: &BTreeMap<String, Option<Ipv4Addr>>) -> Read {
    let defaults = root.optional("defaults", |value| Some(read_defaults(value.section()?))).unwrap_or_default();
    let mut plan = Plan::default();
    let mut backends = BTreeMap::new();
    root.optional("backend", |value| {
        for (name, _, value) in value.section()?.entries() {
            // The name counts even if the backend is broken: who refers to it is not wrong.
            backends.insert(name.to_owned(), plan.backends.len());
            if let Some(section) = value.section() {
                plan.backends.extend(read_backend(name, section, &defaults));
            }
        }
        Some(())
    });
    let mut bind_names = Vec::new();
    let mut binds = Binds { vips, taken: Vec::new() };
    root.required("frontend", |value| {
        for (name, _, value) in value.section()?.entries() {
            let Some(section) = value.section() else { continue };
            if let Some((frontend, names)) = read_frontend(name, section, &backends, &mut binds, &defaults) {
                plan.frontends.push(frontend);
                bind_names.push(names);
            }
        }
        Some(())
    });
    Read { plan, bind_names, handoff_timeout: defaults.handoff_timeout.unwrap_or(Some(HANDOFF_DEFAULT)) }
}

fn read_defaults(section: Section<'_>) -> Defaults {
    let read = Defaults {
        timeouts: section
            .optional("timeouts", |value| {
                read_timeouts(value.section()?, &["connect", "client", "server", "queue", "check"])
            })
            .unwrap_or_default(),
        retries: section.optional("retries", |value| value.integer(0..=100u32)),
        redispatch: section.optional("redispatch", Value::boolean),
        handoff_timeout: section.optional("handoff_timeout", read_handoff_timeout),
    };
    section.finish();
    read
}

/// A length of time, or `"never"`.
fn read_handoff_timeout(value: Value<'_>) -> Option<Option<Duration>> {
    if !value.is_string() {
        value.report("`handoff_timeout` is a length of time such as \"10m\", or \"never\"");
        return None;
    }
    let text = value.clone().string()?;
    match text.as_str() {
        "never" => Some(None),
        word if word.starts_with(char::is_alphabetic) => {
            value.report(format!("`{word}` is no length of time such as \"10m\", and not \"never\""));
            None
        }
        _ => value.duration(HANDOFF).map(Some),
    }
}

/// Reads those of the timeouts that mean something here; another one is an unknown key.
fn read_timeouts(section: Section<'_>, here: &[&'static str]) -> Option<Timeouts> {
    let mut read = Timeouts::default();
    for key in here {
        let slot = match *key {
            "connect" => &mut read.connect,
            "client" => &mut read.client,
            "server" => &mut read.server,
            "queue" => &mut read.queue,
            _ => &mut read.check,
        };
        *slot = section.optional(key, |value| value.duration(TIMEOUT));
    }
    section.finish();
    Some(read)
}

/// Only TCP so far. A mode that is to come is told from one that never will.
fn read_mode(section: &Section<'_>) {
    section.required("mode", |value| {
        let known = [("tcp", true), ("http", false), ("udp", false)];
        let text = value.clone().string()?;
        if !value.clone().choice(&known)? {
            value.report(format!("mode `{text}` is not in this version yet; expected `tcp`"));
        }
        Some(())
    });
}

fn read_frontend(
    name: &str,
    section: Section<'_>,
    backends: &BTreeMap<String, usize>,
    binds: &mut Binds<'_>,
    defaults: &Defaults,
) -> Option<(Frontend, Vec<String>)> {
    read_mode(&section);
    let bound = section
        .required("bind", |value| value.each("the frontend would listen nowhere", |value| binds.read(name, value)));
    let backend = section.required("default_backend", |value| {
        let wanted = value.clone().string()?;
        let index = backends.get(&wanted).copied();
        if index.is_none() {
            let near = suggestion(&wanted, backends.keys().map(String::as_str));
            value.report(format!("unknown backend `{wanted}`{near}"));
        }
        index
    });
    let max_connections = section.optional("max_connections", |value| value.integer(CONNECTIONS));
    let timeouts = section.optional("timeouts", |value| read_timeouts(value.section()?, &["client"]));
    section.finish();
    let (names, addresses) = bound?.into_iter().unzip();
    let client = timeouts.unwrap_or_default().client.or(defaults.timeouts.client);
    let frontend = Frontend {
        name: name.to_owned(),
        binds: addresses,
        mode: Mode::Tcp,
        rules: Vec::new(),
        backend: Some(backend?),
        max_connections,
        max_connections_per_source: None,
        log: None,
        client_timeout: client.unwrap_or(Duration::from_secs(15 * 60)),
    };
    Some((frontend, names))
}

/// The listening addresses of all frontends so far.
struct Binds<'v> {
    vips: &'v BTreeMap<String, Option<Ipv4Addr>>,
    taken: Vec<(SocketAddr, String)>,
}

impl Binds<'_> {
    /// One `vipname:port`, `ip:port` or `*:port`: as written, and resolved.
    fn read(&mut self, frontend: &str, value: Value<'_>) -> Option<(String, SocketAddr)> {
        let text = value.clone().string()?;
        let (host, port) = value.host_and_port(&text)?;
        let ip = match self.vips.get(host) {
            // The VIP has no usable address, which was reported where it stands.
            Some(None) => return None,
            Some(Some(address)) => IpAddr::V4(*address),
            None if host == "*" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            None => match ip_literal(host) {
                Some(ip) => ip,
                None => {
                    let near = suggestion(host, self.vips.keys().map(String::as_str));
                    value.report(format!("unknown VIP `{host}`{near}; an address or `*` works too"));
                    return None;
                }
            },
        };
        let address = SocketAddr::new(ip, port);
        let overlap = |(taken, _): &&(SocketAddr, String)| {
            let family = taken.is_ipv4() == address.is_ipv4();
            let same = taken.ip() == ip || taken.ip().is_unspecified() || ip.is_unspecified();
            taken.port() == port && family && same
        };
        if let Some((taken, by)) = self.taken.iter().find(overlap) {
            value.report(format!("`{text}` overlaps with {taken} of the frontend `{by}`"));
        }
        self.taken.push((address, frontend.to_owned()));
        Some((text, address))
    }
}

fn read_backend(name: &str, section: Section<'_>, defaults: &Defaults) -> Option<Backend> {
    read_mode(&section);
    let balance = section.optional("balance", |value| {
        value.choice(&[("round-robin", Balance::RoundRobin), ("least-conn", Balance::LeastConn)])
    });
    let servers = section.required("servers", |value| {
        let mut names = BTreeSet::new();
        value.each("the backend could serve nobody", |value| read_server(value.section()?, &mut names))
    });
    let timeouts =
        section.optional("timeouts", |value| read_timeouts(value.section()?, &["connect", "server", "queue", "check"]));
    let timeouts = timeouts.unwrap_or_default();
    let check_timeout = timeouts.check.or(defaults.timeouts.check);
    let check = section.optional("check", |value| read_check(value.section()?, check_timeout));
    let retries = section.optional("retries", |value| value.integer(0..=100u32)).or(defaults.retries);
    let redispatch = section.optional("redispatch", Value::boolean).or(defaults.redispatch);
    section.finish();
    let or = |own: Option<Duration>, general: Option<Duration>, seconds| {
        own.or(general).unwrap_or(Duration::from_secs(seconds))
    };
    Some(Backend {
        name: name.to_owned(),
        balance: balance.unwrap_or(Balance::RoundRobin),
        servers: servers?,
        check,
        retries: retries.unwrap_or(3),
        redispatch: redispatch.unwrap_or(true),
        connect_timeout: or(timeouts.connect, defaults.timeouts.connect, 10),
        server_timeout: or(timeouts.server, defaults.timeouts.server, 15 * 60),
        queue_timeout: or(timeouts.queue, defaults.timeouts.queue, 60),
        tunnel_timeout: None,
        request_edits: Vec::new(),
        response_edits: Vec::new(),
    })
}

fn read_server(section: Section<'_>, names: &mut BTreeSet<String>) -> Option<Server> {
    let name = section.required("name", |value| {
        let name = value.clone().string()?;
        if !names.insert(name.clone()) {
            value.report(format!("this backend has a server `{name}` already"));
        }
        Some(name)
    });
    let address = section.required("address", Value::socket_address);
    let weight = section.optional("weight", |value| value.integer(0..=256u16));
    let backup = section.optional("backup", Value::boolean);
    let max_connections = section.optional("max_connections", |value| value.integer(CONNECTIONS));
    section.finish();
    Some(Server {
        name: name?,
        address: address?,
        weight: weight.unwrap_or(1),
        backup: backup.unwrap_or(false),
        max_connections,
    })
}

fn read_check(section: Section<'_>, timeout: Option<Duration>) -> Option<Check> {
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
        port,
        interval,
        timeout: own.or(timeout).unwrap_or(interval),
        rise: rise.unwrap_or(2),
        fall: fall.unwrap_or(3),
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
