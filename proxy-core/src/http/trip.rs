//! A request that is on its way to a server, from the end of its head to the end of its answer.

use super::flow::Flow;
use super::head::{Asked, Version};
use super::rules::Picked;
use crate::persist::Affinity;

/// What is kept of a request when its head was composed anew.
#[derive(Debug)]
pub(crate) struct Trip {
    /// Index into the plan's.
    pub(crate) backend: usize,
    /// Of what its backend balances by.
    pub(crate) hash: Option<u64>,
    /// The request itself.
    pub(crate) up: Flow,
    pub(crate) asked: Asked,
    /// As the client speaks it.
    pub(crate) version: Version,
    /// The client expects to go on afterwards.
    pub(crate) persistent: bool,
    /// The client asked for another protocol.
    pub(crate) upgrade: bool,
    /// The server connection is the client's alone: its user may be known by the connection (NTLM, Negotiate).
    pub(crate) private: bool,
    /// So many bytes of its body, which are all of it, were at hand from the beginning: it can be sent again.
    pub(crate) at_hand: Option<usize>,
    /// Doing it twice is like doing it once (RFC 9110 §9.2.2).
    pub(crate) idempotent: bool,
    /// What the rules change of the answer.
    pub(crate) response_edits: Picked,
    /// Where its client belongs.
    pub(crate) affinity: Affinity,
}

impl Trip {
    /// The request may be sent again as long as nothing of an answer came: as [`Trip::at_hand`].
    pub(crate) fn replay(&self) -> Option<usize> {
        self.at_hand.filter(|_| self.idempotent)
    }
}
