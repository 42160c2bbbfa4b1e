//! A request's way to a server: which one, over which connection, and again if it can be sent again.

use std::rc::Rc;
use std::sync::Arc;

use tracing::debug;

use super::connection::{Connection, Next, Outcome, Tunnel};
use super::exchange::{End, Exchange, Failure};
use super::flow::Flow;
use super::head::BadResponse;
use super::pool::ServerConnection;
use super::trip::Trip;
use crate::check::observed::speaks_for;
use crate::plan;
use crate::reach::{Attempts, Chosen, Unreached};
use crate::route::Route;
use crate::server::ServerLive;
use crate::stick::Event;

/// How often a request may be refused (HTTP/2) at no cost, as one that met the end of a pooled connection is; a server that
/// refuses all that it is asked is not asked forever.
const REFUSALS: u32 = 4;

/// A server connection that is one client's alone: the server may know its user by it (NTLM, Negotiate).
pub(super) struct Private {
    server: Arc<ServerLive>,
    connection: ServerConnection,
}

impl Connection {
    /// Carries a request to a server, and the answer back.
    pub(super) async fn forward(&mut self, route: &Rc<Route>, mut trip: Box<Trip>) -> Outcome {
        trip.up.window = std::mem::take(&mut self.input);
        if let Err(bad) = trip.up.sort() {
            let answer = self.refuse(route, bad.into());
            return Outcome::Next(Box::pin(self.answer(route, answer, Next::Linger)).await);
        }
        let backend = trip.backend;
        route.backend_counters(backend).http.requests.add(1);
        let mut attempts = Attempts::default();
        self.tell(|story| {
            story.backend = Some(backend);
            story.queued = u32::try_from(route.backend_live(backend).queue.len()).unwrap_or(u32::MAX);
        });
        let (mut chosen, mut own) = match self.own_connection(route, backend) {
            Some(own) => own,
            None => {
                let wanted = self.wants(route, &mut trip);
                let placed = match route.take_in_turn(backend, wanted) {
                    Ok(chosen) => Ok(chosen),
                    Err(None) => Err(Unreached::NoServer),
                    // Apart, so that nobody who needn't wait has room for it.
                    Err(Some(lane)) => {
                        let left = self.leaves_queue(route.backend(backend));
                        Box::pin(route.queue(backend, wanted, lane, left)).await
                    }
                };
                match placed {
                    Ok(chosen) => (chosen, None),
                    Err(why) => return Box::pin(self.unreached(route, &trip, why)).await,
                }
            }
        };
        self.tell(|story| {
            story.placed();
            story.server = Some(chosen.server);
        });
        trip.private |= own.is_some();
        // A pooled connection may end as the request arrives. So it is for requests that can be sent again, or
        // whose client is as used to that as anybody with a connection of its own (HAProxy's `http-reuse safe`).
        let mut may_reuse = trip.replay().is_some() || self.answered;
        let mut refusals = 0;
        loop {
            let at_hand = match own.take() {
                Some(own) => Some(*own),
                None if may_reuse => self.at_hand(route, backend, chosen.server),
                None => None,
            };
            let reused = at_hand.is_some();
            let server = match at_hand {
                Some(server) => server,
                // Apart: most requests find a connection that is open.
                None => {
                    let header = self.proxy_header(route, backend);
                    match Box::pin(route.open(backend, &mut chosen, &mut attempts, header.as_deref())).await {
                        Ok(stream) => ServerConnection::new(stream, &route.desk),
                        Err(why) => return Box::pin(self.unreached(route, &trip, why)).await,
                    }
                }
            };
            self.tell(|story| {
                story.connected();
                story.server = Some(chosen.server);
                story.attempts = attempts;
            });
            self.tell_id(route, backend);
            trip.affinity.settle(route, backend, chosen.server);
            let counters = route.server_counters(backend, chosen.server);
            counters.total.add(1);
            counters.http.requests.add(1);
            let mut exchange = Exchange::new(&self.entrance, route, &mut trip, self.story.as_deref_mut());
            let cut = chosen.place.cut(route.backend(backend));
            let end = exchange.run(&self.client, &server.stream, &mut self.alarm, cut).await;
            let (status, heard) = (exchange.status, exchange.heard);
            let mut down = exchange.into_down();
            count(route, &trip, chosen.server, status, &down);
            self.tracks.count(Event::In(trip.up.written));
            self.tracks.count(Event::Out(down.written));
            if (400..500).contains(&status) {
                self.tracks.count(Event::Error);
            }
            self.tell(|story| {
                story.status = status;
                story.bytes = down.written;
            });
            // It did nothing with the request, and says so: as it ends a connection of HTTP/2, say.
            let refused = end == Err(Failure::Server) && !heard && server.stream.was_refused();
            refusals += u32::from(refused);
            // A pooled connection that ended as the request arrived.
            let stale = end == Err(Failure::Server) && reused && !heard;
            if !stale && !refused {
                end.err().into_iter().for_each(|failure| count_failure(route, &trip, chosen.server, failure));
                speaks_for(status, end).into_iter().for_each(|good| route.observe(backend, chosen.server, good));
            }
            match end {
                Ok(End::Tunnel) => {
                    let read = (std::mem::take(&mut trip.up.window), down.window);
                    return Outcome::Tunnel(Box::new(Tunnel {
                        route: Rc::clone(route),
                        server,
                        backend,
                        chosen,
                        read,
                    }));
                }
                Ok(End::Answered { server_is_free, client_goes_on }) => {
                    self.remember(route, &trip, chosen.server);
                    if server_is_free {
                        self.keep(route, &trip, chosen, server);
                    } else if !down.window.is_empty() {
                        // The answer was passed on; what follows it is nobody's.
                        count_failure(route, &trip, chosen.server, Failure::Response(BadResponse::Surplus));
                        self.tell(|story| story.why = Some(BadResponse::Surplus.why()));
                    }
                    self.input = std::mem::take(&mut trip.up.window);
                    self.input.release(&route.desk.buffers);
                    down.window.clear(&route.desk.buffers);
                    route.desk.give_head_back(down.head);
                    route.desk.give_head_back(trip.up.head);
                    let next = match client_goes_on {
                        true => Next::Request,
                        // It asked for the end, and has said all.
                        false if !trip.persistent && self.input.is_empty() => Next::Close,
                        false => Next::Linger,
                    };
                    return Outcome::Next(next);
                }
                // Nobody heard anything of it.
                Err(Failure::Server) if !heard => {
                    drop((server, down));
                    let free = reused || refused && refusals <= REFUSALS;
                    if let Some(body) = if refused { trip.at_hand } else { trip.replay() }
                        && (free || route.again(backend, &mut chosen, &mut attempts))
                    {
                        trip.up.rewind(body);
                        may_reuse = false;
                    } else if reused && self.answered && !self.client.is_http2() {
                        // As its own server would have done: the client knows what it may send again.
                        self.tell(|story| story.failed(Failure::Server));
                        return Outcome::Next(Next::Close);
                    } else {
                        if refused {
                            count_failure(route, &trip, chosen.server, Failure::Server);
                        }
                        return Box::pin(self.failed(route, &trip, chosen.server, Failure::Server)).await;
                    }
                }
                // The same at a server that is up.
                Err(Failure::Down)
                    if !heard
                        && let Some(body) = trip.replay()
                        && route.moves(backend, &mut chosen, &mut attempts) =>
                {
                    trip.up.rewind(body);
                }
                Err(failure) if status == 0 => {
                    drop(down);
                    return Box::pin(self.failed(route, &trip, chosen.server, failure)).await;
                }
                Err(failure) => {
                    self.tell(|story| story.failed(failure));
                    // A part of an answer is out: only a cut tells that it is not all of it.
                    return Outcome::Next(Next::Reset);
                }
            }
        }
    }

    /// Ends when the client doesn't wait any more. It has asked: with an end of stream it may have said all.
    async fn leaves_queue(&self, backend: &plan::Backend) {
        if backend.abort_on_close { self.client.leaves().await } else { self.client.resets().await }
    }

    /// The connection to a server of this backend that is the client's alone, and its server even if it is gone.
    fn own_connection(&mut self, route: &Route, backend: usize) -> Option<(Chosen, Option<Box<ServerConnection>>)> {
        for index in 0..self.private.len() {
            if let Some(chosen) = route.stay(backend, &self.private[index].server) {
                let connection = self.private.swap_remove(index).connection;
                return Some((chosen, Some(connection).filter(ServerConnection::is_quiet).map(Box::new)));
            }
        }
        None
    }

    /// Keeps a server connection that can be used again: for everybody, or for this client.
    fn keep(&mut self, route: &Route, trip: &Trip, chosen: Chosen, connection: ServerConnection) {
        if connection.stream.is_http2() {
            return;
        }
        if trip.private {
            let server = Arc::clone(route.server_live(trip.backend, chosen.server));
            self.private.push(Private { server, connection });
        } else {
            self.give_back(route, trip.backend, chosen.server, connection);
        }
    }

    /// No server could be had.
    async fn unreached(&mut self, route: &Route, trip: &Trip, why: Unreached) -> Outcome {
        route.count_unreached(trip.backend, why);
        debug!(backend = route.backend(trip.backend).name, client = %self.ends.client, ?why, "no server for a request");
        self.tell(|story| story.unreached(why));
        if why == Unreached::Left {
            return Outcome::Next(Next::Close);
        }
        let answer = self.error(route, Some(trip), 503, None);
        Outcome::Next(self.answer(route, answer, Next::Linger).await)
    }

    /// Nothing of an answer went out yet.
    async fn failed(&mut self, route: &Route, trip: &Trip, server: usize, failure: Failure) -> Outcome {
        let backend = route.backend(trip.backend);
        let server = &backend.servers[server].name;
        debug!(backend = backend.name, server, client = %self.ends.client, ?failure, "a request failed");
        self.tell(|story| story.failed(failure));
        let (status, sentence) = match failure {
            Failure::Client => return Outcome::Next(Next::Close),
            Failure::ClientTimeout => (408, None),
            Failure::Request(bad) => (bad.status(), Some(bad.sentence())),
            Failure::Server | Failure::Down | Failure::Response(_) => (502, None),
            Failure::ServerTimeout => (504, None),
        };
        let answer = self.error(route, Some(trip), status, sentence);
        Outcome::Next(self.answer(route, answer, Next::Linger).await)
    }
}

fn count(route: &Route, trip: &Trip, server: usize, status: u16, down: &Flow) {
    let (frontend, server) = (route.counters(), route.server_counters(trip.backend, server));
    for (bytes_in, bytes_out) in [(&frontend.bytes_in, &frontend.bytes_out), (&server.bytes_in, &server.bytes_out)] {
        bytes_in.add(trip.up.written);
        bytes_out.add(down.written);
    }
    if status != 0 {
        let backend = &route.backend_counters(trip.backend).http;
        [&frontend.http, backend, &server.http].iter().for_each(|http| http.count_response(status));
    }
}

fn count_failure(route: &Route, trip: &Trip, server: usize, failure: Failure) {
    let server = route.server_counters(trip.backend, server);
    match failure {
        Failure::Client | Failure::ClientTimeout => route.counters().client_aborts.add(1),
        Failure::Request(bad) => route.counters().bad_requests.0[bad.index()].add(1),
        Failure::Server | Failure::ServerTimeout => server.response_errors.add(1),
        Failure::Down => server.cut_when_down.add(1),
        Failure::Response(bad) => {
            server.response_errors.add(1);
            route.backend_counters(trip.backend).bad_responses.0[bad.index()].add(1);
        }
    }
}
