//! Where the three libraries meet: one value of one side into one value of the other, and nothing else.

use std::collections::BTreeMap;

use vrrp::event::{Fault, Note, Why};
use vrrp::heartbeat::Lan;
use vrrp::io::snapshot::{RouterSnapshot, Snapshot};

use crate::failover::Core;
use crate::supervisor::{self, CoreState};

/// What the failover policy is told of the proxy core; `last_exit` is how it ended before, in words.
///
/// A crash loop's verdict stands above what the core does at the moment: one that is up between two crashes
/// is not to be relied on.
pub fn core(status: &supervisor::Status, last_exit: Option<&str>) -> Core {
    if let Some(exit) = &status.crash_loop {
        return Core::CrashLoop(exit.to_string());
    }
    match &status.state {
        CoreState::Starting | CoreState::Adopted { .. } => Core::Starting,
        CoreState::Ready { .. } => Core::Ready,
        CoreState::Hung { worker, silent } => Core::Hung { worker: *worker, silent: *silent },
        CoreState::Ending => Core::Exited("it closed its control channel".into()),
        CoreState::Exited(exit) => Core::Exited(exit.to_string()),
        CoreState::CrashLoop { last, .. } => Core::CrashLoop(last.to_string()),
        // The state has moved on before anybody looked at how it ended.
        CoreState::Backoff { .. } => Core::Exited(last_exit.unwrap_or("in an unknown way").to_owned()),
        CoreState::Draining | CoreState::Stopped => Core::Exited("it was told to end".into()),
    }
}

/// Whether a router lost its VIP through a fault of its own node.
pub fn is_own_fault(why: &Why) -> bool {
    match why {
        Why::Faulty(fault) => *fault != Fault::Maintenance,
        Why::NotServing | Why::TakenOver { .. } | Why::SeesLess { .. } | Why::Stalled(_) => true,
        _ => false,
    }
}

/// Why a router is in its state, for people.
pub fn why(why: &Why) -> String {
    match why {
        Why::Startup => "startup".into(),
        Why::Silence => "nothing was heard of an active router".into(),
        Why::Released => "the active router released it".into(),
        Why::Preempted => "the active router had a lower priority".into(),
        Why::Outranked { by, priority } => format!("{by} advertises priority {priority}"),
        Why::TakenOver { by } => format!("offered because the proxy core could not serve; {by} took it"),
        Why::Faulty(fault) => crate::failover::Reason::Router(*fault).to_string(),
        Why::NotServing => "the proxy core cannot serve".into(),
        Why::Recovered => "recovered".into(),
        Why::Superseded { term } => format!("the peer holds it in term {term}"),
        Why::HandedOver => "handed over as planned".into(),
        Why::Asked => "given to the peer on request".into(),
        Why::SeesLess { lan, peer } => {
            format!(
                "the peer does not hear our adverts and sees more of the segment ({}) than we do ({})",
                sees(*peer),
                sees(*lan)
            )
        }
        Why::Stalled(length) => format!("this process was stalled for {} ms", length.as_millis()),
        Why::Shutdown => "shut down".into(),
    }
}

/// What a node sees of a segment, for people.
pub fn sees(lan: Lan) -> &'static str {
    match lan {
        Lan::Down => "no carrier",
        Lan::Silent => "nobody",
        Lan::Hosts => "hosts, no gateway",
        Lan::Gateway => "the gateway, or everything",
    }
}

/// One event of a router, logged once with what it means.
pub fn log_note(vip: &str, note: &Note) {
    match note {
        Note::DuplicateVrid { source, other } => {
            tracing::warn!(vip, %source, %other, "duplicate VRID: two other routers advertise it; is it used by another pair?");
        }
        Note::OwnAddress => {
            tracing::warn!(vip, "an advert from our own address: a loop in the network, or a clone of this machine");
        }
        Note::Owner(source) => {
            tracing::warn!(vip, %source, "somebody advertises as the owner of the VIP (priority 255)")
        }
        Note::IntervalLearned { source, interval } => {
            let milliseconds = u64::try_from(interval.duration().as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(vip, %source, milliseconds, "another advert interval than ours is advertised; learned");
        }
        Note::AddressListMismatch(source) => {
            tracing::warn!(vip, %source, "other addresses than ours are advertised; obeyed all the same");
        }
        Note::DualActive { other, length } => {
            let milliseconds = length.map(|length| u64::try_from(length.as_millis()).unwrap_or(u64::MAX));
            tracing::warn!(vip, %other, milliseconds, "both nodes were active; it has ended");
        }
        Note::OfferNotTaken => {
            tracing::warn!(vip, "the proxy core cannot serve, the VIP was offered, and nobody took it: kept");
        }
        Note::Claimed { address, mac } => {
            let [a, b, c, d, e, f] = mac;
            let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
            tracing::warn!(vip, %address, mac, "another host claims the VIP; announced again");
        }
        Note::VipRemoved => tracing::warn!(vip, "the VIP was removed by somebody else; added again"),
    }
}

/// What a router and its interface counted, by name (docs/vrrp.md); packets that were dropped as `discarded_…`.
pub fn counters(router: &RouterSnapshot, snapshot: &Snapshot) -> BTreeMap<String, u64> {
    let own = serde_json::to_value(&router.counters).ok().and_then(|value| serde_json::from_value(value).ok());
    let mut counters: BTreeMap<String, u64> = own.unwrap_or_default();
    if let Some(interface) = snapshot.interfaces.get(&router.config.interface) {
        let discarded = interface.discarded.iter().map(|(why, count)| (format!("discarded_{why}"), *count));
        counters.extend(discarded);
    }
    counters
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant, SystemTime};

    use super::*;
    use crate::supervisor::{Exit, Status};

    fn status(state: CoreState) -> Status {
        Status {
            state,
            crash_loop: None,
            pid: None,
            since: Instant::now(),
            since_wall: SystemTime::now(),
            restarts: 0,
            revision: None,
            workers: 1,
            uid: None,
            uid_note: None,
            limits: None,
            events_dropped: 0,
        }
    }

    /// The second exit in a row shows as `Backoff` already when it is looked at: the VIP was then kept for 100 ms.
    #[test]
    fn a_core_that_waits_for_its_restart_cannot_serve() {
        let waiting = status(CoreState::Backoff { wait: Duration::from_millis(100) });
        assert_eq!(core(&waiting, Some("signal 9")), Core::Exited("signal 9".into()));
        assert!(matches!(core(&waiting, None), Core::Exited(_)));
    }

    #[test]
    fn the_verdict_of_a_crash_loop_outlasts_a_core_that_is_up() {
        let exit = Exit { status: "signal 9".into(), last_log: None };
        let up = CoreState::Ready { pid: 1, revision: 1 };
        let ready = status(up.clone());
        assert_eq!(core(&ready, None), Core::Ready);
        let doubtful = Status { crash_loop: Some(exit), ..status(up) };
        assert_eq!(core(&doubtful, None), Core::CrashLoop("signal 9".into()));
    }
}
