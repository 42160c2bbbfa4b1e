//! Heads on their way: what goes to the server of a request's head, and to the client of a response's. Pure.
//!
//! Names keep their case and fields their order. Lines that stay are copied as they lie in the buffer, in as few
//! pieces as there are lines between that go; a head of which nothing changes needn't be copied at all.

#[cfg(test)]
mod tests;

use super::client_cert::ClientCert;
use super::edits::{Edits, append, clear, field, write_one};
use super::forwarded::{Ends, Forwarding, address, decimal};
use super::head::{Request, Response, Version};

/// What is said of the connection that the head goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connection {
    /// It goes on, as HTTP/1.1 does when nothing is said.
    Persistent,
    /// It goes on; said to a client of HTTP/1.0, which asked for it (RFC 9112 §9.3).
    KeepAlive,
    /// It ends with this message.
    Close,
    /// It becomes what the `Upgrade` fields of the message name; elsewhere than in a head that passes: as `Persistent`.
    Upgrade,
}

/// A request's head, and what becomes of it.
#[derive(Debug)]
pub(crate) struct RequestHead<'a, E> {
    /// The buffer that it was read from.
    pub(crate) bytes: &'a [u8],
    pub(crate) request: &'a Request<'a, 'a>,
    /// In place of its own target.
    pub(crate) target: Option<&'a str>,
    /// The client's connection.
    pub(crate) ends: &'a Ends,
    /// `None`: the servers are told nothing of the client.
    pub(crate) forwarding: Option<&'a Forwarding>,
    pub(crate) client_cert: ClientCert<'a>,
    /// Of the frontend, of its rules and of the backend, in this order.
    pub(crate) edits: E,
    pub(crate) connection: Connection,
}

/// A response's head, and what becomes of it.
#[derive(Debug)]
pub(crate) struct ResponseHead<'a, E> {
    /// The buffer that it was read from.
    pub(crate) bytes: &'a [u8],
    pub(crate) response: &'a Response<'a, 'a>,
    /// Of the backend, of the frontend and of its rules, in this order.
    pub(crate) edits: E,
    pub(crate) connection: Connection,
    /// The body goes on without its chunks' framing: the client speaks HTTP/1.0 (RFC 9112 §6.1).
    pub(crate) dechunked: bool,
}

impl<'a, E: Edits<'a>> RequestHead<'a, E> {
    /// The head as it lies in the buffer, if that is what has to be sent.
    pub(crate) fn as_it_is(&self) -> Option<&'a [u8]> {
        let same = self.request.hop.hop_by_hop == 0
            && self.connection == Connection::Persistent
            && self.line_stays()
            && self.forwarding().is_none()
            && self.client_cert.is_silent()
            && self.edits.clone().next().is_none();
        same.then(|| &self.bytes[self.request.start..self.request.length])
    }

    /// Appends the head as it is sent.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let request = self.request;
        let lines = Lines { bytes: self.bytes, fields: request.fields, end: request.length - 2 };
        let (forwarding, edited) = (self.forwarding(), self.edits.clone().next().is_some());
        let (mut goes, mut has_host) = (request.hop.hop_by_hop, true);
        // HTTP/1.1 in origin-form has one Host, as the parser saw to (RFC 9112 §3.2).
        let told = forwarding.is_some() || !self.client_cert.is_silent();
        if edited || told || request.absolute || request.version == Version::Http10 {
            has_host = false;
            for (index, field) in request.fields.iter().enumerate() {
                let mut clears = edited && clear(self.edits.clone(), field.name)
                    || forwarding.is_some_and(|forwarding| forwarding.clears(field.name))
                    || self.client_cert.clears(field.name);
                if field.name.eq_ignore_ascii_case("host") {
                    // RFC 9112 §3.2.2: an absolute-form's authority is the host, however the field spells it.
                    clears |= request.absolute && request.host.is_some_and(|host| host.as_bytes() != field.value);
                    has_host |= !clears;
                }
                if clears {
                    goes |= 1 << index;
                }
            }
        }
        let from = if self.line_stays() { request.start } else { self.line(out, &lines) };
        lines.copy(out, from, goes);
        if !has_host && !write_one(self.edits.clone(), "Host") {
            self.host(out);
        }
        append(out, self.edits.clone());
        if let Some(forwarding) = forwarding {
            forwarding.append(out, self.ends, request.host, self.edits.clone());
        }
        self.client_cert.append(out, self.edits.clone());
        self.connection.write(out, request.fields);
        out.extend_from_slice(b"\r\n");
    }

    fn forwarding(&self) -> Option<&'a Forwarding> {
        self.forwarding.filter(|forwarding| forwarding.concerns(self.ends.client.ip()))
    }

    fn line_stays(&self) -> bool {
        self.target.is_none() && !self.request.absolute && self.request.version == Version::Http11
    }

    /// Appends a request line of ours; where the rest of the head begins.
    fn line(&self, out: &mut Vec<u8>, lines: &Lines<'_>) -> usize {
        let target = self.target.unwrap_or(self.request.target);
        out.extend_from_slice(self.request.method.as_bytes());
        out.push(b' ');
        out.extend_from_slice(target.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        lines.begin(0)
    }

    /// HTTP/1.0 may have named none: then it is the address that the client came to (RFC 9112 §3.3).
    fn host(&self, out: &mut Vec<u8>) {
        match self.request.host {
            Some(host) => field(out, "Host", host.as_bytes()),
            None => {
                out.extend_from_slice(b"Host: ");
                authority(out, self.ends);
                out.extend_from_slice(b"\r\n");
            }
        }
    }
}

impl<'a, E: Edits<'a>> ResponseHead<'a, E> {
    /// The head as it lies in the buffer, if that is what has to be sent.
    pub(crate) fn as_it_is(&self) -> Option<&'a [u8]> {
        let same = self.response.hop.hop_by_hop == 0
            && self.connection == Connection::Persistent
            && self.response.version == Version::Http11
            && !self.dechunked
            && self.edits.clone().next().is_none();
        same.then(|| &self.bytes[..self.response.length])
    }

    /// Appends the head as it is sent.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let response = self.response;
        let lines = Lines { bytes: self.bytes, fields: response.fields, end: response.length - 2 };
        let edited = self.edits.clone().next().is_some();
        let mut goes = response.hop.hop_by_hop;
        if edited || self.dechunked {
            for (index, field) in response.fields.iter().enumerate() {
                let clears = edited && clear(self.edits.clone(), field.name)
                    || self.dechunked && field.name.eq_ignore_ascii_case("transfer-encoding");
                goes |= u128::from(clears) << index;
            }
        }
        // RFC 9112 §2.3: whatever the server speaks, we speak HTTP/1.1.
        out.extend_from_slice(VERSION);
        lines.copy(out, VERSION.len(), goes);
        append(out, self.edits.clone());
        self.connection.write(out, response.fields);
        out.extend_from_slice(b"\r\n");
    }
}

/// What a status line begins with.
pub(super) const VERSION: &[u8] = b"HTTP/1.1";

impl Connection {
    /// What a client is told that speaks `version`.
    pub(crate) fn to(version: Version, goes_on: bool) -> Connection {
        match (goes_on, version) {
            (false, _) => Connection::Close,
            (true, Version::Http10) => Connection::KeepAlive,
            (true, Version::Http11) => Connection::Persistent,
        }
    }

    /// Appends what is said; `fields` are those of the message, for the protocols of an upgrade.
    pub(super) fn write(self, out: &mut Vec<u8>, fields: &[httparse::Header<'_>]) {
        match self {
            Connection::Persistent => {}
            Connection::KeepAlive => out.extend_from_slice(b"Connection: keep-alive\r\n"),
            Connection::Close => out.extend_from_slice(b"Connection: close\r\n"),
            Connection::Upgrade => {
                let upgrades = fields.iter().filter(|field| field.name.eq_ignore_ascii_case("upgrade"));
                let protocols = upgrades.flat_map(|field| field.value.split(|byte| *byte == b','));
                let mut line: &[u8] = b"Connection: upgrade\r\nUpgrade: ";
                for protocol in protocols.map(<[u8]>::trim_ascii) {
                    // RFC 9113 §3.1: nobody upgrades to it any more, and what follows would be no HTTP/1.
                    if !protocol.is_empty() && !protocol.eq_ignore_ascii_case(b"h2c") {
                        out.extend_from_slice(line);
                        out.extend_from_slice(protocol);
                        line = b", ";
                    }
                }
                if line == b", " {
                    out.extend_from_slice(b"\r\n");
                }
            }
        }
    }
}

/// Appends the address that a client came to, as an authority: port 80, or 443 over TLS, goes without saying.
fn authority(out: &mut Vec<u8>, ends: &Ends) {
    bracketed(out, ends);
    if ends.own.port() != if ends.tls { 443 } else { 80 } {
        out.push(b':');
        decimal(out, ends.own.port().into());
    }
}

/// Appends the IP address that a client came to, IPv6 in brackets (RFC 3986 §3.2.2).
pub(super) fn bracketed(out: &mut Vec<u8>, ends: &Ends) {
    let ip = ends.own.ip().to_canonical();
    if ip.is_ipv6() {
        out.push(b'[');
    }
    address(out, ip);
    if ip.is_ipv6() {
        out.push(b']');
    }
}

/// The lines of fields where they lie in the buffer.
struct Lines<'a> {
    bytes: &'a [u8],
    fields: &'a [httparse::Header<'a>],
    /// Where the empty line begins.
    end: usize,
}

impl Lines<'_> {
    /// Where line `index` begins; behind the last one the empty line does.
    fn begin(&self, index: usize) -> usize {
        let name = self.fields.get(index).map(|field| field.name.as_ptr().addr());
        name.map_or(self.end, |name| name - self.bytes.as_ptr().addr())
    }

    /// Appends everything from `from` to the empty line but the lines in `goes`.
    fn copy(&self, out: &mut Vec<u8>, mut from: usize, mut goes: u128) {
        while goes != 0 {
            let index = goes.trailing_zeros() as usize;
            goes &= goes - 1;
            out.extend_from_slice(&self.bytes[from..self.begin(index)]);
            from = self.begin(index + 1);
        }
        out.extend_from_slice(&self.bytes[from..self.end]);
    }
}
