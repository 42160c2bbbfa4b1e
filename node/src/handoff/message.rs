//! What the two machines of a hand-off say to each other, over the channel between the nodes: reliable, in order,
//! until the session breaks.
//!
//! ```text
//!   leaver                                   taker
//!     │ ◄──────────────────────────── Want ─── │    only if the taker asked for it
//!     │ ── Offer, Flows … Flows(last) ───────► │    it installs its rules, and probes
//!     │ ── ProbeSeen ────────────────────────► │
//!     │ ◄─────────────────────────── Ready ─── │
//!     │ ── Go ───────────────────────────────► │    it takes the VIP; until here either side may abort
//!     │ ◄─────────────────────────── Taken ─── │    it has announced the VIP and is not muted
//!     │ ── Released ─────────────────────────► │    mute, and without the address; it announces again
//!     │ ◄─────────────────────── Announced ─── │    nobody opens anything new at the leaver from here on
//!     │ ── Flows … Flows(last) ──────────────► │    so this dump is complete
//!     │ ◄───────────────────────── Settled ─── │
//!     │ ── Left, Left, … ────────────────────► │    every second
//!     │ ── Done ─────────────────────────────► │
//! ```

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::job::{Flow, Neighbour, ProbeTarget};

/// The most connections that one [`Body::Flows`] carries.
pub const CHUNK: usize = 2_000;
/// The most connections of a VIP that are handed off. With more there is no hand-off.
pub const FLOWS_MAX: usize = 2_000_000;
/// The most characters that are kept of a peer's words.
const WORDS_MAX: usize = 300;

/// Which hand-off, or which request for one: unique among all of both nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Id {
    /// The process that made it: random, or a count of starts that both nodes never share.
    pub instance: u64,
    /// Counted by it, from 1.
    pub number: u64,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The VIP's name.
    pub vip: String,
    /// Of which hand-off; of a request if it is [`Body::Want`], or the [`Body::Refused`] that answers it.
    pub id: Id,
    /// What is said.
    pub body: Body,
}

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// Standby to active: give me the VIP. Answered by an [`Body::Offer`] with an id of its own, or refused.
    Want {
        /// Why, in words.
        reason: String,
    },
    /// Leaver to taker: take the VIP. The first dump follows.
    Offer {
        /// Why, in words.
        reason: String,
        /// The VIP, as the leaver's configuration has it.
        address: IpAddr,
        /// The leaver itself.
        leaver: Neighbour,
        /// Where the probe has to arrive.
        probe: ProbeTarget,
        /// How many connections follow, [`FLOWS_MAX`] at most.
        connections: u64,
    },
    /// Leaver to taker: a part of a dump.
    Flows {
        /// Counted from 0 in each dump.
        part: u32,
        /// [`CHUNK`] at most; none only in the last part.
        flows: Vec<Flow>,
        /// Whether the dump is complete with it.
        last: bool,
    },
    /// Leaver to taker: the probe came through.
    ProbeSeen,
    /// Taker to leaver: the rules are in place.
    Ready,
    /// There will be no hand-off. Before [`Body::Go`] only.
    Refused {
        /// Why, in words.
        why: String,
    },
    /// Leaver to taker: become active.
    Go,
    /// Taker to leaver: it is active, and has said so on the segment.
    Taken,
    /// Leaver to taker: it has no address any more and is mute.
    Released,
    /// Taker to leaver: announced once more.
    Announced,
    /// Taker to leaver: the rules stand as they will stay.
    Settled,
    /// Leaver to taker: so many of its connections live.
    Left {
        /// How many.
        connections: u64,
    },
    /// Leaver to taker: none of its connections is left, the rules can go.
    Done,
    /// Either: this hand-off is over here, or was never known.
    Abort {
        /// Why, in words.
        why: String,
    },
}

/// A peer's words as they may be logged and shown: one line, printable, not long.
pub(super) fn words(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect()
}

/// A dump cut into messages' bodies; at least one, and the last one says so.
pub(super) fn chunks(flows: &[Flow]) -> impl Iterator<Item = Body> + '_ {
    let count = flows.len().div_ceil(CHUNK).max(1);
    (0..count).map(move |part| Body::Flows {
        part: u32::try_from(part).unwrap_or(u32::MAX),
        flows: flows.iter().skip(part * CHUNK).take(CHUNK).copied().collect(),
        last: part + 1 == count,
    })
}

/// A dump as it arrives.
#[derive(Debug, Default)]
pub(super) struct Collected {
    flows: Vec<Flow>,
    next: u32,
    complete: bool,
}

impl Collected {
    /// Takes in one part. Part 0 begins anew: the peer repeats a dump whose session broke.
    ///
    /// # Errors
    /// What is wrong with it; what was collected before is then worth nothing.
    pub(super) fn take(&mut self, vip: IpAddr, part: u32, flows: &[Flow], last: bool) -> Result<(), &'static str> {
        if part == 0 {
            *self = Collected::default();
        }
        if self.complete || part != self.next {
            return Err("a part of its list of connections is missing or came twice");
        }
        if flows.len() > CHUNK || (flows.is_empty() && !last) {
            return Err("a part of its list of connections is too long, or empty");
        }
        if self.flows.len() + flows.len() > FLOWS_MAX {
            return Err("it has more than 2000000 connections, too many to be handed off");
        }
        if flows.iter().any(|flow| flow.client.is_ipv4() != vip.is_ipv4()) {
            return Err("its list of connections has clients of another address family than the VIP");
        }
        self.flows.extend_from_slice(flows);
        self.next += 1;
        self.complete = last;
        Ok(())
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// The dump, each connection once.
    pub(super) fn flows(&self) -> Vec<Flow> {
        let mut flows = self.flows.clone();
        flows.sort_unstable();
        flows.dedup();
        flows
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 100));

    fn flows(count: u32) -> Vec<Flow> {
        let flow = |n: u32| Flow { client: Ipv4Addr::from(n).into(), client_port: 40_000, port: 80 };
        (0..count).map(flow).collect()
    }

    fn collect(bodies: impl Iterator<Item = Body>) -> Result<Collected, &'static str> {
        let mut collected = Collected::default();
        for body in bodies {
            let Body::Flows { part, flows, last } = body else { continue };
            collected.take(VIP, part, &flows, last)?;
        }
        Ok(collected)
    }

    #[test]
    fn a_dump_of_any_length_arrives_as_it_was() {
        for count in [0, 1, 1_999, 2_000, 2_001, 6_000] {
            let sent = flows(count);
            assert_eq!(chunks(&sent).count(), sent.len().div_ceil(CHUNK).max(1));
            let arrived = collect(chunks(&sent)).expect("a sound dump");
            assert!(arrived.is_complete(), "{count}");
            assert_eq!(arrived.flows(), sent);
        }
    }

    #[test]
    fn what_is_no_dump_is_refused() {
        let part = |part, flows: Vec<Flow>, last| Body::Flows { part, flows, last };
        let six = vec![Flow { client: "2001:db8::1".parse().expect("an address"), client_port: 1, port: 80 }];
        let table: Vec<(&str, Vec<Body>)> = vec![
            ("a gap", vec![part(0, flows(1), false), part(2, flows(1), true)]),
            ("no beginning", vec![part(1, flows(1), true)]),
            ("twice", vec![part(0, flows(1), false), part(1, flows(1), false), part(1, flows(1), true)]),
            ("after the last", vec![part(0, flows(1), true), part(1, flows(1), true)]),
            ("too long a part", vec![part(0, flows(2_001), true)]),
            ("an empty part", vec![part(0, flows(0), false)]),
            ("another family", vec![part(0, six, true)]),
        ];
        for (what, bodies) in table {
            assert!(collect(bodies.into_iter()).is_err(), "{what}");
        }
        let endless = (0..).map(|n| part(n, flows(2_000), false));
        assert!(collect(endless).is_err(), "ends at the limit");
    }

    #[test]
    fn a_dump_that_begins_anew_counts_alone() {
        let twice = chunks(&flows(5_000)).take(2).chain(chunks(&flows(3_000))).collect::<Vec<_>>();
        assert_eq!(collect(twice.into_iter()).expect("a sound dump").flows(), flows(3_000));
    }

    #[test]
    fn a_peers_words_are_one_short_line() {
        assert_eq!(words("a\nb\u{1b}[2Jc"), "ab[2Jc");
        assert_eq!(words(&"x".repeat(1_000)).len(), WORDS_MAX);
    }
}
