//! The certificates of the running configuration, as they are today.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::rfc3339;
use crate::config::{CertificateEntry, ClusterConfig};

const DAY: i64 = 86_400;

/// A certificate of the running configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Its name in the cluster file.
    pub name: String,
    /// Whose it is.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// What it is for: names of hosts, with wildcards, and addresses.
    pub names: Vec<String>,
    /// Kind and size of its key.
    pub key: String,
    /// SHA-256 of the certificate, in hex.
    pub sha256: String,
    /// When it ends: RFC 3339, UTC.
    pub not_after: String,
    /// Whole days until then; below zero: it has expired.
    pub days_left: i64,
    /// Binds (`mail:443 (tls exchange)`), profiles without one, and backends that show it; empty: nobody does.
    pub used_by: Vec<String>,
    /// What will hurt or hurts already, in words.
    pub warnings: Vec<String>,
}

/// All of them.
pub(crate) fn of(cluster: &ClusterConfig, now: SystemTime) -> Vec<Certificate> {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed());
    let one = |(index, CertificateEntry { name, known, .. }): (usize, &CertificateEntry)| {
        let end = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(known.leaf.not_after.max(0).cast_unsigned());
        Certificate {
            name: name.clone(),
            subject: known.leaf.subject.clone(),
            issuer: known.leaf.issuer.clone(),
            names: known.leaf.names.clone(),
            key: known.leaf.key.to_string(),
            sha256: known.leaf.sha256.clone(),
            not_after: rfc3339(end),
            days_left: (known.leaf.not_after - now).div_euclid(DAY),
            used_by: used_by(cluster, index),
            warnings: known.warnings.iter().filter_map(|warning| warning.said(now)).collect(),
        }
    };
    cluster.certificates.iter().enumerate().map(one).collect()
}

fn used_by(cluster: &ClusterConfig, certificate: usize) -> Vec<String> {
    let plan = &cluster.plan;
    let mut users = Vec::new();
    for (index, tls) in plan.tls.iter().enumerate().filter(|(_, tls)| tls.certificates.contains(&certificate)) {
        let binds = plan.frontends.iter().zip(&cluster.bind_names);
        let binds = binds.flat_map(|(frontend, names)| frontend.binds.iter().zip(names));
        let shown = binds.filter(|(bind, _)| bind.tls == Some(index));
        let shown: Vec<String> = shown.map(|(_, name)| format!("{name} (tls {})", tls.name)).collect();
        if shown.is_empty() { users.push(format!("tls {}", tls.name)) } else { users.extend(shown) }
    }
    let shows = |tls: Option<&proxy_core::plan::ServerTls>| tls.is_some_and(|tls| tls.certificate == Some(certificate));
    for backend in &plan.backends {
        if shows(backend.tls.as_ref()) || shows(backend.check.as_ref().and_then(|check| check.tls.as_ref())) {
            users.push(format!("backend {}", backend.name));
        }
    }
    users
}
