//! A client's connection: its streams are begun, each as a task of its own, and its end is told it in time.
//!
//! It ends when the client does, after the keep-alive time without a stream, when the worker drains or the entrance is
//! closed (both by GOAWAY, and what was begun is served), and at once when its frames are a flood.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream};
use http::{Request, Response, StatusCode};
use tokio::time::{Instant, timeout};
use tracing::debug;

use super::io::Io;
use super::meter::Meter;
use super::request::{self, Refused};
use super::stream::H2Stream;
use crate::alarm::Alarm;
use crate::announce::Announcing;
use crate::http::connection::{self as engine, LAST_CALL, linger};
use crate::http::forwarded::Ends;
use crate::http::head::BadHttp2;
use crate::http::last::LastServers;
use crate::limits::Pass;
use crate::route::{Desk, Entrance, Guest};
use crate::session::Room;
use crate::stream::Stream;
use crate::worker;

/// Streams of one connection at once.
const STREAMS: u32 = 100;
/// Bytes that a client may send of one request, and of all, before they are read.
const WINDOWS: (u32, u32) = (64 * 1024, 1024 * 1024);
/// Bytes of an answer that h2 may hold back for a client whose window is open.
const UNSENT: usize = 64 * 1024;
/// Bytes of a head's fields, as RFC 9113 §6.5.2 counts them. h2 answers 431 beyond it; what is longer than a head
/// may be in HTTP/1.1 is refused as there.
const FIELDS: u32 = 64 * 1024;
/// Streams of one connection that h2 may have to reset for what the client sent.
const MISTAKES: usize = 1000;
/// How long room for a stream is kept that no stream needs.
const SPARED: Duration = Duration::from_secs(2);
/// How long a client may take to read that this is the end.
const FAREWELL: Duration = Duration::from_secs(2);

/// A client that was heard to speak HTTP/2, or agreed to.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) client: Stream,
    /// What was read of it.
    pub(crate) begun: Vec<u8>,
    pub(crate) ends: Ends,
    pub(crate) entrance: Rc<Entrance>,
    pub(crate) announcing: Rc<Announcing>,
    pub(crate) room: Option<Room>,
}

/// Serves a client to the end of its connection.
pub(crate) async fn serve(arrived: Arrived) {
    let Arrived { client, begun, ends, entrance, announcing, room } = arrived;
    let route = entrance.route();
    let carrier = Rc::new(client);
    let meter = Rc::new(RefCell::new(Meter::new(Instant::now())));
    let io = Io::new(Rc::clone(&carrier), Rc::clone(&meter), begun);
    let mut builder = server::Builder::new();
    builder
        .max_concurrent_streams(STREAMS)
        .initial_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_header_list_size(FIELDS)
        .max_send_buffer_size(UNSENT)
        .max_local_error_reset_streams(Some(MISTAKES))
        .enable_connect_protocol();
    let handshake = builder.handshake::<_, Bytes>(io);
    match timeout(route.http().request_timeout, handshake).await {
        Ok(Ok(connection)) => {
            let now = Instant::now();
            let limit = route.http().request_timeout;
            let shared = Rc::new(Shared::new(Rc::clone(&route.desk), now));
            let mut front = Front {
                connection,
                carrier: Rc::clone(&carrier),
                meter,
                ends,
                desk: Rc::clone(&route.desk),
                entrance,
                shared,
                last: Rc::default(),
                announcing,
                waiting: None,
                released: now,
                unneeded: 0,
                begun: 0,
                life: Life::Going,
                alarm: Alarm::new(now + limit),
                guest: None,
            };
            drop(route);
            poll_fn(|cx| front.poll(cx)).await;
            front.count_malformed();
        }
        Ok(Err(error)) => {
            debug!(client = %ends.client, %error, "no HTTP/2 came");
            if !error.is_io() {
                route.counters().bad_http2.0[BadHttp2::Protocol.index()].add(1);
            }
        }
        // Silence.
        Err(_) => {}
    }
    linger(&carrier).await;
    drop(room);
}

/// What the streams of a connection share with it.
#[derive(Debug)]
struct Shared {
    desk: Rc<Desk>,
    streams: Cell<u32>,
    /// A stream has the room that the connection has in the process.
    own_room: Cell<bool>,
    /// Room that streams had, for those that come next.
    spare: RefCell<Vec<More>>,
    /// When the last stream ended.
    idle_since: Cell<Instant>,
    /// A stream has ended since another one found no room.
    ended: Cell<bool>,
    /// Woken when one does.
    waits: RefCell<Option<Waker>>,
}

impl Shared {
    fn new(desk: Rc<Desk>, now: Instant) -> Shared {
        Shared {
            desk,
            streams: Cell::new(0),
            own_room: Cell::new(false),
            spare: RefCell::default(),
            idle_since: Cell::new(now),
            ended: Cell::new(false),
            waits: RefCell::default(),
        }
    }
}

/// Room in the process for one stream more than one.
#[derive(Debug)]
struct More {
    desk: Rc<Desk>,
    _pass: Pass,
}

impl More {
    fn new(desk: &Rc<Desk>) -> Option<More> {
        let pass = desk.process.try_enter()?;
        desk.streams.set(desk.streams.get() + 1);
        Some(More { desk: Rc::clone(desk), _pass: pass })
    }
}

impl Drop for More {
    fn drop(&mut self) {
        self.desk.streams.set(self.desk.streams.get() - 1);
    }
}

/// One stream, until dropped. It may hold a connection to a server, so it needs room in the process: one has the
/// connection's, each further one some of its own, which is kept for a while as connections to servers are.
#[derive(Debug)]
struct Counted {
    shared: Rc<Shared>,
    more: Option<More>,
}

impl Counted {
    /// `None`: there is no room for one more now.
    fn new(shared: &Rc<Shared>) -> Option<Counted> {
        let more = if shared.own_room.replace(true) {
            let spare = shared.spare.borrow_mut().pop();
            Some(spare.or_else(|| More::new(&shared.desk))?)
        } else {
            None
        };
        shared.streams.set(shared.streams.get() + 1);
        Some(Counted { shared: Rc::clone(shared), more })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Counted { shared, more } = self;
        match more.take() {
            None => shared.own_room.set(false),
            // Others would wait for it.
            Some(_) if shared.desk.process.is_full() => {}
            Some(more) => shared.spare.borrow_mut().push(more),
        }
        shared.streams.set(shared.streams.get() - 1);
        if shared.streams.get() == 0 {
            shared.idle_since.set(Instant::now());
        }
        shared.ended.set(true);
        shared.waits.take().into_iter().for_each(Waker::wake);
    }
}

type Begun = (Request<RecvStream>, SendResponse<Bytes>);

/// How far the end of a connection is.
#[derive(Clone, Copy, Debug)]
enum Life {
    Going,
    /// The client was told not to ask for more, then.
    Leaving(Instant),
    /// Nothing more is served since then.
    Ended(Instant),
}

/// A connection that is served.
struct Front {
    connection: server::Connection<Io, Bytes>,
    carrier: Rc<Stream>,
    meter: Rc<RefCell<Meter>>,
    ends: Ends,
    desk: Rc<Desk>,
    entrance: Rc<Entrance>,
    shared: Rc<Shared>,
    last: Rc<LastServers>,
    announcing: Rc<Announcing>,
    /// A stream for which there was no room.
    waiting: Option<Begun>,
    /// When room was last given back, and how much of it has been spare ever since.
    released: Instant,
    unneeded: usize,
    /// Streams so far.
    begun: u64,
    life: Life,
    alarm: Alarm,
    guest: Option<Guest>,
}

impl Front {
    /// To the end of the connection.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.guest.get_or_insert_with(|| Guest::new(&self.desk, cx.waker().clone()));
        loop {
            if matches!(self.life, Life::Going) && self.entrance.is_closing() {
                self.leave();
            }
            let came = self.poll_streams(cx);
            let flood = self.meter.borrow().flood();
            match (came, flood) {
                // h2 may have had enough of the same.
                (Poll::Ready(Some(Err(_))), Some(why)) if !matches!(self.life, Life::Ended(_)) => {
                    self.count(why);
                    return Poll::Ready(());
                }
                (Poll::Ready(Some(Err(error))), _) => {
                    self.count_end(&error);
                    return Poll::Ready(());
                }
                (Poll::Ready(None), _) => return Poll::Ready(()),
                (Poll::Ready(Some(Ok(begun))), _) => self.begin(begun),
                (Poll::Pending, Some(why)) if !matches!(self.life, Life::Ended(_)) => {
                    debug!(client = %self.ends.client, why = why.why(), "an HTTP/2 connection was ended");
                    self.count(why);
                    self.end(Reason::ENHANCE_YOUR_CALM);
                }
                (Poll::Pending, _) => match self.poll_time(cx) {
                    Poll::Ready(true) => {}
                    Poll::Ready(false) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                },
            }
        }
    }

    /// Moves the connection on; `None`: it has ended.
    fn poll_streams(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Begun, h2::Error>>> {
        if self.waiting.is_none() {
            return self.connection.poll_accept(cx);
        }
        self.shared.waits.replace(Some(cx.waker().clone()));
        match self.connection.poll_closed(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(None),
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error))),
            // One of ours is always under way then, and so will end.
            Poll::Pending if self.shared.ended.take() => match self.waiting.take() {
                Some(begun) => Poll::Ready(Some(Ok(begun))),
                None => Poll::Pending,
            },
            Poll::Pending => Poll::Pending,
        }
    }

    /// Begins a stream, or has it wait for room.
    fn begin(&mut self, (request, mut respond): Begun) {
        let Some(counted) = Counted::new(&self.shared) else {
            self.shared.ended.set(false);
            self.waiting = Some((request, respond));
            return;
        };
        let (parts, body) = request.into_parts();
        let mut text = self.desk.lend_head();
        let shape = match request::write(&mut text, &parts, body.is_end_stream()) {
            Ok(shape) => shape,
            Err(refused) => {
                self.desk.give_head_back(text);
                debug!(client = %self.ends.client, ?refused, "a stream is no request");
                match refused {
                    Refused::Malformed(_) => respond.send_reset(Reason::PROTOCOL_ERROR),
                    Refused::UnknownProtocol => {
                        let mut answer = Response::new(());
                        *answer.status_mut() = StatusCode::NOT_IMPLEMENTED;
                        // Who can't be told any more needs no answer.
                        let _ = respond.send_response(answer, true);
                    }
                }
                return;
            }
        };
        let stream = H2Stream::new(Rc::clone(&self.carrier), Rc::clone(&self.desk), body, respond, text, shape);
        let client = Stream::H2(Box::new(stream));
        let mut served = engine::Connection::of_stream(client, self.ends, Rc::clone(&self.entrance), self.begun > 0);
        served.last = Some(Rc::clone(&self.last));
        served.announcing = Some(Rc::clone(&self.announcing));
        self.begun += 1;
        worker::start_part(
            &self.desk,
            Box::pin(async move {
                let _counted = counted;
                served.serve().await;
            }),
        );
    }

    /// What time has come for; `false`: the client has had all the time that it gets.
    fn poll_time(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let now = Instant::now();
        self.release(now);
        let idle = (self.shared.streams.get() == 0).then(|| self.shared.idle_since.get());
        let deadline = match (self.life, idle) {
            (Life::Going, idle) => {
                let route = self.entrance.route();
                let limit =
                    if self.begun == 0 { route.http().request_timeout } else { route.http().keep_alive_timeout };
                let deadline = idle.unwrap_or(now) + limit;
                if self.shared.spare.borrow().is_empty() { deadline } else { deadline.min(self.released + SPARED) }
            }
            (Life::Leaving(since), Some(idle)) => since.max(idle) + LAST_CALL,
            (Life::Leaving(_), None) => now + LAST_CALL,
            (Life::Ended(since), _) => since + FAREWELL,
        };
        std::task::ready!(self.alarm.poll(cx, deadline));
        if self.release(Instant::now()) {
            return Poll::Ready(true);
        }
        match self.life {
            Life::Going => self.leave(),
            Life::Leaving(_) => self.end(Reason::NO_ERROR),
            Life::Ended(_) => return Poll::Ready(false),
        }
        Poll::Ready(true)
    }

    /// Gives room back that no stream has needed for a while; whether it was time for that.
    fn release(&mut self, now: Instant) -> bool {
        let mut spare = self.shared.spare.borrow_mut();
        self.unneeded = self.unneeded.min(spare.len());
        if now < self.released + SPARED || spare.is_empty() {
            return false;
        }
        let needed = spare.len() - self.unneeded;
        spare.truncate(needed);
        (self.released, self.unneeded) = (now, needed);
        true
    }

    fn leave(&mut self) {
        self.life = Life::Leaving(Instant::now());
        self.connection.graceful_shutdown();
    }

    fn end(&mut self, reason: Reason) {
        self.life = Life::Ended(Instant::now());
        self.waiting = None;
        self.connection.abrupt_shutdown(reason);
    }

    fn count(&self, why: BadHttp2) {
        self.entrance.route().counters().bad_http2.0[why.index()].add(1);
    }

    fn count_malformed(&self) {
        let malformed = self.meter.borrow_mut().take_malformed();
        if malformed > 0 {
            self.entrance.route().counters().bad_http2.0[BadHttp2::Malformed.index()].add(malformed);
        }
    }

    /// What h2 itself found.
    fn count_end(&self, error: &h2::Error) {
        debug!(client = %self.ends.client, %error, "an HTTP/2 connection ended");
        if error.is_library() && error.is_go_away() {
            let calm = error.reason() == Some(Reason::ENHANCE_YOUR_CALM);
            self.count(if calm { BadHttp2::Excess } else { BadHttp2::Protocol });
        }
    }
}
