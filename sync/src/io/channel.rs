//! The handle on the channel: what the node gives, what it gets, and what it may know.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::driver;
use super::tls::Keys;
use super::transport::Queued;
use crate::counters::Counters;
use crate::pairing::{BadName, Pairing, PairingError, Pin};
use crate::protocol::{FRAME_LIMIT, Frame};
use crate::wire::{self, WireError};

/// Messages that may wait to be written. Full: [`Channel::send`] gives the message back, and it is counted.
pub(super) const MESSAGES: usize = 256;
/// The same in bytes.
pub(super) const MESSAGE_BYTES: usize = 16 << 20;
/// Events that may wait for the node. Full: nothing more is read from the peer, whose queue fills in turn.
pub(super) const EVENTS: usize = 256;
/// Commands that may wait; whoever gives one waits for its place.
const COMMANDS: usize = 4;

/// What the channel has to know.
#[derive(Debug)]
pub struct Settings {
    /// This node's name.
    pub node: String,
    /// The pair's name; both nodes have to say the same. At most 255 bytes.
    pub pair: String,
    /// Identity and peer.
    pub pairing: Pairing,
    /// Where to listen (TCP); only the node whose name sorts last does. An address need not exist yet.
    pub listen: Vec<SocketAddr>,
    /// Where the peer listens; only the node whose name sorts first dials, in this order.
    pub peer_addresses: Vec<SocketAddr>,
}

/// Why the channel could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// Identity or peer are missing.
    #[error("the sync channel is not paired")]
    Pairing(#[source] PairingError),
    /// Both nodes have one name.
    #[error("this node and its peer are both called {0}; name one of them otherwise and pair them again")]
    SameName(String),
    /// A name that cannot be said.
    #[error(transparent)]
    Name(#[from] BadName),
    /// A pair's name that cannot be said.
    #[error("a pair's name has at most 255 bytes, and this one has {0}")]
    PairName(usize),
    /// Nowhere to dial, or nowhere to listen.
    #[error("this node {0}; name at least one")]
    NoAddress(&'static str),
    /// The library refuses.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// The system has no random numbers.
    #[error("there are no random numbers")]
    Random,
}

/// What the node is told. Up and Down alternate, and messages come in between only.
#[derive(Debug)]
pub enum Event<M> {
    /// A session is up.
    Up {
        /// Name of the peer.
        peer: String,
        /// Another one than before: the peer was restarted.
        instance: u64,
        /// Where it is.
        path: SocketAddr,
        /// For signed datagrams.
        keys: Keys,
    },
    /// The peer said this.
    Message(M),
    /// The session is over. What was sent and not answered may or may not have arrived.
    Down {
        /// For people.
        why: String,
    },
}

/// What goes on.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// A session is up.
    pub connected: bool,
    /// When it came up, or when the last one went down.
    pub since: Option<Instant>,
    /// The address at its other end.
    pub path: Option<SocketAddr>,
    /// There and back: the shortest of the last 16 pings.
    pub rtt: Option<Duration>,
    /// [`super::clock()`] of the peer minus ours, in microseconds, of the same ping.
    pub clock_offset: Option<i64>,
    /// What was counted.
    pub counters: Counters,
    /// What was refused last, and whom.
    pub last_error: Option<Arc<str>>,
}

impl Status {
    /// But for the messages that were counted.
    pub(super) fn says_the_same_as(&self, other: &Status) -> bool {
        let told = |status: &Status| (status.connected, status.since, status.path, status.rtt, status.clock_offset);
        told(self) == told(other)
            && self.last_error == other.last_error
            && self.counters.without_messages() == other.counters.without_messages()
    }
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyNot {
    /// No session is up.
    NoSession,
    /// Too many wait already.
    Full,
    /// It is longer than [`FRAME_LIMIT`], or cannot be written.
    Unwritable,
}

/// The message was not taken: here it is.
pub struct NotSent<M> {
    /// The message.
    pub message: M,
    /// Why.
    pub why: WhyNot,
}

impl<M> fmt::Debug for NotSent<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NotSent").field("why", &self.why).finish_non_exhaustive()
    }
}

impl<M> fmt::Display for NotSent<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.why {
            WhyNot::NoSession => "the message was not sent: there is no session with the peer",
            WhyNot::Full => "the message was not sent: the queue to the peer is full",
            WhyNot::Unwritable => "the message was not sent: it does not fit into a frame",
        })
    }
}

impl<M> std::error::Error for NotSent<M> {}

/// Why this node still has its old identity, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// The peer has to be told.
    #[error("there is no session with the peer, who has to be told of the new identity")]
    NotConnected,
    /// One at a time.
    #[error("another rotation is under way")]
    Busy,
    /// The session ended half way.
    #[error("the session ended before the peer accepted the new identity")]
    Lost,
    /// The peer did not answer.
    #[error("the peer did not accept the new identity within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The disk.
    #[error("the new identity could not be stored")]
    Pairing(#[source] PairingError),
    /// The channel has ended.
    #[error("the sync channel has ended")]
    Ended,
}

/// What the driver can be told.
pub(super) enum Command {
    Rotate(oneshot::Sender<Result<Pin, RotateError>>),
}

/// Where messages go while a session is up.
pub(super) struct Outgoing {
    pub(super) messages: mpsc::Sender<Queued>,
    pub(super) room: Arc<Semaphore>,
}

/// What the handles and the driver share.
#[derive(Default)]
pub(super) struct Shared {
    outgoing: Mutex<Option<Outgoing>>,
    pub(super) sent: AtomicU64,
    pub(super) full: AtomicU64,
}

impl Shared {
    pub(super) fn set_outgoing(&self, outgoing: Option<Outgoing>) {
        *self.outgoing.lock().unwrap_or_else(PoisonError::into_inner) = outgoing;
    }

    fn outgoing(&self) -> Option<Outgoing> {
        let outgoing = self.outgoing.lock().unwrap_or_else(PoisonError::into_inner);
        outgoing
            .as_ref()
            .map(|Outgoing { messages, room }| Outgoing { messages: messages.clone(), room: Arc::clone(room) })
    }
}

/// The channel to the peer. Cheap to clone; it ends when the last handle, or the receiver of events, is dropped.
pub struct Channel<M> {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Status>,
    says: std::marker::PhantomData<fn(M)>,
}

impl<M> Clone for Channel<M> {
    fn clone(&self) -> Self {
        Channel {
            shared: Arc::clone(&self.shared),
            commands: self.commands.clone(),
            status: self.status.clone(),
            says: self.says,
        }
    }
}

impl<M> fmt::Debug for Channel<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("status", &*self.status.borrow()).finish_non_exhaustive()
    }
}

impl<M: Serialize + DeserializeOwned + Send + 'static> Channel<M> {
    /// Starts the channel in tasks of the runtime that this is called in.
    ///
    /// # Errors
    /// The nodes are not paired, or the settings make no sense.
    pub fn spawn(settings: Settings) -> Result<(Channel<M>, mpsc::Receiver<Event<M>>), SpawnError> {
        let (commands, wanted) = mpsc::channel(COMMANDS);
        let (events, told) = mpsc::channel(EVENTS);
        let shared = Arc::new(Shared::default());
        let status = driver::spawn(settings, Arc::clone(&shared), wanted, events)?;
        Ok((Channel { shared, commands, status, says: std::marker::PhantomData }, told))
    }

    /// Queues a message for the peer; never waits. Messages arrive in their order. Those that wait when a session
    /// ends are lost with it, as are those on the wire.
    ///
    /// # Errors
    /// Gives the message back: no session, [`MESSAGES`] messages or [`MESSAGE_BYTES`] bytes wait already, or it is
    /// longer than [`FRAME_LIMIT`].
    pub fn send(&self, message: M) -> Result<(), NotSent<M>> {
        match self.try_send(&message) {
            Ok(()) => Ok(()),
            Err(why) => {
                if why == WhyNot::Full {
                    self.shared.full.fetch_add(1, Ordering::Relaxed);
                }
                Err(NotSent { message, why })
            }
        }
    }

    fn try_send(&self, message: &M) -> Result<(), WhyNot> {
        let Some(Outgoing { messages, room }) = self.shared.outgoing() else { return Err(WhyNot::NoSession) };
        let place = messages.try_reserve().map_err(|error| match error {
            mpsc::error::TrySendError::Full(()) => WhyNot::Full,
            mpsc::error::TrySendError::Closed(()) => WhyNot::NoSession,
        })?;
        let mut bytes = Vec::new();
        wire::encode(&Frame::Message(message), FRAME_LIMIT, &mut bytes).map_err(|error: WireError| {
            tracing::error!(%error, "a message to the peer cannot be sent");
            WhyNot::Unwritable
        })?;
        let length = u32::try_from(bytes.len()).map_err(|_| WhyNot::Unwritable)?;
        let room = room.try_acquire_many_owned(length).map_err(|_| WhyNot::Full)?;
        place.send(Queued { bytes, _room: room });
        self.shared.sent.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// What goes on. Changes of the message counters alone wake nobody.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Gives this node a new identity: the peer is told, puts it on its disk beside the old one and says so; then the
    /// new one is used for a new session, and the peer forgets the old one. Whenever either node dies in between, the
    /// peer accepts what this node has.
    ///
    /// # Errors
    /// The node keeps its old identity, except that after [`RotateError::Pairing`] the next start may use the new
    /// one; the peer accepts both.
    pub async fn rotate(&self) -> Result<Pin, RotateError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Rotate(reply)).await.map_err(|_| RotateError::Ended)?;
        answer.await.unwrap_or(Err(RotateError::Ended))
    }
}
