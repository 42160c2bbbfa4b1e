//! Who holds the VIP, at every moment, by the word of the two nodes' kernels: how long both had it, how long nobody.
//!
//! The kernels tell each change themselves (rtnetlink's address group), so nothing is missed between two looks and
//! watching costs next to nothing. A node tells the other one only after its own change, and the kernel queues the
//! word of a change before the change returns. So when both sockets are read until neither has more, two holders are
//! seen only where there were two. What began and ended while the watcher itself waited for a processor is not seen.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket, sockopt,
};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};

use crate::lan;
use crate::netns::{Netns, NetnsError};
use crate::site::{Site, VIP};

/// linux/rtnetlink.h: the group that hears of IPv4 addresses.
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
/// A word of one change is a hundred bytes.
const MESSAGE_BYTES: usize = 8192;
/// Room for the changes of a minute in which nobody reads.
const QUEUE_BYTES: usize = 1 << 20;
/// How often the watcher looks whether it shall stop, in milliseconds.
const TICK: u8 = 20;

/// Why nobody can be watched.
#[derive(Debug, thiserror::Error)]
pub enum HoldersError {
    /// The socket that hears of changes.
    #[error("hear of address changes on node {node}")]
    Socket {
        /// Which.
        node: String,
        /// From the system.
        #[source]
        source: io::Error,
    },
    /// The state at the beginning.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The thread.
    #[error("start the thread that watches the holders")]
    Thread(#[source] io::Error),
}

/// From one change to the next: since when, and whether nodes 0 and 1 had the VIP.
type State = (Instant, [bool; 2]);

/// A watcher that is running; ends when dropped.
#[derive(Debug)]
pub struct Holders {
    stop: Arc<AtomicBool>,
    states: Arc<Mutex<Vec<State>>>,
    thread: Option<JoinHandle<()>>,
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct Held {
    /// In order; the first is where it began.
    states: Vec<State>,
    until: Instant,
}

impl Holders {
    /// Watches both nodes of a site.
    pub fn start(site: &Site) -> Result<Holders, HoldersError> {
        let open = |index: usize| {
            let netns = site.nodes[index].netns.clone();
            let source = netns.run(listen);
            let node = netns.name().to_owned();
            source.map(|socket| Watched { netns, socket }).map_err(|source| HoldersError::Socket { node, source })
        };
        let watched = [open(0)?, open(1)?];
        // After the sockets: what changes in between is heard.
        let now = [watched[0].has_vip()?, watched[1].has_vip()?];
        let states = Arc::new(Mutex::new(vec![(Instant::now(), now)]));
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, shared) = (Arc::clone(&stop), Arc::clone(&states));
        let thread = std::thread::Builder::new()
            .name("holders".into())
            .spawn(move || watch(&watched, now, &shared, &stopped))
            .map_err(HoldersError::Thread)?;
        Ok(Holders { stop, states, thread: Some(thread) })
    }

    /// What was seen so far.
    pub fn held(&self) -> Held {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Held { states, until: Instant::now() }
    }
}

impl Drop for Holders {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there was printed; there is nothing to add.
            let _ = thread.join();
        }
    }
}

impl Held {
    /// Who has it at the end of what was seen.
    pub fn now(&self) -> [bool; 2] {
        self.states.last().map(|(_, held)| *held).unwrap_or_default()
    }

    /// The longest time without a break in which so many nodes had the VIP, counted from `since` on.
    pub fn longest(&self, holders: usize, since: Instant) -> Duration {
        let ends = self.states.iter().skip(1).map(|(at, _)| *at).chain([self.until]);
        let (mut longest, mut begun) = (Duration::ZERO, None);
        for ((start, held), end) in self.states.iter().zip(ends) {
            if held.iter().filter(|holds| **holds).count() != holders || end < since {
                begun = None;
                continue;
            }
            let start = *begun.get_or_insert((*start).max(since));
            longest = longest.max(end.saturating_duration_since(start));
        }
        longest
    }

    /// Whether `node` had the VIP at any time from `since` on.
    pub fn ever(&self, node: usize, since: Instant) -> bool {
        let ends = self.states.iter().skip(1).map(|(at, _)| *at).chain([self.until]);
        self.states.iter().zip(ends).any(|((_, held), end)| held[node] && end >= since)
    }
}

/// One node's kernel.
struct Watched {
    netns: Netns,
    socket: OwnedFd,
}

impl Watched {
    fn has_vip(&self) -> Result<bool, NetnsError> {
        Ok(lan::addresses(&self.netns)?.contains(&VIP))
    }

    /// Reads all that waits: whether the VIP is there at the end of it, if anything was said of it.
    fn read(&self) -> Option<bool> {
        let mut is = None;
        let mut buffer = [0; MESSAGE_BYTES];
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => is = changes(&buffer[..length], VIP).last().copied().or(is),
                // Words were lost: ask.
                Err(Errno::ENOBUFS) => is = self.has_vip().ok().or(is),
                Err(_) => return is,
            }
        }
    }
}

fn watch(watched: &[Watched; 2], mut held: [bool; 2], states: &Mutex<Vec<State>>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let mut waiting = watched.each_ref().map(|node| PollFd::new(node.socket.as_fd(), PollFlags::POLLIN));
        if !poll(&mut waiting, PollTimeout::from(TICK)).is_ok_and(|ready| ready > 0) {
            continue;
        }
        let before = held;
        // Until a round brings nothing: whose going was queued while the other's coming was read is in it too.
        loop {
            let said = watched.each_ref().map(Watched::read);
            if said == [None, None] {
                break;
            }
            for (holds, is) in held.iter_mut().zip(said) {
                *holds = is.unwrap_or(*holds);
            }
        }
        if held == before {
            continue;
        }
        states.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), held));
    }
}

fn listen() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    setsockopt(&socket, sockopt::RcvBuf, &QUEUE_BYTES)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, RTMGRP_IPV4_IFADDR))?;
    Ok(socket)
}

/// What a datagram says of `address`, in order: there (`true`) or gone.
fn changes(mut bytes: &[u8], address: Ipv4Addr) -> Vec<bool> {
    let mut found = Vec::new();
    let about = |message: &AddressMessage| message.attributes.contains(&AddressAttribute::Local(IpAddr::V4(address)));
    while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) {
        match &message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(told)) if about(told) => found.push(true),
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelAddress(told)) if about(told) => found.push(false),
            _ => {}
        }
        // The next one begins at a multiple of four.
        let length = (message.header.length as usize).next_multiple_of(4).max(4);
        bytes = bytes.get(length..).unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(begin: Instant, states: &[(u64, [bool; 2])], until: u64) -> Held {
        let at = |ms| begin + Duration::from_millis(ms);
        Held { states: states.iter().map(|(ms, held)| (at(*ms), *held)).collect(), until: at(until) }
    }

    const NONE: [bool; 2] = [false, false];
    const A: [bool; 2] = [true, false];
    const B: [bool; 2] = [false, true];
    const BOTH: [bool; 2] = [true, true];

    #[test]
    fn the_longest_time_is_one_without_a_break() {
        let begin = Instant::now();
        let seen = held(begin, &[(0, A), (10, BOTH), (13, B), (20, NONE), (25, A), (30, BOTH)], 31);
        let longest = |holders, since| seen.longest(holders, begin + Duration::from_millis(since)).as_millis();
        assert_eq!((longest(2, 0), longest(0, 0), longest(1, 0)), (3, 5, 10));
        assert_eq!(longest(2, 12), 1, "only what comes after counts");
        assert_eq!(longest(2, 14), 1);
        assert_eq!(longest(1, 15), 5);
    }

    #[test]
    fn one_holder_after_the_other_is_one_time_with_one() {
        let begin = Instant::now();
        assert_eq!(held(begin, &[(0, A), (10, B)], 15).longest(1, begin).as_millis(), 15);
    }

    #[test]
    fn who_held_it_before_did_not_hold_it_since() {
        let begin = Instant::now();
        let seen = held(begin, &[(0, A), (10, B)], 20);
        let since = begin + Duration::from_millis(15);
        assert_eq!((seen.ever(0, since), seen.ever(1, since)), (false, true));
        assert!(seen.ever(0, begin));
    }

    #[test]
    fn what_is_no_message_says_nothing() {
        assert!(changes(&[], VIP).is_empty());
        assert!(changes(&[0; 64], VIP).is_empty());
        assert!(changes(&[16, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], VIP).is_empty());
    }
}
