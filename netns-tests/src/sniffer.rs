//! What a host on the LAN hears, written down: frames with their times, for us to read and, as a pcap file, for
//! tshark, which knows nothing of our code and so cannot share its mistakes.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::frame::FrameSocket;
use crate::lan::INTERFACE;
use crate::netns::{Netns, NetnsError};

/// What is kept at most; later frames are counted, not kept.
const CAPACITY: usize = 100_000;
/// How often a sniffer looks whether it shall stop.
const TICK: Duration = Duration::from_millis(50);

/// Why nothing could be heard or read.
#[derive(Debug, thiserror::Error)]
pub enum SniffError {
    /// The socket.
    #[error("open a packet socket")]
    Socket(#[source] io::Error),
    /// The thread.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The file.
    #[error("write {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// From the system.
        #[source]
        source: io::Error,
    },
    /// tshark is missing.
    #[error("run tshark (Debian and Ubuntu: apt install tshark)")]
    Tshark(#[source] io::Error),
    /// tshark could not read the file.
    #[error("tshark failed: {0}")]
    Unreadable(String),
}

/// One frame.
#[derive(Clone, Debug)]
pub struct Heard {
    /// When, for comparing with other moments of this process.
    pub at: Instant,
    /// When, by the calendar.
    pub time: SystemTime,
    /// From the Ethernet header on.
    pub frame: Vec<u8>,
}

#[derive(Debug, Default)]
struct Ears {
    heard: Mutex<Vec<Heard>>,
    stop: AtomicBool,
}

/// A sniffer that is listening; ends when dropped.
#[derive(Debug)]
pub struct Sniffer {
    ears: Arc<Ears>,
    thread: Option<JoinHandle<()>>,
}

impl Sniffer {
    /// Listens in `netns` and keeps the frames that `keep` wants.
    pub fn start(netns: &Netns, keep: impl Fn(&[u8]) -> bool + Send + 'static) -> Result<Sniffer, SniffError> {
        let socket = FrameSocket::open(netns, INTERFACE).map_err(SniffError::Socket)?;
        let ears = Arc::new(Ears::default());
        let shared = Arc::clone(&ears);
        let thread = netns.thread("sniffer", move || {
            while !shared.stop.load(Ordering::Relaxed) {
                // An interface that goes down is an error once; the next call works again or waits.
                let Ok(Some(frame)) = socket.receive(TICK) else { continue };
                if keep(&frame) {
                    let mut heard = shared.heard.lock().unwrap_or_else(PoisonError::into_inner);
                    if heard.len() < CAPACITY {
                        heard.push(Heard { at: Instant::now(), time: SystemTime::now(), frame });
                    }
                }
            }
        })?;
        Ok(Sniffer { ears, thread: Some(thread) })
    }

    /// What was heard so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.ears.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was heard from `since` on.
    pub fn heard_since(&self, since: Instant) -> Vec<Heard> {
        self.heard().into_iter().filter(|heard| heard.at >= since).collect()
    }

    /// What tshark makes of it: one JSON object a packet. `pcap` is written for that, and stays.
    pub fn by_tshark(&self, pcap: &Path, filter: &str) -> Result<Vec<Value>, SniffError> {
        std::fs::write(pcap, to_pcap(&self.heard()))
            .map_err(|source| SniffError::File { path: pcap.into(), source })?;
        let output = Command::new("tshark")
            .arg("-r")
            .arg(pcap)
            .args(["-Y", filter, "-T", "json"])
            .stdin(Stdio::null())
            .output()
            .map_err(SniffError::Tshark)?;
        let failed = || SniffError::Unreadable(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        if !output.status.success() {
            return Err(failed());
        }
        serde_json::from_slice(&output.stdout).map_err(|_| failed())
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.ears.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there was printed; there is nothing to add.
            let _ = thread.join();
        }
    }
}

/// The classic pcap file format, microseconds, Ethernet.
fn to_pcap(heard: &[Heard]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(word.to_ne_bytes());
    }
    for Heard { time, frame, .. } in heard {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let length = u32::try_from(frame.len()).expect("frames are short");
        // The format's seconds end in 2106.
        let seconds = u32::try_from(since.as_secs()).unwrap_or(u32::MAX);
        for word in [seconds, since.subsec_micros(), length, length] {
            file.extend(word.to_ne_bytes());
        }
        file.extend(frame);
    }
    file
}
