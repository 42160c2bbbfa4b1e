//! TLS on both sides: rustls' configurations made from the plan, and what is known of a connection once it is there.
//!
//! Nothing here moves bytes. Configurations are made once for a plan ([`configs`]) and shared by all workers; what of
//! them is used for each connection allocates nothing and takes no lock that is ever held for long.

pub(crate) mod admission;
mod certificates;
mod client;
mod configs;
pub mod fault;
pub(crate) mod handshake;
pub mod hello;
mod identity;
mod server;
mod tickets;

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{AlertDescription, CommonState, HandshakeKind, ProtocolVersion, RootCertStore, SupportedProtocolVersion};

use crate::plan::{Authority, PlanError, TlsVersion};

pub(crate) use client::Outbound;
pub(crate) use configs::Configs;
pub(crate) use identity::Identity;
pub(crate) use server::admits;

/// What a client's connection is like, once its handshake is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) version: TlsVersion,
    /// As IANA lists it, with `TLS13_` in front of those of TLS 1.3.
    pub(crate) cipher_suite: &'static str,
    /// In lower case, without a dot at its end; `None`: the client asked for none.
    pub(crate) server_name: Option<Box<str>>,
    /// What was agreed on (RFC 7301).
    pub(crate) alpn: Option<Box<[u8]>>,
    pub(crate) resumed: bool,
    /// Of the client's certificate, which was verified, and is still in its time.
    pub(crate) client: Option<Box<Identity>>,
}

impl Facts {
    /// Of a server's connection whose handshake is over; `server_name` as its hello had it ([`hello::peek`]).
    pub(crate) fn of(common: &CommonState, server_name: Option<&str>) -> Facts {
        let certificate = common.peer_certificates().and_then(|chain| chain.first());
        let client = certificate.and_then(|certificate| Identity::of(certificate.as_ref()));
        Facts {
            version: match common.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => TlsVersion::V13,
                _ => TlsVersion::V12,
            },
            cipher_suite: common
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str())
                .unwrap_or("unknown"),
            server_name: server_name.map(|name| name.to_ascii_lowercase().into()),
            alpn: common.alpn_protocol().map(Into::into),
            resumed: common.handshake_kind() == Some(HandshakeKind::Resumed),
            // A session that is resumed brings the certificate of its first handshake, and nobody looked at it again.
            client: client.filter(|client| client.is_in_time()).map(Box::new),
        }
    }
}

/// Why a handshake with a server failed, and what there is to do about it.
pub(crate) fn words(error: &rustls::Error) -> String {
    use rustls::CertificateError as Bad;
    let remedy = match error {
        rustls::Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => {
            "its certificate is from nobody in the `ca`, or the server doesn't send its intermediates"
        }
        // What webpki says of a certificate that signs itself, when that very one is in the `ca`.
        rustls::Error::InvalidCertificate(Bad::Other(other)) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            "its certificate is an authority's own (it signs itself): have one signed by the `ca`, or use `verify = \"none\"`"
        }
        rustls::Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            "its certificate is for another name: `server_name` says which one is asked for"
        }
        rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            "it speaks none of the protocols of `alpn`"
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "it wants a certificate of ours: `certificate` of the backend's `tls`"
        }
        rustls::Error::InvalidMessage(_) => "it doesn't speak TLS there",
        _ => return error.to_string(),
    };
    format!("{error}: {remedy}")
}

/// Everything that is sound, of the one provider; there is no other in the process.
fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    &PROVIDER
}

fn versions(min: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static ALL: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
    match min {
        TlsVersion::V12 => &ALL,
        TlsVersion::V13 => &ALL[..1],
    }
}

fn roots(authority: &Authority) -> Result<Arc<RootCertStore>, PlanError> {
    let wrong = |problem: String| PlanError::new(format!("ca `{}`", authority.name), problem);
    if authority.certificates.is_empty() {
        return Err(wrong("it has no certificate".into()));
    }
    let mut roots = RootCertStore::empty();
    for (number, certificate) in authority.certificates.iter().enumerate() {
        let added = roots.add(certificate.as_slice().into());
        added.map_err(|error| wrong(format!("certificate {} can't be used: {error}", number + 1)))?;
    }
    Ok(Arc::new(roots))
}

fn alpn(names: &[String]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.clone().into_bytes()).collect()
}

#[cfg(test)]
mod tests;
