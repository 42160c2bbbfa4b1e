//! The proxy core as a process: `lbnode proxy-core`, started by the agent with one end of a control channel.
//!
//! The main thread speaks with the agent; workers have threads of their own ([`DataPlane`]). The core outlives its agent:
//! it serves on, waits for the next one at the adoption socket, hands it every descriptor, and drains and ends
//! when none comes. One that was given no adoption socket ends with its agent.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{Backlog, listen};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::beat::{BeatBoard, MAX_WORKERS};
use crate::check::program::{ProgramEnd, RunProgram};
use crate::control::{
    Channel, DescriptorKey, Descriptors, FromCore, Hello, Received, Running, TableAnswer, ToCore, VERSION,
};
use crate::limits::Limits;
use crate::listener::{Listener, ListenerKey};
use crate::log;
use crate::log_pipe;
use crate::plan::Plan;
use crate::plane::DataPlane;
use crate::sandbox::{self, Confined, Identity};

/// How long a core without an agent serves before it drains.
pub const ORPHAN_SERVES: Duration = Duration::from_secs(10);
/// What sessions get to end by themselves when nobody named a deadline: SIGTERM, or no agent.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(30);
/// Between two looks at workers that take up a plan or drain.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Last words may take so long.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the agent says on the command line.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Who the process becomes.
    pub identity: Identity,
    /// Of its log, which goes to standard error.
    pub log_level: tracing::Level,
}

/// Runs until it is told to end. To be called on the main thread, before any other exists.
pub fn run(channel: OwnedFd, options: Options) -> ExitCode {
    log::clock::load_zone();
    let confined = match sandbox::enter(options.identity) {
        Ok(confined) => confined,
        Err(error) => {
            log_pipe::last_words("the proxy core does not start with more rights than it needs", &error);
            return ExitCode::FAILURE;
        }
    };
    log_pipe::start(options.log_level);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.and_then(|runtime| runtime.block_on(async { Core::new(channel, confined)?.live().await }));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log_pipe::last_words("the proxy core ends", &error);
            ExitCode::FAILURE
        }
    }
}

type Link = Channel<FromCore, ToCore>;

struct Core {
    confined: Confined,
    agent: Option<Link>,
    /// Without an agent: when to drain.
    orphan_until: Option<Instant>,
    adoption: Option<UnixListener>,
    /// Copies of everything that the next agent needs.
    held: Descriptors,
    /// Listeners that arrived for the next `Start` or `Apply`.
    fresh: BTreeSet<ListenerKey>,
    /// Log sinks that arrived for the next plan.
    sinks: BTreeMap<u16, OwnedFd>,
    plane: Option<DataPlane>,
    programs: Programs,
    running: Option<Running>,
    /// What is said once every worker has taken up the plan.
    taking_up: Option<FromCore>,
    draining: bool,
}

/// Checks by programs, on their way to the agent and back.
#[derive(Debug, Default)]
struct Programs {
    /// `None`: there is no plane yet.
    inbox: Option<mpsc::Receiver<RunProgram>>,
    /// Those that the agent runs, by ticket. As many as are checked at once, which is few.
    running: BTreeMap<u64, oneshot::Sender<ProgramEnd>>,
    ticket: u64,
    /// The agent takes questions: one that adopts first waits for our descriptors.
    welcome: bool,
}

impl Programs {
    async fn asked(&mut self) -> RunProgram {
        let asked = match &mut self.inbox {
            Some(inbox) => inbox.recv().await,
            None => None,
        };
        match asked {
            Some(asked) => asked,
            None => pending().await,
        }
    }

    fn question(&mut self, RunProgram { backend, server, reply }: RunProgram) -> FromCore {
        // Whose check was given up meanwhile.
        self.running.retain(|_, reply| !reply.is_closed());
        self.ticket += 1;
        self.running.insert(self.ticket, reply);
        FromCore::RunProgram { ticket: self.ticket, backend, server }
    }

    fn ended(&mut self, ticket: u64, end: ProgramEnd) {
        // Whoever gave up waiting has no use for it.
        self.running.remove(&ticket).map(|reply| reply.send(end));
    }
}

impl Core {
    fn new(channel: OwnedFd, confined: Confined) -> io::Result<Core> {
        Ok(Core {
            agent: Some(Channel::on_top(channel, confined.descriptors)?),
            confined,
            orphan_until: None,
            adoption: None,
            held: Descriptors::new(),
            fresh: BTreeSet::new(),
            sinks: BTreeMap::new(),
            plane: None,
            programs: Programs { welcome: true, ..Programs::default() },
            running: None,
            taking_up: None,
            draining: false,
        })
    }

    async fn live(mut self) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        self.say(FromCore::Hello(self.hello()));
        loop {
            tokio::select! {
                // The end of the old agent is noticed before the next one is answered.
                biased;
                received = hear(&mut self.agent) => match received {
                    Ok(Some(Received::Message(message))) => self.obey(message),
                    Ok(Some(Received::Descriptors(descriptors))) => self.take(descriptors)?,
                    Ok(None) => self.orphaned("the agent is gone"),
                    Err(error) => self.orphaned(&log_pipe::chain(&error)),
                },
                () = pause(self.taking_up.is_some() || self.draining) => {
                    if self.draining && self.plane.as_ref().is_none_or(DataPlane::drained) {
                        return self.farewell().await;
                    }
                    if self.plane.as_ref().is_none_or(DataPlane::ready)
                        && let Some(message) = self.taking_up.take()
                    {
                        self.say(message);
                    }
                }
                _ = terminate.recv() => {
                    info!("told to end by a signal");
                    if !self.draining {
                        self.say(FromCore::Draining { deadline: DRAIN_DEADLINE });
                    }
                    self.drain(DRAIN_DEADLINE);
                }
                asked = self.programs.asked() => {
                    // Without an agent it is dropped, which answers it.
                    if self.agent.is_some() && self.programs.welcome {
                        let message = self.programs.question(asked);
                        self.say(message);
                    }
                }
                stream = visitor(self.adoption.as_ref()) => self.welcome(stream),
                () = until(self.orphan_until) => {
                    warn!("no agent for {} s: draining", ORPHAN_SERVES.as_secs());
                    self.orphan_until = None;
                    // Nobody else has the accept queues: who waits there is reset now, not at the end.
                    self.held.clear();
                    self.drain(DRAIN_DEADLINE);
                }
            }
        }
    }

    fn hello(&self) -> Hello {
        Hello {
            version: VERSION,
            pid: std::process::id(),
            running: self.running,
            uid: self.confined.uid,
            uid_note: self.confined.note.clone(),
        }
    }

    fn say(&mut self, message: FromCore) {
        if let Some(agent) = &mut self.agent
            && let Err(error) = agent.queue(&message)
        {
            self.orphaned(&log_pipe::chain(&error));
        }
    }

    fn obey(&mut self, message: ToCore) {
        match message {
            // The agent will hear, or has heard, that we end: the plan is for our successor.
            ToCore::Start { .. } | ToCore::Apply { .. } if self.draining => {}
            ToCore::Start { plan, workers } => {
                let revision = plan.revision;
                match self.start(plan, workers) {
                    Ok(limits) => self.taking_up = Some(FromCore::Ready { revision, limits }),
                    Err(why) => self.say(FromCore::Rejected { revision, why }),
                }
            }
            ToCore::Apply { plan, removed } => {
                let revision = plan.revision;
                match self.apply(plan, &removed) {
                    Ok(limits) => self.taking_up = Some(FromCore::Ready { revision, limits }),
                    Err(why) => {
                        for key in std::mem::take(&mut self.fresh) {
                            self.held.remove(&DescriptorKey::Listener(key));
                        }
                        self.say(FromCore::Rejected { revision, why });
                    }
                }
            }
            ToCore::ReopenLogs => {
                if let Some(plane) = &mut self.plane {
                    plane.reopen_logs(std::mem::take(&mut self.sinks));
                }
            }
            ToCore::Drain { deadline } => self.drain(deadline),
            ToCore::Stats => {
                let stats = self.plane.as_ref().map(DataPlane::stats).unwrap_or_default();
                self.say(FromCore::Stats(Box::new(stats)));
            }
            ToCore::Summary => {
                let summary = self.plane.as_ref().map(DataPlane::summary).unwrap_or_default();
                self.say(FromCore::Summary(summary));
            }
            ToCore::List(list) => {
                if let Some(plane) = &self.plane {
                    plane.replace_list(&list);
                }
                self.say(FromCore::ListTaken);
            }
            ToCore::ProgramEnded { ticket, ok, what } => self.programs.ended(ticket, ProgramEnd { ok, what }),
            ToCore::Table(ask) => {
                let nothing = || TableAnswer::NoTable(Vec::new());
                let answer = self.plane.as_ref().map_or_else(nothing, |plane| plane.ask_table(&ask));
                self.say(FromCore::Table(answer));
            }
            ToCore::HandOver => {
                self.programs.welcome = true;
                if let Some(agent) = &mut self.agent
                    && let Err(error) = agent.queue_descriptors(&self.held)
                {
                    self.orphaned(&log_pipe::chain(&error));
                }
            }
            // The channel keeps these to itself.
            ToCore::Manifest(_) | ToCore::Descriptors { .. } => {}
        }
    }

    fn start(&mut self, plan: Plan, workers: u16) -> Result<Limits, String> {
        if self.running.is_some() {
            return Err("it is running already".into());
        }
        if workers == 0 || workers > MAX_WORKERS {
            return Err(format!("{workers} workers; 1 to {MAX_WORKERS} are possible"));
        }
        let board = self.held.get(&DescriptorKey::Board).ok_or("no beat board came")?;
        let board = copy(board).and_then(BeatBoard::from_fd).map_err(|error| format!("the beat board: {error}"))?;
        let fresh = std::mem::take(&mut self.fresh);
        let revision = plan.revision;
        let limits = Limits::derive(self.confined.descriptors, workers, self.held.len());
        let probes = (0..workers).filter_map(|worker| {
            let fd = self.held.get(&DescriptorKey::Probe(worker))?;
            Some(copy(fd).map(StdUnixStream::from))
        });
        let probes = probes.collect::<io::Result<_>>().map_err(|error| format!("cannot copy a probe: {error}"))?;
        let listeners = self.listeners(&fresh)?;
        let sinks = std::mem::take(&mut self.sinks);
        let plane = DataPlane::start(plan, workers, listeners, probes, &board, limits, sinks);
        let mut plane = plane.map_err(|error| log_pipe::chain(&error))?;
        self.programs.inbox = plane.take_programs();
        self.plane = Some(plane);
        self.running = Some(Running { revision, workers, limits });
        Ok(limits)
    }

    fn apply(&mut self, plan: Plan, removed: &BTreeSet<ListenerKey>) -> Result<Limits, String> {
        let sinks = std::mem::take(&mut self.sinks);
        let added = self.listeners(&self.fresh)?;
        let (Some(plane), Some(running)) = (&mut self.plane, &mut self.running) else {
            return Err("it was not started".into());
        };
        let revision = plan.revision;
        let gone: Vec<_> = removed.iter().copied().collect();
        plane.apply(plan, added, &gone, sinks).map_err(|error| log_pipe::chain(&error))?;
        running.revision = revision;
        self.fresh.clear();
        self.held.retain(|key, _| !matches!(key, DescriptorKey::Listener(key) if removed.contains(key)));
        Ok(running.limits)
    }

    /// Copies for the workers.
    fn listeners(&self, keys: &BTreeSet<ListenerKey>) -> Result<Vec<Listener>, String> {
        let made = keys.iter().filter_map(|&key| {
            let fd = self.held.get(&DescriptorKey::Listener(key))?;
            Some(copy(fd).map(|fd| Listener::from_fd(key, fd)))
        });
        made.collect::<io::Result<_>>().map_err(|error| format!("cannot copy a listener: {error}"))
    }

    fn take(&mut self, descriptors: Descriptors) -> io::Result<()> {
        for (key, fd) in descriptors {
            match key {
                DescriptorKey::Log => {
                    nix::unistd::dup2_stdout(&fd)?;
                    nix::unistd::dup2_stderr(&fd)?;
                    continue;
                }
                DescriptorKey::Adoption => {
                    // Whoever called `listen` last is the peer that the next agent sees in SO_PEERCRED: us.
                    listen(&fd, Backlog::new(4).expect("a positive backlog is one"))?;
                    let listener = StdUnixListener::from(copy(&fd)?);
                    listener.set_nonblocking(true)?;
                    self.adoption = Some(UnixListener::from_std(listener)?);
                }
                DescriptorKey::Listener(key) => {
                    self.fresh.insert(key);
                }
                DescriptorKey::LogSink(index) => {
                    self.sinks.insert(index, copy(&fd)?);
                    continue;
                }
                DescriptorKey::Board | DescriptorKey::Probe(_) | DescriptorKey::ProbeAgent(_) => {}
            }
            self.held.insert(key, fd);
        }
        Ok(())
    }

    fn drain(&mut self, deadline: Duration) {
        // One that drains is not adopted any more.
        self.adoption = None;
        self.orphan_until = None;
        self.taking_up = None;
        self.draining = true;
        if let Some(plane) = &self.plane {
            plane.drain(std::time::Instant::now() + deadline);
        }
    }

    fn orphaned(&mut self, why: &str) {
        self.agent = None;
        // Nobody is left who could say how they ended; their checks ask again.
        self.programs.running.clear();
        if self.draining {
            return;
        }
        if self.running.is_none() {
            error!("{why}, and there is nothing to go on with");
            return self.drain(Duration::ZERO);
        }
        if self.adoption.is_none() {
            warn!("{why}, and no other can come: ending");
            return self.drain(Duration::ZERO);
        }
        warn!("{why}; serving on for {} s", ORPHAN_SERVES.as_secs());
        self.orphan_until = Some(Instant::now() + ORPHAN_SERVES);
    }

    /// A connection at the adoption socket: the next agent, if it may be one.
    fn welcome(&mut self, stream: io::Result<UnixStream>) {
        let peer = match stream.and_then(|stream| Ok((stream.peer_cred()?, stream))) {
            Ok(peer) => peer,
            Err(error) => return warn!("nobody could be let in at the adoption socket: {error}"),
        };
        let (credentials, stream) = peer;
        let uid = credentials.uid();
        if uid != 0 && uid != self.confined.uid {
            return warn!(uid, pid = credentials.pid(), "refused an agent: neither root nor our own user");
        }
        if self.agent.is_some() {
            return warn!(pid = credentials.pid(), "refused an agent: there is one already");
        }
        let channel = stream.into_std().and_then(|stream| Channel::on_top(stream.into(), self.confined.descriptors));
        match channel {
            Ok(channel) => self.agent = Some(channel),
            Err(error) => return warn!("the agent could not be let in at the adoption socket: {error}"),
        }
        info!(pid = credentials.pid(), "adopted by a new agent");
        self.orphan_until = None;
        self.fresh.clear();
        self.sinks.clear();
        self.programs.welcome = false;
        self.say(FromCore::Hello(self.hello()));
    }

    async fn farewell(mut self) -> io::Result<()> {
        let reset = self.plane.as_ref().map_or(0, |plane| plane.stats().reset_by_drain);
        if let Some(plane) = &self.plane {
            plane.flush_logs(FAREWELL);
        }
        info!(reset, "drained");
        self.say(FromCore::Drained { reset });
        if let Some(agent) = &mut self.agent {
            match tokio::time::timeout(FAREWELL, agent.flush()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => warn!("the agent did not hear the end: {}", log_pipe::chain(&error)),
                Err(_) => warn!("the agent did not hear the end: it reads nothing"),
            }
        }
        Ok(())
    }
}

async fn hear(agent: &mut Option<Link>) -> Result<Option<Received<ToCore>>, crate::control::ChannelError> {
    match agent {
        Some(agent) => agent.receive().await,
        None => std::future::pending().await,
    }
}

/// The workers leave no word when they are done; while one is awaited they are looked at.
async fn pause(awaited: bool) {
    if awaited {
        tokio::time::sleep(LOOK_EVERY).await;
    } else {
        std::future::pending().await
    }
}

async fn visitor(adoption: Option<&UnixListener>) -> io::Result<UnixStream> {
    match adoption {
        Some(adoption) => adoption.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// A descriptor of our own for the same thing.
fn copy(fd: &Arc<OwnedFd>) -> io::Result<OwnedFd> {
    fd.try_clone().map_err(|error| io::Error::new(error.kind(), format!("descriptor {}: {error}", fd.as_raw_fd())))
}
