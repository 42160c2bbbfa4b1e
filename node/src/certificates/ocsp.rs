//! OCSP responses (RFC 6960), as far as a server that staples them must know them: whether it is one, whose, and until when.
//! Clients verify the signature.

use x509_parser::der_parser::ber::BerObjectContent;
use x509_parser::der_parser::der::{DerObject, Tag, parse_der};
use x509_parser::prelude::ASN1Time;
use x509_parser::prelude::FromDer as _;

use super::facts::hex;
use super::{CertificateError, Facts, File};

/// No response is longer: it goes into every handshake.
const MAX_FILE: usize = 32 << 10;

/// What a response says of one certificate.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// Seconds since 1970; `None`: not said.
    pub(super) until: Option<i64>,
    pub(super) revoked: bool,
}

impl Answer {
    /// Whether clients take it at that time. One that is revoked is stapled all the same: it is the truth.
    pub(super) fn fresh(&self, now: i64) -> bool {
        self.until.is_none_or(|until| now <= until)
    }
}

/// Reads a response that must be about this certificate.
pub(super) fn read(file: File<'_>, certificate: &Facts) -> Result<Answer, CertificateError> {
    if file.bytes.len() > MAX_FILE {
        return Err(CertificateError::Long { path: file.path.to_owned(), most: MAX_FILE, what: "OCSP response" });
    }
    let wrong = |problem: String| CertificateError::Ocsp { path: file.path.to_owned(), problem };
    let answers = answers(file.bytes).map_err(|problem| wrong(problem.to_owned()))?;
    let of_ours = answers.iter().position(|(serial, _)| *serial == certificate.serial_number);
    match of_ours {
        Some(index) => Ok(answers.into_iter().nth(index).expect("it is one of them").1),
        None => {
            let serials: Vec<String> = answers.iter().take(3).map(|(serial, _)| hex(serial)).collect();
            let (about, wanted) = (serials.join(", "), &certificate.serial);
            Err(wrong(format!("it is about the certificate with serial {about}, not {wanted}")))
        }
    }
}

/// Serial numbers, and what is said of them.
fn answers(bytes: &[u8]) -> Result<Vec<(Vec<u8>, Answer)>, &'static str> {
    const NOT_ONE: &str = "it is none in DER";
    let response = parse(bytes).ok_or(NOT_ONE)?;
    let parts = response.as_sequence().map_err(|_| NOT_ONE)?;
    match parts.first().map(|status| &status.content) {
        // RFC 6960 §4.2.1
        Some(BerObjectContent::Enum(0)) => {}
        Some(BerObjectContent::Enum(1)) => return Err("it says that the request was malformed"),
        Some(BerObjectContent::Enum(_)) => return Err("it says that the responder could not answer"),
        _ => return Err(NOT_ONE),
    }
    let basic = parts.get(1).and_then(explicit).ok_or(NOT_ONE)?;
    let basic = basic.as_sequence().ok().and_then(|bytes| bytes.get(1)?.as_slice().ok()).ok_or(NOT_ONE)?;
    let basic = parse(basic).ok_or(NOT_ONE)?;
    let data = basic.as_sequence().ok().and_then(|parts| parts.first()?.as_sequence().ok()).ok_or(NOT_ONE)?;
    // Before it are a version, whose response it is, and when it was made; of these none is a plain sequence.
    let single = data.iter().find_map(|part| part.as_sequence().ok()).ok_or(NOT_ONE)?;
    let read: Option<Vec<_>> = single.iter().map(answer).collect();
    read.filter(|read| !read.is_empty()).ok_or(NOT_ONE)
}

/// `SingleResponse ::= { certID, certStatus, thisUpdate, [0] nextUpdate OPTIONAL, … }`
fn answer(single: &DerObject<'_>) -> Option<(Vec<u8>, Answer)> {
    let parts = single.as_sequence().ok()?;
    let serial = parts.first()?.as_sequence().ok()?.get(3)?.as_slice().ok()?.to_vec();
    let revoked = parts.get(1)?.header.tag() == Tag(1);
    let next = parts.get(3).filter(|part| part.header.tag() == Tag(0));
    let until = match next {
        Some(next) => Some(ASN1Time::from_der(next.as_slice().ok()?).ok()?.1.timestamp()),
        None => None,
    };
    Some((serial, Answer { until, revoked }))
}

/// What is inside an explicit tag.
fn explicit<'a>(tagged: &DerObject<'a>) -> Option<DerObject<'a>> {
    match &tagged.content {
        BerObjectContent::Unknown(any) => parse(any.data),
        _ => None,
    }
}

fn parse(bytes: &[u8]) -> Option<DerObject<'_>> {
    parse_der(bytes).ok().filter(|(rest, _)| rest.is_empty()).map(|(_, object)| object)
}
