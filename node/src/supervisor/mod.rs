//! The agent's side of the proxy core: start it, watch it, restart it, adopt it, hand it plans.
//!
//! [`policy`] decides (pure: when to start, kill, give up on a core), [`liveness`] judges signs of life (pure),
//! [`child`] speaks to the kernel about processes, and [`shell`] is the loop that ties them to clocks and sockets,
//! on a thread of its own so that nothing the agent does delays it. What the agent sees is [`Supervisor`].

mod child;
mod link;
mod liveness;
mod log;
mod policy;
mod settings;
mod shell;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use proxy_core::beat::BeatBoard;
use proxy_core::control::{TableAnswer, TableAsk};
use proxy_core::limits::Limits;
use proxy_core::plan::{List, Plan};
use proxy_core::stats::{Stats, Summary};
use tokio::sync::{mpsc, oneshot, watch};

pub use policy::Timing;
pub use settings::{Settings, UserError, identity};

use crate::listeners::{BindErrors, Listeners};
use crate::logs::OpenError;

/// Commands that may wait for the supervisor; a further one waits for room.
const COMMANDS: usize = 16;
/// Events that may wait for the agent; further ones are dropped, [`Status`] has the truth.
const EVENTS: usize = 256;
/// How long a core may take over a stick table.
const TABLES: Duration = Duration::from_secs(10);
/// How long the core may take to answer a question about its counters.
const STATISTICS: Duration = Duration::from_millis(500);
/// How long it may take to take up the new content of a list.
const CONFIRM: Duration = Duration::from_secs(5);

/// What is known of the core, as an event and as the current state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoreState {
    /// Started and not ready yet.
    Starting,
    /// Carries traffic.
    Ready {
        /// The core's process.
        pid: u32,
        /// Of the plan that it runs.
        revision: u64,
    },
    /// A worker made no progress for so long; killed when it goes on.
    Hung {
        /// Which worker.
        worker: u16,
        /// Without progress, while it could have made some.
        silent: Duration,
    },
    /// Its control channel is closed: it was killed, or ends by itself. `Exited` follows when the kernel has closed all of
    /// its connections.
    Ending,
    /// The core ended by itself, or was killed.
    Exited(Exit),
    /// The next start waits.
    Backoff {
        /// For so long.
        wait: Duration,
    },
    /// It ended at least three times in 30 s. It is still restarted, but cannot be relied on until it stayed up.
    CrashLoop {
        /// How often it ended in that time.
        exits: usize,
        /// The last time.
        last: Exit,
    },
    /// A core that an earlier agent left behind is ours now; `Ready` follows.
    Adopted {
        /// Its process.
        pid: u32,
    },
    /// It ends as it was told to.
    Draining,
    /// It ended as it was told to.
    Stopped,
}

impl CoreState {
    /// One word for status and logs.
    pub fn name(&self) -> &'static str {
        match self {
            CoreState::Starting => "starting",
            CoreState::Ready { .. } => "ready",
            CoreState::Hung { .. } => "hung",
            CoreState::Ending => "ending",
            CoreState::Exited(_) => "exited",
            CoreState::Backoff { .. } => "backoff",
            CoreState::CrashLoop { .. } => "crash-loop",
            CoreState::Adopted { .. } => "adopted",
            CoreState::Draining => "draining",
            CoreState::Stopped => "stopped",
        }
    }
}

/// How a core ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// In words: "exit status 1", "signal 9", "unknown (adopted)", "did not start: ...".
    pub status: String,
    /// The last line that it logged.
    pub last_log: Option<String>,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.status)?;
        match &self.last_log {
            Some(line) => write!(f, "; last log line: {line}"),
            None => Ok(()),
        }
    }
}

/// The current state, for status and for whoever missed an event.
#[derive(Clone, Debug)]
pub struct Status {
    /// What it is doing.
    pub state: CoreState,
    /// Set while a crash loop's verdict stands, whatever the state is.
    pub crash_loop: Option<Exit>,
    /// Its process, while there is one.
    pub pid: Option<u32>,
    /// Since when the state is what it is.
    pub since: Instant,
    /// The same for people.
    pub since_wall: SystemTime,
    /// Starts after the first, since the agent started.
    pub restarts: u64,
    /// The revision that runs, or ran last.
    pub revision: Option<u64>,
    /// Worker threads.
    pub workers: u16,
    /// The user it runs as.
    pub uid: Option<u32>,
    /// Why that is not the configured one.
    pub uid_note: Option<String>,
    /// What its descriptor limit allows.
    pub limits: Option<Limits>,
    /// Events that the agent was too slow for.
    pub events_dropped: u64,
}

/// Why a plan was not applied. The one before goes on.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// An address cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindErrors),
    /// A log sink cannot be opened.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// The core refused it.
    #[error("the proxy core refused revision {revision}: {why}")]
    Rejected {
        /// Of the plan.
        revision: u64,
        /// In the core's words.
        why: String,
    },
    /// The core did not answer or did not live long enough to.
    #[error("the proxy core gave no answer to revision {revision}: {why}")]
    NoAnswer {
        /// Of the plan.
        revision: u64,
        /// What happened instead.
        why: String,
    },
    /// Another plan is being applied.
    #[error("another revision is being applied; try again when it is done")]
    Busy,
    /// The supervisor has ended.
    #[error("the proxy core is being stopped")]
    Stopping,
}

/// The core did not say that it measures clients against the new content of a list. The next one begins with it.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the proxy core did not confirm it within {} s", CONFIRM.as_secs())]
pub struct Unconfirmed;

/// Why there is no supervisor.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The system.
    #[error("the supervisor of the proxy core cannot be started")]
    Io(#[from] io::Error),
    /// An address of the first plan cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindErrors),
    /// Its core is left alone.
    #[error("another agent runs with this runtime directory: it holds the lock on {}; stop it, or set another `runtime_dir` in the node file", .0.display())]
    Taken(PathBuf),
}

/// What remained when the core was stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stopped {
    /// Sessions that were reset at the deadline; `None` when the core could not say.
    pub reset: Option<u64>,
}

/// A handle on the supervisor's thread. Clones speak to the same one; when the last is gone it lets the core
/// live on without an agent, as after the agent's own death.
#[derive(Clone, Debug)]
pub struct Supervisor {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Status>,
    /// Of the core that runs, or ran last.
    board: Arc<ArcSwapOption<BeatBoard>>,
}

#[derive(Debug)]
enum Command {
    Apply(Box<Plan>, oneshot::Sender<Result<u64, ApplyError>>),
    Stop(Duration, oneshot::Sender<Stopped>),
    Stats(oneshot::Sender<Stats>),
    Summary(oneshot::Sender<Summary>),
    ReopenLogs,
    List(List, oneshot::Sender<()>),
    Table(TableAsk, oneshot::Sender<TableAnswer>),
}

impl Supervisor {
    /// Binds the plan's listeners, adopts the core that an earlier agent left behind or starts one, and watches it
    /// from a thread of its own. Returns before the core is ready; events say when.
    ///
    /// # Errors
    /// Another supervisor is there, an address cannot be bound, or the system refuses the thread, the lock or the
    /// adoption socket.
    pub fn start(
        settings: Settings,
        plan: Plan,
        listeners: Listeners,
    ) -> Result<(Supervisor, mpsc::Receiver<CoreState>), StartError> {
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (events, outbox) = mpsc::channel(EVENTS);
        let (publish, status) = watch::channel(Status {
            state: CoreState::Starting,
            crash_loop: None,
            pid: None,
            since: Instant::now(),
            since_wall: SystemTime::now(),
            restarts: 0,
            revision: None,
            workers: settings.workers,
            uid: None,
            uid_note: None,
            limits: None,
            events_dropped: 0,
        });
        let board = Arc::<ArcSwapOption<BeatBoard>>::default();
        let ends = shell::Ends { inbox, events, publish, board: Arc::clone(&board) };
        shell::start(settings, plan, listeners, ends)?;
        Ok((Supervisor { commands, status, board }, outbox))
    }

    /// The current state; changes wake the receiver.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Has the core run another plan: binds new listeners, waits for the core's answer, and closes the removed ones
    /// afterwards. While there is no core, the next one is started with it.
    ///
    /// # Errors
    /// The plan before goes on, with its listeners; the error says why.
    pub async fn apply(&self, plan: Plan) -> Result<u64, ApplyError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(Command::Apply(Box::new(plan), reply)).await;
        sent.map_err(|_| ApplyError::Stopping)?;
        answer.await.map_err(|_| ApplyError::Stopping)?
    }

    /// Gives the plan's list of this name other networks, and waits until the core that runs, if one does, measures
    /// clients against them.
    ///
    /// # Errors
    /// The core is silent.
    pub async fn replace_list(&self, list: List) -> Result<(), Unconfirmed> {
        let (reply, answer) = oneshot::channel();
        let replaced = async {
            // Without a supervisor there is no core, and one that goes takes the question along: neither has clients.
            if self.commands.send(Command::List(list, reply)).await.is_ok() {
                let (Ok(()) | Err(_)) = answer.await;
            }
        };
        tokio::time::timeout(CONFIRM, replaced).await.map_err(|_| Unconfirmed)
    }

    /// Ends the core: sessions have until the deadline to end by themselves. The supervisor ends with it.
    pub async fn stop(&self, deadline: Duration) -> Stopped {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Stop(deadline, reply)).await.is_err() {
            return Stopped::default();
        }
        answer.await.unwrap_or_default()
    }

    /// What the data plane counts; `None` when no core answers within half a second.
    pub async fn stats(&self) -> Option<Stats> {
        self.ask(STATISTICS, Command::Stats).await
    }

    /// What of that is looked at all the time; `None` likewise.
    pub async fn summary(&self) -> Option<Summary> {
        self.ask(STATISTICS, Command::Summary).await
    }

    /// Shows or forgets entries of a stick table; `None` when no core answers within ten seconds.
    pub async fn table(&self, ask: TableAsk) -> Option<TableAnswer> {
        self.ask(TABLES, |reply| Command::Table(ask, reply)).await
    }

    async fn ask<T>(&self, within: Duration, question: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.commands.send(question(reply)).await.ok()?;
            answer.await.ok()
        };
        tokio::time::timeout(within, asked).await.ok()?
    }

    /// Has the log sinks of the plan that runs opened anew, now or after the change that is on its way: their files were
    /// moved away. Whether it could be said; never waits.
    pub fn reopen_logs(&self) -> bool {
        self.commands.try_send(Command::ReopenLogs).is_ok()
    }

    /// From now on the first client that the running core accepts at `address`, whatever the port, is noticed; what was
    /// known of this address is forgotten. Up to 16 addresses have room, a further one replaces the oldest. A core that
    /// starts later knows nothing of it. Never waits.
    pub fn watch_first_connection(&self, address: IpAddr) {
        if let Some(board) = &*self.board.load() {
            board.watch_first_client(address);
        }
    }

    /// When the first client was accepted at `address` since it is watched; `None`: none yet, or it is not watched.
    /// It can be asked again. Never waits.
    pub fn first_connection(&self, address: IpAddr) -> Option<Instant> {
        self.board.load().as_ref()?.first_client(address)
    }

    /// Ends the watch on `address`, which costs the core a system call a client while nobody comes. Never waits.
    pub fn forget_first_connection(&self, address: IpAddr) {
        if let Some(board) = &*self.board.load() {
            board.forget_first_client(address);
        }
    }
}
