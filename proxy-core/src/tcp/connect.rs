//! One attempt to reach a server.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

/// A connection to `address` with `TCP_NODELAY`, within `limit`.
///
/// # Errors
/// The kernel's, or [`io::ErrorKind::TimedOut`].
pub(crate) async fn connect(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(limit, TcpStream::connect(address)).await.map_err(io::Error::from)??;
    stream.set_nodelay(true)?;
    Ok(stream)
}
