//! What every server of the lab is: a listener inside a namespace, and one thread that serves its connections.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::netns::{Netns, NetnsError};

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

/// A server on a thread of its own; ends, and its connections with it, when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on `address` inside `netns`; each connection is a task that runs `serve`.
    pub(crate) fn start<F>(
        netns: &Netns,
        what: &str,
        address: SocketAddr,
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Result<Server, ServerError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = netns
            .run(move || {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok(listener)
            })
            .map_err(|source| ServerError::Listen { address, source })?;
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let thread = netns.thread(what, move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async move {
                tokio::select! {
                    () = accept(listener, serve) => {}
                    () = stopped.notified() => {}
                }
            });
        })?;
        Ok(Server { stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there was printed; there is nothing to add.
            let _ = thread.join();
        }
    }
}

async fn accept<F>(listener: std::net::TcpListener, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(serve(stream))),
            // Out of descriptors, most likely: give some back before the next.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}
