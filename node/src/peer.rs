//! What the two agents say to each other over the sync channel.

use serde::{Deserialize, Serialize};
use vrrp::io::snapshot::Step;

use crate::handoff;
use crate::records::Records;
use crate::status::{ProxyState, Role};

/// One message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// How the sender is, about every second and after each change.
    Report(Report),
    /// About a VIP that moves as planned.
    HandOff(handoff::message::Message),
    /// Something that the sender did for a VIP, for the timeline of the event.
    Step(StepTold),
    /// Which connections live at the sender.
    Records(Records),
}

/// How a node is, as it says itself: what the other one's `status` shows of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Of the agent's program.
    pub version: String,
    /// What it does.
    pub role: Role,
    /// It serves, or would, as well as it can.
    pub fit: bool,
    /// Why it is not fit.
    pub reasons: Vec<String>,
    /// `[vrrp] priority`.
    pub priority: u8,
    /// Its proxy core.
    pub proxy: ProxyState,
    /// The revision that it runs.
    pub revision: u64,
    /// SHA-256 of the cluster file's text, in hex.
    pub digest: String,
}

/// See [`Message::Step`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepTold {
    /// The VIP's name.
    pub vip: String,
    /// What.
    pub what: Did,
    /// The term in which it was held, or began to be.
    pub term: u64,
    /// The sender's [`sync::clock`], microseconds.
    pub at: u64,
}

/// What a node did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Did {
    /// It noticed that it cannot serve.
    Detect,
    /// A step of its election.
    Step(Step),
    /// It found that both nodes had held the VIP, for so many milliseconds. Who goes on holding it may never have seen it.
    DualActive {
        /// As far as it knows.
        length: u64,
    },
}
