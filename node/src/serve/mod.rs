//! `lbnode serve`: one cluster file, served in the foreground by the real proxy core under the real supervisor.
//!
//! Without a pair: no VRRP, no peer, no node file, nothing on disk, and nothing of the machine is changed. VIPs are
//! bound where they are named and wait for somebody to install them. The core ends when this process does.

mod control;

use std::fmt::Display;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use nix::unistd::{getegid, geteuid};
use proxy_core::sandbox::Identity;
use proxy_core::stats::Summary;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};

use crate::causes::chain;
use crate::config::{self, ClusterConfig, ConfigError, LogConfig, NodeConfig};
use crate::control::{BindError, Call, QUEUE, Server};
use crate::listeners::{BindErrors, Listeners};
use crate::lists::{Lists, Overlay};
use crate::status::traffic::Traffic;
use crate::store::Revision;
use crate::supervisor::{self, ApplyError, CoreState, Settings, Supervisor, UserError};

/// How long clients may take to leave after the first signal.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the counters are read while there is a control socket to tell them at.
const TICK: Duration = Duration::from_secs(1);

/// What `lbnode serve` is told.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The cluster file
    pub file: PathBuf,
    /// Worker threads; 0: one per core
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=256))]
    pub threads: u16,
    /// Who the proxy core runs as, if this is root
    #[arg(long, default_value = "nobody")]
    pub user: String,
    /// Where `lbnode cert import` keeps certificates, in `certificates`; only read
    #[arg(long, value_name = "DIR", default_value = NodeConfig::STATE_DIR)]
    pub state_dir: PathBuf,
}

/// Why nothing is served, or not any more.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{0}: name another with --user")]
    NoUser(#[source] UserError),
    #[error(transparent)]
    Bind(#[from] BindErrors),
    #[error(transparent)]
    Supervisor(#[from] supervisor::StartError),
    #[error(transparent)]
    Control(#[from] BindError),
    #[error(transparent)]
    Log(#[from] crate::log::LogError),
    #[error("cannot {what}")]
    System { what: &'static str, source: std::io::Error },
    #[error("the proxy core does not come up: {0}")]
    NeverReady(supervisor::Exit),
}

impl ServeError {
    /// As docs/cli.md has them.
    fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            ServeError::Config(_) | ServeError::NoUser(_) => 64,
            ServeError::Bind(errors) | ServeError::Supervisor(supervisor::StartError::Bind(errors))
                if errors.not_permitted() =>
            {
                77
            }
            _ => 1,
        })
    }
}

/// Why the file that was read again does not run.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Bind(#[from] BindErrors),
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

/// Serves the file until SIGTERM or SIGINT; `control`: where the command line may ask.
pub fn run(options: Options, control: Option<PathBuf>) -> ExitCode {
    match serve(options, control.as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("lbnode: {}", chain(&error)));
            error.exit_code()
        }
    }
}

fn serve(options: Options, control: Option<&Path>) -> Result<(), ServeError> {
    let imported = options.state_dir.join("certificates");
    let (cluster, text) = read(&options.file, &imported, 1)?;
    cluster.warnings(SystemTime::now()).iter().for_each(|warning| say(format_args!("warning: {warning}")));
    let identity = identity(&options.user)?;
    let log = LogConfig::default();
    let settings = Settings::new(identity, options.threads, log.level, None);
    let _log = crate::log::start(log)?;
    let system = |what| move |source| ServeError::System { what, source };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system("start a runtime"))?;
    runtime.block_on(async {
        let listeners = Listeners::default();
        listeners.refuse_shared(&binds(&cluster))?;
        let (calls_in, calls) = mpsc::channel(QUEUE);
        if let Some(path) = control {
            tokio::spawn(Server::bind(path, "lbnode")?.run(calls_in));
        }
        // Before anything runs that they are to end.
        let signals = Signals::new().map_err(system("listen for signals"))?;
        let lists = Lists::new(&cluster.plan, Overlay::default(), None);
        let plan = lists.laid_over(cluster.plan.clone()).await;
        let (supervisor, states) = Supervisor::start(settings, plan, listeners.clone())?;
        tokio::spawn(lists.clone().follow_names(supervisor.clone()));
        let serve = Serve {
            core: supervisor.status(),
            file: options.file,
            imported,
            revision: Revision { number: 1, text, files: cluster.files.clone() },
            cluster,
            applied_at: Instant::now(),
            started: Instant::now(),
            listeners,
            lists,
            supervisor,
            traffic: Traffic::default(),
            last_exit: None,
            ready: false,
            reloading: false,
            work: JoinSet::new(),
        };
        serve.run(states, calls, signals, control.is_some()).await
    })
}

/// Everything that lives while the file is served.
struct Serve {
    file: PathBuf,
    imported: PathBuf,
    cluster: ClusterConfig,
    revision: Revision,
    applied_at: Instant,
    started: Instant,
    listeners: Listeners,
    lists: Lists,
    supervisor: Supervisor,
    core: watch::Receiver<supervisor::Status>,
    traffic: Traffic,
    last_exit: Option<String>,
    /// The core was ready once.
    ready: bool,
    reloading: bool,
    work: JoinSet<Done>,
}

/// How something ended that took time.
enum Done {
    Reloaded(Box<Result<(ClusterConfig, Revision), ReloadError>>),
    Summed(Summary),
    Nothing,
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// One of those that ask for the end.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

impl Serve {
    async fn run(
        mut self,
        mut states: mpsc::Receiver<CoreState>,
        mut calls: mpsc::Receiver<Call>,
        mut signals: Signals,
        asked: bool,
    ) -> Result<(), ServeError> {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                biased;
                Some(state) = states.recv() => self.state(state)?,
                // Signals of one kind merge: however many come meanwhile, the file is read once more.
                _ = signals.hangup.recv(), if !self.reloading => self.reload(),
                _ = signals.terminate.recv() => break,
                _ = signals.interrupt.recv() => break,
                Some(done) = self.work.join_next() => self.done(done),
                Some(call) = calls.recv() => self.call(call),
                _ = tick.tick(), if asked => {
                    let supervisor = self.supervisor.clone();
                    self.work.spawn(async move {
                        supervisor.summary().await.map_or(Done::Nothing, Done::Summed)
                    });
                }
            }
        }
        self.stop(&mut signals).await;
        Ok(())
    }

    fn state(&mut self, state: CoreState) -> Result<(), ServeError> {
        match state {
            CoreState::Ready { .. } if !self.ready => {
                self.ready = true;
                say(format_args!("ready: listening on {}", list(&binds(&self.cluster))));
            }
            CoreState::Hung { worker, silent } => {
                tracing::error!(worker, silent_ms = silent.as_millis(), "a worker of the proxy core hangs");
            }
            CoreState::Exited(exit) => {
                tracing::error!(%exit, "the proxy core ended; starting another one");
                self.last_exit = Some(exit.to_string());
            }
            CoreState::CrashLoop { last, .. } if !self.ready => return Err(ServeError::NeverReady(last)),
            other => tracing::debug!(state = other.name(), "the proxy core"),
        }
        Ok(())
    }

    fn reload(&mut self) {
        self.reloading = true;
        let (file, imported, number) = (self.file.clone(), self.imported.clone(), self.revision.number + 1);
        let (supervisor, listeners, lists) = (self.supervisor.clone(), self.listeners.clone(), self.lists.clone());
        self.work.spawn(async move {
            let applied = async {
                let read = tokio::task::spawn_blocking(move || read(&file, &imported, number)).await;
                let (cluster, text) = read.expect("reading a configuration does not panic")?;
                listeners.refuse_shared(&binds(&cluster))?;
                lists.apply(&supervisor, cluster.plan.clone()).await?;
                let files = cluster.files.clone();
                Ok((cluster, Revision { number, text, files }))
            };
            Done::Reloaded(Box::new(applied.await))
        });
    }

    fn done(&mut self, done: Result<Done, JoinError>) {
        match done {
            Ok(Done::Reloaded(applied)) => {
                self.reloading = false;
                match *applied {
                    Ok((cluster, revision)) => {
                        cluster.warnings(SystemTime::now()).iter().for_each(|one| say(format_args!("warning: {one}")));
                        say(format_args!("applied: revision {}", revision.number));
                        (self.cluster, self.revision, self.applied_at) = (cluster, revision, Instant::now());
                    }
                    Err(error) => {
                        say(chain(&error));
                        say(format_args!("not applied: revision {} goes on", self.revision.number));
                        // A new plan opens its own; what goes on may have had its files moved away all the same.
                        if !self.supervisor.reopen_logs() {
                            say("the logs are not opened anew: send the signal again");
                        }
                    }
                }
            }
            Ok(Done::Summed(summary)) => self.traffic.update(summary.totals),
            Ok(Done::Nothing) => {}
            Err(error) => tracing::error!(%error, "a task ended early"),
        }
    }

    /// Once the core was told to accept nothing more: whoever came now would wait for nobody.
    async fn shut(&self) {
        let drains = |core: &supervisor::Status| matches!(core.state, CoreState::Draining | CoreState::Stopped);
        let mut core = self.core.clone();
        if core.wait_for(drains).await.is_ok() {
            let addresses: Vec<_> = self.listeners.current().keys().map(|key| key.address.ip()).collect();
            for (key, error) in self.listeners.shut(&addresses) {
                tracing::warn!(%error, address = %key.address, "a listener could not be shut");
            }
        }
    }

    /// Clients have their time, until a second signal.
    async fn stop(self, signals: &mut Signals) {
        say(format_args!(
            "stopping: clients have {} s to leave; a second signal ends them at once",
            STOP_TIMEOUT.as_secs()
        ));
        let supervisor = &self.supervisor;
        let stopped = tokio::select! {
            (stopped, ()) = async { tokio::join!(supervisor.stop(STOP_TIMEOUT), self.shut()) } => stopped,
            () = signals.end() => supervisor.stop(Duration::ZERO).await,
        };
        say(match stopped.reset {
            Some(0) => "stopped: every client had left".to_owned(),
            Some(1) => "stopped: 1 session was reset".to_owned(),
            Some(reset) => format!("stopped: {reset} sessions were reset"),
            None => "stopped".to_owned(),
        });
    }
}

/// The checked file, to run as the revision of this number, and its text.
fn read(file: &Path, imported: &Path, number: u64) -> Result<(ClusterConfig, String), ConfigError> {
    let text = config::read_text(file)?;
    let mut cluster = config::parse_cluster_with(&file.display().to_string(), &text, imported)?;
    cluster.plan.revision = number;
    Ok((cluster, text))
}

/// Root gives the proxy core another user; who isn't cannot, and shares their own.
fn identity(user: &str) -> Result<Identity, ServeError> {
    if geteuid().is_root() {
        return supervisor::identity(user).map_err(ServeError::NoUser);
    }
    Ok(Identity { uid: geteuid().as_raw(), gid: getegid().as_raw() })
}

/// Where clients arrive, in the order of the file.
fn binds(cluster: &ClusterConfig) -> Vec<SocketAddr> {
    cluster.plan.frontends.iter().flat_map(|frontend| frontend.binds.iter().map(|bind| bind.address)).collect()
}

fn list(addresses: &[SocketAddr]) -> String {
    match addresses {
        [] => "nothing: the file has no frontend".to_owned(),
        _ => addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// A line for whoever started this; one who reads no more misses nothing.
fn say(line: impl Display) {
    let (Ok(()) | Err(_)) = writeln!(std::io::stderr(), "{line}");
}
