//! Idle connections to one server, as one worker keeps them.
//!
//! A connection gets here only after a whole answer to a whole request, and leaves it only if nothing was heard from
//! its server since. Each is watched by the runtime, so that looking costs no system call.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::http2::server::Lines;
use crate::route::Desk;
use crate::stream::Stream;

/// After so many sweeps (each second one) without use a connection is closed. Below the keep-alive of common servers
/// (nginx 75 s, IIS 120 s); those that close earlier (Apache 5 s) are noticed.
const KEPT_FOR: u32 = 60;
/// Idle connections to one server, at most; one more is closed.
const KEPT: usize = 512;

/// A connection to a server, in use or idle.
#[derive(Debug)]
pub(crate) struct ServerConnection {
    pub(crate) stream: Stream,
    /// `None`: it is one stream of a connection, which is counted itself.
    counted: Option<Counted>,
}

/// One connection in [`Desk::server_connections`], until dropped.
#[derive(Debug)]
pub(crate) struct Counted(Rc<Desk>);

impl ServerConnection {
    pub(crate) fn new(stream: Stream, desk: &Rc<Desk>) -> ServerConnection {
        let counted = if stream.is_http2() { None } else { Some(Counted::new(desk)) };
        ServerConnection { stream, counted }
    }

    /// Whether nothing has come: neither bytes, nor an end, nor a reset.
    pub(crate) fn is_quiet(&self) -> bool {
        self.stream.is_quiet()
    }
}

impl Counted {
    pub(crate) fn new(desk: &Rc<Desk>) -> Counted {
        desk.server_connections.set(desk.server_connections.get() + 1);
        Counted(Rc::clone(desk))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.server_connections.set(self.0.server_connections.get() - 1);
    }
}

/// The idle connections to one server; the one used last is lent first.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    idle: RefCell<Vec<Idle>>,
    /// For a server that speaks HTTP/2.
    pub(crate) lines: Lines,
    closed: Cell<bool>,
}

#[derive(Debug)]
struct Idle {
    connection: ServerConnection,
    /// The sweep before it came.
    since: u32,
}

impl Pool {
    /// A connection that its server neither closed nor said anything on.
    pub(crate) fn lend(&self) -> Option<ServerConnection> {
        let mut idle = self.idle.borrow_mut();
        std::iter::from_fn(|| idle.pop()).map(|idle| idle.connection).find(ServerConnection::is_quiet)
    }

    /// Takes a connection whose last exchange is over on both sides, if there is room for it.
    pub(crate) fn give_back(&self, connection: ServerConnection) {
        let Some(Counted(desk)) = &connection.counted else { return };
        let mut idle = self.idle.borrow_mut();
        let room = idle.len() < KEPT && desk.has_room_for_idle();
        if room && !self.closed.get() && !desk.is_closing() {
            let since = desk.sweeps.get();
            idle.push(Idle { connection, since });
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.idle.borrow().len() + self.lines.idle()
    }

    /// Closes what its server closed, what was not used for long, and the oldest for clients that have left.
    pub(crate) fn sweep(&self, sweeps: u32) {
        let fresh = |idle: &Idle| sweeps.wrapping_sub(idle.since) < KEPT_FOR && idle.connection.is_quiet();
        let has_room =
            |idle: &Idle| idle.connection.counted.as_ref().is_some_and(|counted| counted.0.has_room_for_idle());
        self.idle.borrow_mut().retain(|idle| fresh(idle) && has_room(idle));
        self.lines.sweep(sweeps, KEPT_FOR);
    }

    /// Keeps nothing from now on: the server left the plan, or the worker drains.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.idle.borrow_mut().clear();
        self.lines.close();
    }
}
