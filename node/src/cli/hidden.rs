//! The commands that the agent starts, not people: the proxy core and the guard, each with one inherited descriptor (the
//! core's is its standard input, so that it can be started without a fork), and programs that check servers.
#![allow(unsafe_code, reason = "a descriptor number from the command line becomes a descriptor")]

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use clap::Args;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc::STDERR_FILENO;
use nix::unistd::dup2_stdin;
use proxy_core::process;
use proxy_core::sandbox::{self, Identity};

use super::{Exit, complain_text};

/// What the supervisor says to the proxy core that it starts.
#[derive(Args, Debug)]
pub(super) struct ProxyCore {
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

/// What the agent says of the program of a check.
#[derive(Args, Debug)]
pub(super) struct RunCheck {
    /// Who the process becomes
    #[arg(long)]
    uid: u32,
    /// Its only group
    #[arg(long)]
    gid: u32,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    program: Vec<OsString>,
}

/// Becomes a user without rights, and then the program.
pub(super) fn run_check(args: &RunCheck) -> ExitCode {
    let was_root = nix::unistd::geteuid().is_root();
    let why = match sandbox::enter(Identity { uid: args.uid, gid: args.gid }) {
        // Whoever isn't root can become nobody else; whoever is must not stay it.
        Ok(confined) if was_root && confined.note.is_some() => confined.note.unwrap_or_default(),
        Ok(_) => {
            let (path, rest) = args.program.split_first().expect("clap requires one");
            format!("{}: {}", path.display(), Command::new(path).args(rest).exec())
        }
        Err(error) => crate::causes::chain(&error),
    };
    complain_text(format_args!("{why}"));
    crate::programs::NOT_STARTED.into()
}

pub(super) fn proxy_core(args: &ProxyCore) -> ExitCode {
    let options = process::Options { identity: Identity { uid: args.uid, gid: args.gid }, log_level: args.log_level };
    match standard_input() {
        Ok(channel) => process::run(channel, options),
        Err(error) => not_inherited(format_args!("standard input is no control channel ({error})")),
    }
}

pub(super) fn guard(args: &Guard) -> ExitCode {
    match inherited(args.channel_fd) {
        Some(channel) => crate::guard::run(channel),
        None => not_inherited(format_args!("descriptor {} was not inherited", args.channel_fd)),
    }
}

fn not_inherited(what: fmt::Arguments<'_>) -> ExitCode {
    complain_text(format_args!("{what}; `lbnode run` starts this command itself"));
    Exit::Usage.into()
}

/// Takes the socket that is standard input, and leaves nothing there.
fn standard_input() -> io::Result<OwnedFd> {
    let channel = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    channel.peer_addr()?;
    dup2_stdin(File::open("/dev/null")?)?;
    Ok(channel.into())
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
