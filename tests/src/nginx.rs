//! nginx: as a server behind a proxy, and as a proxy beside ours.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::part::{Part, PartError, path_with_sbin, write};
use crate::place::Place;

/// A master and its one worker.
#[derive(Debug)]
pub struct Nginx {
    /// The process.
    pub part: Part,
}

impl Nginx {
    /// Starts it with the content of `http {}` and, if there is any, of `stream {}`; waits until it listens on `address`.
    pub fn start(place: &Place, name: &str, address: SocketAddr, http: &str, stream: &str) -> Result<Nginx, PartError> {
        let folder = place.folder().display();
        let modules = "/usr/lib/nginx/modules";
        let (load, stream) = match stream {
            "" => (String::new(), String::new()),
            stream => (
                format!("load_module {modules}/ngx_stream_module.so;"),
                format!("stream {{ access_log off; {stream} }}"),
            ),
        };
        let config = format!(
            "daemon off; worker_processes 1; worker_rlimit_nofile 20000; pid {folder}/{name}.pid;
            error_log stderr warn; {user}
            {load}
            load_module {modules}/ngx_http_echo_module.so;
            events {{ worker_connections 19000; }}
            http {{
              access_log off; sendfile on; tcp_nopush on; default_type application/octet-stream;
              keepalive_timeout 600s; keepalive_requests 1000000000;
              client_body_temp_path {folder}/{name}.body; proxy_temp_path {folder}/{name}.proxy;
              fastcgi_temp_path {folder}/{name}.fcgi; uwsgi_temp_path {folder}/{name}.uwsgi;
              scgi_temp_path {folder}/{name}.scgi;
              {http}
            }}
            {stream}\n",
            // Its worker reads and writes the folder of whoever runs the test.
            user = if nix::unistd::geteuid().is_root() { "user root;" } else { "" },
        );
        let file = write(place.path(&format!("{name}.conf")), &config)?;
        let mut command = Command::new("nginx");
        command.env("PATH", path_with_sbin());
        command.arg("-p").arg(place.folder()).arg("-e").arg("stderr").arg("-c").arg(file);
        let mut part = Part::start_at(place, name, command)?;
        part.wait_listening(address)?;
        Ok(Nginx { part })
    }

    /// A server of files below `place`'s folder `files`, which answers `/echo` with the request's body,
    /// takes `PUT` below `/files/`; `/head` is answered with the request's head, `/status/N` with the status.
    pub fn server(place: &Place, name: &str, address: SocketAddr) -> Result<Nginx, PartError> {
        Nginx::site(place, name, address, "")
    }

    /// The same over TLS. `more` are further lines of the server; `/tls` says what was negotiated.
    pub fn tls_server(
        place: &Place,
        name: &str,
        address: SocketAddr,
        certificate: &Path,
        more: &str,
    ) -> Result<Nginx, PartError> {
        let certificate = certificate.display();
        // Its own default has no 1.3.
        let versions = if more.contains("ssl_protocols") { "" } else { "ssl_protocols TLSv1.2 TLSv1.3;" };
        let tls = format!(
            "{versions} ssl_certificate {certificate}; ssl_certificate_key {certificate}; ssl_session_cache shared:it:1m;
            location = /tls {{ return 200 \"reused=$ssl_session_reused version=$ssl_protocol \
            name=$ssl_server_name client=$ssl_client_s_dn connection=$connection\\n\"; }}
            {more}"
        );
        Nginx::site(place, name, address, &tls)
    }

    fn site(place: &Place, name: &str, address: SocketAddr, tls: &str) -> Result<Nginx, PartError> {
        let files = place.path("files");
        std::fs::create_dir_all(&files).map_err(|source| PartError::File { path: files.clone(), source })?;
        let http = format!(
            "server {{
              listen {address} backlog=4096 {ssl}; client_max_body_size 0; client_body_buffer_size 64k;
              {tls}
              add_header X-Server {name} always;
              location /files/ {{ alias {files}/; dav_methods PUT DELETE; create_full_put_path on; }}
              location = /who {{ return 200 \"{name}\\n\"; }}
              location = /echo {{ echo_read_request_body; echo_request_body; }}
              location = /head {{ echo -n $echo_client_request_headers; }}
              location = /status/204 {{ return 204; }}
              location = /status/304 {{ return 304; }}
              location = /slow {{ echo_sleep 3; echo waited; }}
              location = /chunked {{ echo one; echo_flush; echo_sleep 0.1; echo two; echo_flush; echo three; }}
            }}",
            ssl = if tls.is_empty() { "" } else { "ssl" },
            files = files.display()
        );
        Nginx::start(place, name, address, &http, "")
    }
}
