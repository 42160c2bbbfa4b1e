//! What is told to a driver while it runs, what it tells, and interfaces that come late.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::{Command as Program, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use vrrp::config::{RouterConfig, Transport, UnicastPeer};
use vrrp::event::{Fault, State};
use vrrp::io::address::Taken;
use vrrp::io::driver::{Command, Driver, Hooks};
use vrrp::io::snapshot::Held;
use vrrp::packet;

use crate::lab::{A, B, Namespace, VIP, config, namespaces, pair, router, state, until};
use crate::wire::{STRANGER, Wire, decode};

const LIMIT: Duration = Duration::from_secs(5);
const SECOND_VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 101);

fn second(priority: i64) -> RouterConfig {
    let vrid = 52.try_into().expect("in range");
    RouterConfig { name: "mail".into(), vrid, addresses: vec![SECOND_VIP], ..config(priority) }
}

fn faults(driver: &Driver) -> Vec<Fault> {
    router(driver).map_or(Vec::new(), |router| router.faults.into_iter().collect())
}

#[test]
fn a_router_joins_when_its_interface_appears() {
    let Some((a, b)) = namespaces() else { return };
    let (high, low) = (a.driver(200), b.driver(100));
    until("its interface is missing", LIMIT, || faults(&high) == [Fault::InterfaceMissing, Fault::NoSourceAddress]);
    assert_eq!(state(&high), State::Fault);
    a.connect(&b);
    until("both take part", LIMIT, || a.has_vip() && state(&high) == State::Master && state(&low) == State::Backup);
    assert_eq!(faults(&high), []);
    a.ip("link del lan");
    until("it is missing again", LIMIT, || faults(&high).contains(&Fault::InterfaceMissing));
}

#[test]
fn a_router_whose_sockets_cannot_be_opened_says_so_and_joins_when_they_can() {
    let Some((a, b)) = pair() else { return };
    let limit = "net/ipv4/igmp_max_memberships";
    a.sysctl(limit, "0");
    let (high, _low) = (a.driver(200), b.driver(100));
    until("it has no socket", LIMIT, || faults(&high).first() == Some(&Fault::NoSocket));
    assert!(!faults(&high).contains(&Fault::InterfaceMissing));
    a.sysctl(limit, "20");
    until("it takes part", LIMIT, || a.has_vip() && state(&high) == State::Master);
}

/// Collects the removals of addresses in a namespace while `act` runs.
fn removals(namespace: &Namespace, act: impl FnOnce()) -> Vec<String> {
    let mut monitor = namespace.run(|| {
        let mut program = Program::new("ip");
        program.args(["-o", "monitor", "address"]).stdin(Stdio::null()).stdout(Stdio::piped());
        program.spawn().expect("iproute2 is installed")
    });
    let mut lines = BufReader::new(monitor.stdout.take().expect("a pipe")).lines();
    // A renewal shows that it listens.
    let first = lines.next().expect("a line").expect("text");
    assert!(!first.starts_with("Deleted"), "{first}");
    act();
    monitor.kill().expect("it runs");
    monitor.wait().expect("it is ours");
    lines.map(|line| line.expect("text")).filter(|line| line.starts_with("Deleted")).collect()
}

#[test]
fn a_new_configuration_touches_only_what_changed() {
    let Some((a, b)) = pair() else { return };
    let (high, low) = (a.driver(200), b.driver_of(vec![config(100), second(100)]));
    until("each holds one", LIMIT, || a.has(VIP) && b.has(SECOND_VIP) && !a.has(SECOND_VIP));
    let configure = |configs| high.command(Command::Configure(configs)).expect("an empty queue");

    let removed = removals(&a, || {
        configure(vec![config(210)]);
        until("the new priority is heard", LIMIT, || {
            router(&low).expect("a router").heard.is_some_and(|(_, priority, _)| priority == 210)
        });
        configure(vec![config(210), second(200)]);
        until("the added router takes its own", LIMIT, || a.has(SECOND_VIP) && !b.has(SECOND_VIP));
        configure(vec![config(210)]);
        until("the other one has it back", LIMIT, || !a.has(SECOND_VIP) && b.has(SECOND_VIP));
    });
    assert!(a.has(VIP));
    assert_eq!(removed.len(), 1, "{removed:?}");
    assert!(removed[0].contains("192.0.2.101/32"), "{removed:?}");
    let kept = router(&high).expect("a router");
    assert_eq!((kept.state, kept.counters.master_transitions, kept.counters.priority_zero_sent), (State::Master, 1, 0));
    let other = low.snapshot().routers[1].counters.clone();
    assert_eq!(other.priority_zero_received, 1, "the removed router released");
}

#[test]
fn a_unicast_pair_speaks_to_its_peer_only_and_refuses_strangers() {
    let Some((a, b)) = pair() else { return };
    let unicast = |priority, peer| {
        let peers = vec![UnicastPeer { address: peer, min_ttl: 255 }];
        vec![RouterConfig { transport: Transport::Unicast(peers), ..config(priority) }]
    };
    let mut wire = Wire::open(&b);
    let (high, low) = (a.driver_of(unicast(200, B)), b.driver_of(unicast(100, A)));
    until("the higher priority holds it", LIMIT, || a.has_vip() && state(&low) == State::Backup);
    let frames = wire.listen(Duration::from_millis(250));
    let adverts = decode(&frames, "vrrp", &["ip.src", "ip.dst", "ip.ttl", "vrrp.prio"]);
    assert!(adverts.contains(&["192.0.2.1", "192.0.2.2", "255", "200"].map(str::to_owned).to_vec()), "{adverts:?}");
    assert!(adverts.iter().all(|advert| advert[1] == "192.0.2.1" || advert[1] == "192.0.2.2"), "{adverts:?}");

    let stranger = Ipv4Addr::new(192, 0, 2, 9);
    wire.packet(stranger, A, [0xff; 6], 255, &packet::encode(&config(250), 250, stranger, A));
    wire.packet(B, A, [0xff; 6], 254, &packet::encode(&config(250), 250, B, A));
    wire.multicast(stranger, 255, &packet::encode(&config(250), 250, stranger, packet::MULTICAST));
    let expected = [("not_a_peer", 1), ("ttl", 1), ("destination", 1)].into();
    until("each is counted", LIMIT, || high.snapshot().interfaces["lan"].discarded == expected);
    assert_eq!(state(&high), State::Master);

    high.join();
    until("the other one holds it", Duration::from_secs(2), || b.has_vip());
}

#[test]
fn the_hooks_hear_what_is_held_and_of_releases_to_another_holder_only() {
    let Some((a, b)) = pair() else { return };
    let (release, releases) = mpsc::sync_channel(16);
    let (hold, held) = mpsc::sync_channel(16);
    let hooks = Hooks {
        on_taken: Box::new(move |config, taken| {
            release.send((config.name.clone(), taken)).expect("the test listens");
        }),
        held: Box::new(move |held, _| hold.send(held.to_vec()).expect("the test listens")),
    };
    let mut wire = Wire::open(&a);
    let low = b.driver_with(vec![config(100)], hooks);
    until("it holds the VIP", LIMIT, || {
        // It takes part only after it heard something.
        wire.claim(STRANGER, A);
        b.has_vip()
    });
    assert_eq!(held.recv_timeout(LIMIT), Ok(vec![Held { config: config(100), source: B }]));

    let high = a.driver(200);
    until("the higher priority took it", LIMIT, || a.has_vip() && !b.has_vip() && state(&low) == State::Backup);
    assert_eq!(held.recv_timeout(LIMIT), Ok(vec![]));
    assert_eq!(releases.recv_timeout(LIMIT), Ok(("web".into(), Taken::Going)));
    assert_eq!(releases.recv_timeout(LIMIT), Ok(("web".into(), Taken::Gone)));

    high.join();
    until("it holds the VIP again", LIMIT, || b.has_vip());
    low.join();
    assert_eq!(held.iter().map(|held| held.len()).collect::<Vec<_>>(), [1, 0]);
    assert_eq!(releases.try_iter().count(), 0, "nobody else had it at the shutdown");
}
