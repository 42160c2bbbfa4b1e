//! The live state of frontends, backends and servers, and the scheme that joins it to a plan.
//!
//! Live state outlives plans: an apply makes a new [`Scheme`] around the state of whatever kept its identity, so
//! counts, health and queues go on. It is shared by all workers and by the checks, through atomics.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::balance::{Sessions, Standing, Warmth, share};
use crate::check::agent::{self, Said};
use crate::check::observed::Observed;
use crate::cut::{Cut, Falls};
use crate::http::forwarded::Forwarding;
use crate::http::lists::Lists;
use crate::http::rules::Rules;
use crate::limits::Gate;
use crate::log::Sinks;
use crate::log_pipe::chain;
use crate::per_source::PerSource;
use crate::persist::{Stuck, keys_by_sni, tables};
use crate::plan::{self, LogSink, Mode, Plan, PlanError};
use crate::queue::{Lane, Queue};
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
    /// Of each server.
    pub(crate) sessions: Vec<Sessions>,
    /// Counts what balancers have to look at their servers for.
    pub(crate) changes: Arc<AtomicU64>,
}

/// A server, known by its backend's name, its own name and its address.
#[derive(Debug)]
pub(crate) struct ServerLive {
    sessions: Sessions,
    health: AtomicU8,
    falls: Falls,
    /// What clients meet with.
    pub(crate) observed: Observed,
    /// What it says of itself.
    pub(crate) agent: Said,
    /// Its backend's.
    changes: Arc<AtomicU64>,
    pub(crate) report: Mutex<Report>,
    pub(crate) shards: Box<[ServerShard]>,
}

/// What is seldom read: for stats, and when a server comes or goes.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) since: Instant,
    /// When it came up, if it had been down.
    back: Option<Instant>,
    pub(crate) last_check: Option<LastCheck>,
    /// What its agent said last, or why it said nothing.
    pub(crate) agent: Option<String>,
}

/// How the last check went.
#[derive(Clone, Debug)]
pub(crate) struct LastCheck {
    pub(crate) ok: bool,
    pub(crate) code: Option<u16>,
    pub(crate) what: Cow<'static, str>,
    pub(crate) latency: Duration,
    pub(crate) ended: Instant,
}

/// One session's place at a server; leaving it wakes the queue.
#[derive(Debug)]
pub(crate) struct Place {
    server: Arc<ServerLive>,
    queue: Arc<Queue>,
    /// Of the server, when it was taken.
    falls: u64,
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
        let changes = kept.map_or_else(Arc::default, |(_, live)| Arc::clone(&live.changes));
        let mut unused = Sessions::of_each(backend.servers.len());
        let servers = backend.servers.iter().map(|server| {
            let old = kept.and_then(|(plan, live)| {
                let same = |old: &plan::Server| old.name == server.name && old.address == server.address;
                let index = plan.servers.iter().position(same)?;
                Some((Arc::clone(&live.servers[index]), first_health(plan, &plan.servers[index])))
            });
            let first = first_health(backend, server);
            let live = match old {
                Some((live, before)) => {
                    // It was not checked and is now, or the other way round; or its name has an address at last.
                    if before != first {
                        live.set_health(first);
                    }
                    live
                }
                None => {
                    let sessions = unused.next().expect("it is without end");
                    Arc::new(ServerLive::new(first, sessions, workers, &changes))
                }
            };
            if server.unresolved().is_some() {
                // Whoever is at the address that it had is with a server that is down now.
                kept.into_iter().for_each(|(plan, old)| old.lose(plan, server));
            }
            live.suit(backend, server);
            live
        });
        let servers: Vec<_> = servers.collect();
        BackendLive {
            sessions: servers.iter().map(|server| server.sessions.clone()).collect(),
            servers,
            changes,
            queue: kept.map_or_else(Arc::default, |(_, live)| Arc::clone(&live.queue)),
            shards: kept.map_or_else(|| shards(workers).into(), |(_, live)| Arc::clone(&live.shards)),
        }
    }

    /// Of these servers, `lost` has no address any more.
    fn lose(&self, plan: &plan::Backend, lost: &plan::Server) {
        let same = plan.servers.iter().zip(&self.servers).filter(|(server, _)| server.name == lost.name);
        same.for_each(|(_, live)| live.set_health(ServerState::Down));
    }
}

fn first_health(backend: &plan::Backend, server: &plan::Server) -> ServerState {
    match (server.unresolved(), backend.check_of(server)) {
        (Some(_), _) => ServerState::Down,
        (None, Some(_)) => ServerState::Checking,
        (None, None) => ServerState::Up,
    }
}

impl ServerLive {
    fn new(health: ServerState, sessions: Sessions, workers: u16, changes: &Arc<AtomicU64>) -> ServerLive {
        let server = ServerLive {
            sessions,
            health: AtomicU8::new(0),
            falls: Falls::default(),
            changes: Arc::clone(changes),
            observed: Observed::default(),
            agent: Said::default(),
            report: Mutex::new(Report { since: Instant::now(), back: None, last_check: None, agent: None }),
            shards: shards(workers),
        };
        server.set_health(health);
        server
    }

    /// Makes what is known of it fit a plan.
    fn suit(&self, backend: &plan::Backend, server: &plan::Server) {
        if backend.agent_check.is_none() && self.agent.forget() {
            self.changes.fetch_add(1, SeqCst);
        }
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        if backend.agent_check.is_none() {
            report.agent = None;
        }
        if let Some(why) = server.unresolved() {
            let (latency, ended) = (Duration::ZERO, Instant::now());
            report.last_check = Some(LastCheck { ok: false, code: None, what: why.to_owned().into(), latency, ended });
        } else if backend.check_of(server).is_none() {
            report.last_check = None;
        }
    }

    /// Checking, up or down, by its checks alone; whether it may be used: [`ServerLive::is_usable`].
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
            // Drain is a weight, maintenance somebody's will: neither is a health.
            ServerState::Up | ServerState::Drain | ServerState::Maintenance => 1,
            ServerState::Down => 2,
        };
        let (before, usable) = (self.health(), self.is_usable());
        if self.health.swap(code, SeqCst) != code {
            let now = Instant::now();
            let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
            report.since = now;
            report.back = (before == ServerState::Down && code == 1).then_some(now);
            drop(report);
            self.changes.fetch_add(1, SeqCst);
        }
        self.falls_from(usable);
    }

    /// It went down, or out of service, if it was usable and isn't any more.
    fn falls_from(&self, usable: bool) {
        if usable && !self.is_usable() {
            self.falls.add();
        }
    }

    /// Takes where its agent says that it stands, if it does, and in which words; whether that is news.
    pub(crate) fn heard(&self, standing: Option<agent::Standing>, words: &str) -> bool {
        let usable = self.is_usable();
        let news = standing.is_some_and(|standing| self.agent.set(standing));
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.agent = Some(words.to_owned());
        if news {
            report.since = Instant::now();
            drop(report);
            self.changes.fetch_add(1, SeqCst);
            self.falls_from(usable);
        }
        news
    }

    /// Neither its checks nor its agent say otherwise.
    pub(crate) fn is_usable(&self) -> bool {
        let agent = self.agent.standing();
        self.health() != ServerState::Down && !agent.down && !agent.maintenance
    }

    /// The weight in effect under `config`.
    pub(crate) fn weight(&self, config: &plan::Server) -> u16 {
        share(config.weight, self.agent.standing().percent())
    }

    /// What it is good for under `config`.
    pub(crate) fn state(&self, config: &plan::Server) -> ServerState {
        let (health, agent) = (self.health(), self.agent.standing());
        if agent.maintenance {
            ServerState::Maintenance
        } else if health == ServerState::Down || agent.down {
            ServerState::Down
        } else if self.weight(config) == 0 {
            ServerState::Drain
        } else {
            health
        }
    }

    /// Over all workers, with those still connecting.
    pub(crate) fn sessions(&self) -> u32 {
        self.sessions.now()
    }

    /// As balancers see it.
    pub(crate) fn standing(&self, slow_start: Option<Duration>, now: Instant) -> Standing {
        let percent = self.agent.standing().percent();
        Standing { usable: self.is_usable(), percent, warmth: self.warmth(slow_start, now) }
    }

    /// How much it has grown since it came up.
    pub(crate) fn warmth(&self, slow_start: Option<Duration>, now: Instant) -> Warmth {
        let back = || self.report.lock().unwrap_or_else(PoisonError::into_inner).back;
        let growing = slow_start.and_then(|slow_start| Some((back()?, slow_start)));
        growing.map_or(Warmth::WHOLE, |(since, slow_start)| Warmth::at(since, slow_start, now))
    }

    /// Where clients wait for this server alone.
    pub(crate) fn lane(self: &Arc<ServerLive>) -> Lane {
        Lane::of(Arc::as_ptr(self).addr())
    }

    /// A place, unless the last one of `max` went to somebody else a moment ago.
    pub(crate) fn take(self: &Arc<ServerLive>, max: u32, queue: &Arc<Queue>) -> Option<Place> {
        let falls = self.falls.count();
        self.sessions.begin(max).then(|| Place { server: Arc::clone(self), queue: Arc::clone(queue), falls })
    }
}

impl Place {
    /// When its session is to be cut, if its backend wants that.
    pub(crate) fn cut(&self, backend: &plan::Backend) -> Cut<'_> {
        if !backend.cut_on_down {
            return Cut::NEVER;
        }
        // It may have been chosen a moment before the server went down.
        Cut::after(self.server.is_usable().then_some(self.falls), &self.server.falls)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.server.sessions.end();
        self.queue.wake_for(self.server.lane());
    }
}
