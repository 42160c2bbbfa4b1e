//! Checks of the servers, on a thread and runtime of their own: a busy worker delays no check, and a check that
//! hangs delays no client. Results are published through the servers' atomics.
//!
//! A server starts as `checking`, which counts as usable; its first result decides at once, later ones by rise
//! and fall.

mod health;
mod probe;

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::plan::Check;
use crate::queue::Queue;
use crate::server::{LastCheck, Scheme, ServerLive};
use crate::stats::ServerState;
use crate::tls::Outbound;
use crate::worker::AbortOnPanic;

/// Checks that run at once; more wait for one to end. Keeps them inside the descriptors set aside for the process.
const AT_ONCE: usize = 64;
/// First checks are spread over one interval, but over no more than this.
const SPREAD: Duration = Duration::from_secs(1);

/// The checks thread. Dropping it ends the thread.
#[derive(Debug)]
pub(crate) struct Checks {
    wanted: watch::Sender<Option<Arc<Scheme>>>,
    thread: Option<JoinHandle<()>>,
}

/// One server's check.
#[derive(Debug)]
struct Job {
    backend: String,
    server: String,
    address: SocketAddr,
    check: Check,
    /// `None`: in the clear.
    tls: Option<Outbound>,
    live: Arc<ServerLive>,
    queue: Arc<Queue>,
}

impl Checks {
    /// Starts checking the servers of `scheme`.
    pub(crate) fn start(scheme: Arc<Scheme>) -> io::Result<Checks> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (wanted, seen) = watch::channel(Some(scheme));
        let thread = std::thread::Builder::new().name("checks".into()).spawn(move || {
            let _guard = AbortOnPanic;
            runtime.block_on(follow(seen));
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
async fn follow(mut wanted: watch::Receiver<Option<Arc<Scheme>>>) {
    let turn = Arc::new(Semaphore::new(AT_ONCE));
    let mut running: HashMap<usize, (Arc<Job>, AbortHandle)> = HashMap::new();
    loop {
        let Some(scheme) = wanted.borrow_and_update().clone() else { return };
        let mut kept = HashMap::new();
        for job in jobs(&scheme) {
            let identity = Arc::as_ptr(&job.live).addr();
            match running.remove(&identity) {
                Some((old, task)) if old.check == job.check && same_tls(&old.tls, &job.tls) => {
                    kept.insert(identity, (old, task));
                }
                old => {
                    if let Some((_, task)) = old {
                        task.abort();
                    }
                    let job = Arc::new(job);
                    let task = tokio::spawn(run(Arc::clone(&job), Arc::clone(&turn)));
                    kept.insert(identity, (job, task.abort_handle()));
                }
            }
        }
        running.drain().for_each(|(_, (_, task))| task.abort());
        running = kept;
        if wanted.changed().await.is_err() {
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
    let places = scheme.plan.backends.iter().enumerate();
    let places = places.flat_map(|(index, backend)| (0..backend.servers.len()).map(move |server| (index, server)));
    places.filter_map(|(index, number)| {
        let (backend, live) = (&scheme.plan.backends[index], &scheme.backends[index]);
        let (check, server) = (backend.check.clone()?, &backend.servers[number]);
        let mut address = server.address;
        address.set_port(check.port.unwrap_or(address.port()));
        Some(Job {
            backend: backend.name.clone(),
            server: server.name.clone(),
            address,
            check,
            tls: scheme.tls.check(index, number).cloned(),
            live: Arc::clone(&live.servers[number]),
            queue: Arc::clone(&live.queue),
        })
    })
}

async fn run(job: Arc<Job>, turn: Arc<Semaphore>) {
    let _guard = AbortOnPanic;
    let check = &job.check;
    let mut health = health::Health::new(job.live.health(), check.rise, check.fall);
    sleep(check.interval.min(SPREAD).mul_f64(chance())).await;
    loop {
        let result = {
            let Ok(_turn) = turn.acquire().await else { return };
            let started = Instant::now();
            let answer = probe::ask(job.address, check, job.tls.as_ref()).await;
            (answer, started.elapsed())
        };
        job.publish(&mut health, result.0, result.1);
        sleep(check.interval.mul_f64(0.9 + 0.2 * chance())).await;
    }
}

impl Job {
    fn publish(&self, health: &mut health::Health, answer: probe::Answer, latency: Duration) {
        let change = health.record(answer.ok);
        let last =
            LastCheck { ok: answer.ok, code: answer.code, what: answer.what.clone(), latency, ended: Instant::now() };
        let before = self.live.report.lock().unwrap_or_else(PoisonError::into_inner).last_check.replace(last);
        let Some(state) = change else {
            self.tell(before, &answer);
            return;
        };
        self.live.set_health(state);
        let (backend, server, why) = (&self.backend, &self.server, &answer.what);
        if state == ServerState::Up {
            info!(backend, server, why, "server is up");
        } else {
            warn!(backend, server, why, "server is down");
        }
        // Up: there is room. Down: it may have been the last one, and nobody is to wait for it.
        self.queue.wake();
    }

    /// A check that ended otherwise than the one before, and changed nothing yet.
    fn tell(&self, before: Option<LastCheck>, answer: &probe::Answer) {
        let same = before.is_some_and(|before| before.ok == answer.ok && before.what == answer.what);
        if !self.check.log || same {
            return;
        }
        let (backend, server, why) = (&self.backend, &self.server, &answer.what);
        info!(backend, server, why, passed = answer.ok, "a check ended otherwise than the one before");
    }
}

/// A number from 0 to 1: enough chance to keep checks from marching in step.
fn chance() -> f64 {
    static SEED: Mutex<Option<(RandomState, u64)>> = Mutex::new(None);
    let mut seed = SEED.lock().unwrap_or_else(PoisonError::into_inner);
    let (state, count) = seed.get_or_insert_with(|| (RandomState::new(), 0));
    *count += 1;
    f64::from((state.hash_one(*count) >> 32) as u32) / f64::from(u32::MAX)
}
