//! One connection from its first byte to its last: connect, TLS, hello, then frames both ways.
//!
//! A task of its own. It decides nothing: it reports to the driver, and the driver starts and ends it. What it holds
//! is bounded: until the hello is read a few hundred bytes, then one frame each way and what the queues hold.

use std::net::SocketAddr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::timeout;
use tokio_rustls::TlsStream;

use super::clock::now;
use super::tls::{End, Proven, Tls, broken};
use crate::counters::Reason;
use crate::protocol::{BadPreamble, FRAME_LIMIT, Frame, HELLO_LIMIT, Hello, PREAMBLE, check_preamble, preamble};
use crate::session::{Connection, Refusal};
use crate::time::Time;
use crate::wire::{self, Decoder, WireError};

/// Bytes that are read at once.
const READ: usize = 16 << 10;
/// Before the hello: what is read too much is at most this.
const READ_HELLO: usize = 128;
/// Frames are written together up to this many bytes.
const WRITE: usize = 64 << 10;
/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// Where a connection comes from.
pub(super) enum Origin {
    Dial(SocketAddr),
    Accepted(TcpStream),
}

/// What every connection needs to know.
#[derive(Clone)]
pub(super) struct Greeting {
    pub(super) tls: Tls,
    pub(super) hello: Hello,
}

/// What a connection tells the driver.
pub(super) enum Report<M> {
    Connected(Connection),
    /// It waits for the wires; without them it ends.
    Greeted {
        connection: Connection,
        hello: Hello,
        proven: Proven,
        start: oneshot::Sender<Wires<M>>,
    },
    Failed(Connection, Refusal),
}

/// A frame that came, and when.
pub(super) struct Arrived<M> {
    pub(super) frame: Frame<M>,
    pub(super) at: Time,
}

/// A written message on its way out; its bytes count as queued until it is dropped.
pub(super) struct Queued {
    pub(super) bytes: Vec<u8>,
    pub(super) _room: OwnedSemaphorePermit,
}

/// How a live connection and the driver talk.
pub(super) struct Wires<M> {
    /// Full: nothing more is read.
    pub(super) arrived: mpsc::Sender<Arrived<M>>,
    /// The channel's own frames; these go first.
    pub(super) control: mpsc::Receiver<Vec<u8>>,
    pub(super) messages: mpsc::Receiver<Queued>,
    /// Ends the connection when its other end is dropped.
    pub(super) closing: oneshot::Receiver<()>,
}

/// Runs a connection; the last thing it does is to report how it failed, unless the driver ended it.
pub(super) async fn run<M: DeserializeOwned>(
    connection: Connection,
    origin: Origin,
    greeting: Greeting,
    reports: mpsc::Sender<Report<M>>,
) {
    if let Err(refusal) = converse(connection, origin, greeting, &reports).await {
        // Without a driver nobody wants to know.
        let _ = reports.send(Report::Failed(connection, refusal)).await;
    }
}

async fn converse<M: DeserializeOwned>(
    connection: Connection,
    origin: Origin,
    Greeting { tls, hello }: Greeting,
    reports: &mpsc::Sender<Report<M>>,
) -> Result<(), Refusal> {
    let (stream, end) = match origin {
        Origin::Accepted(stream) => (stream, End::Listener),
        Origin::Dial(path) => {
            let stream = TcpStream::connect(path)
                .await
                .map_err(|error| Refusal::new(Reason::Unreachable, format!("cannot connect: {error}")))?;
            let _ = reports.send(Report::Connected(connection)).await;
            (stream, End::Dialler)
        }
    };
    stream.set_nodelay(true).map_err(|error| broken(&error))?;
    let (mut stream, proven) = tls.handshake(stream, end).await?;

    let mut own = preamble().to_vec();
    let mut own_hello = Vec::new();
    wire::encode(&hello, HELLO_LIMIT, &mut own_hello).map_err(|error| refused(&error))?;
    if end == End::Dialler {
        own.append(&mut own_hello);
    }
    write(&mut stream, &own).await?;
    let mut decoder = Decoder::new(HELLO_LIMIT);
    let hello = match read_hello(&mut stream, &mut decoder).await {
        Ok(hello) => hello,
        Err(refusal) => {
            let _ = timeout(GOODBYE, stream.shutdown()).await;
            return Err(refusal);
        }
    };

    let (start, started) = oneshot::channel();
    let _ = reports.send(Report::Greeted { connection, hello, proven, start }).await;
    let Ok(Wires { arrived, control, messages, closing }) = started.await else {
        let _ = timeout(GOODBYE, stream.shutdown()).await;
        return Ok(());
    };
    write(&mut stream, &own_hello).await?;

    let (mut reader, mut writer) = tokio::io::split(stream);
    let ended = tokio::select! {
        ended = read_frames(&mut reader, decoder.with_limit(FRAME_LIMIT), arrived) => ended,
        ended = write_frames(&mut writer, control, messages) => ended,
        _ = closing => Ok(()),
    };
    let _ = timeout(GOODBYE, writer.shutdown()).await;
    ended
}

async fn write(stream: &mut TlsStream<TcpStream>, bytes: &[u8]) -> Result<(), Refusal> {
    if bytes.is_empty() {
        return Ok(());
    }
    let written = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    written.await.map_err(|error| broken(&error))
}

async fn read_hello(stream: &mut TlsStream<TcpStream>, decoder: &mut Decoder) -> Result<Hello, Refusal> {
    let mut first = [0; PREAMBLE];
    stream.read_exact(&mut first).await.map_err(|error| broken(&error))?;
    check_preamble(&first).map_err(|error| {
        let reason = match error {
            BadPreamble::Foreign => Reason::Malformed,
            BadPreamble::Version(_) => Reason::Version,
        };
        Refusal::new(reason, error.to_string())
    })?;
    let mut chunk = [0; READ_HELLO];
    loop {
        if let Some(hello) = decoder.take().map_err(|error| refused(&error))? {
            return Ok(hello);
        }
        match stream.read(&mut chunk).await.map_err(|error| broken(&error))? {
            0 => return Err(Refusal::new(Reason::Closed, "the other side left before its hello")),
            length => decoder.push(&chunk[..length]),
        }
    }
}

/// Until the connection breaks. Waits while the driver does not take what came, and so does the peer, by TCP.
async fn read_frames<M: DeserializeOwned>(
    stream: &mut ReadHalf<TlsStream<TcpStream>>,
    mut decoder: Decoder,
    arrived: mpsc::Sender<Arrived<M>>,
) -> Result<(), Refusal> {
    let mut chunk = vec![0; READ];
    loop {
        let at = now();
        while let Some(frame) = decoder.take().map_err(|error| refused(&error))? {
            if arrived.send(Arrived { frame, at }).await.is_err() {
                return Ok(());
            }
        }
        match stream.read(&mut chunk).await.map_err(|error| broken(&error))? {
            0 => return Err(Refusal::new(Reason::Closed, "the peer closed the session")),
            length => decoder.push(&chunk[..length]),
        }
    }
}

/// Until the connection breaks or the queues end.
async fn write_frames(
    stream: &mut WriteHalf<TlsStream<TcpStream>>,
    mut control: mpsc::Receiver<Vec<u8>>,
    mut messages: mpsc::Receiver<Queued>,
) -> Result<(), Refusal> {
    let mut together = Vec::new();
    loop {
        together.clear();
        tokio::select! {
            biased;
            Some(frame) = control.recv() => together.extend_from_slice(&frame),
            Some(message) = messages.recv() => together.extend_from_slice(&message.bytes),
            else => return Ok(()),
        }
        while together.len() < WRITE {
            if let Ok(frame) = control.try_recv() {
                together.extend_from_slice(&frame);
            } else if let Ok(message) = messages.try_recv() {
                together.extend_from_slice(&message.bytes);
            } else {
                break;
            }
        }
        let written = async {
            stream.write_all(&together).await?;
            stream.flush().await
        };
        written.await.map_err(|error| broken(&error))?;
    }
}

fn refused(error: &WireError) -> Refusal {
    let reason = match error {
        WireError::TooLong { .. } => Reason::FrameTooLong,
        WireError::Trailing { .. } => Reason::Trailing,
        WireError::Malformed { .. } | WireError::Unwritable(_) => Reason::Malformed,
    };
    Refusal::new(reason, error.to_string())
}
