//! Runs the jobs of hand-offs on this node's kernel, and keeps what they made there until it is removed.
//!
//! What it loads it also remembers, so that rules are put back at once when `nft`, whose they are (see [`super::nft`]),
//! ends, or when somebody flushes them where they can be nobody's (see [`super::watch`]). Nothing depends on that memory
//! for cleaning up: [`release`] goes by names and numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rtnetlink::Handle;
use rtnetlink::packet_route::neighbour::NeighbourState;
use tokio::sync::{Notify, OnceCell};
use tokio::task::JoinHandle;

use super::nft::{Nft, NftError};
use super::probe::{Injector, Receiver};
use super::rules::{self, Role, Rules};
use super::tables::{self, Table};
use super::watch::Changes;
use super::{Flow, Job, Neighbour, Outcome, ProbeTarget, Vip, flows, route};
use crate::causes::chain;
use crate::sock_diag;

/// For how long [`Job::AwaitProbe`] waits: the taker may first have to load a hundred thousand connections.
const PROBE_LIMIT: Duration = Duration::from_secs(10);
/// The pause after a failure to listen for changes.
const RETRY: Duration = Duration::from_secs(1);
/// How long the tables of a process that is ending may still be there.
const ENDING: Duration = Duration::from_millis(500);
/// How often it is tried meanwhile.
const ENDING_POLL: Duration = Duration::from_millis(5);

/// A job could not be done.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The socket for routes and neighbours.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// The rules.
    #[error("cannot load the rules of a hand-off")]
    Load(#[from] NftError),
    /// The tables.
    #[error("cannot list or remove nft tables")]
    Tables(#[source] io::Error),
    /// The leaver's route.
    #[error("cannot change the route local {vip} dev lo")]
    Route {
        /// Its destination.
        vip: IpAddr,
        /// Why.
        #[source]
        source: rtnetlink::Error,
    },
    /// The list of routes.
    #[error("cannot list the routes")]
    Routes(#[source] rtnetlink::Error),
    /// The other node.
    #[error("cannot enter {address} as a neighbour on {interface}")]
    Neighbour {
        /// Its address.
        address: IpAddr,
        /// Where.
        interface: String,
        /// Why.
        #[source]
        source: rtnetlink::Error,
    },
    /// The interface went, or its name can't stand in a rule.
    #[error("interface {0} is not there")]
    Interface(String),
    /// The list of connections.
    #[error("cannot list the connections of {vip}")]
    Connections {
        /// Their local address.
        vip: IpAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The end of connections.
    #[error("cannot reset the connections of {vip}")]
    Reset {
        /// Their local address.
        vip: IpAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A socket of the probe.
    #[error("cannot send or receive the probe for {vip}")]
    Probe {
        /// Where it goes.
        vip: IpAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The probe did not arrive.
    #[error(
        "no probe arrived at {0} through the other node; look for port security or source guard at the switch, and for \
         a firewall on either node"
    )]
    NoProbe(IpAddr),
    /// The hand-off was given up while it waited.
    #[error("the wait for the probe at {0} was given up")]
    GivenUp(IpAddr),
    /// There is nothing that this job could act on.
    #[error("{0} is not being handed over to or from this node")]
    NotUnderWay(IpAddr),
    /// IPv6.
    #[error("{0} cannot be handed over: hand-offs are for IPv4 addresses so far")]
    NotIpv4(IpAddr),
}

/// What was taken away by [`release`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// nft tables, by name.
    pub tables: Vec<String>,
    /// The VIPs of routes.
    pub routes: Vec<IpAddr>,
}

/// This node's kernel, as hand-offs see it. Belongs to the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Kernel {
    inner: Arc<Inner>,
    /// The connection to netlink, and the watch.
    tasks: [JoinHandle<()>; 2],
}

#[derive(Debug)]
struct Inner {
    netlink: Handle,
    /// What was loaded. Locked while `nft` works, so the watch never takes half a change for a loss.
    tables: tokio::sync::Mutex<Tables>,
    /// Something was loaded, or `nft` ended.
    changed: Arc<Notify>,
    receivers: Mutex<BTreeMap<Key, Arc<Receiver>>>,
    injector: OnceCell<Injector>,
    repairs: AtomicU64,
}

#[derive(Debug)]
struct Tables {
    nft: Nft,
    loaded: BTreeMap<Key, Loaded>,
}

/// Takers' tables come first: when all are gone, connections depend on them.
type Key = (Role, u8, IpAddr);

#[derive(Debug)]
struct Loaded {
    vip: Vip,
    rules: Rules,
    /// How many rules the kernel then counted.
    count: usize,
}

impl Kernel {
    /// Opens it and begins to watch. Must be called inside a runtime; changes nothing.
    ///
    /// # Errors
    /// No netlink socket.
    pub fn open() -> Result<Kernel, KernelError> {
        let (connection, netlink, _) = rtnetlink::new_connection().map_err(KernelError::Open)?;
        let changed = Arc::new(Notify::new());
        let nft = Nft::new(Arc::clone(&changed));
        let inner = Arc::new(Inner {
            netlink,
            tables: tokio::sync::Mutex::new(Tables { nft, loaded: BTreeMap::new() }),
            changed,
            receivers: Mutex::default(),
            injector: OnceCell::new(),
            repairs: AtomicU64::new(0),
        });
        let watch = watch(Arc::clone(&inner));
        Ok(Kernel { inner, tasks: [tokio::spawn(connection), tokio::spawn(watch)] })
    }

    /// Does a job. Jobs of one VIP must not overlap (but see [`Job`]); those of several may.
    pub async fn run(&self, vip: &Vip, job: Job) -> Outcome {
        match self.inner.run(vip, job).await {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Failed(chain(&error)),
        }
    }

    /// Takes away everything that any hand-off left in the kernel, known here or not.
    ///
    /// # Errors
    /// As [`release`].
    pub async fn clear_all(&self) -> Result<Released, KernelError> {
        let mut tables = self.inner.tables.lock().await;
        tables.loaded.clear();
        for receiver in std::mem::take(&mut *self.inner.receivers()).into_values() {
            receiver.close();
        }
        // Otherwise they'd be its own.
        tables.nft.end().await;
        clear(&self.inner.netlink).await
    }

    /// How often tables or routes had to be put back because somebody else removed them.
    pub fn repairs(&self) -> u64 {
        self.inner.repairs.load(Ordering::Relaxed)
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Takes away everything that hand-offs left in the kernel: every nft table whose name begins with
/// [`rules::PREFIX`], every route with our protocol number. Must be called inside a runtime. A node that has neither is
/// done in a millisecond, `nft` or not.
///
/// # Errors
/// The kernel's, for the first that could not go; the others are gone then.
pub async fn release() -> Result<Released, KernelError> {
    let (connection, netlink, _) = rtnetlink::new_connection().map_err(KernelError::Open)?;
    let task = tokio::spawn(connection);
    let released = clear(&netlink).await;
    task.abort();
    released
}

async fn clear(netlink: &Handle) -> Result<Released, KernelError> {
    let mut released = Released::default();
    let mut first_error = None;
    // Routes first: while a leaver's table stands, it doesn't answer ARP for an address that it has no more.
    match route::all(netlink).await {
        Ok(vips) => {
            for vip in vips {
                match route::remove(netlink, vip).await {
                    Ok(_) => released.routes.push(vip),
                    Err(source) => drop(first_error.get_or_insert(KernelError::Route { vip, source })),
                }
            }
        }
        Err(source) => drop(first_error.get_or_insert(KernelError::Routes(source))),
    }
    match blocking(tables::ours).await {
        Ok(ours) => {
            for table in ours {
                match take_away(table).await {
                    Ok(name) => released.tables.extend(name),
                    Err(source) => drop(first_error.get_or_insert(KernelError::Tables(source))),
                }
            }
        }
        Err(source) => drop(first_error.get_or_insert(KernelError::Tables(source))),
    }
    match first_error {
        Some(error) => Err(error),
        None => Ok(released),
    }
}

/// Deletes a table, if it doesn't go by itself; then it was there, and its name is the result.
async fn take_away(table: Table) -> io::Result<Option<String>> {
    let since = Instant::now();
    loop {
        let named = table.clone();
        match blocking(move || tables::delete(&named)).await {
            Ok(true) => return Ok(Some(table.name)),
            Ok(false) => return Ok(None),
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
            // An agent that was killed a moment ago is survived by its `nft` for another one.
            Err(_) if since.elapsed() < ENDING => tokio::time::sleep(ENDING_POLL).await,
            Err(error) => {
                let why = format!("table {} belongs to a process that runs ({error})", table.name);
                return Err(io::Error::new(error.kind(), why));
            }
        }
    }
}

impl Inner {
    async fn run(&self, vip: &Vip, job: Job) -> Result<Outcome, KernelError> {
        match job {
            Job::Prepare => match self.prepare(vip).await {
                Ok((flows, probe)) => Ok(Outcome::Prepared { flows, probe }),
                Err(error) => {
                    // Half a preparation is none. What remains is an error of its own, and the one before says more.
                    let _ = self.remove_leaver(vip).await;
                    Err(error)
                }
            },
            Job::AwaitProbe => self.await_probe(vip).await.map(|()| Outcome::ProbeSeen),
            Job::Install { leaver, old } => self.install(vip, leaver, old).await.map(|()| Outcome::Done),
            Job::Probe { target, source } => self.probe(vip, target, source).await.map(|()| Outcome::Done),
            Job::Mute => self.load(vip, Rules::Muted).await.map(|()| Outcome::Done),
            Job::Dump => live(vip.address).await.map(Outcome::Flows),
            Job::Settle { old } => self.settle(vip, old).await.map(|()| Outcome::Done),
            Job::Reset => {
                let address = vip.address;
                let reset = blocking(move || sock_diag::reset_one(address)).await;
                let reset = reset.map_err(|source| KernelError::Reset { vip: address, source })?;
                Ok(Outcome::Reset(reset as u64))
            }
            Job::RemoveTaker => self.remove_taker(vip).await.map(|()| Outcome::Done),
            Job::RemoveLeaver => self.remove_leaver(vip).await.map(|()| Outcome::Done),
            Job::Count => live(vip.address).await.map(|flows| Outcome::Count(flows.len() as u64)),
        }
    }

    async fn prepare(&self, vip: &Vip) -> Result<(Vec<Flow>, ProbeTarget), KernelError> {
        if !vip.address.is_ipv4() {
            return Err(KernelError::NotIpv4(vip.address));
        }
        let route = route::add(&self.netlink, vip.address).await;
        route.map_err(|source| KernelError::Route { vip: vip.address, source })?;
        self.load(vip, Rules::Prepared).await?;
        let receiver = Receiver::open(vip.address);
        let receiver = receiver.map_err(|source| KernelError::Probe { vip: vip.address, source })?;
        let target = receiver.target();
        if let Some(earlier) = self.receivers().insert(key(Role::Leaver, vip), Arc::new(receiver)) {
            earlier.close();
        }
        Ok((live(vip.address).await?, target))
    }

    async fn await_probe(&self, vip: &Vip) -> Result<(), KernelError> {
        let receiver = self.receivers().get(&key(Role::Leaver, vip)).cloned();
        let receiver = receiver.ok_or(KernelError::NotUnderWay(vip.address))?;
        match tokio::time::timeout(PROBE_LIMIT, receiver.seen()).await {
            Ok(Ok(true)) => {
                // One probe is all that is waited for.
                self.receivers().remove(&key(Role::Leaver, vip));
                Ok(())
            }
            Ok(Ok(false)) => Err(KernelError::GivenUp(vip.address)),
            Ok(Err(source)) => Err(KernelError::Probe { vip: vip.address, source }),
            Err(_) => Err(KernelError::NoProbe(vip.address)),
        }
    }

    async fn install(&self, vip: &Vip, leaver: Neighbour, old: Vec<Flow>) -> Result<(), KernelError> {
        if !vip.address.is_ipv4() {
            return Err(KernelError::NotIpv4(vip.address));
        }
        let index = nix::net::if_::if_nametoindex(vip.interface.as_str());
        let index = index.map_err(|_| KernelError::Interface(vip.interface.clone()))?;
        // Otherwise the first packets that are passed on would wait for ARP.
        let entry = self.netlink.neighbours().add(index, leaver.address);
        let entry = entry.link_layer_address(&leaver.mac).state(NeighbourState::Reachable).replace();
        entry.execute().await.map_err(|source| KernelError::Neighbour {
            address: leaver.address,
            interface: vip.interface.clone(),
            source,
        })?;
        self.load(vip, Rules::Moving { leaver, old: old.into_iter().collect() }).await
    }

    async fn probe(&self, vip: &Vip, target: ProbeTarget, source: Option<IpAddr>) -> Result<(), KernelError> {
        let of_client = match self.tables.lock().await.loaded.get(&key(Role::Taker, vip)).map(|loaded| &loaded.rules) {
            Some(Rules::Moving { old, .. }) => old.first().map(|flow| flow.client),
            _ => return Err(KernelError::NotUnderWay(vip.address)),
        };
        let source = source.or(of_client).unwrap_or(vip.own.address);
        let (IpAddr::V4(to), IpAddr::V4(from)) = (vip.address, source) else {
            return Err(KernelError::NotIpv4(source));
        };
        let failed = |source| KernelError::Probe { vip: vip.address, source };
        let injector = self.injector.get_or_try_init(|| async { Injector::open() }).await.map_err(failed)?;
        injector.send(to, &target, from).map_err(failed)
    }

    async fn settle(&self, vip: &Vip, old: Vec<Flow>) -> Result<(), KernelError> {
        let old: BTreeSet<Flow> = old.into_iter().collect();
        let mut tables = self.tables.lock().await;
        let leaver = match tables.loaded.get(&key(Role::Taker, vip)).map(|loaded| &loaded.rules) {
            Some(Rules::Moving { leaver, .. } | Rules::Settled { leaver, .. }) => *leaver,
            _ => return Err(KernelError::NotUnderWay(vip.address)),
        };
        self.change(&mut tables, vip, Rules::Settled { leaver, old }).await
    }

    async fn remove_leaver(&self, vip: &Vip) -> Result<(), KernelError> {
        if let Some(receiver) = self.receivers().remove(&key(Role::Leaver, vip)) {
            receiver.close();
        }
        // Locked first, or the watch would put the route back; and the route goes before the rules: see `clear`.
        let mut tables = self.tables.lock().await;
        let removed = route::remove(&self.netlink, vip.address).await;
        unload(&mut tables, Role::Leaver, vip).await?;
        removed.map(|_| ()).map_err(|source| KernelError::Route { vip: vip.address, source })
    }

    async fn remove_taker(&self, vip: &Vip) -> Result<(), KernelError> {
        unload(&mut *self.tables.lock().await, Role::Taker, vip).await
    }

    /// Puts the table there, instead of one that is there.
    async fn load(&self, vip: &Vip, rules: Rules) -> Result<(), KernelError> {
        if vip.interface.contains(['"', '*', '\\']) {
            return Err(KernelError::Interface(vip.interface.clone()));
        }
        self.change(&mut *self.tables.lock().await, vip, rules).await
    }

    async fn change(&self, tables: &mut Tables, vip: &Vip, rules: Rules) -> Result<(), KernelError> {
        let key = key(rules.role(), vip);
        if let Some(step) = tables.loaded.get(&key).and_then(|loaded| rules.step_from(&loaded.rules, vip)) {
            match tables.nft.load(&step).await {
                Ok(()) => return self.remember(tables, vip, rules).await,
                // Somebody changed the table.
                Err(error) => tracing::debug!(vip = %vip.address, error = chain(&error), "all rules are loaded again"),
            }
        }
        let table = kernels_name(&key, vip);
        let there = blocking(move || Ok(tables::ours()?.contains(&table))).await.map_err(KernelError::Tables)?;
        tables.nft.load(&text(vip, &rules, there).await?).await?;
        self.remember(tables, vip, rules).await
    }

    async fn remember(&self, tables: &mut Tables, vip: &Vip, rules: Rules) -> Result<(), KernelError> {
        let key = key(rules.role(), vip);
        let table = kernels_name(&key, vip);
        // Known whatever comes of counting: it has to go at the end.
        tables.loaded.insert(key, Loaded { vip: vip.clone(), rules, count: 1 });
        self.changed.notify_one();
        let count = blocking(move || tables::rules(&table)).await.map_err(KernelError::Tables)?;
        if let Some(loaded) = tables.loaded.get_mut(&key) {
            loaded.count = count;
        }
        Ok(())
    }

    /// Looks whether everything that was loaded is still there, and puts back what is not. Says whether there is
    /// anything to look after.
    async fn look(&self) -> Result<bool, KernelError> {
        let Tables { nft, loaded } = &mut *self.tables.lock().await;
        if loaded.is_empty() {
            return Ok(false);
        }
        let expected: Vec<(Key, Table)> =
            loaded.iter().map(|(key, loaded)| (*key, kernels_name(key, &loaded.vip))).collect();
        let found = blocking(move || {
            let there = tables::ours()?;
            let count = |table: Table| match there.contains(&table) {
                true => tables::rules(&table).map(Some),
                false => Ok(None),
            };
            expected.into_iter().map(|(key, table)| Ok((key, count(table)?))).collect::<io::Result<Vec<_>>>()
        });
        let mut missing = found.await.map_err(KernelError::Tables)?;
        missing.retain(|(key, count)| loaded.get(key).is_some_and(|loaded| count.unwrap_or(0) < loaded.count));
        let mut all = String::new();
        for (key, count) in &missing {
            if let Some(loaded) = loaded.get(key) {
                all += &text(&loaded.vip, &loaded.rules, count.is_some()).await?;
            }
        }
        if !all.is_empty() {
            nft.load(&all).await?;
        }
        for (key, _) in missing {
            self.repairs.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(vip = %key.2, role = ?key.0, "the rules of a hand-off were gone; they are back");
        }
        self.look_at_routes(loaded).await?;
        Ok(true)
    }

    async fn look_at_routes(&self, loaded: &BTreeMap<Key, Loaded>) -> Result<(), KernelError> {
        let leaving: Vec<IpAddr> =
            loaded.keys().filter(|(role, ..)| *role == Role::Leaver).map(|(.., vip)| *vip).collect();
        if leaving.is_empty() {
            return Ok(());
        }
        let there = route::all(&self.netlink).await.map_err(KernelError::Routes)?;
        for vip in leaving.into_iter().filter(|vip| !there.contains(vip)) {
            route::add(&self.netlink, vip).await.map_err(|source| KernelError::Route { vip, source })?;
            self.repairs.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%vip, "somebody removed the route of a hand-off; it is back");
        }
        Ok(())
    }

    fn receivers(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, Arc<Receiver>>> {
        // Held for a moment only.
        self.receivers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks after what is loaded whenever nftables changed. While nothing is, it doesn't even listen.
async fn watch(inner: Arc<Inner>) {
    loop {
        inner.changed.notified().await;
        let changes = match Changes::open() {
            Ok(changes) => changes,
            Err(error) => {
                tracing::error!(%error, "cannot hear of changes of nftables; rules that are flushed stay away");
                tokio::time::sleep(RETRY).await;
                inner.changed.notify_one();
                continue;
            }
        };
        loop {
            match inner.look().await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => tracing::error!(error = chain(&error), "the rules of a hand-off could not be put back"),
            }
            let next = tokio::select! {
                next = changes.next() => next,
                () = inner.changed.notified() => Ok(()),
            };
            if let Err(error) = next {
                tracing::error!(%error, "cannot hear of changes of nftables");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

fn key(role: Role, vip: &Vip) -> Key {
    (role, vip.vrid, vip.address)
}

/// What the kernel calls the table.
fn kernels_name((role, ..): &Key, vip: &Vip) -> Table {
    let family = match rules::family(*role, vip.address) {
        "arp" => libc::NFPROTO_ARP,
        "ip6" => libc::NFPROTO_IPV6,
        _ => libc::NFPROTO_IPV4,
    };
    Table { family: family as u8, name: rules::table(*role, vip) }
}

async fn unload(Tables { nft, loaded }: &mut Tables, role: Role, vip: &Vip) -> Result<(), KernelError> {
    let key = key(role, vip);
    let table = kernels_name(&key, vip);
    if loaded.remove(&key).is_some() {
        nft.delete(rules::family(role, vip.address), &table.name).await;
    }
    if loaded.is_empty() {
        nft.close();
    }
    // What has no owner.
    blocking(move || tables::delete(&table)).await.map(|_| ()).map_err(KernelError::Tables)
}

/// The text of the whole table, with this node's own connections as they are now.
async fn text(vip: &Vip, rules: &Rules, there: bool) -> Result<String, KernelError> {
    let mine = match rules {
        Rules::Moving { .. } => live(vip.address).await?,
        _ => Vec::new(),
    };
    Ok(rules.text(vip, &mine, there))
}

async fn live(vip: IpAddr) -> Result<Vec<Flow>, KernelError> {
    blocking(move || flows::live(vip)).await.map_err(|source| KernelError::Connections { vip, source })
}

/// Lists of the kernel can be long: they are read on another thread.
async fn blocking<T: Send + 'static>(act: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(act).await.unwrap_or_else(|ended| Err(io::Error::other(ended)))
}
