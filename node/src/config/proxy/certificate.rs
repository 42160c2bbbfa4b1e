//! `[certificate.NAME]` and `[ca.NAME]`: what is shown, and who is trusted. All are read and checked, used or not.

use std::time::SystemTime;

use proxy_core::plan::{Authority, Certificate};

use super::super::cluster::{CertificateEntry, Remark};
use super::super::diagnostic::suggestion;
use super::super::files::{Content, Files};
use super::super::reader::{Section, Value};
use crate::certificates::{self, File, Parts, Roots, Source};

/// Longest file in bytes with a certificate, its chain and its key.
const MAX_FILE: u64 = 1 << 20;
/// Longest bundle of authorities in bytes: what distributions ship has a quarter of a mebibyte.
const MAX_AUTHORITY: u64 = 2 << 20;
/// Longest file in bytes with a password in its first line.
const MAX_PASSWORD: u64 = 4 << 10;
/// Of which a certificate has one.
const SOURCES: [&str; 4] = ["file", "pfx", "cert", "imported"];

/// All that were read, and the names of those that were not, so that who refers to one is not wrong as well.
#[derive(Default)]
pub(super) struct Certificates {
    pub(super) certificates: Vec<Certificate>,
    pub(super) authorities: Vec<Authority>,
    pub(super) entries: Vec<CertificateEntry>,
    pub(super) remarks: Vec<Remark>,
    certificate_names: Vec<String>,
    authority_names: Vec<String>,
}

/// Reads both tables.
pub(super) fn read(root: &Section<'_>, files: &Files<'_>) -> Certificates {
    let mut read = Certificates::default();
    let mut roots = Roots::of_system();
    root.optional("ca", |value| {
        for (name, place, value) in value.section()?.entries() {
            read.authority_names.push(name.to_owned());
            let Some(table) = value.section() else { continue };
            let trusted = table.required("file", |value| {
                let path = value.clone().absolute_path()?;
                let content = files.bytes(&path, MAX_AUTHORITY, &value)?;
                let trusted = certificates::authority(File { path: &path, bytes: content.bytes() });
                trusted.map_err(|error| value.report(error.to_string())).ok()
            });
            table.finish();
            let Some(trusted) = trusted else { continue };
            roots.add(trusted.names);
            let remark = |warning| Remark { place: place.clone(), what: format!("ca `{name}`"), warning };
            read.remarks.extend(trusted.warnings.into_iter().map(remark));
            read.authorities.push(Authority { name: name.to_owned(), certificates: trusted.certificates });
        }
        Some(())
    });
    root.optional("certificate", |value| {
        let imported = files.intermediates(MAX_FILE, &value);
        for (name, place, value) in value.section()?.entries() {
            read.certificate_names.push(name.to_owned());
            let around = Around { files, imported: &imported, roots: &roots };
            let Some(bundle) = value.clone().section().and_then(|table| read_one(name, &value, table, &around)) else {
                continue;
            };
            let certificates::Bundle { chain, key, ocsp, known, .. } = bundle;
            read.certificates.push(Certificate { name: name.to_owned(), chain, key, ocsp });
            read.entries.push(CertificateEntry { name: name.to_owned(), place, known });
        }
        Some(())
    });
    read
}

impl Certificates {
    /// The index of the certificate that a value names.
    pub(super) fn certificate(&self, value: Value<'_>) -> Option<usize> {
        named("certificate", &self.certificate_names, value)
    }

    /// The index of the authority that a value names.
    pub(super) fn authority(&self, value: Value<'_>) -> Option<usize> {
        named("ca", &self.authority_names, value)
    }
}

/// The index of a name; `kind` is the table that has it.
pub(super) fn named(kind: &str, names: &[String], value: Value<'_>) -> Option<usize> {
    let wanted = value.clone().string()?;
    let index = names.iter().position(|name| *name == wanted);
    if index.is_none() {
        let near = suggestion(&wanted, names.iter().map(String::as_str));
        let near = if names.is_empty() { format!("; there is no [{kind}.NAME] in this file") } else { near };
        value.report(format!("unknown {kind} `{wanted}`{near}"));
    }
    index
}

/// What reading one certificate needs.
struct Around<'r> {
    files: &'r Files<'r>,
    imported: &'r [(String, Content)],
    roots: &'r Roots,
}

/// A file with its path.
type Named = (String, Content);

fn read_one(name: &str, whole: &Value<'_>, table: Section<'_>, around: &Around<'_>) -> Option<certificates::Bundle> {
    let kinds: Vec<&str> = SOURCES.into_iter().filter(|key| table.has(key)).collect();
    if kinds.len() != 1 {
        table.report("a certificate has exactly one of `file`, `pfx`, `cert` (with `key`) and `imported`");
    }
    let read = |key: &'static str| table.optional(key, |value| Some((read_file(&value, around.files), value)));
    let (file, pfx, cert) = (read("file"), read("pfx"), read("cert"));
    let key = table.optional("key", |value| {
        if cert.is_none() {
            value.report("`key` goes with `cert`; in `file` and `pfx` the key is inside");
        }
        read_file(&value, around.files)
    });
    if cert.is_some() && !table.has("key") {
        table.report("`cert` needs `key`: the file with its private key; for one file with both there is `file`");
    }
    let imported = table.optional("imported", |value| {
        if !value.clone().boolean()? {
            value.report("`imported` is true, or is left out");
            return None;
        }
        Some((around.files.imported(name, MAX_FILE, &value), value))
    });
    let (chain, ocsp) = (read("chain"), read("ocsp"));
    let password = read_password(&table, around.files);
    let incomplete = [&chain, &ocsp].iter().any(|named| matches!(named, Some((None, _))));
    let stray = table.has("key") && cert.is_none();
    table.finish();
    if kinds.len() != 1 || incomplete || stray {
        return None;
    }
    let chosen = file.or(imported).or(cert.clone()).or(pfx.clone());
    let (content, place) = chosen.as_ref().map(|(content, value)| (content.as_ref(), value)).unwrap_or((None, whole));
    let content = as_file(content?);
    let source = if pfx.is_some() {
        let password = password.as_ref().map(|(password, from)| (password.as_deref(), from.as_str()));
        // A password that was wrong was reported.
        let password = match password {
            Some((None, _)) => return None,
            Some((Some(password), from)) => Some((password, from)),
            None => None,
        };
        Source::Pfx { file: content, password }
    } else if cert.is_some() {
        Source::Apart { certificate: content, key: as_file(key.as_ref()?) }
    } else {
        Source::Bundle(content)
    };
    let optional = |named: &'_ Option<(Option<Named>, Value<'_>)>| named.as_ref().and_then(|(named, _)| named.clone());
    let (chain, ocsp) = (optional(&chain), optional(&ocsp));
    let imported: Vec<File<'_>> = around.imported.iter().map(as_file).collect();
    let parts = Parts {
        source,
        chain: chain.as_ref().map(as_file),
        imported: &imported,
        ocsp: ocsp.as_ref().map(as_file),
        roots: around.roots,
    };
    certificates::assemble(&parts, now()).map_err(|error| place.report(error.to_string())).ok()
}

fn as_file(named: &Named) -> File<'_> {
    File { path: &named.0, bytes: named.1.bytes() }
}

fn read_file(value: &Value<'_>, files: &Files<'_>) -> Option<Named> {
    let path = value.clone().absolute_path()?;
    let content = files.bytes(&path, MAX_FILE, value)?;
    Some((path, content))
}

/// The password and where it is from; the inner `None`: it is wrong, and that was reported.
fn read_password(table: &Section<'_>, files: &Files<'_>) -> Option<(Option<String>, String)> {
    if !table.has("pfx") {
        table.refuse(&["password", "password_file"], "goes with `pfx`");
        return None;
    }
    let written = table.optional("password", |value| Some((value.text(), "of `password`".to_owned())));
    let from_file = table.optional("password_file", |value| {
        if written.is_some() {
            value.report("there is a `password` already; leave one of them out");
        }
        let path = value.clone().absolute_path();
        let text = path.as_ref().and_then(|path| files.read(path, MAX_PASSWORD, &value));
        // As `openssl -passin file:` reads it.
        let line = text.map(|text| text.lines().next().unwrap_or_default().to_owned());
        Some((line, format!("of {}", path.unwrap_or_default())))
    });
    written.or(from_file)
}

/// In seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
