//! Child processes: started inside a namespace (or here), their words in a file, and never longer-lived than the lab.
//!
//! Three nets hold them: [`Process`] kills on drop; the kernel kills when the namespace's thread ends, however
//! that happens; and a mark in the environment lets the next lab find what escaped both (a grandchild).
#![allow(unsafe_code, reason = "PR_SET_PDEATHSIG has to be set between fork and exec")]

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::netns::Netns;
use crate::wait::{WaitError, wait_until};

/// The mark: the folder of the lab that started the process.
pub const MARK: &str = "LBNODE_LAB";

/// What of a log is quoted when something goes wrong.
const TAIL_BYTES: u64 = 4096;

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Its log file could not be made.
    #[error("create {path}")]
    Log {
        /// The log file.
        path: PathBuf,
        /// From the system.
        #[source]
        source: io::Error,
    },
    /// The program could not be run.
    #[error("run {program}")]
    Spawn {
        /// The program.
        program: String,
        /// From the system.
        #[source]
        source: io::Error,
    },
}

/// A running (or ended) child.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command` inside `netns`; what it prints is appended to `log`.
    pub fn start(netns: &Netns, name: &str, command: Command, log: &Path) -> Result<Process, ProcessError> {
        Process::launch(name, command, log, |mut command| netns.run(move || command.spawn()))
    }

    /// The same without a namespace. The process ends with the thread that calls this, at the latest.
    pub fn start_here(name: &str, command: Command, log: &Path) -> Result<Process, ProcessError> {
        Process::launch(name, command, log, |mut command| command.spawn())
    }

    fn launch(
        name: &str,
        mut command: Command,
        log: &Path,
        spawn: impl FnOnce(Command) -> io::Result<Child>,
    ) -> Result<Process, ProcessError> {
        let open = || File::options().create(true).append(true).open(log);
        let log_error = |source| ProcessError::Log { path: log.into(), source };
        let out = open().map_err(log_error)?;
        let err = out.try_clone().map_err(log_error)?;
        let mark = log.parent().unwrap_or(log).to_path_buf();
        command.stdin(Stdio::null()).stdout(out).stderr(err).env(MARK, mark).process_group(0);
        // SAFETY: the closure runs between fork and exec and calls prctl only, which is async-signal-safe.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        let program = command.get_program().to_string_lossy().into_owned();
        let child = spawn(command).map_err(|source| ProcessError::Spawn { program, source })?;
        Ok(Process { child, name: name.into(), log: log.into() })
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id. Not reused before the process was waited for, which only this value does.
    pub fn pid(&self) -> Pid {
        pid_of(self.child.id())
    }

    /// Where its words go.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Sends a signal; one that has ended already is no error.
    pub fn signal(&mut self, signal: Signal) {
        if self.exited().is_none() {
            // It may end between the two lines; then there is nobody to tell.
            let _ = kill(self.pid(), signal);
        }
    }

    /// How it ended, if it did.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus, WaitError> {
        let what = format!("{} (pid {}) to end", self.name, self.pid());
        wait_until(&what, within, || self.exited().ok_or_else(|| "it runs".to_owned()))
    }

    /// Asks it to end; kills it when it has not after `grace`.
    pub fn stop(&mut self, grace: Duration) {
        self.signal(Signal::SIGTERM);
        self.signal(Signal::SIGCONT);
        if self.wait(grace).is_err() {
            self.kill();
        }
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) {
        // Either it runs and can be killed, or it has ended: both are what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How it stands, and the end of its log: for error messages.
    pub fn describe(&mut self) -> String {
        let how = match self.exited() {
            None => "running".to_owned(),
            Some(status) => match status.signal() {
                Some(signal) => format!("ended by signal {signal}"),
                None => format!("ended with {status}"),
            },
        };
        format!("{} is {how}; its log ({}) ends:\n{}", self.name, self.log.display(), tail(&self.log))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether process `pid` exists and is no zombie.
pub fn alive(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The state follows the name, which is in brackets and may hold anything.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Kills every process inside `netns`, and waits until it is gone.
pub fn kill_all(netns: &Netns) -> Result<(), WaitError> {
    wait_until(&format!("the processes in {} to end", netns.name()), Duration::from_secs(5), || {
        let left: Vec<i32> = netns.processes().into_iter().filter(|pid| alive(*pid)).collect();
        if left.is_empty() {
            return Ok(());
        }
        for pid in &left {
            // Gone since it was listed: fine.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        Err(format!("{left:?}"))
    })
}

/// Kills every process that carries the [`MARK`] of a lab under `folder`: leftovers of one that was killed.
pub fn kill_marked(folder: &Path) -> usize {
    let prefix = [MARK.as_bytes(), b"=", folder.as_os_str().as_encoded_bytes()].concat();
    let Ok(entries) = std::fs::read_dir("/proc") else { return 0 };
    let mut killed = 0;
    for pid in entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
        let Ok(environment) = std::fs::read(format!("/proc/{pid}/environ")) else { continue };
        if environment.split(|byte| *byte == 0).any(|entry| entry.starts_with(&prefix)) {
            killed += usize::from(kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok());
        }
    }
    killed
}

/// The end of a log file.
pub fn tail(log: &Path) -> String {
    let read = || -> io::Result<String> {
        if !std::fs::metadata(log)?.is_file() {
            // Reading a pipe would take the words from whoever they are for, or wait for ever.
            return Err(io::Error::other("not a file"));
        }
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|error| format!("(cannot be read: {error})"))
}

fn pid_of(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).expect("the kernel's pids are positive and fit an i32"))
}
