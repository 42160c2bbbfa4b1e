//! `[frontend.NAME]`: where clients arrive, and what is done with them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnetwork::IpNetwork;
use proxy_core::plan::{
    Bind, ClientCertField, ClientSupplied, Forwarded, Frontend, HeaderEdit, Http, LogSink, MAX_BODY, Mode, Side,
};

use super::super::diagnostic::suggestion;
use super::super::reader::{Section, Value, ip_literal};
use super::tls::Profiles;
use super::{Around, CONNECTIONS, NEEDS_HTTP, Speaks, Timeouts, headers, list, log, rule};

/// Reads a frontend: as the plan has it, and its binds as they are written.
pub(super) fn read(
    name: &str,
    section: Section<'_>,
    around: &Around<'_>,
    binds: &mut Binds<'_>,
    sinks: &mut Vec<LogSink>,
) -> Option<(Frontend, Vec<String>)> {
    let mode = super::read_mode(&section);
    section.later(&["follow"]);
    section.refuse(&["tls"], "belongs to a bind: bind = [{ to = \"VIP:443\", tls = \"PROFILE\" }]");
    let http = mode != Some(Speaks::Tcp);
    let http2 = http && section.optional("http2", Value::boolean).unwrap_or(true);
    let bound = section.required("bind", |value| {
        value.each("the frontend would listen nowhere", |value| binds.read(name, value, mode, http2))
    });
    // A bind that is wrong may have asked.
    let asked = bound.as_ref().is_none_or(|bound| binds.ask_clients(bound));
    let default_backend = |value: Value<'_>| around.backend_of(&value, mode);
    let backend = match mode {
        Some(Speaks::Http) => section.optional("default_backend", default_backend),
        _ => section.required("default_backend", default_backend),
    };
    let rules = section.optional("rule", |value| rule::read(value, mode, around)).unwrap_or_default();
    let max_connections = section.optional("max_connections", |value| value.integer(CONNECTIONS));
    let max_per_source = section.optional("max_connections_per_source", |value| value.integer(CONNECTIONS));
    let timeouts = Timeouts::read(&section, &["client", "request", "keep_alive"], http).or(around.defaults.timeouts);
    let log = log::read(&section, mode, around.defaults.log.as_ref(), sinks);
    let mode = if http {
        Mode::Http(Box::new(read_http(&section, timeouts, around, http2, asked)))
    } else {
        section.refuse(
            &["http2", "client_cert_headers", "forwarded_for", "request_headers", "response_headers", "error_pages"],
            NEEDS_HTTP,
        );
        Mode::Tcp
    };
    section.finish();
    let (names, addresses) = bound?.into_iter().unzip();
    let frontend = Frontend {
        name: name.to_owned(),
        binds: addresses,
        mode,
        rules,
        backend,
        max_connections,
        max_connections_per_source: max_per_source,
        log,
        client_timeout: timeouts.client.unwrap_or(Duration::from_secs(15 * 60)),
    };
    Some((frontend, names))
}

/// `asked`: clients are asked for certificates.
fn read_http(section: &Section<'_>, timeouts: Timeouts, around: &Around<'_>, http2: bool, asked: bool) -> Http {
    let forwarded = section.optional("forwarded_for", |value| {
        if value.is_boolean() {
            return Some(value.boolean()?.then(forwarded));
        }
        if !value.is_table() {
            return value.mismatch("true, false or a table such as { except = [\"10.0.0.0/8\"] }");
        }
        read_forwarded(value.section()?).map(Some)
    });
    let edits = headers::read(section);
    Http {
        request_timeout: timeouts.request.unwrap_or(Duration::from_secs(15)),
        keep_alive_timeout: timeouts.keep_alive.unwrap_or(Duration::from_secs(10)),
        forwarded: forwarded.flatten(),
        request_edits: edits.request,
        response_edits: edits.response,
        error_pages: section.optional("error_pages", |value| read_pages(value.section()?, around)).unwrap_or_default(),
        http2,
        client_cert_headers: section
            .optional("client_cert_headers", |value| read_client_cert_headers(value, asked))
            .unwrap_or_default(),
    }
}

/// `{ subject = "Name", … }`.
fn read_client_cert_headers(value: Value<'_>, asked: bool) -> Option<Vec<(ClientCertField, String)>> {
    if !asked {
        value.report("no bind of this frontend asks clients for a certificate; `client_auth` of a [tls.NAME] does");
    }
    const FIELDS: [(&str, ClientCertField); 6] = [
        ("subject", ClientCertField::Subject),
        ("issuer", ClientCertField::Issuer),
        ("serial", ClientCertField::Serial),
        ("sha256", ClientCertField::Sha256),
        ("verified", ClientCertField::Verified),
        ("certificate", ClientCertField::Certificate),
    ];
    let table = value.section()?;
    let mut headers: Vec<(ClientCertField, String)> = Vec::new();
    for (key, field) in FIELDS {
        let name = table.optional(key, |value| {
            let name = value.clone().string()?;
            if headers.iter().any(|(_, other)| other.eq_ignore_ascii_case(&name)) {
                value.report(format!("`{name}` says something else already"));
            }
            value.checked(name, |name| {
                let edit = HeaderEdit::Set(name.clone(), String::new());
                let host = name.eq_ignore_ascii_case("host").then(|| "`Host` says something else".to_owned());
                host.map_or_else(|| edit.check(Side::Request).map_err(|problem| problem.to_string()), Err)
            })
        });
        headers.extend(name.map(|name| (field, name)));
    }
    table.finish();
    Some(headers)
}

/// `forwarded_for = true`.
fn forwarded() -> Forwarded {
    Forwarded { except: Vec::new(), client_supplied: ClientSupplied::Append, rfc7239: false }
}

fn read_forwarded(table: Section<'_>) -> Option<Forwarded> {
    let default = forwarded();
    let except = table.optional("except", |value| value.each("leave it out", list::network_value));
    let client_supplied = table.optional("client_supplied", |value| {
        value.choice(&[("append", ClientSupplied::Append), ("remove", ClientSupplied::Remove)])
    });
    let rfc7239 = table.optional("rfc7239", Value::boolean);
    table.finish();
    Some(Forwarded {
        except: except.unwrap_or(default.except),
        client_supplied: client_supplied.unwrap_or(default.client_supplied),
        rfc7239: rfc7239.unwrap_or(default.rfc7239),
    })
}

/// `true`, `false` or `{ from = ["10.0.0.0/8"] }`: the networks, none for all.
fn read_accept_proxy(value: Value<'_>) -> Option<Option<Vec<IpNetwork>>> {
    if value.is_boolean() {
        return Some(value.boolean()?.then(Vec::new));
    }
    if !value.is_table() {
        return value.mismatch("true, false or a table such as { from = [\"10.0.0.0/8\"] }");
    }
    let table = value.section()?;
    let from = table.required("from", |value| value.each("nobody could connect", list::network_value));
    table.finish();
    from.map(Some)
}

/// `{ "503" = "/path", … }`.
fn read_pages(table: Section<'_>, around: &Around<'_>) -> Option<BTreeMap<u16, String>> {
    let mut pages = BTreeMap::new();
    for (key, _, value) in table.entries() {
        let status = key.parse().ok().filter(|status| key.len() == 3 && (400..=599).contains(status));
        if status.is_none() {
            value.report(format!("`{key}` is no status of an error; expected \"400\" to \"599\""));
        }
        let page = value.clone().absolute_path().and_then(|path| {
            let page = around.files.read(&path, MAX_BODY as u64, &value)?;
            // HAProxy's `errorfile` holds a whole response; here its head would be shown to people.
            if page.starts_with("HTTP/") {
                value.report(format!("{path} begins with a status line; expected the HTML alone"));
            }
            Some(page)
        });
        pages.extend(status.zip(page));
    }
    Some(pages)
}

/// The listening addresses of all frontends so far.
pub(super) struct Binds<'v> {
    vips: &'v BTreeMap<String, Option<Ipv4Addr>>,
    profiles: Profiles,
    taken: Vec<(SocketAddr, String)>,
}

impl<'v> Binds<'v> {
    pub(super) fn new(vips: &'v BTreeMap<String, Option<Ipv4Addr>>, profiles: Profiles) -> Self {
        Binds { vips, profiles, taken: Vec::new() }
    }

    pub(super) fn into_profiles(self) -> Profiles {
        self.profiles
    }

    /// Whether one of these asks clients for certificates.
    fn ask_clients(&self, binds: &[(String, Bind)]) -> bool {
        binds.iter().filter_map(|(_, bind)| bind.tls).any(|index| self.profiles.asks_clients(index))
    }

    /// One `vipname:port`, `ip:port` or `*:port`, or `{ to = … }` with such a text: as written, and resolved.
    fn read(&mut self, frontend: &str, value: Value<'_>, mode: Option<Speaks>, http2: bool) -> Option<(String, Bind)> {
        if value.is_table() {
            let table = value.section()?;
            table.refuse(&["alpn"], "belongs to the profile that `tls` names");
            let read = table.required("to", |value| self.read_address(frontend, value));
            let tls = table.optional("tls", |value| self.profiles.bind(value, mode, http2));
            let accept_proxy = table.optional("accept_proxy", read_accept_proxy).flatten();
            table.finish();
            return read.map(|(name, address)| (name, Bind { address, tls, accept_proxy }));
        }
        self.read_address(frontend, value)
            .map(|(name, address)| (name, Bind { address, tls: None, accept_proxy: None }))
    }

    fn read_address(&mut self, frontend: &str, value: Value<'_>) -> Option<(String, SocketAddr)> {
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
