//! Whether servers show the certificate that their clients are shown by this proxy. Extended Protection (IIS, Exchange)
//! binds NTLM and Kerberos to it (RFC 5929 `tls-server-end-point`): with another one in between, log-ins fail.

use proxy_core::plan::{Action, Frontend};
use serde_json::{Value, json};

use crate::certificates::{Facts, shown};
use crate::cli::{paint, print, warn};
use crate::config::ClusterConfig;

/// What one server shows, for one frontend.
pub(super) struct Compared {
    backend: String,
    server: String,
    /// `None`: its clients come in the clear, or from nowhere.
    frontend: Option<String>,
    shown: Result<Facts, String>,
    /// The frontend shows the same one.
    same: bool,
}

/// Asks every server of every backend that is spoken to over TLS.
pub(super) fn compare(cluster: &ClusterConfig) -> Vec<Compared> {
    let plan = &cluster.plan;
    let mut compared = Vec::new();
    for (index, backend) in plan.backends.iter().enumerate() {
        let Some(tls) = &backend.tls else { continue };
        let frontends: Vec<&Frontend> = plan
            .frontends
            .iter()
            .filter(|frontend| leads_to(frontend, index) && frontend.binds.iter().any(|bind| bind.tls.is_some()))
            .collect();
        for server in &backend.servers {
            let shown = shown::by(plan, tls, server);
            let one = |frontend: Option<&Frontend>| Compared {
                backend: backend.name.clone(),
                server: server.name.clone(),
                frontend: frontend.map(|frontend| frontend.name.clone()),
                same: frontend
                    .zip(shown.as_ref().ok())
                    .is_some_and(|(frontend, facts)| shows(cluster, frontend, facts)),
                shown: shown.clone(),
            };
            if frontends.is_empty() {
                compared.push(one(None));
            }
            compared.extend(frontends.iter().map(|frontend| one(Some(frontend))));
        }
    }
    compared
}

/// Whether some client of the frontend is sent there.
fn leads_to(frontend: &Frontend, backend: usize) -> bool {
    let sends = |action: &Action| matches!(action, Action::UseBackend(index) if *index == backend);
    frontend.backend == Some(backend) || frontend.rules.iter().any(|rule| sends(&rule.action))
}

fn shows(cluster: &ClusterConfig, frontend: &Frontend, facts: &Facts) -> bool {
    let plan = &cluster.plan;
    let profiles = frontend.binds.iter().filter_map(|bind| bind.tls);
    let mut certificates = profiles.flat_map(|profile| plan.tls[profile].certificates.iter());
    certificates.any(|index| plan.certificates[*index].chain.first() == Some(&facts.der))
}

impl Compared {
    /// Whether somebody should do something.
    pub(super) fn hurts(&self) -> bool {
        self.shown.is_err() || (self.frontend.is_some() && !self.same)
    }

    fn words(&self) -> String {
        let Compared { backend, server, .. } = self;
        let facts = match &self.shown {
            Ok(facts) => facts,
            Err(why) => {
                return format!("backend {backend}: server {server} could not be asked for its certificate: {why}");
            }
        };
        let what = format!("backend {backend}: server {server} shows {} (serial {})", facts.subject, facts.serial);
        match &self.frontend {
            None => format!("{what}; no frontend with TLS leads there"),
            Some(frontend) if self.same => format!("{what}, and frontend {frontend} the same one"),
            Some(frontend) => format!(
                "{what}, and frontend {frontend} another one: where Extended Protection is required, NTLM and Kerberos log-ins \
                 fail (channel binding, RFC 5929). Let both show one certificate with one key (export it from the server as PFX, \
                 `lbnode cert import` it), pass TLS through with mode = \"tcp\", or set Extended Protection to off for that site"
            ),
        }
    }

    pub(super) fn tell(&self) {
        if self.hurts() {
            warn(self.words());
        } else {
            print(format_args!("{} {}", paint::stdout(paint::GREEN, "ok"), self.words()));
        }
    }

    pub(super) fn as_json(&self) -> Value {
        let sha256 = self.shown.as_ref().ok().map(|facts| facts.sha256.clone());
        json!({
            "backend": self.backend, "server": self.server, "frontend": self.frontend, "sha256": sha256,
            "error": self.shown.as_ref().err(), "same": self.same,
        })
    }
}
