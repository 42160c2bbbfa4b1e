//! One interface as the driver sees it: its sockets while it is there, whether anything was heard
//! through it since its carrier came, and what was discarded.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::announce::{Arp, Claim};
use super::links::Link;
use super::snapshot::InterfaceCounters;
use super::socket::{Heard, Receiver, Sender};
use crate::event::Fault;
use crate::heartbeat::Lan;

/// After this long a silent link counts as heard: twice the forward delay of spanning tree (IEEE 802.1D, 15 s).
pub(super) const DEAF_LIMIT: Duration = Duration::from_secs(30);
/// How often a silent link is asked to speak.
const PROBE: Duration = Duration::from_millis(200);
/// After which a socket that could not be opened is tried again.
const REOPEN: Duration = Duration::from_secs(1);
/// For how long a host counts as heard while a segment is doubted, and how often it is asked then.
const SEEN: Duration = Duration::from_millis(500);
const ASK: Duration = Duration::from_millis(100);
/// How often the gateways of an interface are read at most, and an unknown one is asked.
const READ: Duration = Duration::from_secs(1);
/// Hosts that are remembered; beyond, the ones heard longest ago are forgotten.
const HOSTS: usize = 256;
/// At most so many packets are read before deadlines are looked at again.
const BATCH: usize = 256;

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Interface {
    pub(super) counters: InterfaceCounters,
    pub(super) link: Option<Link>,
    ports: Option<Ports>,
    reopen: Option<Instant>,
    /// Since when it has a carrier and nothing was heard, and when to ask next.
    unheard: Option<(Instant, Instant)>,
    /// Who was heard, and when.
    seen: BTreeMap<Ipv4Addr, Instant>,
    /// The segment is doubted: since when, and when to ask next.
    doubt: Option<(Instant, Instant)>,
    /// The gateway was heard since the carrier came.
    confirmed: bool,
    /// When it is asked next, where somebody wants to know.
    confirm: Option<Instant>,
    /// The default gateways over it, and when they were read.
    gateways: Vec<Ipv4Addr>,
    read: Option<Instant>,
    /// Kinds of bad packets, and of failures, that were logged since the last valid packet.
    logged: BTreeSet<&'static str>,
}

#[derive(Debug)]
struct Ports {
    receiver: Receiver,
    sender: Sender,
    arp: Option<Arp>,
}

impl Interface {
    /// Takes in what the kernel says now; opens and closes sockets accordingly.
    pub(super) fn update(&mut self, name: &str, link: Option<&Link>, now: Instant) {
        let identity = |link: &Link| (link.index, link.mac);
        let replaced = self.link.as_ref().map(identity) != link.map(identity);
        let carrier = |link: &Link| link.running.then_some(link.losses);
        let came = replaced || self.link.as_ref().and_then(carrier) != link.and_then(carrier);
        if self.link.as_ref() != link {
            self.link = link.cloned();
        }
        if replaced {
            self.ports = None;
            self.reopen = None;
        }
        if came {
            self.seen.clear();
            self.confirmed = false;
            self.read = None;
            let waits = self.link.as_ref().is_some_and(|link| link.running && link.mac.is_some());
            self.unheard = waits.then_some((now, now));
        }
        if self.ports.is_none() && self.reopen.is_none_or(|at| at <= now) {
            self.open(name, now);
        }
    }

    fn open(&mut self, name: &str, now: Instant) {
        self.reopen = None;
        let Some(link) = &self.link else { return };
        let opened = || -> io::Result<Ports> {
            Ok(Ports {
                receiver: Receiver::open(name, link.index)?,
                sender: Sender::open(name, link.index)?,
                arp: link.mac.map(|mac| Arp::open(link.index, mac)).transpose()?,
            })
        };
        match opened() {
            Ok(ports) => self.ports = Some(ports),
            Err(error) => {
                if self.logged.insert("sockets") {
                    tracing::warn!(interface = name, %error, "cannot open the sockets of the interface; it is tried again");
                }
                self.reopen = Some(now + REOPEN);
            }
        }
    }

    /// Why no router can take part here.
    pub(super) fn faults(&self) -> impl Iterator<Item = (Fault, bool)> {
        let running = self.link.as_ref().is_some_and(|link| link.running);
        [
            (Fault::InterfaceMissing, self.link.is_none()),
            (Fault::NoSocket, self.link.is_some() && self.ports.is_none()),
            (Fault::LinkDown, self.link.is_some() && !running),
            (Fault::LinkUnheard, self.unheard.is_some()),
        ]
        .into_iter()
    }

    /// When something is to be done here.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let asking = self.unheard.into_iter().chain(self.doubt).map(|(_, next)| next);
        asking.chain(self.confirm).chain(self.reopen).min()
    }

    /// Somebody has a reason to believe that this segment is dead, or nobody has any more. A doubted one is asked.
    pub(super) fn doubt(&mut self, name: &str, on: bool, targets: impl Iterator<Item = Ipv4Addr>, now: Instant) {
        if !on {
            self.doubt = None;
            return;
        }
        let (since, next) = self.doubt.unwrap_or((now, now));
        if next > now {
            self.doubt = Some((since, next));
            return;
        }
        self.doubt = Some((since, now + ASK));
        self.ask(name, targets, now);
    }

    /// Asks the gateway until it was heard, while somebody wants to know (`on`): a router that is left alone one day
    /// must not begin to ask then.
    pub(super) fn confirm(&mut self, name: &str, on: bool, now: Instant) {
        if !on || self.confirmed || self.link.is_none() {
            self.confirm = None;
        } else if self.confirm.is_none_or(|next| next <= now) {
            self.confirm = Some(now + READ);
            self.ask(name, std::iter::empty(), now);
        }
    }

    /// Asks these and the gateways for a sign.
    fn ask(&mut self, name: &str, targets: impl Iterator<Item = Ipv4Addr>, now: Instant) {
        self.read_gateways(name, now);
        let Some(arp) = self.ports.as_ref().and_then(|ports| ports.arp.as_ref()) else { return };
        for target in targets.chain(self.gateways.iter().copied()) {
            // A link that does not take it is as silent as one that does not answer.
            let _ = arp.probe(target);
        }
    }

    /// Reads anew which gateways there are, unless that was done a moment ago.
    fn read_gateways(&mut self, name: &str, now: Instant) {
        if self.read.is_none_or(|at| now >= at + READ) {
            self.read = Some(now);
            self.gateways = gateways(name);
        }
    }

    /// What is seen of the segment apart from `pair`: the addresses of both nodes. Whole until it was doubted for a while.
    pub(super) fn lan(&self, pair: &BTreeSet<Ipv4Addr>, now: Instant) -> Lan {
        if !self.link.as_ref().is_some_and(|link| link.running) {
            return Lan::Down;
        }
        if self.doubt.is_none_or(|(since, _)| now - since < SEEN) {
            return Lan::Gateway;
        }
        let lately = |address: &Ipv4Addr| self.seen.get(address).is_some_and(|at| now - *at <= SEEN);
        if self.gateways.iter().any(lately) {
            Lan::Gateway
        } else if self.seen.keys().any(|address| !pair.contains(address) && lately(address)) {
            Lan::Hosts
        } else {
            Lan::Silent
        }
    }

    /// The gateway was heard, once at least and lately where there is doubt.
    pub(super) fn has_gateway(&self, pair: &BTreeSet<Ipv4Addr>, now: Instant) -> bool {
        self.confirmed && self.lan(pair, now) == Lan::Gateway
    }

    fn saw(&mut self, name: &str, address: Ipv4Addr, now: Instant) {
        if self.seen.len() >= HOSTS && !self.seen.contains_key(&address) {
            let oldest = self.seen.iter().min_by_key(|(_, at)| **at).map(|(address, _)| *address);
            oldest.map(|oldest| self.seen.remove(&oldest));
        }
        self.seen.insert(address, now);
        if !self.confirmed {
            self.read_gateways(name, now);
            self.confirmed = self.gateways.contains(&address);
        }
    }

    /// Asks a silent link for a sign; gives up waiting after [`DEAF_LIMIT`].
    pub(super) fn probe(&mut self, name: &str, targets: impl Iterator<Item = Ipv4Addr>, now: Instant) {
        let Some((since, next)) = self.unheard else { return };
        if now >= since + DEAF_LIMIT {
            tracing::warn!(
                interface = name,
                seconds = DEAF_LIMIT.as_secs(),
                "nothing was heard; the link counts as working"
            );
            self.unheard = None;
        } else if next <= now {
            self.unheard = Some((since, now + PROBE));
            self.ask(name, targets, now);
        }
    }

    /// Something came through the link.
    pub(super) fn heard(&mut self) {
        self.unheard = None;
    }

    /// A valid packet: every kind of error may be logged again.
    pub(super) fn valid(&mut self) {
        self.logged.clear();
    }

    /// Counts a packet that is not obeyed; logs the first of its kind.
    pub(super) fn discard(&mut self, name: &str, kind: &'static str, reason: &dyn std::fmt::Display) {
        *self.counters.discarded.entry(kind).or_default() += 1;
        if self.logged.insert(kind) {
            tracing::warn!(interface = name, kind, %reason, "packet discarded; more of this kind are only counted");
        }
    }

    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(ports) = &self.ports else { return Poll::Pending };
        let arp = ports.arp.as_ref().is_some_and(|arp| arp.poll_ready(cx).is_ready());
        if ports.receiver.poll_ready(cx).is_ready() || arp { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The packets that wait, at most a batch of them.
    pub(super) fn packets(&mut self) -> Vec<Option<Vec<u8>>> {
        // Longer than any IPv4 header with the longest message (60 + 1028 bytes).
        let mut buffer = [0; 2048];
        let mut packets = Vec::new();
        let Some(ports) = &self.ports else { return packets };
        while packets.len() < BATCH {
            match ports.receiver.receive(&mut buffer) {
                Ok(Some(Heard::Packet(packet))) => packets.push(Some(packet.to_vec())),
                Ok(Some(Heard::Cut)) => packets.push(None),
                Ok(None) => break,
                Err(_) => {
                    self.counters.receive_errors += 1;
                    break;
                }
            }
        }
        packets
    }

    /// The ARP claims that wait, at most a batch of them.
    pub(super) fn claims(&mut self, name: &str, now: Instant) -> Vec<Claim> {
        let mut claims: Vec<Claim> = Vec::new();
        let Some(arp) = self.ports.as_ref().and_then(|ports| ports.arp.as_ref()) else { return claims };
        while claims.len() < BATCH {
            match arp.receive() {
                Ok(Some(claim)) => claims.push(claim),
                Ok(None) => break,
                Err(_) => {
                    self.counters.receive_errors += 1;
                    break;
                }
            }
        }
        self.counters.arp_heard += claims.len() as u64;
        for claim in claims.iter().filter(|claim| !claim.address.is_unspecified()) {
            self.saw(name, claim.address, now);
        }
        claims
    }

    pub(super) fn send(&self, message: &[u8], source: Ipv4Addr, destination: Ipv4Addr) -> io::Result<()> {
        let ports = self.ports.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        ports.sender.send(message, source, destination)
    }

    /// Announces one address; `false` where ARP is off.
    pub(super) fn announce(&self, address: Ipv4Addr) -> io::Result<bool> {
        match self.ports.as_ref().and_then(|ports| ports.arp.as_ref()) {
            Some(arp) => arp.announce(address).map(|()| true),
            None => Ok(false),
        }
    }
}

/// Default gateways over an interface. The kernel writes this file without taking a lock that can wait.
fn gateways(interface: &str) -> Vec<Ipv4Addr> {
    let routes = std::fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default();
    routes.lines().filter_map(|line| gateway(line, interface)).collect()
}

fn gateway(line: &str, interface: &str) -> Option<Ipv4Addr> {
    let mut fields = line.split_whitespace();
    let (name, destination, gateway) = (fields.next()?, fields.next()?, fields.next()?);
    let mask = fields.nth(4)?;
    let address = u32::from_str_radix(gateway, 16).ok().filter(|&address| address != 0)?;
    // The kernel prints the four bytes as one number of its own byte order.
    (name == interface && destination == "00000000" && mask == "00000000")
        .then(|| Ipv4Addr::from(address.to_ne_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_of_the_interface_names_its_gateway() {
        let line = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0";
        let expected =
            if cfg!(target_endian = "little") { Ipv4Addr::new(192, 0, 2, 1) } else { Ipv4Addr::new(1, 2, 0, 192) };
        assert_eq!(gateway(line, "eth0"), Some(expected));
        assert_eq!(gateway(line, "eth1"), None);
        assert_eq!(gateway("eth0 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0", "eth0"), None, "a connected network");
        assert_eq!(gateway("Iface Destination", "Iface"), None, "too few fields");
    }
}
