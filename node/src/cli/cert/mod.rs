//! `lbnode cert`: certificates in files, in the running configuration, and kept on this node.

mod check;
mod servers;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::{Args, Subcommand};
use serde_json::json;

use super::remote::{READ, ask};
use super::{Exit, Json, complain, paint, print, print_json, warn};
use crate::certificates::import::{self, ImportError, Imported};
use crate::certificates::{CertificateError, File, Parts, Roots, Source, is_pfx};
use crate::config::{self, Content, NodeConfig};
use crate::control::{Request, Response};
use crate::status::{Certificate, Status, table};
use crate::store::StoreError;

/// Longest file in bytes that has certificates.
const MAX_FILE: u64 = 2 << 20;

#[derive(Debug, Subcommand)]
pub(super) enum CertCommand {
    /// What certificates say and what is wrong with them: 0 nothing, 1 something will hurt, 64 one cannot be used
    #[command(after_help = "\
Examples:
  lbnode cert check                        those of the running configuration
  lbnode cert check bundle.pem             names, chain, key, times
  lbnode cert check exch.pfx --password-file pass
  lbnode cert check cluster.toml --servers also whether each server shows the certificate that its clients are shown")]
    Check(check::Options),
    /// The certificates that run, for how long, and where they are shown
    #[command(after_help = "Example:\n  lbnode cert list --json | jq '.certificates[] | select(.days_left < 30)'")]
    List(Json),
    /// Keep a certificate on this node, as `[certificate.NAME] imported = true`; or an intermediate that completes chains
    #[command(after_help = "\
Examples:
  lbnode cert import exchange exch.pfx --password-file pass
  lbnode cert import exchange exch.pem     in place of the one before; then: lbnode config apply
  lbnode cert import lets-encrypt r3.pem   only CAs: completes the chains of others")]
    Import {
        /// What it shall be called
        name: String,
        #[command(flatten)]
        input: Input,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        json: Json,
    },
}

/// A file with a certificate.
#[derive(Args, Debug)]
pub(super) struct Input {
    /// PEM or PFX
    file: PathBuf,
    #[command(flatten)]
    secrets: Secrets,
}

/// What goes with files.
#[derive(Args, Debug)]
pub(super) struct Secrets {
    /// A file whose first line is the password of the PFX
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// A file with the private key, if it lies apart from its certificate
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

/// Which node this is.
#[derive(Args, Debug)]
pub(super) struct Place {
    /// The node file, which says where imported certificates are; it may be missing
    #[arg(long, default_value = "/etc/lbnode/node.toml")]
    config: PathBuf,
}

impl Place {
    /// The directory of imported certificates.
    fn directory(&self) -> PathBuf {
        let node = config::load_node(&self.config);
        node.map_or_else(|_| Path::new(NodeConfig::STATE_DIR).join("certificates"), |node| node.certificates())
    }
}

/// Why a file could not be looked at.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error(transparent)]
    Import(#[from] ImportError),
}

impl FileError {
    fn exit(&self) -> Exit {
        match self {
            FileError::Read { source, .. } | FileError::Import(ImportError::Store(StoreError::Io { source, .. }))
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                Exit::NotPermitted
            }
            FileError::Import(ImportError::Store(_)) => Exit::Degraded,
            _ => Exit::BadConfig,
        }
    }
}

/// Does one of them; `socket` is the agent's.
pub(super) fn cert(command: CertCommand, socket: &Path) -> Exit {
    match command {
        CertCommand::Check(options) => check::check(&options, socket),
        CertCommand::List(json) => of_running(socket, |certificates| {
            if json.json {
                print_json(&json!({ "certificates": certificates }));
            } else if certificates.is_empty() {
                print("there is no certificate in the running configuration");
            } else {
                print(list_words(certificates).trim());
            }
            Exit::Fine
        }),
        CertCommand::Import { name, input, place, json } => import_file(&name, &input, &place.directory()).map_or_else(
            |error| {
                complain(&error);
                error.exit()
            },
            |imported| told_of_import(&name, &imported, json),
        ),
    }
}

/// Does something with the certificates of the running configuration.
fn of_running(socket: &Path, done: impl FnOnce(&[Certificate]) -> Exit) -> Exit {
    ask(socket, &Request::Status, READ, |response| match response {
        Response::Status { status } => {
            let Status { certificates, .. } = *status;
            Ok(done(&certificates))
        }
        other => Err(other),
    })
}

fn list_words(certificates: &[Certificate]) -> String {
    let row = |one: &Certificate| {
        let names = if one.names.is_empty() { one.subject.clone() } else { one.names.join(", ") };
        let end = one.not_after.get(..10).unwrap_or(&one.not_after).to_owned();
        let used = if one.used_by.is_empty() { "nobody".to_owned() } else { one.used_by.join(", ") };
        (!one.warnings.is_empty(), vec![one.name.clone(), names, end, one.days_left.to_string(), used])
    };
    table(&["CERTIFICATE", "NAMES", "NOT AFTER", "DAYS LEFT", "SHOWN BY"], certificates.iter().map(row).collect())
}

fn import_file(name: &str, input: &Input, directory: &Path) -> Result<Imported, FileError> {
    let opened = Opened::open(&input.file, &input.secrets)?;
    let kept = kept_intermediates(directory)?;
    let imported: Vec<File<'_>> = kept.iter().map(|(path, content)| File { path, bytes: content.bytes() }).collect();
    let roots = Roots::of_system();
    let parts = Parts { source: opened.source(), chain: None, imported: &imported, ocsp: None, roots: &roots };
    Ok(import::import(directory, name, &parts, now())?)
}

fn told_of_import(name: &str, imported: &Imported, json: Json) -> Exit {
    let (words, warnings): (String, Vec<String>) = match imported {
        Imported::Bundle(bundle) => {
            let leaf = &bundle.known.leaf;
            let said = bundle.known.warnings.iter().filter_map(|warning| warning.said(now()));
            let words = format!(
                "{} is kept as {name}: `imported = true` in [certificate.{name}] of the cluster file means it; \
                 `lbnode config apply` has it run",
                leaf.subject
            );
            (words, said.collect())
        }
        Imported::Intermediates(authorities) => {
            let subjects: Vec<&str> = authorities.iter().map(|facts| facts.subject.as_str()).collect();
            let words = format!(
                "{} kept: chains that miss such an intermediate are completed from the next `lbnode config apply` on",
                subjects.join("; ")
            );
            (words, Vec::new())
        }
    };
    if json.json {
        let kind = if matches!(imported, Imported::Bundle(_)) { "certificate" } else { "intermediates" };
        print_json(&json!({ "imported": name, "kind": kind, "warnings": warnings }));
    } else {
        warnings.iter().for_each(warn);
        print(paint::stdout(paint::GREEN, &words));
    }
    Exit::Fine
}

/// A file that was read, and what goes with it.
struct Opened {
    path: String,
    content: Content,
    password: Option<(String, String)>,
    key: Option<(String, Content)>,
}

impl Opened {
    fn open(path: &Path, secrets: &Secrets) -> Result<Opened, FileError> {
        let read = |path: &Path| {
            let content = config::from_disk(path, MAX_FILE);
            content.map_err(|source| FileError::Read { path: path.to_owned(), source })
        };
        let password = |path: &PathBuf| {
            let content = read(path)?;
            let text = String::from_utf8_lossy(content.bytes()).into_owned();
            Ok::<_, FileError>((text.lines().next().unwrap_or_default().to_owned(), format!("of {}", path.display())))
        };
        Ok(Opened {
            path: path.display().to_string(),
            content: read(path)?,
            password: secrets.password_file.as_ref().map(password).transpose()?,
            key: match &secrets.key {
                Some(path) => Some((path.display().to_string(), read(path)?)),
                None => None,
            },
        })
    }

    fn source(&self) -> Source<'_> {
        let file = File { path: &self.path, bytes: self.content.bytes() };
        if is_pfx(self.content.bytes()) {
            let password = self.password.as_ref().map(|(password, from)| (password.as_str(), from.as_str()));
            return Source::Pfx { file, password };
        }
        match &self.key {
            Some((path, key)) => Source::Apart { certificate: file, key: File { path, bytes: key.bytes() } },
            None => Source::Bundle(file),
        }
    }
}

/// The intermediates of this node.
fn kept_intermediates(directory: &Path) -> Result<Vec<(String, Content)>, FileError> {
    let read = |(_, path): (String, PathBuf)| match config::from_disk(&path, MAX_FILE) {
        Ok(content) => Ok((path.display().to_string(), content)),
        Err(source) => Err(FileError::Read { path, source }),
    };
    import::intermediates(directory).into_iter().map(read).collect()
}

/// In seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_secs().cast_signed()
}
