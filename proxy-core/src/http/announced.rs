//! Connections to servers that are told by the PROXY protocol whose they are: this client's, and nobody else's.

use super::connection::Connection;
use super::pool::ServerConnection;
use crate::announce::Arrival;
use crate::route::Route;

impl Connection {
    /// An idle connection to a server on which this client's requests may go.
    pub(super) fn at_hand(&self, route: &Route, backend: usize, server: usize) -> Option<ServerConnection> {
        let pool = &route.backends[backend].pools[server];
        match (route.backend(backend).send_proxy, &self.announcing) {
            (None, _) => pool.lend(),
            (Some(_), announcing) => announcing.as_ref()?.lend(pool),
        }
    }

    /// What a new connection begins with.
    pub(super) fn proxy_header(&mut self, route: &Route, backend: usize) -> Option<Vec<u8>> {
        let how = route.backend(backend).send_proxy?;
        let arrival = Arrival { client: self.ends.client, own: self.ends.own, tls: self.client.facts(), asked: None };
        Some(self.announcing.get_or_insert_default().header(how, arrival, &route.desk))
    }

    /// Keeps an idle connection for those who may use it.
    pub(super) fn give_back(&self, route: &Route, backend: usize, server: usize, connection: ServerConnection) {
        let pool = &route.backends[backend].pools[server];
        match (route.backend(backend).send_proxy, &self.announcing) {
            (None, _) => pool.give_back(connection),
            (Some(_), Some(announcing)) => announcing.keep(pool, connection, &route.desk),
            (Some(_), None) => {}
        }
    }

    /// Has the log say what the client's connection is called at the server.
    pub(super) fn tell_id(&mut self, route: &Route, backend: usize) {
        if let (Some(story), Some(announcing), Some(_)) =
            (&mut self.story, &self.announcing, route.backend(backend).send_proxy)
        {
            story.unique_id = announcing.told_id().map(Into::into);
        }
    }
}
