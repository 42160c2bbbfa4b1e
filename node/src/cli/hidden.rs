//! The commands that the agent starts, not people: the proxy core and the guard, each with one inherited descriptor.
#![allow(unsafe_code, reason = "a descriptor number from the command line becomes a descriptor")]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;

use clap::Args;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc::STDERR_FILENO;
use proxy_core::process;
use proxy_core::sandbox::Identity;

use super::{Exit, complain_text};

/// What the supervisor says to the proxy core that it starts.
#[derive(Args, Debug)]
pub(super) struct ProxyCore {
    /// The control channel, inherited
    #[arg(long)]
    channel_fd: RawFd,
    /// Who the process becomes
    #[arg(long)]
    uid: u32,
    /// Its only group
    #[arg(long)]
    gid: u32,
    /// The least important log lines that are written
    #[arg(long, default_value = "info")]
    log_level: tracing::Level,
}

/// What the agent says to its guard.
#[derive(Args, Debug)]
pub(super) struct Guard {
    /// The channel to the agent, inherited
    #[arg(long)]
    channel_fd: RawFd,
}

pub(super) fn proxy_core(args: &ProxyCore) -> ExitCode {
    let options = process::Options { identity: Identity { uid: args.uid, gid: args.gid }, log_level: args.log_level };
    with_channel(args.channel_fd, |channel| process::run(channel, options))
}

pub(super) fn guard(args: &Guard) -> ExitCode {
    with_channel(args.channel_fd, crate::guard::run)
}

fn with_channel(number: RawFd, run: impl FnOnce(OwnedFd) -> ExitCode) -> ExitCode {
    match inherited(number) {
        Some(channel) => run(channel),
        None => {
            complain_text(format_args!(
                "descriptor {number} was not inherited; `lbnode run` starts this command itself"
            ));
            Exit::Usage.into()
        }
    }
}

/// Takes over an open descriptor and lets no child have it.
fn inherited(number: RawFd) -> Option<OwnedFd> {
    if number <= STDERR_FILENO {
        return None;
    }
    // SAFETY: it is only looked at, and fcntl on a number that is not open fails with EBADF.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
    // SAFETY: fcntl just showed that it is open. It was inherited, so nothing in this process owns it, and
    // this function is called once, before anything else is opened.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}
