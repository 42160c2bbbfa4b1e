//! What the header fields say about the message and its connection, found in one pass. Requests and responses alike.
//!
//! A field is recognised by its length and first letter before its name is compared, so that most cost two comparisons.

use super::{BadHead, Framing, Hop, Version};

/// More options in `Connection` are refused: each is looked up among all fields.
const MAX_OPTIONS: u32 = 32;

/// Schemes that authenticate the connection: what comes after on it is the same user's (RFC 4559 §6, MS-NTHT, MS-CSSP).
const CONNECTION_SCHEMES: [&[u8]; 5] = [b"NTLM", b"Negotiate", b"Kerberos", b"CredSSP", b"Nego2"];

/// Fields that a `Connection` option never removes: who sends it could make the server blind to what others rely on.
const KEPT: [&[u8]; 6] = [b"host", b"content-length", b"transfer-encoding", b"cookie", b"authorization", b"forwarded"];

/// The answers of one pass.
#[derive(Default)]
pub(super) struct Survey<'b> {
    /// The first `Host`.
    pub(super) host: Option<&'b [u8]>,
    pub(super) hosts: u32,
    /// `Content-Length`, and which field it is.
    pub(super) length: Option<u64>,
    pub(super) length_field: usize,
    pub(super) chunked: bool,
    /// `Expect`, of all its fields.
    pub(super) expect: Expect,
    hop_by_hop: u128,
    options: u32,
    close: bool,
    keep_alive: bool,
    nominating: bool,
    upgrade_option: bool,
    upgrade_named: bool,
    upgrade_refused: bool,
    connection_auth: bool,
}

/// What `Expect` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Expect {
    #[default]
    Nothing,
    Continue,
    Other,
}

#[derive(Clone, Copy)]
enum Kind {
    Authenticate,
    Authorization,
    Connection,
    ContentLength,
    Expect,
    HopByHop,
    Host,
    Te,
    TransferEncoding,
    Upgrade,
}

fn kind(name: &[u8]) -> Result<Option<Kind>, BadHead> {
    let first = name.first().map_or(0, |byte| byte | 0x20);
    let (known, kind): (&[u8], Kind) = match (name.len(), first) {
        (2, b't') => (b"te", Kind::Te),
        (4, b'h') => (b"host", Kind::Host),
        (6, b'e') => (b"expect", Kind::Expect),
        (7, b'u') => (b"upgrade", Kind::Upgrade),
        (10, b'c') => (b"connection", Kind::Connection),
        (10, b'k') => (b"keep-alive", Kind::HopByHop),
        (13, b'a') => (b"authorization", Kind::Authorization),
        (14, b'c') => (b"content-length", Kind::ContentLength),
        (14, b'h') => (b"http2-settings", Kind::HopByHop),
        (16, b'p') => (b"proxy-connection", Kind::HopByHop),
        (16, b'w') => (b"www-authenticate", Kind::Authenticate),
        (17, b't') => (b"transfer-encoding", Kind::TransferEncoding),
        (18, b'p') => (b"proxy-authenticate", Kind::Authenticate),
        (19, b'p') => (b"proxy-authorization", Kind::Authorization),
        _ => return Ok(None),
    };
    if name.eq_ignore_ascii_case(known) {
        return Ok(Some(kind));
    }
    // Servers that hand fields on as variables write `_` for `-`, and would take these for the real ones.
    let framing = matches!(kind, Kind::ContentLength | Kind::TransferEncoding);
    let like = |(byte, known): (&u8, &u8)| byte.eq_ignore_ascii_case(known) || (*byte == b'_' && *known == b'-');
    if framing && name.iter().zip(known).all(like) { Err(BadHead::LookAlike) } else { Ok(None) }
}

impl<'b> Survey<'b> {
    /// Reads all fields.
    pub(super) fn of(fields: &[httparse::Header<'b>], version: Version) -> Result<Self, BadHead> {
        let mut survey = Self::default();
        for (index, field) in fields.iter().enumerate() {
            if let Some(kind) = kind(field.name.as_bytes())? {
                survey.field(kind, index, field.value)?;
            }
        }
        if survey.chunked {
            // RFC 9112 §6.1: such a message was tampered with, or somebody on the way reads it otherwise.
            if survey.length.is_some() {
                return Err(BadHead::LengthAndEncoding);
            }
            if version == Version::Http10 {
                return Err(BadHead::EncodingInHttp10);
            }
        }
        if survey.nominating {
            survey.nominate(fields);
        }
        Ok(survey)
    }

    fn field(&mut self, kind: Kind, index: usize, value: &'b [u8]) -> Result<(), BadHead> {
        let bit = 1_u128 << index;
        match kind {
            Kind::Host => {
                self.host = self.host.or(Some(value));
                self.hosts += 1;
            }
            // RFC 9112 §6.3 (5) lets a list of equal values pass; nobody who means well sends one.
            Kind::ContentLength if self.length.is_some() => return Err(BadHead::ContentLengthRepeated),
            Kind::ContentLength => {
                self.length = Some(decimal(value).ok_or(BadHead::ContentLength)?);
                self.length_field = index;
            }
            Kind::TransferEncoding if self.chunked || !value.eq_ignore_ascii_case(b"chunked") => {
                return Err(BadHead::TransferEncoding);
            }
            Kind::TransferEncoding => self.chunked = true,
            Kind::Expect if self.expect != Expect::Other && value.eq_ignore_ascii_case(b"100-continue") => {
                self.expect = Expect::Continue;
            }
            Kind::Expect => self.expect = Expect::Other,
            // RFC 9110 §10.1.4: what this connection takes is not what the next one takes; trailers are passed on.
            Kind::Te if value.eq_ignore_ascii_case(b"trailers") => {}
            Kind::Te | Kind::HopByHop => self.hop_by_hop |= bit,
            Kind::Upgrade => {
                self.hop_by_hop |= bit;
                self.upgrade(value);
            }
            Kind::Connection => {
                self.hop_by_hop |= bit;
                self.connection(value)?;
            }
            Kind::Authorization => self.connection_auth |= is_connection_scheme(value),
            Kind::Authenticate => self.connection_auth |= challenges(value).any(is_connection_scheme),
        }
        Ok(())
    }

    fn connection(&mut self, value: &[u8]) -> Result<(), BadHead> {
        for option in list(value) {
            self.options += 1;
            if self.options > MAX_OPTIONS {
                return Err(BadHead::ConnectionOptions);
            }
            if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade_option = true;
            } else if !option.eq_ignore_ascii_case(b"te") {
                self.nominating = true;
            }
        }
        Ok(())
    }

    /// HTTP/2 in the clear would be a second protocol within ours, unread (RFC 9113 dropped it): not offered to a server.
    fn upgrade(&mut self, value: &[u8]) {
        for protocol in list(value) {
            self.upgrade_named = true;
            let name = protocol.split(|byte| *byte == b'/').next().unwrap_or_default();
            self.upgrade_refused |= [&b"h2c"[..], b"h2", b"http"].iter().any(|no| name.eq_ignore_ascii_case(no));
        }
    }

    /// Marks the fields that `Connection` names (RFC 9110 §7.6.1).
    fn nominate(&mut self, fields: &[httparse::Header<'b>]) {
        for connection in fields.iter().filter(|field| field.name.eq_ignore_ascii_case("connection")) {
            for option in list(connection.value).filter(|option| !is_kept(option)) {
                for (index, field) in fields.iter().enumerate() {
                    let te = field.name.eq_ignore_ascii_case("te");
                    if !te && field.name.as_bytes().eq_ignore_ascii_case(option) {
                        self.hop_by_hop |= 1 << index;
                    }
                }
            }
        }
    }

    /// What is to be known about the connection, after a message of this framing.
    pub(super) fn hop(&self, version: Version, framing: Framing) -> Hop {
        let current = version == Version::Http11;
        Hop {
            // RFC 9112 §9.3
            persistent: !self.close && (current || self.keep_alive) && framing != Framing::UntilClose,
            // RFC 9110 §7.8: not in HTTP/1.0.
            upgrade: current && self.upgrade_option && self.upgrade_named && !self.upgrade_refused,
            connection_auth: self.connection_auth,
            hop_by_hop: self.hop_by_hop,
        }
    }

    /// Marks a field as not to be passed on.
    pub(super) fn drop_field(&mut self, index: usize) {
        self.hop_by_hop |= 1 << index;
    }
}

fn is_kept(option: &[u8]) -> bool {
    const PREFIX: &[u8] = b"x-forwarded-";
    option.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
        || KEPT.iter().any(|kept| option.eq_ignore_ascii_case(kept))
}

/// The members of a list (RFC 9110 §5.6.1).
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// The members of a list of challenges or of their parameters: commas in quotes are none (RFC 9110 §11.6.1).
fn challenges(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    let mut escaped = false;
    value.split(move |byte| {
        let comma = *byte == b',' && !quoted;
        quoted ^= *byte == b'"' && !escaped;
        escaped = quoted && !escaped && *byte == b'\\';
        comma
    })
}

/// Whether a challenge or credentials begin with such a scheme.
fn is_connection_scheme(credentials: &[u8]) -> bool {
    let credentials = credentials.trim_ascii();
    let end = credentials.iter().position(|byte| matches!(byte, b' ' | b'\t' | b',')).unwrap_or(credentials.len());
    CONNECTION_SCHEMES.iter().any(|scheme| scheme.eq_ignore_ascii_case(&credentials[..end]))
}

/// `1*DIGIT` that fits (RFC 9110 §8.6).
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| byte - b'0')?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}
