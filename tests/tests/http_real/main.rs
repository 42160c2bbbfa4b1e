//! lbnode between real parts: servers, clients and tools that others wrote.
//!
//! ```text
//! servers    nginx and Apache, asked by curl        applies   wrk, while the configuration changes
//! websocket  both ends from a library               stopped   a server that dies under load
//! ntlm       two users, and who they are taken for  slow      slowhttptest
//! outlook    RPC over HTTP: streams that last       bodies    hundreds of megabytes, and memory
//! flapping   servers that go and come under load    failing   servers that are there and serve nobody
//! ```
//! Those that begin with `long_` do their work only with `LBNODE_LONG=1`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod applies;
mod asker;
mod bodies;
mod failing;
mod flapping;
mod ntlm;
mod outlook;
mod servers;
mod slow;
mod stopped;
mod websocket;

use std::net::SocketAddr;
use std::process::{Command, Output};
use std::time::Duration;

use tests::place::Place;
use tests::serve::{Serve, Site};
use tests::wait::wait_until;

/// lbnode in front of a server.
struct Front {
    serve: Serve,
    site: Site,
}

impl Front {
    /// In front of `server`, at port 8080 of the place; `change` says what is not as usual.
    fn start(place: &Place, server: SocketAddr, change: impl FnOnce(&mut Site)) -> Front {
        let mut site = Site::new(place.at(8080), server);
        change(&mut site);
        Front { serve: Serve::start(place, &site.toml()).unwrap(), site }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.site.bind)
    }
}

/// Runs curl; what it wrote, as text. It has to succeed.
fn curl(arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = Command::new("curl")
        .args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "60"])
        .args(arguments)
        .output()
        .expect("curl is needed (`.ci/setup test`)");
    assert!(status.success(), "curl {arguments:?} ended with {status}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8_lossy(&stdout).into_owned()
}

/// Waits until a server is in this state, and its check says so.
fn wait_for(serve: &Serve, name: &str, state: &str, words: &str) {
    wait_until(&format!("{name} to be {state}: {words}"), Duration::from_secs(30), || {
        let server = serve.server(name);
        let says = server["check"]["status"].as_str().is_some_and(|said| said.contains(words));
        if server["state"] == state && says { Ok(()) } else { Err(server.to_string()) }
    })
    .unwrap();
}

/// Whether tests that take minutes shall run; says so if not.
fn long(name: &str) -> bool {
    let long = std::env::var_os("LBNODE_LONG").is_some();
    if !long {
        println!("skipped {name}: set LBNODE_LONG=1");
    }
    long
}
