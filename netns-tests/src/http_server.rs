//! The smallest HTTP server: says its name and closes. Closing first keeps `TIME_WAIT` on its side, so the
//! client can open a thousand connections a second for as long as it likes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::netns::{Netns, NetnsError};

/// Requests longer than this are not answered.
const REQUEST_BYTES: usize = 4096;
/// A client that says nothing for so long is dropped.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Its namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// Its socket.
    #[error("listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// From the system.
        #[source]
        source: io::Error,
    },
}

/// A server on a thread of its own; ends when dropped.
#[derive(Debug)]
pub struct HttpServer {
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Listens on `address` inside `netns`; every answer is 200 with the namespace's name as its body.
    pub fn start(netns: &Netns, address: SocketAddr) -> Result<HttpServer, ServerError> {
        let listener = netns
            .run(move || {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok(listener)
            })
            .map_err(|source| ServerError::Listen { address, source })?;
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let name = netns.name().to_owned();
        let thread = netns.thread("http", move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async move {
                tokio::select! {
                    () = serve(listener, name) => {}
                    () = stopped.notified() => {}
                }
            });
        })?;
        Ok(HttpServer { stop, thread: Some(thread) })
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there was printed; there is nothing to add.
            let _ = thread.join();
        }
    }
}

async fn serve(listener: std::net::TcpListener, name: String) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    let answer: Arc<str> =
        format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{name}", name.len()).into();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let answer = Arc::clone(&answer);
                tokio::spawn(async move { tokio::time::timeout(PATIENCE, respond(stream, &answer)).await });
            }
            // Out of descriptors, most likely: give some back before the next.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
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
