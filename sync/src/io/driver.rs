//! The one loop: waits for connections, frames, commands and deadlines, feeds [`Session`], and does what it says.
//!
//! What the peer says is handed on in order, and only as fast as the node takes it; the loop itself never waits for
//! the node, for the disk or for a connection.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep_until;

use super::channel::{
    Command, Event, MESSAGE_BYTES, MESSAGES, Outgoing, RotateError, Settings, Shared, SpawnError, Status,
};
use super::clock::now;
use super::keeper::{self, Done, Job};
use super::listen::listen;
use super::rotation::Rotation;
use super::tls::{Proven, Tls};
use super::transport::{self, Arrived, Greeting, Origin, Report, Wires};
use crate::counters::Reason;
use crate::pairing::{Identity, PairingError, Peer, Pin, check_name, provider};
use crate::protocol::{FRAME_LIMIT, Frame, Hello, Pinning};
use crate::session::{Config, Connection, Input, Output, Refusal, Role, Session};
use crate::wire;

/// Accepted connections that may wait; full: the kernel keeps them.
const INCOMING: usize = 8;
/// Reports of connections that may wait; full: the connections wait.
const REPORTS: usize = 32;
/// Frames of the live connection that may wait; full: nothing more is read from it.
const ARRIVED: usize = 8;
/// The channel's own frames that may wait; full: a ping or a pong is left out, which is right when nothing gets
/// through.
const CONTROL: usize = 32;
/// How long connections may take to end with the channel.
const GOODBYE: Duration = Duration::from_secs(2);
/// Longest name of a pair in bytes.
const PAIR_NAME: usize = 255;

/// A connection that is not live, or not yet.
struct Waiting<M> {
    task: AbortHandle,
    greeted: Option<(Proven, oneshot::Sender<Wires<M>>)>,
}

/// The connection that is live. Dropping it ends it.
struct Live<M> {
    connection: Connection,
    pin: Pin,
    arrived: mpsc::Receiver<Arrived<M>>,
    control: mpsc::Sender<Vec<u8>>,
    _closing: oneshot::Sender<()>,
}

struct Driver<M> {
    session: Session,
    greeting: Greeting,
    identity: Identity,
    peer: Peer,
    waiting: BTreeMap<Connection, Waiting<M>>,
    live: Option<Live<M>>,
    tasks: JoinSet<()>,
    report_to: mpsc::Sender<Report<M>>,
    reports: mpsc::Receiver<Report<M>>,
    incoming: mpsc::Receiver<(TcpStream, SocketAddr)>,
    commands: mpsc::Receiver<Command>,
    jobs: mpsc::Sender<Job>,
    done: mpsc::Receiver<Done>,
    /// The live connection whose new pin is being written.
    accepting: Option<Connection>,
    rotation: Rotation,
    events: mpsc::Sender<Event<M>>,
    /// What the queue of events had no room for: at most a message and what became of the session since. No frame is
    /// taken while there is any.
    pending: VecDeque<Event<M>>,
    paused: bool,
    received: u64,
    shared: Arc<Shared>,
    status: watch::Sender<Status>,
    since: Option<Instant>,
    refusals: u64,
    last_error: Option<Arc<str>>,
}

/// Checks the settings and starts the loop.
pub(super) fn spawn<M: Serialize + DeserializeOwned + Send + 'static>(
    settings: Settings,
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event<M>>,
) -> Result<watch::Receiver<Status>, SpawnError> {
    let Settings { node, pair, pairing, listen: addresses, peer_addresses } = settings;
    check_name(&node)?;
    if pair.len() > PAIR_NAME {
        return Err(SpawnError::PairName(pair.len()));
    }
    let no_identity = || SpawnError::Pairing(PairingError::NoIdentity(pairing.folder().to_owned()));
    let identity = pairing.identity().cloned().ok_or_else(no_identity)?;
    let peer = pairing.peer().cloned().ok_or(SpawnError::Pairing(PairingError::NotPaired))?;
    if peer.name == node {
        return Err(SpawnError::SameName(node));
    }
    let role = Role::of(&node, &peer.name);
    match role {
        Role::Dialler if peer_addresses.is_empty() => {
            return Err(SpawnError::NoAddress("dials its peer, and no address of the peer is named"));
        }
        Role::Listener if addresses.is_empty() => {
            return Err(SpawnError::NoAddress("listens for its peer, and no address is named"));
        }
        Role::Dialler | Role::Listener => {}
    }
    let [instance, seed] = [random()?, random()?];
    let tls = Tls::new(&identity, &peer).map_err(SpawnError::Tls)?;
    let greeting = Greeting { tls, hello: Hello { node: node.clone(), pair: pair.clone(), instance } };
    let config = Config { node: node.clone(), peer: peer.name.clone(), pair, paths: peer_addresses, seed };

    let (accepted, incoming) = mpsc::channel(INCOMING);
    if role == Role::Listener {
        for address in addresses {
            tokio::spawn(listen(address, accepted.clone()));
        }
    }
    let (jobs, done) = keeper::spawn(pairing, node);
    let (report_to, reports) = mpsc::channel(REPORTS);
    let (status, watched) = watch::channel(Status::default());
    let driver = Driver {
        session: Session::new(config, now()),
        greeting,
        identity,
        peer,
        waiting: BTreeMap::new(),
        live: None,
        tasks: JoinSet::new(),
        report_to,
        reports,
        incoming,
        commands,
        jobs,
        done,
        accepting: None,
        rotation: Rotation::default(),
        events,
        pending: VecDeque::new(),
        paused: false,
        received: 0,
        shared,
        status,
        since: None,
        refusals: 0,
        last_error: None,
    };
    tokio::spawn(driver.run());
    Ok(watched)
}

fn random() -> Result<u64, SpawnError> {
    let mut bytes = [0; 8];
    provider().secure_random.fill(&mut bytes).map_err(|_| SpawnError::Random)?;
    Ok(u64::from_ne_bytes(bytes))
}

impl<M: DeserializeOwned + Send + 'static> Driver<M> {
    async fn run(mut self) {
        loop {
            self.session.handle_timeout(now());
            self.flush();
            self.publish();
            let deadline = self.deadline();
            tokio::select! {
                Some(report) = self.reports.recv() => self.on_report(report),
                Some((stream, from)) = self.incoming.recv() => self.on_incoming(stream, from),
                Some(arrived) = next_frame(&mut self.live), if self.pending.is_empty() => self.on_frame(arrived),
                Some(done) = self.done.recv() => self.on_done(done),
                Some(ended) = self.tasks.join_next() => report_panic(ended),
                wanted = has_room(&self.events), if !self.pending.is_empty() => match wanted {
                    true => self.hand_on(),
                    false => break,
                },
                command = self.commands.recv() => match command {
                    Some(Command::Rotate(reply)) => self.on_rotate(reply),
                    None => break,
                },
                () = self.events.closed() => break,
                () = sleep_until(deadline.into()) => self.rotation.end_if_late(&self.jobs, Instant::now()),
            }
        }
        self.end().await;
    }

    /// At the latest in a minute, so that the clock is read now and then.
    fn deadline(&self) -> Instant {
        let now_at = Instant::now();
        let session = self.session.poll_timeout().map(|at| now_at + at.since(now()));
        let rotation = self.rotation.deadline();
        [session, rotation].into_iter().flatten().min().unwrap_or(now_at + Duration::from_secs(60))
    }

    /// Does what the session says.
    fn flush(&mut self) {
        let paused = !self.pending.is_empty();
        if paused != std::mem::replace(&mut self.paused, paused) {
            self.session.handle(Input::Paused(paused), now());
        }
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Dial { connection, path } => self.open(connection, Origin::Dial(path)),
                Output::Send { control, .. } => self.say(&Frame::Control(control)),
                Output::Close { connection } => self.close(connection),
                Output::Up { connection, path, hello } => self.up(connection, path, hello),
                Output::Down { why } => self.down(why),
                Output::Refused { from, refusal } => log(from, &refusal),
            }
        }
    }

    fn open(&mut self, connection: Connection, origin: Origin) {
        let task = transport::run(connection, origin, self.greeting.clone(), self.report_to.clone());
        self.waiting.insert(connection, Waiting { task: self.tasks.spawn(task), greeted: None });
    }

    fn close(&mut self, connection: Connection) {
        match self.waiting.remove(&connection) {
            // It ends by itself, politely.
            Some(Waiting { greeted: Some(_), .. }) => {}
            Some(Waiting { task, .. }) => task.abort(),
            None => {}
        }
    }

    fn up(&mut self, connection: Connection, path: SocketAddr, hello: Hello) {
        let Some(Waiting { greeted: Some((proven, start)), .. }) = self.waiting.remove(&connection) else { return };
        let (arrived_to, arrived) = mpsc::channel(ARRIVED);
        let (control, control_from) = mpsc::channel(CONTROL);
        let (messages, messages_from) = mpsc::channel(MESSAGES);
        let (closing_to, closing) = oneshot::channel();
        let wires = Wires { arrived: arrived_to, control: control_from, messages: messages_from, closing };
        if start.send(wires).is_err() {
            tracing::debug!("a connection ended while it came up");
        }
        self.live = Some(Live { connection, pin: proven.pin, arrived, control, _closing: closing_to });
        self.shared.set_outgoing(Some(Outgoing { messages, room: Arc::new(Semaphore::new(MESSAGE_BYTES)) }));
        self.since = Some(Instant::now());
        tracing::info!(peer = hello.node, %path, instance = hello.instance, "the sync session is up");
        self.tell(Event::Up { peer: hello.node, instance: hello.instance, path, keys: proven.keys });
        // The rotated certificate works: the old one is not needed any more.
        if self.peer.pins.len() > 1 && self.peer.pins.last() == Some(&proven.pin) {
            self.keep(Job::AcceptOnly(proven.pin));
        }
    }

    fn down(&mut self, why: String) {
        self.live = None;
        self.shared.set_outgoing(None);
        self.since = Some(Instant::now());
        self.accepting = None;
        self.rotation.session_ended(&self.jobs);
        tracing::info!(why, "the sync session is down");
        self.tell(Event::Down { why });
    }

    /// Hands an event on, or keeps it until there is room. A session that came and went meanwhile is not worth one.
    fn tell(&mut self, event: Event<M>) {
        if matches!(event, Event::Down { .. }) && matches!(self.pending.back(), Some(Event::Up { .. })) {
            self.pending.pop_back();
            return;
        }
        if !self.pending.is_empty() {
            self.pending.push_back(event);
        } else if let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event) {
            self.pending.push_back(event);
        }
    }

    fn hand_on(&mut self) {
        while let Some(event) = self.pending.pop_front() {
            if let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event) {
                self.pending.push_front(event);
                return;
            }
        }
    }

    /// Says something to the peer; what finds no room is left out.
    fn say(&self, frame: &Frame<()>) {
        let Some(live) = &self.live else { return };
        let mut bytes = Vec::new();
        match wire::encode(frame, FRAME_LIMIT, &mut bytes) {
            Ok(()) if live.control.try_send(bytes).is_ok() => {}
            Ok(()) => tracing::debug!(?frame, "left out: the peer takes nothing"),
            Err(error) => tracing::error!(%error, "a frame of the channel's own cannot be written"),
        }
    }

    fn on_incoming(&mut self, stream: TcpStream, from: SocketAddr) {
        if let Some(connection) = self.session.accept(from, now()) {
            self.open(connection, Origin::Accepted(stream));
        }
    }

    fn on_report(&mut self, report: Report<M>) {
        match report {
            Report::Connected(connection) => self.session.handle(Input::Connected { connection }, now()),
            Report::Failed(connection, refusal) => {
                self.waiting.remove(&connection);
                self.take_the_rest(connection);
                self.session.handle(Input::Failed { connection, refusal }, now());
            }
            Report::Greeted { connection, hello, proven, start } => {
                let Some(waiting) = self.waiting.get_mut(&connection) else { return };
                // The pin may have been dropped since the handshake began.
                if !self.peer.pins.contains(&proven.pin) {
                    let text = format!("the certificate {} is no longer accepted", proven.pin.short());
                    self.waiting.remove(&connection);
                    let refusal = Refusal::new(Reason::Pin, text);
                    self.session.handle(Input::Failed { connection, refusal }, now());
                    return;
                }
                waiting.greeted = Some((proven, start));
                self.session.handle(Input::Greeted { connection, hello }, now());
            }
        }
    }

    /// What came before the end of a connection, unless the node does not keep up.
    fn take_the_rest(&mut self, connection: Connection) {
        while let Some(live) = self.live.as_mut().filter(|live| live.connection == connection)
            && self.pending.is_empty()
            && let Ok(arrived) = live.arrived.try_recv()
        {
            self.on_frame(arrived);
        }
    }

    fn on_frame(&mut self, Arrived { frame, at }: Arrived<M>) {
        let Some(Live { connection, pin, .. }) = &self.live else { return };
        let (connection, current) = (*connection, *pin);
        match frame {
            Frame::Control(control) => {
                self.session.handle(Input::Control { connection, control, at }, now());
                return;
            }
            Frame::Message(message) => {
                self.received += 1;
                self.tell(Event::Message(message));
            }
            Frame::Pinning(Pinning::PinAccepted { pin }) => self.rotation.accepted(&self.jobs, pin),
            Frame::Pinning(Pinning::NewPin { pin }) if pin == self.identity.pin() || self.accepting.is_some() => {
                tracing::warn!(pin = %pin.short(), "the peer announced a certificate that is not taken");
            }
            Frame::Pinning(Pinning::NewPin { pin: next }) => {
                self.accepting = Some(connection);
                self.keep(Job::AcceptAlso { current, next });
            }
        }
        self.session.handle(Input::Heard { connection }, now());
    }

    fn on_rotate(&mut self, reply: oneshot::Sender<Result<Pin, RotateError>>) {
        self.rotation.start(&self.jobs, self.live.is_some(), reply, Instant::now());
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Staged(staged) => {
                if let Some(pin) = self.rotation.staged(&self.jobs, staged) {
                    self.say(&Frame::Pinning(Pinning::NewPin { pin }));
                }
            }
            Done::Promoted(promoted) => {
                if let Some(identity) = self.rotation.promoted(promoted) {
                    tracing::info!(pin = %identity.pin(), "this node has a new identity");
                    self.identity = identity;
                    self.renew_tls();
                    self.session.handle(Input::End { why: "this node has a new identity".into() }, now());
                }
            }
            Done::Unstaged(Ok(())) => {}
            Done::Unstaged(Err(error)) => tracing::debug!(%error, "an identity that was given up is still there"),
            Done::Trusts(trusts, asked) => self.on_trusts(trusts, asked),
        }
    }

    fn on_trusts(&mut self, trusts: Result<Peer, PairingError>, asked: Option<Pin>) {
        let accepting = if asked.is_some() { self.accepting.take() } else { None };
        match trusts {
            Ok(peer) => {
                tracing::info!(%peer, "certificates that are accepted");
                self.peer = peer;
                self.renew_tls();
                if let (Some(pin), Some(connection)) = (asked, accepting)
                    && self.live.as_ref().is_some_and(|live| live.connection == connection)
                {
                    self.say(&Frame::Pinning(Pinning::PinAccepted { pin }));
                }
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::error!(%error, cause, "the pins of the peer could not be changed");
            }
        }
    }

    fn renew_tls(&mut self) {
        match Tls::new(&self.identity, &self.peer) {
            Ok(tls) => self.greeting.tls = tls,
            Err(error) => tracing::error!(%error, "TLS cannot be set up anew; the old certificates stay in use"),
        }
    }

    fn keep(&self, job: Job) {
        if let Err(error) = self.jobs.try_send(job) {
            tracing::error!(%error, "a change of the pairing was not made");
        }
    }

    fn publish(&mut self) {
        let mut counters = *self.session.counters();
        counters.received = self.received;
        counters.sent = self.shared.sent.load(Ordering::Relaxed);
        counters.full = self.shared.full.load(Ordering::Relaxed);
        if counters.refusals() != self.refusals {
            self.refusals = counters.refusals();
            let last = self.session.last_refusal();
            self.last_error = last.map(|(from, refusal)| format!("{from}: {}", refusal.text).into());
        }
        let measured = self.session.measured();
        let fresh = Status {
            connected: self.live.is_some(),
            since: self.since,
            path: self.session.live().map(|(_, path)| path),
            rtt: measured.map(|measured| measured.rtt),
            clock_offset: measured.map(|measured| measured.offset),
            counters,
            last_error: self.last_error.clone(),
        };
        self.status.send_if_modified(|status| {
            let wakes = !fresh.says_the_same_as(status);
            *status = fresh;
            wakes
        });
    }

    async fn end(mut self) {
        self.shared.set_outgoing(None);
        self.live = None;
        for (_, waiting) in std::mem::take(&mut self.waiting) {
            waiting.task.abort();
        }
        self.reports.close();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(GOODBYE, all).await.is_err() {
            tracing::debug!("a connection did not end in time");
        }
    }
}

/// The next frame of the live connection; never, without one.
async fn next_frame<M>(live: &mut Option<Live<M>>) -> Option<Arrived<M>> {
    live.as_mut()?.arrived.recv().await
}

/// Waits for room; false: nobody takes events any more.
async fn has_room<M>(events: &mpsc::Sender<Event<M>>) -> bool {
    events.reserve().await.is_ok()
}

fn report_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection of the sync channel ended in a panic");
    }
}

fn log(from: SocketAddr, Refusal { reason, text }: &Refusal) {
    match reason {
        // What a peer that is down, or a scan of ports, looks like.
        Reason::Unreachable | Reason::Closed => tracing::info!(%reason, %from, "sync: {text}"),
        _ => tracing::warn!(%reason, %from, "sync: refused: {text}"),
    }
}
