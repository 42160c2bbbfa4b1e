//! A data plane on loopback that ends without a panic, the servers behind it, and waiting for states with a deadline.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub(crate) mod http;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use proxy_core::beat::BeatBoard;
use proxy_core::limits::Limits;
use proxy_core::listener::{Listener, ListenerKey};
use proxy_core::plan::{Backend, Bind, Frontend, Mode, Plan, Server};
use proxy_core::plane::{DataPlane, LogDescriptors};
use socket2::{Domain, Socket, Type};

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Waits for `state`, for half a minute at most: the machine may be busy with others.
#[allow(clippy::disallowed_methods, reason = "the pause between two looks at a state")]
pub(crate) fn wait_for(what: &str, mut state: impl FnMut() -> bool) {
    let deadline = Instant::now() + 3 * PATIENCE;
    while !state() {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// `workers` listening sockets on one fresh address.
pub(crate) fn listeners(workers: u16) -> (SocketAddr, Vec<Listener>) {
    let mut address = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut made = Vec::new();
    for worker in 0..workers {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(1024).unwrap();
        address = socket.local_addr().unwrap().as_socket().unwrap();
        made.push(Listener { key: ListenerKey { address, worker }, socket: socket.into() });
    }
    (address, made)
}

/// A server that runs `serve` in a thread for each connection, and counts them.
pub(crate) fn server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let (seen, serve) = (Arc::clone(&count), Arc::new(serve));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            seen.fetch_add(1, SeqCst);
            let serve = Arc::clone(&serve);
            thread::spawn(move || serve(stream));
        }
    });
    (address, count)
}

/// Sends back what it gets, then ends.
pub(crate) fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(read) = stream.read(&mut buffer) {
        if read == 0 || stream.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
}

/// An address where nobody listens.
pub(crate) fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub(crate) fn at(name: &str, address: SocketAddr) -> Server {
    Server::new(name, address)
}

/// One frontend, one backend, patient timeouts.
pub(crate) fn plan(bind: SocketAddr, servers: Vec<Server>) -> Plan {
    let frontend = Frontend {
        name: "front".into(),
        binds: vec![Bind { address: bind, tls: None, accept_proxy: None }],
        mode: Mode::Tcp,
        rules: Vec::new(),
        backend: Some(0),
        max_connections: None,
        max_connections_per_source: None,
        client_timeout: PATIENCE,
        log: None,
    };
    let backend = Backend {
        retries: 0,
        redispatch: false,
        connect_timeout: Duration::from_millis(100),
        ..Backend::new("back", servers, PATIENCE)
    };
    Plan { revision: 1, frontends: vec![frontend], backends: vec![backend], ..Plan::default() }
}

/// A data plane in which no session may have panicked when the test ends.
#[derive(Debug)]
pub(crate) struct Plane(DataPlane);

impl Deref for Plane {
    type Target = DataPlane;

    fn deref(&self) -> &DataPlane {
        &self.0
    }
}

impl DerefMut for Plane {
    fn deref_mut(&mut self) -> &mut DataPlane {
        &mut self.0
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        let panics: u64 = self.0.stats().workers.iter().map(|worker| worker.panics).sum();
        assert!(thread::panicking() || panics == 0, "{panics} sessions panicked");
    }
}

pub(crate) fn start(plan: Plan, workers: u16, listeners: Vec<Listener>) -> Plane {
    start_within(plan, workers, listeners, Limits { nofile: 65_536, sessions: 10_000 })
}

pub(crate) fn start_within(plan: Plan, workers: u16, listeners: Vec<Listener>, limits: Limits) -> Plane {
    let plane = DataPlane::start(
        plan,
        workers,
        listeners,
        Vec::new(),
        &BeatBoard::create().unwrap(),
        limits,
        LogDescriptors::new(),
    )
    .unwrap();
    wait_for("the workers", || plane.ready());
    Plane(plane)
}

/// An address where a listener takes no connection: SYNs are dropped. Free again with the listener.
pub(crate) fn silent() -> (SocketAddr, (Socket, Vec<TcpStream>)) {
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    // A backlog of 0 holds one connection; SYNs beyond it are dropped.
    let fill = || TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
    let held = std::iter::from_fn(fill).collect();
    (address, (full, held))
}

pub(crate) fn client(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Whether a byte comes back through `stream`.
pub(crate) fn echoes(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut byte).is_ok()
}

/// Lets time pass where the pace itself is what is tested.
#[allow(clippy::disallowed_methods, reason = "a slow reader is slow; nothing is waited for")]
pub(crate) fn pace(time: Duration) {
    thread::sleep(time);
}
