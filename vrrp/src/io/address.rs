//! VIP leases. Each address is installed for one second and renewed every 250 ms, so the kernel itself
//! takes it away when nobody renews it.
//!
//! [`run`] works towards the newest [`Wanted`]; what lies between two looks is skipped. It acts on a
//! wish only while that is fresh: a wish that lay about while the process was stopped adds nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, CacheInfo};
use rtnetlink::{AddressMessageBuilder, Handle, MulticastGroup};
use tokio::sync::{mpsc, watch};

use super::links::{Change, TAG, Table};
use super::realtime::Realtime;
use crate::config::RouterConfig;
use crate::event::Applied;

/// For how long the kernel keeps an address that nobody renews (it looks every 0 to 0.2 s).
pub const LEASE: Duration = Duration::from_secs(1);
/// How often a lease is renewed.
pub const RENEWAL: Duration = Duration::from_millis(250);

/// A lease could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// No netlink socket.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// The list of interfaces and addresses.
    #[error("cannot list the interfaces' addresses")]
    List(#[source] rtnetlink::Error),
    /// One address could not be added or renewed.
    #[error("cannot add {address} to interface {index}")]
    Add {
        /// Which.
        address: Ipv4Addr,
        /// Where.
        index: u32,
        /// Why.
        #[source]
        source: rtnetlink::Error,
    },
    /// One address could not be deleted.
    #[error("cannot delete {address} from interface {index}")]
    Delete {
        /// Which.
        address: Ipv4Addr,
        /// Where.
        index: u32,
        /// Why.
        #[source]
        source: rtnetlink::Error,
    },
}

/// Which router: interface and VRID.
pub type Key = (String, u8);

/// What the addresses of all routers shall be.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// When the election's thread last said so; `None` before it ever did.
    pub beat: Option<Instant>,
    /// Each router's wish.
    pub routers: BTreeMap<Key, Wish>,
}

/// What the addresses of one router shall be.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Counts the wishes of this router: reports name the one they answer.
    pub order: u64,
    /// The router.
    pub config: Arc<RouterConfig>,
    /// There, or gone.
    pub held: bool,
    /// Somebody else has them: the hook runs before they go.
    pub taken: bool,
}

/// What came of it.
#[derive(Debug)]
pub enum Report {
    /// The applier's thread runs, with this granted.
    Started(Realtime),
    /// A router's addresses reached a state.
    Applied {
        /// Which router.
        key: Key,
        /// Which of its wishes.
        order: u64,
        /// The state.
        applied: Applied,
    },
    /// Addresses that a predecessor left behind were taken away.
    Leftovers(Vec<(String, Ipv4Addr)>),
    /// The kernel refused; it is tried again at the next beat.
    Failed(LeaseError),
}

/// Called twice around a release while somebody else has the addresses already, so that no client gets stuck
/// on this side: before they go, and once they are gone. Neither call may wait for anything.
pub type OnTaken = Box<dyn Fn(&RouterConfig, Taken) + Send>;

/// Where a release stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The addresses are still here: what is sent from them now still arrives.
    Going,
    /// They are gone, or could not be deleted and will lapse.
    Gone,
}

/// Adds an address as /32, or renews its lease.
///
/// # Errors
/// The kernel's answer.
pub async fn lease(handle: &Handle, index: u32, address: Ipv4Addr) -> Result<(), LeaseError> {
    let mut request = handle.address().add(index, address.into(), 32).replace();
    let mut lifetime = CacheInfo::default();
    lifetime.ifa_preferred = LEASE.as_secs() as u32;
    lifetime.ifa_valid = LEASE.as_secs() as u32;
    let attributes = &mut request.message_mut().attributes;
    // A broadcast address makes no sense on a /32, and the kernel would list it.
    attributes.retain(|attribute| !matches!(attribute, AddressAttribute::Broadcast(_)));
    attributes.push(AddressAttribute::CacheInfo(lifetime));
    attributes.push(AddressAttribute::Flags(AddressFlags::Noprefixroute));
    attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(TAG)));
    request.execute().await.map_err(|source| LeaseError::Add { address, index, source })
}

/// Deletes an address; one that is not there counts as deleted.
///
/// # Errors
/// The kernel's answer.
pub async fn delete(handle: &Handle, index: u32, address: Ipv4Addr) -> Result<(), LeaseError> {
    let message: AddressMessage = AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(address, 32).build();
    match handle.address().del(message).execute().await {
        Err(rtnetlink::Error::NetlinkError(error))
            if [libc::EADDRNOTAVAIL, libc::ENODEV].contains(&error.to_io().raw_os_error().unwrap_or(0)) =>
        {
            Ok(())
        }
        result => result.map_err(|source| LeaseError::Delete { address, index, source }),
    }
}

/// Takes away what an agent left behind: every address with our tag, and every VIP of `configs` on its interface.
///
/// # Errors
/// When the addresses can't be listed or one can't be deleted.
pub async fn release(configs: &[RouterConfig]) -> Result<Vec<Ipv4Addr>, LeaseError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(LeaseError::Open)?;
    let task = tokio::spawn(connection);
    let result = async {
        let table = Table::default().dump(&handle).await.map_err(LeaseError::List)?;
        let mut released = Vec::new();
        for (_, index, address) in leftovers(&table, configs.iter()) {
            delete(&handle, index, address).await?;
            released.push(address);
        }
        Ok(released)
    }
    .await;
    task.abort();
    result
}

fn leftovers<'a>(
    table: &Table,
    configs: impl Iterator<Item = &'a RouterConfig> + Clone,
) -> Vec<(String, u32, Ipv4Addr)> {
    let vip = |name: &str, address: &Ipv4Addr| {
        configs.clone().any(|config| config.interface == name && config.addresses.contains(address))
    };
    table
        .iter()
        .flat_map(|(name, link)| link.addresses.iter().map(move |address| (name, link.index, address)))
        .filter(|(name, _, address)| address.prefix == 32 && (address.ours || vip(name, &address.address)))
        .map(|(name, index, address)| (name.to_owned(), index, address.address))
        .collect()
}

/// Keeps the kernel's addresses as wanted, and the table of interfaces current, until `wanted` closes.
///
/// Reports wait when their queue is full: then the election's thread is stuck, and leases should lapse.
///
/// # Errors
/// When netlink can't be opened or its connection breaks.
pub async fn run(
    mut wanted: watch::Receiver<Wanted>,
    table: watch::Sender<Arc<Table>>,
    reports: mpsc::Sender<Report>,
    on_taken: &OnTaken,
) -> Result<(), LeaseError> {
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr];
    let (monitor, _monitor_handle, mut messages) =
        rtnetlink::new_multicast_connection(&groups).map_err(LeaseError::Open)?;
    let (connection, handle, _) = rtnetlink::new_connection().map_err(LeaseError::Open)?;
    tokio::spawn(monitor);
    tokio::spawn(connection);
    let links = Table::default().dump(&handle).await.map_err(LeaseError::List)?;
    let mut applier = Applier { handle, links, present: BTreeSet::new(), answered: BTreeMap::new(), reports, on_taken };
    let first = wanted.borrow_and_update().clone();
    applier.sweep(&first).await;
    table.send_replace(Arc::new(applier.links.clone()));
    applier.apply(&first).await;
    loop {
        tokio::select! {
            // What the kernel did to an address is looked at before that address is touched again. It tells
            // of a deletion before it acknowledges it, so ours are never taken for somebody else's.
            biased;
            message = messages.next() => {
                let Some((message, _)) = message else {
                    return Err(LeaseError::Open(io::ErrorKind::BrokenPipe.into()));
                };
                match applier.links.apply(&message.payload) {
                    Change::Table(false) => {}
                    Change::Table(true) => { table.send_replace(Arc::new(applier.links.clone())); }
                    Change::Overrun => {
                        applier.links = applier.links.dump(&applier.handle).await.map_err(LeaseError::List)?;
                        table.send_replace(Arc::new(applier.links.clone()));
                        let newest = wanted.borrow().clone();
                        applier.compare(&newest).await;
                    }
                    Change::Removed(index, address) => {
                        table.send_replace(Arc::new(applier.links.clone()));
                        let newest = wanted.borrow().clone();
                        applier.removed(&newest, index, address).await;
                    }
                }
            }
            changed = wanted.changed() => {
                let newest = wanted.borrow_and_update().clone();
                applier.apply(&newest).await;
                if changed.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

struct Applier<'a> {
    handle: Handle,
    links: Table,
    /// What we added and did not delete.
    present: BTreeSet<(u32, Ipv4Addr)>,
    /// The last wish of each router that was answered, and what it was.
    answered: BTreeMap<Key, (u64, Arc<RouterConfig>)>,
    reports: mpsc::Sender<Report>,
    on_taken: &'a OnTaken,
}

impl Applier<'_> {
    /// A predecessor's addresses, unless the election already wants them.
    async fn sweep(&mut self, wanted: &Wanted) {
        let configs = wanted.routers.values().map(|wish| wish.config.as_ref());
        let mut swept = Vec::new();
        let held = |name: &str, address| {
            wanted
                .routers
                .values()
                .any(|w| w.held && w.config.interface == name && w.config.addresses.contains(&address))
        };
        for (name, index, address) in leftovers(&self.links, configs) {
            if held(&name, address) {
                continue;
            }
            match self.delete(index, address).await {
                Ok(()) => swept.push((name, address)),
                Err(error) => self.report(Report::Failed(error)).await,
            }
        }
        if !swept.is_empty() {
            self.report(Report::Leftovers(swept)).await;
        }
    }

    async fn apply(&mut self, wanted: &Wanted) {
        let fresh = wanted.beat.is_some_and(|beat| beat.elapsed() < LEASE);
        self.drop_forgotten(wanted).await;
        for (key, wish) in &wanted.routers {
            let index = self.links.named(&wish.config.interface).map(|link| link.index);
            let result = match (wish.held, index) {
                (true, Some(index)) if fresh => self.hold(index, key, wish).await,
                (true, _) => continue,
                (false, _) if self.answered.get(key).is_some_and(|(order, _)| *order == wish.order) => continue,
                (false, Some(index)) => self.let_go(index, wish).await.map(|()| Applied::Absent),
                (false, None) => Ok(Applied::Absent),
            };
            match result {
                Ok(applied) => {
                    self.answered.insert(key.clone(), (wish.order, Arc::clone(&wish.config)));
                    self.report(Report::Applied { key: key.clone(), order: wish.order, applied }).await;
                }
                Err(error) => self.report(Report::Failed(error)).await,
            }
        }
    }

    /// Addresses of ours that no held router has any more: a router was removed, or its addresses changed.
    async fn drop_forgotten(&mut self, wanted: &Wanted) {
        self.answered.retain(|key, _| wanted.routers.contains_key(key));
        let mut kept = BTreeSet::new();
        for wish in wanted.routers.values() {
            if let Some(link) = self.links.named(&wish.config.interface) {
                kept.extend(wish.config.addresses.iter().map(|&address| (link.index, address)));
            }
        }
        let forgotten: Vec<_> = self.present.difference(&kept).copied().collect();
        for (index, address) in forgotten {
            if let Err(error) = self.delete(index, address).await {
                self.report(Report::Failed(error)).await;
            }
        }
    }

    async fn hold(&mut self, index: u32, key: &Key, wish: &Wish) -> Result<Applied, LeaseError> {
        for &address in &wish.config.addresses {
            lease(&self.handle, index, address).await?;
            self.present.insert((index, address));
        }
        tracing::trace!(router = %wish.config.name, interface = %key.0, "leases renewed");
        Ok(Applied::Present)
    }

    async fn let_go(&mut self, index: u32, wish: &Wish) -> Result<(), LeaseError> {
        if wish.taken {
            (self.on_taken)(&wish.config, Taken::Going);
        }
        let deleted = self.delete_all(index, wish).await;
        if wish.taken {
            (self.on_taken)(&wish.config, Taken::Gone);
        }
        deleted
    }

    async fn delete_all(&mut self, index: u32, wish: &Wish) -> Result<(), LeaseError> {
        for &address in &wish.config.addresses {
            self.delete(index, address).await?;
        }
        Ok(())
    }

    async fn delete(&mut self, index: u32, address: Ipv4Addr) -> Result<(), LeaseError> {
        delete(&self.handle, index, address).await?;
        self.present.remove(&(index, address));
        Ok(())
    }

    /// An address went. If it is still wanted and it was there, somebody else took it away (or the lease lapsed).
    async fn removed(&mut self, wanted: &Wanted, index: u32, address: Ipv4Addr) {
        if !self.present.remove(&(index, address)) {
            return;
        }
        let holder = wanted.routers.iter().find(|(_, wish)| wish.held && wish.config.addresses.contains(&address));
        if let Some((key, wish)) = holder {
            self.report(Report::Applied { key: key.clone(), order: wish.order, applied: Applied::Removed }).await;
            self.apply(wanted).await;
        }
    }

    /// After lost messages: what is gone without our having heard.
    async fn compare(&mut self, wanted: &Wanted) {
        let there: BTreeSet<(u32, Ipv4Addr)> =
            self.links.iter().flat_map(|(_, link)| link.addresses.iter().map(|a| (link.index, a.address))).collect();
        let gone: Vec<_> = self.present.difference(&there).copied().collect();
        for (index, address) in gone {
            self.removed(wanted, index, address).await;
        }
    }

    async fn report(&self, report: Report) {
        // Closed: the driver is gone, and so is everybody who could want to know.
        let _ = self.reports.send(report).await;
    }
}
