//! Puts a chain in order: from the certificate to whom the client knows, issuer by issuer.
//!
//! An issuer is who has the name and the key: several CAs have one name after the other has got a new key.

use rustls::crypto::aws_lc_rs::default_provider;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Facts, Roots};

/// A chain of indexes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ordered {
    /// Without the certificate itself, and without the root.
    pub(super) intermediates: Vec<usize>,
    /// The root, if it was there: servers don't send it.
    pub(super) root: Option<usize>,
    /// The index of whose issuer is missing; `None`: it ends at a root.
    pub(super) open: Option<usize>,
}

/// Orders what leads from `leaf` upwards.
pub(super) fn order(leaf: usize, pool: &[Facts], roots: &Roots) -> Ordered {
    let mut ordered = Ordered { intermediates: Vec::new(), root: None, open: None };
    let mut last = leaf;
    loop {
        let current = &pool[last];
        if current.self_issued() && is_signed_by(current, current) {
            return ordered;
        }
        let issuers = pool.iter().enumerate().filter(|(index, issuer)| {
            let used = *index == leaf || ordered.intermediates.contains(index);
            !used && current.names_as_issuer(issuer) && is_signed_by(current, issuer)
        });
        // The root itself, if it is there as well as what another root says of it: the shorter chain.
        let best = issuers.max_by_key(|(_, issuer)| (issuer.self_issued(), issuer.not_after));
        match best {
            Some((index, issuer)) if issuer.self_issued() => {
                ordered.root = Some(index);
                return ordered;
            }
            Some((index, _)) => {
                ordered.intermediates.push(index);
                last = index;
            }
            None => {
                ordered.open = (!roots.have(&current.issuer_name)).then_some(last);
                return ordered;
            }
        }
    }
}

/// Whether the issuer's key made the signature. One of an algorithm that is not known here (SHA-1) is believed.
fn is_signed_by(certificate: &Facts, issuer: &Facts) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(&certificate.der) else { return false };
    let Ok((_, signer)) = X509Certificate::from_der(&issuer.der) else { return false };
    let signed = parsed.tbs_certificate.as_ref();
    let Some(algorithm) = algorithm(&certificate.der, signed) else { return false };
    let known = default_provider().signature_verification_algorithms.all;
    let mut fitting = known.iter().filter(|one| *one.signature_alg_id() == *algorithm).peekable();
    let key = &signer.public_key().subject_public_key.data;
    fitting.peek().is_none()
        || fitting.any(|one| one.verify_signature(key, signed, &parsed.signature_value.data).is_ok())
}

/// The content of the AlgorithmIdentifier that follows what is signed (RFC 5280 §4.1); all that are known are short.
fn algorithm<'a>(der: &'a [u8], signed: &[u8]) -> Option<&'a [u8]> {
    let start = (signed.as_ptr() as usize).checked_sub(der.as_ptr() as usize)?;
    match der.get(start + signed.len()..)? {
        [0x30, length @ ..=0x7f, rest @ ..] => rest.get(..usize::from(*length)),
        _ => None,
    }
}
