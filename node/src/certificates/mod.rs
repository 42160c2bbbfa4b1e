//! Certificates, from the bytes of files to what the plan has of them.
//!
//! `pem` and `pfx` open files, `facts` looks into a certificate, `chain` puts a chain in order, `ocsp` looks at what is to be
//! stapled. [`assemble`] makes one certificate of all that, [`authority`] a set of those that are trusted; `import` keeps files
//! for later. All but `import` and `roots` is pure: bytes in, and out a [`Bundle`] or a [`CertificateError`] that says what
//! to do. What is no mistake but will hurt is a [`Warning`].

mod chain;
mod error;
mod facts;
pub mod import;
mod ocsp;
mod pem;
mod pfx;
mod roots;
pub mod shown;
mod warning;

use proxy_core::plan::Secret;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub use error::CertificateError;
pub use facts::{Facts, KeyKind};
pub use roots::Roots;
pub use warning::Warning;
pub(crate) use warning::time;

/// A file: as messages call it, and what it says.
#[derive(Clone, Copy)]
pub struct File<'a> {
    /// Its path.
    pub path: &'a str,
    /// All of it.
    pub bytes: &'a [u8],
}

/// Where a certificate and its key come from.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// One PEM file with everything.
    Bundle(File<'a>),
    /// PKCS #12.
    Pfx {
        /// The file.
        file: File<'a>,
        /// Its password, and where that is from; `None`: nobody said one.
        password: Option<(&'a str, &'a str)>,
    },
    /// The key lies elsewhere; both are PEM.
    Apart {
        /// The certificate, and any others.
        certificate: File<'a>,
        /// The key alone.
        key: File<'a>,
    },
}

/// What a certificate is made of.
pub struct Parts<'a> {
    /// The certificate and its key.
    pub source: Source<'a>,
    /// Further intermediates, PEM.
    pub chain: Option<File<'a>>,
    /// Intermediates that were imported: used where they are missing.
    pub imported: &'a [File<'a>],
    /// DER (RFC 6960).
    pub ocsp: Option<File<'a>>,
    /// Who ends a chain without being in a file.
    pub roots: &'a Roots,
}

/// A certificate that can be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// DER: the certificate itself, then its intermediates, each signing the one before; no root.
    pub chain: Vec<Vec<u8>>,
    /// DER.
    pub key: Secret,
    /// What PEM calls such a key.
    pub key_label: &'static str,
    /// What may be stapled at the time of reading; empty: nothing.
    pub ocsp: Vec<u8>,
    /// What is in it.
    pub known: Known,
}

/// What people are told about a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The certificate itself.
    pub leaf: Facts,
    /// Subjects of its intermediates, the one that signs it first.
    pub intermediates: Vec<String>,
    /// The file with the certificate.
    pub path: String,
    /// What will hurt, now or some day.
    pub warnings: Vec<Warning>,
}

/// What a file holds, in its order.
#[derive(Default)]
pub(crate) struct Held {
    certificates: Vec<Facts>,
    keys: Vec<PrivateKeyDer<'static>>,
}

/// Makes a certificate of its parts; `now` in seconds since 1970 decides whether an OCSP response is stapled, nothing else.
///
/// # Errors
/// Why no client could be shown it.
pub fn assemble(parts: &Parts<'_>, now: i64) -> Result<Bundle, CertificateError> {
    let (path, key_path, held) = match parts.source {
        Source::Bundle(file) => (file.path, file.path, pem::read(file)?),
        Source::Pfx { file, password } => (file.path, file.path, pfx::read(file, password)?),
        Source::Apart { certificate, key } => {
            let mut held = pem::read(certificate)?;
            // A bundle may be named as `cert`; its key is then not the one that is wanted.
            held.keys = pem::read(key)?.keys;
            (certificate.path, key.path, held)
        }
    };
    let named = |text: &str| text.to_owned();
    if held.certificates.is_empty() {
        return Err(CertificateError::NoCertificate { path: named(path), hint: pem::hint(&parts.source) });
    }
    let key = match held.keys.len() {
        0 => return Err(CertificateError::NoKey { path: named(key_path) }),
        1 => &held.keys[0],
        count => return Err(CertificateError::SeveralKeys { path: named(key_path), count }),
    };
    let leaf = leaf_of(&held.certificates, key, path, key_path)?;
    let mut pool = held.certificates;
    let own = pool.len();
    if let Some(file) = parts.chain {
        let further = pem::read(file)?.certificates;
        if further.is_empty() {
            return Err(CertificateError::NoCertificate { path: named(file.path), hint: pem::hint_of(file) });
        }
        pool.extend(further);
    }
    let given = pool.len();
    for file in parts.imported {
        pool.extend(pem::read(*file)?.certificates);
    }
    let ordered = chain::order(leaf, &pool, parts.roots);
    for index in std::iter::once(leaf).chain(ordered.intermediates.iter().copied()) {
        pool[index].usable(path)?;
    }
    let mut warnings = warning::of_chain(leaf, &pool, &ordered, given);
    let several = pool[..own].iter().enumerate().filter(|(index, other)| {
        *index != leaf && other.public_key == pool[leaf].public_key && other.der != pool[leaf].der
    });
    warnings.extend(several.map(|(_, other)| Warning::passed_over(other)));
    let ocsp = match parts.ocsp {
        None => Vec::new(),
        Some(file) => {
            let answer = ocsp::read(file, &pool[leaf])?;
            let fresh = answer.fresh(now);
            warnings.push(Warning::ocsp(file.path, &answer));
            if fresh { file.bytes.to_vec() } else { Vec::new() }
        }
    };
    let chain = std::iter::once(leaf).chain(ordered.intermediates.iter().copied());
    Ok(Bundle {
        chain: chain.map(|index| pool[index].der.clone()).collect(),
        key: Secret(key.secret_der().to_vec()),
        key_label: match key {
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            _ => "PRIVATE KEY",
        },
        ocsp,
        known: Known {
            intermediates: ordered.intermediates.iter().map(|index| pool[*index].subject.clone()).collect(),
            leaf: pool.swap_remove(leaf),
            path: named(path),
            warnings,
        },
    })
}

/// The certificate of this key. Of several, the one that is valid longest.
fn leaf_of(all: &[Facts], key: &PrivateKeyDer<'_>, path: &str, key_path: &str) -> Result<usize, CertificateError> {
    let signing = any_supported_type(key).ok().and_then(|signing| signing.public_key().map(|key| key.to_vec()));
    let Some(public) = signing else {
        // Most often a kind of key that the certificate tells more about.
        if let [only] = all {
            only.usable(path)?;
        }
        return Err(CertificateError::UnusableKey { path: key_path.to_owned() });
    };
    let of_key = all.iter().enumerate().filter(|(_, facts)| facts.public_key == public);
    of_key.max_by_key(|(_, facts)| facts.not_after).map(|(index, _)| index).ok_or_else(|| {
        CertificateError::KeyMismatch {
            path: path.to_owned(),
            key_path: key_path.to_owned(),
            subjects: all.iter().map(|facts| facts.subject.clone()).collect(),
        }
    })
}

/// Certificates that are trusted to sign others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trusted {
    /// DER.
    pub certificates: Vec<Vec<u8>>,
    /// Their names, as they are compared.
    pub names: Vec<Vec<u8>>,
    /// What will hurt, now or some day.
    pub warnings: Vec<Warning>,
}

/// Reads a file of certificates that are trusted to sign. One that TLS has no use for is left out with a warning, as they
/// are there in the bundles of distributions.
///
/// # Errors
/// Nothing is left.
pub fn authority(file: File<'_>) -> Result<Trusted, CertificateError> {
    let held = pem::read(file)?;
    let mut trusted = Trusted { certificates: Vec::new(), names: Vec::new(), warnings: Vec::new() };
    let single = held.certificates.len() == 1;
    for facts in held.certificates {
        if let Err(error) = RootCertStore::empty().add(CertificateDer::from(facts.der.as_slice())) {
            trusted.warnings.push(Warning::left_out(file.path, &facts, &error.to_string()));
            continue;
        }
        // One of a distribution's hundred and forty that has expired is nobody's business.
        if single {
            trusted.warnings.push(Warning::of(&facts));
        }
        trusted.names.push(facts.subject_name);
        trusted.certificates.push(facts.der);
    }
    if trusted.certificates.is_empty() {
        return Err(CertificateError::NoCertificate { path: file.path.to_owned(), hint: pem::hint_of(file) });
    }
    Ok(trusted)
}

/// Every certificate of a file, whatever it is: for those who want to look.
///
/// # Errors
/// It cannot be read.
pub fn look(source: &Source<'_>) -> Result<Vec<Facts>, CertificateError> {
    let (file, held) = match *source {
        Source::Bundle(file) | Source::Apart { certificate: file, .. } => (file, pem::read(file)?),
        Source::Pfx { file, password } => (file, pfx::read(file, password)?),
    };
    if held.certificates.is_empty() {
        return Err(CertificateError::NoCertificate { path: file.path.to_owned(), hint: pem::hint_of(file) });
    }
    Ok(held.certificates)
}

/// Whether bytes look like PKCS #12: a sequence in DER that begins with the version 3.
pub fn is_pfx(bytes: &[u8]) -> bool {
    pfx::looks_like_one(bytes)
}
