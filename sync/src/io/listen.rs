//! The listening sockets. An address that this machine does not have yet is bound all the same; one that is taken
//! is tried again.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// Connections that may wait in the kernel.
const BACKLOG: i32 = 16;
/// When a bind or an accept that failed is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// Listens on `address` until nobody takes connections any more; a full queue leaves them in the backlog.
pub(super) async fn listen(address: SocketAddr, incoming: mpsc::Sender<(TcpStream, SocketAddr)>) {
    let listener = bind_at_last(address).await;
    tracing::debug!(%address, "the sync channel listens");
    let mut said = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = incoming.closed() => return,
        };
        match accepted {
            Ok(connection) => {
                said = false;
                if incoming.send(connection).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(%address, %error, "the sync channel cannot accept; it is tried again");
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

async fn bind_at_last(address: SocketAddr) -> TcpListener {
    let mut said = false;
    loop {
        match bind(address) {
            Ok(listener) => return listener,
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(%address, %error, "the sync channel cannot listen; it is tried again");
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
