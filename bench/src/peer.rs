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

use crate::certificate;
use crate::row::{Front, Kind};

/// Longer than any row lasts.
const PATIENCE: &str = "600s";
/// What a proxy answers itself, if it is configured to: work that is all its own.
pub(crate) const HERE: &str = "/here";
/// The one suite of TLS 1.3: left to themselves they would choose differently.
const SUITE: &str = "TLS_AES_128_GCM_SHA256";

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
        front: Front,
        origin: SocketAddr,
        lbnode: &Path,
    ) -> Result<Running, PartError> {
        let (address, part) = match self {
            Peer::Lbnode => {
                let address = place.at(8001);
                (address, Serve::start_with(place, &site(front, address, origin, place), lbnode)?.part)
            }
            Peer::Haproxy => {
                let address = place.at(8002);
                let sections = sections(front, address, origin, place);
                (address, Haproxy::start(place, "haproxy", address, &sections)?.part)
            }
            Peer::Nginx => {
                let address = place.at(8003);
                let (http, stream) = blocks(front, address, origin, place);
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

/// What they answer with, at [`HERE`] and behind the proxies.
pub(crate) fn answer() -> String {
    "x".repeat(100)
}

fn site(front: Front, address: SocketAddr, origin: SocketAddr, place: &Place) -> String {
    let mut site = Site::new(address, origin);
    let keep_alive = match front.kind {
        Kind::Tcp | Kind::TcpSplice => {
            site.mode = "tcp";
            String::new()
        }
        Kind::Http | Kind::Http2 | Kind::Here | Kind::Splice => format!(", keep_alive = \"{PATIENCE}\""),
    };
    site.defaults = format!("timeouts = {{ client = \"{PATIENCE}\", server = \"{PATIENCE}\"{keep_alive} }}\n");
    if front.kind == Kind::Here {
        site.more = format!(
            "[[frontend.front.rule]]\nwhen = {{ path = \"{HERE}\" }}\n\
            return = {{ status = 200, content_type = \"text/plain\", body = \"{}\" }}\n",
            answer()
        );
    }
    if let Some(tls) = front.tls {
        site.tls = Some("bench");
        site.more.push_str(&format!(
            "[certificate.bench]\nfile = \"{file}\"\n\
            [tls.bench]\ncertificates = [\"bench\"]\ncipher_suites = [\"TLS13_AES_128_GCM_SHA256\"]\ntickets = {}\n",
            tls.tickets,
            file = certificate::path(place).display()
        ));
    }
    site.toml()
}

/// `global` has begun.
fn sections(front: Front, address: SocketAddr, origin: SocketAddr, place: &Place) -> String {
    let mode = match front.kind {
        Kind::Http | Kind::Http2 | Kind::Here => "mode http",
        Kind::Splice => "mode http\n  option splice-auto",
        Kind::Tcp => "mode tcp",
        Kind::TcpSplice => "mode tcp\n  option splice-auto",
    };
    let mut global = String::new();
    // HTTP/2 in the clear needs no word: it is known by its preface.
    let mut bind = String::new();
    if let Some(tls) = front.tls {
        // Without its cache a session of TLS 1.3 costs HAProxy less than with `no-tls-tickets` alone.
        let (tickets, cache) = if tls.tickets { ("", "") } else { (" no-tls-tickets", "  tune.ssl.cachesize 0\n") };
        global = format!(
            "  ssl-default-bind-options ssl-min-ver TLSv1.2{tickets}\n  ssl-default-bind-ciphersuites {SUITE}\n{cache}"
        );
        bind = format!(" ssl crt {} alpn h2,http/1.1", certificate::path(place).display());
    }
    let rule = match front.kind {
        Kind::Here => {
            format!(
                "  http-request return status 200 content-type text/plain string {} if {{ path {HERE} }}\n",
                answer()
            )
        }
        _ => String::new(),
    };
    format!(
        "{global}\
        defaults\n  {mode}\n  maxconn 19000\n  timeout connect 10s\n  timeout client {PATIENCE}\n  timeout server {PATIENCE}\n\
        frontend front\n  bind {address}{bind}\n{rule}  default_backend back\n\
        backend back\n  server one {origin}\n"
    )
}

/// What stands in `http {}` and in `stream {}`.
fn blocks(front: Front, address: SocketAddr, origin: SocketAddr, place: &Place) -> (String, String) {
    if matches!(front.kind, Kind::Tcp | Kind::TcpSplice) {
        return (String::new(), format!("server {{ listen {address} backlog=4096; proxy_pass {origin}; }}"));
    }
    let listen = match front {
        Front { tls: Some(_), .. } => " ssl http2",
        Front { kind: Kind::Http2, .. } => " http2",
        Front { .. } => "",
    };
    let tls = front.tls.map_or_else(String::new, |tls| {
        format!(
            "ssl_certificate {file}; ssl_certificate_key {file}; ssl_protocols TLSv1.2 TLSv1.3;
            ssl_conf_command Ciphersuites {SUITE}; ssl_session_tickets {tickets};",
            file = certificate::path(place).display(),
            tickets = if tls.tickets { "on" } else { "off" },
        )
    });
    let rule = match front.kind {
        Kind::Here => format!("location = {HERE} {{ return 200 \"{}\"; }}", answer()),
        _ => String::new(),
    };
    let http = format!(
        "upstream back {{ server {origin}; keepalive 128; keepalive_requests 1000000000; }}
        server {{
          listen {address}{listen} backlog=4096; {tls}
          {rule}
          location / {{
            proxy_pass http://back; proxy_http_version 1.1; proxy_set_header Connection \"\";
            proxy_max_temp_file_size 0;
          }}
        }}"
    );
    (http, String::new())
}

/// The origin: nginx with one worker, answers from memory and from files that are in it.
pub(crate) fn origin(place: &Place) -> Result<(Nginx, SocketAddr), PartError> {
    let address = place.at(8000);
    for (name, size) in [("16k", 16 << 10), ("1m", 1 << 20), ("16m", 16 << 20)] {
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
        answer = answer(),
    );
    Ok((Nginx::start(place, "origin", address, &http, "")?, address))
}
