//! How a client gets a server: choose one, wait for a place, take a pooled connection or open one, retry, redispatch.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::balance::Pick;
use crate::log::{Ended, Load, Phase, Termination};
use crate::route::Route;
use crate::server::{Place, ServerLive};
use crate::stream::Stream;
use crate::tls::handshake;

/// Before a further attempt at the same server, at most the connect timeout (HAProxy's turn-around timer).
const TURN_AROUND: Duration = Duration::from_secs(1);

/// How long a connect may hold its turn. One that takes longer costs nothing meanwhile: a server that takes no
/// connections holds up nobody else's.
const TURN: Duration = Duration::from_millis(50);

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
            Unreached::QueueFull => Termination::new(Ended::Server, Phase::Queue),
            Unreached::QueueTimeout => Termination::new(Ended::ServerTimeout, Phase::Queue),
            Unreached::Left => Termination::new(Ended::Client, Phase::Queue),
        }
    }
}

impl Route {
    /// A server of `backend` with a place, after a wait in the queue if need be; `left` ends when the client is gone.
    pub(crate) async fn choose(&self, backend: usize, left: impl Future<Output = ()>) -> Result<Chosen, Unreached> {
        let queue = &self.backend_live(backend).queue;
        // Nobody overtakes those who wait.
        if queue.len() == 0 {
            match self.take(backend, None) {
                Ok(chosen) => return Ok(chosen),
                Err(Pick::Nobody) => return Err(Unreached::NoServer),
                Err(_) => {}
            }
        }
        let ticket = queue.join().ok_or(Unreached::QueueFull)?;
        let turn = ticket.turn(|| match self.take(backend, None) {
            Ok(chosen) => Some(Ok(chosen)),
            // The last server went down: whoever waits is answered at once.
            Err(Pick::Nobody) => Some(Err(Unreached::NoServer)),
            Err(_) => None,
        });
        tokio::select! {
            biased;
            chosen = turn => chosen,
            () = left => Err(Unreached::Left),
            () = sleep(self.backend(backend).queue_timeout) => Err(Unreached::QueueTimeout),
        }
    }

    /// A server with a place, at once.
    pub(crate) fn take(&self, backend: usize, except: Option<usize>) -> Result<Chosen, Pick> {
        let (plan, live) = (self.backend(backend), self.backend_live(backend));
        let look = |index: usize| live.servers[index].candidate(&plan.servers[index]);
        // Another worker may take the last place between the look and the take: then look again.
        for _ in 0..=plan.servers.len() {
            match self.backends[backend].balancer.borrow_mut().pick(plan.servers.len(), except, look) {
                Pick::Server(server) => {
                    let max = plan.servers[server].max_connections;
                    if let Some(place) = live.servers[server].take(max, &live.queue) {
                        return Ok(Chosen { server, place });
                    }
                }
                none => return Err(none),
            }
        }
        Err(Pick::Full)
    }

    /// A place at a server of the backend that the client is with already, whatever its limit.
    pub(crate) fn stay(&self, backend: usize, server: &Arc<ServerLive>) -> Option<Chosen> {
        let live = self.backend_live(backend);
        let index = live.servers.iter().position(|one| Arc::ptr_eq(one, server))?;
        Some(Chosen { server: index, place: server.take(None, &live.queue)? })
    }

    /// A new connection to the server that was chosen, or, after failures, to another one: `chosen` says to which.
    pub(crate) async fn open(
        &self,
        backend: usize,
        chosen: &mut Chosen,
        attempts: &mut Attempts,
    ) -> Result<Stream, Unreached> {
        let plan = self.backend(backend);
        loop {
            let server = &plan.servers[chosen.server];
            match self.connect(backend, chosen.server).await {
                Ok(stream) => return Ok(stream),
                Err(error) => {
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
            && let Ok(other) = self.take(backend, Some(chosen.server))
        {
            self.backend_counters(backend).redispatches.add(1);
            attempts.redispatched = true;
            *chosen = other;
        }
        true
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
            Unreached::Connect => {}
        }
    }

    async fn connect(&self, backend: usize, server: usize) -> io::Result<Stream> {
        let plan = self.backend(backend);
        let connect = async {
            let turn = self.desk.connects.acquire().await.expect("the semaphore is never closed");
            let mut connecting = pin!(TcpStream::connect(plan.servers[server].address));
            let stream = match timeout(TURN, &mut connecting).await {
                Ok(connected) => connected?,
                Err(_) => {
                    drop(turn);
                    connecting.await?
                }
            };
            stream.set_nodelay(true)?;
            let Some(tls) = self.scheme.tls.server(backend, server) else { return Ok(Stream::Tcp(stream)) };
            // Apart, so that nobody who needs none has room for it.
            let handshake = handshake::connect(stream, Arc::clone(&tls.config), tls.name.clone(), &self.desk);
            Ok(Stream::Tls(Box::new(Box::pin(handshake).await?)))
        };
        // The wait for a turn counts, and so does a handshake: the limit is what the client waits.
        timeout(plan.connect_timeout, connect).await?
    }
}
