//! The faults, one function each way: settle, ask, break, watch, mend, settle again.

use std::io;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use netns_lab::client::{Client, Cost, Outcome, ask_once};
use netns_lab::netns::NetnsError;
use netns_lab::wait::{self, WaitError, wait_until};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::stack::{Stack, StackError};

/// A pair needs no longer than this to be whole again: the restart of a core after a crash loop included.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// Who has not taken over by now does not take over.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(4);
/// Long enough that a SYN which was lost in the gap is sent again (1 s) and counted.
const WATCH: Duration = Duration::from_millis(1500);
/// How long a return is watched: longer than any down interval of the default adverts.
const RETURN_WATCH: Duration = Duration::from_secs(3);
/// Answers before the fault, so that everything is warm.
const WARM_UP: usize = 200;

/// What is done to the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// The active node's proxy core is killed
    ProxyKill,
    /// The active node's proxy core stops making progress
    ProxyHang,
    /// The active node's agent is killed, and started again
    AgentKill,
    /// The active node's cable is pulled
    NodeCut,
    /// The cable of a node that was cut off is plugged in again
    Return,
}

/// What came of one run.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// What the client saw.
    pub(crate) cost: Cost,
    /// The node that took over, if one did.
    pub(crate) took_over: Option<usize>,
}

/// Why a run came to no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScenarioError {
    /// A state did not come.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// The pair.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// The LAN.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The client.
    #[error("run the client")]
    Client(#[source] io::Error),
    /// A signal.
    #[error("send {signal} to process {pid}")]
    Signal {
        /// Which.
        signal: Signal,
        /// To whom.
        pid: Pid,
        /// From the system.
        #[source]
        source: Errno,
    },
}

impl Scenario {
    /// All, in the order in which they are shown.
    pub const ALL: [Scenario; 5] =
        [Scenario::ProxyKill, Scenario::ProxyHang, Scenario::AgentKill, Scenario::NodeCut, Scenario::Return];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::ProxyKill => "proxy-kill",
            Scenario::ProxyHang => "proxy-hang",
            Scenario::AgentKill => "agent-kill",
            Scenario::NodeCut => "node-cut",
            Scenario::Return => "return",
        }
    }

    /// What is done, in words.
    pub fn what(self) -> &'static str {
        match self {
            Scenario::ProxyKill => "active's proxy core killed (-9)",
            Scenario::ProxyHang => "active's proxy core stopped",
            Scenario::AgentKill => "active's agent killed (-9)",
            Scenario::NodeCut => "active's cable pulled",
            Scenario::Return => "cable plugged in again",
        }
    }

    /// The longest gap that is good, p99; `None`: nothing may move and no request may fail.
    ///
    /// A killed core has 100 ms as long as only the priority-0 advert carries the news.
    pub fn goal(self, advert_interval: Duration) -> Option<Duration> {
        match self {
            Scenario::ProxyKill => Some(Duration::from_millis(100)),
            Scenario::ProxyHang => Some(Duration::from_millis(250)),
            Scenario::AgentKill => Some(Duration::from_millis(20)),
            Scenario::NodeCut if advert_interval == Duration::from_millis(100) => Some(Duration::from_millis(400)),
            Scenario::NodeCut => Some(advert_interval * 4 + Duration::from_millis(10)),
            Scenario::Return => None,
        }
    }

    /// Does it once; the pair is whole before and after. `tell` hears what goes on.
    pub(crate) fn run(self, stack: &mut dyn Stack, tell: &mut dyn FnMut(&str)) -> Result<Run, ScenarioError> {
        tell("waiting for the pair to settle");
        let active = settle(stack, SETTLE_LIMIT)?;
        let other = 1 - active;
        if self == Scenario::Return {
            tell("cutting a node off, to have one that can return");
            stack.site().nodes[active].port.carrier(false)?;
            until_active(stack, other, SETTLE_LIMIT)?;
            wait_until("an answer from the node that took over", SETTLE_LIMIT, || {
                match ask_once(&stack.site().client.netns, stack.site().service()) {
                    Outcome::Answered => Ok(()),
                    outcome => Err(format!("{outcome:?}")),
                }
            })?;
        }
        let client = Client::start(&stack.site().client.netns, stack.site().service())?;
        wait_until("the client to be answered", SETTLE_LIMIT, || match client.answered() {
            count if count >= WARM_UP => Ok(()),
            count => Err(format!("{count} answers")),
        })?;

        tell(self.what());
        let core = match self {
            Scenario::ProxyKill | Scenario::ProxyHang => Some(stack.core(active)?),
            _ => None,
        };
        let fault = Instant::now();
        match (self, core) {
            (Scenario::ProxyKill, Some(pid)) => signal(pid, Signal::SIGKILL)?,
            (Scenario::ProxyHang, Some(pid)) => signal(pid, Signal::SIGSTOP)?,
            (Scenario::AgentKill, _) => stack.kill_agent(active)?,
            (Scenario::Return, _) => stack.site().nodes[active].port.carrier(true)?,
            (Scenario::NodeCut, _) => stack.site().nodes[active].port.carrier(false)?,
            (Scenario::ProxyKill | Scenario::ProxyHang, None) => {}
        }

        let took_over = if self == Scenario::Return {
            watch(stack, fault + RETURN_WATCH)?;
            // Whoever was cut off would have to be the one.
            stack.standing(active).is_ok_and(|standing| standing.active).then_some(active)
        } else {
            match until_active(stack, other, TAKEOVER_LIMIT) {
                Ok(()) => Some(other),
                Err(ScenarioError::Wait(WaitError::TimedOut { .. })) => None,
                Err(error) => return Err(error),
            }
        };
        tell("mending");
        match (self, core) {
            (Scenario::AgentKill, _) => stack.start_agent(active)?,
            (Scenario::ProxyHang, Some(pid)) => stack.end_hang(pid),
            _ => {}
        }
        watch(stack, fault + WATCH)?;
        if self != Scenario::NodeCut {
            tell("waiting for the pair to settle");
            settle(stack, SETTLE_LIMIT)?;
        }
        let recording = client.finish().map_err(ScenarioError::Client)?;
        if self == Scenario::NodeCut {
            stack.site().nodes[active].port.carrier(true)?;
            tell("waiting for the pair to settle");
            settle(stack, SETTLE_LIMIT)?;
        }
        Ok(Run { cost: recording.cost(fault), took_over })
    }
}

/// Waits until one node is active, the other a fit standby, and a client is answered. Returns the active one.
pub(crate) fn settle(stack: &mut dyn Stack, within: Duration) -> Result<usize, ScenarioError> {
    let mut broken = None;
    let active = wait_until("one active node, one fit standby and an answer through the VIP", within, || {
        if let Err(error) = stack.tend() {
            broken = Some(error);
            return Ok(None);
        }
        let (a, b) = (stack.standing(0), stack.standing(1));
        let active = match (&a, &b) {
            (Ok(a), Ok(b)) if a.active != b.active && a.fit && b.fit => usize::from(b.active),
            _ => {
                let words = |standing: Result<_, _>| match standing {
                    Ok(super::stack::Standing { words, .. }) => words,
                    Err(error) => error,
                };
                return Err(format!("{}: {}; {}: {}", stack.name(0), words(a), stack.name(1), words(b)));
            }
        };
        match ask_once(&stack.site().client.netns, stack.site().service()) {
            Outcome::Answered => Ok(Some(active)),
            outcome => Err(format!("{} is active, but a request was {outcome:?}", stack.name(active))),
        }
    })?;
    match (active, broken) {
        (_, Some(error)) => Err(error.into()),
        (Some(active), None) => Ok(active),
        (None, None) => unreachable!("without an error there is an active node"),
    }
}

fn until_active(stack: &mut dyn Stack, node: usize, within: Duration) -> Result<(), ScenarioError> {
    let mut broken = Ok(());
    wait_until(&format!("{} to take over", stack.name(node)), within, || {
        broken = stack.tend();
        match stack.standing(node) {
            _ if broken.is_err() => Ok(()),
            Ok(standing) if standing.active => Ok(()),
            Ok(standing) => Err(standing.words),
            Err(error) => Err(error),
        }
    })?;
    Ok(broken?)
}

/// Lets time pass until `end`, tending the stack.
fn watch(stack: &mut dyn Stack, end: Instant) -> Result<(), ScenarioError> {
    while Instant::now() < end && !wait::cancelled() {
        stack.tend()?;
        wait::pass(Duration::from_millis(10));
    }
    Ok(())
}

fn signal(pid: Pid, signal: Signal) -> Result<(), ScenarioError> {
    kill(pid, signal).map_err(|source| ScenarioError::Signal { signal, pid, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_costs_four_intervals_at_most() {
        let goal = |ms| Scenario::NodeCut.goal(Duration::from_millis(ms)).map(|goal| goal.as_millis());
        assert_eq!(goal(100), Some(400));
        assert_eq!(goal(10), Some(50));
        assert_eq!(goal(1000), Some(4010));
    }

    #[test]
    fn names_are_those_of_the_command_line() {
        for scenario in Scenario::ALL {
            assert_eq!(Scenario::from_str(scenario.name(), false), Ok(scenario));
        }
    }
}
