//! All of a plan's TLS, made when the plan is taken up.
//!
//! What didn't change is kept from the plan before: keys aren't loaded again, and sessions with servers go on.

use std::sync::Arc;

use rustls::ServerConfig;

use super::certificates::Shown;
use super::client::{self, Outbound};
use super::server;
use super::tickets::Tickets;
use crate::plan::{Backend, Certificate, Plan, PlanError, Server, ServerTls, Tls, Verify};

/// TLS of a scheme, index by index.
#[derive(Debug)]
pub(crate) struct Configs {
    /// Of each profile.
    binds: Vec<Arc<ServerConfig>>,
    /// Of each backend's servers; empty: in the clear.
    servers: Vec<Vec<Outbound>>,
    /// Of each backend's checks, by server; empty: in the clear. They never resume: a check is to notice when a
    /// certificate is no longer good.
    checks: Vec<Vec<Outbound>>,
    pub(super) certificates: Vec<Arc<Shown>>,
    tickets: Arc<Tickets>,
}

/// A plan and what was made of it.
type Before<'a> = Option<(&'a Plan, &'a Configs)>;

impl Configs {
    /// Of a plan that was validated.
    ///
    /// # Errors
    /// A profile, certificate, authority or server that can't be used, by its name.
    pub(crate) fn build(plan: &Plan, before: Before<'_>) -> Result<Configs, PlanError> {
        let tickets = before.map_or_else(Arc::default, |(_, configs)| Arc::clone(&configs.tickets));
        let certificates = plan.certificates.iter().map(|certificate| certificate_of(certificate, before));
        let certificates: Vec<_> = certificates.collect::<Result<_, _>>()?;
        let binds = plan.tls.iter().map(|tls| match before.and_then(|before| kept_bind(plan, tls, before)) {
            Some(kept) => Ok(kept),
            None => server::config(plan, tls, &certificates, &tickets),
        });
        let binds = binds.collect::<Result<_, _>>()?;
        let (mut servers, mut checks) = (Vec::new(), Vec::new());
        for backend in &plan.backends {
            servers.push(servers_of(plan, backend, &certificates, before)?);
            checks.push(checks_of(plan, backend, &certificates, before)?);
        }
        // Nothing fails any more.
        tickets.keep(plan);
        Ok(Configs { binds, servers, checks, certificates, tickets })
    }

    /// Of a profile.
    pub(crate) fn bind(&self, profile: usize) -> &Arc<ServerConfig> {
        &self.binds[profile]
    }

    /// How a server is spoken to; `None`: in the clear.
    pub(crate) fn server(&self, backend: usize, server: usize) -> Option<&Outbound> {
        self.servers[backend].get(server)
    }

    /// How a server is checked; `None`: in the clear.
    pub(crate) fn check(&self, backend: usize, server: usize) -> Option<&Outbound> {
        self.checks[backend].get(server)
    }
}

fn certificate_of(certificate: &Certificate, before: Before<'_>) -> Result<Arc<Shown>, PlanError> {
    let kept = before.and_then(|(plan, configs)| {
        let index = plan.certificates.iter().position(|old| old.name == certificate.name)?;
        (plan.certificates[index] == *certificate).then(|| Arc::clone(&configs.certificates[index]))
    });
    kept.map_or_else(|| Shown::load(certificate).map(Arc::new), Ok)
}

/// The configuration of a profile in which nothing changed.
fn kept_bind(plan: &Plan, tls: &Tls, (old_plan, configs): (&Plan, &Configs)) -> Option<Arc<ServerConfig>> {
    let index = old_plan.tls.iter().position(|old| old.name == tls.name)?;
    let old = &old_plan.tls[index];
    // Indexes may have moved: what they point to is compared.
    let plain = |tls: &Tls| Tls { certificates: Vec::new(), client_auth: None, ..tls.clone() };
    let same = plain(old) == plain(tls)
        && old.certificates.len() == tls.certificates.len()
        && old
            .certificates
            .iter()
            .zip(&tls.certificates)
            .all(|(a, b)| old_plan.certificates[*a] == plan.certificates[*b])
        && match (&old.client_auth, &tls.client_auth) {
            (None, None) => true,
            (Some(a), Some(b)) => {
                a.required == b.required && old_plan.authorities[a.authority] == plan.authorities[b.authority]
            }
            _ => false,
        };
    same.then(|| Arc::clone(&configs.binds[index]))
}

/// How the servers of a backend are spoken to.
fn servers_of(
    plan: &Plan,
    backend: &Backend,
    certificates: &[Arc<Shown>],
    before: Before<'_>,
) -> Result<Vec<Outbound>, PlanError> {
    let Some(tls) = &backend.tls else { return Ok(Vec::new()) };
    let kept = before.and_then(|(old_plan, configs)| {
        let index = old_plan.backends.iter().position(|old| old.name == backend.name)?;
        let old = &old_plan.backends[index];
        let same = old.tls.as_ref().is_some_and(|old| same_server_tls(old_plan, old, plan, tls));
        same.then(|| (&old.servers, &configs.servers[index]))
    });
    let mut config = None;
    let outbound = backend.servers.iter().map(|server| {
        let kept = kept.and_then(|(old, outbound)| {
            let same = |old: &Server| {
                old.name == server.name && old.address == server.address && old.tls_name == server.tls_name
            };
            old.iter().position(same).map(|index| outbound[index].clone())
        });
        if let Some(kept) = kept {
            return Ok(kept);
        }
        let name = named(backend, tls, server)?;
        let config = match &config {
            Some(config) => config,
            None => config.insert(client::config(plan, tls, certificates)?),
        };
        Ok(Outbound::resuming(config, name))
    });
    outbound.collect()
}

fn checks_of(
    plan: &Plan,
    backend: &Backend,
    certificates: &[Arc<Shown>],
    before: Before<'_>,
) -> Result<Vec<Outbound>, PlanError> {
    let tls = |backend: &'_ Backend| backend.check.as_ref().and_then(|check| check.tls.clone());
    let Some(wanted) = tls(backend) else { return Ok(Vec::new()) };
    let kept = before.and_then(|(old_plan, configs)| {
        let index = old_plan.backends.iter().position(|old| old.name == backend.name)?;
        let old = tls(&old_plan.backends[index])?;
        let first = configs.checks[index].first()?;
        same_server_tls(old_plan, &old, plan, &wanted).then(|| Arc::clone(&first.config))
    });
    let config = match kept {
        Some(kept) => kept,
        None => Arc::new(client::config(plan, &wanted, certificates)?),
    };
    let outbound = |server| Ok(Outbound { config: Arc::clone(&config), name: named(backend, &wanted, server)? });
    backend.servers.iter().map(outbound).collect()
}

fn named(
    backend: &Backend,
    tls: &ServerTls,
    server: &Server,
) -> Result<rustls::pki_types::ServerName<'static>, PlanError> {
    let wrong =
        |problem| PlanError::new(format!("backend `{}`", backend.name), format!("server `{}`: {problem}", server.name));
    client::server_name(tls, server).map_err(wrong)
}

/// Whether nothing changed; indexes may have moved, so what they point to is compared.
fn same_server_tls(old_plan: &Plan, old: &ServerTls, plan: &Plan, tls: &ServerTls) -> bool {
    let plain = |tls: &ServerTls| ServerTls { verify: Verify::Nothing, certificate: None, ..tls.clone() };
    let certificate = |plan: &Plan, tls: &ServerTls| tls.certificate.map(|index| plan.certificates[index].clone());
    plain(old) == plain(tls)
        && certificate(old_plan, old) == certificate(plan, tls)
        && match (old.verify, tls.verify) {
            (Verify::Nothing, Verify::Nothing) => true,
            (Verify::Authority(a), Verify::Authority(b)) => old_plan.authorities[a] == plan.authorities[b],
            _ => false,
        }
}
