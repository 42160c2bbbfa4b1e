//! What a certificate says (RFC 5280), taken out once: for choosing, for chains, and for people.

use std::fmt;
use std::net::IpAddr;

use sha2::{Digest as _, Sha256};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::asn1_rs::Oid;
use x509_parser::prelude::{FromDer as _, X509Certificate, X509Name, X509Version};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::CertificateError;

/// What a certificate says.
#[derive(Clone, PartialEq, Eq)]
pub struct Facts {
    /// In words, or `(no subject)`.
    pub subject: String,
    /// In words.
    pub issuer: String,
    /// In hex.
    pub serial: String,
    /// The names that it is for: of hosts, with wildcards, and addresses.
    pub names: Vec<String>,
    /// Seconds since 1970.
    pub not_before: i64,
    /// Seconds since 1970.
    pub not_after: i64,
    /// Its key.
    pub key: KeyKind,
    /// SHA-256 of all of it, in hex.
    pub sha256: String,
    /// Where the issuer's certificate can be got.
    pub issuer_url: Option<String>,
    /// It may sign others.
    pub authority: bool,
    /// All of it, DER.
    pub der: Vec<u8>,
    /// DER: names are equal if these are.
    pub(super) subject_name: Vec<u8>,
    pub(super) issuer_name: Vec<u8>,
    /// As the certificate has it, for OCSP.
    pub(super) serial_number: Vec<u8>,
    /// SubjectPublicKeyInfo, DER.
    pub(super) public_key: Vec<u8>,
    version1: bool,
    key_id: Option<Vec<u8>>,
    issuer_key_id: Option<Vec<u8>>,
}

/// A kind of key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// Of so many bits.
    Rsa(usize),
    /// On this curve.
    Ec(&'static str),
    /// RFC 8410.
    Ed25519,
    /// Nothing that TLS servers use, in words.
    Other(String),
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyKind::Rsa(bits) => write!(f, "RSA {bits} bits"),
            KeyKind::Ec(curve) => write!(f, "EC {curve}"),
            KeyKind::Ed25519 => f.write_str("Ed25519"),
            KeyKind::Other(words) => f.write_str(words),
        }
    }
}

impl fmt::Debug for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Facts({}, serial {}, sha256 {})", self.subject, self.serial, self.sha256)
    }
}

impl Facts {
    /// Reads a certificate; the error says where it stops to be one.
    pub(super) fn read(der: Vec<u8>) -> Result<Facts, String> {
        let (rest, certificate) = X509Certificate::from_der(&der).map_err(|error| match error {
            x509_parser::nom::Err::Error(error) | x509_parser::nom::Err::Failure(error) => error.to_string(),
            x509_parser::nom::Err::Incomplete(_) => "it is cut short".into(),
        })?;
        if !rest.is_empty() {
            return Err(format!("{} bytes follow it", rest.len()));
        }
        let mut facts = Facts {
            subject: words(certificate.subject()),
            issuer: words(certificate.issuer()),
            serial: hex(certificate.raw_serial()),
            names: Vec::new(),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            key: kind(certificate.public_key()),
            sha256: hex(&Sha256::digest(&der)),
            issuer_url: None,
            authority: false,
            der: Vec::new(),
            subject_name: certificate.subject().as_raw().to_vec(),
            issuer_name: certificate.issuer().as_raw().to_vec(),
            serial_number: certificate.raw_serial().to_vec(),
            public_key: certificate.public_key().raw.to_vec(),
            version1: certificate.version() == X509Version::V1,
            key_id: None,
            issuer_key_id: None,
        };
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => {
                    facts.names.extend(names.general_names.iter().filter_map(name));
                }
                ParsedExtension::BasicConstraints(constraints) => facts.authority = constraints.ca,
                ParsedExtension::SubjectKeyIdentifier(id) => facts.key_id = Some(id.0.to_vec()),
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    facts.issuer_key_id = id.key_identifier.as_ref().map(|id| id.0.to_vec());
                }
                ParsedExtension::AuthorityInfoAccess(access) => {
                    let issuers = access.accessdescs.iter().filter(|one| one.access_method == ISSUERS);
                    facts.issuer_url = issuers.into_iter().find_map(|one| match &one.access_location {
                        GeneralName::URI(url) => Some(plain(url)),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        facts.der = der;
        Ok(facts)
    }

    /// Whether clients and this version can use it.
    pub(super) fn usable(&self, path: &str) -> Result<(), CertificateError> {
        if self.version1 {
            return Err(CertificateError::Version1 { path: path.to_owned(), subject: self.subject.clone() });
        }
        match self.key {
            KeyKind::Rsa(2048..=8192) | KeyKind::Ec(_) | KeyKind::Ed25519 => Ok(()),
            _ => Err(CertificateError::KeyKind {
                path: path.to_owned(),
                subject: self.subject.clone(),
                key: self.key.to_string(),
            }),
        }
    }

    /// It names itself as its issuer.
    pub fn self_issued(&self) -> bool {
        self.subject_name == self.issuer_name
    }

    /// Whether `issuer` may have signed this one, by the names and the identifiers of keys (RFC 5280 §4.2.1.1).
    pub(super) fn names_as_issuer(&self, issuer: &Facts) -> bool {
        let same_key =
            self.issuer_key_id.as_ref().zip(issuer.key_id.as_ref()).is_none_or(|(wanted, has)| wanted == has);
        self.issuer_name == issuer.subject_name && same_key
    }

    /// What to call it where a subject may be missing.
    pub(super) fn called(&self) -> &str {
        match self.names.first() {
            Some(name) if self.subject == NO_SUBJECT => name,
            _ => &self.subject,
        }
    }
}

/// id-ad-caIssuers (RFC 5280 §4.2.2.1).
const ISSUERS: Oid<'static> = x509_parser::oid_registry::OID_PKIX_ACCESS_DESCRIPTOR_CA_ISSUERS;
const NO_SUBJECT: &str = "(no subject)";

fn words(name: &X509Name<'_>) -> String {
    let text = plain(&name.to_string());
    if text.is_empty() { NO_SUBJECT.into() } else { text }
}

/// Text of strangers as it can be shown on a terminal, in one line.
fn plain(text: &str) -> String {
    let unsound = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().take(512).map(|c| if unsound(c) { '\u{fffd}' } else { c }).collect()
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(plain(name)),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            _ => None,
        },
        _ => None,
    }
}

fn kind(key: &SubjectPublicKeyInfo<'_>) -> KeyKind {
    let algorithm = key.algorithm.algorithm.to_id_string();
    let curve =
        || key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok()).map(|oid| oid.to_id_string());
    match (algorithm.as_str(), key.parsed()) {
        (_, Ok(PublicKey::RSA(key))) => KeyKind::Rsa(key.key_size()),
        ("1.2.840.10045.2.1", _) => match curve().as_deref() {
            Some("1.2.840.10045.3.1.7") => KeyKind::Ec("P-256"),
            Some("1.3.132.0.34") => KeyKind::Ec("P-384"),
            Some("1.3.132.0.35") => KeyKind::Ec("P-521"),
            Some("1.3.132.0.10") => KeyKind::Other("EC secp256k1".into()),
            other => KeyKind::Other(format!("EC on the curve {}", other.unwrap_or("that is not named"))),
        },
        ("1.3.101.112", _) => KeyKind::Ed25519,
        ("1.3.101.113", _) => KeyKind::Other("Ed448".into()),
        (_, Ok(PublicKey::DSA(_))) => KeyKind::Other("DSA".into()),
        (other, _) => KeyKind::Other(format!("algorithm {other}")),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
