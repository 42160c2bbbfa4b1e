//! One client from its arrival to its end: in TCP mode choose a server, connect, relay, account; in HTTP mode the
//! engine's ([`crate::http::connection`]).
//!
//! A session holds the scheme it began under, so a server that an apply removed serves its sessions to their end.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tracing::debug;

use crate::http;
use crate::limits::Pass;
use crate::plan::Mode;
use crate::reach::{Attempts, Chosen, Unreached};
use crate::route::{Entrance, Route};
use crate::tcp::relay::{Relay, reset_on_close};

/// A client that was let in.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) entrance: Rc<Entrance>,
    /// Room in the process, and in the frontend.
    pub(crate) passes: [Pass; 2],
}

impl Session {
    /// To the end of the session.
    pub(crate) async fn run(self) {
        let Session { client, peer, entrance, passes } = self;
        let route = entrance.route();
        route.counters().total.add(1);
        // Small writes go out at once; a client that is gone already shows when it is read.
        let _ = client.set_nodelay(true);
        match route.frontend().mode {
            Mode::Tcp => tcp(client, peer, route).await,
            Mode::Http(_) => {
                drop(route);
                http::connection::serve(client, peer, entrance).await;
            }
        }
        drop(passes);
    }
}

/// A client that has no server yet; reset, not closed, when dropped so.
struct Unserved(Option<TcpStream>);

impl Unserved {
    fn stream(&self) -> &TcpStream {
        self.0.as_ref().expect("a client is there until it is served")
    }

    fn served(mut self) -> TcpStream {
        self.0.take().expect("a client is served once")
    }
}

impl Drop for Unserved {
    fn drop(&mut self) {
        self.0.iter().for_each(reset_on_close);
    }
}

async fn tcp(client: TcpStream, peer: SocketAddr, route: Rc<Route>) {
    let client = Unserved(Some(client));
    let backend = route.frontend().backend.expect("a plan was validated: TCP has a backend");
    let reached = async {
        let mut chosen = route.choose(backend, leaves(client.stream())).await?;
        let stream = route.open(backend, &mut chosen, &mut Attempts::default()).await?;
        Ok::<_, Unreached>((chosen, stream))
    };
    let (Chosen { server, place }, stream) = match reached.await {
        Ok(reached) => reached,
        Err(why) => {
            route.count_unreached(backend, why);
            route.counters().denied.add(1);
            debug!(backend = route.backend(backend).name, client = %peer, ?why, "no server for a client");
            return;
        }
    };
    let (frontend, plan) = (route.frontend(), route.backend(backend));
    let (counters, server) = (route.counters(), route.server_counters(backend, server));
    server.total.add(1);
    let idle: Duration = plan.tunnel_timeout.unwrap_or(frontend.client_timeout.min(plan.server_timeout));
    let up = [&counters.bytes_in, &server.bytes_in];
    let down = [&counters.bytes_out, &server.bytes_out];
    let (end, _) = Relay::new(client.served(), stream, &route.desk.buffers).run(idle, &up, &down).await;
    debug!(frontend = frontend.name, client = %peer, ?end, "session ended");
    drop(place);
}

/// Ends when nobody is left to be served: a reset, or an end of stream before anything was said.
///
/// An end of stream after some bytes may be a client that has said all and waits for its answer. It can't be told
/// from one that closed, so it keeps its turn (HAProxy without `abortonclose`).
pub(crate) async fn leaves(client: &TcpStream) {
    if let Ok(1..) = client.peek(&mut [0]).await {
        // Should the wait itself fail, the connection is as good as reset.
        let _ = client.ready(Interest::ERROR).await;
    }
}
