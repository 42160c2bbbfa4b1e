//! `[tls.NAME]`, how binds speak TLS; and `tls` of backends and their checks, how servers are spoken to over it.

use proxy_core::plan::{ClientAuth, ServerTls, Tls, TlsVersion, Verify};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::ServerName;

use super::super::diagnostic::suggestion;
use super::super::reader::{Section, Value};
use super::Speaks;
use super::certificate::{Certificates, named};

/// HTTP/2 by ALPN (RFC 9113 §3.2).
const H2: &str = "h2";
/// HTTP/1.1 by ALPN (RFC 7301 §6).
const HTTP11: &str = "http/1.1";
/// HTTP/1.0 likewise: a client that offers it alone would be refused otherwise (RFC 7301 §3.2).
const HTTP10: &str = "http/1.0";
const VERSIONS: [(&str, TlsVersion); 2] = [("1.2", TlsVersion::V12), ("1.3", TlsVersion::V13)];

/// The profiles of the file, and those that the plan gets: what a profile offers by ALPN unless it says so depends on the
/// frontend, so one of the file may be several in the plan.
#[derive(Default)]
pub(super) struct Profiles {
    names: Vec<String>,
    /// `None`: it is broken, and that was reported.
    read: Vec<Option<Profile>>,
    made: Vec<(usize, Tls)>,
}

struct Profile {
    /// Its `alpn` is empty.
    tls: Tls,
    alpn: Option<Vec<String>>,
}

/// Reads all profiles.
pub(super) fn read(root: &Section<'_>, certificates: &Certificates) -> Profiles {
    let mut profiles = Profiles::default();
    root.optional("tls", |value| {
        for (name, _, value) in value.section()?.entries() {
            profiles.names.push(name.to_owned());
            profiles.read.push(value.section().and_then(|table| read_one(name, table, certificates)));
        }
        Some(())
    });
    profiles
}

impl Profiles {
    /// The plan's profile for a bind of such a frontend, which `value` names.
    pub(super) fn bind(&mut self, value: Value<'_>, mode: Option<Speaks>, http2: bool) -> Option<usize> {
        let index = named("tls", &self.names, value.clone())?;
        let profile = self.read.get(index)?.as_ref()?;
        let mut alpn = profile.alpn.clone();
        if mode == Some(Speaks::Http) {
            let ours: &[&str] = if http2 { &[H2, HTTP11, HTTP10] } else { &[HTTP11, HTTP10] };
            for strange in alpn.iter().flatten().filter(|name| !ours.contains(&name.as_str())) {
                let why =
                    if strange == H2 { "which is off here (`http2 = false`)" } else { "which is not spoken here" };
                value.report(format!(
                    "the `alpn` of [tls.{}] offers `{strange}`, {why}; have another profile for this frontend",
                    profile.tls.name
                ));
            }
            alpn = alpn.or_else(|| Some(ours.iter().map(|name| (*name).to_owned()).collect()));
        }
        Some(self.made(index, alpn.unwrap_or_default()))
    }

    /// Whether clients of this profile of the plan are asked for a certificate.
    pub(super) fn asks_clients(&self, index: usize) -> bool {
        self.made.get(index).is_some_and(|(_, tls)| tls.client_auth.is_some())
    }

    /// What the plan gets: also of profiles that nobody uses, so that they are looked at.
    pub(super) fn into_plan(mut self) -> Vec<Tls> {
        for index in 0..self.read.len() {
            if self.made.iter().all(|(from, _)| *from != index) && self.read[index].is_some() {
                let alpn = self.read[index].as_ref().and_then(|profile| profile.alpn.clone());
                self.made(index, alpn.unwrap_or_default());
            }
        }
        self.made.into_iter().map(|(_, tls)| tls).collect()
    }

    /// The index in the plan of a profile that offers this.
    fn made(&mut self, from: usize, alpn: Vec<String>) -> usize {
        if let Some(index) = self.made.iter().position(|(other, tls)| *other == from && tls.alpn == alpn) {
            return index;
        }
        let mut tls = self.read[from].as_ref().expect("who asks has looked").tls.clone();
        if self.made.iter().any(|(other, _)| *other == from) {
            tls.name += &if alpn.is_empty() { " (no ALPN)".into() } else { format!(" ({})", alpn.join(", ")) };
        }
        tls.alpn = alpn;
        self.made.push((from, tls));
        self.made.len() - 1
    }
}

fn read_one(name: &str, table: Section<'_>, certificates: &Certificates) -> Option<Profile> {
    let shown = table.required("certificates", |value| {
        value.each("there would be nothing to show", |value| certificates.certificate(value))
    });
    let min_version = table.optional("min_version", |value| value.choice(&VERSIONS)).unwrap_or(TlsVersion::V12);
    let cipher_suites = table.optional("cipher_suites", |value| read_suites(value, min_version));
    let alpn = table.optional("alpn", read_alpn);
    let client_auth = table.optional("client_auth", |value| {
        let table = value.section()?;
        let authority = table.required("ca", |value| certificates.authority(value));
        let required = table.optional("mode", |value| value.choice(&[("required", true), ("optional", false)]));
        table.finish();
        Some(ClientAuth { authority: authority?, required: required.unwrap_or(true) })
    });
    let tickets = table.optional("tickets", Value::boolean).unwrap_or(true);
    let broken = table.has("client_auth") && client_auth.is_none();
    table.finish();
    let tls = Tls {
        name: name.to_owned(),
        certificates: shown?,
        min_version,
        cipher_suites: cipher_suites.unwrap_or_default(),
        alpn: Vec::new(),
        client_auth,
        tickets,
    };
    (!broken).then_some(Profile { tls, alpn })
}

fn read_suites(value: Value<'_>, min_version: TlsVersion) -> Option<Vec<String>> {
    let known: Vec<String> =
        default_provider().cipher_suites.iter().map(|suite| format!("{:?}", suite.suite())).collect();
    let suites =
        value.clone().each("no connection would come about; leave it out for all that are sound", |value| {
            let wanted = value.clone().string()?;
            if !known.contains(&wanted) {
                let near = suggestion(&wanted, known.iter().map(String::as_str));
                value.report(format!("unknown cipher suite `{}`{near}", wanted.escape_debug()));
                return None;
            }
            Some(wanted)
        })?;
    if min_version == TlsVersion::V13 && !suites.iter().any(|suite| suite.starts_with("TLS13_")) {
        value.report("none of them is of TLS 1.3, and `min_version` allows nothing else");
    }
    Some(suites)
}

/// RFC 7301 §3.1: one byte for the length of a name.
fn read_alpn(value: Value<'_>) -> Option<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    value.each("leave it out", |value| {
        let name = value.clone().string()?;
        if name.len() > 255 || names.contains(&name) {
            value.report(format!("`{}` is there twice, or longer than 255 bytes", name.escape_debug()));
            return None;
        }
        names.push(name.clone());
        Some(name)
    })
}

/// `tls` of a backend, or of a check (which never speaks HTTP/2).
pub(super) fn read_servers(
    value: Value<'_>,
    certificates: &Certificates,
    mode: Option<Speaks>,
    http2: bool,
) -> Option<ServerTls> {
    if !value.is_table() {
        return value.mismatch("a table such as { verify = \"required\", ca = \"corp\" } or { verify = \"none\" }");
    }
    let table = value.section()?;
    let required =
        table.optional("verify", |value| value.choice(&[("required", true), ("none", false)])).unwrap_or(true);
    let authority = table.optional("ca", |value| {
        if !required {
            value.report("`ca` does nothing with `verify = \"none\"`; leave one of them out");
        }
        certificates.authority(value)
    });
    if required && !table.has("ca") {
        table.report("servers are verified against a `ca`: name a [ca.NAME], or write verify = \"none\" to trust whoever answers");
    }
    let name = table.optional("server_name", read_server_name);
    let certificate = table.optional("certificate", |value| certificates.certificate(value));
    let min_version = table.optional("min_version", |value| value.choice(&VERSIONS)).unwrap_or(TlsVersion::V12);
    let alpn = table.optional("alpn", |value| {
        let alpn = read_alpn(value.clone())?;
        let offers = alpn.iter().any(|name| name == H2);
        if mode == Some(Speaks::Http) && offers != http2 {
            value.report(if http2 {
                "`http2 = true` needs `h2` in it"
            } else {
                "servers that choose `h2` are spoken to in HTTP/2 with `http2 = true` beside `tls`"
            });
        }
        Some(alpn)
    });
    table.finish();
    let verify = if required { Verify::Authority(authority?) } else { Verify::Nothing };
    let alpn = alpn.unwrap_or_else(|| if http2 { vec![H2.to_owned()] } else { Vec::new() });
    Some(ServerTls { verify, name, min_version, certificate, alpn })
}

/// How a check speaks to servers that are spoken to like this: in HTTP/1.1.
pub(super) fn for_check(tls: &ServerTls) -> ServerTls {
    let offers = tls.alpn.iter().any(|name| name == H2);
    let alpn = if offers { vec![HTTP11.to_owned()] } else { tls.alpn.clone() };
    ServerTls { alpn, ..tls.clone() }
}

/// The name on a server's certificate: of a host, or an address.
pub(super) fn read_server_name(value: Value<'_>) -> Option<String> {
    let name = value.clone().string()?;
    if ServerName::try_from(name.as_str()).is_err() {
        value.report(format!(
            "`{}` is no name of a host and no address, as certificates have them",
            name.escape_debug()
        ));
        return None;
    }
    Some(name)
}
