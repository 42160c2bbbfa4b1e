//! What is kept on this node for later: certificates as one PEM file each, whatever they came as, and intermediates that
//! complete the chains of others. Each file is replaced as a whole, mode 0600, and only after it was found good.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Bundle, CertificateError, Facts, Parts, Source};
use crate::store::{StoreError, replace_file};

/// More than any node keeps.
const MAX_INTERMEDIATES: usize = 1000;

/// What was imported.
#[derive(Debug)]
pub enum Imported {
    /// A certificate with its key.
    Bundle(Box<Bundle>),
    /// Certificates of CAs alone.
    Intermediates(Vec<Facts>),
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It becomes the name of a file.
    #[error(
        "`{0}` cannot be the name of a certificate: 1 to 64 letters, digits, `-`, `_` and `.`, of which `.` is not the first"
    )]
    Name(String),
    /// The file is not what is wanted.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Neither a certificate with its key, nor CAs.
    #[error(
        "{path}: {subject} is no CA, so it is no intermediate, and without its private key nobody can be shown it; \
             add the key to the file, or name it with --key"
    )]
    NoKey {
        /// The file.
        path: String,
        /// Whose certificate.
        subject: String,
    },
    /// The system said no.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The file of an imported certificate.
pub fn bundle(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.pem"))
}

/// Names and files of the intermediates that were imported, in order.
pub fn intermediates(directory: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(directory.join("intermediates")) else { return Vec::new() };
    let file = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.ok()?.path();
        let name = path.file_name()?.to_str()?.strip_suffix(".pem")?.to_owned();
        Some((name, path))
    };
    let mut found: Vec<(String, PathBuf)> = entries.filter_map(file).take(MAX_INTERMEDIATES).collect();
    found.sort();
    found
}

/// Keeps what a file has under this name, in place of what was there; `now` in seconds since 1970.
///
/// # Errors
/// It is nothing that can be used; or the system said no. What was there is then still there.
pub fn import(directory: &Path, name: &str, parts: &Parts<'_>, now: i64) -> Result<Imported, ImportError> {
    check_name(name)?;
    match super::assemble(parts, now) {
        Ok(bundle) => {
            keep(directory, &self::bundle(directory, name), &pem_of(&bundle))?;
            Ok(Imported::Bundle(Box::new(bundle)))
        }
        Err(error @ CertificateError::NoKey { .. }) => {
            let authorities = super::look(&parts.source)?;
            if let (Some(facts), Source::Bundle(file)) =
                (authorities.iter().find(|facts| !facts.authority), &parts.source)
            {
                return Err(ImportError::NoKey { path: file.path.to_owned(), subject: facts.subject.clone() });
            }
            if !matches!(parts.source, Source::Bundle(_)) {
                return Err(error.into());
            }
            let pem: String = authorities.iter().map(|facts| section("CERTIFICATE", &facts.der)).collect();
            let below = directory.join("intermediates");
            keep(&below, &bundle(&below, name), &pem)?;
            Ok(Imported::Intermediates(authorities))
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether a file may be called like this.
///
/// # Errors
/// It may not.
pub fn check_name(name: &str) -> Result<(), ImportError> {
    let sound = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if (1..=64).contains(&name.len()) && !name.starts_with('.') && name.chars().all(sound) {
        return Ok(());
    }
    Err(ImportError::Name(name.escape_debug().to_string()))
}

fn keep(directory: &Path, path: &Path, pem: &str) -> Result<(), StoreError> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|source| StoreError::Io {
        what: "make the directory",
        path: directory.to_owned(),
        source,
    })?;
    replace_file(path, pem.as_bytes())
}

fn pem_of(bundle: &Bundle) -> String {
    let mut pem: String = bundle.chain.iter().map(|der| section("CERTIFICATE", der)).collect();
    pem += &section(bundle.key_label, &bundle.key.0);
    pem
}

/// RFC 7468 §2.
fn section(label: &str, der: &[u8]) -> String {
    let lines: String = der.chunks(48).map(|line| STANDARD.encode(line) + "\n").collect();
    format!("-----BEGIN {label}-----\n{lines}-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_is_as_the_rfc_has_it() {
        // RFC 4648 §10, and a line of 48 bytes.
        for (bytes, text) in [("", ""), ("f", "Zg==\n"), ("fo", "Zm8=\n"), ("foo", "Zm9v\n"), ("foob", "Zm9vYg==\n")] {
            assert_eq!(section("X", bytes.as_bytes()), format!("-----BEGIN X-----\n{text}-----END X-----\n"));
        }
        let long = section("X", &[0xff; 50]);
        assert_eq!(long.lines().map(str::len).collect::<Vec<_>>(), [17, 64, 4, 15]);
    }

    #[test]
    fn a_name_cannot_lead_elsewhere() {
        for name in ["exchange", "a.b-c_D9", "x"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "..", ".x", "a/b", "a b", "ä", "a\n", &"x".repeat(65)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }
}
