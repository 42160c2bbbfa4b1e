//! The head of a message as it was read: checked, classified, and still where it lies in the buffer.
//!
//! httparse finds lines and fields; what it lets pass and two readers could understand differently is refused here.
//! Nothing is allocated, nothing copied.

mod fault;
mod fields;
mod reason;
mod request;
mod response;

use std::mem::MaybeUninit;

pub(crate) use fault::is_token;
pub use reason::{BadChunk, BadHead, BadHttp2, BadRequest, BadResponse};
pub use request::request;
pub use response::{Asked, response};

/// Header fields that one head may have (the width of [`Hop::hop_by_hop`]).
pub const MAX_FIELDS: usize = 128;

/// Room for the fields of one head, on the stack of who parses.
pub type Slots<'b> = [MaybeUninit<httparse::Header<'b>>; MAX_FIELDS];

/// Empty [`Slots`].
pub fn slots<'b>() -> Slots<'b> {
    [const { MaybeUninit::uninit() }; MAX_FIELDS]
}

/// Major version 1; another one is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// How the end of a body is found (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// So many bytes; at least one.
    Length(u64),
    /// Chunks.
    Chunked,
    /// To the end of the connection; responses only.
    UntilClose,
}

/// What a `Connection` header and the version say (RFC 9112 §9.3), and what else concerns this connection alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The sender will use the connection for another message.
    pub persistent: bool,
    /// `Connection: upgrade` with an `Upgrade` header that names other protocols than HTTP/2, in HTTP/1.1.
    pub upgrade: bool,
    /// Credentials or a challenge of a scheme that authenticates the connection, not the request: NTLM, Negotiate and their kin.
    pub connection_auth: bool,
    /// Bit `i`: field `i` concerns this connection only and is not forwarded (RFC 9110 §7.6.1). `Transfer-Encoding`
    /// is not among them, because a body is forwarded in its framing; `Upgrade` is.
    pub hop_by_hop: u128,
}

/// A request.
#[derive(Debug)]
pub struct Request<'h, 'b> {
    /// A token (RFC 9110 §5.6.2).
    pub method: &'b str,
    /// What is asked for, in origin-form or `*`: of an absolute-form target what follows the authority.
    pub target: &'b str,
    /// The target was in absolute-form.
    pub absolute: bool,
    /// As it was sent.
    pub version: Version,
    /// Host and port from the `Host` header, checked; of an absolute-form target, which agrees with it. HTTP/1.0 may have none.
    pub host: Option<&'b str>,
    /// In their order; `hop_by_hop` numbers them.
    pub fields: &'h [httparse::Header<'b>],
    /// Of the body.
    pub framing: Framing,
    /// Of the connection.
    pub hop: Hop,
    /// `Expect: 100-continue`, from a client that speaks HTTP/1.1.
    pub expects_continue: bool,
    /// Bytes of the head with the empty line, and with empty lines before it.
    pub length: usize,
    /// Where in these bytes the request line begins.
    pub start: usize,
}

/// A response.
#[derive(Debug)]
pub struct Response<'h, 'b> {
    /// As it was sent.
    pub version: Version,
    /// 100 to 999.
    pub status: u16,
    /// May be empty.
    pub reason: &'b str,
    /// In their order; `hop_by_hop` numbers them.
    pub fields: &'h [httparse::Header<'b>],
    /// Of the body, given the request's method.
    pub framing: Framing,
    /// Of the connection.
    pub hop: Hop,
    /// Bytes of the head with the empty line.
    pub length: usize,
}

/// Whether every line of a head that httparse has accepted ends with CR LF. It takes LF alone too, but no CR without LF:
/// so there are as many CRs as lines, the first and the empty one among them.
fn only_crlf(head: &[u8], fields: &[httparse::Header<'_>]) -> Result<(), BadHead> {
    if memchr::memchr_iter(b'\r', head).count() == fields.len() + 2 { Ok(()) } else { Err(BadHead::BareLf) }
}

impl Request<'_, '_> {
    /// The path: the target without its query.
    pub fn path(&self) -> &str {
        self.target.split_once('?').map_or(self.target, |(path, _)| path)
    }

    /// What follows the first `?`; empty without one.
    pub fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }
}

#[cfg(test)]
mod tests;
