//! What `lbnode status` says, gathered from the parts: each keeps its own truth, nothing is stored twice here.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant, SystemTime};

use vrrp::event::State;
use vrrp::io::realtime::Refusal;
use vrrp::io::snapshot::{RouterSnapshot, Snapshot};

use crate::bridge;
use crate::config;
use crate::failover::Fitness;
use crate::status::{Config, Log, Moment, Node, Pair, ProxyState, Realtime, Role, Status, Vip, certificates, traffic};

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

impl Agent {
    /// Everything but the counters of the proxy core, which [`traffic::Traffic::fill`] adds when it answers.
    pub(super) fn status(&self, snapshot: &Snapshot) -> Status {
        let now = SystemTime::now();
        let ago = |at: Instant| Moment::ago(at.elapsed(), now);
        let core = self.core.borrow().clone();
        let node = Node {
            name: self.node.name.clone(),
            this: true,
            role: self.role(snapshot),
            fit: self.reasons(snapshot).is_empty(),
            reasons: self.reasons(snapshot),
            priority: Some(self.node.vrrp.priority.get()),
            proxy: Some(traffic::proxy(&core, self.last_exit.as_deref(), now)),
            revision: Some(self.revision.number),
            since: Moment::ago(snapshot.routers.iter().map(|router| router.age).min().unwrap_or_default(), now),
        };
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pair: Pair { name: self.cluster.name.clone(), redundant: self.redundant(snapshot) },
            degraded: self.degraded(snapshot),
            nodes: std::iter::once(node).chain(self.peer_node(snapshot, now)).collect(),
            vips: snapshot.routers.iter().map(|router| self.vip(router, snapshot, now)).collect(),
            sync: self.sync_status(snapshot, now),
            handoff: self.handoffs(now),
            config: Config {
                revision: self.revision.number,
                digest: self.revision.digest(),
                handoff_timeout: self.cluster.handoff_timeout.map_or("never".into(), config::duration::written),
                since: ago(self.applied_at),
            },
            frontends: traffic::frontends(&self.cluster),
            backends: traffic::backends(&self.cluster, self.lists.names()),
            certificates: certificates::of(&self.cluster, now),
            workers: Vec::new(),
            realtime: Some(Realtime {
                scheduling: granted(snapshot.realtime.as_ref().map(|realtime| &realtime.scheduling)),
                memory_lock: granted(snapshot.realtime.as_ref().map(|realtime| &realtime.memory)),
            }),
            limits: traffic::limits(&core),
            dual_active: self.dual_active.as_ref().map(|seen| crate::status::DualActive {
                vip: seen.vip.clone(),
                other: seen.other,
                length_ms: seen.length.map(|length| u64::try_from(length.as_millis()).unwrap_or(u64::MAX)),
                since: ago(seen.at),
            }),
            log: Log { dropped: crate::log::dropped(), sinks: Vec::new() },
            traffic_log: None,
            stick_tables: Vec::new(),
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
        traffic::proxy_state(&self.core.borrow())
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

fn granted(result: Option<&Result<(), Refusal>>) -> String {
    match result {
        Some(Ok(())) => "yes".into(),
        Some(Err(refusal)) => refusal.to_string(),
        None => "not asked yet".into(),
    }
}
