//! `lbnode cert check`: everything that is known of certificates, and what is wrong with them.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use serde_json::{Value, json};

use super::{FileError, Opened, Place, Secrets, kept_intermediates, now, of_running, servers};
use crate::causes::chain;
use crate::certificates::{self, CertificateError, Facts, File, Known, Parts, Roots, time};
use crate::cli::{Exit, Json, complain_text, paint, print, print_json, warn};
use crate::config::{self, ClusterConfig, Kind};
use crate::status::{self, Certificate};

/// What is looked at.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// PEM, PFX and cluster files; none: the running configuration
    files: Vec<PathBuf>,
    #[command(flatten)]
    secrets: Secrets,
    /// Connect to the servers of each backend with `tls`, and compare what they show with what their clients are shown
    #[arg(long)]
    servers: bool,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    json: Json,
}

/// What was found in one file.
struct Checked {
    name: String,
    found: Vec<Found>,
    /// Why it cannot be used.
    error: Option<String>,
    servers: Vec<servers::Compared>,
}

/// One certificate.
struct Found {
    /// Its name in a cluster file.
    name: Option<String>,
    facts: Facts,
    /// Subjects, from who signs it upwards.
    chain: Vec<String>,
    warnings: Vec<String>,
}

pub(super) fn check(options: &Options, socket: &Path) -> Exit {
    let json = options.json.json;
    if options.files.is_empty() {
        if options.servers {
            complain_text("--servers needs a cluster file: `lbnode config show > FILE` writes the one that runs");
            return Exit::Usage;
        }
        return of_running(socket, |certificates| told_of_running(certificates, json));
    }
    let directory = options.place.directory();
    let checked: Vec<Checked> = options.files.iter().map(|path| check_one(path, options, &directory)).collect();
    if json {
        print_json(&json!({ "files": checked.iter().map(as_json).collect::<Vec<_>>() }));
    } else {
        checked.iter().for_each(tell);
    }
    let hurts = |one: &Checked| {
        one.found.iter().any(|found| !found.warnings.is_empty()) || one.servers.iter().any(servers::Compared::hurts)
    };
    if checked.iter().any(|one| one.error.is_some()) {
        Exit::BadConfig
    } else if checked.iter().any(hurts) {
        Exit::Degraded
    } else {
        Exit::Fine
    }
}

fn told_of_running(certificates: &[Certificate], json: bool) -> Exit {
    if json {
        print_json(&json!({ "certificates": certificates }));
    } else if certificates.is_empty() {
        print("there is no certificate in the running configuration");
    }
    for one in certificates.iter().filter(|_| !json) {
        let shown = if one.used_by.is_empty() { "nobody".into() } else { one.used_by.join(", ") };
        print(format_args!("{} {}: {}", mark(one.warnings.is_empty()), one.name, one.subject));
        print(format_args!("   names   {}", one.names.join(", ")));
        print(format_args!("   issuer  {}", one.issuer));
        print(format_args!("   key     {}", one.key));
        print(format_args!("   until   {} ({} days left)", one.not_after, one.days_left));
        print(format_args!("   shown   by {shown}"));
        one.warnings.iter().for_each(|warning| warn(format_args!("{}: {warning}", one.name)));
    }
    if certificates.iter().all(|one| one.warnings.is_empty()) { Exit::Fine } else { Exit::Degraded }
}

fn check_one(path: &Path, options: &Options, directory: &Path) -> Checked {
    let name = path.display().to_string();
    let failed =
        |error: String| Checked { name: name.clone(), found: Vec::new(), error: Some(error), servers: Vec::new() };
    if let Ok(text) = config::read_text(path)
        && Kind::of(&text) == Some(Kind::Cluster)
    {
        return match config::parse_cluster_with(&name, &text, directory) {
            Ok(cluster) => Checked {
                found: of_cluster(&cluster),
                servers: if options.servers { servers::compare(&cluster) } else { Vec::new() },
                name,
                error: None,
            },
            Err(error) => failed(chain(&error)),
        };
    }
    match of_file(path, &options.secrets, directory) {
        Ok(found) => Checked { name, found, error: None, servers: Vec::new() },
        Err(error) => failed(chain(&error)),
    }
}

fn of_cluster(cluster: &ClusterConfig) -> Vec<Found> {
    let one = |entry: &config::CertificateEntry| Found { name: Some(entry.name.clone()), ..of_known(&entry.known) };
    cluster.certificates.iter().map(one).collect()
}

fn of_known(known: &Known) -> Found {
    Found {
        name: None,
        facts: known.leaf.clone(),
        chain: known.intermediates.clone(),
        warnings: known.warnings.iter().filter_map(|warning| warning.said(now())).collect(),
    }
}

/// A certificate with its key as it would be used; without a key each certificate for itself.
fn of_file(path: &Path, secrets: &Secrets, directory: &Path) -> Result<Vec<Found>, FileError> {
    let opened = Opened::open(path, secrets)?;
    let kept = kept_intermediates(directory)?;
    let imported: Vec<File<'_>> = kept.iter().map(|(path, content)| File { path, bytes: content.bytes() }).collect();
    let roots = Roots::of_system();
    let parts = Parts { source: opened.source(), chain: None, imported: &imported, ocsp: None, roots: &roots };
    match certificates::assemble(&parts, now()) {
        Ok(bundle) => Ok(vec![of_known(&bundle.known)]),
        Err(CertificateError::NoKey { .. }) => {
            let alone = |facts: Facts| Found {
                name: None,
                chain: vec![facts.issuer.clone()],
                warnings: certificates::Warning::of(&facts).said(now()).into_iter().collect(),
                facts,
            };
            Ok(certificates::look(&parts.source)?.into_iter().map(alone).collect())
        }
        Err(error) => Err(error.into()),
    }
}

fn mark(fine: bool) -> String {
    if fine { paint::stdout(paint::GREEN, "ok") } else { paint::stdout(paint::YELLOW, "! ") }
}

fn tell(checked: &Checked) {
    for found in &checked.found {
        let Found { facts, chain, warnings, .. } = found;
        let name = found.name.as_ref().map_or_else(|| checked.name.clone(), |name| format!("{}: {name}", checked.name));
        let chain = if chain.is_empty() { facts.issuer.clone() } else { chain.join(" < ") };
        let days = (facts.not_after - now()).div_euclid(86_400);
        print(format_args!("{} {name}: {}", mark(warnings.is_empty()), facts.subject));
        print(format_args!(
            "   names   {}",
            if facts.names.is_empty() { "none".into() } else { facts.names.join(", ") }
        ));
        print(format_args!("   issuer  {chain}"));
        print(format_args!("   key     {}", facts.key));
        print(format_args!("   valid   {} to {} ({days} days left)", time(facts.not_before), time(facts.not_after)));
        print(format_args!("   serial  {}, SHA-256 {}", facts.serial, facts.sha256));
        warnings.iter().for_each(|warning| warn(format_args!("{name}: {warning}")));
    }
    checked.servers.iter().for_each(servers::Compared::tell);
    if let Some(error) = &checked.error {
        complain_text(error);
    }
}

/// As `status` writes points of time.
fn rfc3339(at: i64) -> String {
    status::rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(at.max(0).cast_unsigned()))
}

fn as_json(checked: &Checked) -> Value {
    let certificates: Vec<Value> = checked
        .found
        .iter()
        .map(|Found { name, facts, chain, warnings }| {
            json!({
                "name": name, "subject": facts.subject, "issuer": facts.issuer, "names": facts.names,
                "key": facts.key.to_string(), "serial": facts.serial, "sha256": facts.sha256,
                "not_before": rfc3339(facts.not_before), "not_after": rfc3339(facts.not_after),
                "days_left": (facts.not_after - now()).div_euclid(86_400), "chain": chain, "warnings": warnings,
            })
        })
        .collect();
    let servers: Vec<Value> = checked.servers.iter().map(servers::Compared::as_json).collect();
    json!({ "file": checked.name, "certificates": certificates, "error": checked.error, "servers": servers })
}
