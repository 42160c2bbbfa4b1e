//! Who a client is by its certificate, in texts that rules compare and headers carry.

use std::fmt::Write as _;
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use x509_parser::der_parser::asn1_rs::Tag;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{AttributeTypeAndValue, FromDer as _, X509Certificate, X509Name};

/// A client's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// RFC 4514, in ASCII.
    pub(crate) subject: Box<str>,
    /// RFC 4514, in ASCII.
    pub(crate) issuer: Box<str>,
    /// Upper-case hexadecimal, as OpenSSL writes it.
    pub(crate) serial: Box<str>,
    /// Of the whole certificate.
    pub(crate) sha256: [u8; 32],
    pub(crate) der: Box<[u8]>,
    /// Seconds since 1970 of its first and its last moment.
    times: (i64, i64),
}

impl Identity {
    /// `None`: it can't be read, which no certificate is that was verified.
    pub(super) fn of(der: &[u8]) -> Option<Identity> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        let mut serial = String::new();
        for byte in certificate.raw_serial() {
            write!(serial, "{byte:02X}").expect("a String takes all");
        }
        // A positive number whose first bit is set has a zero in front (X.690 §8.3).
        let serial = if serial.len() > 2 { serial.strip_prefix("00").unwrap_or(&serial) } else { &serial };
        Some(Identity {
            subject: distinguished(certificate.subject()),
            issuer: distinguished(certificate.issuer()),
            serial: serial.into(),
            sha256: Sha256::digest(der).into(),
            der: der.into(),
            times: (validity.not_before.timestamp(), validity.not_after.timestamp()),
        })
    }

    pub(super) fn is_in_time(&self) -> bool {
        let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs());
        i64::try_from(now).is_ok_and(|now| (self.times.0..=self.times.1).contains(&now))
    }
}

/// RFC 4514 §2: the last name first.
fn distinguished(name: &X509Name<'_>) -> Box<str> {
    let mut out = String::new();
    let mut all: Vec<_> = name.iter_rdn().collect();
    all.reverse();
    for (number, relative) in all.into_iter().enumerate() {
        if number > 0 {
            out.push(',');
        }
        for (number, attribute) in relative.iter().enumerate() {
            if number > 0 {
                out.push('+');
            }
            write_attribute(&mut out, attribute);
        }
    }
    out.into()
}

/// RFC 4514 §2.3 and §2.4.
fn write_attribute(out: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    let name = oid2abbrev(attribute.attr_type(), oid_registry()).ok();
    let _ = Tag::Utf8String;
    match (name, attribute.as_str()) {
        (Some(name), Ok(value)) => {
            out.push_str(name);
            out.push('=');
            escape(out, value);
        }
        _ => {
            out.push_str(&attribute.attr_type().to_id_string());
            out.push_str("=#");
        }
    }
}

/// RFC 4514 §2.4; what is not visible ASCII as the hexadecimal of its UTF-8, so that a header can carry it.
fn escape(out: &mut String, value: &str) {
    let last = value.len().saturating_sub(1);
    for (index, byte) in value.bytes().enumerate() {
        let special =
            b"\"+,;<>\\".contains(&byte) || index == 0 && b" #".contains(&byte) || index == last && byte == b' ';
        if special {
            out.push('\\');
            out.push(char::from(byte));
        } else if byte == b' ' || byte.is_ascii_graphic() {
            out.push(char::from(byte));
        } else {
            write!(out, "\\{byte:02X}").expect("a String takes all");
        }
    }
}
