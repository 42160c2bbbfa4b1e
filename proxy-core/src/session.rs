//! One client's way through: choose a server, wait for a place, connect (retry, redispatch), relay, account.
//!
//! The only file that knows this order. Everything here runs on one worker; a session holds the scheme it began
//! under, so a server that an apply removed serves its sessions to their end.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::sleep;
use tracing::debug;

use crate::balance::{Balancer, Pick};
use crate::limits::Pass;
use crate::plan;
use crate::server::{BackendLive, FrontendLive, Place, Scheme};
use crate::stats::ServerState;
use crate::tcp::buffers::Buffers;
use crate::tcp::connect::connect;
use crate::tcp::relay::{Relay, reset_on_close};

/// Before a further attempt at the same server, at most the connect timeout (HAProxy's turn-around timer).
const TURN_AROUND: Duration = Duration::from_secs(1);

/// Where the clients of one frontend go, as one worker has it; rebuilt for each scheme.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) scheme: Arc<Scheme>,
    pub(crate) frontend: usize,
    pub(crate) worker: u16,
    pub(crate) balancers: Rc<[Rc<RefCell<Balancer>>]>,
    pub(crate) buffers: Rc<Buffers>,
}

/// A client that was let in.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) route: Rc<Route>,
    /// Room in the process, and in the frontend.
    pub(crate) passes: [Pass; 2],
}

enum Refusal {
    NoServer,
    QueueFull,
    QueueTimeout,
    Left,
}

impl Session {
    /// To the end of the session.
    pub(crate) async fn run(self) {
        let Session { client, peer, route, passes } = self;
        let client = Unserved(Some(client));
        let worker = usize::from(route.worker);
        let counters = &route.live().shards[worker];
        counters.total.add(1);
        let Some((server, stream, place)) = route.reach(client.stream(), peer).await else {
            counters.denied.add(1);
            return;
        };
        let client = client.served();
        // Small writes go out at once; a client that is gone already shows in the relay.
        let _ = client.set_nodelay(true);
        let server = &route.backend_live().servers[server].shards[worker];
        server.total.add(1);
        let idle = route.frontend().client_timeout.min(route.backend().server_timeout);
        let up = [&counters.bytes_in, &server.bytes_in];
        let down = [&counters.bytes_out, &server.bytes_out];
        let end = Relay::new(client, stream, &route.buffers).run(idle, up, down).await;
        debug!(frontend = route.frontend().name, client = %peer, ?end, "session ended");
        drop((place, passes));
    }
}

/// A client that has no server yet; reset, not closed, when dropped so.
struct Unserved(Option<TcpStream>);

impl Unserved {
    fn stream(&self) -> &TcpStream {
        self.0.as_ref().expect("a client is there until it is served")
    }

    fn served(mut self) -> TcpStream {
        self.0.take().expect("a client is served once")
    }
}

impl Drop for Unserved {
    fn drop(&mut self) {
        self.0.iter().for_each(reset_on_close);
    }
}

impl Route {
    pub(crate) fn frontend(&self) -> &plan::Frontend {
        &self.scheme.plan.frontends[self.frontend]
    }

    pub(crate) fn live(&self) -> &FrontendLive {
        &self.scheme.frontends[self.frontend]
    }

    fn backend_index(&self) -> usize {
        self.frontend().backend.expect("a plan was validated: TCP has a backend")
    }

    fn backend(&self) -> &plan::Backend {
        &self.scheme.plan.backends[self.backend_index()]
    }

    fn backend_live(&self) -> &BackendLive {
        &self.scheme.backends[self.backend_index()]
    }

    /// A connected server: its index, the connection, the place held there. `None`: the client gets none.
    async fn reach(&self, client: &TcpStream, peer: SocketAddr) -> Option<(usize, TcpStream, Place)> {
        let backend = self.backend();
        let live = self.backend_live();
        let counters = &live.shards[usize::from(self.worker)];
        let (mut index, mut place) = match self.choose(client).await {
            Ok(chosen) => chosen,
            Err(refusal) => {
                let (counter, why) = match refusal {
                    Refusal::NoServer => (&counters.no_server, "no server is usable"),
                    Refusal::QueueFull => (&counters.queue_full, "the queue is full"),
                    Refusal::QueueTimeout => (&counters.queue_timeouts, "no place came free in time"),
                    Refusal::Left => (&counters.queue_left, "it left the queue"),
                };
                counter.add(1);
                debug!(backend = backend.name, client = %peer, why, "no server for a client");
                return None;
            }
        };
        for left in (0..=backend.retries).rev() {
            let server = &backend.servers[index];
            match connect(server.address, backend.connect_timeout).await {
                Ok(stream) => return Some((index, stream, place)),
                Err(error) => {
                    live.servers[index].shards[usize::from(self.worker)].connect_errors.add(1);
                    debug!(backend = backend.name, server = server.name, %error, left, "connect failed");
                }
            }
            if left == 0 {
                break;
            }
            counters.retries.add(1);
            let down = live.servers[index].health() == ServerState::Down;
            let other = if backend.redispatch && (left == 1 || down) { self.take(Some(index)).ok() } else { None };
            if let Some(chosen) = other {
                counters.redispatches.add(1);
                (index, place) = chosen;
            } else {
                sleep(TURN_AROUND.min(backend.connect_timeout)).await;
            }
        }
        None
    }

    /// A server with a place, after a wait in the queue if need be.
    async fn choose(&self, client: &TcpStream) -> Result<(usize, Place), Refusal> {
        let queue = &self.backend_live().queue;
        // Nobody overtakes those who wait.
        if queue.len() == 0 {
            match self.take(None) {
                Ok(chosen) => return Ok(chosen),
                Err(Pick::Nobody) => return Err(Refusal::NoServer),
                Err(_) => {}
            }
        }
        let ticket = queue.join().ok_or(Refusal::QueueFull)?;
        let turn = ticket.turn(|| match self.take(None) {
            Ok(chosen) => Some(Ok(chosen)),
            // The last server went down: whoever waits is answered at once.
            Err(Pick::Nobody) => Some(Err(Refusal::NoServer)),
            Err(_) => None,
        });
        tokio::select! {
            biased;
            chosen = turn => chosen,
            () = leaves(client) => Err(Refusal::Left),
            () = sleep(self.backend().queue_timeout) => Err(Refusal::QueueTimeout),
        }
    }

    /// A server with a place, at once.
    fn take(&self, except: Option<usize>) -> Result<(usize, Place), Pick> {
        let (backend, live) = (self.backend(), self.backend_live());
        let look = |index: usize| live.servers[index].candidate(&backend.servers[index]);
        // Another worker may take the last place between the look and the take: then look again.
        for _ in 0..=backend.servers.len() {
            match self.balancers[self.backend_index()].borrow_mut().pick(backend.servers.len(), except, look) {
                Pick::Server(index) => {
                    let max = backend.servers[index].max_connections;
                    if let Some(place) = live.servers[index].take(max, &live.queue) {
                        return Ok((index, place));
                    }
                }
                none => return Err(none),
            }
        }
        Err(Pick::Full)
    }
}

/// Ends when nobody is left to be served: a reset, or an end of stream before anything was said.
///
/// An end of stream after some bytes may be a client that has said all and waits for its answer. It can't be told
/// from one that closed, so it keeps its turn (HAProxy without `abortonclose`).
async fn leaves(client: &TcpStream) {
    if let Ok(1..) = client.peek(&mut [0]).await {
        // Should the wait itself fail, the connection is as good as reset.
        let _ = client.ready(Interest::ERROR).await;
    }
}
