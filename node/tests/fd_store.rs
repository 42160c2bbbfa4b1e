//! The listeners' way into systemd's descriptor store and back, with `lbnode run` in a network namespace of its own
//! and a stand-in for systemd: a datagram socket that keeps what it is sent, and passes it on to the next agent.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(unsafe_code, reason = "owns descriptors that arrived by number, and places them between fork and exec")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use netns_lab::netns::Netns;
use netns_lab::process::{Process, alive, kill_all};
use netns_lab::wait::wait_until;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use node::listeners::key_of_fd_name;
use proxy_core::listener::ListenerKey;

const SOON: Duration = Duration::from_secs(20);
/// The first descriptor that systemd passes (sd_listen_fds(3)).
const FIRST: i32 = 3;
const VIP: &str = "192.0.2.80:8080";
const WORKERS: u16 = 2;

/// What systemd would be to the agent.
struct Systemd {
    socket: UnixDatagram,
    path: PathBuf,
    store: BTreeMap<String, OwnedFd>,
    ready: bool,
}

impl Systemd {
    fn new(path: PathBuf) -> Systemd {
        let socket = UnixDatagram::bind(&path).unwrap();
        Systemd { socket, path, store: BTreeMap::new(), ready: false }
    }

    /// Takes in what was said until now.
    fn hear(&mut self) {
        let mut text = [0; 4096];
        loop {
            let mut space = cmsg_space!([i32; 8]);
            let mut room = [IoSliceMut::new(&mut text)];
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
            let received = match recvmsg::<()>(self.socket.as_raw_fd(), &mut room, Some(&mut space), flags) {
                Err(Errno::EAGAIN) => return,
                received => received.unwrap(),
            };
            let mut arrived = Vec::new();
            for message in received.cmsgs().unwrap() {
                if let ControlMessageOwned::ScmRights(numbers) = message {
                    // SAFETY: the kernel just made them for this process, and nobody else knows them.
                    arrived.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
                }
            }
            let length = received.bytes;
            let said = std::str::from_utf8(&text[..length]).unwrap();
            let name = said.lines().find_map(|line| line.strip_prefix("FDNAME="));
            self.ready |= said.lines().any(|line| line == "READY=1");
            if said.lines().any(|line| line == "FDSTORE=1") {
                assert_eq!(arrived.len(), 1, "{said}");
                self.store.insert(name.unwrap().to_owned(), arrived.remove(0));
            } else if said.lines().any(|line| line == "FDSTOREREMOVE=1") {
                self.store.remove(name.unwrap());
            }
            assert!(arrived.is_empty(), "descriptors that are not for the store: {said}");
        }
    }

    /// Starts an agent with everything that is in the store, and waits until it says that it is ready.
    fn start(&mut self, netns: &Netns, folder: &Path) -> Process {
        // Well above the places where they go, so that none is overwritten before it is copied.
        let high = |fd: &OwnedFd| {
            let number = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(200)).unwrap();
            // SAFETY: the kernel just made it, and nobody else knows it.
            unsafe { OwnedFd::from_raw_fd(number) }
        };
        let passed: Vec<OwnedFd> = self.store.values().map(high).collect();
        let names = self.store.keys().cloned().collect::<Vec<_>>().join(":");
        // Only the process itself knows LISTEN_PID in time.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh", env!("CARGO_BIN_EXE_lbnode"), "run", "--config"]);
        command.arg(folder.join("node.toml")).env("NOTIFY_SOCKET", &self.path);
        command.env("LISTEN_FDS", passed.len().to_string()).env("LISTEN_FDNAMES", names);
        let numbers: Vec<i32> = passed.iter().map(AsRawFd::as_raw_fd).collect();
        // SAFETY: between fork and exec only dup2 is called, which is async-signal-safe and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                for (place, number) in (FIRST..).zip(&numbers) {
                    Errno::result(libc::dup2(*number, place))?;
                }
                Ok(())
            });
        }
        self.ready = false;
        let mut agent = Process::start(netns, "lbnode", command, &folder.join("log")).unwrap();
        let ready = wait_until("the agent to be ready", SOON, || {
            self.hear();
            if self.ready { Ok(()) } else { Err("not yet".to_owned()) }
        });
        ready.unwrap_or_else(|error| panic!("{error}; {}", agent.describe()));
        agent
    }

    /// What is in the store, by what its name says that it is.
    fn sockets(&self) -> BTreeMap<ListenerKey, u64> {
        self.store.iter().map(|(name, fd)| (key_of_fd_name(name).unwrap(), inode(fd))).collect()
    }
}

fn inode(fd: &OwnedFd) -> u64 {
    nix::sys::stat::fstat(fd).unwrap().st_ino
}

/// Sockets that listen in the namespace, as inodes.
fn listening(netns: &Netns) -> BTreeSet<u64> {
    let table = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap());
    let listens = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        (fields.get(3) == Some(&"0A")).then(|| fields[9].parse().unwrap())
    };
    table.lines().filter_map(listens).collect()
}

fn write_files(folder: &Path, threads: u16) {
    let home = folder.display();
    let node = format!(
        "name = \"a\"\nstate_dir = \"{home}/state\"\nruntime_dir = \"{home}/run\"\nbootstrap = \"{home}/cluster.toml\"\n\
         [vrrp]\ninterface = \"lo\"\npriority = 100\n[proxy]\nuser = \"65534\"\nthreads = {threads}\n\
         [control]\nsocket = \"{home}/control.sock\"\n"
    );
    let cluster = format!(
        "[pair]\nname = \"p\"\n[vip.v]\naddress = \"{}\"\nvrid = 5\n[frontend.f]\nmode = \"tcp\"\nbind = \"v:8080\"\n\
         default_backend = \"b\"\n[backend.b]\nmode = \"tcp\"\nservers = [{{ name = \"s\", address = \"127.0.0.1:9\" }}]\n",
        VIP.split(':').next().unwrap()
    );
    std::fs::write(folder.join("node.toml"), node).unwrap();
    std::fs::write(folder.join("cluster.toml"), cluster).unwrap();
}

#[test]
fn listeners_survive_agent_and_core_in_the_descriptor_store_and_what_is_of_no_use_leaves_it() {
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: network namespaces need root");
    }
    let folder = std::env::temp_dir().join(format!("lbnode-fd-store-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let netns = Netns::new("fd-store").unwrap();
    write_files(&folder, WORKERS);
    let mut systemd = Systemd::new(folder.join("notify.sock"));

    let mut agent = systemd.start(&netns, &folder);
    let stored = systemd.sockets();
    let address = VIP.parse().unwrap();
    let wanted: BTreeSet<_> = (0..WORKERS).map(|worker| ListenerKey { address, worker }).collect();
    assert_eq!(stored.keys().copied().collect::<BTreeSet<_>>(), wanted, "{}", agent.describe());
    assert_eq!(listening(&netns), stored.values().copied().collect(), "they are the agent's own");
    for (name, fd) in &systemd.store {
        let local = socket2::SockRef::from(fd).local_addr().unwrap();
        assert_eq!(local.as_socket(), Some(key_of_fd_name(name).unwrap().address));
    }

    // Agent, guard and core: nobody but the store has them now.
    agent.kill();
    kill_all(&netns).unwrap();
    assert_eq!(listening(&netns), stored.values().copied().collect());
    let mut agent = systemd.start(&netns, &folder);
    assert_eq!(systemd.sockets(), stored, "{}", agent.describe());
    assert_eq!(listening(&netns), stored.values().copied().collect(), "no others were bound");

    // The next one wants a worker less.
    agent.kill();
    kill_all(&netns).unwrap();
    write_files(&folder, WORKERS - 1);
    let mut agent = systemd.start(&netns, &folder);
    let first = ListenerKey { address, worker: 0 };
    assert_eq!(systemd.sockets(), BTreeMap::from([(first, stored[&first])]), "{}", agent.describe());
    assert_eq!(listening(&netns), BTreeSet::from([stored[&first]]));

    agent.stop(SOON);
    kill_all(&netns).unwrap();
    assert!(netns.processes().into_iter().all(|pid| !alive(pid)));
    std::fs::remove_dir_all(&folder).unwrap();
}
