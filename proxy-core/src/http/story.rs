//! What the log will say of a request; gathered only where the frontend logs.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::exchange::Failure;
use super::forwarded::Ends;
use crate::log::{Ended, HttpRecord, HttpTimers, Phase, Termination, Way, request_line};
use crate::reach::{Attempts, Unreached};
use crate::route::Route;

/// One request, from its first byte on.
#[derive(Debug)]
pub(crate) struct Story {
    began: Instant,
    date: SystemTime,
    /// Empty: it never was a request.
    request: Vec<u8>,
    timers: HttpTimers,
    /// When the last of the timers ended.
    mark: Instant,
    pub(crate) backend: Option<usize>,
    pub(crate) server: Option<usize>,
    pub(crate) queued: u32,
    pub(crate) attempts: Attempts,
    pub(crate) status: u16,
    pub(crate) bytes: u64,
    pub(crate) end: Termination,
    pub(crate) why: Option<&'static str>,
}

impl Story {
    pub(crate) fn new(began: Instant, route: &Route) -> Box<Story> {
        Box::new(Story {
            began,
            date: SystemTime::now() - began.elapsed(),
            request: route.desk.lend_head(),
            timers: HttpTimers::default(),
            mark: Instant::now(),
            backend: None,
            server: None,
            queued: 0,
            attempts: Attempts::default(),
            status: 0,
            bytes: 0,
            end: Termination::default(),
            why: None,
        })
    }

    /// Its head is whole, and came over HTTP/2 or HTTP/1.
    pub(crate) fn asked(&mut self, head: &[u8], http2: bool) {
        let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        self.request.extend_from_slice(request_line(line));
        if http2 && let Some(version) = self.request.last_chunk_mut::<8>().filter(|last| *last == b"HTTP/1.1") {
            *version = *b"HTTP/2.0";
        }
        self.timers.request = Some(self.mark - self.began);
    }

    /// It has a place at a server, or waits no longer.
    pub(crate) fn placed(&mut self) {
        self.timers.queue = Some(self.lap());
    }

    /// It has a connection.
    pub(crate) fn connected(&mut self) {
        self.timers.connect = Some(self.lap());
    }

    /// The head of the answer came.
    pub(crate) fn answered(&mut self, at: Instant) {
        self.timers.response = Some(at.saturating_duration_since(self.mark));
    }

    fn lap(&mut self) -> Duration {
        let before = std::mem::replace(&mut self.mark, Instant::now());
        self.mark - before
    }

    /// How it ended, unless that was said before.
    pub(crate) fn ends(&mut self, by: Ended, during: Phase) {
        if self.end == Termination::default() {
            self.end = Termination::new(by, during);
        }
    }

    pub(crate) fn unreached(&mut self, why: Unreached) {
        self.end = why.termination();
        if matches!(why, Unreached::QueueTimeout | Unreached::Left) {
            self.placed();
        }
    }

    /// HAProxy shows a tarpit as time in the queue.
    pub(crate) fn tarpitted(&mut self) {
        self.timers.request = None;
        self.placed();
    }

    pub(crate) fn failed(&mut self, failure: Failure) {
        let phase = if self.status == 0 { Phase::Headers } else { Phase::Data };
        match failure {
            Failure::Client => self.ends(Ended::Client, phase),
            Failure::ClientTimeout => self.ends(Ended::ClientTimeout, phase),
            Failure::Request(bad) => {
                self.ends(Ended::Proxy, if self.status == 0 { Phase::Request } else { Phase::Data });
                self.why = Some(bad.why());
            }
            Failure::Server => self.ends(Ended::Server, phase),
            Failure::Down => self.ends(Ended::Down, phase),
            Failure::ServerTimeout => self.ends(Ended::ServerTimeout, phase),
            Failure::Response(bad) => {
                self.ends(Ended::Proxy, phase);
                self.why = Some(bad.why());
            }
        }
    }

    /// Writes the line.
    pub(crate) fn tell(self, route: &Route, ends: &Ends) {
        let Some(log) = route.frontend().log else { return };
        let server = self.backend.zip(self.server);
        let way = Way {
            client: ends.client,
            date: self.date,
            frontend: &route.frontend().name,
            tls: ends.tls,
            backend: self.backend.map(|backend| route.backend(backend).name.as_str()),
            server: server.map(|(backend, server)| route.backend(backend).servers[server].name.as_str()),
            bytes: self.bytes,
            end: self.end,
            load: route.load(self.backend, self.server, self.attempts, self.queued),
            why: self.why,
        };
        let timers = HttpTimers { active: self.began.elapsed(), ..self.timers };
        let status = Some(self.status).filter(|status| *status != 0);
        let request = Some(self.request.as_slice()).filter(|line| !line.is_empty());
        route.desk.logger.http(&route.scheme.sinks, log, &HttpRecord { way, timers, status, request });
        route.desk.give_head_back(self.request);
    }
}
