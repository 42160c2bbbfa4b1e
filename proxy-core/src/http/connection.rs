//! One client's connection: request after request, until one side has had enough.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::decide::Step;
use super::forward::Private;
use super::forwarded::Ends;
use super::head::BadRequest;
use super::last::LastServers;
use super::pool::ServerConnection;
use super::story::Story;
use crate::alarm::Alarm;
use crate::announce::{Announcing, Beside};
use crate::http2::connection::Arrived;
use crate::log::{Ended, Phase};
use crate::reach::Chosen;
use crate::route::{Entrance, Guest, Route};
use crate::session::Room;
use crate::stats::Counter;
use crate::stick::{Event, Tracks};
use crate::stream::Stream;
use crate::tcp::relay::{End, Relay};
use crate::tcp::stream::Source as _;
use crate::tcp::window::Window;

/// How long an idle client may still send a request after its worker began to drain: one may be under way.
pub(crate) const LAST_CALL: Duration = Duration::from_secs(1);
/// How long a client may take to read a last answer while it still sends, and how much of that is read.
const LINGER: (Duration, usize) = (Duration::from_secs(2), 1024 * 1024);

/// A client that was let in.
pub(crate) struct Connection {
    pub(super) client: Stream,
    pub(super) ends: Ends,
    pub(super) entrance: Rc<Entrance>,
    /// What was read of the next head, or of requests behind it.
    pub(super) input: Window,
    /// How much of that is known to be no whole head.
    looked_at: usize,
    pub(super) alarm: Alarm,
    /// When the first byte of the current request came; of the first one: when the connection began.
    pub(super) began: Instant,
    /// A request was, so far.
    pub(super) answered: bool,
    /// Server connections that belong to this client alone.
    pub(super) private: Vec<Private>,
    /// The servers that it was with, if that matters; its other streams have the same.
    pub(crate) last: Option<Rc<LastServers>>,
    /// What servers are told of it, if they are, or what we were told; its other streams have the same.
    pub(crate) announcing: Option<Rc<Announcing>>,
    /// Of the current request; `None`: it isn't logged.
    pub(super) story: Option<Box<Story>>,
    /// What it is counted in.
    pub(super) tracks: Tracks,
    guest: Option<Guest>,
    /// `None`: it is a part of another one.
    room: Option<Room>,
}

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Another request.
    Request,
    Close,
    /// Close it when the client has had a chance to read what was said: it may still be sending.
    Linger,
    Reset,
    /// The client speaks HTTP/2.
    Http2,
}

/// What one request came to.
pub(super) enum Outcome {
    Next(Next),
    Tunnel(Box<Tunnel>),
}

/// Both sides agreed to speak another protocol.
pub(super) struct Tunnel {
    pub(super) route: Rc<Route>,
    pub(super) server: ServerConnection,
    pub(super) backend: usize,
    pub(super) chosen: Chosen,
    /// What was read of it already, from the client and from the server.
    pub(super) read: (Window, Window),
}

impl Connection {
    pub(crate) fn new(
        client: Stream,
        peer: SocketAddr,
        beside: Option<Box<Beside>>,
        entrance: Rc<Entrance>,
        room: Room,
    ) -> Connection {
        let own = match &beside {
            Some(beside) => beside.own,
            // A client that is gone already has no address of ours; its first read will say so.
            None => client.local_addr().unwrap_or(peer),
        };
        let announcing = beside.map(|beside| Rc::new(Announcing::after(*beside)));
        let ends =
            Ends { client: SocketAddr::new(peer.ip().to_canonical(), peer.port()), own, tls: client.facts().is_some() };
        Connection { room: Some(room), announcing, ..Connection::of_stream(client, ends, entrance, false) }
    }

    /// One stream of HTTP/2, of a client that was answered already or not.
    pub(crate) fn of_stream(client: Stream, ends: Ends, entrance: Rc<Entrance>, answered: bool) -> Connection {
        let route = entrance.route();
        let began = Instant::now();
        Connection {
            client,
            ends,
            entrance,
            input: Window::default(),
            looked_at: 0,
            alarm: Alarm::new(began + route.http().request_timeout),
            began,
            answered,
            private: Vec::new(),
            last: None,
            announcing: None,
            story: None,
            tracks: Tracks::default(),
            guest: None,
            room: None,
        }
    }

    /// Whether that was agreed on (RFC 9113 §3.2).
    pub(crate) fn speaks_http2(&self) -> bool {
        self.client.facts().is_some_and(|facts| facts.alpn.as_deref() == Some(b"h2"))
    }

    /// What there is of a client that speaks HTTP/2.
    pub(crate) fn into_http2(mut self) -> Arrived {
        let begun = self.input.bytes().to_vec();
        self.input.clear(&self.entrance.desk.buffers);
        let Connection { client, ends, entrance, announcing, room, .. } = self;
        Arrived { client, begun, ends, entrance, announcing: announcing.unwrap_or_default(), room }
    }

    /// To the end of the connection, or, with `true`, of HTTP/1 on it: the client speaks HTTP/2. Small while it waits for
    /// a request: what comes then is boxed.
    #[expect(clippy::manual_async_fn, reason = "every idle client would have room for an async fn's arguments twice")]
    pub(crate) fn serve(&mut self) -> impl Future<Output = bool> {
        async move {
            let tunnel = loop {
                let (step, route) = poll_fn(|cx| self.poll_head(cx)).await;
                match Box::pin(self.act(step, route)).await {
                    Outcome::Next(Next::Request) => self.await_next(),
                    Outcome::Next(Next::Http2) => return true,
                    Outcome::Next(Next::Close | Next::Linger | Next::Reset) => return false,
                    Outcome::Tunnel(tunnel) => break tunnel,
                }
            };
            Box::pin(self.tunnel(tunnel)).await;
            false
        }
    }

    fn await_next(&mut self) {
        self.answered = true;
        self.looked_at = 0;
        self.began = Instant::now();
    }

    /// One request, from the end of its head to the end of its answer, by the plan of the moment when its head was
    /// whole. After the last one: to the end of the connection, unless it becomes a tunnel.
    #[expect(clippy::manual_async_fn, reason = "every request would take memory for an async fn's arguments twice")]
    fn act(&mut self, step: Step, route: Rc<Route>) -> impl Future<Output = Outcome> {
        async move {
            let outcome = match step {
                Step::Forward(trip) => self.forward(&route, trip).await,
                Step::Answer(answer, next) => Outcome::Next(self.answer(&route, answer, next).await),
                Step::Tarpit(late) => {
                    let (answer, delay) = *late;
                    Outcome::Next(Box::pin(self.tarpit(&route, answer, delay)).await)
                }
                Step::End(next) => Outcome::Next(next),
            };
            let Outcome::Next(next) = outcome else { return outcome };
            if let Some(story) = self.story.take() {
                story.tell(&route, &self.ends);
            }
            match next {
                Next::Request | Next::Close | Next::Http2 => {}
                Next::Linger => Box::pin(linger(&self.client)).await,
                Next::Reset => self.client.reset_on_close(),
            }
            outcome
        }
    }

    /// Reads to the end of a head, and decides what is to be done about it.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<(Step, Rc<Route>)> {
        loop {
            let fresh = &self.input.bytes()[self.looked_at..];
            // Bytes without the end of a line can't end a head: a client that sends them singly costs no parsing. What
            // begins with no letter is none, such as a TLS handshake.
            let odd = self.looked_at == 0 && fresh.first().is_some_and(|byte| !byte.is_ascii_graphic());
            if odd || memchr::memchr(b'\n', fresh).is_some() || self.input.is_full() {
                let route = self.entrance.route();
                if let Some(step) = self.decide(&route) {
                    return Poll::Ready((step, route));
                }
            }
            self.looked_at = self.input.bytes().len();
            let begins = self.looked_at == 0;
            return Poll::Ready(match ready!(self.poll_read(cx)) {
                // Silence is no request.
                Ok(0) | Err(_) if begins => (Step::End(Next::Close), self.entrance.route()),
                Ok(1..) => {
                    if begins && self.answered {
                        self.began = Instant::now();
                    }
                    continue;
                }
                Ok(0) => self.give_up(Ended::Client, |this, route| {
                    Step::Answer(this.refuse(route, BadRequest::Truncated), Next::Linger)
                }),
                Err(Some(_)) => self.give_up(Ended::Client, |_, _| Step::End(Next::Close)),
                Err(None) => self.give_up(Ended::ClientTimeout, |this, route| {
                    Step::Answer(this.error(route, None, 408, None), Next::Linger)
                }),
            });
        }
    }

    /// Reads on in a head, or waits for one; an error of `None`: the time is over.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Option<io::Error>>> {
        self.guest.get_or_insert_with(|| Guest::new(&self.entrance.desk, cx.waker().clone()));
        if let Poll::Ready(read) = self.input.poll_fill(cx, &self.client, &self.entrance.desk.buffers) {
            return Poll::Ready(read.map_err(Some));
        }
        let idle = self.input.is_empty();
        let limit = {
            let route = self.entrance.route();
            if idle && self.answered { route.http().keep_alive_timeout } else { route.http().request_timeout }
        };
        let deadline = match self.entrance.desk.closing_since.get() {
            Some(since) if idle => (self.began + limit).min(since + LAST_CALL),
            _ => self.began + limit,
        };
        self.alarm.poll(cx, deadline).map(|()| Err(None))
    }

    /// The rest of a head won't come.
    fn give_up(&mut self, by: Ended, answer: impl FnOnce(&mut Connection, &Rc<Route>) -> Step) -> (Step, Rc<Route>) {
        let route = self.entrance.route();
        route.counters().client_aborts.add(1);
        self.story = route.frontend().log.map(|_| Story::new(self.began, &route));
        self.tell(|story| story.ends(by, Phase::Request));
        (answer(self, &route), route)
    }

    pub(super) fn tell(&mut self, note: impl FnOnce(&mut Story)) {
        if let Some(story) = &mut self.story {
            note(story);
        }
    }

    /// Says an answer of ours.
    pub(super) async fn answer(&mut self, route: &Route, answer: Vec<u8>, next: Next) -> Next {
        let Connection { client, alarm, .. } = self;
        let (mut said, mut deadline) = (0, Instant::now() + route.frontend().client_timeout);
        let done = poll_fn(|cx| {
            while said < answer.len() {
                match client.poll_write(cx, &answer[said..]) {
                    Poll::Ready(Ok(written)) => {
                        said += written;
                        deadline = Instant::now() + route.frontend().client_timeout;
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(Some(Ended::Client)),
                    Poll::Pending => return alarm.poll(cx, deadline).map(|()| Some(Ended::ClientTimeout)),
                }
            }
            match client.poll_flush(cx) {
                Poll::Ready(flushed) => Poll::Ready(flushed.err().map(|_| Ended::Client)),
                Poll::Pending => alarm.poll(cx, deadline).map(|()| Some(Ended::ClientTimeout)),
            }
        })
        .await;
        route.counters().bytes_out.add(said as u64);
        self.tracks.count(Event::Out(said as u64));
        self.tell(|story| {
            story.bytes += said as u64;
            if let Some(by) = done {
                story.ends(by, Phase::Last);
            }
        });
        route.desk.give_head_back(answer);
        if done.is_none() { next } else { Next::Close }
    }

    /// Says an answer of ours after a while, if the client is still there.
    async fn tarpit(&mut self, route: &Route, answer: Vec<u8>, delay: Duration) -> Next {
        let left = tokio::select! {
            biased;
            () = self.client.leaves() => true,
            () = sleep(delay) => false,
        };
        self.tell(Story::tarpitted);
        if left { Next::Close } else { self.answer(route, answer, Next::Linger).await }
    }

    /// Carries what both sides say in another protocol.
    async fn tunnel(&mut self, tunnel: Box<Tunnel>) {
        let Tunnel { route, server, backend, chosen, read: (from_client, from_server) } = *tunnel;
        let (frontend, plan) = (route.frontend(), route.backend(backend));
        let idle = plan.tunnel_timeout.unwrap_or(frontend.client_timeout.min(plan.server_timeout));
        let (counters, served) = (route.counters(), route.server_counters(backend, chosen.server));
        let (tracked_up, tracked_down) = (Counter::default(), Counter::default());
        let up = [&counters.bytes_in, &served.bytes_in, &tracked_up];
        let down = [&counters.bytes_out, &served.bytes_out, &tracked_down];
        let cut = chosen.place.cut(plan);
        let relay = Relay::new(&self.client, &server.stream, &self.entrance.desk).with(from_client, from_server);
        let (end, passed) = self.tracks.watch(&tracked_up, &tracked_down, relay.run(idle, &up, &down, cut)).await;
        debug!(frontend = frontend.name, client = %self.ends.client, ?end, "tunnel ended");
        if matches!(end, End::Down) {
            served.cut_when_down.add(1);
        }
        if let Some(mut story) = self.story.take() {
            story.bytes += passed;
            match end {
                End::Finished => {}
                End::Idle => story.ends(Ended::ClientTimeout, Phase::Data),
                End::Client => story.ends(Ended::Client, Phase::Data),
                End::Server => story.ends(Ended::Server, Phase::Data),
                End::Down => story.ends(Ended::Down, Phase::Done),
            }
            story.tell(&route, &self.ends);
        }
    }
}

/// Closes a connection whose client may still be sending: without this, what was said last would be lost to a reset
/// (RFC 9112 §9.6).
pub(crate) async fn linger(client: &Stream) {
    let (time, most) = LINGER;
    let drain = async {
        if poll_fn(|cx| client.poll_shutdown(cx)).await.is_err() {
            return;
        }
        let (mut read, mut buffer) = (0, [0; 1024]);
        while read < most {
            match poll_fn(|cx| client.poll_read(cx, &mut buffer)).await {
                Ok(count @ 1..) => read += count,
                Ok(0) | Err(_) => break,
            }
        }
    };
    let _ = timeout(time, drain).await;
}
