//! The supervisor with real proxy cores (`lbnode proxy-core`) on loopback: kills, hangs, adoption, plans.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use node::listeners::{Listeners, wanted};
use node::supervisor::{ApplyError, CoreState, Settings, StartError, Status, Supervisor, Timing};
use proxy_core::plan::{Backend, Bind, Frontend, Log, LogFormat, LogSink, Mode, Plan, Server};
use proxy_core::sandbox::Identity;
use tokio::sync::mpsc;

const SECOND: Duration = Duration::from_secs(1);
/// For anything that should be quick; generous, because two cores may be shared by many tests.
const SOON: Duration = Duration::from_secs(10);
/// Nobody's user: the core of a root's test becomes this.
const NOBODY: u32 = 65_534;

/// A runtime directory of its own, removed at the end.
struct Bench {
    folder: PathBuf,
    settings: Settings,
    address: SocketAddr,
    server: SocketAddr,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Bench {
    fn new(name: &str) -> Bench {
        let folder = std::env::temp_dir().join(format!("lbnode-supervisor-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let root = nix::unistd::geteuid().is_root();
        let own = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
        let (uid, gid) = if root { (NOBODY, NOBODY) } else { own };
        let settings = Settings {
            executable: env!("CARGO_BIN_EXE_lbnode").into(),
            arguments: vec!["proxy-core".into()],
            adoption_socket: Some(folder.join("core.sock")),
            identity: Identity { uid, gid },
            workers: 2,
            log_level: tracing::Level::INFO,
            timing: Timing::default(),
        };
        Bench { folder, settings, address: free(), server: echo_server() }
    }

    fn plan(&self, revision: u64, binds: &[SocketAddr]) -> Plan {
        let server = Server::new("echo", self.server);
        Plan {
            revision,
            frontends: vec![Frontend {
                name: "front".into(),
                binds: binds.iter().map(|&address| Bind { address, tls: None, accept_proxy: None }).collect(),
                mode: Mode::Tcp,
                rules: Vec::new(),
                backend: Some(0),
                max_connections_per_source: None,
                log: None,
                max_connections: None,
                client_timeout: 60 * SECOND,
            }],
            backends: vec![Backend { redispatch: false, ..Backend::new("back", vec![server], 60 * SECOND) }],
            ..Plan::default()
        }
    }

    fn start(&self) -> (Supervisor, mpsc::Receiver<CoreState>) {
        self.start_with(Listeners::default())
    }

    fn start_with(&self, listeners: Listeners) -> (Supervisor, mpsc::Receiver<CoreState>) {
        Supervisor::start(self.settings.clone(), self.plan(1, &[self.address]), listeners).unwrap()
    }
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || io::copy(&mut &stream, &mut &stream));
        }
    });
    address
}

/// One echo over a connection that exists.
fn echo(mut stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(b"ping")?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"ping");
    Ok(())
}

/// A client that said something and gets no answer for now: the workers have stopped accepting.
fn unanswered(address: SocketAddr) -> TcpStream {
    let deadline = Instant::now() + SOON;
    loop {
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        client.write_all(b"ping").unwrap();
        match client.read(&mut [0; 4]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return client,
            answered => assert!(Instant::now() < deadline, "still served: {answered:?}"),
        }
    }
}

async fn event(events: &mut mpsc::Receiver<CoreState>, wanted: impl Fn(&CoreState) -> bool) -> CoreState {
    let mut seen = Vec::new();
    let found = tokio::time::timeout(SOON, async {
        loop {
            let state = events.recv().await.expect("the supervisor lives");
            if wanted(&state) {
                return state;
            }
            seen.push(state);
        }
    });
    match found.await {
        Ok(state) => state,
        Err(_) => panic!("not within {SOON:?}; seen: {seen:?}"),
    }
}

async fn ready(events: &mut mpsc::Receiver<CoreState>) -> u32 {
    match event(events, |state| matches!(state, CoreState::Ready { .. })).await {
        CoreState::Ready { pid, .. } => pid,
        other => panic!("{other:?}"),
    }
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid as i32), signal).unwrap();
}

fn own_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn status_field(pid: u32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.trim().to_owned()
}

/// The soft one.
fn limit(pid: u32, name: &str) -> String {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let values = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    values.split_whitespace().next().unwrap().to_owned()
}

#[tokio::test]
async fn a_core_runs_with_no_rights_and_without_core_dumps() {
    let bench = Bench::new("rights");
    let (supervisor, mut events) = bench.start();
    let pid = ready(&mut events).await;
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd"] {
        if set == "CapBnd" && !nix::unistd::geteuid().is_root() {
            continue;
        }
        assert_eq!(u64::from_str_radix(&status_field(pid, set), 16), Ok(0), "{set}");
    }
    assert_eq!(status_field(pid, "NoNewPrivs"), "1");
    let uid = bench.settings.identity.uid.to_string();
    assert_eq!(status_field(pid, "Uid").split_whitespace().collect::<Vec<_>>(), [&*uid; 4]);
    assert_eq!(status_field(pid, "Gid").split_whitespace().collect::<Vec<_>>(), [&*uid; 4]);
    if nix::unistd::geteuid().is_root() {
        assert_eq!(status_field(pid, "Groups"), "");
    }
    assert_eq!(limit(pid, "Max core file size"), "0");
    let status: Status = supervisor.status().borrow().clone();
    assert_eq!((status.pid, status.uid, status.uid_note), (Some(pid), Some(bench.settings.identity.uid), None));
    assert_eq!(supervisor.stop(SECOND).await.reset, Some(0));
}

/// A process that is killed closes its highest descriptor first; what is below may be ten thousand connections.
#[tokio::test]
async fn the_channel_is_the_highest_descriptor_of_a_core_also_of_an_adopted_one() {
    let bench = Bench::new("top");
    let (supervisor, mut events) = bench.start();
    let pid = ready(&mut events).await;
    let highest = || {
        let limit: u64 = limit(pid, "Max open files").parse().unwrap();
        let numbers = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let highest: u64 = numbers.map(|fd| fd.unwrap().file_name().to_str().unwrap().parse().unwrap()).max().unwrap();
        assert!(highest + 8 >= limit.min(1 << 20), "{highest} of {limit}");
        std::fs::metadata(format!("/proc/{pid}/fd/{highest}")).unwrap().ino()
    };
    let first = highest();
    drop((supervisor, events));
    let (supervisor, mut events) = bench.start();
    assert_eq!(ready(&mut events).await, pid, "adopted");
    assert_ne!(highest(), first, "it is another channel");
    signal(pid, Signal::SIGKILL);
    event(&mut events, |state| *state == CoreState::Ending).await;
    event(&mut events, |state| matches!(state, CoreState::Exited(_))).await;
    supervisor.stop(SECOND).await;
}

#[tokio::test]
async fn no_client_is_refused_while_the_core_is_killed_twenty_times_and_no_descriptor_leaks() {
    let mut bench = Bench::new("kills");
    // The back-off is tested elsewhere; here it would only make the test long.
    bench.settings.timing.backoff_max = Duration::from_millis(20);
    let (supervisor, mut events) = bench.start();
    let mut pid = ready(&mut events).await;
    let before = own_descriptors();
    let load = Load::start(bench.address, 2);
    for round in 0..20 {
        let echoes = load.echoes.load(SeqCst);
        signal(pid, Signal::SIGKILL);
        let killed = Instant::now();
        let exit = event(&mut events, |state| matches!(state, CoreState::Exited(_))).await;
        assert!(killed.elapsed() < SECOND, "seen after {:?}", killed.elapsed());
        let CoreState::Exited(exit) = exit else { panic!("{exit:?}") };
        assert_eq!(exit.status, "killed by SIGKILL", "round {round}");
        pid = ready(&mut events).await;
        load.wait_for(echoes + 20);
    }
    let refused = load.stop();
    assert_eq!(refused, 0, "connections were refused or waited in vain");
    assert_eq!(supervisor.status().borrow().restarts, 20);
    // The echo server's side of the last connections may still be closing.
    let deadline = Instant::now() + SOON;
    while own_descriptors() > before {
        assert!(Instant::now() < deadline, "{before} descriptors before, {} after", own_descriptors());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    supervisor.stop(SECOND).await;
}

#[tokio::test]
async fn the_first_client_at_a_watched_address_is_noticed_until_another_core_runs() {
    let bench = Bench::new("first");
    let (supervisor, mut events) = bench.start();
    let pid = ready(&mut events).await;
    let vip = bench.address.ip();
    let first = |supervisor: &Supervisor| supervisor.first_connection(vip);
    echo(&TcpStream::connect(bench.address).unwrap()).unwrap();
    assert_eq!(first(&supervisor), None, "it was not watched");
    for _ in 0..2 {
        supervisor.watch_first_connection(vip);
        supervisor.watch_first_connection("192.0.2.1".parse().unwrap());
        assert_eq!(first(&supervisor), None, "nobody came since");
        let before = Instant::now();
        echo(&TcpStream::connect(bench.address).unwrap()).unwrap();
        let at = first(&supervisor).expect("it was accepted before it was served");
        assert!(before <= at && at <= Instant::now());
        assert_eq!(supervisor.first_connection("192.0.2.1".parse().unwrap()), None);
    }

    // An agent after us can ask for it too, of the same core.
    drop((supervisor, events));
    let (supervisor, mut events) = bench.start();
    assert_eq!(ready(&mut events).await, pid);
    supervisor.watch_first_connection(vip);
    assert_eq!(first(&supervisor), None);
    echo(&TcpStream::connect(bench.address).unwrap()).unwrap();
    assert!(first(&supervisor).is_some());

    signal(pid, Signal::SIGKILL);
    event(&mut events, |state| matches!(state, CoreState::Exited(_))).await;
    assert_ne!(ready(&mut events).await, pid);
    echo(&TcpStream::connect(bench.address).unwrap()).unwrap();
    assert_eq!(first(&supervisor), None, "the new core was not asked to watch");
    supervisor.watch_first_connection(vip);
    supervisor.forget_first_connection(vip);
    echo(&TcpStream::connect(bench.address).unwrap()).unwrap();
    assert_eq!(first(&supervisor), None, "it was forgotten");
    supervisor.stop(SECOND).await;
}

/// Clients that connect, echo once and leave, for as long as they may.
struct Load {
    end: Arc<AtomicBool>,
    echoes: Arc<AtomicU64>,
    threads: Vec<JoinHandle<u64>>,
}

impl Load {
    fn start(address: SocketAddr, clients: usize) -> Load {
        let (end, echoes) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let client = |_| {
            let (end, echoes) = (Arc::clone(&end), Arc::clone(&echoes));
            std::thread::spawn(move || {
                let mut refused = 0;
                while !end.load(SeqCst) {
                    match TcpStream::connect_timeout(&address, SOON) {
                        // A connection that the dying core had accepted is reset; that is no refusal.
                        Ok(stream) => match echo(&stream) {
                            Ok(()) => drop(echoes.fetch_add(1, SeqCst)),
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => refused += 1,
                            Err(_) => {}
                        },
                        Err(_) => refused += 1,
                    }
                }
                refused
            })
        };
        let threads = (0..clients).map(client).collect();
        Load { end, echoes, threads }
    }

    fn wait_for(&self, echoes: u64) {
        let deadline = Instant::now() + SOON;
        while self.echoes.load(SeqCst) < echoes {
            assert!(Instant::now() < deadline, "no traffic for {SOON:?}");
            std::thread::yield_now();
        }
    }

    fn stop(self) -> u64 {
        self.end.store(true, SeqCst);
        self.threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    }
}

#[tokio::test]
async fn a_stopped_core_is_seen_within_250_ms_and_killed_after_two_seconds() {
    let bench = Bench::new("hang");
    let (supervisor, mut events) = bench.start();
    let pid = ready(&mut events).await;
    signal(pid, Signal::SIGSTOP);
    let stopped = Instant::now();
    event(&mut events, |state| matches!(state, CoreState::Hung { .. })).await;
    let seen = stopped.elapsed();
    assert!(seen < Duration::from_millis(250), "seen after {seen:?}");
    let exit = event(&mut events, |state| matches!(state, CoreState::Exited(_))).await;
    let killed = stopped.elapsed();
    assert!((1900..3000).contains(&killed.as_millis()), "killed after {killed:?}");
    let CoreState::Exited(exit) = exit else { panic!("{exit:?}") };
    assert!(exit.status.contains("SIGKILL") && exit.status.contains("no progress"), "{exit}");
    println!("hung seen after {seen:?}, gone after {killed:?}");
    assert_ne!(ready(&mut events).await, pid);
    supervisor.stop(SECOND).await;
}

#[tokio::test]
async fn a_core_that_goes_on_in_time_is_ready_again_and_lives() {
    let bench = Bench::new("resume");
    let (supervisor, mut events) = bench.start();
    let pid = ready(&mut events).await;
    signal(pid, Signal::SIGSTOP);
    event(&mut events, |state| matches!(state, CoreState::Hung { .. })).await;
    signal(pid, Signal::SIGCONT);
    assert_eq!(ready(&mut events).await, pid);
    supervisor.stop(SECOND).await;
}

#[tokio::test]
async fn a_new_agent_adopts_the_core_and_its_connections_live() {
    let bench = Bench::new("adopt");
    let (old, mut events) = bench.start();
    let pid = ready(&mut events).await;
    let client = TcpStream::connect(bench.address).unwrap();
    echo(&client).unwrap();
    drop((old, events));

    let (new, mut events) = bench.start();
    assert_eq!(events.recv().await, Some(CoreState::Adopted { pid }));
    assert_eq!(ready(&mut events).await, pid);
    echo(&client).expect("the old connection lives");
    echo(&TcpStream::connect(bench.address).unwrap()).expect("new ones are served");
    // The new supervisor is one in full: it sees a hang, applies plans, and restarts.
    let more = free();
    assert_eq!(new.apply(bench.plan(2, &[bench.address, more])).await.unwrap(), 2);
    echo(&TcpStream::connect(more).unwrap()).unwrap();
    assert_eq!(ready(&mut events).await, pid);
    signal(pid, Signal::SIGSTOP);
    event(&mut events, |state| matches!(state, CoreState::Hung { .. })).await;
    signal(pid, Signal::SIGKILL);
    event(&mut events, |state| matches!(state, CoreState::Exited(_))).await;
    assert_ne!(ready(&mut events).await, pid);
    echo(&TcpStream::connect(bench.address).unwrap()).unwrap();
    new.stop(SECOND).await;
}

/// Sockets that listen on an IPv4 address, whoever holds them.
fn listening(address: SocketAddr) -> usize {
    let SocketAddr::V4(address) = address else { panic!("{address}") };
    let ip = u32::from_ne_bytes(address.ip().octets());
    let local = format!("{ip:08X}:{:04X}", address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let listens = |line: &&str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields.get(1) == Some(&&*local) && fields.get(3) == Some(&"0A")
    };
    table.lines().filter(listens).count()
}

/// A core of so many workers is adopted by an agent that wants another number, and killed: its successor has it.
async fn another_number_of_workers(name: &str, before: u16, after: u16) {
    let mut bench = Bench::new(name);
    bench.settings.workers = before;
    let (old, mut events) = bench.start();
    let pid = ready(&mut events).await;
    drop((old, events));

    bench.settings.workers = after;
    let listeners = Listeners::default();
    let (new, mut events) = bench.start_with(listeners.clone());
    assert_eq!(events.recv().await, Some(CoreState::Adopted { pid }));
    assert_eq!(ready(&mut events).await, pid);
    let plan = bench.plan(1, &[bench.address]);
    let bound = || listeners.current().keys().copied().collect::<BTreeSet<_>>();
    assert_eq!(bound(), wanted(&plan, before), "the adopted core keeps its workers");
    assert_eq!(listening(bench.address), usize::from(before));

    // With nobody there to accept, they wait at every socket.
    signal(pid, Signal::SIGSTOP);
    let waiting: Vec<_> = (0..32).map(|_| TcpStream::connect(bench.address).unwrap()).collect();
    signal(pid, Signal::SIGKILL);
    event(&mut events, |state| matches!(state, CoreState::Exited(_))).await;
    assert_ne!(ready(&mut events).await, pid);
    assert_eq!(new.status().borrow().workers, after);
    assert_eq!(bound(), wanted(&plan, after));
    assert_eq!(listening(bench.address), usize::from(after));
    let outcomes = waiting.iter().map(echo).filter_map(Result::err);
    let hung = outcomes.filter(|error| error.kind() == io::ErrorKind::WouldBlock).count();
    assert_eq!(hung, 0, "clients got no answer and no reset");
    for client in 0..32 {
        echo(&TcpStream::connect(bench.address).unwrap()).unwrap_or_else(|error| panic!("client {client}: {error}"));
    }
    drop(waiting);
    new.stop(SECOND).await;
}

#[tokio::test]
async fn the_successor_of_an_adopted_core_leaves_no_socket_of_a_worker_that_is_no_more() {
    another_number_of_workers("fewer", 2, 1).await;
}

#[tokio::test]
async fn the_successor_of_an_adopted_core_has_a_socket_for_every_added_worker() {
    another_number_of_workers("more", 1, 2).await;
}

#[tokio::test]
async fn a_core_that_refuses_to_be_adopted_is_killed_and_replaced() {
    let mut bench = Bench::new("stale");
    bench.settings.timing.adopt_within = Duration::from_millis(300);
    let (old, mut events) = bench.start();
    let pid = ready(&mut events).await;
    signal(pid, Signal::SIGSTOP);
    drop((old, events));
    let (new, mut events) = bench.start();
    assert_eq!(events.recv().await, Some(CoreState::Starting));
    assert_ne!(ready(&mut events).await, pid);
    echo(&TcpStream::connect(bench.address).unwrap()).unwrap();
    new.stop(SECOND).await;
}

#[tokio::test]
async fn a_core_that_nobody_adopts_serves_for_ten_seconds_and_ends() {
    let bench = Bench::new("orphan");
    let (old, mut events) = bench.start();
    let pid = ready(&mut events).await;
    drop((old, events));
    let alone = Instant::now();
    // Nobody reaps it here, so it is a zombie when it has ended.
    while !status_field(pid, "State").starts_with('Z') {
        assert!(alone.elapsed() < 15 * SECOND, "it lives for {:?} without an agent", alone.elapsed());
        if alone.elapsed() < 9 * SECOND {
            echo(&TcpStream::connect(bench.address).unwrap()).expect("it serves on");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(alone.elapsed() > 9 * SECOND, "it ended after {:?}", alone.elapsed());
    assert!(TcpStream::connect(bench.address).is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_second_supervisor_is_refused_and_the_first_ones_core_is_untouched() {
    let mut bench = Bench::new("second");
    let (first, mut events) = bench.start();
    let pid = ready(&mut events).await;
    let socket = std::fs::metadata(bench.settings.adoption_socket.as_ref().unwrap()).unwrap().ino();
    let client = TcpStream::connect(bench.address).unwrap();
    echo(&client).unwrap();

    bench.settings.timing.adopt_within = Duration::from_millis(300);
    let listeners = Listeners::default();
    let plan = bench.plan(2, &[bench.address, free()]);
    let refused = Supervisor::start(bench.settings.clone(), plan, listeners.clone()).unwrap_err();
    assert!(matches!(&refused, StartError::Taken(path) if path.starts_with(&bench.folder)), "{refused}");
    assert!(listeners.current().is_empty());
    assert_eq!(listening(bench.address), usize::from(bench.settings.workers));
    assert_eq!(std::fs::metadata(bench.settings.adoption_socket.as_ref().unwrap()).unwrap().ino(), socket);
    echo(&client).expect("the session lives");
    assert_eq!(first.stats().await.unwrap().revision, 1);
    assert_eq!((first.status().borrow().pid, first.status().borrow().restarts), (Some(pid), 0));

    drop(client);
    first.stop(SECOND).await;
    let (third, mut events) = bench.start();
    ready(&mut events).await;
    third.stop(SECOND).await;
}

#[tokio::test]
async fn three_exits_are_a_crash_loop_that_names_the_last_one() {
    let mut bench = Bench::new("loop");
    bench.settings.executable = "/bin/sh".into();
    bench.settings.arguments = vec!["-c".into(), "echo 'ERROR test: out of luck' >&2; exit 3".into()];
    let (supervisor, mut events) = bench.start();
    let verdict = event(&mut events, |state| matches!(state, CoreState::CrashLoop { .. })).await;
    let CoreState::CrashLoop { exits, last } = verdict else { panic!("{verdict:?}") };
    assert_eq!((exits, &*last.status), (3, "exit status 3"));
    assert_eq!(last.last_log.as_deref(), Some("ERROR test: out of luck"));
    assert!(supervisor.status().borrow().crash_loop.is_some());
    assert!(TcpStream::connect(bench.address).is_ok(), "the accept queue is still there");
    supervisor.stop(SECOND).await;
}

#[tokio::test]
async fn a_core_that_is_told_to_end_by_a_signal_drains_and_is_replaced() {
    let bench = Bench::new("term");
    let (supervisor, mut events) = bench.start();
    let pid = ready(&mut events).await;
    let client = TcpStream::connect(bench.address).unwrap();
    echo(&client).unwrap();
    signal(pid, Signal::SIGTERM);
    event(&mut events, |state| *state == CoreState::Draining).await;
    let newcomer = unanswered(bench.address);
    let plan = supervisor.apply(bench.plan(2, &[bench.address]));
    let mut plan = std::pin::pin!(plan);
    // Longer than a silent worker lives: one that has no session any more is not to be taken for hung.
    let drained = Instant::now();
    while drained.elapsed() < bench.settings.timing.kill_after + SECOND {
        echo(&client).expect("a session may end by itself");
        let early = tokio::time::timeout(Duration::from_millis(10), &mut plan).await;
        assert!(early.is_err(), "{early:?}");
    }
    assert_eq!(supervisor.status().borrow().pid, Some(pid), "it drains for as long as there is a session");
    drop(client);
    let exit = event(&mut events, |state| matches!(state, CoreState::Exited(_))).await;
    let CoreState::Exited(exit) = exit else { panic!("{exit:?}") };
    assert_eq!(exit.status, "exit status 0");
    assert_eq!(plan.await.unwrap(), 2, "the successor begins with the plan that waited");
    assert_ne!(ready(&mut events).await, pid);
    let mut answer = [0; 4];
    newcomer.set_read_timeout(Some(SOON)).unwrap();
    (&newcomer).read_exact(&mut answer).expect("the successor serves who waited");
    drop(newcomer);
    supervisor.stop(SECOND).await;
}

#[tokio::test]
async fn plans_are_applied_as_a_whole_or_not_at_all() {
    let bench = Bench::new("apply");
    let (supervisor, mut events) = bench.start();
    ready(&mut events).await;
    let other = free();
    assert_eq!(supervisor.apply(bench.plan(2, &[other])).await.unwrap(), 2);
    echo(&TcpStream::connect(other).unwrap()).unwrap();
    assert!(TcpStream::connect(bench.address).is_err(), "the removed address is closed");

    let mut bad = bench.plan(3, &[other, bench.address]);
    bad.frontends[0].backend = Some(7);
    let refused = supervisor.apply(bad).await;
    assert!(matches!(refused, Err(ApplyError::Rejected { revision: 3, .. })), "{refused:?}");
    assert!(TcpStream::connect(bench.address).is_err(), "what was bound for it is closed");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let unbound = supervisor.apply(bench.plan(4, &[other, taken.local_addr().unwrap()])).await;
    assert!(matches!(unbound, Err(ApplyError::Bind(_))), "{unbound:?}");
    echo(&TcpStream::connect(other).unwrap()).expect("the plan before goes on");
    assert_eq!(supervisor.stats().await.unwrap().revision, 2);
    supervisor.stop(SECOND).await;
}

#[tokio::test]
async fn log_sinks_come_and_go_with_plans_and_a_moved_file_is_opened_anew() {
    let bench = Bench::new("logs");
    let (supervisor, mut events) = bench.start();
    let pid = ready(&mut events).await;
    let (path, moved) = (bench.folder.join("front.log"), bench.folder.join("front.log.1"));
    let logged = |revision, target: String| {
        let mut plan = bench.plan(revision, &[bench.address]);
        plan.log_sinks = vec![LogSink { target, facility: None }];
        plan.frontends[0].log = Some(Log { sink: 0, format: LogFormat::Tcp });
        plan
    };
    let nowhere = supervisor.apply(logged(2, format!("file:{}/no/front.log", bench.folder.display()))).await;
    let Err(ApplyError::Log(error)) = nowhere else { panic!("{nowhere:?}") };
    assert!(error.to_string().contains("create the directory"), "{error}");

    let target = format!("file:{}", path.display());
    supervisor.apply(logged(3, target.clone())).await.unwrap();
    let sinks = supervisor.stats().await.unwrap().log_sinks;
    assert_eq!(sinks.iter().map(|sink| &sink.target).collect::<Vec<_>>(), [&target]);
    assert_eq!(opened(pid, &path), 1);

    std::fs::rename(&path, &moved).unwrap();
    assert!(supervisor.reopen_logs());
    let deadline = Instant::now() + SOON;
    while opened(pid, &path) != 1 || opened(pid, &moved) != 0 {
        assert!(Instant::now() < deadline, "the core still writes to the file that was moved");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    // The next core has it too, and a sink that can't be opened any more keeps none from starting.
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    signal(pid, Signal::SIGKILL);
    let next = |state: &CoreState| matches!(state, CoreState::Ready { pid: next, .. } if *next != pid);
    let CoreState::Ready { pid, .. } = event(&mut events, next).await else { unreachable!("it was looked for") };
    echo(&TcpStream::connect(bench.address).unwrap()).unwrap();
    std::fs::remove_dir(&path).unwrap();
    assert!(supervisor.reopen_logs());
    while opened(pid, &path) != 1 {
        assert!(Instant::now() < deadline, "the core did not get the file that can be opened again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    supervisor.apply(bench.plan(4, &[bench.address])).await.unwrap();
    while opened(pid, &path) != 0 {
        assert!(Instant::now() < deadline, "a file that no plan names is still open");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    supervisor.stop(SECOND).await;
}

/// How often a process has a file open.
fn opened(pid: u32, path: &Path) -> usize {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    descriptors.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|target| target == path)).count()
}

#[tokio::test]
async fn a_plan_waits_for_a_core_that_is_down_and_is_what_the_next_one_starts_with() {
    let mut bench = Bench::new("down");
    bench.settings.timing.backoff_first = SECOND;
    let (supervisor, mut events) = bench.start();
    for _ in 0..2 {
        signal(ready(&mut events).await, Signal::SIGKILL);
    }
    event(&mut events, |state| matches!(state, CoreState::Backoff { .. })).await;
    let other = free();
    assert_eq!(supervisor.apply(bench.plan(2, &[other])).await.unwrap(), 2);
    echo(&TcpStream::connect(other).unwrap()).unwrap();
    assert!(TcpStream::connect(bench.address).is_err(), "the removed address is closed");
    supervisor.stop(SECOND).await;
}

#[tokio::test]
async fn stopping_resets_what_is_left_at_the_deadline_and_counts_it() {
    let bench = Bench::new("stop");
    let (supervisor, mut events) = bench.start();
    let pid = ready(&mut events).await;
    let client = TcpStream::connect(bench.address).unwrap();
    echo(&client).unwrap();
    let begin = Instant::now();
    assert_eq!(supervisor.stop(Duration::from_millis(500)).await.reset, Some(1));
    assert!(begin.elapsed() >= Duration::from_millis(500));
    assert!(echo(&client).is_err());
    assert!(!PathBuf::from(format!("/proc/{pid}")).exists());
    assert!(!bench.settings.adoption_socket.as_ref().unwrap().exists());
    assert!(matches!(supervisor.apply(bench.plan(2, &[])).await, Err(ApplyError::Stopping)));
}
