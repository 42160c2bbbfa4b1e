//! A proxy core as a process: started, found, watched through a pidfd, killed, reaped.
//!
//! A pidfd cannot come to mean another process, so no signal ever reaches a stranger.
#![allow(unsafe_code, reason = "a pidfd in the event loop")]

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child as StdChild, Command, ExitStatus};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Settings;
use super::liveness::Scheduled;
use crate::pidfd;

/// A core's process, ours or one that we adopted.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) pid: u32,
    pidfd: AsyncFd<OwnedFd>,
    /// `None`: adopted; its parent is gone and its exit status goes to somebody else.
    started: Option<StdChild>,
}

impl Child {
    /// Starts a core that has one end of its control channel as standard input and writes its log into `log`.
    ///
    /// Nothing is to be done between fork and exec, so there is no fork (posix_spawn): that would copy our page tables, and
    /// meanwhile every thread that wants memory waits, the one that resigns the VIP of the core before included.
    pub(super) fn start(settings: &Settings, channel: OwnedFd, log: OwnedFd) -> io::Result<Child> {
        let mut command = Command::new(&settings.executable);
        let say = |name: &str, value: String| [OsString::from(name), OsString::from(value)];
        command
            .args(&settings.arguments)
            .args(say("--uid", settings.identity.uid.to_string()))
            .args(say("--gid", settings.identity.gid.to_string()))
            .args(say("--log-level", settings.log_level.to_string().to_lowercase()))
            // Nothing of ours, above all not the way to systemd.
            .env_clear()
            .current_dir("/")
            .stdin(channel)
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C at a terminal is for the agent; it decides what becomes of the core.
            .process_group(0);
        // Its log lines have local time, as ours.
        for name in ["RUST_BACKTRACE", "TZ"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        let mut started = command.spawn()?;
        match Child::of(started.id()) {
            Ok(child) => Ok(Child { started: Some(started), ..child }),
            Err(error) => {
                // A core that cannot be watched is none.
                started.kill()?;
                started.wait()?;
                Err(error)
            }
        }
    }

    /// A core that runs already.
    pub(super) fn of(pid: u32) -> io::Result<Child> {
        let pidfd = pidfd::open(pid)?;
        // SAFETY: an OwnedFd stays open, and the same, for as long as it lives.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }.map_err(io::Error::from)?;
        Ok(Child { pid, pidfd, started: None })
    }

    /// Done when the process is gone.
    pub(super) async fn exited(&self) {
        // An error of the runtime itself: nobody could be woken by anything any more.
        let _ = self.pidfd.readable().await;
    }

    /// How it ended, in words; only after [`Child::exited`].
    pub(super) fn reap(&mut self) -> String {
        match self.started.as_mut().map(StdChild::wait) {
            None => "unknown exit status (not our child: it was adopted)".into(),
            Some(Ok(status)) => words(status),
            Some(Err(error)) => format!("unknown exit status ({error})"),
        }
    }

    pub(super) fn kill(&self) {
        match pidfd::send(self.pidfd.get_ref().as_fd(), Signal::SIGKILL) {
            // ESRCH: gone already, which is what was wanted.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => tracing::error!(pid = self.pid, %error, "the proxy core cannot be killed"),
        }
    }

    /// How a thread of it stands with the scheduler; `None` where the kernel doesn't tell.
    pub(super) fn scheduled(&self, tid: i32) -> Option<Scheduled> {
        scheduled(self.pid, tid)
    }
}

fn scheduled(pid: u32, tid: i32) -> Option<Scheduled> {
    let told = |of: &str| std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/{of}")).ok();
    let counts = told("schedstat")?;
    let mut counts = counts.split_whitespace().map(str::parse);
    let (ran, waited) = (counts.next()?.ok()?, counts.next()?.ok()?);
    // The state stands behind the name, in which there may be anything.
    let runnable = told("stat")?.rsplit(')').next()?.trim_start().starts_with('R');
    Some(Scheduled { ran, waited, runnable })
}

fn words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => match Signal::try_from(signal) {
            Ok(name) => format!("killed by {name}"),
            Err(_) => format!("killed by signal {signal}"),
        },
        (None, None) => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_computes_is_runnable_and_one_that_waits_for_somebody_is_not() {
        use std::time::{Duration, Instant};
        let (say, hear) = std::sync::mpsc::sync_channel(1);
        let (end, ended) = std::sync::mpsc::sync_channel::<()>(1);
        let waiting = std::thread::Builder::new().name("(R) x".into()).spawn(move || {
            say.send(nix::unistd::gettid().as_raw()).expect("somebody listens");
            ended.recv().expect("the end is told");
        });
        let tid = hear.recv().expect("it says its number");
        let deadline = Instant::now() + Duration::from_secs(10);
        while scheduled(std::process::id(), tid).expect("the kernel tells").runnable {
            assert!(Instant::now() < deadline, "it waits for a message");
            std::thread::yield_now();
        }
        let own = || scheduled(std::process::id(), nix::unistd::gettid().as_raw()).expect("the kernel tells");
        let before = own();
        while own().ran <= before.ran {
            assert!(own().runnable && Instant::now() < deadline, "we compute");
        }
        end.send(()).expect("it waits for that");
        waiting.expect("it was started").join().expect("no panic");
    }

    #[test]
    fn an_exit_is_told_in_words() {
        assert_eq!(words(ExitStatus::from_raw(3 << 8)), "exit status 3");
        assert_eq!(words(ExitStatus::from_raw(9)), "killed by SIGKILL");
    }
}
