//! The proxies, each configured to do the same work with one thread, and the origin behind them.

use std::net::SocketAddr;
use std::path::Path;

use clap::ValueEnum;
use serde::Serialize;
use tests::haproxy::Haproxy;
use tests::nginx::Nginx;
use tests::part::{Part, PartError};
use tests::place::Place;
use tests::serve::{Serve, Site};

use crate::row::Kind;

/// Longer than any row lasts.
const PATIENCE: &str = "600s";

/// A proxy that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Peer {
    /// `lbnode serve`.
    Lbnode,
    /// HAProxy.
    Haproxy,
    /// nginx.
    Nginx,
}

impl Peer {
    /// As people write it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Peer::Lbnode => "lbnode",
            Peer::Haproxy => "HAProxy",
            Peer::Nginx => "nginx",
        }
    }

    /// Starts it in front of `origin`.
    pub(crate) fn start(
        self,
        place: &Place,
        kind: Kind,
        origin: SocketAddr,
        lbnode: &Path,
    ) -> Result<Running, PartError> {
        let (address, part) = match self {
            Peer::Lbnode => {
                let address = place.at(8001);
                (address, Serve::start_with(place, &site(kind, address, origin), lbnode)?.part)
            }
            Peer::Haproxy => {
                let address = place.at(8002);
                (address, Haproxy::start(place, "haproxy", address, &sections(kind, address, origin))?.part)
            }
            Peer::Nginx => {
                let address = place.at(8003);
                let (http, stream) = blocks(kind, address, origin);
                (address, Nginx::start(place, "nginx", address, &http, &stream)?.part)
            }
        };
        Ok(Running { peer: self, address, part })
    }
}

/// A proxy that runs.
#[derive(Debug)]
pub(crate) struct Running {
    /// Which one.
    pub(crate) peer: Peer,
    /// Where clients arrive.
    pub(crate) address: SocketAddr,
    /// Its process.
    pub(crate) part: Part,
}

fn site(kind: Kind, address: SocketAddr, origin: SocketAddr) -> String {
    let mut site = Site::new(address, origin);
    site.defaults = format!("timeouts = {{ client = \"{PATIENCE}\", server = \"{PATIENCE}\" }}\n");
    match kind {
        Kind::Tcp => site.mode = "tcp",
        Kind::Http | Kind::Splice => {
            site.defaults = format!(
                "timeouts = {{ client = \"{PATIENCE}\", server = \"{PATIENCE}\", keep_alive = \"{PATIENCE}\" }}\n"
            );
        }
    }
    site.toml()
}

fn sections(kind: Kind, address: SocketAddr, origin: SocketAddr) -> String {
    let mode = match kind {
        Kind::Http => "mode http",
        Kind::Splice => "mode http\n  option splice-auto",
        Kind::Tcp => "mode tcp",
    };
    format!(
        "defaults\n  {mode}\n  maxconn 19000\n  timeout connect 10s\n  timeout client {PATIENCE}\n  timeout server {PATIENCE}\n\
        frontend front\n  bind {address}\n  default_backend back\n\
        backend back\n  server one {origin}\n"
    )
}

/// What stands in `http {}` and in `stream {}`.
fn blocks(kind: Kind, address: SocketAddr, origin: SocketAddr) -> (String, String) {
    match kind {
        Kind::Tcp => (String::new(), format!("server {{ listen {address} backlog=4096; proxy_pass {origin}; }}")),
        Kind::Http | Kind::Splice => {
            let http = format!(
                "upstream back {{ server {origin}; keepalive 128; keepalive_requests 1000000000; }}
                server {{
                  listen {address} backlog=4096;
                  location / {{
                    proxy_pass http://back; proxy_http_version 1.1; proxy_set_header Connection \"\";
                    proxy_max_temp_file_size 0;
                  }}
                }}"
            );
            (http, String::new())
        }
    }
}

/// The origin: nginx with one worker, answers from memory and from files that are in it.
pub(crate) fn origin(place: &Place) -> Result<(Nginx, SocketAddr), PartError> {
    let address = place.at(8000);
    for (name, size) in [("16k", 16 << 10), ("1m", 1 << 20)] {
        let path = place.path(name);
        place.write(name, vec![b'x'; size]).map_err(|source| PartError::File { path, source })?;
    }
    let http = format!(
        "open_file_cache max=16;
        server {{
          listen {address} backlog=4096; root {folder};
          location = /100 {{ return 200 \"{answer}\"; }}
        }}",
        folder = place.folder().display(),
        answer = "x".repeat(100),
    );
    Ok((Nginx::start(place, "origin", address, &http, "")?, address))
}
