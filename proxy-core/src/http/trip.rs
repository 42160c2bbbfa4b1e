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
    /// The request may be sent again as long as nothing of an answer came (RFC 9110 §9.2.2): so many bytes of its
    /// body, which are all of it, were at hand from the beginning.
    pub(crate) replay: Option<usize>,
    /// What the rules change of the answer.
    pub(crate) response_edits: Picked,
    /// Where its client belongs.
    pub(crate) affinity: Affinity,
}
