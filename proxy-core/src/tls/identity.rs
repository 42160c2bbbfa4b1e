//! Who a client is by its certificate, in texts that rules compare and headers carry.

use std::fmt::Write as _;
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use x509_parser::der_parser::asn1_rs::{Any, Tag};
use x509_parser::prelude::{FromDer as _, X509Certificate, X509Name};

/// A client's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// RFC 4514, without control characters, but not only of ASCII.
    pub(crate) subject: Box<str>,
    /// The same.
    pub(crate) issuer: Box<str>,
    /// In upper-case hexadecimal, as OpenSSL writes it.
    pub(crate) serial: Box<str>,
    /// Of the whole certificate.
    pub(crate) sha256: [u8; 32],
    pub(crate) der: Box<[u8]>,
    /// The first of the subject, without its escapes.
    pub(crate) common_name: Option<Box<str>>,
    /// Seconds since 1970 of its first and its last moment.
    times: (i64, i64),
}

/// Attributes that are called by a name: those of RFC 4514 §3, and those that OpenSSL names in RFC 2253 texts.
const ATTRIBUTES: [(&str, &str); 15] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.12", "title"),
    ("2.5.4.42", "GN"),
    ("2.5.4.97", "organizationIdentifier"),
];

impl Identity {
    /// `None`: it can't be read, which no certificate is that was verified.
    pub(crate) fn of(der: &[u8]) -> Option<Identity> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        // A positive number whose first bit is set has a zero in front (X.690 §8.3.3).
        let serial = match certificate.raw_serial() {
            [0, rest @ ..] if !rest.is_empty() => rest,
            serial => serial,
        };
        Some(Identity {
            subject: distinguished(certificate.subject()),
            issuer: distinguished(certificate.issuer()),
            serial: hexadecimal(serial),
            sha256: Sha256::digest(der).into(),
            der: der.into(),
            common_name: certificate
                .subject()
                .iter_common_name()
                .next()
                .and_then(|name| name.as_str().ok())
                .map(Into::into),
            times: (validity.not_before.timestamp(), validity.not_after.timestamp()),
        })
    }

    pub(super) fn is_in_time(&self) -> bool {
        let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs());
        i64::try_from(now).is_ok_and(|now| (self.times.0..=self.times.1).contains(&now))
    }
}

fn hexadecimal(bytes: &[u8]) -> Box<str> {
    bytes.iter().fold(String::new(), |text, byte| hex(text, *byte)).into()
}

fn hex(mut text: String, byte: u8) -> String {
    write!(text, "{byte:02X}").expect("a String takes all");
    text
}

/// RFC 4514 §2: the last name first.
fn distinguished(name: &X509Name<'_>) -> Box<str> {
    let all: Vec<_> = name.iter_rdn().collect();
    let mut out = String::new();
    for relative in all.into_iter().rev() {
        for (number, attribute) in relative.iter().enumerate() {
            match number {
                0 if out.is_empty() => {}
                0 => out.push(','),
                _ => out.push('+'),
            }
            let kind = attribute.attr_type().to_id_string();
            match ATTRIBUTES.iter().find(|(known, _)| *known == kind) {
                Some((_, name)) => out.push_str(name),
                None => out.push_str(&kind),
            }
            out.push('=');
            match text(attribute.attr_value()) {
                Some(value) => escape(&mut out, &value),
                None => encoded(&mut out, attribute.attr_value()),
            }
        }
    }
    out.into()
}

/// A value of any type of string that a name may have (RFC 5280 §4.1.2.4).
fn text(value: &Any<'_>) -> Option<String> {
    let bytes = value.as_bytes();
    match value.tag() {
        Tag::Utf8String => String::from_utf8(bytes.to_vec()).ok(),
        Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::VisibleString if bytes.is_ascii() => {
            String::from_utf8(bytes.to_vec()).ok()
        }
        // Who wrote it meant Latin-1.
        Tag::TeletexString => Some(bytes.iter().map(|byte| char::from(*byte)).collect()),
        Tag::BmpString if bytes.len().is_multiple_of(2) => {
            let units = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            char::decode_utf16(units).collect::<Result<_, _>>().ok()
        }
        Tag::UniversalString if bytes.len().is_multiple_of(4) => {
            let units = bytes.chunks_exact(4).map(|four| u32::from_be_bytes([four[0], four[1], four[2], four[3]]));
            units.map(char::from_u32).collect()
        }
        _ => None,
    }
}

/// RFC 4514 §2.4, with control characters as pairs of hexadecimal digits: nothing in it can end a line.
fn escape(out: &mut String, value: &str) {
    for (index, character) in value.char_indices() {
        let (first, last) = (index == 0, index + character.len_utf8() == value.len());
        match character {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => out.extend(['\\', character]),
            ' ' if first || last => out.push_str("\\ "),
            '#' if first => out.push_str("\\#"),
            _ if character.is_control() => {
                let mut room = [0; 4];
                for byte in character.encode_utf8(&mut room).bytes() {
                    out.push('\\');
                    *out = hex(std::mem::take(out), byte);
                }
            }
            _ => out.push(character),
        }
    }
}

/// RFC 4514 §2.4: what is no string is `#` and its encoding.
fn encoded(out: &mut String, value: &Any<'_>) {
    let bytes = value.as_bytes();
    let length = bytes.len().to_be_bytes();
    let length = &length[length.iter().position(|byte| *byte != 0).unwrap_or(length.len() - 1)..];
    // Only the low form of a tag is in use (X.690 §8.1.2.2), and every class but the first is rare enough to be left out.
    let tag = u8::try_from(value.tag().0 & 0x1F).unwrap_or_default() | u8::from(value.header.constructed()) << 5;
    out.push('#');
    let short = bytes.len() < 128;
    let count = 0x80 | u8::try_from(length.len()).unwrap_or_default();
    let head = [tag].into_iter().chain((!short).then_some(count)).chain(length.iter().copied());
    *out = head.chain(bytes.iter().copied()).fold(std::mem::take(out), hex);
}
