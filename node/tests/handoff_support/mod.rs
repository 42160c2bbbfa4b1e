//! Two nodes and their clients on one LAN: what a hand-off needs around it, without election or proxy.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netns_lab::lan::{INTERFACE, Lan, Port};
use netns_lab::netns::{Netns, link_index};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Pid;
use node::handoff::{Job, Kernel, Neighbour, Outcome, Vip};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use vrrp::io::announce::Arp;

pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
pub(crate) const PORT: u16 = 8080;
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 50);
/// What one exchange sends and wants back.
const CHUNK: usize = 700;
/// The longest that an answer may take before its connection counts as dead.
const PATIENCE: Duration = Duration::from_secs(5);

/// One of the two: a kernel for jobs, and an echo server at the VIP, whether the address is there or not.
pub(crate) struct Node {
    pub(crate) netns: Netns,
    pub(crate) letter: u8,
    pub(crate) vip: Vip,
    asks: mpsc::Sender<Ask>,
    _server: JoinHandle<()>,
}

enum Ask {
    Job(Job, SyncSender<Outcome>),
    Announce(SyncSender<()>),
    Repairs(SyncSender<u64>),
}

impl Node {
    pub(crate) fn new(lan: &Lan, letter: u8) -> Node {
        Node::with(lan, letter, || {})
    }

    /// A node whose tables nobody can own: what `nft` is to include can't be found.
    pub(crate) fn without_owners(lan: &Lan, letter: u8) -> Node {
        Node::with(lan, letter, || {
            let none = None::<&str>;
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            mount(none, "/proc", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        })
    }

    /// `first` happens on the thread of its kernel.
    fn with(lan: &Lan, letter: u8, first: impl FnOnce() + Send + 'static) -> Node {
        let number = letter - b'a' + 1;
        let netns = Netns::new(&char::from(letter).to_string()).unwrap();
        let own = Neighbour { address: Ipv4Addr::new(192, 0, 2, number).into(), mac: [2, 0, 0, 0, 0, number] };
        let IpAddr::V4(address) = own.address else { unreachable!("written above") };
        lan.attach(&netns, address, 24, own.mac).unwrap();
        let vip = Vip { name: "web".into(), vrid: 51, address: VIP.into(), interface: INTERFACE.into(), own };
        let (asks, asked) = mpsc::channel(16);
        let of_kernel = vip.clone();
        let kernel = move || {
            first();
            block_on(answer(of_kernel, asked));
        };
        netns.thread("kernel", kernel).unwrap();
        let server = netns.thread("server", move || block_on(echo(letter))).unwrap();
        Node { netns, letter, vip, asks, _server: server }
    }

    pub(crate) fn neighbour(&self) -> Neighbour {
        self.vip.own
    }

    /// Does a job; prints how long it took.
    pub(crate) fn run(&self, job: Job) -> Outcome {
        let name = format!("{job:?}");
        let name = name.split([' ', '(']).next().unwrap_or_default().to_owned();
        let since = Instant::now();
        let outcome = self.start(job).recv_timeout(Duration::from_secs(30)).expect("every job ends");
        println!("  {} {name:<12} {:>8.2} ms", char::from(self.letter), since.elapsed().as_secs_f64() * 1e3);
        outcome
    }

    /// Does a job that is fine with nothing to tell.
    pub(crate) fn done(&self, job: Job) {
        assert_eq!(self.run(job), Outcome::Done);
    }

    /// Begins a job; its outcome comes later.
    pub(crate) fn start(&self, job: Job) -> std::sync::mpsc::Receiver<Outcome> {
        let (reply, answer) = sync_channel(1);
        self.ask(Ask::Job(job, reply));
        answer
    }

    pub(crate) fn announce(&self) {
        let (reply, answer) = sync_channel(1);
        self.ask(Ask::Announce(reply));
        answer.recv().expect("announced");
    }

    pub(crate) fn repairs(&self) -> u64 {
        let (reply, answer) = sync_channel(1);
        self.ask(Ask::Repairs(reply));
        answer.recv().expect("counted")
    }

    pub(crate) fn add_address(&self) {
        let add = self.netns.netlink("add the VIP", |handle| async move {
            let index = link_index(&handle, INTERFACE).await?;
            handle.address().add(index, VIP.into(), 32).execute().await
        });
        add.unwrap();
    }

    /// What nft has in this node's namespace.
    pub(crate) fn ruleset(&self) -> String {
        self.nft("list ruleset")
    }

    pub(crate) fn nft(&self, command: &'static str) -> String {
        self.try_nft(command).unwrap_or_else(|complaint| panic!("nft {command}: {complaint}"))
    }

    /// What it prints, or what it complains of.
    pub(crate) fn try_nft(&self, command: &'static str) -> Result<String, String> {
        let command = move || std::process::Command::new("nft").args(command.split(' ')).output();
        let output = self.netns.run(command).expect("nft is installed");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// The processes that own tables here.
    pub(crate) fn owners(&self) -> Vec<Pid> {
        let owner = |pid: &i32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words == b"nft\0-i\0");
        self.netns.processes().into_iter().filter(owner).map(Pid::from_raw).collect()
    }

    fn ask(&self, ask: Ask) {
        assert!(self.asks.blocking_send(ask).is_ok(), "the kernel's thread ended");
    }
}

/// The thread of a node's kernel.
async fn answer(vip: Vip, mut asked: mpsc::Receiver<Ask>) {
    let kernel = Arc::new(Kernel::open().unwrap());
    let index = nix::net::if_::if_nametoindex(INTERFACE).unwrap();
    let arp = Arp::open(index, vip.own.mac).unwrap();
    while let Some(ask) = asked.recv().await {
        match ask {
            Ask::Job(job, reply) => {
                let (kernel, vip) = (Arc::clone(&kernel), vip.clone());
                // Nobody waits for the outcome any more: a test that failed.
                tokio::spawn(async move { drop(reply.send(kernel.run(&vip, job).await)) });
            }
            Ask::Announce(reply) => {
                arp.announce(VIP).unwrap();
                reply.send(()).unwrap();
            }
            Ask::Repairs(reply) => reply.send(kernel.repairs()).unwrap(),
        }
    }
}

/// Greets every connection with its node's letter, then says what it hears.
async fn echo(letter: u8) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_freebind_v4(true).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::new(VIP.into(), PORT).into()).unwrap();
    socket.listen(1024).unwrap();
    socket.set_nonblocking(true).unwrap();
    let listener = TcpListener::from_std(socket.into()).unwrap();
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let mut buffer = vec![0; 64 << 10];
            if stream.write_all(&[letter]).await.is_err() {
                return;
            }
            while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                if stream.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// What the clients do at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// Busy connections exchange all the time; idle ones only when the number grows.
    Go(u64),
    /// All close.
    End,
}

/// Connections that last, and a stream of new ones.
pub(crate) struct Clients {
    pub(crate) netns: Netns,
    pub(crate) port: Port,
    shared: Arc<Shared>,
    order: watch::Sender<Order>,
    open: mpsc::Sender<(bool, SyncSender<Result<u8, String>>)>,
    round: u64,
    /// How many were opened.
    pub(crate) opened: u64,
}

#[derive(Default)]
struct Shared {
    failures: Mutex<Vec<String>>,
    exchanges: AtomicU64,
    /// The last round that each idle connection finished, counted.
    rounds: Mutex<BTreeMap<u64, u64>>,
    open: AtomicU64,
    /// New connections: how many were answered by whom, and the worst time that one took, in microseconds.
    answered: Mutex<BTreeMap<u8, u64>>,
    worst: AtomicU64,
    stop_new: AtomicBool,
    /// A pause of the busy ones, and how many are exchanging something.
    quiet: AtomicBool,
    exchanging: AtomicU64,
}

impl Clients {
    pub(crate) fn new(lan: &Lan) -> Clients {
        let netns = Netns::new("client").unwrap();
        let port = lan.attach(&netns, CLIENT, 24, [2, 0, 0, 0, 0, 0x50]).unwrap();
        let shared = Arc::new(Shared::default());
        let (order, _) = watch::channel(Order::Go(0));
        let (open, mut opening) = mpsc::channel::<(bool, SyncSender<Result<u8, String>>)>(16);
        let (all, orders) = (Arc::clone(&shared), order.clone());
        let serve = async move {
            while let Some((busy, reply)) = opening.recv().await {
                tokio::spawn(connection(Arc::clone(&all), orders.subscribe(), busy, reply));
            }
        };
        netns.thread("connections", move || block_on(serve)).unwrap();
        Clients { netns, port, shared, order, open, round: 0, opened: 0 }
    }

    /// Opens connections that last, every second one busy; all are served by this node.
    pub(crate) fn connect(&mut self, count: u64, letter: u8) {
        for number in 0..count {
            let (reply, answer) = sync_channel(1);
            assert!(self.open.blocking_send((number % 2 == 0, reply)).is_ok(), "the clients' thread ended");
            assert_eq!(answer.recv().unwrap(), Ok(letter), "connection {number}");
        }
        self.opened += count;
    }

    /// One exchange on every idle connection; the busy ones go on anyway. Fails if any connection ever failed.
    pub(crate) fn all_live(&mut self) {
        self.round += 1;
        self.order.send_replace(Order::Go(self.round));
        let idle = self.opened / 2;
        let round = self.round;
        netns_lab::wait::wait_until("every idle connection's answer", PATIENCE * 2, || {
            let finished = self.shared.rounds.lock().unwrap().get(&round).copied().unwrap_or(0);
            if finished == idle { Ok(()) } else { Err(format!("{finished} of {idle}; {:?}", self.failures())) }
        })
        .unwrap();
        assert_eq!(self.failures(), Vec::<String>::new());
        let before = self.exchanges();
        netns_lab::wait::wait_until("answers on busy connections", PATIENCE, || {
            if self.exchanges() > before + idle { Ok(()) } else { Err(self.exchanges().to_string()) }
        })
        .unwrap();
        assert_eq!(self.failures(), Vec::<String>::new());
    }

    /// Busy connections rest, or go on.
    pub(crate) fn quiet(&self, quiet: bool) {
        self.shared.quiet.store(quiet, Ordering::SeqCst);
    }

    /// How many of the busy ones are exchanging something.
    pub(crate) fn exchanging(&self) -> u64 {
        self.shared.exchanging.load(Ordering::SeqCst)
    }

    pub(crate) fn exchanges(&self) -> u64 {
        self.shared.exchanges.load(Ordering::Relaxed)
    }

    pub(crate) fn failures(&self) -> Vec<String> {
        self.shared.failures.lock().unwrap().clone()
    }

    pub(crate) fn close_all(&self) {
        self.order.send_replace(Order::End);
        netns_lab::wait::wait_until("the end of all connections", PATIENCE, || {
            match self.shared.open.load(Ordering::Relaxed) {
                0 => Ok(()),
                open => Err(open.to_string()),
            }
        })
        .unwrap();
    }

    /// Opens connection after connection until [`Clients::stop_new`], each for one exchange.
    pub(crate) fn start_new(&self) {
        self.shared.stop_new.store(false, Ordering::Relaxed);
        let shared = Arc::clone(&self.shared);
        let stream = async move {
            while !shared.stop_new.load(Ordering::Relaxed) {
                let since = Instant::now();
                match tokio::time::timeout(PATIENCE, once()).await {
                    Ok(Ok(letter)) => *shared.answered.lock().unwrap().entry(letter).or_default() += 1,
                    Ok(Err(error)) => shared.failures.lock().unwrap().push(format!("a new connection: {error}")),
                    Err(_) => shared.failures.lock().unwrap().push("a new connection hung".into()),
                }
                shared.worst.fetch_max(since.elapsed().as_micros() as u64, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        self.netns.thread("new", move || block_on(stream)).unwrap();
    }

    /// Whom the new ones reached since they started, and the worst time for one.
    pub(crate) fn stop_new(&self) -> (BTreeMap<u8, u64>, Duration) {
        self.shared.stop_new.store(true, Ordering::Relaxed);
        let worst = Duration::from_micros(self.shared.worst.swap(0, Ordering::Relaxed));
        (std::mem::take(&mut *self.shared.answered.lock().unwrap()), worst)
    }

    /// A connection that carries as much as it can from the moment it is told to; says who served it, and how long
    /// that took, once all came back.
    pub(crate) fn bulk(&self, bytes: usize) -> (SyncSender<()>, JoinHandle<(u8, Duration)>) {
        let (go, told) = sync_channel::<()>(1);
        let (ready, open) = sync_channel(1);
        let carry = async move {
            let mut stream = TcpStream::connect((VIP, PORT)).await.unwrap();
            let letter = stream.read_u8().await.unwrap();
            ready.send(()).unwrap();
            told.recv().unwrap();
            let since = Instant::now();
            let sent: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
            let mut heard = vec![0; bytes];
            let (mut read, mut write) = stream.split();
            let both = async { tokio::try_join!(read.read_exact(&mut heard), write.write_all(&sent)) };
            tokio::time::timeout(PATIENCE * 4, both).await.expect("in time").unwrap();
            assert!(heard == sent, "other bytes came back");
            (letter, since.elapsed())
        };
        let thread = self.netns.thread("bulk", move || block_on(carry)).unwrap();
        open.recv().unwrap();
        (go, thread)
    }

    /// Whom a connection that is opened now reaches.
    pub(crate) fn reaches(&self) -> u8 {
        self.netns.run(|| block_on(once())).expect("the VIP answers")
    }
}

/// Opens a connection from the calling thread's namespace; says who greets it.
pub(crate) fn first_letter() -> std::io::Result<u8> {
    block_on(once())
}

async fn once() -> std::io::Result<u8> {
    let mut stream = TcpStream::connect((VIP, PORT)).await?;
    let letter = stream.read_u8().await?;
    exchange(&mut stream, 0).await?;
    Ok(letter)
}

/// Sends a chunk that no other is like, and wants it back as it was.
async fn exchange(stream: &mut TcpStream, number: u64) -> std::io::Result<()> {
    let sent: Vec<u8> =
        (0..CHUNK as u64).map(|at| (number.wrapping_mul(31).wrapping_add(at * 7) % 251) as u8).collect();
    stream.write_all(&sent).await?;
    let mut heard = vec![0; CHUNK];
    stream.read_exact(&mut heard).await?;
    if heard == sent { Ok(()) } else { Err(std::io::Error::other("other bytes came back")) }
}

async fn connection(
    shared: Arc<Shared>,
    mut orders: watch::Receiver<Order>,
    busy: bool,
    reply: SyncSender<Result<u8, String>>,
) {
    let opened = async {
        let mut stream = TcpStream::connect((VIP, PORT)).await?;
        stream.set_nodelay(true)?;
        let letter = stream.read_u8().await?;
        Ok::<_, std::io::Error>((stream, letter))
    };
    let (mut stream, letter) = match opened.await {
        Ok(opened) => opened,
        Err(error) => return drop(reply.send(Err(error.to_string()))),
    };
    shared.open.fetch_add(1, Ordering::Relaxed);
    let from = stream.local_addr().unwrap();
    drop(reply.send(Ok(letter)));
    let mut number = u64::from(from.port()) << 32;
    loop {
        let round = if busy {
            let order = *orders.borrow();
            tokio::time::sleep(Duration::from_millis(10)).await;
            shared.exchanging.fetch_add(1, Ordering::SeqCst);
            if shared.quiet.load(Ordering::SeqCst) && order != Order::End {
                shared.exchanging.fetch_sub(1, Ordering::SeqCst);
                continue;
            }
            order
        } else {
            match orders.changed().await {
                Ok(()) => *orders.borrow_and_update(),
                Err(_) => Order::End,
            }
        };
        let Order::Go(round) = round else { break };
        number += 1;
        match tokio::time::timeout(PATIENCE, exchange(&mut stream, number)).await {
            Ok(Ok(())) => drop(shared.exchanges.fetch_add(1, Ordering::Relaxed)),
            Ok(Err(error)) => {
                shared.failures.lock().unwrap().push(format!("{from}, served by {}: {error}", char::from(letter)));
                break;
            }
            Err(_) => {
                shared.failures.lock().unwrap().push(format!("{from}, served by {}: silent", char::from(letter)));
                break;
            }
        }
        if busy {
            shared.exchanging.fetch_sub(1, Ordering::SeqCst);
        } else {
            *shared.rounds.lock().unwrap().entry(round).or_default() += 1;
        }
    }
    drop(stream);
    shared.open.fetch_sub(1, Ordering::Relaxed);
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
