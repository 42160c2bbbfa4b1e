//! Processes by descriptor: one that is readable when the process is gone, and that never comes to mean another one.
#![allow(unsafe_code, reason = "pidfd_open and pidfd_send_signal have no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::Signal;

/// A descriptor that is readable when the process is gone; close-on-exec.
///
/// # Errors
/// There is no such process, or no descriptor is left.
pub(crate) fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: takes two integers; gives a new descriptor or -1.
    let pidfd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: a descriptor that the kernel just made, owned by nobody else; descriptors fit in an i32.
    Ok(unsafe { OwnedFd::from_raw_fd(pidfd as i32) })
}

/// Sends a signal to exactly this process.
///
/// # Errors
/// It is gone (`ESRCH`), or not ours to signal.
pub(crate) fn send(pidfd: BorrowedFd<'_>, signal: Signal) -> nix::Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: an open descriptor and integers; no siginfo.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal as i32, none, 0) };
    Errno::result(sent).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    #[test]
    fn a_signal_reaches_the_process_its_end_is_seen_and_its_number_means_nobody_afterwards() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep exists");
        let pidfd = open(child.id()).expect("it lives");
        let gone = |within: u16| {
            let mut set = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
            poll(&mut set, PollTimeout::from(within)).expect("polls") == 1
        };
        assert!(!gone(0));
        send(pidfd.as_fd(), Signal::SIGKILL).expect("it is ours");
        assert!(gone(10_000));
        assert_eq!(child.wait().expect("it is ours").signal(), Some(libc::SIGKILL));
        assert_eq!(send(pidfd.as_fd(), Signal::SIGKILL), Err(Errno::ESRCH));
        assert!(open(child.id()).is_err());
    }
}
