//! How servers are spoken to over TLS: the configuration of a backend, or of its checks, and the names of servers.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};

use super::certificates::Shown;
use super::{alpn, provider, roots, versions};
use crate::plan::{Plan, PlanError, Server, ServerTls, Verify};

/// Sessions that are remembered of one server; each is used once in TLS 1.3.
const SESSIONS: usize = 8;

/// How one server is spoken to.
#[derive(Clone, Debug)]
pub(crate) struct Outbound {
    /// Its sessions are this server's alone: another one could not resume them.
    pub(crate) config: Arc<ClientConfig>,
    /// Who it must be; the name that it is asked for, unless it is an address (RFC 6066 §3).
    pub(crate) name: ServerName<'static>,
}

/// Without resumption; `certificates` are the plan's.
///
/// # Errors
/// An authority that can't be used, by its own name.
pub(super) fn config(plan: &Plan, tls: &ServerTls, certificates: &[Arc<Shown>]) -> Result<ClientConfig, PlanError> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider()));
    let builder = builder.with_protocol_versions(versions(tls.min_version)).expect("the provider has suites for all");
    let verifier: Arc<dyn ServerCertVerifier> = match tls.verify {
        Verify::Nothing => Arc::new(Anybody(provider().signature_verification_algorithms)),
        Verify::Authority(index) => {
            let authority = &plan.authorities[index];
            let builder = WebPkiServerVerifier::builder_with_provider(roots(authority)?, Arc::clone(provider()));
            let wrong = |error| PlanError::new(format!("ca `{}`", authority.name), format!("{error}"));
            builder.build().map_err(wrong)?
        }
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match tls.certificate {
        None => builder.with_no_client_auth(),
        Some(index) => {
            let key = Arc::clone(&certificates[index].key);
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
        }
    };
    config.alpn_protocols = alpn(&tls.alpn);
    config.resumption = Resumption::disabled();
    Ok(config)
}

impl Outbound {
    /// A server with sessions of its own.
    pub(super) fn resuming(config: &ClientConfig, name: ServerName<'static>) -> Outbound {
        let mut config = config.clone();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Outbound { config: Arc::new(config), name }
    }
}

/// The name that a server is asked for and verified against.
///
/// # Errors
/// It is neither a DNS name nor an address.
pub(super) fn server_name(tls: &ServerTls, server: &Server) -> Result<ServerName<'static>, String> {
    match tls.name.as_ref().or(server.tls_name.as_ref()) {
        None => Ok(ServerName::from(server.address.ip().to_canonical())),
        Some(name) => ServerName::try_from(name.clone())
            .map_err(|_| format!("tls: `{}` is neither a DNS name nor an address", name.escape_debug())),
    }
}

/// Takes any certificate, from whoever has its key.
#[derive(Debug)]
struct Anybody(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
