//! The core's log: read from its pipe, line by line, and put into ours; the last line is kept for the obituary.
//!
//! The writing end is non-blocking: when we read too slowly, the core drops lines and counts them, and no worker waits.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;
use tokio::net::unix::pipe;

/// Longer lines are cut into such pieces.
const LONGEST: usize = 8 << 10;
/// Bytes that wait in the pipe; the kernel may grant less.
const PIPE: i32 = 1 << 20;

/// The reading end.
#[derive(Debug)]
pub(super) struct Log {
    pipe: pipe::Receiver,
    partial: Vec<u8>,
    last: Option<String>,
}

impl Log {
    /// A new pipe: our end, and the core's.
    pub(super) fn open() -> io::Result<(Log, OwnedFd)> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // More room is better, and less is no failure: an unprivileged user has a budget for pipes.
        let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(PIPE));
        let log = Log { pipe: pipe::Receiver::from_file(File::from(read))?, partial: Vec::new(), last: None };
        Ok((log, write))
    }

    /// The last line so far.
    pub(super) fn last(&self) -> Option<String> {
        self.last.clone()
    }

    /// Puts what arrives into our log, until the other end is closed. May be dropped and called again.
    pub(super) async fn pass_on(&mut self) {
        while self.pipe.readable().await.is_ok() && self.take_what_is_there() {}
    }

    /// Without waiting; whether there may be more later.
    pub(super) fn take_what_is_there(&mut self) -> bool {
        let mut bytes = [0; 4096];
        loop {
            match self.pipe.try_read(&mut bytes) {
                Ok(0) => {
                    self.end_line();
                    return false;
                }
                Ok(read) => self.take(&bytes[..read]),
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte != b'\n' {
                self.partial.push(byte);
            }
            if byte == b'\n' || self.partial.len() == LONGEST {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.partial).trim().to_owned();
        self.partial.clear();
        if line.is_empty() {
            return;
        }
        let (level, text) = line.split_once(' ').unwrap_or(("", &line));
        match level {
            "ERROR" => tracing::error!(target: "proxy_core", "{text}"),
            "WARN" => tracing::warn!(target: "proxy_core", "{text}"),
            "INFO" => tracing::info!(target: "proxy_core", "{text}"),
            "DEBUG" => tracing::debug!(target: "proxy_core", "{text}"),
            "TRACE" => tracing::trace!(target: "proxy_core", "{text}"),
            // Not from its log: a panic, or an abort of the allocator.
            _ => tracing::error!(target: "proxy_core", "{line}"),
        }
        self.last = Some(line);
    }
}
