//! One row: its proxies are started, measured in turn for some rounds, and ended.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use serde::Serialize;
use tests::part::PartError;
use tests::place::Place;
use tests::usage::{Time, processor_time};
use tests::wait::{self, WaitError};
use tests::wrk::{self, Wrk};

use crate::certificate::{self, CertificateError};
use crate::checks::{self, Checked, Servers};
use crate::client::{self, Target};
use crate::cores::Cores;
use crate::h2load;
use crate::handshakes::{Clients, HandshakeError, Storm};
use crate::idle::{self, IdleError};
use crate::paced::{Paced, PacedError};
use crate::peer::{Peer, Running, origin};
use crate::row::{Front, Load, PACE, Row, WARM_UP, Work};

/// Checks of all servers have begun by then, also on a busy machine.
const BEGUN: Duration = Duration::from_secs(60);

/// How much time is spent.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Effort {
    /// Rounds of a row.
    pub(crate) rounds: usize,
    /// Load of one proxy in one round, in seconds.
    pub(crate) seconds: u64,
    /// Paced load of one proxy in one round, in seconds.
    pub(crate) paced_seconds: u64,
    /// Checks of servers by one proxy in one round, in seconds.
    pub(crate) checks_seconds: u64,
    /// Idle connections in the clear.
    pub(crate) idle: usize,
    /// Idle connections over TLS.
    pub(crate) idle_tls: usize,
}

impl Effort {
    /// For figures that are written down.
    pub(crate) fn full() -> Effort {
        Effort { rounds: 7, seconds: 5, paced_seconds: 3, checks_seconds: 10, idle: 10_000, idle_tls: 2000 }
    }

    /// For a look.
    pub(crate) fn quick() -> Effort {
        Effort { rounds: 2, seconds: 1, paced_seconds: 1, checks_seconds: 4, idle: 2000, idle_tls: 2000 }
    }
}

/// What was measured of one proxy.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Figures {
    /// The row's figure, of each round.
    pub(crate) rounds: Vec<f64>,
    /// The part of it that was spent in the proxy's own code.
    pub(crate) user: Vec<f64>,
    /// Half of the answers came within so many µs, of each round.
    pub(crate) p50: Vec<f64>,
    /// Ninety-nine of a hundred did.
    pub(crate) p99: Vec<f64>,
    /// How it was in each round before the storm.
    pub(crate) calm: Vec<Latency>,
    /// Handshakes of the storm that got through, a second.
    pub(crate) arrived: Vec<f64>,
    /// Those that failed, in all.
    pub(crate) failed: u64,
    /// Checks of servers a second, of each round.
    pub(crate) checks: Vec<f64>,
}

/// In µs.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latency {
    /// Of half of the answers.
    pub(crate) p50: f64,
    /// Of ninety-nine of a hundred.
    pub(crate) p99: f64,
}

/// Why a row could not be measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MeasureError {
    /// No folder.
    #[error("make a folder for the parts")]
    Place(#[source] std::io::Error),
    /// No certificate.
    #[error("a certificate for the proxies")]
    Certificate(#[from] CertificateError),
    /// No client that speaks TLS.
    #[error("set up TLS for the load")]
    Tls(#[source] rustls::Error),
    /// No processor.
    #[error("choose a processor")]
    Cores(#[source] Errno),
    /// A part didn't start, or didn't end as it should.
    #[error("{0}")]
    Part(&'static str, #[source] PartError),
    /// The load met errors: a figure of it would say nothing.
    #[error("{peer:?}: {requests} answers, {errors} with another status than wanted; {failures} failures")]
    Load {
        /// Which proxy.
        peer: Peer,
        /// Answers.
        requests: u64,
        /// Those that say no.
        errors: u64,
        /// Of connections or requests.
        failures: u64,
    },
    /// Latency could not be measured.
    #[error("{0:?}")]
    Paced(Peer, #[source] PacedError),
    /// Nobody to be checked.
    #[error("listen at the addresses of the servers")]
    Servers(#[source] std::io::Error),
    /// How many connections there were.
    #[error("count connections")]
    Counter(#[source] std::io::Error),
    /// Nobody checks them.
    #[error("{peer:?}")]
    Unchecked {
        /// Which proxy.
        peer: Peer,
        /// What was waited for.
        #[source]
        source: WaitError,
    },
    /// Fewer checks than there should be: a figure of them would say nothing.
    #[error("{peer:?}: {seen} checks within {within:?}, and {least} at the least were expected")]
    Checks {
        /// Which proxy.
        peer: Peer,
        /// Those that came.
        seen: u64,
        /// Meanwhile.
        within: Duration,
        /// Those that should have.
        least: u64,
    },
    /// A handshake failed.
    #[error("{0:?}")]
    Handshakes(Peer, #[source] HandshakeError),
    /// Memory could not be measured.
    #[error("{0:?}")]
    Idle(Peer, #[source] IdleError),
}

/// Measures one row.
pub(crate) fn measure(row: &Row, peers: &[Peer], lbnode: &Path, effort: &Effort, cores: &Cores) -> Measured {
    let place = Place::new("bench").map_err(MeasureError::Place)?;
    if let Some(tls) = row.front.tls {
        certificate::make(&place, tls.key)?;
    }
    let (_origin, origin) = origin(&place).map_err(|error| MeasureError::Part("the origin", error))?;
    let start = |peer: &Peer| -> Result<Running, MeasureError> {
        let started = cores.proxy(|| peer.start(&place, row.front, origin, lbnode)).map_err(MeasureError::Cores)?;
        started.map_err(|error| MeasureError::Part(peer.title(), error))
    };
    let all = || peers.iter().map(start).collect::<Result<Vec<_>, _>>();
    let run = Run { place: &place, front: row.front, effort };
    match row.work {
        Work::Requests { load, path, bulk, paced } => run.requests(&all()?, load, path, bulk, paced),
        Work::Handshakes { resumed } => run.handshakes(&all()?, resumed),
        // One after the other, each fresh: what one load left in its heap would be taken for room that is free.
        Work::Idle => peers.iter().map(|peer| Ok((*peer, run.idle(&start(peer)?)?))).collect(),
        Work::Storm(rate) => run.storm(&all()?, rate),
        Work::Checks(checked) => {
            let servers = Servers::start(checked).map_err(MeasureError::Servers)?;
            run.checks(&servers, checked, peers.iter().filter(|peer| peer.checks()), start)
        }
    }
}

/// What the rounds of a row share.
struct Run<'a> {
    place: &'a Place,
    front: Front,
    effort: &'a Effort,
}

/// Of every proxy of the row.
type Measured = Result<BTreeMap<Peer, Figures>, MeasureError>;

impl Run<'_> {
    fn requests(&self, running: &[Running], load: Load, path: &str, bulk: Option<u64>, paced: bool) -> Measured {
        let mut all = BTreeMap::<Peer, Figures>::new();
        for proxy in running {
            self.load(proxy, path, load, 1)?;
        }
        for _ in 0..self.effort.rounds {
            for proxy in running {
                let figures = all.entry(proxy.peer).or_default();
                let before = processor_time(proxy.part.pid());
                let requests = self.load(proxy, path, load, self.effort.seconds)?;
                let used = processor_time(proxy.part.pid()).since(before);
                figures.count(used, |time| match bulk {
                    None => time.as_secs_f64() * 1e6 / requests as f64,
                    Some(bytes) => time.as_secs_f64() * 1e3 / (requests as f64 * bytes as f64 / 1e9),
                });
                if paced {
                    let failed = |error| MeasureError::Paced(proxy.peer, error);
                    let mut clients = Paced::connect(&self.target(proxy)?, path).map_err(failed)?;
                    let latency = self.latency(&mut clients).map_err(failed)?;
                    figures.p50.push(latency.p50);
                    figures.p99.push(latency.p99);
                }
            }
        }
        Ok(all)
    }

    fn handshakes(&self, running: &[Running], resumed: bool) -> Measured {
        let mut all = BTreeMap::<Peer, Figures>::new();
        let mut clients = Vec::new();
        for proxy in running {
            let failed = |error| MeasureError::Handshakes(proxy.peer, error);
            let its = Clients::new(proxy.address, resumed).map_err(failed)?;
            its.prepare().map_err(failed)?;
            its.run(Duration::from_secs(1)).map_err(failed)?;
            clients.push((proxy, its));
        }
        for _ in 0..self.effort.rounds {
            for (proxy, clients) in &clients {
                let failed = |error| MeasureError::Handshakes(proxy.peer, error);
                // Their tickets may have become too old since.
                clients.prepare().map_err(failed)?;
                let before = processor_time(proxy.part.pid());
                let handshakes = clients.run(Duration::from_secs(self.effort.seconds)).map_err(failed)?;
                let used = processor_time(proxy.part.pid()).since(before);
                let figures = all.entry(proxy.peer).or_default();
                figures.count(used, |time| time.as_secs_f64() * 1e6 / handshakes as f64);
            }
        }
        Ok(all)
    }

    fn idle(&self, proxy: &Running) -> Result<Figures, MeasureError> {
        self.load(proxy, "/100", WARM_UP, 1)?;
        let count = if self.front.tls.is_some() { self.effort.idle_tls } else { self.effort.idle };
        let bytes = idle::memory_each(proxy.part.pid(), &self.target(proxy)?, count)
            .map_err(|error| MeasureError::Idle(proxy.peer, error))?;
        Ok(Figures { rounds: vec![bytes / 1024.0], ..Figures::default() })
    }

    fn storm(&self, running: &[Running], rate: u32) -> Measured {
        let mut all = BTreeMap::<Peer, Figures>::new();
        for proxy in running {
            self.load(proxy, "/100", WARM_UP, 1)?;
        }
        for _ in 0..self.effort.rounds {
            for proxy in running {
                let slow = |error| MeasureError::Paced(proxy.peer, error);
                let stormy = |error| MeasureError::Handshakes(proxy.peer, error);
                let mut clients = Paced::connect(&self.target(proxy)?, "/100").map_err(slow)?;
                let calm = self.latency(&mut clients).map_err(slow)?;
                let storm = Storm::start(proxy.address, rate).map_err(stormy)?;
                let (began, before) = (Instant::now(), storm.arrived());
                let latency = self.latency(&mut clients).map_err(slow)?;
                let arrived = (storm.arrived() - before) as f64 / began.elapsed().as_secs_f64();
                let failures = storm.end();
                if let Some(error) = failures.first {
                    eprintln!(
                        "bench: {}: {} handshakes failed, the first: {error}",
                        proxy.peer.title(),
                        failures.count
                    );
                }
                let figures = all.entry(proxy.peer).or_default();
                figures.failed += failures.count;
                figures.rounds.push(latency.p99);
                figures.p50.push(latency.p50);
                figures.calm.push(calm);
                figures.arrived.push(arrived);
            }
        }
        Ok(all)
    }

    /// One after the other, each fresh in each round: nothing but time passes.
    fn checks<'p>(
        &self,
        servers: &Servers,
        checked: Checked,
        peers: impl Iterator<Item = &'p Peer> + Clone,
        start: impl Fn(&Peer) -> Result<Running, MeasureError>,
    ) -> Measured {
        let mut all = BTreeMap::<Peer, Figures>::new();
        let least = checked.servers as u64 * self.effort.checks_seconds / checks::SECONDS * 8 / 10;
        for _ in 0..self.effort.rounds {
            for peer in peers.clone() {
                let seen = || servers.seen().map_err(MeasureError::Counter);
                let known = seen()? + 2 * checked.servers as u64;
                let proxy = start(peer)?;
                // First checks come more quickly, and change what is known of a server.
                wait::wait_until("two checks of each server", BEGUN, || {
                    let left = known.saturating_sub(servers.seen().map_err(|error| error.to_string())?);
                    if left == 0 { Ok(()) } else { Err(format!("{left} have not come")) }
                })
                .map_err(|source| MeasureError::Unchecked { peer: *peer, source })?;
                let (began, before, first) = (Instant::now(), processor_time(proxy.part.pid()), seen()?);
                wait::pass(Duration::from_secs(self.effort.checks_seconds));
                let used = processor_time(proxy.part.pid()).since(before);
                let (seen, within) = (seen()? - first, began.elapsed());
                if seen < least {
                    return Err(MeasureError::Checks { peer: *peer, seen, within, least });
                }
                let figures = all.entry(*peer).or_default();
                figures.count(used, |time| time.as_secs_f64() * 1e6 / seen as f64);
                figures.checks.push(seen as f64 / within.as_secs_f64());
            }
        }
        Ok(all)
    }

    /// Loads a proxy; how many requests were answered.
    fn load(&self, proxy: &Running, path: &str, load: Load, seconds: u64) -> Result<u64, MeasureError> {
        let scheme = if self.front.tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}{path}", proxy.address);
        let folder = self.place.folder();
        let (requests, errors, failures) = match load {
            Load::Http1 { connections } => {
                let load = wrk::Load { connections, seconds };
                let seen = Wrk::start_url(folder, "wrk", &url, load).and_then(Wrk::finish);
                let seen = seen.map_err(|error| MeasureError::Part("wrk", error))?;
                (seen.requests, seen.errors, seen.failures)
            }
            Load::Http2 { connections, streams } => {
                let seen = h2load::run(folder, &url, connections, streams, seconds);
                let seen = seen.map_err(|error| MeasureError::Part("h2load", error))?;
                (seen.requests, seen.errors, seen.failures)
            }
        };
        if requests == 0 || errors > 0 || failures > 0 {
            return Err(MeasureError::Load { peer: proxy.peer, requests, errors, failures });
        }
        Ok(requests)
    }

    fn target(&self, proxy: &Running) -> Result<Target, MeasureError> {
        let tls = self.front.tls.map(|_| client::config(false)).transpose().map_err(MeasureError::Tls)?;
        Ok(Target { address: proxy.address, tls: tls.map(Arc::new) })
    }

    fn latency(&self, clients: &mut Paced) -> Result<Latency, PacedError> {
        let mut all = clients.latencies(PACE, Duration::from_secs(self.effort.paced_seconds))?;
        all.sort_unstable();
        let at = |percent: usize| all.get(all.len() * percent / 100).map_or(0.0, |latency| latency.as_secs_f64() * 1e6);
        Ok(Latency { p50: at(50), p99: at(99) })
    }
}

impl Figures {
    /// One more round.
    fn count(&mut self, used: Time, each: impl Fn(Duration) -> f64) {
        self.rounds.push(each(used.total()));
        self.user.push(each(used.user));
    }
}
