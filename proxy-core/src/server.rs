//! The live state of frontends, backends and servers, and the scheme that joins it to a plan.
//!
//! Live state outlives plans: an apply makes a new [`Scheme`] around the state of whatever kept its identity, so
//! counts, health and queues go on. It is shared by all workers and by the checks, through atomics.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::balance::Candidate;
use crate::http::forwarded::Forwarding;
use crate::http::lists::Lists;
use crate::http::rules::Rules;
use crate::limits::Gate;
use crate::log::Sinks;
use crate::log_pipe::chain;
use crate::per_source::PerSource;
use crate::persist::{Stuck, keys_by_sni, tables};
use crate::plan::{self, LogSink, Mode, Plan, PlanError};
use crate::queue::Queue;
use crate::stats::{BackendShard, FrontendShard, ServerShard, ServerState, shards};
use crate::stick::Table;
use crate::tls::Configs;

/// A plan with the live state of its parts, index by index.
#[derive(Debug)]
pub(crate) struct Scheme {
    pub(crate) plan: Plan,
    pub(crate) frontends: Vec<Arc<FrontendLive>>,
    pub(crate) backends: Vec<Arc<BackendLive>>,
    /// Of each frontend.
    pub(crate) rules: Vec<Rules>,
    /// Of each frontend; `None`: the servers are told nothing of the client.
    pub(crate) forwarding: Vec<Option<Forwarding>>,
    pub(crate) lists: Arc<Lists>,
    pub(crate) tls: Configs,
    /// By index; those that stay as they are keep what they know.
    pub(crate) tables: Vec<Arc<Table>>,
    /// Of each backend; `None`: it uses no stick table.
    pub(crate) stuck: Vec<Option<Stuck>>,
    /// Of each frontend: a key needs what a client asks for in its hello, where TLS is only passed on.
    pub(crate) keys_by_sni: Vec<bool>,
    /// Where the frontends' logs go.
    pub(crate) sinks: Sinks,
}

/// A frontend, known by its name.
#[derive(Debug)]
pub(crate) struct FrontendLive {
    pub(crate) gate: Arc<Gate>,
    pub(crate) per_source: Arc<PerSource>,
    pub(crate) shards: Box<[FrontendShard]>,
}

/// A backend, known by its name. Its servers may change from scheme to scheme.
#[derive(Debug)]
pub(crate) struct BackendLive {
    pub(crate) queue: Arc<Queue>,
    pub(crate) shards: Arc<[BackendShard]>,
    pub(crate) servers: Vec<Arc<ServerLive>>,
}

/// A server, known by its backend's name, its own name and its address.
#[derive(Debug)]
pub(crate) struct ServerLive {
    /// Clients that wait for a place at this very server, because they are to stay with it.
    pub(crate) faithful: Queue,
    sessions: AtomicU32,
    health: AtomicU8,
    pub(crate) report: Mutex<Report>,
    pub(crate) shards: Box<[ServerShard]>,
}

/// What is only read for stats.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) since: Instant,
    pub(crate) last_check: Option<LastCheck>,
}

/// How the last check went.
#[derive(Clone, Debug)]
pub(crate) struct LastCheck {
    pub(crate) ok: bool,
    pub(crate) code: Option<u16>,
    pub(crate) what: String,
    pub(crate) latency: std::time::Duration,
    pub(crate) ended: Instant,
}

/// One session's place at a server; leaving it wakes the queue.
#[derive(Debug)]
pub(crate) struct Place {
    server: Arc<ServerLive>,
    queue: Arc<Queue>,
}

impl Scheme {
    /// `plan`, which was validated, around the live state of `before`; `open` opens its logs, once nothing can fail any more.
    ///
    /// # Errors
    /// A rule, or something of TLS, that can't be used; a stick table for which there isn't the memory.
    pub(crate) fn build(
        plan: Plan,
        before: Option<&Scheme>,
        workers: u16,
        open: impl FnOnce(&[LogSink]) -> Sinks,
    ) -> Result<Scheme, PlanError> {
        let lists = Arc::new(Lists::new(&plan.lists));
        let compile = |frontend: &plan::Frontend| {
            let wrong = |error| PlanError::new(format!("frontend `{}`", frontend.name), chain(&error));
            Rules::compile(frontend, &lists).map_err(wrong)
        };
        let rules = plan.frontends.iter().map(compile).collect::<Result<_, _>>()?;
        let tls = Configs::build(&plan, before.map(|before| (&before.plan, &before.tls)))?;
        let tables = tables(&plan, before)?;
        let stuck = plan.backends.iter().map(|backend| Stuck::of(backend, &tables)).collect();
        let keys_by_sni = plan.frontends.iter().map(|frontend| keys_by_sni(&plan, frontend)).collect();
        let forwarding = plan.frontends.iter().map(|frontend| match &frontend.mode {
            Mode::Http(http) => http.forwarded.as_ref().map(Forwarding::new),
            Mode::Tcp => None,
        });
        let forwarding = forwarding.collect();
        let frontends = plan.frontends.iter().map(|frontend| {
            let kept = before.and_then(|before| {
                let index = before.plan.frontends.iter().position(|old| old.name == frontend.name)?;
                Some(Arc::clone(&before.frontends[index]))
            });
            let live = kept.unwrap_or_else(|| {
                Arc::new(FrontendLive {
                    gate: Arc::new(Gate::new(None)),
                    per_source: Arc::default(),
                    shards: shards(workers),
                })
            });
            live.gate.set_limit(frontend.max_connections);
            live
        });
        let frontends = frontends.collect();
        let backends = plan.backends.iter().map(|backend| {
            let kept = before.and_then(|before| {
                let index = before.plan.backends.iter().position(|old| old.name == backend.name)?;
                Some((&before.plan.backends[index], &before.backends[index]))
            });
            Arc::new(BackendLive::build(backend, kept, workers))
        });
        let backends = backends.collect();
        let sinks = open(&plan.log_sinks);
        Ok(Scheme { plan, frontends, backends, rules, forwarding, lists, tls, tables, stuck, keys_by_sni, sinks })
    }
}

impl BackendLive {
    fn build(backend: &plan::Backend, kept: Option<(&plan::Backend, &Arc<BackendLive>)>, workers: u16) -> BackendLive {
        let servers = backend.servers.iter().map(|server| {
            let old = kept.and_then(|(plan, live)| {
                let same = |old: &plan::Server| old.name == server.name && old.address == server.address;
                let index = plan.servers.iter().position(same)?;
                Some((Arc::clone(&live.servers[index]), plan.check.is_some()))
            });
            match old {
                Some((live, was_checked)) => {
                    if was_checked != backend.check.is_some() {
                        live.set_health(first_health(backend));
                    }
                    live
                }
                None => Arc::new(ServerLive::new(first_health(backend), workers)),
            }
        });
        BackendLive {
            servers: servers.collect(),
            queue: kept.map_or_else(Arc::default, |(_, live)| Arc::clone(&live.queue)),
            shards: kept.map_or_else(|| shards(workers).into(), |(_, live)| Arc::clone(&live.shards)),
        }
    }
}

impl BackendLive {
    /// Whoever waits looks again: something has changed.
    pub(crate) fn wake(&self) {
        self.servers.iter().for_each(|server| server.faithful.wake());
        self.queue.wake();
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.len() + self.servers.iter().map(|server| server.faithful.len()).sum::<usize>()
    }
}

fn first_health(backend: &plan::Backend) -> ServerState {
    if backend.check.is_some() { ServerState::Checking } else { ServerState::Up }
}

impl ServerLive {
    fn new(health: ServerState, workers: u16) -> ServerLive {
        let server = ServerLive {
            faithful: Queue::default(),
            sessions: AtomicU32::new(0),
            health: AtomicU8::new(0),
            report: Mutex::new(Report { since: Instant::now(), last_check: None }),
            shards: shards(workers),
        };
        server.set_health(health);
        server
    }

    /// Checking, up or down; whether it may be used is [`ServerLive::candidate`]'s matter.
    pub(crate) fn health(&self) -> ServerState {
        match self.health.load(SeqCst) {
            0 => ServerState::Checking,
            1 => ServerState::Up,
            _ => ServerState::Down,
        }
    }

    pub(crate) fn set_health(&self, health: ServerState) {
        let code = match health {
            ServerState::Checking => 0,
            // Drain is a weight, not a health.
            ServerState::Up | ServerState::Drain => 1,
            ServerState::Down => 2,
        };
        if self.health.swap(code, SeqCst) != code {
            self.report.lock().unwrap_or_else(PoisonError::into_inner).since = Instant::now();
            // Whom it can't serve now goes elsewhere.
            self.faithful.wake();
        }
    }

    /// Over all workers, with those still connecting.
    pub(crate) fn sessions(&self) -> u32 {
        self.sessions.load(SeqCst)
    }

    /// As the balancer sees it under `config`.
    pub(crate) fn candidate(&self, config: &plan::Server) -> Candidate {
        let sessions = self.sessions();
        Candidate {
            weight: config.weight,
            backup: config.backup,
            usable: self.health() != ServerState::Down,
            full: config.max_connections.is_some_and(|max| sessions >= max),
            sessions,
        }
    }

    /// A place, unless the last one went to somebody else a moment ago.
    pub(crate) fn take(self: &Arc<ServerLive>, max: Option<u32>, queue: &Arc<Queue>) -> Option<Place> {
        let max = max.unwrap_or(u32::MAX);
        self.sessions.fetch_update(SeqCst, SeqCst, |now| (now < max).then_some(now + 1)).ok()?;
        Some(Place { server: Arc::clone(self), queue: Arc::clone(queue) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.server.sessions.fetch_sub(1, SeqCst);
        self.server.faithful.wake();
        self.queue.wake();
    }
}
