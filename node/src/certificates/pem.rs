//! PEM files (RFC 7468): every certificate and private key of a file, in its order.

use rustls::pki_types::pem::{self, PemObject as _, SectionKind};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};

use super::{CertificateError, Facts, File, Held, Source};

/// Reads a file. It may have neither certificates nor keys.
pub(super) fn read(file: File<'_>) -> Result<Held, CertificateError> {
    let path = || file.path.to_owned();
    // As some editors begin a file; it would hide the first line.
    let bytes = file.bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file.bytes);
    if has_line(bytes, b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || has_line(bytes, b"Proc-Type: 4,ENCRYPTED") {
        return Err(CertificateError::EncryptedKey { path: path() });
    }
    let mut held = Held::default();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes) {
        let (kind, der) = section.map_err(|error| CertificateError::Pem { path: path(), problem: words(&error) })?;
        match kind {
            SectionKind::Certificate => {
                let number = held.certificates.len() + 1;
                let facts =
                    Facts::read(der).map_err(|problem| CertificateError::Damaged { path: path(), number, problem })?;
                // Who appends a chain twice means it once.
                if !held.certificates.contains(&facts) {
                    held.certificates.push(facts);
                }
            }
            SectionKind::PrivateKey => held.keys.push(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der))),
            SectionKind::RsaPrivateKey => held.keys.push(PrivateKeyDer::Pkcs1(PrivatePkcs1KeyDer::from(der))),
            SectionKind::EcPrivateKey => held.keys.push(PrivateKeyDer::Sec1(PrivateSec1KeyDer::from(der))),
            _ => {}
        }
    }
    held.keys.dedup_by(|one, other| one.secret_der() == other.secret_der());
    Ok(held)
}

/// What a source without a certificate seems to be, or what was expected.
pub(super) fn hint(source: &Source<'_>) -> String {
    match source {
        Source::Bundle(file) | Source::Apart { certificate: file, .. } => hint_of(*file),
        Source::Pfx { .. } => "export it again together with its certificate".into(),
    }
}

/// The same for a file that is to be PEM.
pub(super) fn hint_of(File { path, bytes }: File<'_>) -> String {
    if bytes.is_empty() {
        "it is empty".into()
    } else if super::is_pfx(bytes) {
        "it is a PFX: name it with `pfx` instead".into()
    } else if Facts::read(bytes.to_vec()).is_ok() {
        format!("it is one in DER, and PEM is wanted: `openssl x509 -inform der -in {path} -out NEW.pem`")
    } else if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        "it is text in UTF-16: save it as ASCII".into()
    } else if has_line(bytes, b"-----BEGIN CERTIFICATE REQUEST-----") {
        "it has a request: what the CA made of that is wanted".into()
    } else if has_line(bytes, b"-----BEGIN PKCS7-----") {
        format!("it is PKCS #7: `openssl pkcs7 -print_certs -in {path} -out NEW.pem` makes PEM of it")
    } else {
        "expected PEM, with a line -----BEGIN CERTIFICATE-----".into()
    }
}

fn has_line(bytes: &[u8], line: &[u8]) -> bool {
    bytes.split(|byte| *byte == b'\n').any(|found| found.trim_ascii_end() == line)
}

fn words(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            let marker: String =
                String::from_utf8_lossy(end_marker).chars().filter(|c| !c.is_control()).take(60).collect();
            format!("the line -----END {marker}----- is missing")
        }
        pem::Error::IllegalSectionStart { .. } => "a line with -----BEGIN does not end as it should".into(),
        pem::Error::Base64Decode(_) => "what follows a -----BEGIN is not base64".into(),
        other => other.to_string(),
    }
}
