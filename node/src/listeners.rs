//! Every listening socket of the node. The agent binds them and keeps its copies for as long as the plan has them, so
//! that the kernel's accept queues outlive any proxy core.
//!
//! One socket per address and worker (`SO_REUSEPORT`), bound before the VIP is there (`IP_FREEBIND`). The set is
//! immutable and swapped as a whole: the VRRP thread reads it without waiting for anybody.
#![allow(unsafe_code, reason = "takes over descriptors that systemd passed by number")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use arc_swap::ArcSwap;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{Backlog, Shutdown, listen, shutdown};
use proxy_core::listener::ListenerKey;
use proxy_core::plan::Plan;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the kernel completes for a worker before it accepts them: what arrives in 100 ms without a
/// worker at 40,000 connections a second. `net.core.somaxconn` (4096 by default) bounds it too.
pub const BACKLOG: i32 = 4096;

/// The sockets by what they are for.
pub type Set = BTreeMap<ListenerKey, Arc<OwnedFd>>;

/// The listening sockets; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Listeners {
    current: Arc<ArcSwap<Set>>,
}

/// One address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {remedy}")]
pub struct BindError {
    /// Which.
    pub address: SocketAddr,
    /// What to do about it.
    pub remedy: String,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// All addresses that cannot be listened on; nothing was changed.
#[derive(Debug)]
pub struct BindErrors(pub Vec<BindError>);

impl fmt::Display for BindErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{error} ({})", error.source)?;
        }
        Ok(())
    }
}

impl std::error::Error for BindErrors {}

impl BindErrors {
    /// Whether all that is missing is a right.
    pub fn not_permitted(&self) -> bool {
        self.0.iter().all(|error| error.source.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// The sockets that a plan needs with so many workers.
pub fn wanted(plan: &Plan, workers: u16) -> BTreeSet<ListenerKey> {
    let addresses = plan.frontends.iter().flat_map(|frontend| &frontend.binds);
    addresses.flat_map(|bind| (0..workers).map(move |worker| ListenerKey { address: bind.address, worker })).collect()
}

impl Listeners {
    /// The sockets now.
    pub fn current(&self) -> Arc<Set> {
        self.current.load_full()
    }

    /// Binds what is wanted and not there yet; gives back what was added. What is there and not wanted stays:
    /// see [`Listeners::remove`].
    ///
    /// # Errors
    /// Every address that cannot be listened on. Nothing is added then.
    pub fn bind(&self, wanted: &BTreeSet<ListenerKey>) -> Result<BTreeSet<ListenerKey>, BindErrors> {
        let mut set = Set::clone(&self.current.load());
        let (mut added, mut errors) = (BTreeSet::new(), BTreeMap::new());
        for &key in wanted.iter().filter(|key| !self.current.load().contains_key(key)) {
            match open(key.address) {
                Ok(socket) => {
                    set.insert(key, Arc::new(socket));
                    added.insert(key);
                }
                Err(error) => {
                    errors.entry(key.address).or_insert(error);
                }
            }
        }
        if !errors.is_empty() {
            let explain = |(address, source)| BindError { address, remedy: remedy(address, &source), source };
            return Err(BindErrors(errors.into_iter().map(explain).collect()));
        }
        self.current.store(Arc::new(set));
        Ok(added)
    }

    /// For who has no lock against a second one of themselves: the kernel would let it bind the same addresses
    /// (`SO_REUSEPORT`) and deal the clients out to both. A port that we listen at already is not looked at.
    ///
    /// # Errors
    /// Every address that somebody listens at, or that cannot be bound for another reason.
    pub fn refuse_shared(&self, addresses: &[SocketAddr]) -> Result<(), BindErrors> {
        let current = self.current.load();
        let ours = |address: &SocketAddr| current.keys().any(|key| key.address.port() == address.port());
        let shared = addresses.iter().copied().filter(|address| !ours(address)).filter_map(|address| {
            let source = bound(address, false).err()?;
            Some(BindError { address, remedy: remedy(address, &source), source })
        });
        let shared: Vec<_> = shared.collect();
        if shared.is_empty() { Ok(()) } else { Err(BindErrors(shared)) }
    }

    /// Takes over a socket that somebody else kept: an adopted core, or systemd. One that is shut listens again: the
    /// agent may have died between [`Listeners::shut`] and [`Listeners::reopen`].
    ///
    /// # Errors
    /// It is not a TCP socket of that address, or cannot listen: a connection, for example.
    pub fn take(&self, key: ListenerKey, fd: Arc<OwnedFd>) -> io::Result<()> {
        let socket = socket2::SockRef::from(&fd);
        let address = socket.local_addr()?.as_socket();
        if address != Some(key.address) || socket.protocol()? != Some(Protocol::TCP) {
            let what = format!("not a TCP socket of {}: {address:?}", key.address);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        listen(&fd, backlog())?;
        let mut set = Set::clone(&self.current.load());
        set.insert(key, fd);
        self.current.store(Arc::new(set));
        Ok(())
    }

    /// Closes our copies.
    pub fn remove(&self, keys: &BTreeSet<ListenerKey>) {
        let mut set = Set::clone(&self.current.load());
        set.retain(|key, _| !keys.contains(key));
        self.current.store(Arc::new(set));
    }

    /// Resets every connection that waits to be accepted at one of the addresses, and refuses new ones until
    /// [`Listeners::reopen`]: with the VIP given away, nobody would ever answer them. About 0.1 ms a socket, and waits
    /// for nothing. Gives back what could not be done.
    pub fn shut(&self, addresses: &[IpAddr]) -> Vec<(ListenerKey, io::Error)> {
        // Never by closing: that does nothing while another process holds the descriptor.
        self.each(addresses, |socket| shutdown(socket.as_raw_fd(), Shutdown::Read))
    }

    /// Listens again at the addresses, for the time when they come back. Gives back what could not be done.
    pub fn reopen(&self, addresses: &[IpAddr]) -> Vec<(ListenerKey, io::Error)> {
        self.each(addresses, |socket| listen(socket, backlog()))
    }

    fn each(&self, addresses: &[IpAddr], act: impl Fn(&OwnedFd) -> nix::Result<()>) -> Vec<(ListenerKey, io::Error)> {
        let set = self.current.load();
        let concerned = set.iter().filter(|(key, _)| addresses.contains(&key.address.ip()));
        concerned.filter_map(|(key, socket)| Some((*key, act(socket).err()?.into()))).collect()
    }
}

/// Lets the kernel give a closed socket's waiting connections to another one of its group
/// (`net.ipv4.tcp_migrate_req`).
///
/// # Errors
/// The setting is not there (Linux before 5.14) or not ours to change.
pub fn migrate_requests() -> io::Result<()> {
    std::fs::write("/proc/sys/net/ipv4/tcp_migrate_req", "1")
}

fn open(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = bound(address, true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bound(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn backlog() -> Backlog {
    Backlog::new(BACKLOG).expect("a positive backlog is one")
}

fn remedy(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => match owner(address) {
            Some(owner) => format!("{owner} listens there; stop it or bind another address"),
            None => "another program listens there (see `ss -ltnp`); stop it or bind another address".into(),
        },
        io::ErrorKind::PermissionDenied if address.port() < 1024 => "ports below 1024 need CAP_NET_BIND_SERVICE".into(),
        _ if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
            "the descriptor limit is reached; raise LimitNOFILE".into()
        }
        _ => "the kernel refuses it".into(),
    }
}

/// The program that holds a listening socket at the address's port, if we may know.
fn owner(address: SocketAddr) -> Option<String> {
    let table = if address.is_ipv6() { "/proc/net/tcp6" } else { "/proc/net/tcp" };
    let text = std::fs::read_to_string(table).ok()?;
    let port = format!(":{:04X}", address.port());
    let listening = |line: &&str| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next().is_some_and(|local| local.ends_with(&port)) && fields.nth(1) == Some("0A")
    };
    let inode = text.lines().find(listening)?.split_whitespace().nth(9)?.to_owned();
    let link = format!("socket:[{inode}]");
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().filter(|name| name.parse::<u32>().is_ok()) else { continue };
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else { continue };
        let holds = |fd: std::fs::DirEntry| std::fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == &*link);
        if descriptors.flatten().any(holds) {
            let name = std::fs::read_to_string(process.path().join("comm")).ok()?;
            return Some(format!("{} (pid {pid})", name.trim_end()));
        }
    }
    None
}

/// The name under which systemd keeps a socket (FDNAME): no colon, at most 255 characters.
pub fn fd_name(key: ListenerKey) -> String {
    let ip = match key.address {
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("{}%{}", v6.ip().to_string().replace(':', "_"), v6.scope_id()),
    };
    format!("listener-{}-{}-{ip}", key.worker, key.address.port())
}

/// The socket that [`fd_name`] named; `None`: the name is not one of ours.
pub fn key_of_fd_name(name: &str) -> Option<ListenerKey> {
    let mut parts = name.strip_prefix("listener-")?.splitn(3, '-');
    let worker = parts.next()?.parse().ok()?;
    let port = parts.next()?.parse().ok()?;
    let ip = parts.next()?;
    let address = match ip.split_once('%') {
        None => SocketAddr::new(IpAddr::V4(ip.parse().ok()?), port),
        Some((ip, scope)) => {
            let ip = ip.replace('_', ":").parse().ok()?;
            std::net::SocketAddrV6::new(ip, port, 0, scope.parse().ok()?).into()
        }
    };
    Some(ListenerKey { address, worker })
}

/// Gives copies of sockets to systemd's descriptor store; does nothing where there is no systemd.
///
/// # Errors
/// systemd cannot be told.
pub fn keep_in_fd_store(set: &Set) -> io::Result<()> {
    for (key, socket) in set {
        let name = fd_name(*key);
        sd_notify::notify_with_fds(
            &[sd_notify::NotifyState::FdStore, sd_notify::NotifyState::FdName(&name)],
            &[socket.as_fd()],
        )?;
    }
    Ok(())
}

/// Has systemd close its copies.
///
/// # Errors
/// systemd cannot be told.
pub fn drop_from_fd_store(keys: &BTreeSet<ListenerKey>) -> io::Result<()> {
    for key in keys {
        let name = fd_name(*key);
        sd_notify::notify(&[sd_notify::NotifyState::FdStoreRemove, sd_notify::NotifyState::FdName(&name)])?;
    }
    Ok(())
}

/// A socket that systemd kept, and what its name says that it is; [`Listeners::take`] looks whether that is so.
pub type Passed = (ListenerKey, Arc<OwnedFd>);

/// The descriptors that systemd passed to this process and that are named like listeners. To be called once, before
/// anything else opens descriptors. Those of other names are closed: nobody would use them.
///
/// # Errors
/// The environment is not as systemd makes it.
pub fn from_service_manager() -> io::Result<Vec<Passed>> {
    let mut passed = Vec::new();
    for (number, name) in sd_notify::listen_fds_with_names()? {
        // SAFETY: systemd opened it for us (LISTEN_PID is ours), and nothing else in this process owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        if let Some(key) = key_of_fd_name(&name) {
            passed.push((key, Arc::new(fd)));
        }
    }
    Ok(passed)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpStream;

    use super::*;

    fn free_address() -> SocketAddr {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    fn keys(address: SocketAddr, workers: u16) -> BTreeSet<ListenerKey> {
        (0..workers).map(|worker| ListenerKey { address, worker }).collect()
    }

    #[test]
    fn names_in_the_descriptor_store_lead_back_to_their_keys() {
        for address in ["192.0.2.1:80", "[fd00::1]:443", "[::]:65535", "0.0.0.0:1"] {
            let key = ListenerKey { address: address.parse().unwrap(), worker: 17 };
            assert!(!fd_name(key).contains(':'));
            assert_eq!(key_of_fd_name(&fd_name(key)), Some(key));
        }
        for name in ["", "stored", "listener-", "listener-1-2", "listener-x-80-192.0.2.1", "listener-1-80-nowhere"] {
            assert_eq!(key_of_fd_name(name), None);
        }
    }

    #[test]
    fn an_address_that_is_not_on_this_node_yet_can_be_bound() {
        let listeners = Listeners::default();
        let wanted = keys("192.0.2.77:8080".parse().unwrap(), 2);
        assert_eq!(listeners.bind(&wanted).unwrap(), wanted);
        assert_eq!(listeners.bind(&wanted).unwrap(), BTreeSet::new());
    }

    #[test]
    fn waiting_connections_are_reset_and_none_gets_in_until_it_is_reopened() {
        let address = free_address();
        let listeners = Listeners::default();
        listeners.bind(&keys(address, 1)).unwrap();
        let mut waiting = TcpStream::connect(address).unwrap();
        let other = "192.0.2.1".parse().unwrap();
        assert!(listeners.shut(&[other]).is_empty());
        let also_waiting = TcpStream::connect(address).expect("another address was shut");
        assert!(listeners.shut(&[address.ip()]).is_empty());
        assert_eq!(waiting.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert!(listeners.reopen(&[address.ip()]).is_empty());
        TcpStream::connect(address).expect("listens again");
        drop(also_waiting);
    }

    #[test]
    fn an_address_in_use_is_named_with_its_user_and_nothing_is_bound() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken_address = taken.local_addr().unwrap();
        let listeners = Listeners::default();
        let mut wanted = keys(taken_address, 2);
        wanted.extend(keys(free_address(), 2));
        let errors = listeners.bind(&wanted).unwrap_err();
        assert_eq!(errors.0.len(), 1);
        let text = errors.to_string();
        assert!(text.contains(&taken_address.to_string()), "{text}");
        assert!(text.contains(&format!("pid {}", std::process::id())), "{text}");
        assert!(listeners.current().is_empty());
    }

    #[test]
    fn a_stored_socket_of_another_address_is_refused() {
        let listeners = Listeners::default();
        let socket: OwnedFd = std::net::TcpListener::bind("127.0.0.1:0").unwrap().into();
        let key = ListenerKey { address: "127.0.0.1:1".parse().unwrap(), worker: 0 };
        assert_eq!(listeners.take(key, Arc::new(socket)).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_stored_socket_that_is_shut_listens_again_and_keeps_doing_so_when_it_is_taken_twice() {
        let address = free_address();
        let before = Listeners::default();
        before.bind(&keys(address, 1)).unwrap();
        assert!(before.shut(&[address.ip()]).is_empty());
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let after = Listeners::default();
        for _ in 0..2 {
            for (key, fd) in before.current().iter() {
                after.take(*key, Arc::clone(fd)).unwrap();
            }
            TcpStream::connect(address).expect("listens again");
        }
        assert_eq!(after.current().len(), 1);
    }

    #[test]
    fn a_stored_connection_is_refused() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let key = ListenerKey { address: connection.local_addr().unwrap(), worker: 0 };
        let listeners = Listeners::default();
        listeners.take(key, Arc::new(connection.into())).unwrap_err();
        assert!(listeners.current().is_empty());
    }
}
