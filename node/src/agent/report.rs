//! What `lbnode status` says, gathered from the parts: each keeps its own truth, nothing is stored twice here.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant, SystemTime};

use proxy_core::stats::{self, Stats};
use vrrp::event::State;
use vrrp::io::realtime::Refusal;
use vrrp::io::snapshot::{RouterSnapshot, Snapshot};

use crate::bridge;
use crate::config;
use crate::failover::Fitness;
use crate::status::{
    Backend, Check, Config, Frontend, Limits, Log, Moment, Node, Pair, Proxy, ProxyState, Realtime, Role, Server,
    ServerState, Status, Vip,
};
use crate::supervisor::CoreState;

use super::Agent;

/// The last time that both nodes were seen active.
pub(super) struct DualActive {
    pub(super) vip: String,
    pub(super) other: Ipv4Addr,
    pub(super) length: Option<Duration>,
    pub(super) at: Instant,
    /// Number of its event.
    pub(super) event: u64,
}

/// Sessions of each frontend at the last two readings.
#[derive(Clone, Default)]
pub(super) struct Traffic {
    last: Option<(Instant, BTreeMap<String, u64>)>,
    rates: BTreeMap<String, f64>,
}

impl Traffic {
    /// Takes in a reading, about once a second.
    pub(super) fn update(&mut self, stats: &Stats) {
        let now = Instant::now();
        let totals: BTreeMap<String, u64> =
            stats.frontends.iter().map(|frontend| (frontend.name.clone(), frontend.total)).collect();
        if let Some((at, before)) = &self.last {
            let seconds = now.duration_since(*at).as_secs_f64().max(0.001);
            let rate = |(name, total): (&String, &u64)| {
                // A restarted core counts from zero.
                let more = total.saturating_sub(before.get(name).copied().filter(|b| b <= total).unwrap_or(0));
                (name.clone(), (more as f64 / seconds * 10.0).round() / 10.0)
            };
            self.rates = totals.iter().map(rate).collect();
        }
        self.last = Some((now, totals));
    }

    /// Puts the counters of the proxy core into a status that has everything else.
    pub(super) fn fill(&self, status: &mut Status, stats: &Stats) {
        for frontend in &mut status.frontends {
            if let Some(counted) = stats.frontends.iter().find(|counted| counted.name == frontend.name) {
                frontend.sessions = counted.sessions.into();
                frontend.sessions_total = counted.total;
                frontend.rate = self.rates.get(&frontend.name).copied();
            }
        }
        let now = SystemTime::now();
        status.backends = stats.backends.iter().map(|backend| self::backend(backend, status, now)).collect();
    }
}

fn backend(counted: &stats::BackendStats, status: &Status, now: SystemTime) -> Backend {
    let planned = status.backends.iter().find(|backend| backend.name == counted.name);
    let servers = counted.servers.iter().filter_map(|server| {
        let planned = planned?.servers.iter().find(|planned| planned.name == server.name)?;
        Some(Server {
            state: match server.state {
                stats::ServerState::Checking => ServerState::Checking,
                stats::ServerState::Up => ServerState::Up,
                stats::ServerState::Down => ServerState::Down,
                stats::ServerState::Drain => ServerState::Drain,
            },
            sessions: server.sessions.into(),
            weight: server.weight,
            check: server.last_check.as_ref().map(|check| Check {
                status: if check.ok { "passed".into() } else { check.what.clone() },
                code: check.code,
                latency_ms: check.latency_ms as f64,
                since: Moment::ago(Duration::from_millis(server.since_ms), now),
            }),
            ..planned.clone()
        })
    });
    Backend { name: counted.name.clone(), queued: counted.queue.into(), servers: servers.collect() }
}

impl Agent {
    /// Everything but the counters of the proxy core, which [`Traffic::fill`] adds when it answers.
    pub(super) fn status(&self) -> Status {
        let now = SystemTime::now();
        let ago = |at: Instant| Moment::ago(at.elapsed(), now);
        let snapshot = self.vrrp.snapshot();
        let core = self.core.borrow().clone();
        let plan = &self.cluster.plan;
        let frontends = plan.frontends.iter().zip(&self.cluster.bind_names).map(|(frontend, binds)| Frontend {
            name: frontend.name.clone(),
            binds: binds.clone(),
            backend: plan.backends[frontend.backend].name.clone(),
            sessions: 0,
            sessions_total: 0,
            rate: None,
        });
        let servers = |backend: &proxy_core::plan::Backend| {
            let server = |server: &proxy_core::plan::Server| Server {
                name: server.name.clone(),
                address: server.address,
                state: ServerState::Checking,
                sessions: 0,
                weight: server.weight,
                backup: server.backup,
                check: None,
            };
            backend.servers.iter().map(server).collect()
        };
        let backends = plan.backends.iter().map(|backend| Backend {
            name: backend.name.clone(),
            queued: 0,
            servers: servers(backend),
        });
        let node = Node {
            name: self.node.name.clone(),
            this: true,
            role: self.role(&snapshot),
            fit: self.reasons(&snapshot).is_empty(),
            reasons: self.reasons(&snapshot),
            priority: Some(self.node.vrrp.priority.get()),
            proxy: Some(Proxy {
                state: self.proxy_state(),
                pid: core.pid,
                restarts: Some(core.restarts),
                since: Some(ago(core.since)),
                workers: Some(core.workers),
                user_note: core.uid_note.clone(),
                last_exit: self.last_exit.clone(),
            }),
            revision: Some(self.revision.number),
            since: Moment::ago(snapshot.routers.iter().map(|router| router.age).min().unwrap_or_default(), now),
        };
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pair: Pair { name: self.cluster.name.clone(), redundant: self.redundant(&snapshot) },
            degraded: self.degraded(&snapshot),
            nodes: std::iter::once(node).chain(self.peer_node(&snapshot, now)).collect(),
            vips: snapshot.routers.iter().map(|router| self.vip(router, &snapshot, now)).collect(),
            sync: self.sync_status(&snapshot, now),
            handoff: self.handoffs(now),
            config: Config {
                revision: self.revision.number,
                digest: config::digest(&self.revision.text),
                handoff_timeout: self.cluster.handoff_timeout.map_or("never".into(), config::duration::written),
                since: ago(self.applied_at),
            },
            frontends: frontends.collect(),
            backends: backends.collect(),
            realtime: Realtime {
                scheduling: granted(snapshot.realtime.as_ref().map(|realtime| &realtime.scheduling)),
                memory_lock: granted(snapshot.realtime.as_ref().map(|realtime| &realtime.memory)),
            },
            limits: core.limits.map(|limits| Limits {
                descriptors: limits.nofile,
                connections: limits.sessions.into(),
                derived: limits.to_string(),
            }),
            dual_active: self.dual_active.as_ref().map(|seen| crate::status::DualActive {
                vip: seen.vip.clone(),
                other: seen.other,
                length_ms: seen.length.map(|length| u64::try_from(length.as_millis()).unwrap_or(u64::MAX)),
                since: ago(seen.at),
            }),
            log: Log { dropped: crate::log::dropped() },
        }
    }

    /// Without a peer nothing on the active node tells whether there is a standby: VRRP's backups are silent. A standby
    /// that is fit and hears the active node is the proof that there are two.
    fn redundant(&self, snapshot: &Snapshot) -> Option<bool> {
        if snapshot.routers.is_empty() {
            return None;
        }
        let fit = self.reasons(snapshot).is_empty();
        if self.peering.is_some() {
            let ready = |router: &RouterSnapshot| match router.state {
                State::Master => self.peer_is_ready(&router.config.name).is_ok(),
                State::Backup => router.peer_fresh && router.peer.is_some_and(|(claim, _)| claim.standing.is_held()),
                _ => false,
            };
            return Some(fit && snapshot.routers.iter().all(ready));
        }
        let standby = |router: &RouterSnapshot| router.state == State::Backup && router.heard.is_some();
        snapshot.routers.iter().all(standby).then_some(fit)
    }

    pub(super) fn role(&self, snapshot: &Snapshot) -> Role {
        let any = |state: State| snapshot.routers.iter().any(|router| router.state == state);
        if self.policy.maintenance() {
            Role::Maintenance
        } else if any(State::Master) {
            Role::Active
        } else if any(State::Backup) {
            Role::Standby
        } else {
            Role::Fault
        }
    }

    pub(super) fn reasons(&self, snapshot: &Snapshot) -> Vec<String> {
        let mut reasons: Vec<String> = Vec::new();
        for router in &snapshot.routers {
            let fitness = self.policy.fitness(&router.config.name);
            let words = fitness.reasons().iter().map(ToString::to_string);
            reasons.extend(words);
        }
        if snapshot.routers.is_empty()
            && let Fitness::Unfit(found) = self.policy.fitness("")
        {
            reasons.extend(found.iter().map(ToString::to_string));
        }
        let mut seen = std::collections::BTreeSet::new();
        reasons.retain(|reason| seen.insert(reason.clone()));
        reasons
    }

    pub(super) fn proxy_state(&self) -> ProxyState {
        let core = self.core.borrow();
        proxy_state(&core.state, core.crash_loop.is_some())
    }

    fn vip(&self, router: &RouterSnapshot, snapshot: &Snapshot, now: SystemTime) -> Vip {
        let holder = match router.state {
            State::Master => Some(self.node.name.clone()),
            _ => self.peer_holds(router).or_else(|| router.heard.map(|(source, ..)| source.to_string())),
        };
        let config = &router.config;
        Vip {
            name: config.name.clone(),
            address: config.addresses[0],
            vrid: config.vrid.get(),
            interface: config.interface.clone(),
            state: router.state,
            holder,
            term: router.term,
            since: Moment::ago(router.age, now),
            why: bridge::why(&router.why),
            priority: config.priority.get(),
            advert_interval_ms: u64::try_from(config.advert_interval.duration().as_millis()).unwrap_or(u64::MAX),
            faults: router.faults.iter().copied().collect(),
            counters: bridge::counters(router, snapshot),
        }
    }
}

fn proxy_state(state: &CoreState, crash_loop: bool) -> ProxyState {
    match state {
        CoreState::Ready { .. } if crash_loop => ProxyState::CrashLoop,
        CoreState::Ready { .. } => ProxyState::Ready,
        CoreState::Starting | CoreState::Adopted { .. } => ProxyState::Starting,
        CoreState::Hung { .. } => ProxyState::Hung,
        CoreState::Ending | CoreState::Exited(_) | CoreState::Backoff { .. } => ProxyState::Backoff,
        CoreState::CrashLoop { .. } => ProxyState::CrashLoop,
        CoreState::Draining => ProxyState::Draining,
        CoreState::Stopped => ProxyState::Stopped,
    }
}

fn granted(result: Option<&Result<(), Refusal>>) -> String {
    match result {
        Some(Ok(())) => "yes".into(),
        Some(Err(refusal)) => refusal.to_string(),
        None => "not asked yet".into(),
    }
}
