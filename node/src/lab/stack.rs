//! What the lab needs from whatever makes the pair: `lbnode` itself, or another stack for comparison.

use std::io;
use std::time::Duration;

use netns_lab::pair::{FailoverError, NAMES, Pair, PairError};
use netns_lab::process::ProcessError;
use netns_lab::site::Site;
use netns_lab::wait::WaitError;
use nix::unistd::Pid;

use super::scenario::Scenario;

/// A node that is still busy with one switchover may refuse the next for so long.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(5);

/// How one node stands.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    /// It holds the VIP.
    pub(crate) active: bool,
    /// It serves, or would after a takeover.
    pub(crate) fit: bool,
    /// The same in words.
    pub(crate) words: String,
}

/// Why a stack could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StackError {
    /// A process.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The place, or the pair in it.
    #[error(transparent)]
    Pair(#[from] PairError),
    /// Programs that are not installed.
    #[error("--peer-stack needs {}: apt install {}", .0.join(", "), .0.join(" "))]
    Missing(Vec<&'static str>),
    /// A generated file.
    #[error("write {path}")]
    File {
        /// Which.
        path: std::path::PathBuf,
        /// From the system.
        #[source]
        source: io::Error,
    },
    /// A switchover that was asked for.
    #[error(transparent)]
    Failover(#[from] FailoverError),
    /// A state did not come.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// There is no proxy core to do something to.
    #[error("{0} has no proxy core: {1}")]
    NoCore(&'static str, String),
}

/// A pair of some make. Nodes are numbered as in [`Site::nodes`].
pub(crate) trait Stack {
    /// Where it lives.
    fn site(&self) -> &Site;

    /// How a node stands; the error says why it cannot be told.
    fn standing(&mut self, node: usize) -> Result<Standing, String>;

    /// The process that carries the clients' bytes.
    fn core(&mut self, node: usize) -> Result<Pid, StackError>;

    /// Has a node give the VIP to the other one, as its operators would; returns when they are told that it is done.
    fn hand_over(&mut self, node: usize) -> Result<(), StackError>;

    /// Why a scenario makes no sense here, if it makes none.
    fn leaves_out(&self, scenario: Scenario) -> Option<&'static str>;

    /// Kills (`-9`) the process that owns the VIP and watches over the core.
    fn kill_agent(&mut self, node: usize) -> Result<(), StackError>;

    /// Starts it again, as a service manager would.
    fn start_agent(&mut self, node: usize) -> Result<(), StackError>;

    /// Ends the hang of core `pid`, where the stack does not do that by itself.
    fn end_hang(&mut self, pid: Pid);

    /// Does what a service manager does: called again and again.
    fn tend(&mut self) -> Result<(), StackError>;

    /// What its processes say, for an error message.
    fn describe(&mut self) -> String;

    /// What a node is called.
    fn name(&self, node: usize) -> &'static str {
        NAMES[node]
    }
}

impl Stack for Pair {
    fn site(&self) -> &Site {
        &self.site
    }

    fn standing(&mut self, node: usize) -> Result<Standing, String> {
        let status = self.nodes[node].status().map_err(|error| error.to_string())?;
        // One whose servers are down yet, after its cable came back, would take over and have nobody to send clients to.
        let fit = status.fit() && status.servers_up();
        Ok(Standing { active: status.active(), fit, words: status.words() })
    }

    fn core(&mut self, node: usize) -> Result<Pid, StackError> {
        let no_core = |why| StackError::NoCore(NAMES[node], why);
        let status = self.nodes[node].status().map_err(|error| no_core(error.to_string()))?;
        status.core().ok_or_else(|| no_core(status.words()))
    }

    fn hand_over(&mut self, node: usize) -> Result<(), StackError> {
        Ok(self.nodes[node].failover(HAND_OVER_LIMIT)?)
    }

    fn leaves_out(&self, scenario: Scenario) -> Option<&'static str> {
        match scenario {
            Scenario::Planned | Scenario::PlannedAndBack if !self.paired() => {
                Some("the nodes are not paired, so nothing can be handed over")
            }
            Scenario::LanDeadSyncAlive | Scenario::AdvertsFiltered if !self.paired() => {
                Some("the nodes are not paired, so they have no second path")
            }
            _ => None,
        }
    }

    fn kill_agent(&mut self, node: usize) -> Result<(), StackError> {
        Pair::kill_agent(self, node);
        Ok(())
    }

    fn start_agent(&mut self, node: usize) -> Result<(), StackError> {
        Ok(Pair::start_agent(self, node)?)
    }

    fn end_hang(&mut self, _pid: Pid) {
        // The supervisor kills a core that makes no progress for 2 s.
    }

    fn tend(&mut self) -> Result<(), StackError> {
        // The agent looks after its core itself.
        Ok(())
    }

    fn describe(&mut self) -> String {
        format!("{}\n{}", Pair::describe(self, 0), Pair::describe(self, 1))
    }
}
