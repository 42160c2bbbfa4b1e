//! The certificates of a plan, and which of them a client is shown.
//!
//! By the name it asks for: exactly, then by a wildcard of one label (RFC 6125 §6.4.3), then the default. Of several,
//! the first whose key it can verify, those that aren't RSA first: they are many times cheaper to sign with.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, SignatureScheme};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::provider;
use crate::plan::{self, PlanError};

/// A certificate of the plan, ready to be shown.
pub(super) struct Shown {
    pub(super) key: Arc<CertifiedKey>,
    /// What the key can sign with: asked once, since the key allocates its answer.
    schemes: Box<[SignatureScheme]>,
    rsa: bool,
    /// In lower case, without repetition.
    names: Box<[Box<str>]>,
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shown").field(&self.names).finish()
    }
}

/// Every scheme that a key of the provider's may sign with.
const SCHEMES: [SignatureScheme; 10] = [
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PKCS1_SHA512,
];

impl Shown {
    /// # Errors
    /// A certificate that can't be read, or a key that can't or isn't its own.
    pub(super) fn load(certificate: &plan::Certificate) -> Result<Shown, PlanError> {
        let wrong = |problem: String| PlanError::new(format!("certificate `{}`", certificate.name), problem);
        let [leaf, ..] = certificate.chain.as_slice() else { return Err(wrong("its chain is empty".into())) };
        let names = names(leaf).ok_or_else(|| wrong("it is no X.509 certificate".into()))?;
        let key = PrivateKeyDer::try_from(certificate.key.0.as_slice())
            .map_err(|_| wrong("its key is neither PKCS #8, PKCS #1 nor SEC 1".into()))?;
        let chain = certificate.chain.iter().cloned().map(CertificateDer::from).collect();
        let mut key = CertifiedKey::from_der(chain, key.clone_key(), provider())
            .map_err(|error| wrong(format!("it can't be used with its key: {error}")))?;
        if !certificate.ocsp.is_empty() {
            key.ocsp = Some(certificate.ocsp.clone());
        }
        let schemes = SCHEMES.into_iter().filter(|scheme| key.key.choose_scheme(&[*scheme]).is_some()).collect();
        let rsa = key.key.algorithm() == SignatureAlgorithm::RSA;
        Ok(Shown { key: Arc::new(key), schemes, rsa, names })
    }

    fn suits(&self, schemes: &[SignatureScheme]) -> bool {
        self.schemes.iter().any(|scheme| schemes.contains(scheme))
    }
}

/// DNS names of a certificate; the common name counts only where there are none (RFC 6125 §6.4.4).
fn names(certificate: &[u8]) -> Option<Box<[Box<str>]>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let alternatives = alternatives.map_or(&[][..], |all| &all.value.general_names);
    let dns = alternatives.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(*name),
        _ => None,
    });
    let common = || certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    let mut names: Vec<&str> = dns.collect();
    if names.is_empty() {
        names.extend(common());
    }
    let mut all: Vec<Box<str>> = Vec::with_capacity(names.len());
    for name in names.into_iter().filter(|name| !name.is_empty()) {
        let name = Box::from(name.to_ascii_lowercase());
        if !all.contains(&name) {
            all.push(name);
        }
    }
    Some(all.into())
}

/// Chooses for the clients of one profile.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// By name; without their `*.` those of wildcards are in another map.
    exact: HashMap<Box<str>, Vec<Arc<Shown>>>,
    wildcard: HashMap<Box<str>, Vec<Arc<Shown>>>,
    /// For who asks for no name, or for one that nobody has.
    default: Vec<Arc<Shown>>,
}

impl Choice {
    /// `shown` in the profile's order.
    pub(super) fn new(shown: &[Arc<Shown>]) -> Choice {
        let mut choice = Choice::default();
        for one in shown {
            for name in &one.names {
                match name.strip_prefix("*.") {
                    Some(parent) => choice.wildcard.entry(parent.into()).or_default().push(Arc::clone(one)),
                    None => choice.exact.entry(name.clone()).or_default().push(Arc::clone(one)),
                }
            }
        }
        for candidates in choice.exact.values_mut().chain(choice.wildcard.values_mut()) {
            candidates.sort_by_key(|one| one.rsa);
        }
        // The default is the first, or one that has all of its names and another kind of key; then whatever can be verified.
        let alike = |one: &Arc<Shown>| {
            shown.first().is_some_and(|first| {
                let has_all = || first.names.iter().all(|name| one.names.contains(name));
                Arc::ptr_eq(first, one) || !first.names.is_empty() && has_all()
            })
        };
        choice.default = shown.iter().filter(|one| alike(one)).cloned().collect();
        choice.default.sort_by_key(|one| one.rsa);
        choice.default.extend(shown.iter().filter(|one| !alike(one)).cloned());
        choice
    }

    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&Arc<Shown>> {
        let exact = name.and_then(|name| self.exact.get(name));
        let wildcard = name.and_then(|name| name.split_once('.')).and_then(|(_, parent)| self.wildcard.get(parent));
        let mut all = exact.into_iter().chain(wildcard).chain([&self.default]).flatten();
        // With one that it can't verify, the handshake fails by the right alert.
        all.find(|one| one.suits(schemes)).or(self.default.first())
    }
}

impl ResolvesServerCert for Choice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls hands it on in lower case. RFC 6066 §3: it has no dot at its end.
        let name = hello.server_name().map(|name| name.strip_suffix('.').unwrap_or(name));
        self.choose(name, hello.signature_schemes()).map(|one| Arc::clone(&one.key))
    }
}
