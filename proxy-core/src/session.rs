//! One client from its arrival to its end: in TCP mode choose a server, connect, relay, account; in HTTP mode the
//! engine's ([`crate::http::connection`]).
//!
//! A session holds the scheme it began under, so a server that an apply removed serves its sessions to their end.

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::SystemTime;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tracing::debug;

use crate::http::connection::Connection;
use crate::http::rules::{Subject, Verdict};
use crate::limits::Pass;
use crate::log::{Ended, Phase, TcpRecord, TcpTimers, Termination, Way};
use crate::per_source::FromSource;
use crate::plan::Mode;
use crate::reach::{Attempts, Chosen, Unreached};
use crate::route::{Entrance, Route};
use crate::tcp::relay::{End, Relay, reset_on_close};
use crate::tls::hello;

/// A client that was let in.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) entrance: Rc<Entrance>,
    /// Room in the process, and in the frontend.
    pub(crate) passes: [Pass; 2],
}

/// What a session takes up, until it ends.
#[derive(Debug)]
pub(crate) struct Room {
    _passes: [Pass; 2],
    _of_source: Option<Box<FromSource>>,
}

impl Session {
    /// All that follows, in memory of its own: each kind of session takes no more than it needs. `None`: there is no
    /// room for one more of its source.
    pub(crate) fn begin(self) -> Option<Pin<Box<dyn Future<Output = ()>>>> {
        let Session { client, peer, entrance, passes } = self;
        let route = entrance.route();
        route.counters().total.add(1);
        let limit = route.frontend().max_connections_per_source;
        let of_source = limit.map(|limit| route.live().per_source.enter(peer.ip().to_canonical(), limit));
        if matches!(of_source, Some(None)) {
            route.counters().denied.add(1);
            debug!(client = %peer, limit, "a client has all the sessions that it may have");
            return None;
        }
        let room = Room { _passes: passes, _of_source: of_source.flatten().map(Box::new) };
        // Small writes go out at once; a client that is gone already shows when it is read.
        let _ = client.set_nodelay(true);
        Some(match route.frontend().mode {
            Mode::Tcp => Box::pin(tcp(client, peer, route, room)),
            Mode::Http(_) => {
                let mut connection = Connection::new(client, peer, entrance, room);
                Box::pin(async move { connection.serve().await })
            }
        })
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

async fn tcp(client: TcpStream, peer: SocketAddr, route: Rc<Route>, _room: Room) {
    let began = Instant::now();
    let own = client.local_addr().unwrap_or(peer);
    let client = Unserved(Some(client));
    let hello = if route.rules.looks_into_hellos() {
        hello::peek_from(client.stream(), route.frontend().client_timeout).await
    } else {
        None
    };
    let subject = Subject {
        client: peer.ip().to_canonical(),
        port: own.port(),
        tls: None,
        hello: hello.as_ref(),
        request: None,
        servers_up: &|backend| route.servers_up(backend),
    };
    let mut story = Story::default();
    let backend = match route.rules.walk(&subject).verdict {
        Verdict::UseBackend(backend) => backend,
        Verdict::Reject { reset } => {
            route.counters().denied.add(1);
            if !reset {
                drop(client.served());
            }
            story.end = Termination::new(Ended::Proxy, Phase::Request);
            return story.tell(&route, peer, began);
        }
        // The plan was validated: no other verdict is reached without a request.
        _ => route.frontend().backend.expect("a plan was validated: TCP has a backend"),
    };
    story.backend = Some(backend);
    story.queued = u32::try_from(route.backend_live(backend).queue.len()).unwrap_or(u32::MAX);
    let reached = async {
        let mut chosen = route.choose(backend, leaves(client.stream())).await?;
        story.server = Some(chosen.server);
        story.timers.queue = Some(began.elapsed());
        let stream = route.open(backend, &mut chosen, &mut story.attempts).await?;
        story.timers.connect = Some(began.elapsed() - story.timers.queue.unwrap_or_default());
        Ok::<_, Unreached>((chosen, stream))
    };
    let (Chosen { server, place }, stream) = match reached.await {
        Ok(reached) => reached,
        Err(why) => {
            route.count_unreached(backend, why);
            route.counters().denied.add(1);
            debug!(backend = route.backend(backend).name, client = %peer, ?why, "no server for a client");
            story.end = why.termination();
            return story.tell(&route, peer, began);
        }
    };
    story.server = Some(server);
    let (frontend, plan) = (route.frontend(), route.backend(backend));
    let (counters, server) = (route.counters(), route.server_counters(backend, server));
    server.total.add(1);
    let idle = plan.tunnel_timeout.unwrap_or(frontend.client_timeout.min(plan.server_timeout));
    let up = [&counters.bytes_in, &server.bytes_in];
    let down = [&counters.bytes_out, &server.bytes_out];
    let client = client.served();
    let (end, bytes) = Relay::new(&client, &stream, &route.desk.buffers).run(idle, &up, &down).await;
    debug!(frontend = frontend.name, client = %peer, ?end, "session ended");
    story.bytes = bytes;
    story.end = match end {
        Ok(End::Finished) => Termination::default(),
        Ok(End::Idle) => Termination::new(Ended::ClientTimeout, Phase::Data),
        Err(_) => Termination::new(Ended::Client, Phase::Data),
    };
    story.tell(&route, peer, began);
    drop(place);
}

/// What the log will say of a TCP session.
#[derive(Default)]
struct Story {
    timers: TcpTimers,
    backend: Option<usize>,
    server: Option<usize>,
    queued: u32,
    attempts: Attempts,
    bytes: u64,
    end: Termination,
}

impl Story {
    fn tell(mut self, route: &Route, client: SocketAddr, began: Instant) {
        let Some(log) = route.frontend().log else { return };
        self.timers.total = began.elapsed();
        let server = self.backend.zip(self.server);
        let way = Way {
            client,
            date: SystemTime::now() - self.timers.total,
            frontend: &route.frontend().name,
            tls: false,
            backend: self.backend.map(|backend| route.backend(backend).name.as_str()),
            server: server.map(|(backend, server)| route.backend(backend).servers[server].name.as_str()),
            bytes: self.bytes,
            end: self.end,
            load: route.load(self.backend, self.server, self.attempts, self.queued),
            why: None,
        };
        route.desk.logger.tcp(&route.scheme.sinks, log, &TcpRecord { way, timers: self.timers });
    }
}

/// Ends when nobody is left to be served: a reset, or an end of stream before anything was said.
///
/// An end of stream after some bytes may be a client that has said all and waits for its answer. It can't be told
/// from one that closed, so it keeps its turn (HAProxy without `abortonclose`).
pub(crate) async fn leaves(client: &TcpStream) {
    if let Ok(1..) = client.peek(&mut [0]).await {
        resets(client).await;
    }
}

/// Ends when the connection is reset.
pub(crate) async fn resets(client: &TcpStream) {
    // Should the wait itself fail, it is as good as that.
    let _ = client.ready(Interest::ERROR).await;
}
