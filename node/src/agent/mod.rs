//! The agent, `lbnode run`: builds everything, couples it in one loop, and takes it down again.
//!
//! ```text
//!   supervisor ─ state ─►┐                         ┌─► VRRP thread: serving, maintenance, routers
//!   VRRP thread ─ events ►│  this loop ── failover ─┤
//!   control ──── calls ──►│  (never waits for      ├─► guard: what is held (straight from the VRRP thread)
//!   signals ─────────────►┘   anything but these)  └─► systemd: ready, status, watchdog
//! ```
//! Whatever takes time (a plan that the core must accept, the disk, statistics) runs as a task of [`work`] and comes
//! back as one more event: the way from a dead core to priority 0 is never behind it.

mod report;
mod start;
mod work;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use vrrp::event::{Fault, Note};
use vrrp::io::driver::{Command, Driver, NotTaken};
use vrrp::io::snapshot::{Event, EventKind};

use crate::bridge;
use crate::causes::chain;
use crate::config::{ClusterConfig, NodeConfig};
use crate::control::{Call, Request, Response};
use crate::failover::{self, Failover, Input};
use crate::guard::Guard;
use crate::listeners::Listeners;
use crate::store::{Revision, Store};
use crate::supervisor::{self, CoreState, Supervisor};
use crate::systemd;

use report::{DualActive, Traffic};
use start::StartError;
use work::Done;

/// How long clients may take to leave after SIGTERM, before the rest is reset.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the slow things are looked at: servers that are down, rates, the watchdog.
const TICK: Duration = Duration::from_secs(1);

/// Runs the agent of the node that this file describes, until SIGTERM or SIGINT.
pub fn run(path: &Path) -> ExitCode {
    match start::prepare(path).and_then(start::Prepared::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lbnode: {}", chain(&error));
            error.exit_code()
        }
    }
}

/// Everything that lives while the agent does.
struct Agent {
    path: PathBuf,
    node: NodeConfig,
    cluster: ClusterConfig,
    revision: Revision,
    applied_at: Instant,
    store: Store,
    listeners: Listeners,
    supervisor: Supervisor,
    core: watch::Receiver<supervisor::Status>,
    vrrp: Driver,
    guard: Guard,
    policy: Failover,
    last_exit: Option<String>,
    dual_active: Option<DualActive>,
    traffic: Traffic,
    ready_told: bool,
    /// Commands that the VRRP thread could not take yet.
    untold: VecDeque<Command>,
    work: JoinSet<Done>,
    applying: bool,
}

struct Events {
    core: mpsc::Receiver<CoreState>,
    vrrp: mpsc::Receiver<Event>,
    calls: mpsc::Receiver<Call>,
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Events {
    fn new(
        core: mpsc::Receiver<CoreState>,
        vrrp: mpsc::Receiver<Event>,
        calls: mpsc::Receiver<Call>,
    ) -> std::io::Result<Events> {
        Ok(Events {
            core,
            vrrp,
            calls,
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

impl Agent {
    /// The loop. Ends when somebody asks the agent to end, or when there is no election any more.
    async fn run(&mut self, mut events: Events) -> Result<(), StartError> {
        let mut snapshots = self.vrrp.watch();
        let mut tick = tokio::time::interval(TICK.min(systemd::watchdog().map_or(TICK, |within| within / 2)));
        self.core_changed();
        loop {
            tokio::select! {
                // What decides who is active comes first.
                biased;
                Some(state) = events.core.recv() => self.core_event(&state),
                Ok(()) = self.core.changed() => self.core_changed(),
                Ok(()) = snapshots.changed() => self.routers_changed(),
                Some(event) = events.vrrp.recv() => self.election_event(event),
                _ = events.terminate.recv() => {
                    tracing::info!("SIGTERM: stopping");
                    return Ok(());
                }
                _ = events.interrupt.recv() => {
                    tracing::info!("SIGINT: stopping");
                    return Ok(());
                }
                _ = events.hangup.recv() => self.reload(),
                () = self.guard.ended() => self.restart_guard(),
                Some(done) = self.work.join_next() => self.work_done(done),
                Some(call) = events.calls.recv() => self.call(call),
                _ = tick.tick() => self.tick()?,
            }
            self.tell_election();
        }
    }

    fn core_event(&mut self, state: &CoreState) {
        match state {
            CoreState::Ready { pid, revision } => tracing::info!(pid, revision, "the proxy core is ready"),
            CoreState::Hung { worker, silent } => {
                tracing::error!(worker, silent_ms = silent.as_millis(), "a worker of the proxy core hangs");
            }
            CoreState::Exited(exit) => {
                tracing::error!(%exit, "the proxy core ended");
                self.last_exit = Some(exit.to_string());
            }
            CoreState::CrashLoop { exits, last } => {
                tracing::error!(exits, %last, "the proxy core is in a crash loop");
            }
            other => tracing::info!(state = other.name(), "the proxy core"),
        }
        self.core_changed();
    }

    fn core_changed(&mut self) {
        let core = bridge::core(&self.core.borrow_and_update(), self.last_exit.as_deref());
        let ready = core == failover::Core::Ready;
        self.policy.handle(Input::Core(core));
        if ready && !std::mem::replace(&mut self.ready_told, true) {
            systemd::ready();
        }
    }

    fn routers_changed(&mut self) {
        for router in &self.vrrp.snapshot().routers {
            self.policy.handle(Input::Faults { vip: router.config.name.clone(), faults: router.faults.clone() });
        }
    }

    fn election_event(&mut self, Event { router, kind, .. }: Event) {
        let vip = router.unwrap_or_default();
        match kind {
            EventKind::Transition { from, to, why } => {
                tracing::info!(vip, %from, %to, why = bridge::why(&why), "transition");
            }
            EventKind::Note(note) => {
                bridge::log_note(&vip, &note);
                if let Note::DualActive { other, length } = note {
                    self.dual_active = Some(DualActive { vip, other, length, at: Instant::now() });
                }
            }
            EventKind::Leftovers(addresses) => {
                tracing::warn!(?addresses, "addresses of an agent that was killed were taken away");
            }
            EventKind::LeaseFailed(error) => tracing::error!(vip, error, "the kernel refused an address; trying again"),
        }
    }

    /// Hands on what the policy concluded.
    fn tell_election(&mut self) {
        while let Some(output) = self.policy.poll_output() {
            self.tell_vrrp(match output {
                failover::Output::Serving(serving) => Command::Serving(serving),
                failover::Output::Maintenance(raised) => Command::Fault { fault: Fault::Maintenance, raised },
            });
        }
        while let Some(command) = self.untold.pop_front() {
            if let Err(NotTaken(command)) = self.vrrp.command(command) {
                // The queue is full: the next turn of the loop, a tick at the latest, tries again.
                self.untold.push_front(command);
                break;
            }
        }
    }

    fn restart_guard(&mut self) {
        if let Err(error) = self.guard.restart() {
            tracing::error!(%error, "there is no guard: after a kill of this agent the VIPs go with their lease only");
        }
    }

    /// In order, whatever is in the way.
    fn tell_vrrp(&mut self, command: Command) {
        self.untold.push_back(command);
    }

    fn tick(&mut self) -> Result<(), StartError> {
        if self.vrrp.ended() {
            return Err(StartError::NoElection);
        }
        systemd::alive();
        systemd::status(&self.one_line());
        let supervisor = self.supervisor.clone();
        self.work.spawn(work::statistics(supervisor));
        Ok(())
    }

    fn one_line(&self) -> String {
        let snapshot = self.vrrp.snapshot();
        let vips: Vec<String> =
            snapshot.routers.iter().map(|router| format!("{} {}", router.config.name, router.state)).collect();
        format!("proxy core {}; {}", self.core.borrow().state.name(), vips.join(", "))
    }

    fn call(&mut self, Call { request, uid, reply }: Call) {
        let response = match request {
            Request::Status => {
                let (status, supervisor) = (self.status(), self.supervisor.clone());
                self.work.spawn(work::answer_status(status, self.traffic.clone(), supervisor, reply));
                return;
            }
            Request::ConfigShow => Response::Config {
                revision: self.revision.number,
                digest: crate::config::digest(&self.revision.text),
                text: self.revision.text.clone(),
            },
            Request::ConfigApply { .. } if self.applying => {
                Response::TryAgain { message: "another revision is being applied".into() }
            }
            Request::ConfigApply { file, text, dry_run } => match self.candidate(&file, &text) {
                Err(refusal) => refusal,
                Ok(candidate) if dry_run || !candidate.changed => candidate.as_response(dry_run),
                Ok(candidate) => {
                    tracing::info!(uid, file, revision = candidate.revision.number, "applying a revision");
                    self.applying = true;
                    let (before, supervisor) = (self.cluster.clone(), self.supervisor.clone());
                    self.work.spawn(work::apply(candidate, before, supervisor, self.store.clone(), reply));
                    return;
                }
            },
            Request::Maintenance { on } => self.maintenance(on, uid),
            Request::PairRotate => Response::Failed { message: "the sync channel is not configured".into() },
        };
        // A caller that left has no use for the answer.
        let _ = reply.send(response);
    }

    fn maintenance(&mut self, on: bool, uid: u32) -> Response {
        let changed = self.policy.maintenance() != on;
        if changed {
            if let Err(error) = self.store.set_maintenance(on) {
                return Response::Failed { message: chain(&error) };
            }
            tracing::info!(uid, on, "maintenance");
            self.policy.handle(Input::Maintenance(on));
        }
        Response::Maintenance { on, changed }
    }

    fn work_done(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Answered) => {}
            Ok(Done::Statistics(stats)) => {
                self.policy.handle(Input::BackendsDown(bridge::backends_down(&stats)));
                self.traffic.update(&stats);
            }
            Ok(Done::Applied { candidate, reply }) => {
                self.applying = false;
                tracing::info!(revision = candidate.revision.number, "the revision runs");
                let response = candidate.as_response(false);
                let work::Candidate { revision, cluster, routers, .. } = *candidate;
                self.revision = revision;
                self.cluster = cluster;
                self.applied_at = Instant::now();
                self.policy.retain_vips(&routers.iter().map(|router| router.name.clone()).collect());
                self.tell_vrrp(Command::Configure(routers));
                if let Err(error) = crate::listeners::keep_in_fd_store(&self.listeners.current()) {
                    tracing::warn!(%error, "systemd did not take the listening sockets");
                }
                let _ = reply.send(response);
            }
            Ok(Done::NotApplied { number, why, reply }) => {
                self.applying = false;
                tracing::error!(revision = number, why, "the revision cannot be applied; the one before goes on");
                let _ = reply
                    .send(Response::Failed { message: format!("{why}; revision {} goes on", self.revision.number) });
            }
            Ok(Done::Reloaded(loaded)) => self.reloaded(*loaded),
            Err(error) => tracing::error!(%error, "a task of the agent ended early"),
        }
    }

    fn reload(&mut self) {
        systemd::reloading();
        let path = self.path.clone();
        self.work.spawn(work::reload(path));
    }

    fn reloaded(&mut self, loaded: Result<NodeConfig, crate::config::ConfigError>) {
        match loaded.map(|node| (crate::config::routers(&node, &self.cluster), node)) {
            Ok((Ok(routers), node)) => {
                for key in start::needs_restart(&self.node, &node) {
                    tracing::warn!(key, "changed in the node file; takes effect when the agent is restarted");
                }
                self.node.vrrp = node.vrrp;
                self.tell_vrrp(Command::Configure(routers));
                tracing::info!("the node file was read again");
            }
            Ok((Err(found), _)) => {
                for diagnostic in found {
                    tracing::error!(%diagnostic, "the node file is wrong; the one before goes on");
                }
            }
            Err(error) => tracing::error!("{}; the node file read before goes on", chain(&error)),
        }
        if self.ready_told {
            systemd::ready();
        }
    }

    /// VIPs first, so that the peer takes over at once; then the clients have their time.
    async fn stop(self) {
        systemd::stopping(STOP_TIMEOUT + Duration::from_secs(5));
        let Agent { vrrp, supervisor, guard, .. } = self;
        let _ = tokio::task::spawn_blocking(move || vrrp.join()).await;
        guard.dismiss().await;
        let stopped = supervisor.stop(STOP_TIMEOUT).await;
        tracing::info!(sessions_reset = stopped.reset, "stopped");
    }
}
