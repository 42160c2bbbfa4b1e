//! PFX files (PKCS #12, RFC 7292). How long decrypting takes is the file's choice: an absurd one is refused unread, and
//! the work is done beside, with a deadline.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use p12_keystore::{Pkcs12Archive, error};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::der_parser::der::{DerObject, parse_der};

use super::{CertificateError, Facts, File, Held};

/// No key with its chain is longer.
const MAX_FILE: usize = 256 << 10;
/// Under a second of work; what is in use takes 1 to 600,000.
const MAX_ITERATIONS: u64 = 1_000_000;
/// For the whole file. A thread cannot be ended from outside: one that takes longer goes on beside until it is done.
const DEADLINE: Duration = Duration::from_secs(10);

/// Reads a file; `password`: itself, and where it is from.
pub(super) fn read(file: File<'_>, password: Option<(&str, &str)>) -> Result<Held, CertificateError> {
    let path = || file.path.to_owned();
    if file.bytes.len() > MAX_FILE {
        return Err(CertificateError::Long { path: path(), most: MAX_FILE, what: "PFX" });
    }
    let unreadable = |problem: &str| CertificateError::Pfx { path: path(), problem: problem.to_owned() };
    match mac_iterations(file.bytes) {
        None => return Err(unreadable("it is no PKCS #12 in DER")),
        Some(None) => return Err(CertificateError::NoMac { path: path() }),
        Some(Some(iterations)) if iterations > MAX_ITERATIONS => {
            return Err(CertificateError::Iterations { path: path(), iterations, most: MAX_ITERATIONS });
        }
        Some(Some(_)) => {}
    }
    let (bytes, secret) = (file.bytes.to_vec(), password.map_or("", |(password, _)| password).to_owned());
    let (done, result) = sync_channel(1);
    let started = thread::Builder::new().name("pfx".into()).spawn(move || {
        // Who gave up waiting has no use for it.
        let _ = done.send(Pkcs12Archive::from_pkcs12(&bytes, &secret));
    });
    started.map_err(|error| unreadable(&format!("no thread to decrypt it in: {error}")))?;
    let archive = match result.recv_timeout(DEADLINE) {
        Ok(Ok(archive)) => archive,
        Ok(Err(error::Error::MacError(_))) => {
            return Err(match password {
                Some((_, from)) => CertificateError::WrongPassword { path: path(), from: from.to_owned() },
                None => CertificateError::NoPassword { path: path() },
            });
        }
        Ok(Err(error)) => return Err(unreadable(&error.to_string())),
        Err(RecvTimeoutError::Timeout) => {
            return Err(CertificateError::Slow { path: path(), seconds: DEADLINE.as_secs() });
        }
        // The reader panicked.
        Err(RecvTimeoutError::Disconnected) => return Err(unreadable("it is damaged")),
    };
    let mut held = Held::default();
    for (number, bag) in (1..).zip(archive.certs) {
        let facts = Facts::read(bag.cert.as_der().to_vec()).map_err(|problem| CertificateError::Damaged {
            path: path(),
            number,
            problem,
        })?;
        if !held.certificates.contains(&facts) {
            held.certificates.push(facts);
        }
    }
    let keys = archive.keys.into_iter().map(|bag| PrivatePkcs8KeyDer::from(bag.key.as_der().to_vec()));
    held.keys.extend(keys.map(PrivateKeyDer::Pkcs8));
    Ok(held)
}

/// Whether these bytes are a sequence that begins with the version 3.
pub(super) fn looks_like_one(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0x30) && bytes.get(..16).unwrap_or(bytes).windows(3).any(|part| part == [2, 1, 3])
}

/// How often the MAC's key is hashed (RFC 7292 §4: 1 unless it says otherwise); the inner `None`: there is no MAC.
fn mac_iterations(bytes: &[u8]) -> Option<Option<u64>> {
    let (_, pfx) = parse_der(bytes).ok()?;
    let parts: &Vec<DerObject<'_>> = pfx.as_sequence().ok()?;
    if parts.first()?.as_u32() != Ok(3) {
        return None;
    }
    let Some(mac) = parts.get(2) else { return Some(None) };
    let iterations = match mac.as_sequence().ok()?.get(2) {
        // Whatever does not fit is absurd.
        Some(iterations) => iterations.as_u64().unwrap_or(u64::MAX),
        None => 1,
    };
    Some(Some(iterations))
}
