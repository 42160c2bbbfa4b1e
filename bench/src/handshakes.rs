//! Handshakes by the thousand: connections that ask once and end. Either one after the other from a fixed number of
//! clients, or as a storm that arrives at a fixed rate, whether or not earlier ones got through.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ::tests::wait::{self, WaitError};
use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::{self, Runtime};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};
use tokio_rustls::TlsConnector;

use crate::client::{self, PATIENCE, server_name};
use crate::cores;
use crate::peer::{HERE, answer};

/// Clients that come one after the other.
const CLIENTS: usize = 32;
/// Connections of a storm that are under way at once. Those beyond are never begun, and so never arrive.
const UNDER_WAY: usize = 1024;
/// How often a storm looks whether more are due.
const TICK: Duration = Duration::from_millis(1);

/// Why a handshake, or all that was to be measured by it, failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// A connection failed.
    #[error("a handshake with {address}, and one request")]
    Connection {
        /// Of the proxy.
        address: SocketAddr,
        /// From the system or from TLS.
        #[source]
        source: io::Error,
    },
    /// The answer was another.
    #[error("{address} answered: {answer}")]
    Answer {
        /// Of the proxy.
        address: SocketAddr,
        /// The beginning of it.
        answer: String,
    },
    /// Full where it was to be resumed, or the other way round.
    #[error("a handshake with {address} was {found:?} where {wanted:?} was wanted")]
    Kind {
        /// Of the proxy.
        address: SocketAddr,
        /// What it was.
        found: Option<HandshakeKind>,
        /// What it should have been.
        wanted: HandshakeKind,
    },
    /// The load could not be set up.
    #[error("set up the load")]
    Setup(#[source] io::Error),
    /// A storm that never began.
    #[error("a storm of handshakes towards {address}")]
    Never {
        /// Of the proxy.
        address: SocketAddr,
        /// What was waited for.
        #[source]
        source: WaitError,
    },
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

/// Clients that come one after the other.
pub(crate) struct Clients {
    address: SocketAddr,
    runtime: Runtime,
    /// With tickets of their own: none takes another's last.
    connectors: Vec<TlsConnector>,
    wanted: HandshakeKind,
}

impl Clients {
    /// None has been there yet.
    pub(crate) fn new(address: SocketAddr, resumed: bool) -> Result<Clients, HandshakeError> {
        let connectors = (0..CLIENTS).map(|_| connector(resumed)).collect::<Result<_, _>>()?;
        let wanted = if resumed { HandshakeKind::Resumed } else { HandshakeKind::Full };
        Ok(Clients { address, runtime: single_thread()?, connectors, wanted })
    }

    /// Each comes once, so that it has a ticket if it keeps any.
    pub(crate) fn prepare(&self) -> Result<(), HandshakeError> {
        let mut tasks = JoinSet::new();
        self.runtime.block_on(async {
            for connector in &self.connectors {
                let (connector, address) = (connector.clone(), self.address);
                tasks.spawn(async move { once(&connector, address).await.map(drop) });
            }
            tasks.join_all().await.into_iter().collect()
        })
    }

    /// Has them come again and again; how many handshakes there were, all of the wanted kind.
    pub(crate) fn run(&self, length: Duration) -> Result<u64, HandshakeError> {
        let end = Instant::now() + length;
        let mut tasks = JoinSet::new();
        let counts: Result<Vec<u64>, HandshakeError> = self.runtime.block_on(async {
            for connector in &self.connectors {
                tasks.spawn(again_and_again(connector.clone(), self.address, self.wanted, end));
            }
            tasks.join_all().await.into_iter().collect()
        });
        counts.map(|counts| counts.into_iter().sum())
    }
}

async fn again_and_again(
    connector: TlsConnector,
    address: SocketAddr,
    wanted: HandshakeKind,
    end: Instant,
) -> Result<u64, HandshakeError> {
    let mut count = 0;
    while Instant::now() < end {
        if wait::cancelled() {
            return Err(HandshakeError::Interrupted);
        }
        let found = once(&connector, address).await?;
        if found != Some(wanted) {
            return Err(HandshakeError::Kind { address, found, wanted });
        }
        count += 1;
    }
    Ok(count)
}

/// Full handshakes that arrive at a fixed rate until [`Storm::end`], from a thread of their own that gives way to whoever
/// else is on its processor: what is measured beside it shall wait for the proxy, not for the load.
pub(crate) struct Storm {
    counts: Arc<Counts>,
    thread: JoinHandle<Failures>,
}

/// Handshakes of a storm that did not get through.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    /// How many.
    pub(crate) count: u64,
    /// Why the first of them.
    pub(crate) first: Option<HandshakeError>,
}

impl Failures {
    fn add(&mut self, error: HandshakeError) {
        self.count += 1;
        self.first.get_or_insert(error);
    }
}

#[derive(Default)]
struct Counts {
    arrived: AtomicU64,
    end: AtomicBool,
}

impl Storm {
    /// Begins one of `rate` handshakes a second; returns when the first of them have got through.
    pub(crate) fn start(address: SocketAddr, rate: u32) -> Result<Storm, HandshakeError> {
        let (runtime, connector) = (single_thread()?, connector(false)?);
        let counts = Arc::new(Counts::default());
        let seen = counts.clone();
        let thread = thread::Builder::new()
            .name("storm".into())
            .spawn(move || {
                if let Err(errno) = cores::give_way() {
                    return Failures { count: 1, first: Some(HandshakeError::Setup(errno.into())) };
                }
                runtime.block_on(storm(address, rate, connector, &seen))
            })
            .map_err(HandshakeError::Setup)?;
        let storm = Storm { counts, thread };
        let begun = wait::wait_until("the first handshakes", PATIENCE, || match storm.arrived() {
            0 => Err("none yet".to_owned()),
            _ => Ok(()),
        });
        match begun {
            Ok(()) => Ok(storm),
            // What became of the first one says more than that there was none.
            Err(source) => Err(storm.end().first.unwrap_or(HandshakeError::Never { address, source })),
        }
    }

    /// How many have got through so far, their answers included.
    pub(crate) fn arrived(&self) -> u64 {
        self.counts.arrived.load(Ordering::Relaxed)
    }

    /// Ends it. Those that are under way then count as nothing.
    pub(crate) fn end(self) -> Failures {
        self.counts.end.store(true, Ordering::Relaxed);
        let gone = || HandshakeError::Setup(io::Error::other("its thread panicked"));
        self.thread.join().unwrap_or_else(|_| Failures { count: 1, first: Some(gone()) })
    }
}

async fn storm(address: SocketAddr, rate: u32, connector: TlsConnector, counts: &Counts) -> Failures {
    let (start, mut due) = (Instant::now(), 0);
    let mut tick = interval(TICK);
    let mut tasks = JoinSet::new();
    let mut failures = Failures::default();
    while !counts.end.load(Ordering::Relaxed) && !wait::cancelled() {
        tick.tick().await;
        while let Some(ended) = tasks.try_join_next() {
            match ended {
                Ok(Ok(_)) => {
                    counts.arrived.fetch_add(1, Ordering::Relaxed);
                }
                Ok(Err(error)) => failures.add(error),
                Err(panic) => failures.add(HandshakeError::Setup(panic.into())),
            }
        }
        let now = (start.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        for _ in due..now {
            if tasks.len() == UNDER_WAY {
                break;
            }
            let connector = connector.clone();
            tasks.spawn(async move { once(&connector, address).await });
        }
        due = now;
    }
    failures
}

/// A handshake and one request; which kind of handshake it was.
async fn once(connector: &TlsConnector, address: SocketAddr) -> Result<Option<HandshakeKind>, HandshakeError> {
    let failed = |source| HandshakeError::Connection { address, source };
    match timeout(PATIENCE, exchange(connector, address)).await {
        Err(_) => Err(failed(io::Error::new(io::ErrorKind::TimedOut, "no answer"))),
        Ok(Err(source)) => Err(failed(source)),
        Ok(Ok((_, said))) if !whole(&said) => {
            let answer = String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned();
            Err(HandshakeError::Answer { address, answer })
        }
        Ok(Ok((kind, _))) => Ok(kind),
    }
}

/// The proxy closes: so it is the proxy's end that lingers in TIME-WAIT, and the load never runs out of ports.
async fn exchange(connector: &TlsConnector, address: SocketAddr) -> io::Result<(Option<HandshakeKind>, Vec<u8>)> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let mut tls = connector.connect(server_name(), tcp).await?;
    let request = format!("GET {HERE} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    tls.write_all(request.as_bytes()).await?;
    let mut said = Vec::with_capacity(1024);
    if let Err(error) = (&mut tls).take(16 * 1024).read_to_end(&mut said).await {
        // An end without a close_notify, after all that was to come.
        if error.kind() != io::ErrorKind::UnexpectedEof || !whole(&said) {
            return Err(error);
        }
    }
    Ok((tls.get_ref().1.handshake_kind(), said))
}

fn whole(said: &[u8]) -> bool {
    said.starts_with(b"HTTP/1.1 200") && said.ends_with(answer().as_bytes())
}

fn connector(resumption: bool) -> Result<TlsConnector, HandshakeError> {
    let config = client::config(resumption).map_err(|error| HandshakeError::Setup(io::Error::other(error)))?;
    Ok(TlsConnector::from(Arc::new(config)))
}

fn single_thread() -> Result<Runtime, HandshakeError> {
    runtime::Builder::new_current_thread().enable_all().build().map_err(HandshakeError::Setup)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ::tests::place::Place;

    use super::*;
    use crate::certificate::{self, Key};
    use crate::peer::{Peer, Running};
    use crate::row::{Front, Kind, Tls};

    /// HAProxy that answers itself; nothing is behind it.
    fn haproxy(place: &Place, tickets: bool) -> Running {
        certificate::make(place, Key::P256).unwrap();
        let front = Front { kind: Kind::Here, tls: Some(Tls { key: Key::P256, tickets }) };
        Peer::Haproxy.start(place, front, place.at(8000), Path::new("lbnode")).unwrap()
    }

    #[test]
    fn only_a_whole_answer_of_200_counts() {
        let good = format!("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}", answer());
        assert!(whole(good.as_bytes()));
        assert!(!whole(&good.as_bytes()[..good.len() - 1]));
        assert!(!whole(good.replace("200", "503").as_bytes()));
    }

    #[test]
    fn a_handshake_of_another_kind_than_measured_is_an_error() {
        let place = Place::new("bench-kinds").unwrap();
        let proxy = haproxy(&place, false);
        let clients = |resumed| {
            let clients = Clients::new(proxy.address, resumed).unwrap();
            clients.prepare().unwrap();
            clients.run(Duration::from_millis(50))
        };
        assert!(clients(false).unwrap() > 0);
        let error = clients(true).unwrap_err();
        assert!(matches!(error, HandshakeError::Kind { found: Some(HandshakeKind::Full), .. }), "{error}");
    }

    #[test]
    fn clients_with_tickets_resume_every_session() {
        let place = Place::new("bench-resumed").unwrap();
        let proxy = haproxy(&place, true);
        let clients = Clients::new(proxy.address, true).unwrap();
        clients.prepare().unwrap();
        assert!(clients.run(Duration::from_millis(50)).unwrap() > 0);
    }

    #[test]
    fn a_storm_arrives_and_what_fails_is_counted() {
        let place = Place::new("bench-storm").unwrap();
        let proxy = haproxy(&place, true);
        let storm = Storm::start(proxy.address, 200).unwrap();
        wait::wait_until("twenty handshakes", PATIENCE, || match storm.arrived() {
            few @ 0..20 => Err(format!("{few}")),
            _ => Ok(()),
        })
        .unwrap();
        drop(proxy);
        // Some may have been due in between: they find nobody.
        wait::pass(Duration::from_millis(100));
        let failures = storm.end();
        assert!(failures.count > 0 && failures.first.is_some());
    }
}
