//! Hears that somebody changed nftables: a firewall that is reloaded often flushes everything, ours too.
//!
//! It only says *that* something changed; what of ours is missing, [`super::kernel`] finds out. So messages needn't be
//! read, and lost ones are no loss: an overrun is a change like any other.
#![allow(unsafe_code, reason = "tokio watches a descriptor only on our word that it stays open")]

use std::io;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::tables::{self, Netlink};

/// How often it is looked even if nothing was heard: routes go without a word here, and a repair may have failed.
const AT_LEAST: Duration = Duration::from_secs(1);

/// Changes of nftables in this network namespace.
#[derive(Debug)]
pub(super) struct Changes(AsyncFd<Netlink>);

impl Changes {
    /// Begins to listen. Must be called inside a runtime.
    ///
    /// # Errors
    /// The kernel's: EPERM without CAP_NET_ADMIN.
    pub(super) fn open() -> io::Result<Changes> {
        let netlink = tables::changes()?;
        // SAFETY: a `Netlink` owns its descriptor, always returns the same one, and closes it only after it was
        // dropped; the `AsyncFd` owns it.
        let watched = unsafe { AsyncFd::register_with_interest(netlink, Interest::READABLE) };
        Ok(Changes(watched.map_err(io::Error::from)?))
    }

    /// Waits until something changed since the last call, or for a second.
    ///
    /// # Errors
    /// The reactor's.
    pub(super) async fn next(&self) -> io::Result<()> {
        let Ok(ready) = tokio::time::timeout(AT_LEAST, self.0.readable()).await else { return Ok(()) };
        let mut ready = ready?;
        let mut buffer = [0; 1];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                // Cut to one byte: nobody reads it.
                Ok(_) | Err(Errno::ENOBUFS | Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        ready.clear_ready();
        Ok(())
    }
}
