//! One client from its arrival to its end: in TCP mode choose a server, connect, relay, account; in HTTP mode the
//! engine's ([`crate::http::connection`]).
//!
//! A session holds the scheme it began under, so a server that an apply removed serves its sessions to their end.

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tracing::debug;

use crate::balance::{Wanted, hash};
use crate::http::connection::Connection;
use crate::http::rules::{Subject, Verdict};
use crate::http2;
use crate::limits::Pass;
use crate::log::{Ended, Phase, TcpRecord, TcpTimers, Termination, Way};
use crate::per_source::FromSource;
use crate::persist::Affinity;
use crate::plan::Mode;
use crate::reach::{Attempts, Chosen, Unreached};
use crate::route::{Entrance, Route};
use crate::stats::Counter;
use crate::stick::Tracks;
use crate::stream::Stream;
use crate::tcp::relay::{End, Relay};
use crate::tls::admits;
use crate::tls::fault::Fault;
use crate::tls::handshake;
use crate::tls::hello;

/// How long a client of a TCP frontend may take for its handshake, if it may be silent for longer.
const HANDSHAKE: Duration = Duration::from_secs(15);

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
        let Some(profile) = entrance.tls.get() else { return Some(speak(Stream::Tcp(client), peer, entrance, room)) };
        Some(Box::pin(async move {
            // Apart, and gone before the client is served.
            let secured = Box::pin(secure(client, peer, profile, &route)).await;
            if let Some(client) = secured {
                speak(client, peer, entrance, room).await;
            }
        }))
    }
}

/// What the frontend speaks, with a client who can be heard.
fn speak(client: Stream, peer: SocketAddr, entrance: Rc<Entrance>, room: Room) -> Pin<Box<dyn Future<Output = ()>>> {
    let route = entrance.route();
    match route.frontend().mode {
        Mode::Tcp => Box::pin(tcp(client, peer, route, room)),
        Mode::Http(_) => {
            let mut connection = Connection::new(client, peer, entrance, room);
            let agreed = connection.speaks_http2();
            Box::pin(async move {
                if agreed || connection.serve().await {
                    Box::pin(http2::connection::serve(connection.into_http2())).await;
                }
            })
        }
    }
}

/// Shakes hands with a client; `None`: nothing came of it.
async fn secure(client: TcpStream, peer: SocketAddr, profile: usize, route: &Route) -> Option<Stream> {
    let limit = match &route.frontend().mode {
        Mode::Tcp => route.frontend().client_timeout.min(HANDSHAKE),
        Mode::Http(http) => http.request_timeout,
    };
    let scheme = &route.scheme;
    let handshake = handshake::accept(client, Arc::clone(scheme.tls.bind(profile)), &route.desk);
    let secured = timeout(limit, handshake).await.unwrap_or(Err(Fault::Timeout)).and_then(|stream| {
        let admitted = stream.facts().is_some_and(|facts| admits(&scheme.plan.tls[profile], facts));
        if admitted { Ok(stream) } else { Err(Fault::NoCertificate) }
    });
    let counters = &route.counters().tls;
    match secured {
        Ok(stream) => {
            let resumed = stream.facts().is_some_and(|facts| facts.resumed);
            if resumed { &counters.resumed } else { &counters.full }.add(1);
            Some(Stream::Tls(Box::new(stream)))
        }
        Err(fault) => {
            counters.failed.0[fault.index()].add(1);
            debug!(frontend = route.frontend().name, client = %peer, why = fault.why(), "no handshake");
            None
        }
    }
}

/// A client that has no server yet; reset, not closed, when dropped so.
struct Unserved(Option<Stream>);

impl Unserved {
    fn stream(&self) -> &Stream {
        self.0.as_ref().expect("a client is there until it is served")
    }

    fn served(mut self) -> Stream {
        self.0.take().expect("a client is served once")
    }
}

impl Drop for Unserved {
    fn drop(&mut self) {
        self.0.iter().for_each(Stream::reset_on_close);
    }
}

async fn tcp(client: Stream, peer: SocketAddr, route: Rc<Route>, _room: Room) {
    let began = Instant::now();
    let client = Unserved(Some(client));
    let mut story = Story { tls: client.stream().facts().is_some(), ..Story::default() };
    let hello = match client.stream().clear() {
        // Apart, so that nobody who isn't asked for it has room for it.
        Some(socket) if route.rules.looks_into_hellos() || route.scheme.keys_by_sni[route.index] => {
            Box::pin(hello::peek_from(socket, route.frontend().client_timeout)).await.map(Box::new)
        }
        _ => None,
    };
    let tracks = Tracks::default();
    let servers_up = |backend| route.servers_up(backend);
    let subject = Subject {
        client: peer.ip().to_canonical(),
        port: client.stream().local_addr().unwrap_or(peer).port(),
        tls: client.stream().facts(),
        hello: hello.as_deref(),
        request: None,
        servers_up: &servers_up,
        tables: &route.scheme.tables,
        tracks: &tracks,
    };
    let outcome = route.rules.walk(&subject);
    let backend = match outcome.verdict {
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
    let key = route.scheme.stuck[backend].as_ref().map(|stuck| route.rules.key(&subject, &outcome, stuck.key()));
    let mut affinity = Affinity::by_key(key.flatten());
    let reached = async {
        let hash = hash::of_client(&route.backend(backend).balance, peer.ip());
        let wanted = Wanted { hash, last: None, home: affinity.wanted(&route, backend) };
        let mut chosen = route.choose(backend, wanted, client.stream().leaves()).await?;
        story.server = Some(chosen.server);
        story.timers.queue = Some(began.elapsed());
        let stream = route.open(backend, &mut chosen, &mut story.attempts).await?;
        story.timers.connect = Some(began.elapsed() - story.timers.queue.unwrap_or_default());
        affinity.settle(&route, backend, chosen.server);
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
    route.observe(backend, server, true);
    let (frontend, plan) = (route.frontend(), route.backend(backend));
    let (counters, server) = (route.counters(), route.server_counters(backend, server));
    server.total.add(1);
    let idle = plan.tunnel_timeout.unwrap_or(frontend.client_timeout.min(plan.server_timeout));
    let (tracked_up, tracked_down) = (Counter::default(), Counter::default());
    let up = [&counters.bytes_in, &server.bytes_in, &tracked_up];
    let down = [&counters.bytes_out, &server.bytes_out, &tracked_down];
    let client = client.served();
    let relay = Relay::new(&client, &stream, &route.desk).run(idle, &up, &down, place.cut(plan));
    let (end, bytes) = tracks.watch(&tracked_up, &tracked_down, relay).await;
    debug!(frontend = frontend.name, client = %peer, ?end, "session ended");
    story.bytes = bytes;
    story.end = match end {
        End::Finished => Termination::default(),
        End::Idle => Termination::new(Ended::ClientTimeout, Phase::Data),
        End::Client => Termination::new(Ended::Client, Phase::Data),
        End::Server => Termination::new(Ended::Server, Phase::Data),
        End::Down => {
            server.cut_when_down.add(1);
            Termination::new(Ended::Down, Phase::Data)
        }
    };
    story.tell(&route, peer, began);
    drop(place);
}

/// What the log will say of a TCP session.
#[derive(Default)]
struct Story {
    tls: bool,
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
            tls: self.tls,
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
