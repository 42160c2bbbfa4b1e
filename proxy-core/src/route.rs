//! Where the clients of one frontend go, as one worker has it; rebuilt for each scheme.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::SystemTime;

use ipnetwork::IpNetwork;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::balance::Balancer;
use crate::beat::Slot;
use crate::http::date::Date;
use crate::http::forwarded::Forwarding;
use crate::http::pool::Pool;
use crate::http::rules::Rules;
use crate::limits::Gate;
use crate::log::Logger;
use crate::plan::{self, Mode};
use crate::server::{BackendLive, FrontendLive, Scheme, ServerLive};
use crate::stats::{BackendShard, FrontendShard, ServerShard, WorkerShard};
use crate::tcp::buffers::Buffers;
use crate::tcp::pipe::Pipes;
use crate::tls::Outbound;
use crate::tls::admission::Handshakes;

/// Server connections that one worker begins at once; more wait their turn, so that a herd that comes back after a
/// failover neither starves those already served nor delays the worker's beats.
const CONNECTS_AT_ONCE: usize = 256;
/// Bytes of an ordinary head; a longer one makes its vector grow.
const HEAD: usize = 2048;
/// Idle vectors for heads kept by a worker.
const HEADS_KEPT: usize = 256;

/// What all sessions of a worker share.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) worker: usize,
    pub(crate) slot: Slot,
    /// Counters of all workers.
    pub(crate) shards: Arc<[WorkerShard]>,
    pub(crate) logger: Logger,
    /// Counts the clients of the process.
    pub(crate) process: Arc<Gate>,
    pub(crate) buffers: Buffers,
    pub(crate) pipes: Pipes,
    heads: RefCell<Vec<Vec<u8>>>,
    date: RefCell<Date>,
    pub(crate) connects: Semaphore,
    pub(crate) handshakes: Handshakes,
    /// Clients that it serves now.
    pub(crate) clients: Cell<usize>,
    /// Streams of HTTP/2 among them, each of which may have a connection to a server.
    pub(crate) streams: Cell<usize>,
    /// HTTP connections to servers, in use or idle. Idle ones are kept only while there are fewer of them than of
    /// clients and streams, so that each stays within the descriptors that it has room for.
    pub(crate) server_connections: Cell<usize>,
    /// Clients that it gave a unique id, so far.
    pub(crate) announced: Cell<u32>,
    /// Of the pools of idle server connections, so far.
    pub(crate) sweeps: Cell<u32>,
    /// The worker drains: nobody is served another request.
    pub(crate) closing_since: Cell<Option<Instant>>,
    /// Clients that hear of [`Desk::is_closing`], by number.
    guests: RefCell<Guests>,
}

impl Desk {
    pub(crate) fn new(worker: u16, slot: Slot, shards: Arc<[WorkerShard]>, logger: Logger, process: Arc<Gate>) -> Desk {
        Desk {
            worker: usize::from(worker),
            slot,
            shards,
            logger,
            process,
            buffers: Buffers::default(),
            pipes: Pipes::default(),
            heads: RefCell::default(),
            date: RefCell::default(),
            connects: Semaphore::new(CONNECTS_AT_ONCE),
            handshakes: Handshakes::default(),
            clients: Cell::new(0),
            streams: Cell::new(0),
            server_connections: Cell::new(0),
            announced: Cell::new(0),
            sweeps: Cell::new(0),
            closing_since: Cell::new(None),
            guests: RefCell::default(),
        }
    }

    /// The worker's own counters.
    pub(crate) fn counters(&self) -> &WorkerShard {
        &self.shards[self.worker]
    }

    /// Whether it drains: nobody is served another request.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing_since.get().is_some()
    }

    /// Whether a server connection may be kept idle that is there now.
    pub(crate) fn has_room_for_idle(&self) -> bool {
        self.server_connections.get() <= self.clients.get() + self.streams.get()
    }

    /// Now, for a `Date` field.
    pub(crate) fn date(&self) -> [u8; 29] {
        let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs());
        self.date.borrow_mut().at(now)
    }

    /// An empty vector for a head, with room for an ordinary one.
    pub(crate) fn lend_head(&self) -> Vec<u8> {
        self.heads.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(HEAD))
    }

    pub(crate) fn give_head_back(&self, mut head: Vec<u8>) {
        let mut heads = self.heads.borrow_mut();
        if heads.len() < HEADS_KEPT && head.capacity() <= 4 * HEAD {
            head.clear();
            heads.push(head);
        }
    }
}

/// The tasks of waiting clients, each at a number of its own; numbers are used again.
#[derive(Debug, Default)]
struct Guests {
    wakers: Vec<Option<Waker>>,
    free: Vec<u32>,
}

/// A client's task, woken when the worker begins to drain; until dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    desk: Rc<Desk>,
    number: u32,
}

impl Guest {
    pub(crate) fn new(desk: &Rc<Desk>, waker: Waker) -> Guest {
        let Guests { wakers, free } = &mut *desk.guests.borrow_mut();
        let number = free.pop().unwrap_or_else(|| {
            wakers.push(None);
            u32::try_from(wakers.len() - 1).expect("sessions are counted in 32 bits")
        });
        wakers[number as usize] = Some(waker);
        Guest { desk: Rc::clone(desk), number }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let Guests { wakers, free } = &mut *self.desk.guests.borrow_mut();
        wakers[self.number as usize] = None;
        free.push(self.number);
    }
}

/// One frontend under one scheme.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) scheme: Arc<Scheme>,
    pub(crate) index: usize,
    pub(crate) rules: Rules,
    pub(crate) backends: Rc<[BackendRoute]>,
    pub(crate) desk: Rc<Desk>,
}

/// One backend under one scheme.
#[derive(Debug)]
pub(crate) struct BackendRoute {
    pub(crate) balancer: Rc<RefCell<Balancer>>,
    /// Idle connections by server, in the order of the plan.
    pub(crate) pools: Vec<Rc<Pool>>,
}

/// The way in at one address: sessions keep it, and so find the route of the latest scheme at their next request.
#[derive(Debug)]
pub(crate) struct Entrance {
    pub(crate) desk: Rc<Desk>,
    route: RefCell<Rc<Route>>,
    /// Index of the latest scheme's profile; `None`: clients come in the clear.
    pub(crate) tls: Cell<Option<usize>>,
    /// Which of the binds of the latest scheme's frontend.
    bind: Cell<usize>,
    /// No longer in the plan: who is inside is served what was asked for, and no more.
    pub(crate) closed: Cell<bool>,
}

impl Entrance {
    /// Whether nobody inside is served another request.
    pub(crate) fn is_closing(&self) -> bool {
        self.closed.get() || self.desk.is_closing()
    }

    pub(crate) fn route(&self) -> Rc<Route> {
        Rc::clone(&self.route.borrow())
    }

    /// Who announces the clients that come here; `None`: they come themselves.
    pub(crate) fn announcers<'r>(&self, route: &'r Route) -> Option<&'r [IpNetwork]> {
        route.frontend().binds[self.bind.get()].accept_proxy.as_deref()
    }

    fn speaks(&self, mode: &Mode) -> bool {
        matches!(self.route.borrow().frontend().mode, Mode::Http(_)) == matches!(mode, Mode::Http(_))
    }
}

impl Route {
    pub(crate) fn frontend(&self) -> &plan::Frontend {
        &self.scheme.plan.frontends[self.index]
    }

    pub(crate) fn live(&self) -> &FrontendLive {
        &self.scheme.frontends[self.index]
    }

    /// Of a frontend that speaks it.
    pub(crate) fn http(&self) -> &plan::Http {
        match &self.frontend().mode {
            Mode::Http(http) => http,
            Mode::Tcp => unreachable!("only frontends that speak HTTP are asked for it"),
        }
    }

    pub(crate) fn forwarding(&self) -> Option<&Forwarding> {
        self.scheme.forwarding[self.index].as_ref()
    }

    /// Servers of a backend that can be used.
    pub(crate) fn servers_up(&self, backend: usize) -> u32 {
        let servers = self.backend(backend).servers.iter().zip(&self.backend_live(backend).servers);
        let up = servers.filter(|(server, live)| live.weight(server) > 0 && live.is_usable()).count();
        u32::try_from(up).unwrap_or(u32::MAX)
    }

    pub(crate) fn counters(&self) -> &FrontendShard {
        &self.live().shards[self.desk.worker]
    }

    pub(crate) fn backend(&self, backend: usize) -> &plan::Backend {
        &self.scheme.plan.backends[backend]
    }

    pub(crate) fn backend_live(&self, backend: usize) -> &BackendLive {
        &self.scheme.backends[backend]
    }

    pub(crate) fn backend_counters(&self, backend: usize) -> &BackendShard {
        &self.backend_live(backend).shards[self.desk.worker]
    }

    pub(crate) fn server_live(&self, backend: usize, server: usize) -> &Arc<ServerLive> {
        &self.backend_live(backend).servers[server]
    }

    pub(crate) fn server_counters(&self, backend: usize, server: usize) -> &ServerShard {
        &self.server_live(backend, server).shards[self.desk.worker]
    }
}

/// A backend's balancer, and what it was made for.
#[derive(Debug)]
struct KeptBalancer {
    backend: plan::Backend,
    servers: Vec<Arc<ServerLive>>,
    balancer: Rc<RefCell<Balancer>>,
}

impl KeptBalancer {
    /// Whether it is right for these as well.
    fn fits(&self, backend: &plan::Backend, live: &BackendLive) -> bool {
        let Self { backend: own, servers, .. } = self;
        let same = own.balance == backend.balance
            && own.servers == backend.servers
            && own.all_backups == backend.all_backups
            && own.slow_start == backend.slow_start;
        same && servers.iter().zip(&live.servers).all(|(one, other)| Arc::ptr_eq(one, other))
    }
}

#[derive(Debug)]
struct KeptPool {
    #[expect(dead_code, reason = "while it is kept, its address can't become another one's")]
    server: Arc<ServerLive>,
    /// How it is spoken to: connections that others vouched for, or nobody, are none of this.
    tls: Option<Outbound>,
    pool: Rc<Pool>,
}

/// All routes of one worker, by the address that clients come to; what an apply keeps goes on from scheme to scheme.
#[derive(Debug)]
pub(crate) struct Routes {
    desk: Rc<Desk>,
    entrances: HashMap<SocketAddr, Rc<Entrance>>,
    balancers: HashMap<String, KeptBalancer>,
    pools: HashMap<*const ServerLive, KeptPool>,
}

impl Routes {
    pub(crate) fn new(desk: Rc<Desk>) -> Self {
        Routes { desk, entrances: HashMap::new(), balancers: HashMap::new(), pools: HashMap::new() }
    }

    pub(crate) fn entrance(&self, address: &SocketAddr) -> Option<&Rc<Entrance>> {
        self.entrances.get(address)
    }

    /// Idle connections that their servers closed, or that nobody needed for a while, are closed.
    pub(crate) fn sweep(&self) {
        let sweeps = self.desk.sweeps.get().wrapping_add(1);
        self.desk.sweeps.set(sweeps);
        self.pools.values().for_each(|kept| kept.pool.sweep(sweeps));
    }

    /// Idle connections to servers.
    pub(crate) fn idle(&self) -> usize {
        self.pools.values().map(|kept| kept.pool.len()).sum()
    }

    /// The worker drains: who is inside is served what was asked for, and no more.
    pub(crate) fn close(&self) {
        self.desk.closing_since.set(Some(Instant::now()));
        self.desk.guests.borrow().wakers.iter().flatten().for_each(Waker::wake_by_ref);
        self.pools.values().for_each(|kept| kept.pool.close());
    }

    /// Takes up a scheme. Balancers whose servers are unchanged keep their turn, servers that stay their connections.
    pub(crate) fn adopt(&mut self, scheme: &Arc<Scheme>) {
        let mut balancers = std::mem::take(&mut self.balancers);
        let mut pools = std::mem::take(&mut self.pools);
        let mut closed = std::mem::take(&mut self.entrances);
        let mut backends = Vec::new();
        for (index, (backend, live)) in scheme.plan.backends.iter().zip(&scheme.backends).enumerate() {
            let kept = balancers.remove(&backend.name).filter(|old| old.fits(backend, live)).unwrap_or_else(|| {
                let plan::Backend { balance, servers, all_backups, .. } = backend;
                let balancer = Balancer::new(balance, servers, *all_backups, self.desk.worker);
                let balancer = Rc::new(RefCell::new(balancer));
                KeptBalancer { backend: backend.clone(), servers: live.servers.clone(), balancer }
            });
            let balancer = Rc::clone(&kept.balancer);
            self.balancers.insert(backend.name.clone(), kept);
            let mut own = Vec::new();
            for (number, server) in live.servers.iter().enumerate() {
                let (key, tls) = (Arc::as_ptr(server), scheme.tls.server(index, number));
                let same = |old: &KeptPool| match (&old.tls, tls) {
                    (Some(old), Some(new)) => Arc::ptr_eq(&old.config, &new.config) && old.name == new.name,
                    (old, new) => old.is_none() && new.is_none(),
                };
                let pool = match pools.entry(key) {
                    Entry::Occupied(old) if same(old.get()) => old.remove().pool,
                    _ => Rc::default(),
                };
                let kept = KeptPool { server: Arc::clone(server), tls: tls.cloned(), pool: Rc::clone(&pool) };
                self.pools.insert(key, kept);
                own.push(pool);
            }
            backends.push(BackendRoute { balancer, pools: own });
        }
        // A session may still hold a pool whose server is gone, or another one by now: it keeps nothing from now on.
        pools.values().for_each(|kept| kept.pool.close());
        let backends: Rc<[BackendRoute]> = backends.into();
        for (index, frontend) in scheme.plan.frontends.iter().enumerate() {
            let (scheme, backends, desk) = (Arc::clone(scheme), Rc::clone(&backends), Rc::clone(&self.desk));
            let rules = scheme.rules[index].clone();
            let route = Rc::new(Route { scheme, index, rules, backends, desk });
            for (number, bind) in frontend.binds.iter().enumerate() {
                // Who came to speak HTTP is not served by a route that speaks TCP.
                let kept = closed.get(&bind.address).is_some_and(|old| old.speaks(&frontend.mode));
                let entrance = if kept { closed.remove(&bind.address) } else { None };
                let entrance = entrance.unwrap_or_else(|| {
                    Rc::new(Entrance {
                        desk: Rc::clone(&self.desk),
                        route: RefCell::new(Rc::clone(&route)),
                        tls: Cell::new(None),
                        bind: Cell::new(number),
                        closed: Cell::new(false),
                    })
                });
                entrance.route.replace(Rc::clone(&route));
                entrance.tls.set(bind.tls);
                entrance.bind.set(number);
                self.entrances.insert(bind.address, entrance);
            }
        }
        closed.values().for_each(|entrance| entrance.closed.set(true));
    }
}
