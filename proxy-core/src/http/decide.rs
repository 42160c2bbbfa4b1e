//! What is to be done about a head that was read: an answer of ours, or a request composed anew for a server.
//!
//! All of it happens at once, while the head lies in the buffer; nothing borrowed outlives it.

use std::rc::Rc;
use std::time::Duration;

use tracing::debug;

use super::chunked::Keep;
use super::client_cert::ClientCert;
use super::connection::{Connection, Next};
use super::flow::{Body, Flow};
use super::head::{self, Asked as Method, BadRequest, Framing, Request, Version};
use super::reply::{Answer, Asked};
use super::rewrite::{Connection as Said, RequestHead};
use super::rules::{Outcome, Picked, Subject, Verdict};
use super::story::Story;
use super::trip::Trip;
use crate::balance::hash;
use crate::http2::meter;
use crate::log::{Ended, Phase, Termination};
use crate::persist::Affinity;
use crate::route::Route;
use crate::stick::Event;
use crate::tcp::window::Window;

/// What is to be done about a head.
pub(super) enum Step {
    Forward(Box<Trip>),
    /// An answer of ours.
    Answer(Vec<u8>, Next),
    /// The same, after a while.
    Tarpit(Box<(Vec<u8>, Duration)>),
    /// No answer.
    End(Next),
}

impl Connection {
    /// What is to be done about the head at the beginning of the input; `None`: it isn't whole.
    pub(super) fn decide(&mut self, route: &Rc<Route>) -> Option<Step> {
        let mut slots = head::slots();
        let bytes = self.input.bytes();
        // RFC 9113 §3.3: prior knowledge. Over TLS ALPN has decided.
        if self.answered == 0
            && bytes.starts_with(meter::PREFACE_LINE)
            && route.http().http2
            && self.client.clear().is_some()
        {
            return Some(Step::End(Next::Http2));
        }
        let request = match head::request(&mut slots, bytes) {
            Ok(Some(request)) => request,
            Ok(None) if self.input.is_full() => {
                return Some(Step::Answer(self.refuse(route, BadRequest::HeadTooLong), Next::Linger));
            }
            Ok(None) => return None,
            Err(bad) => return Some(Step::Answer(self.refuse(route, bad), Next::Linger)),
        };
        route.counters().http.requests.add(1);
        self.story = route.frontend().log.map(|_| Story::new(self.began, route));
        if let Some(story) = &mut self.story {
            story.asked(&bytes[request.start..request.length], self.client.is_http2());
        }
        let subject = Subject {
            client: self.ends.client.ip(),
            port: self.ends.own.port(),
            tls: self.client.facts(),
            hello: None,
            request: Some(&request),
            servers_up: &|backend| route.servers_up(backend),
            tables: &route.scheme.tables,
            tracks: &self.tracks,
        };
        self.tracks.next_request();
        let outcome = route.rules.walk(&subject);
        // What is at hand of a body: all of it, or it is not worth counting on.
        let at_hand = bytes.len() - request.length;
        let body = match request.framing {
            Framing::Empty => Some(0),
            Framing::Length(length) => usize::try_from(length).ok().filter(|length| *length <= at_hand),
            Framing::Chunked | Framing::UntilClose => None,
        };
        let backend = match outcome.verdict {
            Verdict::None => route.frontend().backend,
            Verdict::UseBackend(backend) => Some(backend),
            _ => None,
        };
        let length = request.length;
        if let Some(backend) = backend {
            let key = route.scheme.stuck[backend].as_ref();
            let key = key.and_then(|stuck| route.rules.key(&subject, &outcome, stuck.key()));
            let mut trip = self.compose(route, &request, bytes, backend, body, outcome);
            trip.affinity = Affinity::of_request(route, backend, key, &mut trip.up.head);
            self.input.consume(length);
            return Some(Step::Forward(Box::new(trip)));
        }
        // The rest of a longer body is not awaited.
        let goes_on = request.hop.persistent && body.is_some() && !self.entrance.is_closing();
        let (step, status, end) = self.answer_to(route, &request, outcome, goes_on);
        self.input.consume(length + body.unwrap_or(0));
        self.tell(|story| (story.status, story.end) = (status, end));
        Some(step)
    }

    /// A request for a server of `backend`.
    fn compose(
        &self,
        route: &Route,
        request: &Request<'_, '_>,
        bytes: &[u8],
        backend: usize,
        body: Option<usize>,
        outcome: Outcome<'_>,
    ) -> Trip {
        let mut out = route.desk.lend_head();
        let http = route.http();
        let upgrade = request.hop.upgrade && request.version == Version::Http11;
        let rules = route.rules.request_edits(&outcome.request_edits);
        let head = RequestHead {
            bytes,
            request,
            target: outcome.target.as_deref(),
            ends: &self.ends,
            forwarding: route.forwarding(),
            client_cert: ClientCert {
                headers: &http.client_cert_headers,
                identity: self.client.facts().and_then(|facts| facts.client.as_deref()),
            },
            edits: http.request_edits.iter().chain(rules).chain(&route.backend(backend).request_edits),
            connection: if upgrade { Said::Upgrade } else { Said::Persistent },
        };
        match head.as_it_is() {
            Some(same) => out.extend_from_slice(same),
            None => head.write(&mut out),
        }
        drop(head);
        Trip {
            backend,
            hash: hash::of_request(&route.backend(backend).balance, self.ends.client.ip(), &out),
            asked: Method::by(request.method),
            version: request.version,
            persistent: request.hop.persistent,
            upgrade,
            private: request.hop.connection_auth,
            at_hand: body,
            idempotent: is_idempotent(request.method),
            response_edits: outcome.response_edits,
            affinity: Affinity::None,
            up: Flow::new(out, Window::default(), Body::of(request.framing, Keep::Framing)),
        }
    }

    /// What a rule answers, or the lack of a backend; and how the log will call it.
    fn answer_to(
        &self,
        route: &Route,
        request: &Request<'_, '_>,
        outcome: Outcome<'_>,
        goes_on: bool,
    ) -> (Step, u16, Termination) {
        let goes_on = goes_on && !matches!(outcome.verdict, Verdict::Tarpit(_));
        let date = route.desk.date();
        let answer = Answer {
            head: request.method == "HEAD",
            connection: Said::to(request.version, goes_on),
            date: &date,
            pages: &route.http().error_pages,
            edits: route.http().response_edits.iter().chain(route.rules.response_edits(&outcome.response_edits)),
        };
        if matches!(outcome.verdict, Verdict::Deny(_) | Verdict::Reject { .. } | Verdict::Tarpit(_)) {
            route.counters().denied.add(1);
            self.tracks.count(Event::Error);
        }
        let mut out = route.desk.lend_head();
        let (status, by, during) = match outcome.verdict {
            Verdict::Reject { reset } => {
                let next = if reset { Next::Reset } else { Next::Close };
                return (Step::End(next), 0, Termination::new(Ended::Proxy, Phase::Request));
            }
            Verdict::Deny(reply) => {
                answer.deny(&mut out, reply);
                (reply.status, Ended::Proxy, Phase::Request)
            }
            Verdict::Return(reply) => {
                answer.give(&mut out, reply);
                (reply.status, Ended::Local, Phase::Request)
            }
            Verdict::Redirect { to, code } => {
                let target = outcome.target.as_deref().unwrap_or(request.target);
                answer.redirect(&mut out, to, code, Asked { host: request.host, target, ends: &self.ends });
                (code, Ended::Local, Phase::Request)
            }
            Verdict::Tarpit(_) => {
                answer.error(&mut out, 500, None);
                (500, Ended::Proxy, Phase::Tarpit)
            }
            // Neither a rule nor the frontend chose a backend.
            Verdict::None | Verdict::UseBackend(_) => {
                answer.error(&mut out, 503, None);
                (503, Ended::Server, Phase::Connect)
            }
        };
        let refused = matches!(outcome.verdict, Verdict::Deny(_) | Verdict::Tarpit(_));
        if !refused && (400..500).contains(&status) {
            self.tracks.count(Event::Error);
        }
        route.counters().http.count_response(status);
        let step = match outcome.verdict {
            Verdict::Tarpit(delay) => Step::Tarpit(Box::new((out, delay))),
            _ => Step::Answer(out, if goes_on { Next::Request } else { Next::Linger }),
        };
        (step, status, Termination::new(by, during))
    }

    /// Nothing on this connection can be trusted any more.
    pub(super) fn refuse(&mut self, route: &Rc<Route>, bad: BadRequest) -> Vec<u8> {
        route.counters().bad_requests.0[bad.index()].add(1);
        debug!(client = %self.ends.client, why = bad.why(), "bad request");
        if self.story.is_none() {
            self.story = route.frontend().log.map(|_| Story::new(self.began, route));
        }
        self.tell(|story| {
            story.ends(Ended::Proxy, Phase::Request);
            story.why = Some(bad.why());
        });
        self.error(route, None, bad.status(), Some(bad.sentence()))
    }

    /// An error after which the connection ends, in answer to `trip` if there was a whole request.
    pub(super) fn error(&mut self, route: &Route, trip: Option<&Trip>, status: u16, sentence: Option<&str>) -> Vec<u8> {
        let mut out = route.desk.lend_head();
        let none = Picked::default();
        let rules = route.rules.response_edits(trip.map_or(&none, |trip| &trip.response_edits));
        let answer = Answer {
            head: trip.is_some_and(|trip| trip.asked == Method::Head),
            connection: Said::Close,
            date: &route.desk.date(),
            pages: &route.http().error_pages,
            edits: route.http().response_edits.iter().chain(rules),
        };
        answer.error(&mut out, status, sentence);
        route.counters().http.count_response(status);
        if (400..500).contains(&status) {
            self.tracks.count(Event::Error);
        }
        self.tell(|story| story.status = status);
        out
    }
}

/// Whether sending it twice does what sending it once does (RFC 9110 §9.2.2).
fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "PUT" | "DELETE" | "OPTIONS" | "TRACE")
}
