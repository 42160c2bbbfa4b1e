//! The hand-off's protocol on one node, for all of its VIPs. No socket, no clock, no random source is inside.
//!
//! ```text
//!   leaver:  Preparing ─► Offered ─► Yielding ─► Muting ─► LettingGo ─► Released ─► Dumping ─► Dumped ─► Serving
//!   taker:   Collecting ─► Installing ─► Probing ─► Ready ─► TakingOver ─► Taken ─► Announced ─► Settling ─► Serving
//!                        either side may abort, │ the VIP moves, and each side's
//!                        both undo, nothing is  │ election decides; nobody waits
//!                        left                   │ longer than `MOVE` in all
//! ```
//! Feed it with [`HandOff::handle`] and [`HandOff::handle_timeout`], then take effects from [`HandOff::poll_output`]
//! until there are none, in their order, and come back at [`HandOff::poll_timeout`].
//!
//! A node may be both for the same VIP: leaver of an earlier hand-off whose connections it still serves, taker of the
//! one that brings the VIP back. At most one of the two is anywhere else than in `Serving`.
//!
//! Whatever a peer says is answered or counted, never believed: it may be confused, older, or another process than
//! before. Its memory is bounded by [`super::message::FLOWS_MAX`] connections for each VIP that it offers.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use vrrp::types::Time;

use super::job::{Job, Outcome, Vip};
use super::message::{Body, Id, Message};

mod giving;
mod place;
mod taking;
#[cfg(test)]
mod tests;

use place::Place;

/// All that either side does before the VIP moves, in all.
pub const PREPARE: Duration = Duration::from_secs(5);
/// Each wait while the VIP moves.
pub const STEP: Duration = Duration::from_secs(2);
/// All the waits together while the VIP moves.
pub const MOVE: Duration = Duration::from_secs(6);
/// What a wait gets even if [`MOVE`] has passed: what is on its way arrives.
const IN_FLIGHT: Duration = Duration::from_millis(50);
/// How often the connections that are left are counted.
pub const COUNT_EVERY: Duration = Duration::from_secs(1);
/// A leaver that tells no count for so long, though the session is up, has forgotten. Also how long connections are
/// kept for which the taker has no rules any more: this node may become active again.
pub const SILENCE: Duration = Duration::from_secs(10);
/// How much longer than the leaver's the taker's patience is.
const PATIENCE: Duration = Duration::from_secs(4);
/// A job that resets or settles is not waited for any longer.
const JOB: Duration = Duration::from_secs(5);
/// From one probe to the next.
const PROBE_AGAIN: Duration = Duration::from_millis(100);
/// How long the last one may take.
const PROBE_LAST: Duration = Duration::from_millis(300);
const PROBES: u8 = 3;
/// How long a standby waits to be answered: the active node prepares first.
const ANSWER: Duration = Duration::from_secs(7);

/// A fact about this node's router of a VIP, as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// It is active. Not once a higher term was seen, even while it keeps the address for a hand-off.
    pub master: bool,
    /// The kernel has the address.
    pub address_present: bool,
    /// It was announced on the segment since this node became active.
    pub announced: bool,
    /// The highest term that this node has seen.
    pub term: u64,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// The policy decided that this node, active, gives the VIP to the peer.
    Begin {
        /// The VIP's name.
        vip: String,
        /// Why, in words.
        reason: String,
    },
    /// This node, standby, asks the active one for the VIP.
    Ask {
        /// The VIP's name.
        vip: String,
        /// Why, in words.
        reason: String,
    },
    /// The policy doesn't give what was [`Output::Wanted`].
    Decline {
        /// The VIP's name.
        vip: String,
        /// Of the request.
        id: Id,
        /// Why, in words.
        why: String,
    },
    /// The peer says something.
    Message(Message),
    /// A job ended.
    JobEnded {
        /// The VIP's name.
        vip: String,
        /// As in [`Output::Run`].
        number: u64,
        /// How.
        outcome: Outcome,
    },
    /// What this node's router of a VIP is; told whenever any of it changes.
    Election {
        /// The VIP's name.
        vip: String,
        /// All of it.
        facts: Facts,
    },
    /// A session with the peer is up: a new one, and whatever was under way in an older one is lost.
    Connected,
    /// The session broke. That alone ends nothing that has moved.
    Disconnected,
    /// The peer's heartbeats are gone, or it is another process than before.
    PeerLost,
    /// It is heard. A session that comes up says so too.
    PeerBack,
    /// What this node is told to be.
    Configure {
        /// All VIPs.
        vips: Vec<Vip>,
        /// How long handed-off connections may live on; `None`: as long as they like.
        timeout: Option<Duration>,
    },
    /// This agent is about to end: what is under way ends at once. Wait for [`HandOff::is_idle`].
    Stop,
}

/// What this node's election is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `true`: the address stays until [`Order::LetGo`], even if a higher term is seen. `false`: no longer.
    Yield(bool),
    /// Become active, with a higher term.
    TakeOver,
    /// Give the address up, without a priority 0: the peer has it. Nothing is yielded any more.
    LetGo,
    /// Announce the address once more.
    AnnounceAgain,
}

/// Which way a VIP goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// This node is the leaver.
    ToPeer,
    /// This node is the taker.
    FromPeer,
}

/// An effect, or news. Each hand-off that [`Output::Began`] ends in one [`Output::Refused`] or one
/// [`Output::Finished`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// To the peer; lost if there is no session.
    Send(Message),
    /// To the kernel: at once, and [`Input::JobEnded`] when it is over. A VIP's next job comes only then; but
    /// [`Job::RemoveLeaver`] may come while [`Job::AwaitProbe`] waits.
    Run {
        /// As it was when the hand-off began.
        vip: Vip,
        /// Of all jobs.
        number: u64,
        /// What to do.
        job: Job,
    },
    /// To this node's router of the VIP.
    Election {
        /// The VIP's name.
        vip: String,
        /// What to do.
        order: Order,
    },
    /// The peer asks for the VIP; [`Input::Begin`] or [`Input::Decline`] answers.
    Wanted {
        /// The VIP's name.
        vip: String,
        /// Of the request.
        id: Id,
        /// Why, in the peer's words.
        reason: String,
    },
    /// A hand-off began.
    Began {
        /// The VIP's name.
        vip: String,
        /// Of the hand-off.
        id: Id,
        /// Which way.
        direction: Direction,
        /// Why, in words.
        reason: String,
    },
    /// The VIP has moved; the leaver's connections live on there.
    Moved {
        /// The VIP's name.
        vip: String,
        /// Of the hand-off.
        id: Id,
        /// Which way.
        direction: Direction,
        /// How many connections stayed at the leaver.
        flows: u64,
        /// Since it began.
        took: Duration,
    },
    /// A hand-off is over.
    Finished {
        /// The VIP's name.
        vip: String,
        /// Of the hand-off.
        id: Id,
        /// Which way.
        direction: Direction,
        /// How many connections had stayed at the leaver.
        flows: u64,
        /// How many of them were reset here in the end.
        reset: u64,
        /// Since it began.
        lasted: Duration,
        /// Why it is over, in words.
        why: String,
    },
    /// There is no hand-off, or no more: the VIP stays where the elections see it, and nothing of it is left.
    Refused {
        /// The VIP's name.
        vip: String,
        /// Of the hand-off or of this node's request; `None`: it didn't come to one.
        id: Option<Id>,
        /// Which way it would have gone.
        direction: Direction,
        /// Why, in words.
        why: String,
    },
}

/// A hand-off as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The VIP's name.
    pub vip: String,
    /// Of the hand-off.
    pub id: Id,
    /// Which way.
    pub direction: Direction,
    /// What it waits for, in words.
    pub step: &'static str,
    /// How many connections live on at the leaver, as last counted.
    pub connections_left: Option<u64>,
    /// When it began.
    pub since: Time,
}

/// What every VIP's part looks at, and where its effects go.
#[derive(Debug)]
struct Node {
    instance: u64,
    ids: u64,
    jobs: u64,
    timeout: Option<Duration>,
    /// Since when a session is up.
    connected: Option<Time>,
    /// The peer is heard.
    peer: bool,
    stopping: bool,
    ignored: u64,
    outputs: VecDeque<Output>,
}

impl Node {
    fn id(&mut self) -> Id {
        self.ids += 1;
        Id { instance: self.instance, number: self.ids }
    }

    fn send(&mut self, vip: &str, id: Id, body: Body) {
        self.outputs.push_back(Output::Send(Message { vip: vip.to_owned(), id, body }));
    }

    fn order(&mut self, vip: &str, order: Order) {
        self.outputs.push_back(Output::Election { vip: vip.to_owned(), order });
    }

    fn refused(&mut self, vip: &str, id: Option<Id>, direction: Direction, why: &str) {
        self.outputs.push_back(Output::Refused { vip: vip.to_owned(), id, direction, why: why.to_owned() });
    }

    /// Answers what belongs to no hand-off that is known here, so that the peer doesn't wait for one.
    fn disown(&mut self, message: &Message) {
        self.ignored += 1;
        let unknown = || Body::Abort { why: "this hand-off is not known here (any more)".to_owned() };
        let answer = match &message.body {
            // The leaver's rules for it are long gone: so can be the taker's.
            Body::Settled => Body::Done,
            Body::Flows { last: false, .. } => return,
            // What ends something is never answered: two confused nodes would go on for ever.
            Body::Refused { .. } | Body::Done | Body::Abort { .. } => return,
            Body::Want { .. } | Body::Offer { .. } => Body::Refused { why: "this node has no such VIP".to_owned() },
            _ => unknown(),
        };
        self.send(&message.vip, message.id, answer);
    }
}

/// The hand-offs of a node.
#[derive(Debug)]
pub struct HandOff {
    node: Node,
    places: BTreeMap<String, Place>,
}

impl HandOff {
    /// A node without VIPs and without a peer. No other process of the pair has the same `instance`.
    pub fn new(instance: u64) -> HandOff {
        let node = Node {
            instance,
            ids: 0,
            jobs: 0,
            timeout: None,
            connected: None,
            peer: false,
            stopping: false,
            ignored: 0,
            outputs: VecDeque::new(),
        };
        HandOff { node, places: BTreeMap::new() }
    }

    /// Takes in one fact.
    pub fn handle(&mut self, input: Input, now: Time) {
        let node = &mut self.node;
        match input {
            Input::Begin { vip, reason } => match self.places.get_mut(&vip) {
                Some(place) => place.begin(reason, node, now),
                None => node.refused(&vip, None, Direction::ToPeer, "there is no such VIP"),
            },
            Input::Ask { vip, reason } => match self.places.get_mut(&vip) {
                Some(place) => place.ask(reason, node, now),
                None => node.refused(&vip, None, Direction::FromPeer, "there is no such VIP"),
            },
            Input::Decline { vip, id, why } => {
                if let Some(place) = self.places.get_mut(&vip) {
                    place.decline(id, why, node);
                }
            }
            Input::Message(message) => match self.places.get_mut(&message.vip) {
                Some(place) => place.message(message, node, now),
                None => node.disown(&message),
            },
            Input::JobEnded { vip, number, outcome } => match self.places.get_mut(&vip) {
                Some(place) => place.job_ended(number, outcome, node, now),
                None => node.ignored += 1,
            },
            Input::Election { vip, facts } => {
                if let Some(place) = self.places.get_mut(&vip) {
                    place.election(facts, node, now);
                }
            }
            Input::Connected => {
                // A session that replaces another: that one broke first.
                if node.connected.take().is_some() {
                    self.places.values_mut().for_each(|place| place.disconnected(node, now));
                }
                node.connected = Some(now);
                node.peer = true;
                self.places.values_mut().for_each(|place| place.connected(node, now));
            }
            Input::Disconnected => {
                node.connected = None;
                self.places.values_mut().for_each(|place| place.disconnected(node, now));
            }
            Input::PeerLost => {
                node.peer = false;
                self.places.values_mut().for_each(|place| place.peer_lost(node, now));
            }
            Input::PeerBack => node.peer = true,
            Input::Configure { vips, timeout } => self.configure(vips, timeout, now),
            Input::Stop => {
                node.stopping = true;
                self.places.values_mut().for_each(|place| place.close("this agent is ending", node, now));
            }
        }
        self.look(now);
    }

    /// Acts on every deadline that has passed. Calling it early or late is harmless.
    pub fn handle_timeout(&mut self, now: Time) {
        for place in self.places.values_mut() {
            place.expire(&mut self.node, now);
        }
        self.look(now);
    }

    /// The next effect. Take them all before waiting.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.node.outputs.pop_front()
    }

    /// When [`HandOff::handle_timeout`] wants to be called. Any other call may change it.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.places.values().filter_map(|place| place.deadline(&self.node)).min()
    }

    /// The hand-offs as they stand.
    pub fn progress(&self) -> impl Iterator<Item = Progress> + '_ {
        self.places.values().flat_map(Place::progress)
    }

    /// Why the last hand-off of a VIP did not come about or came to a bad end, if that was the last one.
    pub fn last_refusal(&self, vip: &str) -> Option<&str> {
        self.places.get(vip)?.refused.as_deref()
    }

    /// Whether packets of this VIP may be passed on to the peer: from the first rule until the kernel has none any more.
    pub fn passes_on(&self, vip: &str) -> bool {
        self.places.get(vip).is_some_and(Place::passes_on)
    }

    /// Whether there is neither a hand-off nor anything that one has left behind.
    pub fn is_idle(&self) -> bool {
        self.places.values().all(Place::is_idle)
    }

    /// How many messages and ended jobs fitted nothing that is under way here, so far.
    pub fn ignored(&self) -> u64 {
        self.node.ignored
    }

    fn configure(&mut self, vips: Vec<Vip>, timeout: Option<Duration>, now: Time) {
        self.node.timeout = timeout;
        let mut vips: BTreeMap<String, Vip> = vips.into_iter().map(|vip| (vip.name.clone(), vip)).collect();
        for (name, place) in &mut self.places {
            place.configure(vips.remove(name), &mut self.node, now);
        }
        self.places.extend(vips.into_iter().map(|(name, vip)| (name, Place::new(vip))));
    }

    /// What holds after every input, whichever it was.
    fn look(&mut self, now: Time) {
        for place in self.places.values_mut() {
            place.look(&mut self.node, now);
        }
        self.places.retain(|_, place| !place.is_gone());
    }
}
