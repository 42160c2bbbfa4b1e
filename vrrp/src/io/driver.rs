//! The handle on the VRRP thread: starts it, tells it things, shows what it says, and joins it.
//! The loop itself is in `election`; here nothing ever waits for it, except [`Driver::join`].

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::{self, Runtime};
use tokio::sync::{mpsc, oneshot, watch};

use super::address::{self, OnTaken, Report, Wanted};
use super::election::{Election, Wires};
use super::links::Table;
use super::pair::PairSettings;
use super::realtime;
use super::snapshot::{Event, Held, LastWords, Snapshot};
use crate::config::RouterConfig;
use crate::event::{Fault, Input};
use crate::peer::Keys;

/// Commands that may wait. Full: [`Driver::command`] gives the command back.
const COMMANDS: usize = 64;
/// Events that may wait. Full: they are dropped and counted in [`Snapshot::events_lost`].
const EVENTS: usize = 1024;
/// Reports that may wait. Full: the applier waits, and so do renewals, which is right when the election is stuck.
const REPORTS: usize = 256;
/// After which a broken netlink connection is made anew.
const NETLINK_AGAIN: Duration = Duration::from_millis(200);
/// Linux capability bits (capability.h).
const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;

/// What the VRRP thread can be told.
#[derive(Clone, Debug)]
pub enum Command {
    /// These are the routers. Those that did not change keep their state and their addresses.
    Configure(Vec<RouterConfig>),
    /// The proxy core can (`true`) or cannot (`false`) serve. No router takes part before this was said once.
    Serving(bool),
    /// A reason for every router not to take part.
    Fault {
        /// Which.
        fault: Fault,
        /// It appeared, or it went.
        raised: bool,
    },
    /// The node can serve, but a fitter one would do better; the peer is told.
    Weakened(bool),
    /// The sync channel has made new keys for the heartbeats.
    Keys(Keys),
    /// Whether a router yields when neither the peer nor the gateway is heard.
    YieldIsolated(bool),
    /// A step of a hand-off.
    HandOff {
        /// The router's name.
        router: String,
        /// Which.
        step: HandOffStep,
    },
    /// Release everything and end.
    Shutdown,
}

/// What a hand-off asks of the election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandOffStep {
    /// [`Input::Yield`]
    Yield(bool),
    /// [`Input::TakeOver`]
    TakeOver,
    /// [`Input::LetGo`]
    LetGo,
    /// [`Input::AnnounceAgain`]
    AnnounceAgain,
    /// [`Input::Resign`]: the way without a hand-off.
    Resign,
}

impl From<HandOffStep> for Input {
    fn from(step: HandOffStep) -> Input {
        match step {
            HandOffStep::Yield(on) => Input::Yield(on),
            HandOffStep::TakeOver => Input::TakeOver,
            HandOffStep::LetGo => Input::LetGo,
            HandOffStep::AnnounceAgain => Input::AnnounceAgain,
            HandOffStep::Resign => Input::Resign,
        }
    }
}

/// Told which routers' addresses this node holds, and what to say to the peer should the process die.
pub type OnHeld = Box<dyn Fn(&[Held], &[LastWords]) + Send>;

/// What the VRRP threads call. Neither may wait for anything.
pub struct Hooks {
    /// Around a release while another node has the addresses already; on the netlink thread.
    pub on_taken: OnTaken,
    /// Whenever the set of held routers changed; on the VRRP thread.
    pub held: OnHeld,
}

/// The queue of commands is full, or the thread has ended: the command was not taken.
#[derive(Debug, thiserror::Error)]
#[error("the VRRP thread does not take commands now")]
pub struct NotTaken(pub Command);

/// The VRRP thread. Dropping it shuts down in order, as [`Command::Shutdown`] does, and waits for the end.
#[derive(Debug)]
pub struct Driver {
    commands: Option<mpsc::Sender<Command>>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    events: Option<mpsc::Receiver<Event>>,
    thread: Option<JoinHandle<()>>,
}

impl Driver {
    /// Starts the threads in the caller's network namespace. `hints`: addresses that answer ARP on a working
    /// link, besides the default gateway and the VIPs. `pair`: the ways to the peer, if there is one.
    ///
    /// # Errors
    /// EPERM names the missing capability; else what the kernel says to a new thread or runtime.
    pub fn spawn(
        configs: Vec<RouterConfig>,
        hints: Vec<Ipv4Addr>,
        pair: &PairSettings,
        hooks: Hooks,
    ) -> io::Result<Driver> {
        require_capabilities()?;
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (publish, snapshot) = watch::channel(Arc::default());
        let (tell, events) = mpsc::channel(EVENTS);
        let (wanted, wishes) = watch::channel(Wanted::default());
        let (table, links) = watch::channel(Arc::new(Table::default()));
        let (report, reports) = mpsc::channel(REPORTS);
        let wires = Wires { commands: inbox, snapshot: publish, events: tell, wanted, links, reports };
        // First, so that what the netlink thread sweeps at its start knows the VIPs.
        let mut election = Election::new(wires, hints, pair, hooks.held, Instant::now());
        election.configure(configs);
        let (election_runtime, netlink_runtime) = (runtime()?, runtime()?);
        let (ended, netlink_ended) = oneshot::channel();
        let netlink = std::thread::Builder::new().name("vrrp-netlink".into()).spawn(move || {
            // The queue is empty, and the driver that may have given up wants to know nothing.
            let _ = report.try_send(Report::Started(realtime::request()));
            netlink_runtime.block_on(keep_leases(&wishes, &table, &report, &hooks.on_taken));
            // Nobody waits for it any more if the driver gave up.
            let _ = ended.send(());
        })?;
        let thread = std::thread::Builder::new().name("vrrp".into()).spawn(move || {
            let granted = realtime::request();
            election_runtime.block_on(election.run(granted));
            // The wishes are closed now; a kernel that hangs must not keep the process.
            let waited = election_runtime.block_on(async { tokio::time::timeout(address::LEASE, netlink_ended).await });
            if waited.is_ok() && netlink.join().is_err() {
                tracing::error!("the netlink thread panicked");
            }
        })?;
        Ok(Driver { commands: Some(commands), snapshot, events: Some(events), thread: Some(thread) })
    }

    /// Tells the thread something. Never waits.
    ///
    /// # Errors
    /// Gives the command back when it was not taken.
    pub fn command(&self, command: Command) -> Result<(), NotTaken> {
        let Some(commands) = &self.commands else { return Err(NotTaken(command)) };
        commands.try_send(command).map_err(|error| NotTaken(error.into_inner()))
    }

    /// The newest picture.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// Follows the pictures.
    pub fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.clone()
    }

    /// The events; `None` after the first call.
    pub fn events(&mut self) -> Option<mpsc::Receiver<Event>> {
        self.events.take()
    }

    /// The thread has ended, in order or not.
    pub fn ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Shuts down: priority 0, addresses off; waits for that, about 2 s at most.
    pub fn join(self) {
        drop(self);
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // A closed queue is a shutdown that always gets through.
        self.commands = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the VRRP thread panicked");
        }
    }
}

async fn keep_leases(
    wishes: &watch::Receiver<Wanted>,
    table: &watch::Sender<Arc<Table>>,
    report: &mpsc::Sender<Report>,
    on_taken: &OnTaken,
) {
    while let Err(error) = address::run(wishes.clone(), table.clone(), report.clone(), on_taken).await {
        // Closed only when the election has ended.
        if report.send(Report::Failed(error)).await.is_err() {
            return;
        }
        tokio::time::sleep(NETLINK_AGAIN).await;
    }
}

fn runtime() -> io::Result<Runtime> {
    runtime::Builder::new_current_thread().enable_all().build()
}

fn require_capabilities() -> io::Result<()> {
    let status = std::fs::read_to_string("/proc/thread-self/status")?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .ok_or_else(|| io::Error::other("/proc/thread-self/status does not tell the capabilities"))?;
    for (bit, name, purpose) in [
        (CAP_NET_RAW, "CAP_NET_RAW", "to send and hear adverts"),
        (CAP_NET_ADMIN, "CAP_NET_ADMIN", "to add and remove the VIPs"),
    ] {
        if effective & (1 << bit) == 0 {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("VRRP needs {name} {purpose}")));
        }
    }
    Ok(())
}
