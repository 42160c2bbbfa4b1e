//! Two network namespaces, the drivers in them, and waiting with a deadline.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::{Command as Program, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use vrrp::config::{Checksum, RouterConfig, Transport};
use vrrp::event::State;
use vrrp::io::driver::{Command, Driver, Hooks};
use vrrp::io::pair::PairSettings;
use vrrp::io::snapshot::RouterSnapshot;

pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
pub(crate) const A: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const B: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// A network namespace that lives as long as this value.
pub(crate) struct Namespace(File);

impl Namespace {
    pub(crate) fn new() -> Namespace {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            File::open("/proc/thread-self/ns/net").expect("its file")
        });
        Namespace(made.join().expect("the thread that made it"))
    }

    pub(crate) fn run<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
                act()
            });
            thread.join().expect("the thread inside the namespace")
        })
    }

    /// Names the namespace to other programs.
    pub(crate) fn file(&self) -> &File {
        &self.0
    }

    pub(crate) fn ip(&self, arguments: &str) -> String {
        self.program("ip", &arguments.split(' ').collect::<Vec<_>>())
    }

    pub(crate) fn nft(&self, command: &str) -> String {
        self.program("nft", &[command])
    }

    fn program(&self, name: &str, arguments: &[&str]) -> String {
        self.run(|| {
            let output = Program::new(name).args(arguments).stdin(Stdio::null()).output();
            let output = output.unwrap_or_else(|error| panic!("{name} is not installed: {error}"));
            assert!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
    }

    pub(crate) fn sysctl(&self, path: &str, value: &str) {
        self.run(|| std::fs::write(format!("/proc/sys/{path}"), value).expect("a sysctl of the namespace"));
    }

    pub(crate) fn has(&self, address: Ipv4Addr) -> bool {
        self.ip("-4 addr show").contains(&format!("{address}/32"))
    }

    pub(crate) fn has_vip(&self) -> bool {
        self.has(VIP)
    }

    /// A driver of one router that may take part.
    pub(crate) fn driver(&self, priority: i64) -> Driver {
        self.driver_of(vec![config(priority)])
    }

    /// A driver of routers that may take part.
    pub(crate) fn driver_of(&self, configs: Vec<RouterConfig>) -> Driver {
        self.driver_with(configs, Hooks { on_taken: Box::new(|_, _| {}), held: Box::new(|_, _| {}) })
    }

    pub(crate) fn driver_with(&self, configs: Vec<RouterConfig>, hooks: Hooks) -> Driver {
        let driver = self.run(|| {
            Driver::spawn(configs, Vec::new(), &PairSettings::default(), hooks).expect("the driver starts as root")
        });
        driver.command(Command::Serving(true)).expect("an empty queue");
        driver
    }

    /// Joins the two by a veth whose ends are called `lan`, [`A`] here and [`B`] there.
    pub(crate) fn connect(&self, other: &Namespace) {
        let there = format!("/proc/{}/fd/{}", std::process::id(), other.0.as_raw_fd());
        self.ip(&format!("link add lan type veth peer name lan netns {there}"));
        for (namespace, address) in [(self, A), (other, B)] {
            namespace.ip(&format!("addr add {address}/24 dev lan"));
            namespace.ip("link set lan up");
        }
    }
}

/// The router "web", VRID 51, that stands for [`VIP`] and advertises every 100 ms.
pub(crate) fn config(priority: i64) -> RouterConfig {
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

/// Two namespaces; `None`, and said so, without root.
pub(crate) fn namespaces() -> Option<(Namespace, Namespace)> {
    if nix::unistd::geteuid().is_root() {
        return Some((Namespace::new(), Namespace::new()));
    }
    eprintln!("skipped: network namespaces need root");
    None
}

/// Two namespaces that are joined.
pub(crate) fn pair() -> Option<(Namespace, Namespace)> {
    let (a, b) = namespaces()?;
    a.connect(&b);
    Some((a, b))
}

/// Waits until it holds; says how long that took.
pub(crate) fn until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    start.elapsed()
}

/// The first router.
pub(crate) fn router(driver: &Driver) -> Option<RouterSnapshot> {
    driver.snapshot().routers.first().cloned()
}

/// The state of the first router.
pub(crate) fn state(driver: &Driver) -> State {
    router(driver).map_or(State::Init, |router| router.state)
}
