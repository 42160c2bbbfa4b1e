//! Network namespaces without names: each belongs to a thread that entered it and stays.
//!
//! That thread, the resident, runs what has to happen inside, one thing after the other. It also starts the
//! processes that live there: the kernel ends a child with the *thread* that started it (`PR_SET_PDEATHSIG`),
//! so the starter has to live as long as the namespace does.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use futures_util::TryStreamExt;
use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::{Handle, LinkUnspec};

/// Why a namespace could not be made or worked in.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// No thread could be started.
    #[error("start a thread for network namespace {name}")]
    Thread {
        /// The namespace.
        name: String,
        /// From the system.
        #[source]
        source: io::Error,
    },
    /// The kernel made no namespace.
    #[error("make network namespace {name} (this needs root, or a user namespace)")]
    Unshare {
        /// The namespace.
        name: String,
        /// From the system.
        #[source]
        source: io::Error,
    },
    /// A setting under /proc/sys could not be written.
    #[error("write {value} to {path} in network namespace {name}")]
    Sysctl {
        /// The namespace.
        name: String,
        /// The file.
        path: PathBuf,
        /// What was to be written.
        value: String,
        /// From the system.
        #[source]
        source: io::Error,
    },
    /// A request to the kernel's network configuration failed.
    #[error("{what} in network namespace {name}")]
    Netlink {
        /// What was asked for.
        what: String,
        /// The namespace.
        name: String,
        /// From the kernel.
        #[source]
        source: Box<rtnetlink::Error>,
    },
    /// The socket for such requests could not be opened.
    #[error("open a netlink socket in network namespace {name}")]
    NetlinkSocket {
        /// The namespace.
        name: String,
        /// From the system.
        #[source]
        source: io::Error,
    },
}

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace. Clones are the same one; it ends with the last of them and the last process inside.
#[derive(Clone, Debug)]
pub struct Netns(Arc<Inside>);

#[derive(Debug)]
struct Inside {
    name: String,
    file: OwnedFd,
    inode: u64,
    /// A rendezvous: who asks for something waits until the resident takes it.
    jobs: Option<SyncSender<Job>>,
    resident: Option<JoinHandle<()>>,
}

impl Netns {
    /// A new namespace with its loopback up. `name` is for messages and thread names only.
    pub fn new(name: &str) -> Result<Netns, NetnsError> {
        let (jobs, work) = sync_channel::<Job>(0);
        let (report, made) = sync_channel::<io::Result<(OwnedFd, u64)>>(1);
        let resident = thread::Builder::new()
            .name(format!("netns-{name}"))
            .spawn(move || {
                let entered = unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from).and_then(|()| {
                    let file = File::open("/proc/thread-self/ns/net")?;
                    let inode = file.metadata()?.ino();
                    Ok((OwnedFd::from(file), inode))
                });
                let failed = entered.is_err();
                if report.send(entered).is_err() || failed {
                    return;
                }
                while let Ok(job) = work.recv() {
                    job();
                }
            })
            .map_err(|source| NetnsError::Thread { name: name.into(), source })?;
        let (file, inode) = made
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("its thread ended")))
            .map_err(|source| NetnsError::Unshare { name: name.into(), source })?;
        let inside = Inside { name: name.into(), file, inode, jobs: Some(jobs), resident: Some(resident) };
        let netns = Netns(Arc::new(inside));
        netns.netlink("bring up lo", |handle| async move {
            handle.link().set(LinkUnspec::new_with_name("lo").up().build()).execute().await
        })?;
        Ok(netns)
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its number in `/proc/*/ns/net`: tells namespaces apart.
    pub fn inode(&self) -> u64 {
        self.0.inode
    }

    /// Its descriptor, to enter it or to move an interface there.
    pub fn raw_fd(&self) -> RawFd {
        self.0.file.as_raw_fd()
    }

    /// A path by which another program (`nsenter --net=PATH`) can enter it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.raw_fd()))
    }

    /// Runs `work` on the namespace's own thread and waits for it. A panic in it is the caller's panic.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (reply, answer) = sync_channel(1);
        let job: Job = Box::new(move || {
            // Nobody to tell: the caller is gone, and with it the wish to know.
            let _ = reply.send(catch_unwind(AssertUnwindSafe(work)));
        });
        let jobs = self.0.jobs.as_ref().expect("only Drop takes it");
        jobs.send(job).expect("the resident lives until Drop");
        match answer.recv().expect("every job answers") {
            Ok(value) => value,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Starts a thread inside, for what goes on by itself: clients, servers, sniffers.
    pub fn thread<T: Send + 'static>(
        &self,
        what: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>, NetnsError> {
        let name = format!("{}-{what}", self.name());
        let (report, entered) = sync_channel(1);
        let inside = self.clone();
        let handle = thread::Builder::new()
            .name(name)
            .spawn(move || {
                let result = setns(&inside.0.file, CloneFlags::CLONE_NEWNET);
                drop(inside);
                // The starter waits for this one message.
                let _ = report.send(result);
                work()
            })
            .map_err(|source| NetnsError::Thread { name: self.name().into(), source })?;
        match entered.recv() {
            Ok(Ok(())) => Ok(handle),
            Ok(Err(errno)) => Err(NetnsError::Unshare { name: self.name().into(), source: errno.into() }),
            Err(_) => Err(NetnsError::Thread { name: self.name().into(), source: io::Error::other("it ended early") }),
        }
    }

    /// Writes a setting, for instance `net/ipv4/ip_local_port_range`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<(), NetnsError> {
        let path = PathBuf::from("/proc/sys").join(key);
        let (file, text) = (path.clone(), value.to_owned());
        self.run(move || std::fs::write(file, text)).map_err(|source| NetnsError::Sysctl {
            name: self.name().into(),
            path,
            value: value.into(),
            source,
        })
    }

    /// Runs one exchange with the kernel's network configuration inside; `what` is for the error.
    pub fn netlink<T, F>(
        &self,
        what: &str,
        exchange: impl FnOnce(Handle) -> F + Send + 'static,
    ) -> Result<T, NetnsError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, rtnetlink::Error>>,
    {
        let outcome = self.run(move || -> io::Result<Result<T, rtnetlink::Error>> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
            runtime.block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection()?;
                let driver = tokio::spawn(connection);
                let result = exchange(handle).await;
                driver.abort();
                Ok(result)
            })
        });
        match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                Err(NetnsError::Netlink { what: what.into(), name: self.name().into(), source: Box::new(error) })
            }
            Err(source) => Err(NetnsError::NetlinkSocket { name: self.name().into(), source }),
        }
    }

    /// The pids of all processes inside, whoever started them. The caller's own process is never among them.
    pub fn processes(&self) -> Vec<i32> {
        let own = std::process::id();
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
            .filter(|pid| *pid != own)
            .filter(|pid| std::fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|ns| ns.ino() == self.inode()))
            .filter_map(|pid| i32::try_from(pid).ok())
            .collect()
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(resident) = self.resident.take() {
            // A panic of the resident was already handed to whoever asked.
            let _ = resident.join();
        }
    }
}

/// The index of interface `name`.
pub async fn link_index(handle: &Handle, name: &str) -> Result<u32, rtnetlink::Error> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    match links.try_next().await? {
        Some(link) => Ok(link.header.index),
        None => Err(rtnetlink::Error::RequestFailed),
    }
}
