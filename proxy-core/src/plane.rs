//! The data plane as a whole: workers and checks, started, changed, drained and asked together.
//!
//! Its methods never block on a worker: they leave mail, which a worker takes up between two polls.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::beat::{BeatBoard, MAX_WORKERS};
use crate::check::Checks;
use crate::check::program::{RunProgram, WAITING};
use crate::control::{TableAnswer, TableAsk};
use crate::http::head::{BadHttp2, BadRequest, BadResponse};
use crate::limits::{Gate, Limits};
use crate::listener::{Listener, ListenerKey};
pub use crate::log::Descriptors as LogDescriptors;
use crate::log::Logs;
use crate::plan::{self, List, Mode, Plan, PlanError};
use crate::proxy_protocol::BadProxy;
use crate::server::{BackendLive, FrontendLive, Scheme, ServerLive};
use crate::stats::{
    BackendStats, CheckReport, FrontendStats, HttpCounters, Reasons, ServerState, ServerStats, Stats, Summary,
    TlsStats, WorkerShard, WorkerStats, shards, sum,
};
use crate::tls::fault::Fault;
use crate::worker::{self, Mailbox, Seed};

/// Why the data plane didn't start, or didn't take a plan. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum PlaneError {
    /// The plan can't be run.
    #[error("plan refused")]
    Plan(#[from] PlanError),
    /// The number of workers is not 1 to [`MAX_WORKERS`].
    #[error("{0} workers: between 1 and {MAX_WORKERS} can be started")]
    Workers(u16),
    /// A listener for a worker that doesn't exist.
    #[error("a listener on {} is for worker {}, of {workers}", key.address, key.worker)]
    NoSuchWorker {
        /// The listener.
        key: ListenerKey,
        /// Workers there are.
        workers: u16,
    },
    /// The system refused a thread or a runtime.
    #[error("starting {what}")]
    Start {
        /// What was to be started.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// The running data plane. Dropping it drains it with a deadline that has passed, without waiting.
#[derive(Debug)]
pub struct DataPlane {
    scheme: Arc<Scheme>,
    generation: u64,
    mailboxes: Vec<Arc<Mailbox>>,
    threads: Vec<JoinHandle<()>>,
    checks: Checks,
    programs: Option<mpsc::Receiver<RunProgram>>,
    gate: Arc<Gate>,
    shards: Arc<[WorkerShard]>,
    logs: Logs,
}

impl DataPlane {
    /// Starts `workers` workers and the checks. `probes[i]` is worker `i`'s end of the agent's accept-path probe:
    /// each byte that the agent writes comes back once the worker's accept loop has seen it. There may be fewer
    /// probes than workers. `sinks` are the plan's log sinks by index; one that is missing drops
    /// its lines.
    ///
    /// # Errors
    /// [`PlaneError`]; threads that had been started are ended.
    pub fn start(
        plan: Plan,
        workers: u16,
        listeners: Vec<Listener>,
        probes: Vec<UnixStream>,
        board: &BeatBoard,
        limits: Limits,
        sinks: LogDescriptors,
    ) -> Result<DataPlane, PlaneError> {
        plan.validate()?;
        if workers == 0 || workers > MAX_WORKERS {
            return Err(PlaneError::Workers(workers));
        }
        let start = |what| move |source| PlaneError::Start { what, source };
        let shards: Arc<[WorkerShard]> = shards(workers).into();
        let (mut logs, loggers) = Logs::start(&shards).map_err(start("the log"))?;
        let scheme = Arc::new(Scheme::build(plan, None, workers, |plan| logs.open(plan, sinks))?);
        let (agent, programs) = mpsc::channel(WAITING);
        let checks = Checks::start(Arc::clone(&scheme), limits.checks(), agent).map_err(start("the checks"))?;
        let mut plane = DataPlane {
            scheme,
            generation: 0,
            mailboxes: (0..workers).map(|_| Arc::default()).collect(),
            threads: Vec::new(),
            checks,
            programs: Some(programs),
            gate: Arc::new(Gate::new(Some(limits.sessions))),
            shards,
            logs,
        };
        plane.refuse_strangers(&listeners)?;
        plane.post(listeners, &[]);
        let mut probes = probes.into_iter();
        for (number, logger) in (0..workers).zip(loggers) {
            let seed = Seed {
                number,
                slot: board.slot(number),
                mailbox: Arc::clone(&plane.mailboxes[usize::from(number)]),
                gate: Arc::clone(&plane.gate),
                shards: Arc::clone(&plane.shards),
                probe: probes.next(),
                logger,
            };
            let thread = std::thread::Builder::new().name(format!("worker-{number}"));
            let (started, heard) = sync_channel(1);
            let thread = thread.spawn(move || worker::run(seed, &started)).map_err(start("a worker"))?;
            plane.threads.push(thread);
            heard.recv().unwrap_or_else(|gone| Err(io::Error::other(gone))).map_err(start("a worker"))?;
        }
        Ok(plane)
    }

    /// Swaps the plan. Sessions go on under the plan they began with; state of servers with the same backend, name
    /// and address is kept; `removed` listeners accept nothing more, `added` ones begin. `sinks` as at the start: lines go on
    /// into the new descriptors.
    /// [`DataPlane::ready`] says when every worker has taken it up.
    ///
    /// # Errors
    /// [`PlaneError::Plan`], [`PlaneError::NoSuchWorker`].
    pub fn apply(
        &mut self,
        plan: Plan,
        added: Vec<Listener>,
        removed: &[ListenerKey],
        sinks: LogDescriptors,
    ) -> Result<(), PlaneError> {
        plan.validate()?;
        self.refuse_strangers(&added)?;
        let (workers, logs) = (self.workers(), &mut self.logs);
        self.scheme = Arc::new(Scheme::build(plan, Some(&self.scheme), workers, |plan| logs.open(plan, sinks))?);
        self.post(added, removed);
        self.checks.apply(Arc::clone(&self.scheme));
        // Who waits looks again, by the plan that it came with (docs/balancing.md).
        self.scheme.backends.iter().for_each(|backend| backend.queue.wake());
        Ok(())
    }

    /// Measures clients against other networks from the next request on; a list that the plan doesn't have is no
    /// mistake: a new plan and the change of a list may pass each other.
    pub fn replace_list(&self, list: &List) {
        self.scheme.lists.replace(&list.name, &list.networks);
    }

    /// Shows or forgets entries of a stick table.
    pub fn ask_table(&self, ask: &TableAsk) -> TableAnswer {
        let (TableAsk::Show { table, key } | TableAsk::Clear { table, key }) = ask;
        let tables = &self.scheme.plan.stick_tables;
        let Some(index) = tables.iter().position(|known| known.name == *table) else {
            return TableAnswer::NoTable(tables.iter().map(|table| table.name.clone()).collect());
        };
        let table = &self.scheme.tables[index];
        let key = match key.as_ref().map(|text| table.parse_key(text)) {
            Some(None) => return TableAnswer::BadKey,
            key => key.flatten(),
        };
        match ask {
            TableAsk::Show { .. } => TableAnswer::Entries(table.show(key.as_ref(), TableAsk::MOST, table.now())),
            TableAsk::Clear { .. } => TableAnswer::Cleared(table.clear(key.as_ref(), table.now())),
        }
    }

    /// Whether every worker runs the latest plan.
    pub fn ready(&self) -> bool {
        self.mailboxes.iter().all(|mailbox| mailbox.applied.load(SeqCst) >= self.generation)
    }

    /// Stops accepting. Sessions end in their own time; those left at `deadline` are reset and counted. Of several
    /// deadlines the earliest counts.
    pub fn drain(&self, deadline: Instant) {
        for mailbox in &self.mailboxes {
            mailbox.post(|mail| mail.drain = Some(mail.drain.map_or(deadline, |earlier| earlier.min(deadline))));
        }
    }

    /// Whether a drain has ended: no session is left.
    pub fn drained(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// What there is to say now.
    pub fn stats(&self) -> Stats {
        let plan = &self.scheme.plan;
        let inside = self.gate.inside();
        let limit = self.gate.limit().unwrap_or(u32::MAX);
        let frontends = plan.frontends.iter().zip(&self.scheme.frontends);
        let backends = plan.backends.iter().zip(&self.scheme.backends).enumerate();
        let backends = backends.map(|(index, (backend, live))| backend_stats(backend, live, speaks_http(plan, index)));
        Stats {
            revision: plan.revision,
            sessions: inside,
            session_limit: limit,
            at_session_limit: inside >= limit,
            reset_by_drain: sum(&self.shards, |shard| &shard.reset_by_drain),
            frontends: frontends.map(|(frontend, live)| frontend_stats(frontend, live)).collect(),
            backends: backends.collect(),
            workers: self.shards.iter().map(worker_stats).collect(),
            log_sinks: self.logs.stats(),
            stick_tables: self.scheme.tables.iter().map(|table| table.stats(table.now())).collect(),
        }
    }

    /// What of it is looked at all the time.
    pub fn summary(&self) -> Summary {
        let plan = &self.scheme.plan;
        let frontends = plan.frontends.iter().zip(&self.scheme.frontends);
        let total = |live: &FrontendLive| sum(&live.shards, |shard| &shard.total);
        let totals = frontends.map(|(frontend, live)| (frontend.name.clone(), total(live))).collect();
        let mut summary = Summary { totals, ..Summary::default() };
        for (backend, live) in plan.backends.iter().zip(&self.scheme.backends) {
            let states = || backend.servers.iter().zip(&live.servers).map(|(server, live)| live.state(server));
            let down = |state| matches!(state, ServerState::Down | ServerState::Maintenance);
            if !backend.servers.is_empty() && states().all(down) {
                summary.backends_down.insert(backend.name.clone());
            }
            summary.checking |= states().any(|state| state == ServerState::Checking);
        }
        summary
    }

    /// Where checks ask for programs to be run; once. If it is dropped they are not run, and their servers stay as
    /// they are.
    pub(crate) fn take_programs(&mut self) -> Option<mpsc::Receiver<RunProgram>> {
        self.programs.take()
    }

    /// Log lines go on into these descriptors, by the index of their sink.
    pub fn reopen_logs(&mut self, sinks: LogDescriptors) {
        self.logs.reopen(sinks);
    }

    /// Has what was logged written, and waits for it, but no longer than `within`.
    pub fn flush_logs(&self, within: Duration) {
        self.logs.flush(within);
    }

    fn workers(&self) -> u16 {
        u16::try_from(self.mailboxes.len()).expect("at most MAX_WORKERS were started")
    }

    fn refuse_strangers(&self, listeners: &[Listener]) -> Result<(), PlaneError> {
        let workers = self.workers();
        let stranger = listeners.iter().find(|listener| listener.key.worker >= workers);
        stranger.map_or(Ok(()), |stranger| Err(PlaneError::NoSuchWorker { key: stranger.key, workers }))
    }

    /// Leaves the scheme, and its listeners, with every worker.
    fn post(&mut self, added: Vec<Listener>, removed: &[ListenerKey]) {
        self.generation += 1;
        let mut added: Vec<Option<Listener>> = added.into_iter().map(Some).collect();
        for (number, mailbox) in self.mailboxes.iter().enumerate() {
            mailbox.post(|mail| {
                mail.generation = self.generation;
                mail.scheme = Some(Arc::clone(&self.scheme));
                // A listener that comes and goes before the worker looks was never there.
                mail.added.retain(|listener| !removed.contains(&listener.key));
                mail.removed.extend(removed.iter().filter(|key| usize::from(key.worker) == number));
                let mine = |listener: &Listener| usize::from(listener.key.worker) == number;
                mail.added.extend(added.iter_mut().filter_map(|listener| listener.take_if(|one| mine(one))));
            });
        }
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        self.drain(Instant::now());
    }
}

/// Whether a frontend that speaks it leads to the backend.
fn speaks_http(plan: &Plan, backend: usize) -> bool {
    let leads = |frontend: &plan::Frontend| frontend.leads_to().any(|index| index == backend);
    plan.frontends.iter().any(|frontend| matches!(frontend.mode, Mode::Http(_)) && leads(frontend))
}

fn frontend_stats(frontend: &plan::Frontend, live: &FrontendLive) -> FrontendStats {
    let http = || HttpCounters::sum(&live.shards, |shard| &shard.http);
    FrontendStats {
        name: frontend.name.clone(),
        sessions: live.gate.inside(),
        max_connections: live.gate.limit(),
        total: sum(&live.shards, |shard| &shard.total),
        bytes_in: sum(&live.shards, |shard| &shard.bytes_in),
        bytes_out: sum(&live.shards, |shard| &shard.bytes_out),
        denied: sum(&live.shards, |shard| &shard.denied),
        client_aborts: sum(&live.shards, |shard| &shard.client_aborts),
        http: matches!(frontend.mode, Mode::Http(_)).then(http),
        bad_requests: Reasons::sum(&live.shards, BadRequest::ALL.map(BadRequest::why), |shard| &shard.bad_requests),
        bad_http2: Reasons::sum(&live.shards, BadHttp2::ALL.map(BadHttp2::why), |shard| &shard.bad_http2),
        bad_proxy: Reasons::sum(&live.shards, BadProxy::ALL.map(BadProxy::why), |shard| &shard.bad_proxy),
        tls: frontend.binds.iter().any(|bind| bind.tls.is_some()).then(|| TlsStats {
            full: sum(&live.shards, |shard| &shard.tls.full),
            resumed: sum(&live.shards, |shard| &shard.tls.resumed),
            failed: Reasons::sum(&live.shards, Fault::ALL.map(Fault::why), |shard| &shard.tls.failed),
        }),
    }
}

fn backend_stats(backend: &plan::Backend, live: &BackendLive, http: bool) -> BackendStats {
    let servers = backend.servers.iter().zip(&live.servers);
    BackendStats {
        name: backend.name.clone(),
        queue: u32::try_from(live.queue.len()).expect("the queue is bounded"),
        queue_full: sum(&live.shards, |shard| &shard.queue_full),
        queue_timeouts: sum(&live.shards, |shard| &shard.queue_timeouts),
        queue_left: sum(&live.shards, |shard| &shard.queue_left),
        no_server: sum(&live.shards, |shard| &shard.no_server),
        retries: sum(&live.shards, |shard| &shard.retries),
        redispatches: sum(&live.shards, |shard| &shard.redispatches),
        http: http.then(|| HttpCounters::sum(&live.shards, |shard| &shard.http)),
        bad_responses: Reasons::sum(&live.shards, BadResponse::ALL.map(BadResponse::why), |shard| &shard.bad_responses),
        servers: servers.map(|(server, live)| server_stats(server, live, backend.slow_start, http)).collect(),
    }
}

fn server_stats(server: &plan::Server, live: &ServerLive, slow_start: Option<Duration>, http: bool) -> ServerStats {
    let warmth = live.warmth(slow_start, Instant::now());
    let report = live.report.lock().unwrap_or_else(PoisonError::into_inner);
    ServerStats {
        name: server.name.clone(),
        state: live.state(server),
        since_ms: milliseconds(report.since.elapsed()),
        weight: live.weight(server),
        throttle: warmth.until.map(|_| warmth.percent()).filter(|_| live.state(server) == ServerState::Up),
        sessions: live.sessions(),
        total: sum(&live.shards, |shard| &shard.total),
        bytes_in: sum(&live.shards, |shard| &shard.bytes_in),
        bytes_out: sum(&live.shards, |shard| &shard.bytes_out),
        connect_errors: sum(&live.shards, |shard| &shard.connect_errors),
        response_errors: sum(&live.shards, |shard| &shard.response_errors),
        cut_when_down: sum(&live.shards, |shard| &shard.cut_when_down),
        http: http.then(|| HttpCounters::sum(&live.shards, |shard| &shard.http)),
        last_check: report.last_check.as_ref().map(|check| CheckReport {
            ok: check.ok,
            code: check.code,
            what: check.what.to_string(),
            latency_ms: milliseconds(check.latency),
            ago_ms: milliseconds(check.ended.elapsed()),
        }),
        agent: report.agent.clone(),
    }
}

fn worker_stats(shard: &WorkerShard) -> WorkerStats {
    // `ended` first: read the other way round, a session could seem to have ended before it began.
    let ended = shard.ended.get();
    let accepted = shard.accepted.get();
    WorkerStats {
        sessions: accepted.saturating_sub(ended),
        accepted,
        panics: shard.panics.get(),
        accept_pauses: shard.accept_pauses.get(),
        log_drops: shard.log_drops.get(),
        server_connections: shard.server_connections.get(),
        idle_server_connections: shard.idle_server_connections.get(),
    }
}

fn milliseconds(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
