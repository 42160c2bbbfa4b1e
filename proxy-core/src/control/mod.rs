//! What agent and proxy core say to each other: messages, and the keys of the descriptors that travel with them.
//!
//! Both ends are `lbnode`, but not always of one age, and the core is the one that strangers talk to: whatever
//! breaks the rules of a frame ends the channel with an error that says so. Descriptors are announced first
//! ([`Keys`], typed, one key each), then come in batches, and are counted.

mod channel;
mod codec;

use std::collections::BTreeSet;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use channel::{Channel, ChannelError, Received};
pub use codec::{FrameError, MAX_FRAME};

use crate::limits::Limits;
use crate::listener::ListenerKey;
use crate::plan::{List, Plan};
use crate::stats::{Stats, StickEntry, Summary};

/// Changes with every change of a message; a core and an agent of different versions do not adopt each other.
pub const VERSION: u32 = 6;

/// Descriptors in one batch; well below the kernel's 253 in one message.
pub const BATCH: usize = 64;

/// Descriptors that one manifest may announce.
pub const MAX_DESCRIPTORS: usize = 65_536;

/// What a descriptor is for. A socket pair of a probe is held by the core with both ends: a worker then never
/// sees it close, and the next agent gets its end back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DescriptorKey {
    /// A bound, listening TCP socket.
    Listener(ListenerKey),
    /// The memfd of a [`crate::beat::BeatBoard`].
    Board,
    /// The end of a worker's probe that enters its accept loop.
    Probe(u16),
    /// The end of a worker's probe that the agent asks at.
    ProbeAgent(u16),
    /// The bound unix socket at which the next agent adopts this core.
    Adoption,
    /// The pipe that takes the core's log, in place of the one before.
    Log,
    /// What takes the lines of this log sink of the plan that comes next ([`crate::plan::Plan::log_sinks`]). Not handed
    /// over: every agent opens its own.
    LogSink(u16),
}

impl fmt::Display for DescriptorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DescriptorKey::Listener(key) => write!(f, "listener {} of worker {}", key.address, key.worker),
            DescriptorKey::Board => f.write_str("beat board"),
            DescriptorKey::Probe(worker) => write!(f, "probe of worker {worker}"),
            DescriptorKey::ProbeAgent(worker) => write!(f, "agent's end of the probe of worker {worker}"),
            DescriptorKey::Adoption => f.write_str("adoption socket"),
            DescriptorKey::Log => f.write_str("log pipe"),
            DescriptorKey::LogSink(index) => write!(f, "log sink {index}"),
        }
    }
}

/// The keys of descriptors, in the order in which they travel.
pub type Keys = BTreeSet<DescriptorKey>;

/// From the agent to the core.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToCore {
    /// The descriptors that follow, in this order. Whole before the next message of another kind.
    Manifest(Keys),
    /// The next batch of them: as many as `count`, in the ancillary data of this frame.
    Descriptors {
        /// 1 to [`BATCH`].
        count: u16,
    },
    /// Begin, with the listeners, log sinks and the rest that came before. Answered by [`FromCore::Ready`] or [`FromCore::Rejected`].
    Start {
        /// What to do.
        plan: Plan,
        /// Worker threads.
        workers: u16,
    },
    /// Do this from now on. Answered like `Start`; after a rejection the old plan goes on.
    Apply {
        /// What to do.
        plan: Plan,
        /// Listeners that are no longer accepted from; their descriptors are closed.
        removed: BTreeSet<ListenerKey>,
    },
    /// Accept nothing more; what has not ended by itself after so long is reset. Answered by
    /// [`FromCore::Drained`], and then the core ends.
    Drain {
        /// From now on.
        deadline: Duration,
    },
    /// Answered by [`FromCore::Stats`].
    Stats,
    /// Answered by [`FromCore::Summary`].
    Summary,
    /// The plan's list of this name has these networks from now on. Answered by [`FromCore::ListTaken`].
    List(List),
    /// Answered by [`FromCore::Table`].
    Table(TableAsk),
    /// Use the log sinks that came from now on, for the plan that runs: their files were moved away.
    ReopenLogs,
    /// What came of the program of this [`FromCore::RunProgram`].
    ProgramEnded {
        /// As it was asked with.
        ticket: u64,
        /// It passed.
        ok: bool,
        /// In words.
        what: String,
    },
    /// Sent by an agent that adopts: hand over every descriptor.
    /// Answered by [`FromCore::Manifest`] and the descriptors.
    HandOver,
}

/// From the core to the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromCore {
    /// The first frame of every channel.
    Hello(Hello),
    /// As [`ToCore::Manifest`].
    Manifest(Keys),
    /// As [`ToCore::Descriptors`].
    Descriptors {
        /// 1 to [`BATCH`].
        count: u16,
    },
    /// The plan of this revision runs.
    Ready {
        /// As in the plan.
        revision: u64,
        /// What the descriptor limit allows.
        limits: Limits,
    },
    /// The plan cannot run, and what is done about it.
    Rejected {
        /// As in the plan.
        revision: u64,
        /// In words.
        why: String,
    },
    /// What the data plane counts.
    Stats(Box<Stats>),
    /// What of it is looked at all the time.
    Summary(Summary),
    /// Run the program that checks this server, as the plan has it, within its timeout. Answered by
    /// [`ToCore::ProgramEnded`].
    RunProgram {
        /// Tells the answers apart.
        ticket: u64,
        /// As in the plan.
        backend: String,
        /// As in the plan.
        server: String,
    },
    /// Every rule is measured against the list's new networks; or there is no list of that name.
    ListTaken,
    /// To [`ToCore::Table`].
    Table(TableAnswer),
    /// Nothing is left to carry.
    Drained {
        /// Sessions that were reset at the deadline.
        reset: u64,
    },
    /// It was told to end by somebody else than the agent: it accepts nothing more, and is gone by the deadline.
    Draining {
        /// From now on.
        deadline: Duration,
    },
}

/// What is wanted of a stick table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TableAsk {
    /// The entries that were used last, at most [`TableAsk::MOST`], or the one of this key.
    Show {
        /// Its name.
        table: String,
        /// As it is shown.
        key: Option<String>,
    },
    /// To forget everything, or this key.
    Clear {
        /// Its name.
        table: String,
        /// As it is shown.
        key: Option<String>,
    },
}

impl TableAsk {
    /// Entries in one answer.
    pub const MOST: usize = 1000;
}

/// What comes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TableAnswer {
    /// They are there.
    Entries(Vec<StickEntry>),
    /// So many were forgotten.
    Cleared(u64),
    /// There is none of this name; there are these.
    NoTable(Vec<String>),
    /// The table's keys are addresses, and this is none.
    BadKey,
}

/// Who answers at the other end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`] of the core.
    pub version: u32,
    /// Its process, as the core sees it.
    pub pid: u32,
    /// Revision and workers, when it is running already.
    pub running: Option<Running>,
    /// The user it runs as.
    pub uid: u32,
    /// Why that is not the one that was asked for.
    pub uid_note: Option<String>,
}

/// What a core that is adopted was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Of its plan.
    pub revision: u64,
    /// Worker threads.
    pub workers: u16,
    /// What its descriptor limit allows.
    pub limits: Limits,
}

/// A message of either direction that may announce or carry descriptors.
pub trait Message: Serialize + serde::de::DeserializeOwned {
    /// The announcement of these keys.
    fn manifest(keys: Keys) -> Self;
    /// The frame that carries so many.
    fn descriptors(count: u16) -> Self;
    /// What this message says about descriptors.
    fn about_descriptors(&self) -> About<'_>;
}

/// What a message says about descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About<'a> {
    /// They follow.
    Announced(&'a Keys),
    /// So many are with it.
    Carried(u16),
    /// Nothing.
    Nothing,
}

/// Descriptors by what they are for.
pub type Descriptors = std::collections::BTreeMap<DescriptorKey, Arc<OwnedFd>>;

macro_rules! message {
    ($name:ident) => {
        impl Message for $name {
            fn manifest(keys: Keys) -> Self {
                $name::Manifest(keys)
            }
            fn descriptors(count: u16) -> Self {
                $name::Descriptors { count }
            }
            fn about_descriptors(&self) -> About<'_> {
                match self {
                    $name::Manifest(keys) => About::Announced(keys),
                    $name::Descriptors { count } => About::Carried(*count),
                    _ => About::Nothing,
                }
            }
        }
    };
}
message!(ToCore);
message!(FromCore);
