//! The guard: a tiny process whose one duty is to release the VIPs when the agent dies.
//!
//! It is told by the VRRP thread which routers are held, has its sockets open beforehand, and sleeps on a pidfd of the
//! agent. When the agent ends without a word, it tells the peer that they are free, by heartbeats that the agent signed
//! beforehand and by priority 0, resets their connections and deletes
//! their addresses, in this order: the peer's takeover is what clients wait for. It runs in a session of its own, so
//! nothing that is sent to the agent's group ends it. If the guard dies, the agent starts another one.
#![allow(unsafe_code, reason = "what happens between fork and exec")]

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, parent_id};
use std::process::{ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use bincode::config::Configuration;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};
use tokio::process::{Child, Command};
use vrrp::config::RouterConfig;
use vrrp::event::RELEASE;
use vrrp::io::driver::OnHeld;
use vrrp::io::snapshot::{Held, LastWords};
use vrrp::io::socket::Sender;
use vrrp::io::{address, realtime};
use vrrp::packet;

use crate::pidfd;

/// The longest message in bytes; room for about 500 VIPs.
const MAX_MESSAGE: usize = 128 << 10;
const CODEC: Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<MAX_MESSAGE>,
> = bincode::config::standard().with_limit::<MAX_MESSAGE>();

/// What the agent says.
#[derive(Debug, Serialize, Deserialize)]
enum Message {
    /// These are held now, and no others; and what to say to the peer when the agent is dead.
    Held(Vec<Held>, Vec<LastWords>),
    /// The agent ends in order, and has released everything itself.
    Bye,
}

/// The agent's side.
#[derive(Debug)]
pub struct Guard {
    child: Child,
    line: Arc<Mutex<Line>>,
}

/// The way to the guard that lives now, and what its successor must be told.
#[derive(Debug)]
struct Line {
    channel: OwnedFd,
    held: Vec<u8>,
}

impl Guard {
    /// Starts a guard. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn spawn() -> io::Result<Guard> {
        let (child, channel) = start()?;
        let held = bytes(&Message::Held(Vec::new(), Vec::new()))?;
        Ok(Guard { child, line: Arc::new(Mutex::new(Line { channel, held })) })
    }

    /// What tells the guard which routers are held. It never waits, and outlives any single guard.
    pub fn teller(&self) -> OnHeld {
        let line = Arc::clone(&self.line);
        Box::new(move |held, words| {
            let message = match bytes(&Message::Held(held.to_vec(), words.to_vec())) {
                Ok(message) => message,
                Err(error) => return tracing::error!(%error, "the guard cannot be told what is held"),
            };
            // Held for a moment only, here and where a dead guard is replaced.
            let mut line = line.lock().unwrap_or_else(PoisonError::into_inner);
            line.held = message;
            line.tell();
        })
    }

    /// Done when the guard is gone, which it should never be; [`Guard::restart`] is the remedy.
    pub async fn ended(&mut self) {
        match self.child.wait().await {
            Ok(status) => tracing::error!(%status, "the guard ended; starting another one"),
            Err(error) => tracing::error!(%error, "the guard cannot be waited for; starting another one"),
        }
    }

    /// Starts another one and tells it what the last one knew.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn restart(&mut self) -> io::Result<()> {
        let (child, channel) = start()?;
        self.child = child;
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        line.channel = channel;
        line.tell();
        Ok(())
    }

    /// Lets it go: everything is released.
    pub async fn dismiss(mut self) {
        let told = bytes(&Message::Bye).and_then(|bye| {
            let line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(send(line.channel.as_raw_fd(), &bye, MsgFlags::MSG_NOSIGNAL)?)
        });
        match told {
            Ok(_) => drop(self.child.wait().await),
            Err(error) => tracing::debug!(%error, "the guard was gone already"),
        }
    }
}

impl Line {
    fn tell(&self) {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        if let Err(error) = send(self.channel.as_raw_fd(), &self.held, flags) {
            // Gone: its successor is told. Full: it is stopped, and could not act anyway.
            tracing::warn!(%error, "the guard does not listen");
        }
    }
}

fn bytes(message: &Message) -> io::Result<Vec<u8>> {
    let bytes = bincode::serde::encode_to_vec(message, CODEC).map_err(io::Error::other)?;
    if bytes.len() > MAX_MESSAGE {
        return Err(io::Error::other(format!("{} bytes are over the limit of {MAX_MESSAGE}", bytes.len())));
    }
    Ok(bytes)
}

fn start() -> io::Result<(Child, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    let number = theirs.as_raw_fd();
    let mut command = std::process::Command::new("/proc/self/exe");
    command.args(["guard", "--channel-fd", &number.to_string()]).stdin(Stdio::null()).stdout(Stdio::null());
    // SAFETY: between fork and exec only setsid and fcntl are called, which are async-signal-safe and allocate nothing.
    unsafe {
        command.pre_exec(move || {
            Errno::result(libc::setsid())?;
            Errno::result(libc::fcntl(number, libc::F_SETFD, 0))?;
            Ok(())
        });
    }
    Ok((Command::from(command).spawn()?, ours))
}

// === the guard's own side ===

/// What `lbnode guard` does: waits for the agent's end, in order or not.
pub fn run(channel: OwnedFd) -> ExitCode {
    match watch(&channel) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lbnode guard: {error}");
            ExitCode::FAILURE
        }
    }
}

fn watch(channel: &OwnedFd) -> io::Result<()> {
    let agent = pidfd::open(parent_id())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let granted = realtime::request();
    if let Err(refusal) = granted.scheduling.and(granted.memory) {
        eprintln!("lbnode guard: {refusal}");
    }
    let mut held = Ready::default();
    loop {
        let (died, said) = wait(&agent, channel)?;
        if said {
            match hear(channel)? {
                Some(Message::Held(routers, words)) => held.prepare(routers, words),
                Some(Message::Bye) => return Ok(()),
                // The agent's end is closed: it is gone.
                None => return held.release(&runtime),
            }
        } else if died {
            return held.release(&runtime);
        }
    }
}

/// Sleeps until the agent died, or said something, or both.
fn wait(agent: &OwnedFd, channel: &OwnedFd) -> io::Result<(bool, bool)> {
    let readable = |fd: BorrowedFd<'_>| -> io::Result<bool> {
        let mut set = [PollFd::new(fd, PollFlags::POLLIN)];
        poll(&mut set, PollTimeout::ZERO)?;
        Ok(set[0].any().unwrap_or(true))
    };
    let mut set = [PollFd::new(agent.as_fd(), PollFlags::POLLIN), PollFd::new(channel.as_fd(), PollFlags::POLLIN)];
    match poll(&mut set, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    // The last words of an agent that died are heard first.
    Ok((readable(agent.as_fd())?, readable(channel.as_fd())?))
}

/// The next message; `None`: the other end is closed.
fn hear(channel: &OwnedFd) -> io::Result<Option<Message>> {
    let mut buffer = vec![0; MAX_MESSAGE];
    let length = match recv(channel.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
        Ok(0) | Err(Errno::ECONNRESET) => return Ok(None),
        Ok(length) => length,
        Err(error) => return Err(error.into()),
    };
    let (message, used) = bincode::serde::decode_from_slice(&buffer[..length], CODEC).map_err(io::Error::other)?;
    if used != length {
        return Err(io::Error::other(format!("a message of {length} bytes has {} too many", length - used)));
    }
    Ok(Some(message))
}

/// What is held, with everything at hand that releasing it needs.
#[derive(Default)]
struct Ready {
    held: Vec<Held>,
    senders: HashMap<String, Sender>,
    words: Vec<LastWords>,
    sockets: HashMap<SocketAddr, UdpSocket>,
}

impl Ready {
    fn prepare(&mut self, held: Vec<Held>, words: Vec<LastWords>) {
        for LastWords { local, .. } in &words {
            // Any port: the peer goes by the address. What cannot be bound now will be when the words are said.
            if !self.sockets.contains_key(local)
                && let Ok(socket) = socket_at(*local)
            {
                self.sockets.insert(*local, socket);
            }
        }
        self.words = words;
        for router in &held {
            let interface = &router.config.interface;
            if self.senders.contains_key(interface) {
                continue;
            }
            let index = nix::net::if_::if_nametoindex(interface.as_str()).map_err(io::Error::from);
            match index.and_then(|index| Sender::open(interface, index)) {
                Ok(sender) => drop(self.senders.insert(interface.clone(), sender)),
                Err(error) => eprintln!("lbnode guard: cannot send adverts on {interface}: {error}"),
            }
        }
        self.senders.retain(|interface, _| held.iter().any(|router| router.config.interface == *interface));
        self.held = held;
    }

    fn release(&self, runtime: &tokio::runtime::Runtime) -> io::Result<()> {
        if self.held.is_empty() {
            return end_hand_offs(runtime);
        }
        for LastWords { local, remote, datagrams } in &self.words {
            let fresh;
            let socket = match self.sockets.get(local) {
                Some(socket) => Some(socket),
                None => {
                    fresh = socket_at(*local).ok();
                    fresh.as_ref()
                }
            };
            let Some(socket) = socket else { continue };
            for datagram in datagrams {
                if let Err(error) = socket.send_to(datagram, remote) {
                    eprintln!("lbnode guard: the peer was not told by {local}: {error}");
                }
            }
        }
        for Held { config, source } in &self.held {
            let Some(sender) = self.senders.get(&config.interface) else { continue };
            for destination in packet::destinations(config) {
                let message = packet::encode(config, RELEASE, *source, destination);
                if let Err(error) = sender.send(&message, *source, destination) {
                    eprintln!("lbnode guard: {}: priority 0 was not sent: {error}", config.name);
                }
            }
        }
        for Held { config, .. } in &self.held {
            if let Err(error) = crate::sock_diag::reset(&config.addresses) {
                eprintln!("lbnode guard: {}: connections could not be reset and fall silent: {error}", config.name);
            }
        }
        let configs: Vec<RouterConfig> = self.held.iter().map(|held| held.config.clone()).collect();
        let released = runtime.block_on(address::release(&configs)).map_err(io::Error::other)?;
        eprintln!("lbnode guard: the agent died; released {released:?}");
        end_hand_offs(runtime)
    }
}

/// A hand-off needs an agent at both ends.
fn end_hand_offs(runtime: &tokio::runtime::Runtime) -> io::Result<()> {
    let released = runtime.block_on(crate::handoff::release()).map_err(io::Error::other)?;
    if released != crate::handoff::Released::default() {
        eprintln!("lbnode guard: the agent died; ended its hand-offs: {released:?}");
    }
    Ok(())
}

/// Sends from an address, whether it is there at the moment or not.
fn socket_at(local: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, None)?;
    if local.is_ipv4() {
        socket.set_freebind_v4(true)?;
    } else {
        socket.set_freebind_v6(true)?;
    }
    socket.bind(&SocketAddr::new(local.ip(), 0).into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_whole_and_the_end_of_the_agent_is_heard() {
        let (agent, guard) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).expect("a pair");
        for message in [Message::Held(Vec::new(), Vec::new()), Message::Bye] {
            send(agent.as_raw_fd(), &bytes(&message).expect("short"), MsgFlags::empty()).expect("room");
        }
        assert!(matches!(hear(&guard), Ok(Some(Message::Held(held, _))) if held.is_empty()));
        assert!(matches!(hear(&guard), Ok(Some(Message::Bye))));
        send(agent.as_raw_fd(), &[0xff; 9], MsgFlags::empty()).expect("room");
        assert!(hear(&guard).is_err(), "nonsense is refused");
        drop(agent);
        assert!(matches!(hear(&guard), Ok(None)));
    }
}
