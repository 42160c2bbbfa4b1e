//! What the channel counts, by name. All of it only grows, from zero at the start of the process.

use std::fmt;

/// Why a connection was refused, or a session ended by this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum Reason {
    /// A certificate that is not accepted.
    Pin,
    /// Our own certificate: a clone of this node's identity.
    Clone,
    /// Another version of the protocol.
    Version,
    /// Another node than the paired one, or of another pair.
    Name,
    /// A frame over the limit.
    FrameTooLong,
    /// Bytes behind a frame's value.
    Trailing,
    /// Bytes that make no sense.
    Malformed,
    /// No hello in time, or nothing at all for too long.
    Silence,
    /// The TLS session broke, or was refused by the other side.
    Tls,
    /// Too many connections that have not said who they are.
    Crowded,
    /// The other side left before it said who it is.
    Closed,
    /// Nobody answers where the peer should be.
    Unreachable,
}

/// All of them, in the order of [`Reason`].
pub const REASONS: [Reason; 12] = [
    Reason::Pin,
    Reason::Clone,
    Reason::Version,
    Reason::Name,
    Reason::FrameTooLong,
    Reason::Trailing,
    Reason::Malformed,
    Reason::Silence,
    Reason::Tls,
    Reason::Crowded,
    Reason::Closed,
    Reason::Unreachable,
];

impl Reason {
    /// As counters and logs call it.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Pin => "pin",
            Reason::Clone => "clone",
            Reason::Version => "version",
            Reason::Name => "name",
            Reason::FrameTooLong => "frame_too_long",
            Reason::Trailing => "trailing",
            Reason::Malformed => "malformed",
            Reason::Silence => "silence",
            Reason::Tls => "tls",
            Reason::Crowded => "crowded",
            Reason::Closed => "closed",
            Reason::Unreachable => "unreachable",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The counters of a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections that were tried.
    pub dials: u64,
    /// Connections that came in, refused ones too.
    pub incoming: u64,
    /// Sessions that came up.
    pub sessions: u64,
    /// Sessions that a newer one replaced.
    pub replaced: u64,
    /// Messages handed to the node.
    pub received: u64,
    /// Messages taken from the node; those in the queue of a session that ended are lost with it.
    pub sent: u64,
    /// Messages given back to the node because the queue was full.
    pub full: u64,
    /// By [`Reason`].
    refused: [u64; REASONS.len()],
}

impl Counters {
    /// How often something was refused for this reason.
    pub fn refused(&self, reason: Reason) -> u64 {
        self.refused[reason as usize]
    }

    /// All that was refused.
    pub fn refusals(&self) -> u64 {
        self.refused.iter().sum()
    }

    pub(crate) fn without_messages(self) -> Counters {
        Counters { received: 0, sent: 0, full: 0, ..self }
    }

    pub(crate) fn refuse(&mut self, reason: Reason) {
        self.refused[reason as usize] += 1;
    }

    /// Each counter with its name.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let own = [
            ("dials", self.dials),
            ("incoming", self.incoming),
            ("sessions", self.sessions),
            ("replaced", self.replaced),
            ("received", self.received),
            ("sent", self.sent),
            ("full", self.full),
        ];
        own.into_iter().chain(REASONS.into_iter().map(|reason| (reason.name(), self.refused(reason))))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_reason_has_a_place_and_a_name_of_its_own() {
        let mut counters = Counters::default();
        for (place, reason) in REASONS.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
            counters.refuse(reason);
            assert_eq!(counters.refused(reason), 1);
        }
        let names: BTreeSet<&str> = counters.named().map(|(name, _)| name).collect();
        assert_eq!(names.len(), counters.named().count());
    }
}
