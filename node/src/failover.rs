//! The failover policy: from what is known of this node to what the election is told.
//!
//! Pure: facts in by [`Failover::handle`], changes out by [`Failover::poll_output`]; no clock, no socket.
//! Two kinds of bad news are kept apart (docs/failover.md, "What counts as healthy"):
//! a node that *cannot* serve never takes a VIP and offers the one it has; what merely *weakens* a node moves
//! nothing by itself, because a peer that is known to be fitter is the only reason to yield.

pub mod planned;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use vrrp::event::Fault;

/// A fact about this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// What the supervisor says of the proxy core.
    Core(Core),
    /// An operator took the node out of service, or put it back.
    Maintenance(bool),
    /// The reasons for which one VIP's router is in fault, as its election has them.
    Faults {
        /// The VIP's name.
        vip: String,
        /// Empty: none.
        faults: BTreeSet<Fault>,
    },
    /// Backends of which no server is usable.
    BackendsDown(BTreeSet<String>),
}

/// What matters of the proxy core's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Core {
    /// Started and not ready yet.
    Starting,
    /// Carries traffic.
    Ready,
    /// It ended; the last words are how.
    Exited(String),
    /// A worker made no progress for so long.
    Hung {
        /// Which worker.
        worker: u16,
        /// Since its last sign of life.
        silent: Duration,
    },
    /// It ends again and again; up or not, it cannot be relied on.
    CrashLoop(String),
}

/// One reason why a node is not fit, in words and with a stable name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The proxy core is not ready.
    Core(Core),
    /// The router of the VIP cannot take part.
    Router(Fault),
    /// Out of service.
    Maintenance,
    /// A backend without a usable server.
    BackendDown(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Core(Core::Starting) => f.write_str("the proxy core is starting"),
            Reason::Core(Core::Ready) => f.write_str("the proxy core is ready"),
            Reason::Core(Core::Exited(how)) => write!(f, "the proxy core ended ({how}) and is being restarted"),
            Reason::Core(Core::Hung { worker, silent }) => {
                write!(f, "worker {worker} of the proxy core made no progress for {} ms", silent.as_millis())
            }
            Reason::Core(Core::CrashLoop(how)) => write!(f, "the proxy core ends again and again ({how})"),
            Reason::Router(Fault::InterfaceMissing) => f.write_str("the interface does not exist (yet)"),
            Reason::Router(Fault::NoSocket) => f.write_str("the sockets for adverts could not be opened"),
            Reason::Router(Fault::LinkDown) => f.write_str("the link is down"),
            Reason::Router(Fault::LinkUnheard) => f.write_str("the link is up, but nothing was heard through it yet"),
            Reason::Router(Fault::NoSourceAddress) => f.write_str("the interface has no address to send adverts from"),
            Reason::Router(Fault::Maintenance) | Reason::Maintenance => f.write_str("maintenance"),
            Reason::Router(Fault::LeaseNotRenewed) => {
                f.write_str("the kernel did not acknowledge the lease of the VIP in time")
            }
            Reason::Router(Fault::Isolated) => {
                f.write_str("neither the peer nor the gateway is heard, and `on_isolation` is \"yield\"")
            }
            Reason::BackendDown(backend) => write!(f, "backend {backend} has no usable server"),
        }
    }
}

/// What this node is worth for one VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fitness {
    /// It serves, and a takeover would work.
    Fit,
    /// It can serve, but a fitter peer would do better.
    Weakened(Vec<Reason>),
    /// It cannot serve.
    Unfit(Vec<Reason>),
}

impl Fitness {
    /// The reasons, worst first; empty if fit.
    pub fn reasons(&self) -> &[Reason] {
        match self {
            Fitness::Fit => &[],
            Fitness::Weakened(reasons) | Fitness::Unfit(reasons) => reasons,
        }
    }

    /// Whether the node may take the VIP.
    pub fn can_serve(&self) -> bool {
        !matches!(self, Fitness::Unfit(_))
    }
}

/// What changed for the election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// [`vrrp::event::Input::Serving`] for every router.
    Serving(bool),
    /// [`Fault::Maintenance`] for every router, raised or cleared.
    Maintenance(bool),
    /// The node can serve, but a fitter one would do better; the peer is told.
    Weakened(bool),
}

/// The policy's memory: the facts as last heard.
#[derive(Debug)]
pub struct Failover {
    core: Core,
    maintenance: bool,
    faults: BTreeMap<String, BTreeSet<Fault>>,
    backends_down: BTreeSet<String>,
    told_serving: Option<bool>,
    outputs: VecDeque<Output>,
}

impl Default for Failover {
    fn default() -> Self {
        Failover {
            core: Core::Starting,
            maintenance: false,
            faults: BTreeMap::new(),
            backends_down: BTreeSet::new(),
            told_serving: None,
            outputs: VecDeque::new(),
        }
    }
}

impl Failover {
    /// Takes in one fact.
    pub fn handle(&mut self, input: Input) {
        match input {
            Input::Core(core) => {
                self.core = core;
                let serving = self.core == Core::Ready;
                if self.told_serving != Some(serving) {
                    self.told_serving = Some(serving);
                    self.outputs.push_back(Output::Serving(serving));
                }
            }
            Input::Maintenance(on) if on != self.maintenance => {
                self.maintenance = on;
                self.outputs.push_back(Output::Maintenance(on));
            }
            Input::Maintenance(_) => {}
            Input::Faults { vip, faults } => {
                self.faults.insert(vip, faults);
            }
            Input::BackendsDown(backends) => {
                if backends.is_empty() != self.backends_down.is_empty() {
                    self.outputs.push_back(Output::Weakened(!backends.is_empty()));
                }
                self.backends_down = backends;
            }
        }
    }

    /// The next thing to tell the election.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether an operator took the node out of service.
    pub fn maintenance(&self) -> bool {
        self.maintenance
    }

    /// Forgets the VIPs that `keep` does not name: they are configured no more.
    pub fn retain_vips(&mut self, keep: &BTreeSet<String>) {
        self.faults.retain(|vip, _| keep.contains(vip));
    }

    /// What this node is worth for `vip`.
    pub fn fitness(&self, vip: &str) -> Fitness {
        let mut unfit = Vec::new();
        if self.maintenance {
            unfit.push(Reason::Maintenance);
        }
        if self.core != Core::Ready {
            unfit.push(Reason::Core(self.core.clone()));
        }
        let faults = self.faults.get(vip).into_iter().flatten();
        unfit.extend(faults.filter(|fault| **fault != Fault::Maintenance).map(|fault| Reason::Router(*fault)));
        if !unfit.is_empty() {
            return Fitness::Unfit(unfit);
        }
        let weak: Vec<Reason> = self.backends_down.iter().cloned().map(Reason::BackendDown).collect();
        if weak.is_empty() { Fitness::Fit } else { Fitness::Weakened(weak) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs(policy: &mut Failover) -> Vec<Output> {
        std::iter::from_fn(|| policy.poll_output()).collect()
    }

    fn hung() -> Core {
        Core::Hung { worker: 1, silent: Duration::from_millis(160) }
    }

    /// Every state of the core × every next one: what the election hears, and whether the node may take a VIP.
    #[test]
    fn only_a_ready_core_serves() {
        let states = [
            (Core::Starting, false),
            (Core::Ready, true),
            (Core::Exited("signal 9".into()), false),
            (hung(), false),
            (Core::CrashLoop("exit status 1".into()), false),
        ];
        for (before, could) in &states {
            for (after, can) in &states {
                let mut policy = Failover::default();
                policy.handle(Input::Core(before.clone()));
                assert_eq!(outputs(&mut policy), [Output::Serving(*could)], "first news are always told");
                policy.handle(Input::Core(after.clone()));
                let expected: &[Output] = if could == can { &[] } else { &[Output::Serving(*can)] };
                assert_eq!(outputs(&mut policy), expected, "{before:?} then {after:?}");
                assert_eq!(policy.fitness("v").can_serve(), *can, "{before:?} then {after:?}");
            }
        }
    }

    /// One row a fact: the fitness of VIP `v` of a node whose core is ready.
    #[test]
    fn each_fact_weighs_as_the_table_says() {
        let faults = |vip: &str, fault: Fault| Input::Faults { vip: vip.into(), faults: BTreeSet::from([fault]) };
        let unfit = |reason: Reason| Fitness::Unfit(vec![reason]);
        let table: Vec<(Input, Fitness)> = vec![
            (Input::Core(Core::Ready), Fitness::Fit),
            (Input::Core(Core::Starting), unfit(Reason::Core(Core::Starting))),
            (Input::Core(hung()), unfit(Reason::Core(hung()))),
            (Input::Maintenance(true), unfit(Reason::Maintenance)),
            (Input::Maintenance(false), Fitness::Fit),
            (faults("v", Fault::LinkDown), unfit(Reason::Router(Fault::LinkDown))),
            (faults("v", Fault::LinkUnheard), unfit(Reason::Router(Fault::LinkUnheard))),
            (faults("v", Fault::NoSourceAddress), unfit(Reason::Router(Fault::NoSourceAddress))),
            (faults("v", Fault::NoSocket), unfit(Reason::Router(Fault::NoSocket))),
            (faults("v", Fault::InterfaceMissing), unfit(Reason::Router(Fault::InterfaceMissing))),
            (faults("v", Fault::LeaseNotRenewed), unfit(Reason::Router(Fault::LeaseNotRenewed))),
            (faults("other", Fault::LinkDown), Fitness::Fit),
            (
                Input::BackendsDown(BTreeSet::from(["web".into()])),
                Fitness::Weakened(vec![Reason::BackendDown("web".into())]),
            ),
        ];
        for (input, expected) in table {
            let mut policy = Failover::default();
            policy.handle(Input::Core(Core::Ready));
            policy.handle(input.clone());
            assert_eq!(policy.fitness("v"), expected, "{input:?}");
        }
    }

    #[test]
    fn what_cannot_serve_hides_what_merely_weakens() {
        let mut policy = Failover::default();
        policy.handle(Input::BackendsDown(BTreeSet::from(["web".into()])));
        policy.handle(Input::Core(Core::Exited("signal 9".into())));
        assert_eq!(policy.fitness("v"), Fitness::Unfit(vec![Reason::Core(Core::Exited("signal 9".into()))]));
        policy.handle(Input::Core(Core::Ready));
        assert_eq!(policy.fitness("v"), Fitness::Weakened(vec![Reason::BackendDown("web".into())]));
        policy.handle(Input::BackendsDown(BTreeSet::new()));
        assert_eq!(policy.fitness("v"), Fitness::Fit);
    }

    #[test]
    fn maintenance_is_told_once_and_named_once() {
        let mut policy = Failover::default();
        policy.handle(Input::Core(Core::Ready));
        policy.handle(Input::Maintenance(true));
        policy.handle(Input::Maintenance(true));
        policy.handle(Input::Faults { vip: "v".into(), faults: BTreeSet::from([Fault::Maintenance]) });
        assert_eq!(outputs(&mut policy), [Output::Serving(true), Output::Maintenance(true)]);
        assert_eq!(policy.fitness("v"), Fitness::Unfit(vec![Reason::Maintenance]));
    }
}
