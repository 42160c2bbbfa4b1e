//! From a path to a running agent: everything that can be refused is refused before anything is started.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use proxy_core::sandbox::Identity;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use vrrp::config::RouterConfig;
use vrrp::io::address::{OnTaken, Taken};
use vrrp::io::driver::{Driver, Hooks};
use vrrp::io::pair::PairSettings;

use crate::causes::chain;
use crate::config::{self, ClusterConfig, ConfigError, Diagnostic, NodeConfig};
use crate::control;
use crate::events;
use crate::failover::{Failover, Input};
use crate::guard::Guard;
use crate::handoff;
use crate::listeners::{self, Listeners};
use crate::lists::{Lists, Overlay};
use crate::privileges;
use crate::sock_diag;
use crate::status::traffic::Traffic;
use crate::store::{Found, Revision, Store, StoreError};
use crate::supervisor::{self, Settings, Supervisor, UserError};

use super::pair::Peering;
use super::{Agent, Events};

/// A VIP that somebody else has waits no longer for its connections to be reset: the other one's first announcements go on
/// for 100 ms, and put right what hosts may have heard from here until then.
const RESET: Duration = Duration::from_millis(50);

/// Why the agent did not run, or did not go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{}", list(.0))]
    Routers(Vec<Diagnostic>),
    #[error("the applied revision {number} does not fit this version any more:\n{source}")]
    Stored { number: u64, source: ConfigError },
    #[error("{0}")]
    NotPermitted(String),
    #[error("{0}: make it (`useradd --system`), or set another `[proxy] user` in the node file")]
    NoUser(#[source] UserError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot {what}")]
    System { what: &'static str, source: std::io::Error },
    #[error(transparent)]
    Log(#[from] crate::log::LogError),
    #[error(transparent)]
    Control(#[from] control::BindError),
    #[error(transparent)]
    Supervisor(#[from] supervisor::StartError),
    #[error("the VRRP thread ended by itself; the log says why")]
    NoElection,
}

impl StartError {
    /// As docs/cli.md has them.
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            StartError::Config(_) | StartError::Routers(_) | StartError::Stored { .. } | StartError::NoUser(_) => 64,
            StartError::NotPermitted(_) => 77,
            _ => 1,
        })
    }
}

/// The keys of the node file that differ and act only at the next start.
pub(super) fn needs_restart(now: &NodeConfig, new: &NodeConfig) -> Vec<&'static str> {
    let differs = [
        ("name", now.name != new.name),
        ("state_dir", now.state_dir != new.state_dir),
        ("runtime_dir", now.runtime_dir != new.runtime_dir),
        ("[sync]", now.sync != new.sync),
        ("[proxy]", now.proxy != new.proxy),
        ("[control]", now.control != new.control),
        ("[log]", now.log != new.log),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}

/// What was read and found good.
pub(super) struct Prepared {
    path: PathBuf,
    node: NodeConfig,
    cluster: ClusterConfig,
    routers: Vec<RouterConfig>,
    revision: Revision,
    overlay: Overlay,
    identity: Identity,
    store: Store,
    /// To be logged once there is a log.
    remarks: Vec<String>,
}

/// Reads and checks everything that the node file leads to.
pub(super) fn prepare(path: &Path) -> Result<Prepared, StartError> {
    let node = config::load_node(path)?;
    if let Some(missing) = privileges::missing() {
        return Err(StartError::NotPermitted(missing));
    }
    let store = Store::open(&node.state_dir)?;
    let mut remarks = Vec::new();
    let stored = match store.read()? {
        Found::Kept(revision) => Some(revision),
        Found::Empty => None,
        Found::SetAside(aside, why) => {
            remarks.push(format!(
                "the applied revision could not be read ({why}); it now lies at {}, and the bootstrap file is used",
                aside.display()
            ));
            None
        }
    };
    let (revision, mut cluster) = match stored {
        Some(revision) => {
            let number = revision.number;
            let parsed = config::parse_kept(&format!("revision {number}"), &revision.text, &revision.files);
            let cluster = parsed.map_err(|source| StartError::Stored { number, source })?;
            (revision, cluster)
        }
        None => {
            let text = config::read_text(&node.bootstrap)?;
            let mut cluster =
                config::parse_cluster_with(&node.bootstrap.display().to_string(), &text, &node.certificates())?;
            (Revision { number: 1, text, files: std::mem::take(&mut cluster.files) }, cluster)
        }
    };
    cluster.plan.revision = revision.number;
    let overlay = match store.lists()? {
        Found::Kept(overlay) => overlay,
        Found::Empty => Overlay::default(),
        Found::SetAside(aside, why) => {
            remarks.push(format!(
                "what was changed of lists could not be read ({why}); it now lies at {}, and the lists are the file's",
                aside.display()
            ));
            Overlay::default()
        }
    };
    let routers = config::routers(&node, &cluster).map_err(StartError::Routers)?;
    let identity = supervisor::identity(&node.proxy.user).map_err(StartError::NoUser)?;
    std::fs::create_dir_all(&node.runtime_dir)
        .map_err(|source| StartError::System { what: "make the runtime directory", source })?;
    Ok(Prepared { path: path.to_owned(), node, cluster, routers, revision, overlay, identity, store, remarks })
}

impl Prepared {
    /// Starts everything and stays until the agent is told to end.
    pub(super) fn run(self) -> Result<(), StartError> {
        let _log = crate::log::start(self.node.log)?;
        for remark in &self.remarks {
            tracing::error!("{remark}");
        }
        for warning in self.cluster.warnings(std::time::SystemTime::now()) {
            tracing::warn!("{warning}");
        }
        let passed = listeners::from_service_manager().unwrap_or_else(|error| {
            tracing::warn!(%error, "what systemd passed cannot be read");
            Vec::new()
        });
        let system = |what| move |source| StartError::System { what, source };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(system("start the agent's runtime"))?;
        runtime.block_on(async {
            let (mut agent, events) = self.start(passed).await?;
            let ended = agent.run(events).await;
            agent.stop().await;
            ended
        })
    }

    async fn start(self, passed: Vec<listeners::Passed>) -> Result<(Agent, Events), StartError> {
        let system = |what| move |source| StartError::System { what, source };
        tracing::info!(
            node = self.node.name,
            revision = self.revision.number,
            version = env!("CARGO_PKG_VERSION"),
            "starting"
        );
        if let Err(error) = listeners::migrate_requests() {
            tracing::warn!(%error, "net.ipv4.tcp_migrate_req cannot be set: a closing listener loses its waiting clients");
        }
        let guard = Guard::spawn().map_err(system("start the guard"))?;

        let (calls_in, calls) = mpsc::channel(control::QUEUE);
        let (events_store, remarks) = events::Store::open(&self.node.state_dir, &self.node.name);
        for remark in remarks {
            tracing::warn!("{remark}");
        }
        let socket = control::Server::bind(&self.node.control.socket, &self.node.control.group)?;
        let socket = socket.with_events(events_store.clone());
        tokio::spawn(socket.run(calls_in));

        let listeners = Listeners::default();
        for (key, socket) in passed {
            if let Err(error) = listeners.take(key, socket) {
                tracing::warn!(%error, address = %key.address, "a socket from systemd's store is not used");
            }
        }
        let (threads, level) = (self.node.proxy.threads, self.node.log.level);
        let settings = Settings::new(self.identity, threads, level, Some(self.node.runtime_dir.join("core.sock")));
        let lists = Lists::new(&self.cluster.plan, self.overlay, Some(self.store.clone()));
        let plan = lists.laid_over(self.cluster.plan.clone()).await;
        let (supervisor, core_events) = Supervisor::start(settings, plan, listeners.clone())?;
        tokio::spawn(lists.clone().follow_names(supervisor.clone()));
        if let Err(error) = listeners::keep_in_fd_store(&listeners.current()) {
            tracing::warn!(%error, "systemd did not take the listening sockets");
        }

        let hooks = Hooks { on_taken: on_taken(listeners.clone()), held: guard.teller() };
        let paths =
            self.node.sync.iter().flat_map(|sync| sync.listen.iter().copied().zip(sync.peer.addresses.iter().copied()));
        let pair = PairSettings { paths: paths.collect() };
        let mut vrrp = Driver::spawn(self.routers, super::pair::hints(&self.cluster.plan), &pair, hooks)
            .map_err(system("start the VRRP thread"))?;
        let vrrp_events = vrrp.events().expect("nobody took them before");

        if self.revision.number == 1
            && let Err(error) = self.store.write(&self.revision)
        {
            tracing::error!("{}; the bootstrap file will be read again at the next start", chain(&error));
        }
        // A predecessor that was killed in the middle of one.
        match handoff::release().await {
            Ok(released) if released != handoff::Released::default() => {
                tracing::warn!(?released, "took away what an earlier hand-off had left behind");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("what an earlier hand-off may have left behind: {}", chain(&error)),
        }
        let mut policy = Failover::default();
        if self.store.maintenance() {
            tracing::warn!("this node is in maintenance; `lbnode maintenance off` puts it back");
            policy.handle(Input::Maintenance(true));
        }
        let core = supervisor.status();
        let peering = self.node.sync.as_ref().map(|sync| Peering::new(&self.node.name, &sync.peer.name));
        let mut agent = Agent {
            path: self.path,
            node: self.node,
            cluster: self.cluster,
            revision: self.revision,
            applied_at: Instant::now(),
            store: self.store,
            listeners,
            lists,
            supervisor,
            core,
            vrrp,
            guard,
            policy,
            last_exit: None,
            dual_active: None,
            traffic: Traffic::default(),
            ready_told: false,
            ready: false,
            untold: VecDeque::new(),
            work: JoinSet::new(),
            applying: false,
            started: Instant::now(),
            events: events_store,
            peering,
            checked: false,
            first: None,
            requests: Vec::new(),
            leaving: None,
        };
        agent.tell_vrrp(agent.isolation());
        let mut events = Events::new(core_events, vrrp_events, calls).map_err(system("listen for signals"))?;
        events.channel = agent.open_channel();
        Ok((agent, events))
    }
}

/// No client may get stuck at an address that goes while somebody else has it already.
fn on_taken(listeners: Listeners) -> OnTaken {
    Box::new(move |router, taken| {
        let addresses: Vec<IpAddr> = router.addresses.iter().map(|address| (*address).into()).collect();
        let (failed, what) = match taken {
            Taken::Going => (listeners.shut(&addresses), "shut"),
            Taken::Gone => (listeners.reopen(&addresses), "reopened"),
        };
        for (key, error) in failed {
            tracing::error!(%error, address = %key.address, worker = key.worker, "a listener could not be {what}");
        }
        if taken == Taken::Going
            && let Err(error) = reset(router.addresses.clone())
        {
            tracing::warn!(%error, vip = router.name, "connections of the VIP could not be reset and fall silent");
        }
    })
}

/// Resets the connections of these addresses in a thread of its own, and waits for it. The caller is real-time, and to find
/// them the kernel walks through all connections of the machine: milliseconds in which nobody else would get that CPU.
fn reset(addresses: Vec<Ipv4Addr>) -> io::Result<usize> {
    let (done, outcome) = sync_channel(1);
    // A thread's children begin in the ordinary class (SCHED_RESET_ON_FORK).
    thread::Builder::new().name("reset".into()).spawn(move || {
        // Nobody waits any more for one that took too long.
        let _ = done.send(sock_diag::reset(&addresses));
    })?;
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the kernel takes its time; they are reset meanwhile");
    outcome.recv_timeout(RESET).map_err(late)?
}

fn list(found: &[Diagnostic]) -> String {
    found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
