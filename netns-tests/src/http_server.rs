//! The smallest HTTP server: says its name and closes. Closing first keeps `TIME_WAIT` on its side, so the
//! client can open a thousand connections a second for as long as it likes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::netns::Netns;
use crate::server::{Server, ServerError};

/// Requests longer than this are not answered.
const REQUEST_BYTES: usize = 4096;
/// A client that says nothing for so long is dropped.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server on a thread of its own; ends when dropped.
#[derive(Debug)]
pub struct HttpServer {
    _server: Server,
}

impl HttpServer {
    /// Listens on `address` inside `netns`; every answer is 200 with the namespace's name as its body.
    pub fn start(netns: &Netns, address: SocketAddr) -> Result<HttpServer, ServerError> {
        let name = netns.name();
        let answer: Arc<str> =
            format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{name}", name.len()).into();
        let server = Server::start(netns, "http", address, move |stream| {
            let answer = Arc::clone(&answer);
            async move {
                // A client that goes away or says nothing is no concern of the server.
                let _ = tokio::time::timeout(PATIENCE, respond(stream, &answer)).await;
            }
        })?;
        Ok(HttpServer { _server: server })
    }
}

async fn respond(mut stream: TcpStream, answer: &str) -> io::Result<()> {
    let mut request = [0; REQUEST_BYTES];
    let mut filled = 0;
    while !request[..filled].windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut request[filled..]).await? {
            0 => return Ok(()),
            more => filled += more,
        }
    }
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
