//! What the lab needs from whatever makes the pair: `lbnode` itself, or another stack for comparison.

use std::io;

use netns_lab::pair::{NAMES, Pair, PairError};
use netns_lab::process::ProcessError;
use netns_lab::site::Site;
use nix::unistd::Pid;

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
        Ok(Standing { active: status.active(), fit: status.fit(), words: status.words() })
    }

    fn core(&mut self, node: usize) -> Result<Pid, StackError> {
        let no_core = |why| StackError::NoCore(NAMES[node], why);
        let status = self.nodes[node].status().map_err(|error| no_core(error.to_string()))?;
        status.core().ok_or_else(|| no_core(status.words()))
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
