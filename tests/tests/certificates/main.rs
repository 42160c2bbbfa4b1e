//! Certificates from the files that `openssl` makes to the plan, and what is said of those that cannot be used.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod bad;
mod commands;
mod good;
mod mutated;
mod pki;
mod tables;

use std::time::{Duration, SystemTime};

use node::config::{ClusterConfig, ConfigError, parse_cluster};

use pki::Pki;

/// A cluster file with this `[certificate.c]`; DIR in it is the directory of the PKI, whose root is configured.
fn text(pki: &Pki, table: &str) -> String {
    let text = format!(
        "[pair]\nname = \"x\"\n[ca.root]\nfile = \"DIR/root.pem\"\n[certificate.c]\n{table}\n\
         [tls.t]\ncertificates = [\"c\"]\n\
         [frontend.f]\nmode = \"http\"\nbind = {{ to = \"127.0.0.1:PORT\", tls = \"t\" }}\n"
    );
    text.replace("DIR", &pki.dir().display().to_string()).replace("PORT", "18443")
}

/// Such a file, read.
fn cluster(pki: &Pki, table: &str) -> Result<ClusterConfig, ConfigError> {
    parse_cluster("c", &text(pki, table))
}

/// The certificate of such a file, which must be good.
fn good(pki: &Pki, table: &str) -> ClusterConfig {
    cluster(pki, table).unwrap_or_else(|error| panic!("{error}"))
}

/// The mistakes of such a file.
fn mistakes(pki: &Pki, table: &str) -> Vec<String> {
    match cluster(pki, table) {
        Ok(_) => Vec::new(),
        Err(ConfigError::Invalid(found)) => found.iter().map(|one| pki.plain(&one.message)).collect(),
        Err(error) => panic!("{error}"),
    }
}

/// What is said of it on some day from now, at a time when no day begins.
fn warnings(pki: &Pki, cluster: &ClusterConfig, days: u64) -> Vec<String> {
    let said = cluster.warnings(SystemTime::now() + Duration::from_secs(days * 86_400 + 43_200));
    said.iter().map(|one| pki.plain(one.strip_prefix("c:5:14: ").unwrap_or(one))).collect()
}
