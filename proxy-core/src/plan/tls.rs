//! TLS on both sides: with clients at a bind, with servers behind a backend.
//!
//! Here are the private keys that the plan carries. They are read and checked by the agent, shown by nothing, and
//! cleared when they go.

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Plan;

/// How a bind speaks TLS with its clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// Unique among profiles.
    pub name: String,
    /// Indexes into [`Plan::certificates`]. A client gets one that has the name it asks for and a key that it can verify;
    /// one that asks for no name, or an unknown one, the first, or one with all of the first one's names. Of several the one
    /// whose key isn't RSA.
    pub certificates: Vec<usize>,
    /// Older ones are refused.
    pub min_version: TlsVersion,
    /// Names of the cipher suites that may be used, of which the client prefers one (`TLS13_AES_128_GCM_SHA256`,
    /// `TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256`); empty: all that are sound.
    pub cipher_suites: Vec<String>,
    /// Protocols on offer (RFC 7301), the preferred one first; empty: the extension is ignored.
    pub alpn: Vec<String>,
    /// `None`: clients aren't asked for a certificate.
    pub client_auth: Option<ClientAuth>,
    /// Whether clients may resume their sessions.
    pub tickets: bool,
}

/// A version of TLS. Older ones are broken (RFC 8996).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TlsVersion {
    /// RFC 5246.
    V12,
    /// RFC 8446.
    V13,
}

/// Clients show certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientAuth {
    /// Index into [`Plan::authorities`]: who signs them.
    pub authority: usize,
    /// A client without one is refused. One that shows a bad one always is.
    pub required: bool,
}

/// A certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Unique among certificates.
    pub name: String,
    /// DER (RFC 5280); the certificate itself, then its intermediates, each signing the one before.
    pub chain: Vec<Vec<u8>>,
    /// DER: PKCS #8, PKCS #1 or SEC 1.
    pub key: Secret,
    /// OCSP response to staple, DER (RFC 6960); empty: none.
    pub ocsp: Vec<u8>,
}

/// Certificates that are trusted to sign others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// Unique among authorities.
    pub name: String,
    /// DER.
    pub certificates: Vec<Vec<u8>>,
}

/// How a backend's servers, or their checks, are spoken to over TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerTls {
    /// Who the servers' certificates must be from.
    pub verify: Verify,
    /// The name that they are asked for and verified against; `None`: the server's own ([`super::Server::tls_name`]).
    pub name: Option<String>,
    /// Older ones are refused.
    pub min_version: TlsVersion,
    /// Index into [`Plan::certificates`]: shown to a server that asks.
    pub certificate: Option<usize>,
    /// Protocols on offer, the preferred one first.
    pub alpn: Vec<String>,
}

/// Whether a server's certificate is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verify {
    /// Any will do: encrypted, but to nobody in particular.
    Nothing,
    /// Index into [`Plan::authorities`]: signed by one of them, for the server's name, in its time.
    Authority(usize),
}

/// Bytes that nobody is shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

impl Tls {
    pub(super) fn validate(&self, plan: &Plan) -> Result<(), String> {
        if self.certificates.is_empty() {
            return Err("it has no certificate".into());
        }
        if let Some(index) = self.certificates.iter().find(|index| **index >= plan.certificates.len()) {
            return Err(format!("there is no certificate number {index}"));
        }
        if let Some(auth) = self.client_auth.as_ref().filter(|auth| auth.authority >= plan.authorities.len()) {
            return Err(format!("there is no authority number {}", auth.authority));
        }
        check_alpn(&self.alpn)
    }
}

impl ServerTls {
    pub(super) fn validate(&self, plan: &Plan) -> Result<(), String> {
        if let Verify::Authority(index) = self.verify
            && index >= plan.authorities.len()
        {
            return Err(format!("there is no authority number {index}"));
        }
        if let Some(index) = self.certificate.filter(|index| *index >= plan.certificates.len()) {
            return Err(format!("there is no certificate number {index}"));
        }
        check_alpn(&self.alpn)
    }
}

/// RFC 7301 §3.1: one byte for the length of a name, none of them empty.
fn check_alpn(names: &[String]) -> Result<(), String> {
    let mut seen = HashSet::new();
    match names.iter().find(|name| name.is_empty() || name.len() > 255 || !seen.insert(name.as_str())) {
        Some(name) => Err(format!("alpn: `{}` is empty, too long, or there twice", name.escape_debug())),
        None => Ok(()),
    }
}
