//! Memory of idle keep-alive connections: thousands of clients that asked once and stay.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use tests::usage::memory;
use tests::wait;

use crate::client::{Client, Target};
use crate::paced::read_answer;

/// After the last answer: buffers are given back meanwhile.
const SETTLE: Duration = Duration::from_secs(3);

/// Why no figure came of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdleError {
    /// A client failed.
    #[error("idle connection {number} to {address}")]
    Connection {
        /// Which one.
        number: usize,
        /// Of the proxy.
        address: SocketAddr,
        /// From the system.
        #[source]
        source: io::Error,
    },
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

/// Bytes of memory that one idle connection takes in process `pid`.
pub(crate) fn memory_each(pid: Pid, target: &Target, count: usize) -> Result<f64, IdleError> {
    let address = target.address;
    let request = format!("GET /100 HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let before = memory(pid);
    let mut clients = Vec::with_capacity(count);
    for number in 0..count {
        if wait::cancelled() {
            return Err(IdleError::Interrupted);
        }
        let failed = |source| IdleError::Connection { number, address, source };
        let mut client = Client::connect(target).map_err(failed)?;
        ask(&mut client, &request).map_err(failed)?;
        clients.push(client);
    }
    wait::pass(SETTLE);
    let after = memory(pid);
    // Were they still there? One that was closed takes no memory.
    for (number, client) in clients.iter_mut().enumerate().step_by(100) {
        ask(client, &request).map_err(|source| IdleError::Connection { number, address, source })?;
    }
    Ok(after.saturating_sub(before) as f64 / count as f64)
}

/// Lets this process, and those it starts from now on, have as many descriptors as it is allowed to.
pub(crate) fn raise_descriptors() -> io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

fn ask(client: &mut Client, request: &str) -> io::Result<()> {
    client.write_all(request.as_bytes())?;
    read_answer(client).map(drop)
}
