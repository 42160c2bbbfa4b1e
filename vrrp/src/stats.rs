//! Counters of one router and of one interface: plain numbers that the shell keeps and shows.
//!
//! Names follow RFC 6527 where it has one. They only ever grow, and wrap nowhere that a node lives to see.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::event::{Input, Output, RELEASE, State};
use crate::packet::DecodeError;

/// What one router sent, obeyed and refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RouterStats {
    /// Times it became active (vrrpv3StatisticsMasterTransitions).
    pub master_transitions: u64,
    /// Valid adverts heard, releases too (vrrpv3StatisticsRcvdAdvertisements).
    pub advertisements_received: u64,
    /// Adverts the election asked to send, releases too.
    pub advertisements_sent: u64,
    /// Releases heard (vrrpv3StatisticsRcvdPriZeroPackets).
    pub priority_zero_received: u64,
    /// Releases the election asked to send (vrrpv3StatisticsSentPriZeroPackets).
    pub priority_zero_sent: u64,
    /// Packets for this VRID that were refused, by [`DecodeError::name`].
    pub refused: BTreeMap<&'static str, u64>,
}

impl RouterStats {
    /// Counts a fact before the election is told.
    pub fn input(&mut self, input: &Input) {
        if let Input::Advert(advert) = input {
            self.advertisements_received += 1;
            self.priority_zero_received += u64::from(advert.priority == RELEASE);
        }
    }

    /// Counts what the election wants done.
    pub fn output(&mut self, output: &Output) {
        match output {
            Output::Advert { priority } => {
                self.advertisements_sent += 1;
                self.priority_zero_sent += u64::from(*priority == RELEASE);
            }
            Output::Transition { to: State::Master, .. } => self.master_transitions += 1,
            _ => {}
        }
    }

    /// Counts a packet that this router's check refused.
    pub fn refused(&mut self, error: &DecodeError) {
        *self.refused.entry(error.name()).or_default() += 1;
    }
}

/// What was refused on an interface before a router could be told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InterfaceStats {
    /// By [`DecodeError::name`]; a packet cut off by the receive buffer counts as `truncated`.
    pub refused: BTreeMap<&'static str, u64>,
}

impl InterfaceStats {
    /// Counts a packet that no router was told of.
    pub fn refused(&mut self, error: &DecodeError) {
        *self.refused.entry(error.name()).or_default() += 1;
    }
}
