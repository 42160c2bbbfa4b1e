//! One request and its answer on one server connection: both directions at once, to the end of both.
//!
//! The answer may begin, and end, before the request has ended (Outlook Anywhere lives from that). Nothing of an
//! answer goes to the client before its whole head was read and found sound.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use tokio::time::Instant;

use super::chunked::Keep;
use super::flow::{Body, Broken, Flow};
use super::head::{self, BadRequest, BadResponse, Framing, Version};
use super::rewrite::{Connection, ResponseHead};
use super::story::Story;
use super::trip::Trip;
use crate::alarm::Alarm;
use crate::cut::Cut;
use crate::route::{Entrance, Route};
use crate::stream::Stream;
use crate::tcp::window::Window;

/// Interim responses that one answer may begin with.
const MAX_INTERIM: u32 = 32;

/// How an exchange ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The answer was passed on.
    Answered {
        /// Nothing is left on the server connection, and it stays open.
        server_is_free: bool,
        /// The whole request was read, and the client expects to go on.
        client_goes_on: bool,
    },
    /// Both sides agreed to speak another protocol from now on.
    Tunnel,
}

/// How an exchange ended badly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It left, or reset the connection.
    Client,
    ClientTimeout,
    /// The body of the request is malformed.
    Request(BadRequest),
    /// It closed or reset the connection before the end of its answer.
    Server,
    ServerTimeout,
    /// The server went down, and its sessions are cut.
    Down,
    /// Its answer is malformed.
    Response(BadResponse),
}

/// The state of one exchange.
#[derive(Debug)]
pub(crate) struct Exchange<'t> {
    entrance: &'t Entrance,
    route: &'t Route,
    trip: &'t mut Trip,
    story: Option<&'t mut Story>,
    down: Flow,
    upward: Upward,
    downward: Downward,
    interim: u32,
    /// How much of the window is known to be no whole head.
    looked_at: usize,
    /// Whether it is worth asking if the client is still there.
    watched: bool,
    server_persists: bool,
    client_goes_on: bool,
    /// Status of the answer; 0 before there is one.
    pub(crate) status: u16,
    /// Something came from the server.
    pub(crate) heard: bool,
}

/// A client that is reset, not closed, when dropped so: at the deadline of a drain half an answer must not look whole.
struct Unfinished<'a>(Option<&'a Stream>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.0.into_iter().for_each(Stream::reset_on_close);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upward {
    Going,
    Over,
    /// The server takes no more; it may still answer.
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Downward {
    Head,
    Body,
    Over,
    Tunnel,
}

impl<'t> Exchange<'t> {
    pub(crate) fn new(
        entrance: &'t Entrance,
        route: &'t Route,
        trip: &'t mut Trip,
        story: Option<&'t mut Story>,
    ) -> Exchange<'t> {
        let down = Flow::new(route.desk.lend_head(), Window::default(), Body::Ended);
        Exchange {
            entrance,
            route,
            trip,
            story,
            down,
            upward: Upward::Going,
            downward: Downward::Head,
            interim: 0,
            looked_at: 0,
            watched: true,
            server_persists: false,
            client_goes_on: false,
            status: 0,
            heard: false,
        }
    }

    /// What is left of the way to the client.
    pub(crate) fn into_down(self) -> Flow {
        self.down
    }

    /// To the end of both directions, or until it is cut.
    pub(crate) async fn run(
        &mut self,
        client: &Stream,
        server: &Stream,
        alarm: &mut Alarm,
        mut cut: Cut<'_>,
    ) -> Result<End, Failure> {
        let mut last = Instant::now();
        // What goes at once moves nothing on: it has just begun.
        let mut moved = None;
        let mut unfinished = Unfinished(Some(client));
        let end = poll_fn(|cx| {
            if cut.poll(cx).is_ready() {
                return Poll::Ready(Err(Failure::Down));
            }
            if let Poll::Ready(end) = self.poll(cx, client, server) {
                return Poll::Ready(end);
            }
            let now_moved = self.trip.up.moved + self.down.moved;
            if moved.replace(now_moved).is_some_and(|before| before != now_moved) {
                last = Instant::now();
            }
            let (limit, expired) = if self.waits_for_client() {
                (self.route.frontend().client_timeout, Failure::ClientTimeout)
            } else {
                (self.route.backend(self.trip.backend).server_timeout, Failure::ServerTimeout)
            };
            alarm.poll(cx, last + limit).map(|()| Err(expired))
        })
        .await;
        unfinished.0 = None;
        end
    }

    /// Bytes either way keep both sides' time from running out (HAProxy without `independent-streams`); when it
    /// runs out, it is the fault of the side that is waited for.
    fn waits_for_client(&self) -> bool {
        let untold = !self.down.is_flushed();
        if self.upward == Upward::Going { self.trip.up.is_flushed() || untold } else { untold }
    }

    fn poll(&mut self, cx: &mut Context<'_>, client: &Stream, server: &Stream) -> Poll<Result<End, Failure>> {
        if self.upward == Upward::Going {
            match self.trip.up.poll_pump(cx, client, server, &self.route.desk) {
                Poll::Ready(Ok(())) => {
                    self.upward = Upward::Over;
                    // What may have to be said again is kept; an answer that takes its time holds nothing else.
                    let again = if server.is_http2() { self.trip.at_hand } else { self.trip.replay() };
                    if again.is_none_or(|body| body == 0) {
                        self.trip.up.window.release(&self.route.desk.buffers);
                    }
                }
                Poll::Ready(Err(Broken::Write)) => self.upward = Upward::Refused,
                Poll::Ready(Err(Broken::Read | Broken::Truncated)) => return Poll::Ready(Err(Failure::Client)),
                Poll::Ready(Err(Broken::Chunk(bad))) => return Poll::Ready(Err(Failure::Request(bad.into()))),
                Poll::Pending => {}
            }
        }
        if self.downward == Downward::Head && self.poll_head(cx, client, server)?.is_pending() {
            if self.watched && self.upward != Upward::Going {
                self.watch(cx, client)?;
            }
            return Poll::Pending;
        }
        if self.downward == Downward::Tunnel {
            return self.down.poll_send(cx, client).map(|sent| sent.map(|()| End::Tunnel).map_err(|_| Failure::Client));
        }
        if self.downward == Downward::Body {
            let pumped = self.down.poll_pump(cx, server, client, &self.route.desk);
            if pumped.is_pending() && self.watched && self.upward != Upward::Going {
                self.watch(cx, client)?;
            }
            match ready!(pumped) {
                Ok(()) => self.downward = Downward::Over,
                Err(Broken::Read | Broken::Truncated) => return Poll::Ready(Err(Failure::Server)),
                Err(Broken::Chunk(bad)) => return Poll::Ready(Err(Failure::Response(bad.into()))),
                Err(Broken::Write) => return Poll::Ready(Err(Failure::Client)),
            }
        }
        self.poll_rest(cx, server).map(Ok)
    }

    /// The answer is over. A request that goes on is carried on for as long as its server keeps the connection.
    fn poll_rest(&mut self, cx: &mut Context<'_>, server: &Stream) -> Poll<End> {
        let whole = self.upward == Upward::Over;
        if self.upward == Upward::Going && self.server_persists && self.down.window.is_empty() {
            // Whatever the server says now, even an end, is the end.
            ready!(self.down.window.poll_fill(cx, server, &self.route.desk.buffers)).ok();
        }
        let server_is_free = whole && self.server_persists && self.down.window.is_empty();
        Poll::Ready(End::Answered { server_is_free, client_goes_on: whole && self.client_goes_on })
    }

    /// Sees whether a client who has said all is still there, also while its answer pauses: a stream of events, or of gRPC.
    fn watch(&mut self, cx: &mut Context<'_>, client: &Stream) -> Result<(), Failure> {
        let Poll::Ready(peeked) = client.poll_peek(cx) else { return Ok(()) };
        // The next request, or the end of what it says: neither is said twice.
        self.watched = false;
        match peeked {
            Ok(false) if self.downward == Downward::Head && self.route.backend(self.trip.backend).abort_on_close => {
                Err(Failure::Client)
            }
            Ok(_) => Ok(()),
            Err(_) => Err(Failure::Client),
        }
    }

    /// Until there is a final answer: its head composed, its body begun.
    fn poll_head(&mut self, cx: &mut Context<'_>, client: &Stream, server: &Stream) -> Poll<Result<(), Failure>> {
        while self.downward == Downward::Head {
            // An interim response that was composed goes first.
            ready!(self.down.poll_send(cx, client)).map_err(|_| Failure::Client)?;
            if self.down.window.bytes().len() > self.looked_at {
                self.take_head()?;
                continue;
            }
            match ready!(self.down.window.poll_fill(cx, server, &self.route.desk.buffers)) {
                Ok(1..) => self.heard = true,
                Ok(0) | Err(_) => return Poll::Ready(Err(Failure::Server)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes what is in the window for a head, or for the beginning of one.
    fn take_head(&mut self) -> Result<(), Failure> {
        let mut slots = head::slots();
        let bytes = self.down.window.bytes();
        let response = match head::response(&mut slots, bytes, self.trip.asked).map_err(Failure::Response)? {
            Some(response) => response,
            None if self.down.window.is_full() => return Err(Failure::Response(BadResponse::HeadTooLong)),
            None => {
                self.looked_at = bytes.len();
                return Ok(());
            }
        };
        self.looked_at = 0;
        let (status, length, persistent) = (response.status, response.length, response.hop.persistent);
        let old_client = self.trip.version == Version::Http10;
        let dechunked = old_client && response.framing == Framing::Chunked;
        let keep = if dechunked { Keep::Data } else { Keep::Framing };
        let body = Body::of(response.framing, keep);
        let connection = match status {
            // RFC 9110 §7.8: not in the middle of the request.
            101 if !self.trip.upgrade || self.upward != Upward::Over => {
                return Err(Failure::Response(BadResponse::UnaskedUpgrade));
            }
            101 => Connection::Upgrade,
            100..200 => Connection::Persistent,
            _ => {
                let endless = dechunked || response.framing == Framing::UntilClose;
                let over = endless || self.upward == Upward::Refused || self.entrance.is_closing();
                self.client_goes_on = self.trip.persistent && !over;
                Connection::to(self.trip.version, self.client_goes_on)
            }
        };
        self.trip.private |= response.hop.connection_auth;
        self.down.head.clear();
        // An old client knows no interim response (RFC 9110 §15.2); the others get it as it is.
        if status >= 200 || !old_client {
            let rules = self.route.rules.response_edits(&self.trip.response_edits);
            let edits = self.route.backend(self.trip.backend).response_edits.iter();
            let edits = edits.chain(&self.route.http().response_edits).chain(rules);
            let final_only = if status >= 200 { usize::MAX } else { 0 };
            let edits = edits.take(final_only);
            let head = ResponseHead { bytes, response: &response, edits, connection, dechunked };
            match head.as_it_is() {
                Some(same) => self.down.head.extend_from_slice(same),
                None => head.write(&mut self.down.head),
            }
            if final_only > 0 || status == 101 {
                self.trip.affinity.set_cookie(self.route, self.trip.backend, &mut self.down.head);
            }
        }
        self.down.window.consume(length);
        // What is wrong at once with a body is known before anything of the answer is out.
        self.down.begin(body).map_err(|bad| Failure::Response(bad.into()))?;
        self.downward = match status {
            101 => Downward::Tunnel,
            100..200 => {
                self.interim += 1;
                if self.interim > MAX_INTERIM {
                    return Err(Failure::Response(BadResponse::TooManyInterim));
                }
                Downward::Head
            }
            _ => Downward::Body,
        };
        if status >= 200 || status == 101 {
            self.status = status;
            self.server_persists = persistent;
            if let Some(story) = &mut self.story {
                story.answered(Instant::now());
            }
        }
        Ok(())
    }
}
