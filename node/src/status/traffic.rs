//! The half of a status that the proxy core is the source of; with a pair or without.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use proxy_core::plan::{self, Mode};
use proxy_core::stats::{self, HttpStats, Stats};

use super::{
    Backend, Check, Frontend, Limits, LogSink, Moment, Proxy, ProxyState, Resolved, Server, ServerState, Status,
    TrafficLog,
};
use crate::config::ClusterConfig;
use crate::names::Names;
use crate::supervisor::{self, CoreState, Supervisor};

/// Sessions of each frontend at the last two readings.
#[derive(Clone, Default)]
pub(crate) struct Traffic {
    last: Option<(Instant, BTreeMap<String, u64>)>,
    rates: BTreeMap<String, f64>,
}

impl Traffic {
    /// Takes in a reading, about once a second.
    pub(crate) fn update(&mut self, totals: BTreeMap<String, u64>) {
        let now = Instant::now();
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
    pub(crate) fn fill(&self, status: &mut Status, stats: &Stats) {
        for frontend in &mut status.frontends {
            if let Some(counted) = stats.frontends.iter().find(|counted| counted.name == frontend.name) {
                frontend.sessions = counted.sessions.into();
                frontend.sessions_total = counted.total;
                frontend.rate = self.rates.get(&frontend.name).copied();
                frontend.bytes_in = counted.bytes_in;
                frontend.bytes_out = counted.bytes_out;
                frontend.denied = counted.denied;
                frontend.client_aborts = counted.client_aborts;
                frontend.http = counted.http;
                frontend.bad_requests.clone_from(&counted.bad_requests);
                frontend.bad_http2.clone_from(&counted.bad_http2);
                frontend.bad_proxy.clone_from(&counted.bad_proxy);
                frontend.tls.clone_from(&counted.tls);
            }
        }
        let now = SystemTime::now();
        status.traffic_log = traffic_log(stats);
        status.backends = stats.backends.iter().map(|backend| self::backend(backend, status, now)).collect();
        status.workers.clone_from(&stats.workers);
        status.log.sinks.clone_from(&stats.log_sinks);
        status.stick_tables.clone_from(&stats.stick_tables);
    }

    /// The same with what the core counts at this moment, if it answers.
    pub(crate) async fn complete(&self, mut status: Status, supervisor: &Supervisor) -> Status {
        if let Some(stats) = supervisor.stats().await {
            self.fill(&mut status, &stats);
        }
        status
    }
}

/// As configured; [`Traffic::fill`] adds what is counted.
pub(crate) fn frontends(cluster: &ClusterConfig) -> Vec<Frontend> {
    let plan = &cluster.plan;
    let frontends = plan.frontends.iter().zip(&cluster.bind_names).map(|(frontend, binds)| Frontend {
        name: frontend.name.clone(),
        binds: binds.clone(),
        backend: frontend.backend.map_or_else(String::new, |index| plan.backends[index].name.clone()),
        http: matches!(frontend.mode, Mode::Http(_)).then(HttpStats::default),
        ..Frontend::default()
    });
    frontends.collect()
}

/// As configured; [`Traffic::fill`] adds what is counted.
pub(crate) fn backends(cluster: &ClusterConfig, names: &Names) -> Vec<Backend> {
    let server = |server: &plan::Server| {
        let (address, problem) = names.of(server);
        let host = server.host.as_ref().map(|host| host.name.clone());
        configured(server, address, Resolved { host, problem })
    };
    let backend = |backend: &plan::Backend| Backend {
        name: backend.name.clone(),
        servers: backend.servers.iter().map(server).collect(),
        ..Backend::default()
    };
    cluster.plan.backends.iter().map(backend).collect()
}

fn configured(server: &plan::Server, address: SocketAddr, resolved: Resolved) -> Server {
    Server {
        name: server.name.clone(),
        address,
        resolved,
        state: ServerState::Checking,
        sessions: 0,
        sessions_total: 0,
        bytes_in: 0,
        bytes_out: 0,
        connect_errors: 0,
        response_errors: 0,
        cut_when_down: 0,
        http: None,
        weight: server.weight,
        throttle: None,
        backup: server.backup,
        check: None,
        agent: None,
    }
}

/// The process.
pub(crate) fn proxy(core: &supervisor::Status, last_exit: Option<&str>, now: SystemTime) -> Proxy {
    Proxy {
        state: proxy_state(core),
        pid: core.pid,
        restarts: Some(core.restarts),
        since: Some(Moment::ago(core.since.elapsed(), now)),
        workers: Some(core.workers),
        user_note: core.uid_note.clone(),
        last_exit: last_exit.map(ToOwned::to_owned),
    }
}

/// What it can carry; `None` until it was ready.
pub(crate) fn limits(core: &supervisor::Status) -> Option<Limits> {
    core.limits.map(|limits| Limits {
        descriptors: limits.nofile,
        connections: limits.sessions.into(),
        derived: limits.to_string(),
    })
}

/// What it does.
pub(crate) fn proxy_state(core: &supervisor::Status) -> ProxyState {
    match &core.state {
        CoreState::Ready { .. } if core.crash_loop.is_some() => ProxyState::CrashLoop,
        CoreState::Ready { .. } => ProxyState::Ready,
        CoreState::Starting | CoreState::Adopted { .. } => ProxyState::Starting,
        CoreState::Hung { .. } => ProxyState::Hung,
        CoreState::Ending | CoreState::Exited(_) | CoreState::Backoff { .. } => ProxyState::Backoff,
        CoreState::CrashLoop { .. } => ProxyState::CrashLoop,
        CoreState::Draining => ProxyState::Draining,
        CoreState::Stopped => ProxyState::Stopped,
    }
}

fn traffic_log(stats: &Stats) -> Option<TrafficLog> {
    let sink = |sink: &stats::LogSinkStats| LogSink {
        target: sink.target.clone(),
        written: sink.written,
        dropped: sink.dropped,
    };
    let overrun = stats.workers.iter().map(|worker| worker.log_drops).sum();
    let sinks: Vec<_> = stats.log_sinks.iter().map(sink).collect();
    (!sinks.is_empty()).then_some(TrafficLog { overrun, sinks })
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
                stats::ServerState::Maintenance => ServerState::Maintenance,
            },
            sessions: server.sessions.into(),
            sessions_total: server.total,
            bytes_in: server.bytes_in,
            bytes_out: server.bytes_out,
            connect_errors: server.connect_errors,
            response_errors: server.response_errors,
            cut_when_down: server.cut_when_down,
            http: server.http,
            weight: server.weight,
            throttle: server.throttle,
            check: server.last_check.as_ref().map(|check| Check {
                status: if check.ok { "passed".into() } else { check.what.clone() },
                code: check.code,
                latency_ms: check.latency_ms as f64,
                since: Moment::ago(Duration::from_millis(server.since_ms), now),
            }),
            agent: server.agent.clone(),
            ..planned.clone()
        })
    });
    Backend {
        name: counted.name.clone(),
        queued: counted.queue.into(),
        queue_full: counted.queue_full,
        queue_timeouts: counted.queue_timeouts,
        queue_left: counted.queue_left,
        no_server: counted.no_server,
        retries: counted.retries,
        redispatches: counted.redispatches,
        http: counted.http,
        bad_responses: counted.bad_responses.clone(),
        servers: servers.collect(),
    }
}
