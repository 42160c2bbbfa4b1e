//! Two drivers that are a pair: heartbeats over two paths, one of them IPv6, under keys that the test made.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use vrrp::config::RouterConfig;
use vrrp::event::State;
use vrrp::io::driver::{Command, Driver, HandOffStep, Hooks};
use vrrp::io::pair::PairSettings;
use vrrp::io::snapshot::PathSnapshot;
use vrrp::peer::Keys;

use crate::lab::{A, B, Namespace, config, pair, router, state, until};

pub(crate) const LIMIT: Duration = Duration::from_secs(6);
/// The port of the heartbeats.
pub(crate) const PORT: u16 = 10112;
const SYNC_A: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const SYNC_B: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

/// Two namespaces that are joined twice: by `lan`, and by `sync` for heartbeats alone.
pub(crate) fn namespaces() -> Option<[Namespace; 2]> {
    let (a, b) = pair()?;
    let there = format!("/proc/{}/fd/{}", std::process::id(), b.file().as_raw_fd());
    a.ip(&format!("link add sync type veth peer name sync netns {there}"));
    for (namespace, address) in [(&a, SYNC_A), (&b, SYNC_B)] {
        namespace.ip(&format!("addr add {address}/64 dev sync nodad"));
        namespace.ip("link set sync up");
    }
    Some([a, b])
}

/// Adverts are this often, and nothing is preempted.
pub(crate) fn every(interval: Duration, priority: i64) -> Vec<RouterConfig> {
    let advert_interval = interval.try_into().expect("in range");
    vec![RouterConfig { advert_interval, preempt: None, ..config(priority) }]
}

/// One end of the pair: 0 is [`A`], 1 is [`B`].
pub(crate) fn settings(end: usize) -> PairSettings {
    let path = |ends: [IpAddr; 2]| (SocketAddr::new(ends[end], PORT), SocketAddr::new(ends[1 - end], PORT));
    PairSettings { paths: vec![path([A.into(), B.into()]), path([SYNC_A.into(), SYNC_B.into()])] }
}

/// The keys of one session, as one end has them.
pub(crate) fn keys(session: u32, end: usize) -> Command {
    let key = |from: usize| [u8::try_from(from).expect("0 or 1") + 1; 32];
    Command::Keys(Keys { id: session, send: key(end), receive: key(1 - end) })
}

pub(crate) fn no_hooks() -> Hooks {
    Hooks { on_taken: Box::new(|_, _| {}), held: Box::new(|_, _| {}) }
}

pub(crate) fn driver(namespace: &Namespace, end: usize, configs: Vec<RouterConfig>, hooks: Hooks) -> Driver {
    let driver = namespace.run(|| Driver::spawn(configs, Vec::new(), &settings(end), hooks));
    let driver = driver.expect("the driver starts as root");
    for command in [Command::Serving(true), keys(1, end)] {
        tell(&driver, command);
    }
    driver
}

/// Both drivers, priorities 200 and 100; the first one holds the VIP, and each hears the other on both paths.
pub(crate) fn drivers(namespaces: &[Namespace; 2], interval: Duration, hooks: [Hooks; 2]) -> [Driver; 2] {
    let [a, b] = namespaces;
    let [first, second] = hooks;
    let high = driver(a, 0, every(interval, 200), first);
    let low = driver(b, 1, every(interval, 100), second);
    until("the first one holds it, and both hear each other", LIMIT, || {
        let hear = [&high, &low].iter().all(|driver| paths(driver).iter().all(|path| path.heard.is_some()));
        let known = [&high, &low].iter().all(|driver| router(driver).is_some_and(|router| router.peer_fresh));
        hear && known && a.has_vip() && state(&high) == State::Master && state(&low) == State::Backup
    });
    [high, low]
}

pub(crate) fn tell(driver: &Driver, command: Command) {
    driver.command(command).expect("an empty queue");
}

pub(crate) fn step(driver: &Driver, step: HandOffStep) {
    tell(driver, Command::HandOff { router: "web".into(), step });
}

pub(crate) fn paths(driver: &Driver) -> Vec<PathSnapshot> {
    driver.snapshot().paths.clone()
}

/// How often this driver's first router became master.
pub(crate) fn takeovers(driver: &Driver) -> u64 {
    router(driver).map_or(0, |router| router.counters.master_transitions)
}

/// Waits until so many more heartbeats have come over the liveliest path: for so many intervals nothing else happened.
pub(crate) fn hear_more(driver: &Driver, heartbeats: u64) {
    let heard = |driver: &Driver| paths(driver).iter().map(|path| path.received).max().unwrap_or_default();
    let wanted = heard(driver) + heartbeats;
    until("more heartbeats", LIMIT, || heard(driver) >= wanted);
}

/// Nothing leaves this interface any more, ARP included; its carrier stays.
pub(crate) fn cut(namespace: &Namespace, interface: &str) {
    namespace.nft(&format!("add table netdev {interface}"));
    let hook = format!("type filter hook egress device {interface} priority 0; policy drop;");
    namespace.nft(&format!("add chain netdev {interface} out {{ {hook} }}"));
}

pub(crate) fn mend(namespace: &Namespace, interface: &str) {
    namespace.nft(&format!("delete table netdev {interface}"));
}

/// What matches this leaves the namespace no more.
pub(crate) fn filter(namespace: &Namespace, matches: &str) {
    namespace.nft("add table inet filtered");
    namespace.nft("add chain inet filtered out { type filter hook output priority 0; }");
    namespace.nft(&format!("add rule inet filtered out {matches} drop"));
}

pub(crate) fn unfilter(namespace: &Namespace) {
    namespace.nft("delete table inet filtered");
}
