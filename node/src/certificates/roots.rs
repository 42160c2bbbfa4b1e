//! Names of who ends a chain without being in the file: the configured authorities, and the CAs that this machine trusts.
//! They decide about a warning only, so that it may differ between machines.

use std::collections::HashSet;
use std::sync::OnceLock;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Where distributions have their bundle.
const BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

/// Names as certificates have them.
#[derive(Debug, Default)]
pub struct Roots {
    configured: HashSet<Vec<u8>>,
    system: Option<&'static HashSet<Vec<u8>>>,
}

impl Roots {
    /// Those of this machine.
    pub fn of_system() -> Roots {
        static SYSTEM: OnceLock<HashSet<Vec<u8>>> = OnceLock::new();
        Roots { configured: HashSet::new(), system: Some(SYSTEM.get_or_init(read)) }
    }

    /// Further names.
    pub fn add(&mut self, names: impl IntoIterator<Item = Vec<u8>>) {
        self.configured.extend(names);
    }

    pub(super) fn have(&self, name: &[u8]) -> bool {
        self.configured.contains(name) || self.system.is_some_and(|system| system.contains(name))
    }
}

fn read() -> HashSet<Vec<u8>> {
    let Some(bundle) = BUNDLES.iter().find_map(|path| std::fs::read(path).ok()) else { return HashSet::new() };
    let certificates = CertificateDer::pem_slice_iter(&bundle).filter_map(Result::ok);
    let name = |der: CertificateDer<'_>| {
        X509Certificate::from_der(&der).ok().map(|(_, certificate)| certificate.subject().as_raw().to_vec())
    };
    certificates.filter_map(name).collect()
}
