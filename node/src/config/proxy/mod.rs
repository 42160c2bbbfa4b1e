//! The part of `cluster.toml` that becomes the proxy core's [`Plan`]: defaults, lists, certificates, backends, frontends.
//!
//! Backends, lists and certificates are read before the frontends, whose rules name them. `refuse` says of a key that it belongs
//! elsewhere, `later` that a later version will know it: nothing that is written is ignored.

mod backend;
mod balance;
mod certificate;
mod check;
mod frontend;
mod headers;
mod list;
mod log;
mod persist;
mod rule;
mod timeouts;
mod tls;
mod when;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use proxy_core::plan::{List, Plan};

use super::cluster::{CertificateEntry, Remark};
use super::diagnostic::suggestion;
use super::files::Files;
use super::reader::{Section, Value};
use crate::certificates::Warning;
use certificate::Certificates;
pub(crate) use list::network;
use timeouts::Timeouts;

/// How long handed-off connections may live unless somebody says so.
const HANDOFF_DEFAULT: Duration = Duration::from_secs(600);
/// Where name servers listen unless it is said (RFC 1035 §4.2).
const DNS: u16 = 53;
/// Sessions at once.
const CONNECTIONS: RangeInclusive<u32> = 1..=10_000_000;
/// Goes on after a key that TCP has no use for.
const NEEDS_HTTP: &str = "needs `mode = \"http\"`";

/// What frontends and backends have in common unless they say otherwise; `None`: not said.
#[derive(Default)]
struct Defaults {
    timeouts: Timeouts,
    retries: Option<u32>,
    redispatch: Option<bool>,
    abort_on_close: Option<bool>,
    log_health_checks: Option<bool>,
    log: Option<log::Settings>,
    /// The inner `None`: never.
    handoff_timeout: Option<Option<Duration>>,
}

/// What is spoken in a frontend or backend.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Tcp,
    Http,
}

impl Speaks {
    fn word(self) -> &'static str {
        match self {
            Speaks::Tcp => "tcp",
            Speaks::Http => "http",
        }
    }
}

/// A backend as frontends refer to it, also if it is broken: who refers to it is not wrong.
#[derive(Clone, Copy)]
struct Known {
    index: usize,
    mode: Option<Speaks>,
    /// How many servers it has, if that is known.
    servers: Option<usize>,
}

/// What frontends and their rules refer to.
struct Around<'r> {
    defaults: Defaults,
    lists: &'r [List],
    tables: persist::Tables,
    backends: BTreeMap<String, Known>,
    files: &'r Files<'r>,
}

/// What the tables read here say.
pub(super) struct Read {
    pub(super) plan: Plan,
    /// The binds of each frontend, as they are written.
    pub(super) bind_names: Vec<Vec<String>>,
    /// `None`: never.
    pub(super) handoff_timeout: Option<Duration>,
    /// The certificates of the plan, in its order.
    pub(super) certificates: Vec<CertificateEntry>,
    pub(super) remarks: Vec<Remark>,
}

/// Reads what the proxy core runs. With mistakes the plan has holes, and nobody gets it.
pub(super) fn read(root: &Section<'_>, vips: &BTreeMap<String, Option<Ipv4Addr>>, files: &Files<'_>) -> Read {
    let defaults = root.optional("defaults", |value| Some(read_defaults(value.section()?))).unwrap_or_default();
    let lists = root.optional("list", |value| list::read(value, files)).unwrap_or_default();
    let certificates = certificate::read(root, files);
    let profiles = tls::read(root, &certificates);
    let nameservers = root.optional("resolver", |value| read_resolver(value.section()?)).unwrap_or_default();
    let mut plan = Plan { lists, nameservers, ..Plan::default() };
    let tables = persist::read(root);
    let mut backends = BTreeMap::new();
    let mut idle = Vec::new();
    root.optional("backend", |value| {
        for (name, place, value) in value.section()?.entries() {
            let mut known = Known { index: plan.backends.len(), mode: None, servers: None };
            if let Some(section) = value.section() {
                known.mode = read_mode(&section);
                let backend = backend::read(name, section, known.mode, &defaults, &certificates, &tables);
                known.servers = backend.as_ref().map(|backend| backend.servers.len());
                // Not refused: it is how all of them are drained.
                if backend.as_ref().is_some_and(|backend| backend.servers.iter().all(|server| server.weight == 0)) {
                    let warning = Warning::always("all its servers have weight 0, so it takes no new clients".into());
                    idle.push(Remark { place, what: format!("backend `{name}`"), warning });
                }
                plan.backends.extend(backend);
            }
            backends.insert(name.to_owned(), known);
        }
        Some(())
    });
    let around = Around { defaults, lists: &plan.lists, tables, backends, files };
    let mut bind_names = Vec::new();
    let mut binds = frontend::Binds::new(vips, profiles);
    root.required("frontend", |value| {
        for (name, _, value) in value.section()?.entries() {
            let Some(section) = value.section() else { continue };
            let read = frontend::read(name, section, &around, &mut binds, &mut plan.log_sinks);
            if let Some((frontend, names)) = read {
                plan.frontends.push(frontend);
                bind_names.push(names);
            }
        }
        Some(())
    });
    plan.tls = binds.into_profiles().into_plan();
    plan.stick_tables = around.tables.tables;
    let handoff_timeout = around.defaults.handoff_timeout.unwrap_or(Some(HANDOFF_DEFAULT));
    let Certificates { certificates, authorities, entries, mut remarks, .. } = certificates;
    remarks.extend(idle);
    plan.certificates = certificates;
    plan.authorities = authorities;
    Read { plan, bind_names, handoff_timeout, certificates: entries, remarks }
}

/// Whom to ask for servers' names.
fn read_resolver(section: Section<'_>) -> Option<Vec<SocketAddr>> {
    let nameservers = section.required("nameservers", |value| {
        value.each("leave [resolver] out to ask whom the system asks", |value| {
            let text = value.clone().string()?;
            match text.parse::<IpAddr>() {
                Ok(ip) => Some(SocketAddr::new(ip, DNS)),
                Err(_) => value.socket_address(),
            }
        })
    });
    section.finish();
    nameservers
}

impl Around<'_> {
    /// The backend that a value names.
    fn backend(&self, value: &Value<'_>) -> Option<Known> {
        let wanted = value.clone().string()?;
        let known = self.backends.get(&wanted).copied();
        if known.is_none() {
            let near = suggestion(&wanted, self.backends.keys().map(String::as_str));
            value.report(format!("unknown backend `{wanted}`{near}"));
        }
        known
    }

    /// The backend that a value names as the place to go: it speaks what the frontend speaks.
    fn backend_of(&self, value: &Value<'_>, mode: Option<Speaks>) -> Option<usize> {
        let known = self.backend(value)?;
        if let Some((theirs, ours)) = known.mode.zip(mode).filter(|(theirs, ours)| theirs != ours) {
            let (theirs, ours) = (theirs.word(), ours.word());
            value.report(format!("this backend has `mode = \"{theirs}\"`, and the frontend `mode = \"{ours}\"`"));
        }
        Some(known.index)
    }
}

fn read_defaults(section: Section<'_>) -> Defaults {
    let read = Defaults {
        timeouts: Timeouts::read(&section, &Timeouts::ALL, true),
        retries: section.optional("retries", |value| value.integer(0..=100u32)),
        redispatch: section.optional("redispatch", Value::boolean),
        abort_on_close: section.optional("abort_on_close", Value::boolean),
        log_health_checks: section.optional("log_health_checks", Value::boolean),
        log: section.optional("log", log::read_defaults),
        handoff_timeout: section.optional("handoff_timeout", timeouts::handoff),
    };
    section.finish();
    read
}

/// A mode that is to come is told from one that never will.
fn read_mode(section: &Section<'_>) -> Option<Speaks> {
    section.required("mode", |value| {
        let known = [("tcp", Some(Speaks::Tcp)), ("http", Some(Speaks::Http)), ("udp", None)];
        let mode = value.clone().choice(&known)?;
        if mode.is_none() {
            value.report("mode `udp` is not in this version yet; expected `tcp` or `http`");
        }
        mode
    })
}
