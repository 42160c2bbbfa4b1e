//! What a profile comes to: the configuration of its binds.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};

use super::certificates::{Choice, Shown};
use super::tickets::Tickets;
use super::{Facts, alpn, provider, roots, versions};
use crate::plan::{Plan, PlanError, Tls};

/// The configuration of a profile of the plan; `certificates` are the plan's.
///
/// # Errors
/// What the profile asks for that there isn't.
pub(super) fn config(
    plan: &Plan,
    tls: &Tls,
    certificates: &[Arc<Shown>],
    tickets: &Tickets,
) -> Result<Arc<ServerConfig>, PlanError> {
    let wrong = |problem: String| PlanError::new(format!("tls `{}`", tls.name), problem);
    let provider = with_suites(&tls.cipher_suites).map_err(wrong)?;
    let verifier = match &tls.client_auth {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(auth) => {
            let roots = roots(&plan.authorities[auth.authority])?;
            let builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
            let builder = if auth.required { builder } else { builder.allow_unauthenticated() };
            builder.build().map_err(|error| wrong(format!("client_auth: {error}")))?
        }
    };
    let shown: Vec<_> = tls.certificates.iter().map(|index| Arc::clone(&certificates[*index])).collect();
    let builder = ServerConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(versions(tls.min_version));
    let builder = builder.map_err(|_| wrong("no cipher suite of it is for its versions of TLS".into()))?;
    let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(Choice::new(&shown)));
    config.alpn_protocols = alpn(&tls.alpn);
    // The profile's order decides, as HAProxy has it; scanners call anything else a weakness.
    config.ignore_client_order = true;
    // Sessions are kept by the clients alone: nothing that all workers would have to lock, nothing that fills up.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if tls.tickets {
        config.ticketer = tickets.ring(plan, tls).map_err(|error| wrong(format!("keys for tickets: {error}")))?;
    } else {
        config.send_tls13_tickets = 0;
    }
    Ok(Arc::new(config))
}

/// Whether a connection may go on: a profile that demands a certificate of its clients has one that is in its time,
/// even if the session was resumed, which no verifier has looked at.
pub(crate) fn admits(tls: &Tls, facts: &Facts) -> bool {
    facts.client.is_some() || tls.client_auth.as_ref().is_none_or(|auth| !auth.required)
}

/// The provider with these cipher suites alone, by their names; none: all that it has.
fn with_suites(names: &[String]) -> Result<Arc<CryptoProvider>, String> {
    if names.is_empty() {
        return Ok(Arc::clone(provider()));
    }
    let all = &provider().cipher_suites;
    let known = || all.iter().filter_map(|suite| suite.suite().as_str());
    let suites = names.iter().map(|name| {
        // IANA's names of those of TLS 1.3 have no `13`.
        let same = |suite: &str| suite == name || suite.strip_prefix("TLS13_") == name.strip_prefix("TLS_");
        let found = all.iter().find(|suite| suite.suite().as_str().is_some_and(same)).copied();
        found.ok_or_else(|| {
            let known = known().collect::<Vec<_>>().join(", ");
            format!("there is no cipher suite `{}`; known are {known}", name.escape_debug())
        })
    });
    let suites = suites.collect::<Result<_, _>>()?;
    Ok(Arc::new(CryptoProvider { cipher_suites: suites, ..CryptoProvider::clone(provider()) }))
}
