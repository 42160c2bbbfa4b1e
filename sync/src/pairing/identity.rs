//! An identity: a key, and the certificate that shows it.

use std::fmt;
use std::sync::Arc;

use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::{PairingError, Pin, check_name};

/// A node's key and its self-signed certificate. Cheap to clone; shows no secret.
#[derive(Clone)]
pub struct Identity {
    pin: Pin,
    certified: Arc<CertifiedKey>,
    pem: Arc<Pem>,
}

/// An identity as it lies on the disk.
pub(super) struct Pem {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("pin", &self.pin).finish_non_exhaustive()
    }
}

impl Identity {
    /// A new one. The name in the certificate is for people: what counts is the pin, and neither name nor date is
    /// ever checked.
    pub(super) fn generate(node: &str) -> Result<Identity, PairingError> {
        check_name(node)?;
        let made = || {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, node);
            let certificate = params.self_signed(&key)?;
            Ok((certificate.pem(), key.serialize_pem()))
        };
        let (certificate, key) = made().map_err(PairingError::NotMade)?;
        Ok(Identity::from_pem(certificate, key).expect("just made"))
    }

    /// From two files; the text says what is wrong with them.
    pub(super) fn from_pem(certificate: String, key: String) -> Result<Identity, String> {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|error| format!("holds no certificate ({error})"))?;
        let private =
            PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| format!("has no key beside it ({error})"))?;
        let signing = provider()
            .key_provider
            .load_private_key(private)
            .map_err(|error| format!("has no usable key beside it ({error})"))?;
        let pin = Pin::of(&der);
        let certified = CertifiedKey::new(vec![der], signing);
        certified.keys_match().map_err(|error| format!("does not belong to the key beside it ({error})"))?;
        let pem = Pem { certificate, key };
        Ok(Identity { pin, certified: Arc::new(certified), pem: Arc::new(pem) })
    }

    /// What the peer knows it by.
    pub fn pin(&self) -> Pin {
        self.pin
    }

    /// The certificate and its key, for TLS.
    pub(crate) fn certified(&self) -> Arc<SingleCertAndKey> {
        Arc::new(SingleCertAndKey::from(Arc::clone(&self.certified)))
    }

    pub(super) fn pem(&self) -> &Pem {
        &self.pem
    }
}

/// The one set of algorithms.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
