//! One row: its proxies are started, measured in turn for some rounds, and ended.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use serde::Serialize;
use tests::part::PartError;
use tests::place::Place;
use tests::usage::processor_time;
use tests::wrk::{Load, Wrk};

use crate::cores::Cores;
use crate::idle::{self, IdleError};
use crate::paced::{self, PacedError};
use crate::peer::{Peer, Running, origin};
use crate::row::{CONNECTIONS, Row, Work};

/// How much time is spent.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Effort {
    /// Rounds of a row.
    pub(crate) rounds: usize,
    /// Load of one proxy in one round, in seconds.
    pub(crate) seconds: u64,
    /// Paced load of one proxy in one round, in seconds.
    pub(crate) paced_seconds: u64,
    /// Idle connections.
    pub(crate) idle: usize,
}

impl Effort {
    /// For figures that are written down.
    pub(crate) fn full() -> Effort {
        Effort { rounds: 7, seconds: 5, paced_seconds: 3, idle: 10_000 }
    }

    /// For a look.
    pub(crate) fn quick() -> Effort {
        Effort { rounds: 2, seconds: 1, paced_seconds: 1, idle: 2000 }
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
}

/// Why a row could not be measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MeasureError {
    /// No folder.
    #[error("make a folder for the parts")]
    Place(#[source] std::io::Error),
    /// No processor.
    #[error("choose a processor")]
    Cores(#[source] Errno),
    /// A part didn't start, or didn't end as it should.
    #[error("{0}")]
    Part(&'static str, #[source] PartError),
    /// The load met errors: a figure of it would say nothing.
    #[error("{peer:?}: of {requests} requests {errors} were answered with an error, and {failures} connections failed")]
    Load {
        /// Which proxy.
        peer: Peer,
        /// Answers.
        requests: u64,
        /// Those over 399.
        errors: u64,
        /// Connections.
        failures: u64,
    },
    /// Latency could not be measured.
    #[error("{0:?}")]
    Paced(Peer, #[source] PacedError),
    /// Memory could not be measured.
    #[error("{0:?}")]
    Idle(Peer, #[source] IdleError),
}

/// Measures one row.
pub(crate) fn measure(
    row: &Row,
    peers: &[Peer],
    lbnode: &Path,
    effort: &Effort,
    cores: &Cores,
) -> Result<BTreeMap<Peer, Figures>, MeasureError> {
    let place = Place::new("bench").map_err(MeasureError::Place)?;
    let (_origin, origin) = origin(&place).map_err(|error| MeasureError::Part("the origin", error))?;
    let start = |peer: Peer, kind| -> Result<Running, MeasureError> {
        let started = cores.proxy(|| peer.start(&place, kind, origin, lbnode)).map_err(MeasureError::Cores)?;
        started.map_err(|error| MeasureError::Part(peer.title(), error))
    };
    let mut figures: BTreeMap<Peer, Figures> = peers.iter().map(|peer| (*peer, Figures::default())).collect();
    match row.work {
        Work::Idle => {
            // One after the other, each fresh: what one load left in its heap would be taken for room that is free.
            for (peer, figures) in &mut figures {
                let running = start(*peer, crate::row::Kind::Http)?;
                load(&place, &running, "/100", Load { connections: CONNECTIONS, seconds: 1 })?;
                let bytes = idle::memory_each(running.part.pid(), running.address, effort.idle)
                    .map_err(|error| MeasureError::Idle(*peer, error))?;
                figures.rounds.push(bytes / 1024.0);
            }
        }
        Work::Requests { kind, path, connections, bulk, paced } => {
            let running = peers.iter().map(|peer| start(*peer, kind)).collect::<Result<Vec<_>, _>>()?;
            for proxy in &running {
                load(&place, proxy, path, Load { connections, seconds: 1 })?;
            }
            for _ in 0..effort.rounds {
                for proxy in &running {
                    let figures = figures.entry(proxy.peer).or_default();
                    let before = processor_time(proxy.part.pid());
                    let requests = load(&place, proxy, path, Load { connections, seconds: effort.seconds })?;
                    let used = processor_time(proxy.part.pid()).since(before);
                    let each = |time: Duration| match bulk {
                        None => time.as_secs_f64() * 1e6 / requests as f64,
                        Some(bytes) => time.as_secs_f64() * 1e3 / (requests as f64 * bytes as f64 / 1e9),
                    };
                    figures.rounds.push(each(used.total()));
                    figures.user.push(each(used.user));
                    if let Some(rate) = paced {
                        let (p50, p99) = latency(proxy, path, rate, effort)?;
                        figures.p50.push(p50);
                        figures.p99.push(p99);
                    }
                }
            }
        }
    }
    Ok(figures)
}

/// Loads a proxy; how many requests were answered.
fn load(place: &Place, proxy: &Running, path: &str, load: Load) -> Result<u64, MeasureError> {
    let failed = |error| MeasureError::Part("wrk", error);
    let seen =
        Wrk::start(place.folder(), "wrk", proxy.address, path, load).map_err(failed)?.finish().map_err(failed)?;
    if seen.requests == 0 || seen.errors > 0 || seen.failures > 0 {
        let (requests, errors, failures) = (seen.requests, seen.errors, seen.failures);
        return Err(MeasureError::Load { peer: proxy.peer, requests, errors, failures });
    }
    Ok(seen.requests)
}

fn latency(proxy: &Running, path: &str, rate: u32, effort: &Effort) -> Result<(f64, f64), MeasureError> {
    let length = Duration::from_secs(effort.paced_seconds);
    let address: SocketAddr = proxy.address;
    let mut all =
        paced::latencies(address, path, rate, length).map_err(|error| MeasureError::Paced(proxy.peer, error))?;
    all.sort_unstable();
    let at = |percent: usize| all.get(all.len() * percent / 100).map_or(0.0, |latency| latency.as_secs_f64() * 1e6);
    Ok((at(50), at(99)))
}
