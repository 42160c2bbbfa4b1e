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

mod leave;
mod moves;
mod pair;
mod peer_report;
mod records;
mod report;
mod start;
mod timeline;
mod work;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxy_core::control::TableAsk;
use proxy_core::stats::Summary;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use vrrp::event::{Fault, Note, State, Why};
use vrrp::io::driver::{Command, Driver, NotTaken};
use vrrp::io::snapshot::{Event, EventKind, Snapshot, Step};

use crate::bridge;
use crate::causes::chain;
use crate::config::{ClusterConfig, NodeConfig};
use crate::control::{Call, Request, Response};
use crate::events::{self, Draft, Kind};
use crate::failover::{self, Failover, Input};
use crate::guard::Guard;
use crate::handoff;
use crate::listeners::Listeners;
use crate::lists::Lists;
use crate::peer::Did;
use crate::status::traffic::Traffic;
use crate::store::{Revision, Store};
use crate::supervisor::{self, CoreState, Supervisor};
use crate::systemd;

use leave::Leaving;
use pair::{Peering, Told};
use report::DualActive;
use start::StartError;
use work::Done;

/// How long clients may take to leave after SIGTERM, before the rest is reset.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the last clients have when the time for stopping is over.
const LAST_CLIENTS: Duration = Duration::from_secs(1);
/// For how long a takeover waits for its first client.
const FIRST_CLIENT: Duration = Duration::from_secs(30);
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
    lists: Lists,
    supervisor: Supervisor,
    core: watch::Receiver<supervisor::Status>,
    vrrp: Driver,
    guard: Guard,
    policy: Failover,
    last_exit: Option<String>,
    dual_active: Option<DualActive>,
    traffic: Traffic,
    ready_told: bool,
    /// The proxy core is ready, as last seen.
    ready: bool,
    /// Commands that the VRRP thread could not take yet.
    untold: VecDeque<Command>,
    work: JoinSet<Done>,
    applying: bool,
    started: Instant,
    events: events::Store,
    /// Without `[sync]` in the node file there is none.
    peering: Option<Peering>,
    /// Every server has been looked at once.
    checked: bool,
    /// The newest takeover whose first client has not come yet: the VIP, its address, and until when it is waited for.
    first: Option<(String, IpAddr, Instant)>,
    requests: Vec<leave::Request>,
    leaving: Option<Leaving>,
}

struct Events {
    core: mpsc::Receiver<CoreState>,
    vrrp: mpsc::Receiver<Event>,
    calls: mpsc::Receiver<Call>,
    /// From the sync channel, when there is one.
    channel: Option<Told>,
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
            channel: None,
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

/// What comes next from a channel; never, if there is none.
async fn next(told: &mut Option<Told>) -> Option<sync::Event<crate::peer::Message>> {
    match told {
        Some(told) => told.recv().await,
        None => std::future::pending().await,
    }
}

impl Agent {
    /// The loop. Ends when somebody asks the agent to end, or when there is no election any more.
    async fn run(&mut self, mut events: Events) -> Result<(), StartError> {
        let mut snapshots = self.vrrp.watch();
        let mut tick = tokio::time::interval(TICK.min(systemd::watchdog().map_or(TICK, |within| within / 2)));
        self.core_changed();
        loop {
            let deadline = self.deadline();
            tokio::select! {
                // What decides who is active comes first.
                biased;
                Some(state) = events.core.recv() => self.core_event(&state),
                Ok(()) = self.core.changed() => self.core_changed(),
                Ok(()) = snapshots.changed() => drop(self.routers_changed()),
                Some(event) = events.vrrp.recv() => self.election_event(event),
                told = next(&mut events.channel) => match told {
                    Some(event) => self.channel_event(event),
                    None => self.channel_ended(&mut events),
                },
                _ = events.terminate.recv() => if self.asked_to_end("SIGTERM") { return Ok(()) },
                _ = events.interrupt.recv() => if self.asked_to_end("SIGINT") { return Ok(()) },
                _ = events.hangup.recv() => self.reload(),
                () = self.guard.ended() => self.restart_guard(),
                Some(done) = self.work.join_next() => self.work_done(done),
                Some(call) = events.calls.recv() => self.call(call),
                () = tokio::time::sleep_until(deadline.into()) => {}
                _ = tick.tick() => {
                    self.tick()?;
                    if events.channel.is_none() {
                        events.channel = self.open_channel();
                    }
                }
            }
            self.drive_handoff();
            self.tickle();
            self.answer_requests();
            if self.go_on_leaving() {
                return Ok(());
            }
            self.tell_election();
        }
    }

    /// When something has to be looked at even if nothing happens.
    fn deadline(&self) -> Instant {
        let handoff = self.peering.as_ref().and_then(|peering| peering.handoff.poll_timeout());
        let handoff = handoff.map(|at| self.started + Duration::from_micros(at.0));
        let post = self.peering.as_ref().and_then(Peering::post_again);
        handoff.into_iter().chain(post).chain(self.leaving_deadline()).min().unwrap_or_else(|| Instant::now() + TICK)
    }

    /// A signal asks for the end. The first time VIPs and their connections have time to go; `true`: end at once.
    fn asked_to_end(&mut self, signal: &str) -> bool {
        if matches!(self.leaving, Some(Leaving::Stop { .. })) {
            tracing::info!("{signal} again: stopping at once");
            return true;
        }
        tracing::info!("{signal}: stopping");
        systemd::stopping(STOP_TIMEOUT + Duration::from_secs(15));
        self.leave_for_good(STOP_TIMEOUT);
        false
    }

    fn channel_ended(&mut self, events: &mut Events) {
        tracing::error!("the sync channel ended by itself; starting it again");
        events.channel = None;
        if let Some(peering) = &mut self.peering {
            peering.channel = None;
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
                let text = "the proxy core ended".to_owned();
                self.events.record(Draft { kind: Kind::Core, text, why: exit.to_string(), ..Draft::default() });
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
        if !ready && std::mem::replace(&mut self.ready, ready) {
            self.cannot_serve();
        }
        self.ready = ready;
        self.policy.handle(Input::Core(core));
        if ready && !std::mem::replace(&mut self.ready_told, true) {
            systemd::ready();
        }
    }

    /// The proxy core just stopped being ready: for every VIP that is here this is when the trouble was noticed.
    fn cannot_serve(&mut self) {
        let snapshot = self.vrrp.snapshot();
        for router in snapshot.routers.iter().filter(|router| router.state == State::Master) {
            self.did(&router.config.name, Did::Detect, router.term, Instant::now());
        }
    }

    /// Tells everybody whom it concerns of the election's newest picture.
    fn routers_changed(&mut self) -> Arc<Snapshot> {
        let snapshot = self.vrrp.snapshot();
        for router in &snapshot.routers {
            self.policy.handle(Input::Faults { vip: router.config.name.clone(), faults: router.faults.clone() });
        }
        self.feed_peering(&snapshot);
        snapshot
    }

    fn election_event(&mut self, Event { router, kind, instant, .. }: Event) {
        let vip = router.unwrap_or_default();
        match kind {
            EventKind::Transition { from, to, why, term } => {
                let words = bridge::why(&why);
                tracing::info!(vip, %from, %to, why = words, "transition");
                if from == State::Master && bridge::is_own_fault(&why) {
                    self.lost(&vip);
                }
                if to == State::Master {
                    let kind = if why == Why::HandedOver { Kind::Handoff } else { Kind::Failover };
                    self.took_over(kind, &vip, words, term, instant);
                } else {
                    if let Some(peering) = &mut self.peering {
                        peering.known.gave_up(&vip);
                    }
                    let text = format!("{}: {from} → {to}", self.node.name);
                    let draft = Draft { kind: Kind::Transition, vip: Some(vip), text, why: words, ..Draft::default() };
                    self.events.record(draft);
                }
            }
            EventKind::Step { step, term } => {
                if step == Step::Added {
                    self.wait_for_first_client(&vip);
                }
                if let (Step::Announced, Some(peering)) = (step, &mut self.peering) {
                    peering.known.announced(&vip);
                }
                self.did(&vip, Did::Step(step), term, instant);
            }
            EventKind::Note(note) => {
                bridge::log_note(&vip, &note);
                if let Note::DualActive { other, length } = note {
                    self.were_dual_active(&vip, other, length);
                    if let Some(length) = length.map(|length| u64::try_from(length.as_millis()).unwrap_or(u64::MAX)) {
                        self.did(&vip, Did::DualActive { length }, 0, instant);
                    }
                }
            }
            EventKind::Leftovers(addresses) => {
                tracing::warn!(?addresses, "addresses of an agent that was killed were taken away");
            }
            EventKind::LeaseFailed(error) => tracing::error!(vip, error, "the kernel refused an address; trying again"),
        }
    }

    /// Both nodes held this VIP, and it has ended.
    fn were_dual_active(&mut self, vip: &str, other: Ipv4Addr, length: Option<Duration>) {
        let text = both_held(vip, length);
        let event =
            self.events.record(Draft { kind: Kind::DualActive, vip: Some(vip.to_owned()), text, ..Draft::default() });
        self.dual_active = Some(DualActive { vip: vip.to_owned(), other, length, at: Instant::now(), event });
    }

    /// Hands on what the policy concluded.
    fn tell_election(&mut self) {
        while let Some(output) = self.policy.poll_output() {
            self.tell_vrrp(match output {
                failover::Output::Serving(serving) => Command::Serving(serving),
                failover::Output::Weakened(weakened) => Command::Weakened(weakened),
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
        self.work.spawn(work::summary(supervisor));
        self.look_at_plans();
        self.tell_report();
        self.tell_records();
        self.look_for_first_client();
        self.place_steps();
        Ok(())
    }

    /// This node has just taken a VIP.
    fn took_over(&mut self, kind: Kind, vip: &str, why: String, term: u64, at: Instant) {
        let text = format!("{} took {vip} over", self.node.name);
        let term_known = (term > 0).then_some(term);
        let draft = Draft { kind, vip: Some(vip.to_owned()), text, why, term: term_known, ..Draft::default() };
        let id = self.events.record(draft);
        if let Some(peering) = &mut self.peering {
            peering.timelines.took(vip, id, term, at, &self.events);
            peering.known.took_over(vip, kind == Kind::Handoff, id);
        }
    }

    fn wait_for_first_client(&mut self, vip: &str) {
        let address = self.cluster.vips.iter().find(|configured| configured.name == vip).map(|vip| vip.address);
        if let Some(address) = address.map(IpAddr::from) {
            if let Some((_, before, _)) = self.first.take() {
                self.supervisor.forget_first_connection(before);
            }
            self.supervisor.watch_first_connection(address);
            self.first = Some((vip.to_owned(), address, Instant::now() + FIRST_CLIENT));
        }
    }

    fn look_for_first_client(&mut self) {
        let Some((vip, address, until)) = &self.first else { return };
        let came = self.supervisor.first_connection(*address);
        if came.is_none() && Instant::now() < *until {
            return;
        }
        if let (Some(at), Some(peering)) = (came, &mut self.peering) {
            peering.timelines.first_connection(vip, at, &self.events);
        }
        self.supervisor.forget_first_connection(*address);
        self.first = None;
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
                // One picture for both: the policy may not have been told of the newest, and the next may come at any moment.
                let snapshot = self.routers_changed();
                let (status, supervisor) = (self.status(&snapshot), self.supervisor.clone());
                self.work.spawn(work::answer_status(status, self.traffic.clone(), supervisor, reply));
                return;
            }
            Request::ConfigShow => Response::Config {
                revision: self.revision.number,
                digest: self.revision.digest(),
                text: crate::config::without_passwords(&self.revision.text),
            },
            Request::ConfigApply { .. } if self.applying => {
                Response::TryAgain { message: "another revision is being applied".into() }
            }
            Request::ConfigApply { file, text, dry_run } => {
                if !dry_run {
                    tracing::info!(uid, file, "a revision is to be applied");
                    self.applying = true;
                }
                let running = (self.revision.number, self.revision.digest());
                let wanted = work::Wanted { file, text, running, dry_run };
                self.work.spawn(work::check(wanted, self.node.clone(), reply));
                return;
            }
            Request::Maintenance { on } => return self.maintenance(on, uid, reply),
            Request::Failover { vip, to, force } => {
                tracing::info!(uid, vip, to, force, "failover");
                return self.failover(vip.as_deref(), to.as_deref(), force, reply);
            }
            Request::ListShow { list } => {
                self.work.spawn(work::show_list(list, self.lists.clone(), reply));
                return;
            }
            Request::ListChange { list, add, remove } => {
                tracing::info!(uid, list, added = add.len(), removed = remove.len(), "changing a list");
                let change = work::ListChange { list, add, remove };
                self.work.spawn(work::change_list(change, self.running(), self.events.clone(), reply));
                return;
            }
            Request::TableShow { table, key } => {
                self.work.spawn(work::ask_table(TableAsk::Show { table, key }, self.supervisor.clone(), reply));
                return;
            }
            Request::TableClear { table, key } => {
                tracing::info!(uid, table, key, "clearing a stick table");
                self.work.spawn(work::ask_table(TableAsk::Clear { table, key }, self.supervisor.clone(), reply));
                return;
            }
            // The server answers it from the store.
            Request::Events { .. } => Response::Failed { message: "events are not asked of the agent".into() },
            Request::PairRotate => {
                let Some(channel) = self.peering.as_ref().and_then(|peering| peering.channel.clone()) else {
                    let message = "there is no sync channel: `[sync]` in the node file and `lbnode pair` make one";
                    let _ = reply.send(Response::Failed { message: message.into() });
                    return;
                };
                tracing::info!(uid, "a new identity for the sync channel");
                self.work.spawn(work::rotate(channel, reply));
                return;
            }
        };
        // A caller that left has no use for the answer.
        let _ = reply.send(response);
    }

    fn running(&self) -> work::Running {
        work::Running { supervisor: self.supervisor.clone(), lists: self.lists.clone() }
    }

    fn maintenance(&mut self, on: bool, uid: u32, reply: oneshot::Sender<Response>) {
        if self.leaving.is_some() {
            let _ = reply.send(Response::TryAgain { message: "VIPs are being handed over at this moment".into() });
            return;
        }
        let changed = self.policy.maintenance() != on;
        if !changed {
            let _ = reply.send(Response::Maintenance { on, changed });
            return;
        }
        if let Err(error) = self.store.set_maintenance(on) {
            let _ = reply.send(Response::Failed { message: chain(&error) });
            return;
        }
        tracing::info!(uid, on, "maintenance");
        let text = format!("maintenance of {} {}", self.node.name, if on { "begins" } else { "ends" });
        self.events.record(Draft { kind: Kind::Maintenance, text, ..Draft::default() });
        if on {
            self.leave_for_maintenance(reply);
        } else {
            self.policy.handle(Input::Maintenance(false));
            let _ = reply.send(Response::Maintenance { on, changed });
        }
    }

    fn work_done(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Answered) => {}
            Ok(Done::Job { vip, number, outcome }) => {
                let now = self.time();
                if let handoff::Outcome::Failed(why) = &outcome {
                    tracing::warn!(vip, why, "a step of the hand-off failed");
                }
                if let Some(peering) = &mut self.peering {
                    peering.handoff.handle(handoff::machine::Input::JobEnded { vip, number, outcome }, now);
                }
            }
            Ok(Done::Summed(Summary { totals, backends_down, checking })) => {
                self.policy.handle(Input::BackendsDown(backends_down));
                self.checked = !checking;
                self.traffic.update(totals);
            }
            Ok(Done::Checked { checked, dry_run, reply }) => {
                let response = match checked {
                    Err(refusal) => refusal,
                    Ok(candidate) if dry_run || !candidate.changed => candidate.as_response(dry_run),
                    Ok(candidate) => {
                        tracing::info!(revision = candidate.revision.number, "applying a revision");
                        let (before, running) = (self.cluster.clone(), self.running());
                        self.work.spawn(work::apply(*candidate, before, running, self.store.clone(), reply));
                        return;
                    }
                };
                self.applying &= dry_run;
                let _ = reply.send(response);
            }
            Ok(Done::Applied { candidate, reply }) => {
                self.applying = false;
                tracing::info!(revision = candidate.revision.number, "the revision runs");
                let text = format!("revision {} runs", candidate.revision.number);
                self.events.record(Draft { kind: Kind::Config, text, ..Draft::default() });
                let response = candidate.as_response(false);
                for warning in candidate.cluster.warnings(std::time::SystemTime::now()) {
                    tracing::warn!("{warning}");
                }
                let work::Candidate { revision, cluster, routers, .. } = *candidate;
                self.revision = revision;
                self.cluster = cluster;
                self.applied_at = Instant::now();
                let names = routers.iter().map(|router| router.name.clone()).collect();
                self.policy.retain_vips(&names);
                self.retain_plans(&names);
                self.tell_vrrp(Command::Configure(routers));
                self.tell_vrrp(self.isolation());
                self.tell_report();
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
            Ok(Done::Told(telling)) => {
                if let Some(peering) = &mut self.peering {
                    peering.telling = Some(telling);
                }
            }
            Ok(Done::Tickled { vip, event, left_out, result }) => self.tickled(&vip, event, left_out, result),
            Err(error) => tracing::error!(%error, "a task of the agent ended early"),
        }
    }

    fn reload(&mut self) {
        systemd::reloading();
        if !self.supervisor.reopen_logs() {
            tracing::warn!("the logs are not opened anew: the supervisor is busy; send the signal again");
        }
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
        let left = match &self.leaving {
            // What a hand-off left here has had its time.
            Some(Leaving::Stop { until, .. }) => until.saturating_duration_since(Instant::now()).max(LAST_CLIENTS),
            _ => STOP_TIMEOUT,
        };
        systemd::stopping(left + Duration::from_secs(5));
        let Agent { vrrp, supervisor, guard, events, peering, .. } = self;
        let _ = tokio::task::spawn_blocking(move || vrrp.join()).await;
        // What was not over by now, is: nobody would end it later.
        if let Some(peering) = peering
            && let Err(error) = peering.end_hand_offs().await
        {
            tracing::warn!("what a hand-off left behind: {}", chain(&error));
        }
        guard.dismiss().await;
        let stopped = supervisor.stop(left).await;
        let text = "the agent stopped".to_owned();
        events.record(Draft { text, ..Draft::default() });
        let _ = tokio::task::spawn_blocking(move || events.flush(Duration::from_millis(500))).await;
        tracing::info!(sessions_reset = stopped.reset, "stopped");
    }
}

/// For how long both nodes held a VIP, in a sentence.
fn both_held(vip: &str, length: Option<Duration>) -> String {
    let for_long = length.map_or(String::new(), |length| format!(" for {} ms", length.as_millis()));
    format!("both nodes held {vip}{for_long}; it has ended")
}
