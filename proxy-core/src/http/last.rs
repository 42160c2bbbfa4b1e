//! The servers that a client was with: it goes there again, if they have a place, where the plan says so or where the server
//! may know its user by the connection (as HAProxy's `prefer-last-server`).

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::connection::Connection;
use super::trip::Trip;
use crate::balance::Wanted;
use crate::route::Route;
use crate::server::ServerLive;

/// Backends whose server is remembered; of one more, the oldest is forgotten.
const KEPT: usize = 8;

/// One of each backend, with its index there, the oldest first. All streams of a client share them.
#[derive(Debug, Default)]
pub(crate) struct LastServers(RefCell<Vec<(usize, Arc<ServerLive>)>>);

impl LastServers {
    /// Where among the servers of a backend the last one is now.
    fn of(&self, servers: &[Arc<ServerLive>]) -> Option<usize> {
        self.0.borrow().iter().find_map(|(index, last)| find(servers, *index, last))
    }

    fn remember(&self, servers: &[Arc<ServerLive>], server: usize) {
        let mut all = self.0.borrow_mut();
        if let Some(same) = all.iter_mut().find(|(index, last)| find(servers, *index, last).is_some()) {
            if !Arc::ptr_eq(&same.1, &servers[server]) {
                *same = (server, Arc::clone(&servers[server]));
            }
            return;
        }
        if all.len() >= KEPT {
            all.remove(0);
        }
        all.push((server, Arc::clone(&servers[server])));
    }
}

/// Where a server is that was at `index` under some plan.
fn find(servers: &[Arc<ServerLive>], index: usize, server: &Arc<ServerLive>) -> Option<usize> {
    let same = |one: &Arc<ServerLive>| Arc::ptr_eq(one, server);
    if servers.get(index).is_some_and(same) { Some(index) } else { servers.iter().position(same) }
}

impl Connection {
    /// What the balancer is asked for.
    pub(super) fn wants(&self, route: &Route, trip: &mut Trip) -> Wanted {
        let last = self.last.as_ref().and_then(|last| last.of(&route.backend_live(trip.backend).servers));
        Wanted { hash: trip.hash, last, home: trip.affinity.wanted(route, trip.backend) }
    }

    /// Remembers the server of a request that was answered, if that matters.
    pub(super) fn remember(&mut self, route: &Route, trip: &Trip, server: usize) {
        if route.backend(trip.backend).prefer_last_server || trip.private {
            let last = self.last.get_or_insert_with(Rc::default);
            last.remember(&route.backend_live(trip.backend).servers, server);
        }
    }
}
