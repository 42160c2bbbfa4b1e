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
    let path = || socket.to_owned();
    let broken = |source: io::Error| match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => CallError::Silent { path: path(), limit },
        _ => CallError::Broken { path: path(), source },
    };
    let mut stream = UnixStream::connect(socket).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => {
            CallError::NotPermitted { path: path(), uid: nix::unistd::geteuid().as_raw(), source }
        }
        _ => CallError::NotRunning { path: path(), source },
    })?;
    stream.set_read_timeout(Some(limit)).map_err(broken)?;
    stream.set_write_timeout(Some(limit)).map_err(broken)?;

    let mut line = serde_json::to_vec(request).expect("a request is plain data");
    line.push(b'\n');
    stream.write_all(&line).map_err(broken)?;

    let mut answer = Vec::new();
    BufReader::new(stream.take(MAX_LINE as u64)).read_until(b'\n', &mut answer).map_err(broken)?;
    if answer.is_empty() {
        return Err(broken(io::ErrorKind::UnexpectedEof.into()));
    }
    serde_json::from_slice(&answer).map_err(|source| CallError::Nonsense { path: path(), source })
}
