//! What `lbnode status` says of the other node, of the channel to it, and of what works but would not bear a fault.

use std::time::{Duration, Instant, SystemTime};

use sync::counters::REASONS;
use vrrp::event::State;
use vrrp::heartbeat::Fitness;
use vrrp::io::snapshot::{PathSnapshot, RouterSnapshot, Snapshot};

use crate::handoff::machine::Direction;
use crate::status::{HandOff, Moment, Node, Proxy, Role, Sync, SyncPath, SyncState};

use super::Agent;

/// A path is alive when a heartbeat came over it within this time, or within five advert intervals if that is longer.
const ALIVE: Duration = Duration::from_secs(1);

impl Agent {
    /// The peer's name, if it says that it holds this VIP.
    pub(super) fn peer_holds(&self, router: &RouterSnapshot) -> Option<String> {
        let held = router.peer_fresh && router.peer.is_some_and(|(claim, _)| claim.standing.is_held());
        self.peering.as_ref().filter(|_| held).map(|peering| peering.name.clone())
    }

    /// The peer, by its own report, or by its heartbeats alone.
    pub(super) fn peer_node(&self, snapshot: &Snapshot, now: SystemTime) -> Option<Node> {
        let peering = self.peering.as_ref()?;
        let heard = snapshot.routers.iter().any(|router| router.peer_fresh);
        let since = peering.report.as_ref().map_or(self.started, |(_, at)| *at);
        let node = Node {
            name: peering.name.clone(),
            this: false,
            role: Role::Unreachable,
            fit: false,
            reasons: vec!["nothing is heard of it".into()],
            priority: None,
            proxy: None,
            revision: None,
            since: Moment::ago(since.elapsed(), now),
        };
        Some(match peering.fresh_report() {
            Some(report) => Node {
                role: report.role,
                fit: report.fit,
                reasons: report.reasons.clone(),
                priority: Some(report.priority),
                proxy: Some(Proxy {
                    state: report.proxy,
                    pid: None,
                    restarts: None,
                    since: None,
                    workers: None,
                    user_note: None,
                    last_exit: None,
                }),
                revision: Some(report.revision),
                since: Moment::ago(peering.role_since(report.role).elapsed(), now),
                ..node
            },
            None if heard => {
                let claims =
                    || snapshot.routers.iter().filter(|router| router.peer_fresh).filter_map(|router| router.peer);
                let holds = claims().any(|(claim, _)| claim.standing.is_held());
                let fit = claims().all(|(claim, _)| claim.fitness == Fitness::Fit);
                let reasons = if fit { Vec::new() } else { vec!["its heartbeats say that it is not fit".into()] };
                Node { role: if holds { Role::Active } else { Role::Standby }, fit, reasons, ..node }
            }
            None => node,
        })
    }

    pub(super) fn sync_status(&self, snapshot: &Snapshot, now: SystemTime) -> Option<Sync> {
        let peering = self.peering.as_ref()?;
        let path = |path: &PathSnapshot| SyncPath {
            local: path.local,
            remote: path.remote,
            alive: self.is_alive(path, snapshot),
            age_ms: path.heard.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        };
        let paths: Vec<SyncPath> = snapshot.paths.iter().map(path).collect();
        let mut refused: std::collections::BTreeMap<String, u64> = std::collections::BTreeMap::new();
        for (why, count) in snapshot.paths.iter().flat_map(|path| &path.refused) {
            *refused.entry(format!("heartbeat_{why}")).or_default() += count;
        }
        let Some(channel) = &peering.channel else {
            return Some(Sync {
                state: SyncState::NotPaired,
                peer: peering.name.clone(),
                path: None,
                paths,
                rtt_ms: None,
                since: Moment::ago(self.started.elapsed(), now),
                refused,
                last_error: peering.no_channel.clone(),
            });
        };
        let status = channel.status().borrow().clone();
        let reasons = REASONS.into_iter().map(|reason| (reason.name().to_owned(), status.counters.refused(reason)));
        refused.extend(reasons.filter(|(_, count)| *count > 0));
        Some(Sync {
            state: if status.connected { SyncState::Connected } else { SyncState::Disconnected },
            peer: peering.name.clone(),
            path: status.path.filter(|_| status.connected),
            paths,
            rtt_ms: status.rtt.map(|rtt| (rtt.as_secs_f64() * 1e6).round() / 1e3),
            since: Moment::ago(status.since.unwrap_or(self.started).elapsed(), now),
            refused,
            last_error: status.last_error.map(|text| text.to_string()),
        })
    }

    fn is_alive(&self, path: &PathSnapshot, snapshot: &Snapshot) -> bool {
        let intervals = snapshot.routers.iter().map(|router| router.config.advert_interval.duration());
        let limit = ALIVE.max(intervals.min().unwrap_or_default() * 5);
        path.heard.is_some_and(|age| age <= limit)
    }

    pub(super) fn handoffs(&self, now: SystemTime) -> Vec<HandOff> {
        let Some(peering) = &self.peering else { return Vec::new() };
        let time = self.time();
        let shown = peering.handoff.progress().map(|progress| HandOff {
            vip: progress.vip,
            to: match progress.direction {
                Direction::ToPeer => peering.name.clone(),
                Direction::FromPeer => self.node.name.clone(),
            },
            step: progress.step.to_owned(),
            connections_left: progress.connections_left.unwrap_or_default(),
            since: Moment::ago(time - progress.since, now),
        });
        shown.collect()
    }

    /// Reasons for which a failover, or a planned switchover, would not work as it should.
    pub(super) fn degraded(&self, snapshot: &Snapshot) -> Vec<String> {
        let Some(peering) = &self.peering else { return Vec::new() };
        let peer = &peering.name;
        let mut found = Vec::new();
        if !has_nft() {
            found.push("nft is not installed (package nftables): planned switchovers cut connections".into());
        }
        match &peering.channel {
            None => found.push(format!(
                "there is no sync channel to {peer}: {}",
                peering.no_channel.as_deref().unwrap_or("the nodes are not paired")
            )),
            Some(channel) => {
                let status = channel.status();
                let status = status.borrow();
                if !status.connected {
                    let why = status.last_error.as_deref().map(|why| format!(" ({why})")).unwrap_or_default();
                    found.push(format!("the sync channel to {peer} is down{why}"));
                }
            }
        }
        for (index, path) in snapshot.paths.iter().enumerate() {
            if !self.is_alive(path, snapshot) {
                found.push(format!("path {} ({} to {}) is silent", index + 1, path.local, path.remote));
            }
        }
        for router in &snapshot.routers {
            found.extend(self.split(router, peer));
            if let Some(left) = self.damped(&router.config.name) {
                found.push(format!(
                    "{} was lost three times in ten minutes: this node takes it back in {} s at the earliest",
                    router.config.name,
                    left.as_secs()
                ));
            }
        }
        if let Some(report) = peering.fresh_report()
            && report.digest != self.revision.digest()
        {
            found.push(format!(
                "{peer} runs another configuration: revision {}, here {}",
                report.revision, self.revision.number
            ));
        }
        found
    }

    /// Adverts and heartbeats that say different things about one VIP.
    fn split(&self, router: &RouterSnapshot, peer: &str) -> Option<String> {
        let (claim, _) = router.peer?;
        let (vip, interface) = (&router.config.name, &router.config.interface);
        let sees = crate::bridge::sees;
        match router.state {
            State::Master if router.peer_fresh && !claim.hears => Some(format!(
                "{vip}: {peer} does not hear our adverts on {interface}, but its heartbeats arrive: protocol 112 is \
                 filtered, or the segment is broken (we see {}, {peer} sees {})",
                sees(router.lan),
                sees(claim.lan)
            )),
            State::Backup if router.peer_fresh && claim.standing.is_held() && !router.hears => Some(format!(
                "{vip}: the adverts of {peer} are not heard on {interface}, but its heartbeats arrive: protocol 112 is \
                 filtered, or the segment is broken (we see {}, {peer} sees {})",
                sees(router.lan),
                sees(claim.lan)
            )),
            State::Backup if !router.peer_fresh && router.hears => Some(format!(
                "{vip}: the adverts of {peer} are heard, its heartbeats are not: nothing can be handed over"
            )),
            _ => None,
        }
    }
}

/// Hand-offs run it; it may be installed while the agent runs.
fn has_nft() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join("nft").is_file())
}

impl super::pair::Peering {
    fn role_since(&self, role: Role) -> Instant {
        self.role.filter(|(known, _)| *known == role).map_or_else(Instant::now, |(_, since)| since)
    }
}
