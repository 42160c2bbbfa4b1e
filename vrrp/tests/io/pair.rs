//! Two drivers in two network namespaces, joined by a veth: who holds the VIP is read from the kernel.
//! Needs root; without it each test says so and passes.
#![cfg(feature = "io")]

use std::fs::File;
use std::net::Ipv4Addr;
use std::process::Command as Program;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use vrrp::config::{Checksum, RouterConfig, Transport};
use vrrp::event::State;
use vrrp::io::driver::{Command, Driver, Hooks};

const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);

/// A network namespace that lives as long as this value.
struct Namespace(File);

impl Namespace {
    fn new() -> Namespace {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            File::open("/proc/thread-self/ns/net").expect("its file")
        });
        Namespace(made.join().expect("the thread that made it"))
    }

    fn run<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
                act()
            });
            thread.join().expect("the thread inside the namespace")
        })
    }

    fn ip(&self, arguments: &str) -> String {
        self.run(|| {
            let output = Program::new("ip").args(arguments.split(' ')).output().expect("iproute2 is installed");
            assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
    }

    fn has_vip(&self) -> bool {
        self.ip("-4 addr show").contains("192.0.2.100/32")
    }

    fn driver(&self, priority: i64) -> Driver {
        let driver = self.run(|| {
            let hooks = Hooks { before_release: Box::new(|_| {}), held: Box::new(|_| {}) };
            Driver::spawn(vec![config(priority)], Vec::new(), hooks).expect("the driver starts as root")
        });
        driver.command(Command::Serving(true)).expect("an empty queue");
        driver
    }
}

fn config(priority: i64) -> RouterConfig {
    RouterConfig {
        name: "web".into(),
        interface: "lan".into(),
        vrid: 51.try_into().expect("in range"),
        addresses: vec![VIP],
        priority: priority.try_into().expect("in range"),
        advert_interval: Duration::from_millis(100).try_into().expect("in range"),
        preempt: Some(Duration::ZERO),
        transport: Transport::Multicast,
        source: None,
        checksum: Checksum::Rfc9568,
    }
}

fn pair() -> Option<(Namespace, Namespace)> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return None;
    }
    let (a, b) = (Namespace::new(), Namespace::new());
    use std::os::fd::AsRawFd;
    let other = format!("/proc/{}/fd/{}", std::process::id(), b.0.as_raw_fd());
    a.ip(&format!("link add lan type veth peer name lan netns {other}"));
    for (namespace, address) in [(&a, "192.0.2.1/24"), (&b, "192.0.2.2/24")] {
        namespace.ip(&format!("addr add {address} dev lan"));
        namespace.ip("link set lan up");
    }
    Some((a, b))
}

fn until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    start.elapsed()
}

fn state(driver: &Driver) -> State {
    driver.snapshot().routers.first().map_or(State::Init, |router| router.state)
}

#[test]
fn the_higher_priority_holds_the_vip_and_the_other_takes_it_when_that_one_leaves() {
    let Some((a, b)) = pair() else { return };
    let (high, low) = (a.driver(200), b.driver(100));
    until("the higher priority is master alone", Duration::from_secs(5), || {
        state(&high) == State::Master && state(&low) == State::Backup && a.has_vip() && !b.has_vip()
    });
    high.join();
    assert!(!a.has_vip(), "a shutdown waits until the address is gone");
    until("the other one holds it", Duration::from_secs(2), || b.has_vip());
    assert_eq!(low.snapshot().routers[0].counters.priority_zero_received, 1);
    low.join();
    assert!(!b.has_vip());
}

#[test]
fn when_the_link_goes_down_the_holder_lets_go_and_when_it_is_back_holds_again() {
    let Some((a, b)) = pair() else { return };
    let (high, low) = (a.driver(200), b.driver(100));
    until("the higher priority holds it", Duration::from_secs(5), || a.has_vip() && state(&low) == State::Backup);
    a.ip("link set lan down");
    until("the holder let go", Duration::from_secs(2), || !a.has_vip() && state(&high) == State::Fault);
    // A veth has no carrier when its other end is down: here both ends see it.
    until("both are in fault", Duration::from_secs(2), || state(&low) == State::Fault);
    a.ip("link set lan up");
    until("it is back", Duration::from_secs(5), || a.has_vip() && !b.has_vip() && state(&low) == State::Backup);
}

#[test]
fn a_vip_that_was_deleted_behind_our_back_is_put_back() {
    let Some((a, b)) = pair() else { return };
    let (high, _low) = (a.driver(200), b.driver(100));
    until("the higher priority holds it", Duration::from_secs(5), || a.has_vip());
    a.ip("addr del 192.0.2.100/32 dev lan");
    until("it is back", Duration::from_millis(500), || a.has_vip());
    assert_eq!(state(&high), State::Master);
}

#[test]
fn a_vip_that_a_predecessor_left_behind_is_taken_away_at_the_start() {
    let Some((a, _b)) = pair() else { return };
    a.ip("addr add 192.0.2.100/32 dev lan");
    let driver = a.driver(100);
    until("it is gone, and counted", Duration::from_secs(2), || !a.has_vip() && driver.snapshot().leftovers == 1);
}
