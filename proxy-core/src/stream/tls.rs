//! TLS over a socket: rustls' unbuffered connections, whose records lie in buffers that are lent only while there are any.
//!
//! So an idle connection costs its keys and no more. Handshakes are in `crate::tls::handshake`.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncryptError, UnbufferedStatus};
use rustls::{CommonState, Error};
use tokio::net::TcpStream;

use crate::route::Desk;
use crate::tcp::outbox::Outbox;
use crate::tcp::window::Window;
use crate::tls::Facts;
use crate::tls::hello::{self, Peek};

/// Most plaintext that one record carries (RFC 8446 §5.1).
const RECORD: usize = 16 * 1024;
/// What a record adds to it, at most (RFC 8446 §5.2).
const OVERHEAD: usize = 256 + 5;
/// Records that wait for the socket, in bytes, before no more are made.
const WAITING: usize = 32 * 1024;

/// One end of a TLS connection.
#[derive(Debug)]
pub(crate) struct TlsStream {
    socket: TcpStream,
    desk: Rc<Desk>,
    state: RefCell<State>,
    facts: Option<Box<Facts>>,
    /// Nothing is to be said any more, not even goodbye.
    silent: Cell<bool>,
}

#[derive(Debug)]
struct State {
    end: End,
    /// Records that were read.
    incoming: Window,
    /// What was decrypted before anybody asked for it, and how much of it has been taken.
    plain: Vec<u8>,
    taken: usize,
    /// Records that the socket has not taken yet.
    outgoing: Outbox,
    reading: Reading,
    /// We have said that we say no more.
    closed: bool,
    /// The other side broke the protocol, or we did.
    failed: bool,
}

/// Whose end it is.
pub(crate) enum End {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Open,
    /// The other side said that it says no more.
    Notified,
    /// The stream ended without that.
    Cut,
}

/// What is to be done once the records at hand are worked through.
enum Work<'a> {
    Read(&'a mut [u8]),
    Encrypt(&'a [u8]),
    Close,
}

/// What a step came to.
enum Step {
    /// There may be more to work through.
    Again,
    /// So much was read or encrypted, or all is said.
    Done(usize),
    /// Nothing goes on without more records.
    Starved,
    /// The other side says no more.
    Notified,
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            End::Server(_) => "Server",
            End::Client(_) => "Client",
        })
    }
}

impl End {
    fn common(&self) -> &CommonState {
        match self {
            End::Server(connection) => connection,
            End::Client(connection) => connection,
        }
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.common().is_handshaking()
    }
}

impl TlsStream {
    /// Before the handshake.
    pub(crate) fn new(socket: TcpStream, end: End, desk: &Rc<Desk>) -> TlsStream {
        let state = State {
            end,
            incoming: Window::default(),
            plain: Vec::new(),
            taken: 0,
            outgoing: Outbox::default(),
            reading: Reading::Open,
            closed: false,
            failed: false,
        };
        TlsStream { socket, desk: Rc::clone(desk), state: RefCell::new(state), facts: None, silent: Cell::new(false) }
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    pub(crate) fn facts(&self) -> Option<&Facts> {
        self.facts.as_deref()
    }

    /// What the handshake with a client came to, who asked for this name.
    pub(crate) fn note_facts(&mut self, server_name: Option<&str>) {
        self.facts = Some(Box::new(Facts::of(self.state.get_mut().end.common(), server_name)));
    }

    /// What of its first message has come.
    pub(crate) fn peek_hello(&self) -> Peek {
        hello::peek(self.state.borrow().incoming.bytes())
    }

    /// Whether this protocol was agreed on (RFC 7301).
    pub(crate) fn agreed_on(&self, protocol: &[u8]) -> bool {
        self.state.borrow().end.common().alpn_protocol() == Some(protocol)
    }

    pub(crate) fn was_notified(&self) -> bool {
        self.state.borrow().reading == Reading::Notified
    }

    pub(crate) fn say_no_more(&self) {
        self.silent.set(true);
    }

    /// Reads what has come of a handshake: whether there is more to work through; an error at the end of the stream.
    pub(crate) fn poll_fill(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let State { incoming, .. } = &mut *self.state.borrow_mut();
        if incoming.is_full() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a handshake message is too long")));
        }
        match ready!(incoming.poll_fill(cx, &self.socket, &self.desk.buffers))? {
            0 => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Works through what was read: whether the handshake is over. What is to be said is to be flushed afterwards, also
    /// after an error.
    pub(crate) fn advance_handshake(&self) -> Result<bool, Error> {
        let state = &mut *self.state.borrow_mut();
        let stepped = loop {
            match state.step(&self.desk, &mut Work::Read(&mut [])) {
                Ok(Step::Again) => {}
                Ok(Step::Starved) => break Ok(!state.end.is_handshaking()),
                // Data beside the end of the handshake waits in `plain`.
                Ok(Step::Done(_) | Step::Notified) => break Ok(true),
                Err(error) => break Err(error),
            }
        };
        state.incoming.release(&self.desk.buffers);
        stepped
    }

    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let state = &mut *self.state.borrow_mut();
        let mut read = state.take_plain(buffer);
        loop {
            match state.fill(cx, &self.socket, &self.desk, &mut buffer[read..])? {
                Poll::Ready(0) => break,
                Poll::Ready(count) => read += count,
                Poll::Pending if read > 0 => break,
                Poll::Pending => return Poll::Pending,
            }
            // What lies here already costs no system call.
            if read == buffer.len() || state.incoming.is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(read))
    }

    pub(crate) fn poll_peek(&self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let state = &mut *self.state.borrow_mut();
        if state.plain.len() == state.taken {
            ready!(state.fill(cx, &self.socket, &self.desk, &mut [])?);
        }
        Poll::Ready(Ok(state.plain.len() > state.taken))
    }

    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let state = &mut *self.state.borrow_mut();
        if state.outgoing.len() >= WAITING {
            ready!(state.outgoing.poll_flush(cx, &self.socket, &self.desk.buffers))?;
        }
        let mut written = 0;
        for record in parts.iter().flat_map(|part| part.chunks(RECORD)) {
            if state.outgoing.len() >= WAITING {
                break;
            }
            written += state.work(&self.desk, &mut Work::Encrypt(record))?;
        }
        // What doesn't go now goes with the next bytes, or when it is flushed.
        match state.outgoing.poll_flush(cx, &self.socket, &self.desk.buffers) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(written)),
        }
    }

    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.state.borrow_mut().outgoing.poll_flush(cx, &self.socket, &self.desk.buffers)
    }

    /// Says that we say no more.
    pub(crate) fn poll_close(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.state.borrow_mut();
        state.close(&self.desk)?;
        state.outgoing.poll_flush(cx, &self.socket, &self.desk.buffers)
    }
}

impl State {
    /// Up to the first plaintext that comes, into `buffer` as far as it fits: 0 at the end of the stream, or of the buffer.
    fn fill(
        &mut self,
        cx: &mut Context<'_>,
        socket: &TcpStream,
        desk: &Desk,
        buffer: &mut [u8],
    ) -> io::Result<Poll<usize>> {
        loop {
            if self.reading != Reading::Open {
                return Ok(Poll::Ready(0));
            }
            let stepped = self.step(desk, &mut Work::Read(buffer)).map_err(broken)?;
            match stepped {
                Step::Again => continue,
                Step::Done(count) => return Ok(Poll::Ready(count)),
                Step::Notified => {
                    self.reading = Reading::Notified;
                    continue;
                }
                Step::Starved => {}
            }
            // Answers to key updates.
            if let Poll::Ready(flushed) = self.outgoing.poll_flush(cx, socket, &desk.buffers) {
                flushed?;
            }
            match self.incoming.poll_fill(cx, socket, &desk.buffers)? {
                Poll::Ready(0) => self.reading = Reading::Cut,
                Poll::Ready(_) => {}
                Poll::Pending => return Ok(Poll::Pending),
            }
        }
    }

    fn take_plain(&mut self, buffer: &mut [u8]) -> usize {
        let left = &self.plain[self.taken..];
        let count = left.len().min(buffer.len());
        buffer[..count].copy_from_slice(&left[..count]);
        self.taken += count;
        if self.taken == self.plain.len() && self.taken > 0 {
            (self.plain, self.taken) = (Vec::new(), 0);
        }
        count
    }

    /// Until the work is done. What is read meanwhile waits in `plain`.
    fn work(&mut self, desk: &Desk, work: &mut Work<'_>) -> io::Result<usize> {
        loop {
            match self.step(desk, work).map_err(broken)? {
                Step::Again => {}
                Step::Done(count) => return Ok(count),
                Step::Notified => self.reading = Reading::Notified,
                Step::Starved => return Err(io::ErrorKind::NotConnected.into()),
            }
        }
    }

    fn close(&mut self, desk: &Desk) -> io::Result<()> {
        if !std::mem::replace(&mut self.closed, true) {
            self.work(desk, &mut Work::Close)?;
        }
        Ok(())
    }

    fn step(&mut self, desk: &Desk, work: &mut Work<'_>) -> Result<Step, Error> {
        if self.failed {
            return Err(Error::General("the connection has failed before".into()));
        }
        let stepped = self.next(desk, work);
        if stepped.is_err() {
            // What was to be said before, and the alert that tells the other side why: behind it rustls is not to be asked
            // again, or it would find the same fault once more, and panic.
            self.failed = true;
            let mut before = self.outgoing.bytes().len();
            while let Ok(Step::Again) = self.next(desk, &mut Work::Read(&mut [])) {
                let record = &self.outgoing.bytes()[before..];
                if record.is_empty() || is_alert(record) {
                    break;
                }
                before += record.len();
            }
        }
        stepped
    }

    fn next(&mut self, desk: &Desk, work: &mut Work<'_>) -> Result<Step, Error> {
        let State { end, incoming, plain, outgoing, .. } = self;
        let records = incoming.bytes_mut();
        let (discard, stepped) = match end {
            End::Server(connection) => step(connection.process_tls_records(records), desk, plain, outgoing, work),
            End::Client(connection) => step(connection.process_tls_records(records), desk, plain, outgoing, work),
        };
        incoming.consume(discard);
        incoming.release(&desk.buffers);
        stepped
    }
}

/// Does what one status of the connection asks for.
fn step<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    desk: &Desk,
    plain: &mut Vec<u8>,
    outgoing: &mut Outbox,
    work: &mut Work<'_>,
) -> (usize, Result<Step, Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let state = match state {
        Ok(state) => state,
        Err(error) => return (discard, Err(error)),
    };
    let stepped = match state {
        ConnectionState::ReadTraffic(mut traffic) => match traffic.next_record() {
            Some(Ok(record)) => {
                discard += record.discard;
                let (count, read) = match work {
                    Work::Read(buffer) => {
                        let count = record.payload.len().min(buffer.len());
                        buffer[..count].copy_from_slice(&record.payload[..count]);
                        (count, true)
                    }
                    Work::Encrypt(_) | Work::Close => (0, false),
                };
                plain.extend_from_slice(&record.payload[count..]);
                // A record without data (RFC 8446 §5.1 allows it) is no end of anything.
                let something = read && !record.payload.is_empty();
                Ok(if something { Step::Done(count) } else { Step::Again })
            }
            Some(Err(error)) => Err(error),
            None => Ok(Step::Again),
        },
        ConnectionState::EncodeTlsData(mut data) => {
            let mut asked = RECORD + OVERHEAD;
            loop {
                match data.encode(outgoing.room(asked, &desk.buffers)) {
                    Ok(count) => {
                        outgoing.filled(count);
                        break Ok(Step::Again);
                    }
                    Err(rustls::unbuffered::EncodeError::InsufficientSize(wants)) => asked = wants.required_size,
                    Err(error) => break Err(Error::General(error.to_string())),
                }
            }
        }
        // It is in the outbox, which is flushed before anything is waited for.
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok(Step::Again)
        }
        ConnectionState::WriteTraffic(mut traffic) => {
            let mut write = |asked, write: &mut dyn FnMut(&mut [u8]) -> Result<usize, EncryptError>| match write(
                outgoing.room(asked, &desk.buffers),
            ) {
                Ok(count) => {
                    outgoing.filled(count);
                    Ok(())
                }
                Err(error) => Err(Error::General(error.to_string())),
            };
            match work {
                Work::Read(_) => Ok(Step::Starved),
                Work::Encrypt(bytes) => write(bytes.len() + OVERHEAD, &mut |room| traffic.encrypt(bytes, room))
                    .map(|()| Step::Done(bytes.len())),
                Work::Close => write(OVERHEAD, &mut |room| traffic.queue_close_notify(room)).map(|()| Step::Done(0)),
            }
        }
        ConnectionState::PeerClosed => Ok(Step::Notified),
        ConnectionState::BlockedHandshake | ConnectionState::Closed => Ok(Step::Starved),
        // Neither early data nor anything else is asked for.
        _ => Err(Error::General("an unexpected state of TLS".into())),
    };
    (discard, stepped)
}

/// Whether a record of ours is an alert, as far as can be told: encrypted ones are known by their size (two bytes, and at
/// most 29 that encryption adds). Of the others only a change of cipher spec (20) is as short.
fn is_alert(record: &[u8]) -> bool {
    record.first().is_some_and(|kind| *kind != 20) && record.len() <= 31
}

fn broken(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Drop for TlsStream {
    /// Says goodbye (RFC 8446 §6.1) if the socket takes it at once: who reads to the end then knows that it was one.
    fn drop(&mut self) {
        let state = self.state.get_mut();
        if !self.silent.get() {
            if !state.end.is_handshaking() {
                let _ = state.close(&self.desk);
            }
            state.outgoing.try_flush(&self.socket);
        }
        state.outgoing.clear(&self.desk.buffers);
        state.incoming.clear(&self.desk.buffers);
    }
}
