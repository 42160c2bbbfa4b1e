//! A program that runs for a test: started, waited for, ended with all its children.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use netns_lab::netns::Netns;
use netns_lab::process::{Process, ProcessError, tail};
use netns_lab::wait::{WaitError, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::place::Place;
use crate::usage;

/// How long a part may take to be there.
const START: Duration = Duration::from_secs(20);
/// How long it may take to end when it is asked to.
const END: Duration = Duration::from_secs(3);

/// Why a part isn't there.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    /// A file it needs could not be written.
    #[error("write {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// From the system.
        #[source]
        source: io::Error,
    },
    /// It could not be run.
    #[error("{hint}")]
    Start {
        /// What to do about it.
        hint: String,
        /// From the system.
        #[source]
        source: ProcessError,
    },
    /// It ran, and was not what was waited for.
    #[error("{state}")]
    Never {
        /// How it stood at the end, and its last words.
        state: String,
        /// What was waited for.
        #[source]
        source: WaitError,
    },
}

/// A running part.
#[derive(Debug)]
pub struct Part {
    process: Process,
    first: Option<Signal>,
    /// Where it runs, if not here.
    netns: Option<Netns>,
}

impl Part {
    /// Starts a program; what it prints goes to a new `NAME.log` in `folder`.
    pub fn start(name: &str, command: Command, folder: &Path) -> Result<Part, PartError> {
        Part::launch(name, command, folder, None)
    }

    /// The same in a place: in its folder, and in its namespace if it has one.
    pub fn start_at(place: &Place, name: &str, command: Command) -> Result<Part, PartError> {
        Part::launch(name, command, place.folder(), place.netns().cloned())
    }

    fn launch(name: &str, command: Command, folder: &Path, netns: Option<Netns>) -> Result<Part, PartError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let log = folder.join(format!("{name}.log"));
        if let Err(source) = File::create(&log) {
            return Err(PartError::File { path: log, source });
        }
        let started = match &netns {
            Some(netns) => Process::start(netns, name, command, &log),
            None => Process::start_here(name, command, &log),
        };
        let process = started
            .map_err(|source| PartError::Start { hint: format!("{program} is needed (`.ci/setup test`)"), source })?;
        Ok(Part { process, first: None, netns })
    }

    /// Waits until it accepts connections.
    pub fn wait_listening(&mut self, address: SocketAddr) -> Result<(), PartError> {
        let netns = self.netns.clone();
        let connect = move || TcpStream::connect(address).map(drop).map_err(|error| error.to_string());
        self.wait(&format!("{} to listen on {address}", self.process.name()), START, move || match &netns {
            Some(netns) => netns.run(connect),
            None => connect(),
        })
    }

    /// Waits until a line that holds `words` is in its log, after the first `skip` bytes; returns that line.
    pub fn wait_said(&mut self, words: &str, skip: usize, within: Duration) -> Result<String, PartError> {
        let log = self.process.log().to_owned();
        self.wait(&format!("{} to say `{words}`", self.process.name()), within, || {
            let text = std::fs::read(&log).map_err(|error| error.to_string())?;
            let text = String::from_utf8_lossy(text.get(skip..).unwrap_or_default()).into_owned();
            match text.lines().find(|line| line.contains(words)) {
                Some(line) => Ok(line.to_owned()),
                None => Err("it did not".into()),
            }
        })
    }

    /// Waits for a state of it; gives up at once when it ends.
    pub fn wait<T>(
        &mut self,
        what: &str,
        within: Duration,
        mut probe: impl FnMut() -> Result<T, String>,
    ) -> Result<T, PartError> {
        let found = wait_until(what, within, || match probe() {
            Err(_) if self.process.exited().is_some() => Ok(None),
            seen => seen.map(Some),
        });
        match found {
            Ok(Some(value)) => Ok(value),
            Ok(None) => {
                let source = WaitError::TimedOut { what: what.into(), within, last_seen: "it ended".into() };
                Err(PartError::Never { state: self.process.describe(), source })
            }
            Err(source) => Err(PartError::Never { state: self.process.describe(), source }),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// The file with what it printed.
    pub fn log(&self) -> &Path {
        self.process.log()
    }

    /// How much it has printed so far, in bytes.
    pub fn said(&self) -> usize {
        std::fs::metadata(self.process.log()).map_or(0, |log| usize::try_from(log.len()).unwrap_or(usize::MAX))
    }

    /// The end of what it printed.
    pub fn tail(&self) -> String {
        tail(self.process.log())
    }

    /// The process itself.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What it is sent before SIGTERM when it is to end.
    pub fn end_with(&mut self, first: Signal) {
        self.first = Some(first);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Read before it ends: afterwards its children have another parent.
        let children = usage::descendants(self.process.pid());
        if let Some(first) = self.first {
            self.process.signal(first);
        }
        self.process.stop(END);
        for child in children.into_iter().filter(|child| child.lives()) {
            // Gone since it was looked at: fine.
            let _ = kill(child.pid, Signal::SIGKILL);
        }
    }
}

/// Writes a file that a part reads.
pub(crate) fn write(path: PathBuf, content: &str) -> Result<PathBuf, PartError> {
    match std::fs::write(&path, content) {
        Ok(()) => Ok(path),
        Err(source) => Err(PartError::File { path, source }),
    }
}

/// Where programs are that Debian keeps from ordinary users.
pub(crate) fn path_with_sbin() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}
