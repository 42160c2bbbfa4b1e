//! How a client gets a server: choose one, wait for a place, take a pooled connection or open one, retry, redispatch.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::balance::{Pick, Wanted};
use crate::log::{Ended, Load, Phase, Termination};
use crate::queue::{Lane, Queue};
use crate::route::Route;
use crate::server::{Place, ServerLive};
use crate::stream::Stream;
use crate::tls::handshake;

/// Before a further attempt at the same server, at most the connect timeout (HAProxy's turn-around timer).
const TURN_AROUND: Duration = Duration::from_secs(1);

/// How long a connect may hold its turn. One that takes longer costs nothing meanwhile: a server that takes no
/// connections holds up nobody else's.
const TURN: Duration = Duration::from_millis(50);

/// Of a slow start, and how short one may be.
const STEPS: u32 = 16;
const SHORTEST_STEP: Duration = Duration::from_millis(10);

/// Why there is no server for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreached {
    /// Every server is down, or takes nothing new.
    NoServer,
    QueueFull,
    QueueTimeout,
    /// The client left the queue.
    Left,
    /// No attempt to connect succeeded.
    Connect,
    /// The server went down meanwhile, and there is no other one.
    Down,
}

/// A place at a server.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) server: usize,
    pub(crate) place: Place,
}

/// What it took to get there.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Attempts {
    /// Connects that failed and were tried again.
    pub(crate) retries: u32,
    /// The last one went to another server.
    pub(crate) redispatched: bool,
}

impl Unreached {
    /// As the log calls it.
    pub(crate) fn termination(self) -> Termination {
        match self {
            Unreached::NoServer | Unreached::Connect => Termination::new(Ended::Server, Phase::Connect),
            Unreached::Down => Termination::new(Ended::Down, Phase::Connect),
            Unreached::QueueFull => Termination::new(Ended::Server, Phase::Queue),
            Unreached::QueueTimeout => Termination::new(Ended::ServerTimeout, Phase::Queue),
            Unreached::Left => Termination::new(Ended::Client, Phase::Queue),
        }
    }
}

impl Route {
    /// A server of `backend` with a place, after a wait in the queue if need be; `left` ends when the client is gone.
    pub(crate) async fn choose(
        &self,
        backend: usize,
        wanted: Wanted,
        left: impl Future<Output = ()>,
    ) -> Result<Chosen, Unreached> {
        match self.take_in_turn(backend, wanted) {
            Ok(chosen) => Ok(chosen),
            Err(None) => Err(Unreached::NoServer),
            Err(Some(lane)) => self.queue(backend, wanted, lane, left).await,
        }
    }

    /// The part of [`Route::choose`] that takes time, and room: a wait in this lane.
    pub(crate) async fn queue(
        &self,
        backend: usize,
        wanted: Wanted,
        lane: Lane,
        left: impl Future<Output = ()>,
    ) -> Result<Chosen, Unreached> {
        tokio::select! {
            biased;
            chosen = self.wait(backend, wanted, lane) => chosen,
            () = left => Err(Unreached::Left),
            () = sleep(self.backend(backend).queue_timeout) => Err(Unreached::QueueTimeout),
        }
    }

    /// A server with a place, at once and without overtaking anybody; an error says where to wait, or that it is in vain.
    pub(crate) fn take_in_turn(&self, backend: usize, wanted: Wanted) -> Result<Chosen, Option<Lane>> {
        let live = self.backend_live(backend);
        if live.queue.len() > 0 {
            match self.look(backend, wanted, None).0 {
                Pick::Nobody => return Err(None),
                Pick::Server(server) => {
                    let lane = live.servers[server].lane();
                    if let Some(taken) = [lane, Lane::ANY].into_iter().find(|lane| !live.queue.is_free(*lane)) {
                        return Err(Some(taken));
                    }
                }
                full => return Err(Some(self.lane(backend, full))),
            }
        }
        self.take(backend, wanted, None).map_err(|pick| (pick != Pick::Nobody).then(|| self.lane(backend, pick)))
    }

    /// Waits in the queue for a server with a place.
    async fn wait(&self, backend: usize, wanted: Wanted, mut lane: Lane) -> Result<Chosen, Unreached> {
        let queue = &self.backend_live(backend).queue;
        let waiting = async {
            loop {
                let ticket = queue.join(lane).ok_or(Unreached::QueueFull)?;
                let turn = ticket.turn(|| match self.take(backend, wanted, None) {
                    Ok(chosen) => Some(Ok(chosen)),
                    // The last server went down: whoever waits is answered at once.
                    Err(Pick::Nobody) => Some(Err(None)),
                    // The server that it waited for went down: now it is another one's.
                    Err(full) => {
                        Some(self.lane(backend, full)).filter(|other| *other != lane).map(|other| Err(Some(other)))
                    }
                });
                match turn.await {
                    Ok(chosen) => return Ok(chosen),
                    Err(None) => return Err(Unreached::NoServer),
                    Err(Some(other)) => lane = other,
                }
            }
        };
        match self.backend(backend).slow_start {
            None => waiting.await,
            Some(slow_start) => tokio::select! {
                chosen = waiting => chosen,
                never = grow(queue, slow_start) => match never {},
            },
        }
    }

    /// Where to wait after such an answer.
    fn lane(&self, backend: usize, pick: Pick) -> Lane {
        match pick {
            Pick::Busy(server) => self.backend_live(backend).servers[server].lane(),
            _ => Lane::ANY,
        }
    }

    /// A server with a place, at once.
    pub(crate) fn take(&self, backend: usize, wanted: Wanted, except: Option<usize>) -> Result<Chosen, Pick> {
        let live = self.backend_live(backend);
        // Another worker may take the last place between the look and the take: then look again.
        for _ in 0..=live.servers.len() {
            match self.look(backend, wanted, except) {
                (Pick::Server(server), limit) => {
                    if let Some(place) = live.servers[server].take(limit, &live.queue) {
                        return Ok(Chosen { server, place });
                    }
                }
                (none, _) => return Err(none),
            }
        }
        Err(Pick::Full)
    }

    /// What the balancer says, and the limit of the server that it chose.
    fn look(&self, backend: usize, wanted: Wanted, except: Option<usize>) -> (Pick, u32) {
        let (slow_start, live) = (self.backend(backend).slow_start, self.backend_live(backend));
        if let Some(home) = wanted.home.filter(|home| self.may_stay(backend, *home)) {
            let limit = self.backend(backend).servers[home].max_connections.unwrap_or(u32::MAX);
            let full = live.servers[home].sessions() >= limit;
            return (if full { Pick::Busy(home) } else { Pick::Server(home) }, limit);
        }
        let mut balancer = self.backends[backend].balancer.borrow_mut();
        let changes = live.changes.load(SeqCst);
        balancer.follow(changes, Instant::now, |server, now| live.servers[server].standing(slow_start, now));
        let pick = balancer.pick(wanted, except, |server| live.sessions[server].now());
        let limit = match pick {
            Pick::Server(server) => balancer.limit(server),
            _ => 0,
        };
        (pick, limit)
    }

    /// A place at a server of the backend that the client is with already, whatever its limit.
    pub(crate) fn stay(&self, backend: usize, server: &Arc<ServerLive>) -> Option<Chosen> {
        let live = self.backend_live(backend);
        let index = live.servers.iter().position(|one| Arc::ptr_eq(one, server))?;
        if self.backend(backend).cut_on_down && !server.is_usable() {
            return None;
        }
        Some(Chosen { server: index, place: server.take(u32::MAX, &live.queue)? })
    }

    /// A new connection to the server that was chosen, or, after failures, to another one: `chosen` says to which. It
    /// begins with `header`.
    pub(crate) async fn open(
        &self,
        backend: usize,
        chosen: &mut Chosen,
        attempts: &mut Attempts,
        header: Option<&[u8]>,
    ) -> Result<Stream, Unreached> {
        let plan = self.backend(backend);
        loop {
            let server = &plan.servers[chosen.server];
            let connected = {
                let mut cut = chosen.place.cut(plan);
                tokio::select! {
                    biased;
                    () = poll_fn(|cx| cut.poll(cx)) => None,
                    connected = self.connect(backend, chosen.server, header) => Some(connected),
                }
            };
            match connected {
                Some(Ok(stream)) => return Ok(stream),
                None => {
                    debug!(backend = plan.name, server = server.name, "a server went down as it was connected to");
                    if self.moves(backend, chosen, attempts) {
                        continue;
                    }
                    self.server_counters(backend, chosen.server).cut_when_down.add(1);
                    return Err(Unreached::Down);
                }
                Some(Err(error)) => {
                    self.server_counters(backend, chosen.server).connect_errors.add(1);
                    self.observe(backend, chosen.server, false);
                    debug!(backend = plan.name, server = server.name, %error, attempts.retries, "connect failed");
                }
            }
            if !self.again(backend, chosen, attempts) {
                return Err(Unreached::Connect);
            }
            if !attempts.redispatched {
                sleep(TURN_AROUND.min(plan.connect_timeout)).await;
            }
        }
    }

    /// Whether another attempt may be made; `chosen` is where.
    pub(crate) fn again(&self, backend: usize, chosen: &mut Chosen, attempts: &mut Attempts) -> bool {
        let plan = self.backend(backend);
        if attempts.retries >= plan.retries {
            return false;
        }
        attempts.retries += 1;
        self.backend_counters(backend).retries.add(1);
        let last = attempts.retries == plan.retries;
        let down = !self.server_live(backend, chosen.server).is_usable();
        attempts.redispatched = false;
        if plan.redispatch
            && (last || down)
            && let Ok(other) = self.take(backend, Wanted::default(), Some(chosen.server))
        {
            self.backend_counters(backend).redispatches.add(1);
            attempts.redispatched = true;
            *chosen = other;
        }
        true
    }

    /// Whether there is another attempt, at another server: `chosen` went down, and its sessions are cut.
    pub(crate) fn moves(&self, backend: usize, chosen: &mut Chosen, attempts: &mut Attempts) -> bool {
        self.backend(backend).redispatch && self.again(backend, chosen, attempts) && attempts.redispatched
    }

    /// How full everything is, for the log.
    pub(crate) fn load(&self, backend: Option<usize>, server: Option<usize>, attempts: Attempts, queued: u32) -> Load {
        let servers = backend.map_or(&[][..], |backend| &self.backend_live(backend).servers);
        Load {
            process: self.desk.process.inside(),
            frontend: self.live().gate.inside(),
            backend: servers.iter().map(|server| server.sessions()).sum(),
            server: server.and_then(|server| servers.get(server)).map_or(0, |server| server.sessions()),
            retries: attempts.retries,
            redispatched: attempts.redispatched,
            // There is one queue, the backend's.
            server_queue: 0,
            backend_queue: queued,
        }
    }

    pub(crate) fn count_unreached(&self, backend: usize, why: Unreached) {
        let counters = self.backend_counters(backend);
        match why {
            Unreached::NoServer => counters.no_server.add(1),
            Unreached::QueueFull => counters.queue_full.add(1),
            Unreached::QueueTimeout => counters.queue_timeouts.add(1),
            Unreached::Left => counters.queue_left.add(1),
            // Each attempt was counted at its server.
            Unreached::Connect | Unreached::Down => {}
        }
    }

    async fn connect(&self, backend: usize, server: usize, header: Option<&[u8]>) -> io::Result<Stream> {
        let plan = self.backend(backend);
        let connect = async {
            if !plan.http2 {
                return self.dial(backend, server, header).await;
            }
            // Apart, so that nobody who needs none has room for it.
            let lines = &self.backends[backend].pools[server].lines;
            let stream = Box::pin(lines.stream(&self.desk, self.dial(backend, server, None))).await?;
            Ok(Stream::H2Server(Box::new(stream)))
        };
        // The wait for a turn counts, and so does a handshake: the limit is what the client waits.
        timeout(plan.connect_timeout, connect).await?
    }

    async fn dial(&self, backend: usize, server: usize, header: Option<&[u8]>) -> io::Result<Stream> {
        let turn = self.desk.connects.acquire().await.expect("the semaphore is never closed");
        let mut connecting = pin!(TcpStream::connect(self.backend(backend).servers[server].address));
        let mut stream = match timeout(TURN, &mut connecting).await {
            Ok(connected) => connected?,
            Err(_) => {
                drop(turn);
                connecting.await?
            }
        };
        stream.set_nodelay(true)?;
        if let Some(header) = header {
            // A new socket takes it all at once.
            stream.write_all(header).await?;
        }
        let Some(tls) = self.scheme.tls.server(backend, server) else { return Ok(Stream::Tcp(stream)) };
        let handshake = handshake::connect(stream, Arc::clone(&tls.config), tls.name.clone(), &self.desk);
        Ok(Stream::Tls(Box::new(Box::pin(handshake).await?)))
    }
}

/// Lets those who wait look again at each step of a server that grows: its limit does, too.
async fn grow(queue: &Queue, slow_start: Duration) -> Infallible {
    loop {
        sleep((slow_start / STEPS).max(SHORTEST_STEP)).await;
        queue.wake();
    }
}
