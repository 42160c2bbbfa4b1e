//! Handshakes, with clients and with servers.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, Error, ServerConfig};
use tokio::net::TcpStream;

use crate::route::Desk;
use crate::stream::tls::{End, TlsStream};
use crate::tls::admission::Handshakes;
use crate::tls::fault::Fault;
use crate::tls::hello::Peek;
use crate::tls::words;

/// With a client: the stream, ready to be read.
pub(crate) async fn accept(socket: TcpStream, config: Arc<ServerConfig>, desk: &Rc<Desk>) -> Result<TlsStream, Fault> {
    let connection = UnbufferedServerConnection::new(config).map_err(|error| Fault::of(&error))?;
    let mut stream = TlsStream::new(socket, End::Server(connection), desk);
    // All of it, or it never will be one: then who is asked next says so to the client.
    let asked = loop {
        match stream.peek_hello() {
            Peek::Incomplete => poll_fn(|cx| stream.poll_fill(cx)).await.map_err(|_| Fault::Closed)?,
            Peek::Hello(hello) => break hello.sni,
            Peek::NotTls => break None,
        }
    };
    let turn = desk.handshakes.turn().await;
    let begun = stream.advance_handshake();
    drop(turn);
    match finish(&stream, begun, None).await {
        Ok(()) => {
            stream.note_facts(asked.as_deref());
            Ok(stream)
        }
        Err(Unshaken::Tls(error)) => Err(Fault::of(&error)),
        Err(Unshaken::Socket(_)) => Err(Fault::Closed),
    }
}

/// With a server.
///
/// # Errors
/// In words, the reason of the one who didn't want to.
pub(crate) async fn connect(
    socket: TcpStream,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    desk: &Rc<Desk>,
) -> io::Result<TlsStream> {
    let failed = |error: Error| io::Error::new(io::ErrorKind::InvalidData, words(&error));
    let connection = UnbufferedClientConnection::new(config, name).map_err(failed)?;
    let stream = TlsStream::new(socket, End::Client(connection), desk);
    let begun = stream.advance_handshake();
    match finish(&stream, begun, Some(&desk.handshakes)).await {
        Ok(()) => Ok(stream),
        Err(Unshaken::Tls(error)) => Err(failed(error)),
        Err(Unshaken::Socket(error)) => Err(error),
    }
}

enum Unshaken {
    Socket(io::Error),
    Tls(Error),
}

/// Goes on with a handshake to its end. What comes next is worth a turn if it costs anything.
async fn finish(stream: &TlsStream, begun: Result<bool, Error>, turns: Option<&Handshakes>) -> Result<(), Unshaken> {
    let (mut done, mut turns) = (begun, turns);
    loop {
        let flushed = poll_fn(|cx| stream.poll_flush(cx)).await;
        if done.map_err(Unshaken::Tls)? {
            return flushed.map_err(Unshaken::Socket);
        }
        flushed.map_err(Unshaken::Socket)?;
        poll_fn(|cx| stream.poll_fill(cx)).await.map_err(Unshaken::Socket)?;
        let _turn = match turns.take() {
            Some(turns) => Some(turns.turn().await),
            None => None,
        };
        done = stream.advance_handshake();
    }
}
