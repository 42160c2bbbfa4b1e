//! Configuration: `node.toml` and `cluster.toml`, read into models that are valid or not there at all.
//!
//! Text → TOML's tree with positions → [`NodeConfig`], [`ClusterConfig`] → what the libraries run: `routers` makes
//! the VRRP half, [`ClusterConfig::plan`] is the proxy half. All mistakes of a file come out at once, as
//! [`Diagnostic`]s. Keys, units, ranges and defaults: docs/config.md.

mod cluster;
mod diagnostic;
pub mod duration;
mod files;
mod node;
mod proxy;
mod reader;
mod routers;
mod sync;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use toml::de::DeTable;

use diagnostic::Findings;
use files::Files;
use reader::Section;

pub use cluster::{CertificateEntry, ClusterConfig, OnIsolation, Remark, Vip};
pub(crate) use diagnostic::suggestion;
pub use diagnostic::{Diagnostic, Place};
pub(crate) use files::from_disk;
pub use files::{Content, Contents};
pub use node::{ControlConfig, LogConfig, LogFormat, LogLevel, NodeConfig, ProxyConfig, VipOverride, VrrpConfig};
pub(crate) use proxy::network;
pub use routers::routers;
pub use sync::{PeerConfig, SyncConfig};

/// Longest configuration file in bytes; anything longer is no configuration.
pub const MAX_FILE: u64 = 8 << 20;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It has mistakes; never empty.
    #[error("{}", report(.0))]
    Invalid(Vec<Diagnostic>),
}

/// Which of the two files a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `node.toml`.
    Node,
    /// `cluster.toml`.
    Cluster,
}

impl Kind {
    /// What the file is for, in words.
    pub fn describe(self) -> &'static str {
        match self {
            Kind::Node => "node file",
            Kind::Cluster => "cluster file",
        }
    }

    /// Tells the kind by the tables and keys at the top; `None` if there is no sign of either.
    pub fn of(text: &str) -> Option<Kind> {
        let (document, _) = DeTable::parse_recoverable(text);
        let count = |keys: &[&str]| keys.iter().filter(|key| document.get_ref().contains_key(**key)).count();
        let (node, cluster) = (count(&node::TOP_LEVEL), count(&cluster::TOP_LEVEL));
        match node.cmp(&cluster) {
            std::cmp::Ordering::Greater => Some(Kind::Node),
            std::cmp::Ordering::Less => Some(Kind::Cluster),
            std::cmp::Ordering::Equal => None,
        }
    }
}

/// The text of a configuration file.
pub fn read_text(path: &Path) -> Result<String, ConfigError> {
    let read = || {
        let length = std::fs::metadata(path)?.len();
        if length > MAX_FILE {
            let message = format!("it is {length} bytes long, and no configuration is longer than {MAX_FILE}");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        std::fs::read_to_string(path)
    };
    read().map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

/// Reads and checks a node file. Relative paths in it are relative to the file.
pub fn load_node(path: &Path) -> Result<NodeConfig, ConfigError> {
    let base = path.parent().unwrap_or(Path::new(""));
    parse_node(&path.display().to_string(), &read_text(path)?, base)
}

/// Reads and checks a cluster file on a node where nothing was imported.
pub fn load_cluster(path: &Path) -> Result<ClusterConfig, ConfigError> {
    parse_cluster(&path.display().to_string(), &read_text(path)?)
}

/// Checks the text of a node file; `file` names it in messages, `base` is where relative paths start.
pub fn parse_node(file: &str, text: &str, base: &Path) -> Result<NodeConfig, ConfigError> {
    parse(file, text, |root, _| node::read(root, base))
}

/// Checks the text of a cluster file, and reads the files that it names; `file` names it in messages.
pub fn parse_cluster(file: &str, text: &str) -> Result<ClusterConfig, ConfigError> {
    parse(file, text, |root, findings| cluster::read(root, findings, Files::on_disk(None)))
}

/// The same on a node that keeps what was imported in this directory.
pub fn parse_cluster_with(file: &str, text: &str, imported: &Path) -> Result<ClusterConfig, ConfigError> {
    parse(file, text, |root, findings| cluster::read(root, findings, Files::on_disk(Some(imported))))
}

/// Checks the text of a cluster file whose files are kept with it.
pub fn parse_kept(file: &str, text: &str, contents: &Contents) -> Result<ClusterConfig, ConfigError> {
    parse(file, text, |root, findings| cluster::read(root, findings, Files::kept(contents)))
}

/// What tells one file from another: SHA-256, in hex.
pub fn digest(text: impl AsRef<[u8]>) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The text without the passwords of PFX files in it: for whoever may read a configuration but not a key.
pub fn without_passwords(text: &str) -> String {
    let (document, _) = DeTable::parse_recoverable(text);
    let tables = document.get_ref().get("certificate").and_then(|value| value.get_ref().as_table());
    let passwords = tables.into_iter().flat_map(|tables| tables.values());
    let mut spans: Vec<Range<usize>> = passwords
        .filter_map(|table| Some(table.get_ref().as_table()?.get("password")?.span()))
        .filter(|span| text.is_char_boundary(span.start) && text.is_char_boundary(span.end))
        .collect();
    spans.sort_by_key(|span| std::cmp::Reverse(span.start));
    let mut text = text.to_owned();
    for span in spans {
        text.replace_range(span, "\"(not shown)\"");
    }
    text
}

fn parse<T>(
    file: &str,
    text: &str,
    read: impl for<'a> FnOnce(Section<'a>, &'a Findings<'a>) -> Option<T>,
) -> Result<T, ConfigError> {
    let findings = Findings::new(file, text);
    // A syntax error makes everything after it doubtful, so it is reported alone.
    let document = match DeTable::parse(text) {
        Ok(document) => document,
        Err(error) => {
            findings.report(error.span().unwrap_or(0..0), format!("this is no TOML: {}", error.message()));
            return Err(ConfigError::Invalid(findings.into_sorted()));
        }
    };
    let model = read_document(&findings, &document, read);
    match model {
        Some(model) if findings.is_empty() => Ok(model),
        _ => Err(ConfigError::Invalid(findings.into_sorted())),
    }
}

fn read_document<'a, T>(
    findings: &'a Findings<'a>,
    document: &'a toml::Spanned<DeTable<'a>>,
    read: impl FnOnce(Section<'a>, &'a Findings<'a>) -> Option<T>,
) -> Option<T> {
    read(Section::root(findings, document), findings)
}

/// All mistakes, one below the other.
fn report(found: &[Diagnostic]) -> String {
    let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
    texts.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_by_its_content() {
        assert_eq!(Kind::of("name = \"a\"\n[vrrp]\n"), Some(Kind::Node));
        assert_eq!(Kind::of("[pair]\n[vip.x]\n"), Some(Kind::Cluster));
        assert_eq!(Kind::of("[frontend.x]\nbind = [\n"), Some(Kind::Cluster));
        assert_eq!(Kind::of("x = 1"), None);
    }

    #[test]
    fn passwords_are_not_shown_and_the_rest_is_as_it_was() {
        let text = "# a\n[certificate]\na = { pfx = \"/a\", password = \"gäheim\" }\n[certificate.b]\npassword = '''\nx'''\n# z\n";
        let shown = "# a\n[certificate]\na = { pfx = \"/a\", password = \"(not shown)\" }\n[certificate.b]\npassword = \"(not shown)\"\n# z\n";
        assert_eq!(without_passwords(text), shown);
        assert_eq!(without_passwords("password = 1\n[x"), "password = 1\n[x");
    }

    #[test]
    fn the_digest_is_sha_256() {
        assert_eq!(digest("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
