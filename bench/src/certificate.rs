//! The proxies' certificates, made anew for each row and put into one PEM bundle that all of them read.

use std::io;
use std::path::PathBuf;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use tests::place::Place;

/// Whom clients ask for.
pub(crate) const NAME: &str = "bench.test";

/// What a certificate's key is: most of what a full handshake costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// ECDSA over P-256.
    P256,
    /// RSA of 2,048 bits.
    Rsa2048,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    /// Key or signature.
    #[error("make a certificate with a key of {key:?}")]
    Make {
        /// Of which kind.
        key: Key,
        /// From the library.
        #[source]
        source: rcgen::Error,
    },
    /// No file.
    #[error("write {path}")]
    Write {
        /// Where to.
        path: PathBuf,
        /// From the system.
        #[source]
        source: io::Error,
    },
}

/// Where [`make`] puts it.
pub(crate) fn path(place: &Place) -> PathBuf {
    place.path("bench.pem")
}

/// A certificate that signs itself, and its key.
pub(crate) fn make(place: &Place, key: Key) -> Result<(), CertificateError> {
    let failed = |source| CertificateError::Make { key, source };
    let pair = match key {
        Key::P256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
        // 2,048 bits where nothing else is asked for.
        Key::Rsa2048 => KeyPair::generate_for(&PKCS_RSA_SHA256),
    };
    let pair = pair.map_err(failed)?;
    let certificate = CertificateParams::new(vec![NAME.to_owned()]).and_then(|wanted| wanted.self_signed(&pair));
    let bundle = format!("{}{}", certificate.map_err(failed)?.pem(), pair.serialize_pem());
    let path = path(place);
    std::fs::write(&path, bundle).map_err(|source| CertificateError::Write { path, source })
}
