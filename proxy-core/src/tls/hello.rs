//! What a ClientHello asks for, read before anybody answers it: a server's name and protocols (RFC 6066 §3, RFC 7301).
//!
//! Whatever any TLS peer may say passes (RFC 8446 §4.1.2): unknown versions, suites and extensions mean nothing here.
//! What isn't well-formed is no hello.

use std::borrow::Cow;
use std::io;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, recv};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The longest hello that is looked into, in bytes; an ordinary one with post-quantum keys has under 2,000.
const LONGEST: usize = 16 << 10;
/// The most bytes that it may come in, with the heads of its records.
pub const MOST: usize = LONGEST + 4096;

/// What the beginning of a connection is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peek {
    /// It may become a hello.
    Incomplete,
    /// It never will, or it is longer than anybody's.
    NotTls,
    /// It is one.
    Hello(Hello),
}

/// What a client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The server's name, in lower case, without a dot at its end.
    pub sni: Option<Box<str>>,
    /// The protocols on offer, the preferred one first.
    pub alpn: Vec<Box<[u8]>>,
}

/// How long a client may take with its hello; who speaks first in the clear is not kept waiting for longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The hello of a client of whom nothing was read yet; nothing is taken away. `None`: it doesn't speak TLS, has gone, or
/// hasn't said all of it within `limit` and five seconds.
pub(crate) async fn peek_from(client: &TcpStream, limit: Duration) -> Option<Hello> {
    timeout(limit.min(PATIENCE), wait_for(client)).await.ok().flatten()
}

async fn wait_for(client: &TcpStream) -> Option<Hello> {
    let mut room = vec![0; 2048];
    loop {
        let ready = client.ready(Interest::READABLE).await.ok()?;
        // A hello that isn't whole is no news: what comes next is waited for, not the same bytes again.
        let looked = client.try_io(Interest::READABLE, || {
            let mut count = recv(client.as_raw_fd(), &mut room, MsgFlags::MSG_PEEK)?;
            while count == room.len() && count < MOST {
                room.resize(MOST, 0);
                count = recv(client.as_raw_fd(), &mut room, MsgFlags::MSG_PEEK)?;
            }
            match peek(&room[..count]) {
                Peek::Incomplete if !ready.is_read_closed() => Err(io::ErrorKind::WouldBlock.into()),
                looked => Ok(looked),
            }
        });
        match looked {
            Ok(Peek::Hello(hello)) => return Some(hello),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => return None,
        }
    }
}

/// What `bytes`, the first ones of a connection, are.
pub fn peek(bytes: &[u8]) -> Peek {
    match message(bytes) {
        Some(Some(message)) => hello(&message).map_or(Peek::NotTls, Peek::Hello),
        Some(None) if bytes.len() < MOST => Peek::Incomplete,
        _ => Peek::NotTls,
    }
}

/// The body of the hello, joined from its records (RFC 8446 §5.1); `None`: it is none; `Some(None)`: it isn't whole.
fn message(mut bytes: &[u8]) -> Option<Option<Cow<'_, [u8]>>> {
    let mut message: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    loop {
        // What is there of a record's head must fit: a handshake of any version, of up to 2^14 bytes, but not empty.
        let head = &bytes[..bytes.len().min(5)];
        if head.first().is_some_and(|kind| *kind != 22) || head.get(1).is_some_and(|major| *major != 3) {
            return None;
        }
        let [_, _, _, high, low] = *head else { return Some(None) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length == 0 || length > 1 << 14 {
            return None;
        }
        let (part, rest) = bytes[5..].split_at(length.min(bytes.len() - 5));
        bytes = rest;
        if message.is_empty() {
            message = Cow::Borrowed(part)
        } else {
            message.to_mut().extend_from_slice(part)
        }
        if message.first().is_some_and(|kind| *kind != 1) {
            return None;
        }
        if let [_, a, b, c, body @ ..] = &*message {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if length > LONGEST {
                return None;
            }
            if body.len() >= length {
                let whole = 4..4 + length;
                return Some(Some(match message {
                    Cow::Borrowed(message) => Cow::Borrowed(&message[whole]),
                    Cow::Owned(message) => Cow::Owned(message[whole].to_vec()),
                }));
            }
        }
        if part.len() < length {
            return Some(None);
        }
    }
}

/// RFC 8446 §4.1.2.
fn hello(body: &[u8]) -> Option<Hello> {
    let mut body = Reader(body);
    // Version and random bytes.
    body.take(2 + 32)?;
    if body.short()?.len() > 32 {
        return None;
    }
    let suites = body.long()?;
    if suites.is_empty() || suites.len() % 2 != 0 || body.short()?.is_empty() {
        return None;
    }
    let mut hello = Hello::default();
    // TLS 1.2 may do without extensions (RFC 5246 §7.4.1.2).
    if body.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = Reader(body.long()?);
    let (mut sni, mut alpn) = (None, None);
    while !extensions.0.is_empty() {
        let kind = extensions.take(2)?;
        let content = extensions.long()?;
        // RFC 8446 §4.2: no two of a kind.
        let before = match kind {
            [0, 0] => sni.replace(content),
            [0, 16] => alpn.replace(content),
            _ => None,
        };
        if before.is_some() {
            return None;
        }
    }
    hello.sni = sni.map_or(Some(None), server_name)?;
    hello.alpn = alpn.map_or(Some(Vec::new()), protocols)?;
    body.0.is_empty().then_some(hello)
}

/// RFC 6066 §3; `Some(None)`: there is none that could be one.
fn server_name(content: &[u8]) -> Option<Option<Box<str>>> {
    let mut content = Reader(content);
    let mut names = Reader(content.long()?);
    let mut found = None;
    while let [kind, ..] = *names.0 {
        // How long an entry of another kind is, nobody knows.
        if kind != 0 {
            break;
        }
        names.take(1)?;
        let name = names.long()?;
        // No two of a kind.
        if found.replace(name).is_some() || name.is_empty() {
            return None;
        }
    }
    let name = found.and_then(|name| std::str::from_utf8(name).ok());
    let name = name.and_then(|name| rustls::pki_types::DnsName::try_from(name).ok());
    // RFC 6066 §3: without the dot at its end.
    let plain = |name: &str| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase().into();
    content.0.is_empty().then(|| name.map(|name| plain(name.as_ref())))
}

/// RFC 7301 §3.1.
fn protocols(content: &[u8]) -> Option<Vec<Box<[u8]>>> {
    let mut content = Reader(content);
    let mut names = Reader(content.long()?);
    let mut all = Vec::new();
    while !names.0.is_empty() {
        let name = names.short()?;
        if name.is_empty() {
            return None;
        }
        all.push(name.into());
    }
    (content.0.is_empty() && !all.is_empty()).then_some(all)
}

/// What is left of a message.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// A vector after one byte of its length.
    fn short(&mut self) -> Option<&'a [u8]> {
        let length = self.take(1)?[0];
        self.take(length.into())
    }

    /// A vector after two bytes of its length.
    fn long(&mut self) -> Option<&'a [u8]> {
        let [high, low] = *self.take(2)? else { return None };
        self.take(u16::from_be_bytes([high, low]).into())
    }
}
