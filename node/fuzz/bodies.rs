//! What is tried with any file, by libFuzzer and by `cargo test` alike: nothing panics, and what is accepted can be used.

use node::certificates::{Bundle, File, Parts, Roots, Source, assemble, authority};

/// A PEM file, as certificates and as authorities.
pub(crate) fn pem(data: &[u8]) {
    let file = File { path: "x", bytes: data };
    if let Ok(trusted) = authority(file) {
        assert!(!trusted.certificates.is_empty());
    }
    made(Source::Bundle(file));
}

/// A PFX file with the password `x`.
pub(crate) fn pfx(data: &[u8]) {
    made(Source::Pfx { file: File { path: "x", bytes: data }, password: Some(("x", "of nobody")) });
}

fn made(source: Source<'_>) {
    let parts = Parts { source, chain: None, imported: &[], ocsp: None, roots: &Roots::default() };
    let Ok(Bundle { chain, key, known, .. }) = assemble(&parts, 0) else { return };
    assert!(!key.0.is_empty() && chain[0] == known.leaf.der && chain.len() == known.intermediates.len() + 1);
    let mut once = chain.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), chain.len(), "a certificate is in its chain twice");
}
