//! How lbnode checks real servers, and finds them by their names.
//!
//! ```text
//! http      nginx: paths, headers, bodies, TLS    mail   Dovecot and Postfix
//! programs  what the agent runs                   names  dnsmasq, whose answers change
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod http;
mod mail;
mod names;
mod programs;

use std::time::Duration;

use serde_json::Value;
use tests::serve::Serve;
use tests::wait::wait_until;

/// For anything that should be quick.
const SOON: Duration = Duration::from_secs(30);

/// Waits until a server is in this state and its check, or the name of its address, says so.
fn wait_for(serve: &Serve, name: &str, state: &str, words: &str) -> Value {
    let seen = wait_until(&format!("{name} to be {state}: {words}"), SOON, || {
        let server = serve.server(name);
        let said = [&server["check"]["status"], &server["host_problem"]];
        let says = said.iter().any(|said| said.as_str().is_some_and(|said| said.contains(words)));
        if server["state"] == state && says { Ok(server) } else { Err(server.to_string()) }
    });
    seen.unwrap()
}
