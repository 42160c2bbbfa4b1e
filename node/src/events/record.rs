//! One event: what happened, to whom, why, and how long each step took.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// Longer texts are cut, in bytes: what a peer or the system says ends up here too.
const MAX_TEXT: usize = 1_000;
/// The same for names.
const MAX_NAME: usize = 100;
/// Further marks are left out.
const MAX_MARKS: usize = 64;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up by one with each event of this node, over restarts. An amended event keeps its number.
    pub id: u64,
    /// When, by this node's wall clock: RFC 3339, UTC, in milliseconds.
    pub at: String,
    /// Name of the node that tells it.
    pub node: String,
    /// Which VIP it is about; absent: none in particular.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vip: Option<String>,
    /// What sort of thing it is.
    pub kind: Kind,
    /// What happened, in a sentence.
    pub text: String,
    /// Why; empty: the text says it all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// The VIP's term; absent: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<u64>,
    /// Its steps on both nodes, as far as they are known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<Mark>,
}

/// What sort of thing happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A router changed its state.
    Transition,
    /// A VIP changed hands because something broke.
    Failover,
    /// A VIP changed hands because somebody wanted it to.
    Handoff,
    /// The proxy core started, hung, ended.
    Core,
    /// A server went up or down.
    Check,
    /// A revision was applied or refused.
    Config,
    /// The channel to the peer came, went, or refused somebody.
    Sync,
    /// The node was taken out of service, or put back.
    Maintenance,
    /// Both nodes were active at once.
    DualActive,
    /// Anything else, and what a newer version calls by a name that is not here.
    #[default]
    #[serde(other)]
    Note,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Kind::Transition => "transition",
            Kind::Failover => "failover",
            Kind::Handoff => "hand-off",
            Kind::Core => "core",
            Kind::Check => "check",
            Kind::Config => "config",
            Kind::Sync => "sync",
            Kind::Maintenance => "maintenance",
            Kind::DualActive => "dual active",
            Kind::Note => "note",
        })
    }
}

/// A step of an event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// What was done.
    pub what: What,
    /// By which node.
    pub node: String,
    /// Milliseconds after the first mark, to the microsecond.
    pub ms: f64,
}

/// What a node did at a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// It noticed what the event is about.
    Detected,
    /// An operator or a preemption asked for it.
    Asked,
    /// It gave the VIP up, and said so.
    Resigned,
    /// Its kernel took the address away.
    Removed,
    /// It decided to hold the VIP.
    TookOver,
    /// Its kernel has the address.
    Added,
    /// It told the network so.
    Announced,
    /// The first client arrived at it.
    FirstConnection,
    /// The last client left the old node, or was reset.
    Finished,
    /// What a newer version calls by a name that is not here.
    #[serde(other)]
    Other,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            What::Detected => "detected",
            What::Asked => "asked",
            What::Resigned => "resigned",
            What::Removed => "removed",
            What::TookOver => "took over",
            What::Added => "added",
            What::Announced => "announced",
            What::FirstConnection => "first connection",
            What::Finished => "finished",
            What::Other => "something else",
        })
    }
}

/// A step, by one clock for both nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// What was done.
    pub what: What,
    /// By which node.
    pub node: String,
    /// When: microseconds of any one clock.
    pub at_us: i64,
}

/// The steps in their order, told from the first one on; of equals the one named first comes first.
pub fn timeline(stamps: impl IntoIterator<Item = Stamp>) -> Vec<Mark> {
    let mut stamps: Vec<Stamp> = stamps.into_iter().collect();
    stamps.sort_by_key(|stamp| stamp.at_us);
    let first = stamps.first().map_or(0, |stamp| stamp.at_us);
    let mark = |stamp: Stamp| {
        // A difference that a clock can show is far below 2^53 microseconds.
        let ms = stamp.at_us.saturating_sub(first) as f64 / 1_000.0;
        Mark { what: stamp.what, node: stamp.node, ms }
    };
    stamps.into_iter().take(MAX_MARKS).map(mark).collect()
}

/// An event as its teller writes it; number, time and node are added by the store.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Draft {
    /// See [`Event::kind`].
    pub kind: Kind,
    /// See [`Event::vip`].
    pub vip: Option<String>,
    /// See [`Event::text`].
    pub text: String,
    /// See [`Event::why`].
    pub why: String,
    /// See [`Event::term`].
    pub term: Option<u64>,
    /// See [`Event::timeline`].
    pub timeline: Vec<Mark>,
}

impl Draft {
    /// The event with this number, told by `node` at `at`.
    pub(super) fn into_event(self, id: u64, node: &str, at: SystemTime) -> Event {
        let Draft { kind, vip, text, why, term, timeline } = self;
        let mut event =
            Event { id, at: crate::status::rfc3339(at), node: node.to_owned(), vip, kind, text, why, term, timeline };
        event.limit();
        event
    }
}

impl Event {
    /// Keeps it to a few kilobytes, whatever was put in.
    pub(super) fn limit(&mut self) {
        // JSON has no word for what is no number.
        self.timeline.retain(|mark| mark.ms.is_finite());
        self.timeline.truncate(MAX_MARKS);
        cut(&mut self.text, MAX_TEXT);
        cut(&mut self.why, MAX_TEXT);
        let names = [&mut self.node].into_iter().chain(&mut self.vip);
        names.chain(self.timeline.iter_mut().map(|mark| &mut mark.node)).for_each(|name| cut(name, MAX_NAME));
    }
}

fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn stamp(what: What, node: &str, at_us: i64) -> Stamp {
        Stamp { what, node: node.into(), at_us }
    }

    #[test]
    fn a_timeline_is_told_from_its_first_mark_in_the_order_of_time() {
        let marks = timeline([
            stamp(What::Added, "b", 5_001_200),
            stamp(What::Announced, "b", 5_001_200),
            stamp(What::Detected, "a", 5_000_000),
            stamp(What::Resigned, "a", 5_000_300),
        ]);
        let told: Vec<(What, &str, f64)> = marks.iter().map(|mark| (mark.what, mark.node.as_str(), mark.ms)).collect();
        let expected = [
            (What::Detected, "a", 0.0),
            (What::Resigned, "a", 0.3),
            (What::Added, "b", 1.2),
            (What::Announced, "b", 1.2),
        ];
        assert_eq!(told, expected);
        assert!(timeline([]).is_empty());
    }

    #[test]
    fn no_stamps_are_too_far_apart() {
        let marks = timeline([stamp(What::Added, "b", i64::MAX), stamp(What::Detected, "a", i64::MIN)]);
        assert!(marks.iter().all(|mark| mark.ms.is_finite()), "{marks:?}");
    }

    #[test]
    fn what_says_nothing_is_left_out_and_read_again() {
        let at = SystemTime::UNIX_EPOCH;
        let event = Draft { text: "started".into(), ..Draft::default() }.into_event(3, "lb-a", at);
        let written = serde_json::to_value(&event).unwrap();
        let expected =
            json!({ "id": 3, "at": "1970-01-01T00:00:00.000Z", "node": "lb-a", "kind": "note", "text": "started" });
        assert_eq!(written, expected);
        assert_eq!(serde_json::from_value::<Event>(written).unwrap(), event);
    }

    #[test]
    fn names_of_a_newer_version_are_read_as_something_else() {
        let line = json!({
            "id": 1, "at": "2026-01-01T00:00:00.000Z", "node": "a", "kind": "eclipse", "text": "x",
            "timeline": [{ "what": "blinked", "node": "a", "ms": 0.5 }], "novelty": true
        });
        let event: Event = serde_json::from_value(line).unwrap();
        assert_eq!((event.kind, event.timeline[0].what), (Kind::Note, What::Other));
    }

    #[test]
    fn an_event_stays_small_whatever_is_put_in() {
        let draft = Draft {
            text: "ü".repeat(5_000),
            vip: Some("x".repeat(5_000)),
            timeline: timeline((0..500).map(|at| stamp(What::Added, &"n".repeat(5_000), at))),
            ..Draft::default()
        };
        let mut event = draft.into_event(1, &"n".repeat(5_000), SystemTime::UNIX_EPOCH);
        event.timeline[0].ms = f64::NAN;
        event.limit();
        assert!(event.text.len() <= MAX_TEXT + '…'.len_utf8() && event.text.ends_with('…'));
        assert_eq!(event.timeline.len(), MAX_MARKS - 1);
        assert!(serde_json::to_string(&event).unwrap().len() < 16 << 10);
    }
}
