//! Servers by the thousand that are checked and otherwise left alone, and the listeners that they are.
//!
//! Each has an address of its own, all on one port. One thread answers for all of them and counts who came.

use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

/// From the start, or the end, of one check of a server to the start of its next.
pub(crate) const SECONDS: u64 = 2;
/// What a check in HTTP is answered.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK";
/// Servers of a backend: HAProxy takes long to read one of ten thousand.
const TOGETHER: usize = 100;
/// Servers have no other use for ports.
const PORT: u16 = 8000;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// Whether the connection opens.
    Tcp,
    /// For `/`, and an answer of 200 to 399.
    Http,
}

/// Servers that are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checked {
    /// How.
    pub(crate) probe: Probe,
    /// How many.
    pub(crate) servers: usize,
}

/// Where the servers are, for this process.
pub(crate) fn servers(count: usize) -> impl Iterator<Item = SocketAddr> {
    // 127.128.0.0/9: no part of a test is there.
    let first = Ipv4Addr::new(127, 128, 0, 0).to_bits() | (std::process::id() & 0x1ff) << 14;
    (1..).take(count).map(move |number| SocketAddr::from((Ipv4Addr::from_bits(first + number), PORT)))
}

impl Checked {
    /// lbnode's backend, with a frontend that nobody visits.
    pub(crate) fn site(self, front: SocketAddr) -> String {
        let check = match self.probe {
            Probe::Tcp => "tcp = {}",
            Probe::Http => "http = { expect = \"200-399\" }",
        };
        let mut text = format!(
            "[pair]\nname = \"site\"\n[frontend.front]\nmode = \"http\"\nbind = \"{front}\"\ndefault_backend = \"back0\"\n"
        );
        for (number, servers) in self.backends().enumerate() {
            write!(
                text,
                "[backend.back{number}]\nmode = \"http\"\ncheck = {{ {check}, interval = \"{SECONDS}s\" }}\nservers = [\n"
            )
            .expect("a string grows");
            for (number, address) in servers.iter().enumerate() {
                writeln!(text, "  {{ name = \"s{number}\", address = \"{address}\" }},").expect("a string grows");
            }
            text += "]\n";
        }
        text
    }

    /// HAProxy's, with the request that lbnode sends.
    pub(crate) fn sections(self, front: SocketAddr) -> String {
        let check = match self.probe {
            Probe::Tcp => "",
            Probe::Http => {
                "  option httpchk\n  http-check send meth GET uri / ver HTTP/1.1 hdr Host check hdr Connection close \
                hdr User-Agent haproxy\n  http-check expect status 200-399\n"
            }
        };
        let mut text = format!(
            "defaults\n  mode http\n  maxconn 1000\n  timeout connect 10s\n  timeout client 10s\n  timeout server 10s\n\
            frontend front\n  bind {front}\n  default_backend back0\n"
        );
        for (number, servers) in self.backends().enumerate() {
            write!(text, "backend back{number}\n{check}  default-server check inter {SECONDS}s\n")
                .expect("a string grows");
            for (number, address) in servers.iter().enumerate() {
                writeln!(text, "  server s{number} {address}").expect("a string grows");
            }
        }
        text
    }

    /// The servers of each backend.
    fn backends(self) -> impl Iterator<Item = Vec<SocketAddr>> {
        let mut all = servers(self.servers);
        std::iter::from_fn(move || {
            let some: Vec<_> = all.by_ref().take(TOGETHER).collect();
            (!some.is_empty()).then_some(some)
        })
    }
}

/// Listeners at the servers' addresses, until dropped.
pub(crate) struct Servers {
    probe: Probe,
    seen: Arc<AtomicU64>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Servers {
    /// Listens at their addresses.
    pub(crate) fn start(Checked { probe, servers: count }: Checked) -> io::Result<Servers> {
        let listeners = servers(count).map(std::net::TcpListener::bind).collect::<io::Result<Vec<_>>>()?;
        let (end, ended) = oneshot::channel();
        let seen = Arc::<AtomicU64>::default();
        let counter = Arc::clone(&seen);
        let thread = thread::Builder::new().name("servers".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
            LocalSet::new().block_on(&runtime, async {
                for listener in listeners {
                    listener.set_nonblocking(true)?;
                    tokio::task::spawn_local(listen(TcpListener::from_std(listener)?, probe, Arc::clone(&counter)));
                }
                // An error: whoever held it is gone.
                let _ = ended.await;
                Ok(())
            })
        })?;
        Ok(Servers { probe, seen, end: Some(end), thread: Some(thread) })
    }

    /// Checks so far, over all servers: the requests that came, and where nothing is said, connections that this machine has
    /// begun (`ActiveOpens`, /proc/net/snmp). Of a check that only connects a server sees nothing: the handshake is not finished.
    pub(crate) fn seen(&self) -> io::Result<u64> {
        match self.probe {
            Probe::Tcp => active_opens(&std::fs::read_to_string("/proc/net/snmp")?)
                .ok_or_else(|| io::Error::other("/proc/net/snmp has no ActiveOpens")),
            Probe::Http => Ok(self.seen.load(Ordering::Relaxed)),
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.end.take();
        // Nothing is left to be said of it: the row has its figures, or says why not.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A line of names of TCP's counters, and one with their values.
fn active_opens(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter(|line| line.starts_with("Tcp:"));
    let number = lines.next()?.split(' ').position(|name| name == "ActiveOpens")?;
    lines.next()?.split(' ').nth(number)?.parse().ok()
}

async fn listen(listener: TcpListener, probe: Probe, seen: Arc<AtomicU64>) {
    // One that was reset before it was accepted came all the same.
    loop {
        let accepted = listener.accept().await;
        seen.fetch_add(1, Ordering::Relaxed);
        if let Ok((stream, _)) = accepted {
            // It ends as its client likes.
            tokio::task::spawn_local(async move { serve(stream, probe).await });
        }
    }
}

async fn serve(mut stream: TcpStream, probe: Probe) -> io::Result<()> {
    let mut said = [0; 1024];
    let read = stream.read(&mut said).await?;
    if probe == Probe::Http && said[..read].ends_with(b"\r\n\r\n") {
        stream.write_all(ANSWER).await?;
    }
    Ok(())
}
