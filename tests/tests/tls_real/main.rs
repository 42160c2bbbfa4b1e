//! lbnode with TLS and HTTP/2 between real clients and servers: what others wrote, with certificates that openssl made.
//!
//! ```text
//! site      certificates of the whole run, lbnode on them, curl and openssl s_client
//! curl      names, versions, protocols, bodies      clients   certificates of clients
//! resumed   sessions and staples, by openssl        replaced  certificates that change under load
//! odd       clients that are odd or broken          scanned   testssl.sh
//! bridging  TLS to nginx and Apache                 passed    TLS by name in TCP mode
//! http2     h2load, nghttp, WebSockets              grpc      every kind of call, end to end
//! announced the PROXY protocol: HAProxy, nginx, curl
//! broken    certificates that are not what they should be     browser   Chromium
//! ```
//! Those that begin with `long_` do their work only with `LBNODE_LONG=1`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod announced;
mod bridging;
mod broken;
mod browser;
mod clients;
mod curl;
mod grpc;
mod http2;
mod odd;
mod passed;
mod replaced;
mod resumed;
mod scanned;
mod site;

/// Whether tests that take minutes shall run; says so if not.
fn long(name: &str) -> bool {
    let long = std::env::var_os("LBNODE_LONG").is_some();
    if !long {
        println!("skipped {name}: set LBNODE_LONG=1");
    }
    long
}
