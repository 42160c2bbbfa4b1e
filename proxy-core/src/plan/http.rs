//! What a frontend needs to speak HTTP.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::rule::HeaderEdit;
use super::text::{MAX_BODY, Side, check_edits};

/// HTTP as a frontend speaks it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Http {
    /// From the first byte of a request (of the first one: from the connection's beginning) to the end of its head.
    pub request_timeout: Duration,
    /// From the end of an answer to the first byte of the next request.
    pub keep_alive_timeout: Duration,
    /// What the servers are told of the client; `None`: nothing.
    pub forwarded: Option<Forwarded>,
    /// Headers that tell the servers who the client is by its verified certificate; whatever the client sent under these
    /// names goes.
    pub client_cert_headers: Vec<(ClientCertField, String)>,
    /// Changes of every request, before the rules' own.
    pub request_edits: Vec<HeaderEdit>,
    /// Changes of every response, ours included.
    pub response_edits: Vec<HeaderEdit>,
    /// HTML by status, in place of our own short texts.
    pub error_pages: BTreeMap<u16, String>,
    /// Clients may speak HTTP/2: over TLS by ALPN, in the clear with prior knowledge (RFC 9113 §3.3).
    pub http2: bool,
}

/// What of a client's verified certificate a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientCertField {
    /// Its subject, as RFC 4514 writes it.
    Subject,
    /// Its issuer, likewise.
    Issuer,
    /// Its serial number, in hex.
    Serial,
    /// The SHA-256 of its DER, in hex.
    Sha256,
    /// Whether there is one.
    Verified,
    /// All of it, as RFC 9440 writes it.
    Certificate,
}

impl Http {
    /// A request's own headers can't be taken for it, and no two of ours are the same.
    fn validate_client_cert_headers(&self) -> Result<(), String> {
        for (index, (_, name)) in self.client_cert_headers.iter().enumerate() {
            // To a server `_` may be `-` (RFC 3875 §4.1.18).
            let plain = |name: &str| name.to_ascii_lowercase().replace('_', "-");
            HeaderEdit::Set(name.clone(), String::new()).check(Side::Request).map_err(|problem| problem.to_string())?;
            let before = &self.client_cert_headers[..index];
            if plain(name) == "host" || before.iter().any(|(_, earlier)| plain(earlier) == plain(name)) {
                return Err(format!("client_cert_headers: `{name}` is taken"));
            }
        }
        Ok(())
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        if self.request_timeout.is_zero() || self.keep_alive_timeout.is_zero() {
            return Err("a timeout is zero".into());
        }
        self.validate_client_cert_headers()?;
        check_edits(&self.request_edits, &self.response_edits)?;
        match self.error_pages.iter().find(|(status, page)| !(400..=599).contains(*status) || page.len() > MAX_BODY) {
            Some((status, page)) if page.len() > MAX_BODY => {
                Err(format!("the page for {status} is {} bytes long; at most {MAX_BODY}", page.len()))
            }
            Some((status, _)) => Err(format!("{status} is no status of an error")),
            None => Ok(()),
        }
    }
}

/// Headers that say who the client is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forwarded {
    /// Clients of whom nothing is said, and whose own headers pass: proxies that are trusted.
    pub except: Vec<IpNetwork>,
    /// What becomes of such headers that the client sent.
    pub client_supplied: ClientSupplied,
    /// `Forwarded` (RFC 7239) as well as `X-Forwarded-For`, `-Proto` and `-Host`.
    pub rfc7239: bool,
}

/// What becomes of forwarding headers that the client sent itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientSupplied {
    /// They go: what the servers read is ours alone.
    Remove,
    /// Ours comes after them, in a line of its own (HAProxy's `forwardfor`).
    Append,
}
