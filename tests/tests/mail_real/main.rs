//! Mail through lbnode in TCP mode: Dovecot and Postfix behind it, swaks and a client of IMAP in front.
//!
//! ```text
//! imap  sessions that wait for mail, for longer than anything else may last; servers that go
//! smtp  mail that arrives whole and once, whatever becomes of the servers
//! ```
//! Those that begin with `long_` do their work only with `LBNODE_LONG=1`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod client;
mod imap;
mod smtp;

use std::net::SocketAddr;
use std::time::Duration;

use tests::place::Place;
use tests::serve::Site;

/// For anything that should be quick.
const SOON: Duration = Duration::from_secs(30);

/// A site in TCP mode with these servers, checked as `check` says. Whatever has a time limit but idling has a short one.
fn site(place: &Place, servers: &[SocketAddr], check: &str) -> Site {
    let mut site = Site::new(place.at(8080), place.at(1));
    site.mode = "tcp";
    site.servers = servers.iter().map(|server| (format!("at-{}", server.port()), *server)).collect();
    site.defaults =
        "timeouts = { client = \"1s\", server = \"1s\", request = \"1s\", keep_alive = \"1s\", queue = \"1s\", \
                     connect = \"1s\", check = \"5s\", tunnel = \"30m\" }"
            .into();
    site.backend = format!("check = {{ {check}, interval = \"200ms\", rise = 1, fall = 1 }}");
    site
}
