//! One sink: a bounded queue of lines and the descriptor that takes them. Only the writer's thread is here; a descriptor that
//! takes nothing just now keeps its lines queued, and a full queue drops what comes.
#![allow(unsafe_code, reason = "sends many datagrams at once")]

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, SockType, UnixAddr, connect, getsockopt, send, sockopt};
use tracing::warn;

use super::clock::Clock;
use super::text;
use crate::plan::{LogSink, Target};
use crate::stats::{Counter, LogSinkStats};

/// Bytes that may wait in a sink's queue.
const QUEUE: usize = 1 << 20;
/// Datagrams sent by one system call.
const BATCH: usize = 64;
/// Between two complaints about one sink, and between two attempts to find a syslog daemon again.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);
const RECONNECT_EVERY: Duration = Duration::from_secs(1);
/// RFC 5424 §6.2.1: what HAProxy gives its traffic.
const SEVERITY_INFO: u64 = 6;

/// What everybody may know of a sink.
#[derive(Debug)]
pub(super) struct SinkLive {
    pub(super) id: u32,
    pub(super) config: LogSink,
    written: Counter,
    dropped: Counter,
}

impl SinkLive {
    pub(super) fn new(id: u32, config: LogSink) -> SinkLive {
        SinkLive { id, config, written: Counter::default(), dropped: Counter::default() }
    }

    pub(super) fn stats(&self) -> LogSinkStats {
        LogSinkStats { target: self.config.target.clone(), written: self.written.get(), dropped: self.dropped.get() }
    }
}

/// The writer's side of a sink.
#[derive(Debug)]
pub(super) struct Sink {
    pub(super) live: Arc<SinkLive>,
    /// Only sessions of an earlier plan log here.
    pub(super) retired: bool,
    out: Option<Out>,
    /// Whole lines, with their headers.
    queue: Vec<u8>,
    /// Lengths of the lines in the queue.
    lengths: VecDeque<usize>,
    /// Bytes of the queue that are written.
    sent: usize,
    /// Bytes of the first line that are among those.
    of_first: usize,
    /// The descriptor got a part of a line that was then dropped: the next one begins on a line of its own.
    torn: bool,
    /// Lines are left because the descriptor was full.
    full: bool,
    clock: Clock,
    complained: Option<Instant>,
    unsaid: u64,
    reconnected: Option<Instant>,
}

/// How the descriptor is written to.
#[derive(Debug)]
enum Out {
    /// A line a datagram.
    Datagrams(OwnedFd),
    /// A connected socket of bytes: what a service manager gives for standard output.
    Stream(OwnedFd),
    /// A file, a pipe, a terminal.
    File(File),
}

impl Out {
    fn of(fd: OwnedFd) -> io::Result<Out> {
        let file = File::from(fd);
        if !file.metadata()?.file_type().is_socket() {
            return Ok(Out::File(file));
        }
        let fd = OwnedFd::from(file);
        match getsockopt(&fd, sockopt::SockType)? {
            SockType::Datagram => Ok(Out::Datagrams(fd)),
            _ => Ok(Out::Stream(fd)),
        }
    }
}

impl Sink {
    pub(super) fn new(live: Arc<SinkLive>) -> Sink {
        Sink {
            live,
            retired: false,
            out: None,
            queue: Vec::new(),
            lengths: VecDeque::new(),
            sent: 0,
            of_first: 0,
            torn: false,
            full: false,
            clock: Clock::default(),
            complained: None,
            unsaid: 0,
            reconnected: None,
        }
    }

    /// Goes on with another descriptor; none: its lines are dropped. A line of which the one before got a part is dropped.
    pub(super) fn open(&mut self, fd: Option<OwnedFd>) {
        if self.of_first > 0 {
            let line = self.lengths.pop_front().expect("a part of a line was written");
            self.sent += line - self.of_first;
            self.of_first = 0;
            self.drop_lines(1);
        }
        self.torn = false;
        self.out = match fd.map(Out::of).transpose() {
            Ok(out) => out,
            Err(error) => {
                self.complain(&error);
                None
            }
        };
        if self.out.is_none() {
            self.drop_all();
        }
    }

    /// Queues a line.
    pub(super) fn take(&mut self, line: &[u8], now: SystemTime, pid: u32) {
        if self.out.is_none() || self.queue.len() - self.sent + line.len() > QUEUE {
            return self.drop_lines(1);
        }
        let before = self.queue.len();
        if std::mem::take(&mut self.torn) {
            self.queue.push(b'\n');
        }
        if let Some(facility) = self.live.config.facility {
            self.header(facility, now, pid);
        }
        self.queue.extend_from_slice(line);
        self.queue.push(b'\n');
        self.lengths.push_back(self.queue.len() - before);
    }

    /// As HAProxy's default (RFC 3164 §4.1, without a host name): `<134>Nov 21 16:28:07 lbnode[8901]: `.
    fn header(&mut self, facility: u8, now: SystemTime, pid: u32) {
        let Sink { queue, clock, .. } = self;
        queue.push(b'<');
        text::number(queue, u64::from(facility) * 8 + SEVERITY_INFO);
        queue.push(b'>');
        clock.syslog(queue, now);
        queue.extend_from_slice(b" lbnode[");
        text::number(queue, pid.into());
        queue.extend_from_slice(b"]: ");
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// What to poll until lines that are left can be written; `None`: it would say nothing.
    pub(super) fn full(&self) -> Option<BorrowedFd<'_>> {
        let out = self.out.as_ref().filter(|_| self.full)?;
        Some(match out {
            Out::Datagrams(fd) | Out::Stream(fd) => fd.as_fd(),
            Out::File(file) => file.as_fd(),
        })
    }

    /// Writes what the descriptor takes at once.
    pub(super) fn flush(&mut self) {
        self.full = false;
        let mut failures = 0;
        while !self.is_empty() {
            let Err(error) = self.write() else {
                failures = 0;
                continue;
            };
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EAGAIN) => {
                    self.full = true;
                    break;
                }
                // The network's own queue is full, of which the socket knows nothing.
                Some(libc::ENOBUFS) => break,
                Some(code) if self.daemon_is_gone(code) => {
                    if !self.reconnect() {
                        self.complain(&error);
                        break;
                    }
                }
                _ => {
                    failures += 1;
                    self.failed(&error, failures);
                }
            }
        }
        self.compact();
    }

    fn write(&mut self) -> io::Result<()> {
        let bytes = &self.queue[self.sent..];
        match &mut self.out {
            None => self.drop_all(),
            Some(Out::Datagrams(fd)) => {
                let sent = send_many(fd, bytes, &self.lengths)?;
                for _ in 0..sent {
                    self.sent += self.lengths.pop_front().expect("no more lines go than are there");
                }
                self.live.written.add(sent as u64);
            }
            Some(Out::Stream(fd)) => {
                let sent = send(fd.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?;
                self.wrote(sent);
            }
            Some(Out::File(file)) => match file.write(bytes)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => self.wrote(written),
            },
        }
        Ok(())
    }

    /// So many bytes went, wherever they end.
    fn wrote(&mut self, bytes: usize) {
        self.sent += bytes;
        self.of_first += bytes;
        while let Some(first) = self.lengths.front().filter(|first| self.of_first >= **first) {
            self.of_first -= first;
            self.lengths.pop_front();
            self.live.written.add(1);
        }
    }

    /// The syslog daemon behind a unix socket went, perhaps to come back.
    fn daemon_is_gone(&self, code: i32) -> bool {
        let gone = [libc::ECONNREFUSED, libc::ENOTCONN, libc::ECONNRESET, libc::EPIPE, libc::EDESTADDRREQ];
        matches!(self.live.config.parsed(), Some(Target::Unix(_))) && gone.contains(&code)
    }

    /// Whether the daemon is there again. It works where we may see its socket; if not, the agent opens another at the next
    /// apply.
    fn reconnect(&mut self) -> bool {
        let (Some(Target::Unix(path)), Some(Out::Datagrams(fd))) = (self.live.config.parsed(), &self.out) else {
            return false;
        };
        if self.reconnected.is_some_and(|at| at.elapsed() < RECONNECT_EVERY) {
            return false;
        }
        self.reconnected = Some(Instant::now());
        UnixAddr::new(path).and_then(|address| connect(fd.as_fd().as_raw_fd(), &address)).is_ok()
    }

    fn failed(&mut self, error: &io::Error, failures: u32) {
        self.complain(error);
        match (&self.out, error.raw_os_error()) {
            // It is about a datagram that went before; once, as nobody may be there at all.
            (Some(Out::Datagrams(_)), Some(libc::ECONNREFUSED)) if failures == 1 => {}
            // It is about this datagram alone.
            (Some(Out::Datagrams(_)), Some(libc::EMSGSIZE)) => {
                self.sent += self.lengths.pop_front().expect("a datagram was too long");
                self.drop_lines(1);
            }
            _ => self.drop_all(),
        }
    }

    fn drop_all(&mut self) {
        self.torn |= self.of_first > 0;
        self.drop_lines(self.lengths.len() as u64);
        self.lengths.clear();
        self.queue.clear();
        (self.sent, self.of_first) = (0, 0);
    }

    fn drop_lines(&mut self, lines: u64) {
        self.live.dropped.add(lines);
        self.unsaid += lines;
    }

    /// Gives back what was written.
    fn compact(&mut self) {
        if self.sent == self.queue.len() {
            self.queue.clear();
            self.sent = 0;
        } else if self.sent > QUEUE / 2 {
            self.queue.drain(..self.sent);
            self.sent = 0;
        }
    }

    fn complain(&mut self, error: &io::Error) {
        if self.complained.is_some_and(|at| at.elapsed() < COMPLAIN_EVERY) {
            return;
        }
        self.complained = Some(Instant::now());
        let dropped = std::mem::take(&mut self.unsaid);
        warn!(sink = self.live.config.target, %error, dropped, "cannot write to a log sink");
    }
}

/// Sends lines as datagrams, so many as go at once; how many went, at least one.
fn send_many(socket: &OwnedFd, mut bytes: &[u8], lengths: &VecDeque<usize>) -> io::Result<usize> {
    // SAFETY: plain data, for which zero is valid.
    let (mut vectors, mut headers): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) = unsafe { std::mem::zeroed() };
    let mut count = 0;
    for ((&length, vector), header) in lengths.iter().zip(&mut vectors).zip(&mut headers) {
        let (line, rest) = bytes.split_at(length);
        bytes = rest;
        *vector = libc::iovec { iov_base: line.as_ptr().cast_mut().cast(), iov_len: length };
        header.msg_hdr.msg_iov = vector;
        header.msg_hdr.msg_iovlen = 1;
        count += 1;
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the first `count` headers point to vectors, and these to bytes, that outlive the call; it only reads them.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, flags) };
    Ok(Errno::result(sent)? as usize)
}
