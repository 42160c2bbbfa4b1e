//! The heartbeats of the pair, on their sockets: one for each path between the two nodes, all of them on the VRRP thread.
//!
//! What is told is always the newest: at the advert interval, at once when a router changes its state, and then again
//! every few milliseconds until the peer has acknowledged it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::kernel;
use super::snapshot::{LastWords, PathSnapshot};
use crate::heartbeat::Claim;
use crate::peer::{Keys, MAX_DATAGRAM, Peer, Refused};
use crate::types::Time;

/// How often news are repeated until they are acknowledged.
const REPEAT: Duration = Duration::from_millis(5);
/// How often at most: then the peer is not there, and the advert interval is enough.
const REPEATS: u32 = 40;
/// For how long the peer may sign with keys that have not come here yet.
const KEYS: Duration = Duration::from_secs(2);
/// After which a socket that could not be opened is tried again.
const REOPEN: Duration = Duration::from_secs(1);
/// At most so many datagrams of one path are read before deadlines are looked at again.
const BATCH: usize = 64;
/// DSCP CS6, network control (RFC 4594 §3.2).
const CS6: u32 = 0xc0;

/// How the other node is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PairSettings {
    /// Our address and the peer's, one for each path.
    pub paths: Vec<(SocketAddr, SocketAddr)>,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Pair {
    peer: Peer,
    paths: Vec<Path>,
    /// When the newest keys came.
    rekeyed: Option<Instant>,
    /// When the last heartbeat was sent.
    told: Option<Instant>,
    /// The sequence that the peer has to acknowledge, and how often it was repeated.
    news: Option<(u64, u32)>,
}

#[derive(Debug)]
struct Path {
    local: SocketAddr,
    remote: SocketAddr,
    socket: Option<AsyncFd<Socket>>,
    reopen: Option<Instant>,
    heard: Option<Instant>,
    received: u64,
    send_errors: u64,
    refused: BTreeMap<&'static str, u64>,
    /// Kinds of bad datagrams, and of failures, that were logged since the last good datagram.
    logged: Vec<&'static str>,
}

impl Pair {
    pub(super) fn new(settings: &PairSettings) -> Pair {
        let path = |&(local, remote): &(SocketAddr, SocketAddr)| Path {
            local,
            remote,
            socket: None,
            reopen: None,
            heard: None,
            received: 0,
            send_errors: 0,
            refused: BTreeMap::new(),
            logged: Vec::new(),
        };
        let paths: Vec<Path> = settings.paths.iter().map(path).collect();
        Pair { peer: Peer::new(paths.len()), paths, rekeyed: None, told: None, news: None }
    }

    pub(super) fn rekey(&mut self, keys: Keys, now: Time) {
        self.peer.rekey(keys, now);
        self.rekeyed = Some(Instant::now());
        self.told = None;
    }

    /// Opens what is not open yet.
    pub(super) fn open(&mut self, now: Instant) {
        for path in &mut self.paths {
            if path.socket.is_some() || path.reopen.is_some_and(|at| at > now) {
                continue;
            }
            match socket(path.local) {
                Ok(socket) => path.socket = Some(socket),
                Err(error) => {
                    if !path.logged.contains(&"socket") {
                        path.logged.push("socket");
                        tracing::warn!(local = %path.local, %error, "cannot open the socket for heartbeats; it is tried again");
                    }
                    path.reopen = Some(now + REOPEN);
                }
            }
        }
    }

    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let sockets = self.paths.iter().filter_map(|path| path.socket.as_ref());
        // Each one is asked, so that its waker is in place.
        if sockets.filter(|socket| socket.poll_read_ready(cx).is_ready()).count() > 0 {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// What has arrived: of several heartbeats the newest, for what lay in the socket while we slept is history.
    pub(super) fn read(&mut self, time: Time, now: Instant) -> Vec<Claim> {
        let mut newest: Vec<Claim> = Vec::new();
        let mut buffer = [0; MAX_DATAGRAM + 1];
        for (index, path) in self.paths.iter_mut().enumerate() {
            for _ in 0..BATCH {
                let Some(socket) = &path.socket else { break };
                let read = socket.try_io(Interest::READABLE, |socket| kernel::receive_from(socket, &mut buffer));
                let (length, source) = match read {
                    Ok(read) => read,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // An ICMP error of an earlier datagram: the peer is not there.
                    Err(_) => continue,
                };
                if source.is_none_or(|source| source.ip() != path.remote.ip()) {
                    path.refuse("not_the_peer", &"it comes from another address than the peer's");
                    continue;
                }
                match self.peer.open(index, &buffer[..length.min(buffer.len())], time) {
                    Ok(claims) => {
                        path.heard = Some(now);
                        path.received += 1;
                        path.logged.clear();
                        for claim in claims.into_iter().flatten() {
                            newest.retain(|old| (old.address, old.vrid) != (claim.address, claim.vrid));
                            newest.push(claim);
                        }
                    }
                    // One node has the keys of a new session a moment before the other.
                    Err(Refused::UnknownKey(_)) if self.rekeyed.is_none_or(|at| now - at < KEYS) => {}
                    Err(error) => path.refuse(error.name(), &error),
                }
            }
        }
        if self.news.is_some_and(|(sequence, _)| self.peer.acknowledged() >= sequence) {
            self.news = None;
        }
        newest
    }

    /// When the next heartbeat is due.
    pub(super) fn deadline(&self, interval: Duration) -> Option<Instant> {
        let reopen = self.paths.iter().filter_map(|path| path.reopen.filter(|_| path.socket.is_none())).min();
        let next = self.told.map(|told| told + self.pause(interval));
        [reopen, next.filter(|_| self.peer.key_id().is_some())].into_iter().flatten().min()
    }

    fn pause(&self, interval: Duration) -> Duration {
        if self.news.is_some_and(|(_, repeats)| repeats < REPEATS) { REPEAT.min(interval) } else { interval }
    }

    /// Whether a heartbeat is due.
    pub(super) fn is_due(&self, interval: Duration, now: Instant) -> bool {
        self.peer.key_id().is_some() && self.told.is_none_or(|told| now >= told + self.pause(interval))
    }

    /// Everything that the peer should know was acknowledged, or nobody is there to do so.
    pub(super) fn is_quiet(&self) -> bool {
        self.news.is_none_or(|(_, repeats)| repeats >= REPEATS)
    }

    /// Tells the peer, on every path. `news`: something that must not wait for the next interval.
    pub(super) fn tell(&mut self, claims: &[Claim], news: bool, now: Instant) {
        for datagram in self.peer.datagrams(claims) {
            for path in &mut self.paths {
                path.send(&datagram);
            }
        }
        self.told = Some(now);
        self.news = match self.news {
            _ if news => Some((self.peer.sent(), 0)),
            Some((sequence, repeats)) => Some((sequence, repeats + 1)),
            None => None,
        };
    }

    pub(super) fn key_id(&self) -> Option<u32> {
        self.peer.key_id()
    }

    /// What the guard says on each path when this process is dead.
    pub(super) fn last_words(&self, claims: &[Claim]) -> Vec<LastWords> {
        let datagrams = self.peer.last_words(claims);
        let words = |path: &Path| LastWords { local: path.local, remote: path.remote, datagrams: datagrams.clone() };
        if datagrams.is_empty() { Vec::new() } else { self.paths.iter().map(words).collect() }
    }

    pub(super) fn snapshot(&self, now: Instant) -> Vec<PathSnapshot> {
        let path = |path: &Path| PathSnapshot {
            local: path.local,
            remote: path.remote,
            heard: path.heard.map(|heard| now.duration_since(heard)),
            received: path.received,
            send_errors: path.send_errors,
            refused: path.refused.iter().map(|(why, count)| ((*why).to_owned(), *count)).collect(),
        };
        self.paths.iter().map(path).collect()
    }
}

impl Path {
    fn send(&mut self, datagram: &[u8]) {
        let sent = match &self.socket {
            Some(socket) => socket.get_ref().send_to(datagram, &self.remote.into()).map(|_| ()),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        // No route, no carrier: the other path is there for that, and the status names this one.
        self.send_errors += u64::from(sent.is_err());
    }

    fn refuse(&mut self, kind: &'static str, reason: &dyn std::fmt::Display) {
        *self.refused.entry(kind).or_default() += 1;
        if !self.logged.contains(&kind) {
            self.logged.push(kind);
            tracing::warn!(local = %self.local, kind, %reason, "heartbeat refused; more of this kind are only counted");
        }
    }
}

/// Bound even before the address is there, so that a path comes to life with its interface.
fn socket(local: SocketAddr) -> io::Result<AsyncFd<Socket>> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if local.is_ipv4() {
        socket.set_freebind_v4(true)?;
        socket.set_tos_v4(CS6)?;
    } else {
        socket.set_freebind_v6(true)?;
        socket.set_tclass_v6(CS6)?;
    }
    socket.bind(&local.into())?;
    kernel::watch(socket)
}
