//! Checks of the servers, on a thread and runtime of their own: a busy worker delays no check, and a check that
//! hangs delays no client. Results are published through the servers' atomics.
//!
//! A server starts as `checking`, which counts as usable; its first result decides at once, later ones by rise
//! and fall. Each checked server has one task, which sleeps most of the time and has no socket meanwhile.

pub(crate) mod agent;
mod beats;
mod health;
mod http;
mod line;
mod mail;
pub(crate) mod observed;
mod pace;
mod probe;
pub(crate) mod program;

use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant as Moment;
use tracing::{info, warn};

use crate::plan::{AgentCheck, Check, Probe};
use crate::queue::Queue;
use crate::server::{LastCheck, Scheme, ServerLive};
use crate::stats::ServerState;
use crate::tls::Outbound;
use crate::worker::AbortOnPanic;
use beats::Beats;
use health::Health;
use http::Http;
use line::Sockets;
use pace::Pace;
use probe::{Answer, Question};
use program::RunProgram;

/// Programs that run at once, whatever else is asked at the same time.
const PROGRAMS: usize = 16;

/// The checks thread. Dropping it ends the thread.
#[derive(Debug)]
pub(crate) struct Checks {
    wanted: watch::Sender<Option<Arc<Scheme>>>,
    thread: Option<JoinHandle<()>>,
}

/// One server's checks.
#[derive(Debug)]
struct Job {
    backend: String,
    server: String,
    address: SocketAddr,
    /// Its backend's: what thousands look at stays in the processor's cache.
    check: Option<Arc<Check>>,
    agent: Option<AgentCheck>,
    /// What the server is called where its address is a name.
    name: Option<String>,
    /// `None`: in the clear.
    tls: Option<Outbound>,
    live: Arc<ServerLive>,
    queue: Arc<Queue>,
}

/// What all checks share.
#[derive(Debug)]
struct Means {
    /// Checks that run at once; more wait for one to end. Keeps them inside the descriptors set aside for them.
    turn: Semaphore,
    sockets: Sockets,
    beats: Beats,
    programs: Semaphore,
    agent: mpsc::Sender<RunProgram>,
}

impl Checks {
    /// Starts checking the servers of `scheme`, at most so many at once; programs are asked for at `agent`.
    pub(crate) fn start(scheme: Arc<Scheme>, at_once: usize, agent: mpsc::Sender<RunProgram>) -> io::Result<Checks> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (wanted, seen) = watch::channel(Some(scheme));
        let means = Means {
            turn: Semaphore::new(at_once),
            sockets: Sockets::default(),
            beats: Beats::new(),
            programs: Semaphore::new(PROGRAMS),
            agent,
        };
        let thread = std::thread::Builder::new().name("checks".into()).spawn(move || {
            let _guard = AbortOnPanic;
            runtime.block_on(follow(seen, Arc::new(means)));
        })?;
        Ok(Checks { wanted, thread: Some(thread) })
    }

    /// Checks the servers of `scheme` from now on.
    pub(crate) fn apply(&self, scheme: Arc<Scheme>) {
        self.wanted.send_replace(Some(scheme));
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.wanted.send_replace(None);
        if let Some(thread) = self.thread.take() {
            // A panic in it has ended the process already.
            let _ = thread.join();
        }
    }
}

/// Keeps one task a checked server of the latest scheme.
async fn follow(mut wanted: watch::Receiver<Option<Arc<Scheme>>>, means: Arc<Means>) {
    let mut running: HashMap<usize, (Arc<Job>, AbortHandle)> = HashMap::new();
    loop {
        let Some(scheme) = wanted.borrow_and_update().clone() else { return };
        let mut kept = HashMap::new();
        for job in jobs(&scheme) {
            let identity = Arc::as_ptr(&job.live).addr();
            match running.remove(&identity) {
                Some((old, task)) if old.is_like(&job) => {
                    kept.insert(identity, (old, task));
                }
                old => {
                    if let Some((_, task)) = old {
                        task.abort();
                    }
                    let job = Arc::new(job);
                    let task = tokio::spawn(run(Arc::clone(&job), Arc::clone(&means)));
                    kept.insert(identity, (job, task.abort_handle()));
                }
            }
        }
        running.drain().for_each(|(_, (_, task))| task.abort());
        running = kept;
        let wanted = tokio::select! {
            changed = wanted.changed() => changed,
            () = means.beats.keep() => unreachable!("it never ends"),
        };
        if wanted.is_err() {
            return;
        }
    }
}

/// Whether two checks shake hands in the same way.
fn same_tls(one: &Option<Outbound>, other: &Option<Outbound>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => Arc::ptr_eq(&one.config, &other.config) && one.name == other.name,
        _ => false,
    }
}

fn jobs(scheme: &Scheme) -> impl Iterator<Item = Job> {
    let places = scheme.plan.backends.iter().enumerate().flat_map(|(index, backend)| {
        let check = backend.check.clone().map(Arc::new);
        (0..backend.servers.len()).map(move |server| (index, check.clone(), server))
    });
    places.filter_map(|(index, shared, number)| {
        let (backend, live) = (&scheme.plan.backends[index], &scheme.backends[index]);
        let server = &backend.servers[number];
        // Without an address there is nobody to ask.
        let check = backend.check_of(server).and(shared);
        let wanted = (check.is_some() || backend.agent_check.is_some()) && server.unresolved().is_none();
        wanted.then(|| Job {
            backend: backend.name.clone(),
            server: server.name.clone(),
            address: server.address,
            check,
            agent: backend.agent_check.clone(),
            name: server.host.as_ref().map(|host| host.name.clone()),
            tls: scheme.tls.check(index, number).cloned(),
            live: Arc::clone(&live.servers[number]),
            queue: Arc::clone(&live.queue),
        })
    })
}

async fn run(job: Arc<Job>, means: Arc<Means>) {
    let _guard = AbortOnPanic;
    let check = async {
        match &job.check {
            Some(check) => job.keep_checking(check, &means).await,
            None => pending().await,
        }
    };
    let agent = async {
        match &job.agent {
            // Apart: few servers have one.
            Some(agent) => Box::pin(job.keep_listening(agent, &means)).await,
            None => pending().await,
        }
    };
    tokio::join!(check, agent);
}

impl Job {
    /// Whether another one would do the same; the servers are the same already.
    fn is_like(&self, other: &Job) -> bool {
        (&self.check, &self.agent, &self.name) == (&other.check, &other.agent, &other.name)
            && same_tls(&self.tls, &other.tls)
    }

    async fn keep_checking(&self, check: &Check, means: &Means) {
        let mut health = Health::new(self.live.health(), check.rise, check.fall);
        let mut pace = Pace::new(&self.backend, &self.server);
        let address =
            SocketAddr::new(check.address.unwrap_or(self.address.ip()), check.port.unwrap_or(self.address.port()));
        let question = match &check.probe {
            Probe::Tcp => Some(Question::Connect),
            Probe::Http(http) => Some(Question::Http(Http::new(http, self.name.as_deref(), address))),
            Probe::Smtp { name } => Some(Question::Smtp(name.clone())),
            Probe::Imap => Some(Question::Imap),
            Probe::Program(_) => None,
        };
        means.beats.until(Moment::now() + pace.first(check.interval)).await;
        loop {
            let turn = if question.is_some() { &means.turn } else { &means.programs };
            let Ok(turn) = turn.acquire().await else { return };
            let started = Instant::now();
            let answer = match &question {
                Some(question) => Some(probe::ask(&means.sockets, address, question, self.tls.as_ref(), check).await),
                None => program::ask(&means.agent, &self.backend, &self.server, check.timeout).await,
            };
            drop(turn);
            if let Some(answer) = answer {
                let change = health.record(answer.ok);
                self.publish(check, change, answer, started.elapsed());
            }
            let due = Moment::now() + pace.next(health.pause(check));
            self.look_on(check, &mut health, &means.beats, due).await;
        }
    }

    /// Takes what clients meet with until the next check is due.
    async fn look_on(&self, check: &Check, health: &mut Health, beats: &Beats, mut due: Moment) {
        let Some(observe) = &check.observe else { return beats.until(due).await };
        loop {
            tokio::select! {
                () = beats.until(due) => return,
                () = self.live.observed.too_many() => {}
            }
            // One that is down has sessions left that may fail.
            if self.live.health() != ServerState::Down {
                let change = health.observe(observe.on_error);
                let what = format!("clients met with {} errors in a row", observe.errors);
                self.publish(check, change, Answer::failed(what), Duration::ZERO);
            }
            let soon = match self.live.health() {
                ServerState::Down => health.pause(check),
                _ => check.fast_interval.unwrap_or(check.interval),
            };
            due = due.min(Moment::now() + soon);
        }
    }

    fn publish(&self, check: &Check, change: Option<ServerState>, answer: Answer, latency: Duration) {
        let last =
            LastCheck { ok: answer.ok, code: answer.code, what: answer.what.clone(), latency, ended: Instant::now() };
        let before = self.live.report.lock().unwrap_or_else(PoisonError::into_inner).last_check.replace(last);
        let Some(state) = change else {
            self.tell(check, before, &answer);
            return;
        };
        self.live.set_health(state);
        let (backend, server, why) = (&self.backend, &self.server, &*answer.what);
        if state == ServerState::Up {
            info!(backend, server, why, "server is up");
        } else {
            warn!(backend, server, why, "server is down");
        }
        // Up: there is room. Down: it may have been the last one, and nobody is to wait for it.
        self.queue.wake();
    }

    /// A check that ended otherwise than the one before, and changed nothing yet.
    fn tell(&self, check: &Check, before: Option<LastCheck>, answer: &Answer) {
        let same = before.is_some_and(|before| before.ok == answer.ok && before.what == answer.what);
        if !check.log || same {
            return;
        }
        let (backend, server, why) = (&self.backend, &self.server, &*answer.what);
        info!(backend, server, why, passed = answer.ok, "a check ended otherwise than the one before");
    }

    async fn keep_listening(&self, agent: &AgentCheck, means: &Means) {
        let mut pace = Pace::new(&self.backend, &self.server);
        let address = SocketAddr::new(agent.address.unwrap_or(self.address.ip()), agent.port);
        means.beats.until(Moment::now() + pace.first(agent.interval)).await;
        loop {
            let Ok(turn) = means.turn.acquire().await else { return };
            let said = agent::ask(&means.sockets, address, agent, self.live.agent.standing()).await;
            drop(turn);
            self.take_in(said);
            means.beats.until(Moment::now() + pace.next(agent.interval)).await;
        }
    }

    /// What an agent said, or why it said nothing.
    fn take_in(&self, said: Result<(agent::Standing, String), String>) {
        let (standing, what) = match said {
            Ok((standing, what)) => (Some(standing), what),
            Err(why) => (None, why),
        };
        if self.live.heard(standing, &what) {
            let (backend, server) = (&self.backend, &self.server);
            info!(backend, server, said = what, "a server's agent changed what it can take");
            self.queue.wake();
        }
    }
}
