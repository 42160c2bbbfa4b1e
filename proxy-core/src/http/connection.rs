//! One client's connection: head after head, each answered by a server or by us, until one side has had enough.
//!
//! The only file that knows this order. What is read of a head is decided and composed at once, while it lies in the
//! buffer; nothing borrowed outlives that.

use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::alarm::Alarm;
use super::chunked::Keep;
use super::exchange::{End, Exchange, Failure};
use super::flow::{Body, Flow};
use super::forwarded::Ends;
use super::head::{self, Asked as Method, BadRequest, Framing, Request, Version};
use super::pool::ServerConnection;
use super::reply::{Answer, Asked};
use super::rewrite::{Connection as Said, RequestHead};
use super::rules::{Subject, Verdict};
use super::trip::Trip;
use crate::reach::{Attempts, Chosen, Unreached};
use crate::route::{Desk, Entrance, Guest, Route};
use crate::server::ServerLive;
use crate::session::leaves;
use crate::tcp::relay::{Relay, reset_on_close};
use crate::tcp::window::Window;

/// How long an idle client may still send a request after its worker began to drain: one may be under way.
const LAST_CALL: Duration = Duration::from_secs(1);
/// How long a client may take to read a last answer while it still sends, and how much of that is read.
const LINGER: (Duration, usize) = (Duration::from_secs(2), 1024 * 1024);

/// A client that was let in.
struct Connection {
    client: TcpStream,
    ends: Ends,
    peer: SocketAddr,
    entrance: Rc<Entrance>,
    desk: Rc<Desk>,
    input: Window,
    alarm: Alarm,
    /// Requests answered so far.
    answered: u64,
    /// Server connections that belong to this client alone.
    private: Vec<Private>,
    _guest: Guest,
}

/// A server connection whose user the server may know by the connection.
struct Private {
    server: Arc<ServerLive>,
    connection: ServerConnection,
}

/// What is to be done about a head.
enum Step {
    Forward(Box<Trip>),
    /// An answer of ours.
    Answer(Vec<u8>, Next),
    /// The same, after a while.
    Tarpit(Vec<u8>, Duration),
    Reject {
        reset: bool,
    },
}

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Another request.
    Request,
    Close,
    /// Close it when the client has had a chance to read what was said: it may still be sending.
    Linger,
    Reset,
}

/// What one request came to.
enum Outcome {
    Next(Next),
    Tunnel { server: ServerConnection, route: Rc<Route>, backend: usize, up: Window, down: Window },
}

/// To the end of the connection.
pub(crate) async fn serve(client: TcpStream, peer: SocketAddr, entrance: Rc<Entrance>) {
    // A client that is gone already has no address of ours; its first read will say so.
    let own = client.local_addr().unwrap_or(peer);
    let route = entrance.route();
    let alarm = Alarm::new(Instant::now() + route.http().request_timeout);
    let guest = poll_fn(|cx| Poll::Ready(Guest::new(&route.desk, cx.waker().clone()))).await;
    let desk = Rc::clone(&route.desk);
    drop(route);
    let ends = Ends { client: peer.ip().to_canonical(), own, tls: false };
    let mut connection = Connection {
        client,
        ends,
        peer,
        entrance,
        desk,
        input: Window::default(),
        alarm,
        answered: 0,
        private: Vec::new(),
        _guest: guest,
    };
    loop {
        match connection.request().await {
            Outcome::Next(Next::Request) => connection.answered += 1,
            Outcome::Next(Next::Close) => return,
            Outcome::Next(Next::Linger) => return linger(connection.client).await,
            Outcome::Next(Next::Reset) => return reset_on_close(&connection.client),
            Outcome::Tunnel { server, route, backend, up, down } => {
                let (frontend, plan) = (route.frontend(), route.backend(backend));
                let idle = plan.tunnel_timeout.unwrap_or(frontend.client_timeout.min(plan.server_timeout));
                let counters = route.counters();
                let relay = Relay::new(connection.client, server.stream, &route.desk.buffers).with(up, down);
                let end = relay.run(idle, &[&counters.bytes_in], &[&counters.bytes_out]).await;
                debug!(frontend = frontend.name, client = %peer, ?end, "tunnel ended");
                return;
            }
        }
    }
}

impl Connection {
    /// One request, from its first byte to the end of its answer.
    async fn request(&mut self) -> Outcome {
        let (step, route) = match self.head().await {
            Ok(head) => head,
            Err(next) => return Outcome::Next(next),
        };
        match step {
            Step::Forward(trip) => self.forward(&route, trip).await,
            Step::Answer(answer, next) => Outcome::Next(self.answer(&route, answer, next).await),
            Step::Tarpit(answer, delay) => {
                tokio::select! {
                    biased;
                    () = leaves(&self.client) => Outcome::Next(Next::Close),
                    () = sleep(delay) => Outcome::Next(self.answer(&route, answer, Next::Linger).await),
                }
            }
            Step::Reject { reset } => Outcome::Next(if reset { Next::Reset } else { Next::Close }),
        }
    }

    /// Reads to the end of a head, and decides what is to be done about it by the plan of that moment.
    async fn head(&mut self) -> Result<(Step, Rc<Route>), Next> {
        let mut looked_at = 0;
        let mut began = Instant::now();
        loop {
            let fresh = &self.input.bytes()[looked_at..];
            // Bytes without the end of a line can't end a head: a client that sends them singly costs no parsing.
            if memchr::memchr(b'\n', fresh).is_some() || self.input.is_full() {
                let route = self.entrance.route();
                if let Some(step) = self.decide(&route) {
                    return Ok((step, route));
                }
            }
            looked_at = self.input.bytes().len();
            match self.read(began).await {
                Ok(0) if looked_at == 0 => return Err(Next::Close),
                Ok(0) => return Ok(self.refuse(BadRequest::Truncated)),
                Ok(_) if looked_at == 0 && self.answered > 0 => began = Instant::now(),
                Ok(_) => {}
                Err(Some(_)) => return Err(Next::Close),
                Err(None) if looked_at == 0 => return Err(Next::Close),
                Err(None) => {
                    let route = self.entrance.route();
                    let answer = self.error(&route, Method::Other, 408, None);
                    return Ok((Step::Answer(answer, Next::Linger), route));
                }
            }
        }
    }

    /// Reads on in a head that began at `began`, or waits for one; an error of `None`: the time is over.
    async fn read(&mut self, began: Instant) -> Result<usize, Option<io::Error>> {
        let Connection { client, entrance, input, desk, alarm, answered, .. } = self;
        let idle = input.is_empty() && *answered > 0;
        let limit = {
            let route = entrance.route();
            if idle { route.http().keep_alive_timeout } else { route.http().request_timeout }
        };
        let mut deadline = began + limit;
        poll_fn(|cx| {
            if let Poll::Ready(read) = input.poll_fill(cx, client, &desk.buffers) {
                return Poll::Ready(read.map_err(Some));
            }
            if desk.closing.get() && input.is_empty() {
                deadline = deadline.min(Instant::now() + LAST_CALL);
            }
            alarm.poll(cx, deadline).map(|()| Err(None))
        })
        .await
    }

    /// What is to be done about the head at the beginning of the input; `None`: it isn't whole.
    fn decide(&mut self, route: &Rc<Route>) -> Option<Step> {
        let mut slots = head::slots();
        let bytes = self.input.bytes();
        let request = match head::request(&mut slots, bytes) {
            Ok(Some(request)) => request,
            Ok(None) if self.input.is_full() => return Some(self.refuse(BadRequest::HeadTooLong).0),
            Ok(None) => return None,
            Err(bad) => return Some(self.refuse(bad).0),
        };
        route.counters().http.requests.add(1);
        let servers_up = |backend| route.servers_up(backend);
        let (client, port, tls) = (self.ends.client, self.ends.own.port(), self.ends.tls);
        let outcome =
            route.rules.walk(&Subject { client, port, tls, request: Some(&request), servers_up: &servers_up });
        let asked = Method::by(request.method);
        // What is at hand of the body goes with a head that is answered by us; of a longer one, nothing is awaited.
        let at_hand = bytes.len() - request.length;
        let body = match request.framing {
            Framing::Empty => Some(0),
            Framing::Length(length) => usize::try_from(length).ok().filter(|length| *length <= at_hand),
            Framing::Chunked | Framing::UntilClose => None,
        };
        let persistent = request.hop.persistent && !self.entrance.is_closing();
        let next = if !persistent || body.is_none() { Next::Linger } else { Next::Request };
        let (length, connection) = (request.length, Said::to(request.version, next == Next::Request));
        let chosen = match outcome.verdict {
            Verdict::None => route.frontend().backend,
            Verdict::UseBackend(backend) => Some(backend),
            Verdict::Reject { reset } => {
                route.counters().denied.add(1);
                return Some(Step::Reject { reset });
            }
            _ => None,
        };
        let Some(backend) = chosen else {
            let mut out = route.desk.lend_head();
            let date = &mut *route.desk.date.borrow_mut();
            let (pages, http) = (&route.http().error_pages, route.http());
            let edits = http.response_edits.iter().chain(route.rules.response_edits(&outcome.response_edits));
            let date = date.at(SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs()));
            let answer = Answer { head: asked == Method::Head, connection, date, pages, edits };
            let status = match outcome.verdict {
                Verdict::Deny(reply) => {
                    route.counters().denied.add(1);
                    answer.deny(&mut out, reply);
                    reply.status
                }
                Verdict::Return(reply) => {
                    answer.give(&mut out, reply);
                    reply.status
                }
                Verdict::Redirect { to, code } => {
                    let target = outcome.target.as_deref().unwrap_or(request.target);
                    answer.redirect(&mut out, to, code, Asked { host: request.host, target, ends: &self.ends });
                    code
                }
                Verdict::Tarpit(delay) => {
                    route.counters().denied.add(1);
                    let answer = Answer { connection: Said::Close, ..answer };
                    answer.error(&mut out, 500, None);
                    route.counters().http.count_response(500);
                    return Some(Step::Tarpit(out, delay));
                }
                // Neither a rule nor the frontend chose a backend.
                Verdict::None | Verdict::UseBackend(_) | Verdict::Reject { .. } => {
                    answer.error(&mut out, 503, None);
                    503
                }
            };
            route.counters().http.count_response(status);
            self.input.consume(length + body.unwrap_or(0));
            return Some(Step::Answer(out, next));
        };
        let mut composed = route.desk.lend_head();
        let http = route.http();
        let rules = route.rules.request_edits(&outcome.request_edits);
        let edits = http.request_edits.iter().chain(rules).chain(&route.backend(backend).request_edits);
        let upgrade = request.hop.upgrade && request.version == Version::Http11;
        let head = RequestHead {
            bytes,
            request: &request,
            target: outcome.target.as_deref(),
            ends: &self.ends,
            forwarding: route.forwarding(),
            edits,
            connection: if upgrade { Said::Upgrade } else { Said::Persistent },
        };
        match head.as_it_is() {
            Some(same) => composed.extend_from_slice(same),
            None => head.write(&mut composed),
        }
        drop(head);
        let framing = request.framing;
        let trip = Trip {
            backend,
            asked,
            version: request.version,
            persistent: request.hop.persistent,
            upgrade,
            private: request.hop.connection_auth,
            replay: body.filter(|_| is_idempotent(&request)),
            response_edits: outcome.response_edits,
            up: Flow::new(composed, Window::default(), Body::of(framing, Keep::Framing)),
        };
        self.input.consume(length);
        Some(Step::Forward(Box::new(trip)))
    }

    /// Nothing on this connection can be trusted any more.
    fn refuse(&self, bad: BadRequest) -> (Step, Rc<Route>) {
        let route = self.entrance.route();
        route.counters().bad_requests.0[bad.index()].add(1);
        debug!(client = %self.peer, why = bad.why(), "bad request");
        let answer = self.error(&route, Method::Other, bad.status(), Some(bad.sentence()));
        (Step::Answer(answer, Next::Linger), route)
    }

    /// An error after which the connection ends.
    fn error(&self, route: &Route, asked: Method, status: u16, sentence: Option<&str>) -> Vec<u8> {
        let mut out = route.desk.lend_head();
        let http = route.http();
        let date = &mut *route.desk.date.borrow_mut();
        let answer = Answer {
            head: asked == Method::Head,
            connection: Said::Close,
            date: date.at(SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs())),
            pages: &http.error_pages,
            edits: http.response_edits.iter(),
        };
        answer.error(&mut out, status, sentence);
        route.counters().http.count_response(status);
        out
    }

    /// Says an answer of ours.
    async fn answer(&mut self, route: &Route, answer: Vec<u8>, next: Next) -> Next {
        let said = timeout(route.frontend().client_timeout, self.client.write_all(&answer)).await;
        route.counters().bytes_out.add(answer.len() as u64);
        route.desk.give_head_back(answer);
        if matches!(said, Ok(Ok(()))) { next } else { Next::Close }
    }

    /// Carries a request to a server, and the answer back.
    async fn forward(&mut self, route: &Rc<Route>, mut trip: Box<Trip>) -> Outcome {
        trip.up.window = std::mem::take(&mut self.input);
        // Chunks that can't be read show here or later; it makes no difference to a server that has seen nothing yet.
        if let Err(bad) = trip.up.sort() {
            let (Step::Answer(answer, next), _) = self.refuse(bad.into()) else { return Outcome::Next(Next::Close) };
            return Outcome::Next(self.answer(route, answer, next).await);
        }
        let backend = trip.backend;
        let mut attempts = Attempts::default();
        let (mut chosen, mut at_hand) = match self.own_connection(route, backend) {
            Some(own) => own,
            None => match route.choose(backend, leaves(&self.client)).await {
                Ok(chosen) => (chosen, None),
                Err(why) => return self.unreached(route, &trip, why).await,
            },
        };
        trip.private |= at_hand.is_some();
        // A pooled connection may end as the request arrives. So it is for requests that can be sent again, or
        // whose client is as used to that as anybody with a connection of its own (HAProxy's `http-reuse safe`).
        let mut may_reuse = trip.replay.is_some() || self.answered > 0;
        loop {
            if at_hand.is_none() && may_reuse {
                at_hand = route.pooled(backend, chosen.server);
            }
            let reused = at_hand.is_some();
            let server = match at_hand.take() {
                Some(server) => server,
                None => match route.open(backend, &mut chosen, &mut attempts).await {
                    Ok(stream) => ServerConnection::new(stream, &route.desk),
                    Err(why) => return self.unreached(route, &trip, why).await,
                },
            };
            let counters = route.server_counters(backend, chosen.server);
            counters.total.add(1);
            counters.http.requests.add(1);
            let mut exchange = Exchange::new(&self.entrance, route, &mut trip);
            let end = exchange.run(&self.client, &server.stream, &mut self.alarm).await;
            let (status, heard) = (exchange.status, exchange.heard);
            let down = exchange.into_down();
            self.count(route, &trip, chosen.server, status, &down);
            match end {
                Ok(End::Tunnel) => {
                    let up = std::mem::take(&mut trip.up.window);
                    return Outcome::Tunnel { server, route: Rc::clone(route), backend, up, down: down.window };
                }
                Ok(End::Answered { server_is_free, client_goes_on }) => {
                    route.desk.give_head_back(down.head);
                    if server_is_free && trip.private {
                        let server_live = Arc::clone(route.server_live(backend, chosen.server));
                        self.private.push(Private { server: server_live, connection: server });
                    } else if server_is_free {
                        route.backends[backend].pools[chosen.server].give_back(server, Instant::now());
                    }
                    self.input = std::mem::take(&mut trip.up.window);
                    self.input.release(&route.desk.buffers);
                    route.desk.give_head_back(std::mem::take(&mut trip.up.head));
                    return Outcome::Next(if client_goes_on { Next::Request } else { Next::Linger });
                }
                Err(failure) => {
                    drop(server);
                    if failure == Failure::Server && !heard {
                        if let Some(body) = trip.replay
                            && (reused || route.again(backend, &mut chosen, &mut attempts))
                        {
                            trip.up.rewind(body);
                            may_reuse = false;
                            continue;
                        }
                        if reused && self.answered > 0 {
                            // As its own server would have done: the client knows what it may send again.
                            return Outcome::Next(Next::Close);
                        }
                    }
                    if status != 0 {
                        // A part of an answer is out: only a cut tells that it is not all of it.
                        return Outcome::Next(Next::Reset);
                    }
                    return self.failed(route, &trip, chosen.server, failure).await;
                }
            }
        }
    }

    /// The connection to a server of this backend that is the client's alone, and its server even if it is gone.
    fn own_connection(&mut self, route: &Route, backend: usize) -> Option<(Chosen, Option<ServerConnection>)> {
        for index in 0..self.private.len() {
            if let Some(chosen) = route.keep(backend, &self.private[index].server) {
                let connection = self.private.swap_remove(index).connection;
                return Some((chosen, Some(connection).filter(ServerConnection::is_quiet)));
            }
        }
        None
    }

    /// No server could be had.
    async fn unreached(&mut self, route: &Route, trip: &Trip, why: Unreached) -> Outcome {
        route.count_unreached(trip.backend, why);
        debug!(backend = route.backend(trip.backend).name, client = %self.peer, ?why, "no server for a request");
        if why == Unreached::Left {
            return Outcome::Next(Next::Close);
        }
        let answer = self.error(route, trip.asked, 503, None);
        Outcome::Next(self.answer(route, answer, Next::Linger).await)
    }

    /// Nothing of an answer went out yet.
    async fn failed(&mut self, route: &Route, trip: &Trip, server: usize, failure: Failure) -> Outcome {
        let backend = route.backend(trip.backend);
        debug!(backend = backend.name, server = backend.servers[server].name, client = %self.peer, ?failure, "request failed");
        let (status, sentence) = match failure {
            Failure::Client => return Outcome::Next(Next::Close),
            Failure::ClientTimeout => (408, None),
            Failure::Request(bad) => {
                route.counters().bad_requests.0[bad.index()].add(1);
                (bad.status(), Some(bad.sentence()))
            }
            Failure::Server => (502, None),
            Failure::ServerTimeout => (504, None),
            Failure::Response(bad) => {
                route.backend_counters(trip.backend).bad_responses.0[bad.index()].add(1);
                (502, None)
            }
        };
        let answer = self.error(route, trip.asked, status, sentence);
        Outcome::Next(self.answer(route, answer, Next::Linger).await)
    }

    fn count(&self, route: &Route, trip: &Trip, server: usize, status: u16, down: &Flow) {
        let (frontend, server) = (route.counters(), route.server_counters(trip.backend, server));
        for (bytes_in, bytes_out) in [(&frontend.bytes_in, &frontend.bytes_out), (&server.bytes_in, &server.bytes_out)]
        {
            bytes_in.add(trip.up.written);
            bytes_out.add(down.written);
        }
        if status != 0 {
            let backend = &route.backend_counters(trip.backend).http;
            [&frontend.http, backend, &server.http].iter().for_each(|http| http.count_response(status));
        }
    }
}

/// Whether sending it twice does what sending it once does (RFC 9110 §9.2.2).
fn is_idempotent(request: &Request<'_, '_>) -> bool {
    matches!(request.method, "GET" | "HEAD" | "PUT" | "DELETE" | "OPTIONS" | "TRACE")
}

/// Closes a connection whose client may still be sending: without this, what was said last would be lost to a reset
/// (RFC 9112 §9.6).
async fn linger(client: TcpStream) {
    if SockRef::from(&client).shutdown(Shutdown::Write).is_err() {
        return;
    }
    let (time, most) = LINGER;
    let drain = async {
        let (mut read, mut buffer) = (0, [0; 4096]);
        while read < most && client.readable().await.is_ok() {
            match client.try_read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => read += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
    };
    let _ = timeout(time, drain).await;
}
