//! Checks by programs: the agent runs them, because the proxy core may start nothing.
//!
//! The core names a backend and a server; what is run is what the agent's own plan says of them. A program has a user of
//! its own, no shell, no rights, little environment and a timeout, and nothing of it stays behind: its process group is
//! killed at the end. All of it on a thread of its own, so that nothing here delays the supervisor.
#![allow(unsafe_code, reason = "a pidfd in the event loop")]

use std::io::{self, PipeReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use proxy_core::plan::{Plan, Probe, Program};
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use crate::pidfd;
use crate::supervisor::identity;

/// Programs and results that may wait; a program that finds no room is not run.
const QUEUE: usize = 64;
/// Programs that run at once: as many as the core asks for. It is not trusted to ask for no more.
const AT_ONCE: usize = 16;
/// So much of what a program prints is kept; the rest is read and forgotten.
const OUTPUT: usize = 1024;
/// What the helper says that could not start a program.
pub(crate) const NOT_STARTED: u8 = 126;

/// A program to be run.
#[derive(Debug)]
pub(crate) struct Run {
    ticket: u64,
    program: Program,
    environment: Vec<(&'static str, String)>,
    timeout: Duration,
}

/// How one ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) ticket: u64,
    pub(crate) ok: bool,
    pub(crate) what: String,
}

/// The thread that runs them. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Programs {
    runs: mpsc::Sender<Run>,
    ended: mpsc::Receiver<Ended>,
}

impl Run {
    /// What checks this server, by this plan; `None`: no program does.
    pub(crate) fn find(plan: &Plan, ticket: u64, backend: &str, server: &str) -> Option<Run> {
        let backend = plan.backends.iter().find(|candidate| candidate.name == backend)?;
        let server = backend.servers.iter().find(|candidate| candidate.name == server)?;
        let check = backend.check.as_ref()?;
        let Probe::Program(program) = &check.probe else { return None };
        let environment = vec![
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
            ("LBNODE_BACKEND", backend.name.clone()),
            ("LBNODE_SERVER", server.name.clone()),
            ("LBNODE_ADDRESS", server.address.ip().to_string()),
            ("LBNODE_PORT", server.address.port().to_string()),
        ];
        Some(Run { ticket, program: program.clone(), environment, timeout: check.timeout })
    }
}

impl Programs {
    /// Starts the thread; `helper` is the command that becomes a program's user and then the program.
    pub(crate) fn start(helper: PathBuf) -> io::Result<Programs> {
        let (runs, mut inbox) = mpsc::channel::<Run>(QUEUE);
        let (outbox, ended) = mpsc::channel(QUEUE);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("programs".into()).spawn(move || {
            runtime.block_on(async move {
                let room = Arc::new(Semaphore::new(AT_ONCE));
                while let Ok(place) = Arc::clone(&room).acquire_owned().await
                    && let Some(run) = inbox.recv().await
                {
                    let (helper, outbox) = (helper.clone(), outbox.clone());
                    tokio::spawn(async move {
                        let _place = place;
                        let (ok, what) = match execute(&helper, &run).await {
                            Ok(what) => (true, what),
                            Err(what) => (false, what),
                        };
                        // Without a supervisor there is nobody to hear of it.
                        let _ = outbox.send(Ended { ticket: run.ticket, ok, what }).await;
                    });
                }
            });
        })?;
        Ok(Programs { runs, ended })
    }

    /// Whether there was room for it.
    pub(crate) fn run(&self, run: Run) -> bool {
        self.runs.try_send(run).is_ok()
    }

    /// The next one that ended.
    pub(crate) async fn ended(&mut self) -> Option<Ended> {
        self.ended.recv().await
    }
}

/// A program and whatever it started; gone when this is dropped.
struct Group(Option<Child>);

impl Group {
    /// Kills who is left, and says how the leader ended.
    fn end(&mut self) -> Option<io::Result<ExitStatus>> {
        let mut leader = self.0.take()?;
        // Not reaped yet, so its number is still its own; and it was made to lead a group of that number.
        let group = Pid::from_raw(i32::try_from(leader.id()).expect("the kernel's numbers fit"));
        match killpg(group, Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => tracing::error!(%group, %error, "the program of a check cannot be killed"),
        }
        Some(leader.wait())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}

/// Runs a program to its end. `Err`: the check failed, and why.
async fn execute(helper: &PathBuf, run: &Run) -> Result<String, String> {
    let (mut group, output) = start(helper, run).map_err(|why| format!("{} cannot be run: {why}", run.program.path))?;
    let pid = group.0.as_ref().expect("it was just started").id();
    let pidfd = pidfd::open(pid).map_err(|error| error.to_string())?;
    // SAFETY: an OwnedFd stays open, and the same, for as long as it lives.
    let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, tokio::io::Interest::READABLE) };
    let pidfd = pidfd.map_err(|error| io::Error::from(error).to_string())?;
    let mut said = Vec::new();
    let ended = async {
        tokio::select! {
            _ = pidfd.readable() => {}
            // It may close its output long before it ends.
            () = listen(&output, &mut said) => drop(pidfd.readable().await),
        }
    };
    if timeout(run.timeout, ended).await.is_err() {
        return Err(format!("the program did not end within {:?}", run.timeout));
    }
    // What it said last; whoever it left behind may still hold the pipe.
    hear(&output, &mut said);
    let status = group.end().expect("it ends once").map_err(|error| error.to_string())?;
    let words = first_line(&said);
    match (status.code(), status.signal()) {
        (Some(0), _) if words.is_empty() => Ok("exit status 0".into()),
        (Some(0), _) => Ok(words),
        (Some(code), _) => Err(with(format!("exit status {code}"), &words)),
        (None, signal) => {
            let signal = signal.and_then(|signal| Signal::try_from(signal).ok());
            Err(with(signal.map_or("killed".into(), |signal| format!("killed by {signal}")), &words))
        }
    }
}

fn start(helper: &PathBuf, run: &Run) -> Result<(Group, pipe::Receiver), String> {
    let identity = identity(&run.program.user).map_err(|error| crate::causes::chain(&error))?;
    let (reader, writer) = io::pipe().map_err(|error| error.to_string())?;
    let mut command = Command::new(helper);
    command
        .arg("run-check")
        .args(["--uid", &identity.uid.to_string(), "--gid", &identity.gid.to_string(), "--"])
        .arg(&run.program.path)
        .args(&run.program.args)
        .env_clear()
        .envs(run.environment.iter().map(|(name, value)| (*name, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(writer.try_clone().map_err(|error| error.to_string())?)
        .stderr(writer)
        .process_group(0);
    let group = Group(Some(command.spawn().map_err(|error| error.to_string())?));
    Ok((group, receiver(reader).map_err(|error| error.to_string())?))
}

fn receiver(reader: PipeReader) -> io::Result<pipe::Receiver> {
    pipe::Receiver::from_owned_fd(reader.into())
}

/// Reads what a program prints, to its end.
async fn listen(output: &pipe::Receiver, said: &mut Vec<u8>) {
    while output.readable().await.is_ok() && hear(output, said) {}
}

/// Reads what is there; whether there may be more.
fn hear(output: &pipe::Receiver, said: &mut Vec<u8>) -> bool {
    let mut piece = [0; 4096];
    // Bounded, for one that prints without end.
    for _ in 0..16 {
        match output.try_read(&mut piece) {
            Ok(0) => return false,
            Ok(read) => {
                let room = OUTPUT.saturating_sub(said.len());
                said.extend_from_slice(&piece[..read.min(room)]);
            }
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
    true
}

fn with(how: String, words: &str) -> String {
    if words.is_empty() { how } else { format!("{how}: {words}") }
}

/// The first line that says something, without what could move a terminal.
fn first_line(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    line.chars().filter(|char| !char.is_control()).take(200).collect()
}
