//! The fields that tell a server who the client is by its certificate: what `client_cert_headers` names.
//!
//! What the client says under these names never passes, whether it has a certificate or not; only an edit of the
//! operator's has the last word on one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::edits::{Edits, field, write_one};
use super::forwarded::reads_as;
use crate::plan::ClientCertField;
use crate::tls::Identity;

/// What is said to servers of one client.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ClientCert<'a> {
    /// Of the frontend.
    pub(crate) headers: &'a [(ClientCertField, String)],
    /// `None`: it has shown no certificate that was verified.
    pub(crate) identity: Option<&'a Identity>,
}

impl ClientCert<'_> {
    /// Whether heads are none of its concern.
    pub(crate) fn is_silent(&self) -> bool {
        self.headers.is_empty()
    }

    /// Whether a field of the client's goes.
    pub(crate) fn clears(&self, name: &str) -> bool {
        self.headers.iter().any(|(_, ours)| reads_as(name, ours))
    }

    /// Appends our fields.
    pub(crate) fn append<'e>(&self, out: &mut Vec<u8>, edits: impl Edits<'e>) {
        for (what, name) in self.headers {
            if write_one(edits.clone(), name) {
                continue;
            }
            match (what, self.identity) {
                (ClientCertField::Verified, None) => field(out, name, b"NONE"),
                (_, None) => {}
                (what, Some(identity)) => {
                    out.extend_from_slice(name.as_bytes());
                    out.extend_from_slice(b": ");
                    say(out, *what, identity);
                    out.extend_from_slice(b"\r\n");
                }
            }
        }
    }
}

fn say(out: &mut Vec<u8>, what: ClientCertField, identity: &Identity) {
    match what {
        ClientCertField::Subject => ascii(out, &identity.subject),
        ClientCertField::Issuer => ascii(out, &identity.issuer),
        ClientCertField::Serial => out.extend_from_slice(identity.serial.as_bytes()),
        ClientCertField::Sha256 => identity.sha256.iter().for_each(|byte| out.extend(pair(*byte, b"0123456789abcdef"))),
        ClientCertField::Verified => out.extend_from_slice(b"SUCCESS"),
        ClientCertField::Certificate => {
            // RFC 9440 §2.2, RFC 8941 §3.3.5.
            out.push(b':');
            out.extend_from_slice(STANDARD.encode(&identity.der).as_bytes());
            out.push(b':');
        }
    }
}

/// What is not ASCII as pairs of hexadecimal digits, which RFC 4514 §2.4 allows for any byte: not every server reads
/// others in a field (RFC 9110 §5.5).
fn ascii(out: &mut Vec<u8>, name: &str) {
    for byte in name.bytes() {
        if byte.is_ascii() {
            out.push(byte);
        } else {
            out.push(b'\\');
            out.extend(pair(byte, b"0123456789ABCDEF"));
        }
    }
}

fn pair(byte: u8, digits: &[u8; 16]) -> [u8; 2] {
    [digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SerialNumber};

    use super::*;
    use crate::plan::HeaderEdit;

    const ALL: [ClientCertField; 6] = [
        ClientCertField::Subject,
        ClientCertField::Issuer,
        ClientCertField::Serial,
        ClientCertField::Sha256,
        ClientCertField::Verified,
        ClientCertField::Certificate,
    ];

    /// Headers `X-Subject` and so on, of all that there is to say.
    fn headers() -> Vec<(ClientCertField, String)> {
        ALL.into_iter().map(|what| (what, format!("X-{what:?}"))).collect()
    }

    fn identity(name: &str) -> Identity {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::OrganizationName, "Corp, Inc.");
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from_slice(&[10, 11, 12]));
        Identity::of(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der()).unwrap()
    }

    fn said(identity: Option<&Identity>, edits: &[HeaderEdit]) -> String {
        let mut out = Vec::new();
        ClientCert { headers: &headers(), identity }.append(&mut out, edits.iter());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn servers_learn_what_was_verified() {
        let identity = identity("Jörg\r\nX-Admin: 1");
        let all = said(Some(&identity), &[]);
        let lines: Vec<&str> = all.split_terminator("\r\n").collect();
        let name = "CN=J\\C3\\B6rg\\0D\\0AX-Admin: 1,O=Corp\\, Inc.";
        assert_eq!(lines[..3], [format!("X-Subject: {name}"), format!("X-Issuer: {name}"), "X-Serial: 0A0B0C".into()]);
        let digits = lines[3].strip_prefix("X-Sha256: ").unwrap();
        assert_eq!(digits.len(), 64);
        for (index, byte) in identity.sha256.iter().enumerate() {
            assert_eq!(digits[2 * index..2 * index + 2], format!("{byte:02x}"));
        }
        assert_eq!(lines[4], "X-Verified: SUCCESS");
        let der = lines[5].strip_prefix("X-Certificate: :").and_then(|line| line.strip_suffix(':')).unwrap();
        assert_eq!(der, STANDARD.encode(&identity.der));
        assert_eq!(lines.len(), 6);
        assert!(all.is_ascii());
    }

    #[test]
    fn without_a_certificate_only_its_lack_is_told() {
        assert_eq!(said(None, &[]), "X-Verified: NONE\r\n");
    }

    #[test]
    fn an_edit_has_the_last_word_on_its_own_name_only() {
        let set = [HeaderEdit::Set("x-verified".into(), "v".into()), HeaderEdit::Set("X-Subject".into(), "s".into())];
        assert_eq!(said(None, &set), "");
        let all = said(Some(&identity("a")), &set);
        assert!(all.starts_with("X-Issuer: ") && !all.contains("X-Verified"), "{all}");
    }

    #[test]
    fn whatever_a_server_could_take_for_ours_goes() {
        let headers = [(ClientCertField::Subject, "X_SSL-Client".to_owned())];
        let cert = ClientCert { headers: &headers, identity: None };
        for name in ["X_SSL-Client", "x-ssl-client", "X_SSL_CLIENT", "X-SSL_Client"] {
            assert!(cert.clears(name), "{name}");
        }
        for name in ["X-SSL-Clients", "X.SSL-Client", "SSL-Client"] {
            assert!(!cert.clears(name), "{name}");
        }
        assert!(ClientCert::default().is_silent() && !cert.is_silent());
    }
}
