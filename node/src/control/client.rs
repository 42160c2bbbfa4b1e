//! The calling side of the control socket: one request, one response, and never waiting for ever.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{MAX_LINE, Request, Response};

/// Why a call brought no response.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens.
    #[error(
        "no agent answers at {}; start one with `lbnode run`, or name its socket with --control",
        path.display()
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What connecting ran into.
        #[source]
        source: io::Error,
    },
    /// The socket is there, and not for us.
    #[error("this user (uid {uid}) may not use {}; be root, or join the group that the socket belongs to", path.display())]
    NotPermitted {
        /// The socket.
        path: PathBuf,
        /// Who we are.
        uid: u32,
        /// What connecting ran into.
        #[source]
        source: io::Error,
    },
    /// The agent took the call and said nothing in time.
    #[error("the agent at {} did not answer within {} s; `journalctl -u lbnode` may say why", path.display(), limit.as_secs())]
    Silent {
        /// The socket.
        path: PathBuf,
        /// How long we waited.
        limit: Duration,
    },
    /// The connection broke.
    #[error("the connection to the agent at {} broke", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// How.
        #[source]
        source: io::Error,
    },
    /// Whatever answered is no agent of this version.
    #[error("what the agent at {} answered makes no sense; is it of another version?", path.display())]
    Nonsense {
        /// The socket.
        path: PathBuf,
        /// Where it stopped to make sense.
        #[source]
        source: serde_json::Error,
    },
}

/// Asks the agent behind `socket`; `limit` is for each step of the exchange.
pub fn call(socket: &Path, request: &Request, limit: Duration) -> Result<Response, CallError> {
    Conversation::begin(socket, request, limit)?.next()
}

/// Asks for what has many responses; `take` gets each, until it returns false. Who follows events waits for the next
/// one as long as it takes; else `limit` is for each step of the exchange.
pub fn stream(
    socket: &Path,
    request: &Request,
    limit: Duration,
    mut take: impl FnMut(Response) -> bool,
) -> Result<(), CallError> {
    let mut conversation = Conversation::begin(socket, request, limit)?;
    if matches!(request, Request::Events { follow: true, .. }) {
        let patient = conversation.reader.get_ref().set_read_timeout(None);
        patient.map_err(|source| conversation.broken(source))?;
    }
    while take(conversation.next()?) {}
    Ok(())
}

/// A request that was sent, and what comes back.
struct Conversation<'a> {
    socket: &'a Path,
    limit: Duration,
    reader: BufReader<UnixStream>,
}

impl Conversation<'_> {
    fn begin<'a>(socket: &'a Path, request: &Request, limit: Duration) -> Result<Conversation<'a>, CallError> {
        let stream = UnixStream::connect(socket).map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => {
                CallError::NotPermitted { path: socket.to_owned(), uid: nix::unistd::geteuid().as_raw(), source }
            }
            _ => CallError::NotRunning { path: socket.to_owned(), source },
        })?;
        let conversation = Conversation { socket, limit, reader: BufReader::new(stream) };
        conversation.say(request).map_err(|source| conversation.broken(source))?;
        Ok(conversation)
    }

    fn say(&self, request: &Request) -> io::Result<()> {
        let mut stream = self.reader.get_ref();
        stream.set_read_timeout(Some(self.limit))?;
        stream.set_write_timeout(Some(self.limit))?;
        let mut line = serde_json::to_vec(request).expect("a request is plain data");
        line.push(b'\n');
        stream.write_all(&line)
    }

    fn next(&mut self) -> Result<Response, CallError> {
        let mut answer = Vec::new();
        let read = (&mut self.reader).take(MAX_LINE as u64).read_until(b'\n', &mut answer);
        match read {
            Ok(0) => Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => serde_json::from_slice(&answer)
                .map_err(|source| CallError::Nonsense { path: self.socket.to_owned(), source }),
            Err(source) => Err(self.broken(source)),
        }
    }

    fn broken(&self, source: io::Error) -> CallError {
        let path = self.socket.to_owned();
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => CallError::Silent { path, limit: self.limit },
            _ => CallError::Broken { path, source },
        }
    }
}
