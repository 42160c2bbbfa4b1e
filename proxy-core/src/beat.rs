//! Proof of life: a page of counters that the workers write and the agent reads.
//!
//! The page is a sealed memfd mapped by both processes, so a sign of life costs one relaxed store and no system
//! call. Each worker has a cache line of its own. Nothing here says when silence is too long: that is the
//! supervisor's judgement (docs/failover.md, "What counts as healthy"). Behind the counters lies what tells when the
//! first client came to an address ([`crate::first`]).
#![allow(unsafe_code, reason = "maps memory that two processes share, and reads the clock that they share")]

use std::io;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::first::Watches;

/// Workers that a board has room for.
pub const MAX_WORKERS: u16 = 256;

const BYTES: usize = size_of::<Page>();

/// What is shared.
#[repr(C)]
struct Page {
    lines: [Line; MAX_WORKERS as usize],
    watches: Watches,
}

/// What one worker writes; a cache line of its own, so that no two workers contend.
#[repr(C, align(64))]
struct Line {
    beat: AtomicU64,
    polls: AtomicU64,
    tid: AtomicI32,
}

/// The signs of life of all workers of one proxy core.
///
/// Clones share the mapping; [`BeatBoard::as_fd`] is what travels to the other process.
#[derive(Clone, Debug)]
pub struct BeatBoard {
    mapping: Arc<Mapping>,
}

#[derive(Debug)]
struct Mapping {
    fd: OwnedFd,
    page: NonNull<Page>,
}

// SAFETY: the mapping is reached only through atomics, and lives as long as the last owner.
unsafe impl Send for Mapping {}
// SAFETY: as above; every access is an atomic load or store.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped with this length by `BeatBoard::map`, and nobody is left who could read it.
        // Failure would leak the page; there is nobody to tell.
        let _ = unsafe { munmap(self.page.cast(), BYTES) };
    }
}

/// One worker's signs of life at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Grows by one about every 50 ms while the worker's runtime turns.
    pub beat: u64,
    /// Grows by one with each poll of a task: a worker that is busy with long work still moves it.
    pub polls: u64,
    /// The worker's kernel thread; 0 until it is announced.
    pub tid: i32,
}

impl BeatBoard {
    /// A new board, all zero.
    ///
    /// # Errors
    /// The kernel has no memory or no descriptor left.
    pub fn create() -> io::Result<BeatBoard> {
        let fd = memfd_create(c"lbnode-beats", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        nix::unistd::ftruncate(&fd, BYTES as i64)?;
        // Its size is fixed for good: the core could otherwise cut it short, and the agent would die of SIGBUS.
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL))?;
        BeatBoard::map(fd)
    }

    /// The board behind a descriptor that came from another process.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] when it is not a board: another size, or one that could shrink.
    pub fn from_fd(fd: OwnedFd) -> io::Result<BeatBoard> {
        let seals = SealFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GET_SEALS).map_err(not_a_board)?);
        let size = nix::sys::stat::fstat(&fd)?.st_size;
        if size != BYTES as i64 || !seals.contains(SealFlag::F_SEAL_SHRINK) {
            return Err(not_a_board(format!("{size} bytes, seals {seals:?}")));
        }
        BeatBoard::map(fd)
    }

    fn map(fd: OwnedFd) -> io::Result<BeatBoard> {
        let length = NonZeroUsize::new(BYTES).expect("a board has room for workers");
        // SAFETY: a fresh shared mapping of a file that is exactly this long and sealed against shrinking.
        let page =
            unsafe { mmap(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, &fd, 0) }?;
        Ok(BeatBoard { mapping: Arc::new(Mapping { fd, page: page.cast() }) })
    }

    /// Where `worker` writes its signs of life.
    ///
    /// # Panics
    /// When `worker` is not below [`MAX_WORKERS`]; the number of workers is checked when a plan is started.
    pub fn slot(&self, worker: u16) -> Slot {
        assert!(worker < MAX_WORKERS, "worker {worker} has no place on the board");
        Slot { mapping: Arc::clone(&self.mapping), worker }
    }

    /// What `worker` wrote last; all zero for one that never ran or has no place on the board.
    pub fn read(&self, worker: u16) -> Reading {
        if worker >= MAX_WORKERS {
            return Reading::default();
        }
        let line = self.mapping.line(worker);
        Reading { beat: line.beat.load(Relaxed), polls: line.polls.load(Relaxed), tid: line.tid.load(Relaxed) }
    }

    /// All zero again, before a new core uses it.
    pub fn clear(&self) {
        for worker in 0..MAX_WORKERS {
            let line = self.mapping.line(worker);
            line.beat.store(0, Relaxed);
            line.polls.store(0, Relaxed);
            line.tid.store(0, Relaxed);
        }
        self.mapping.page().watches.clear();
    }

    /// From now on the first client at `address`, whatever the port, leaves its time. What was known of this address is
    /// forgotten; [`crate::first::MAX_WATCHES`] addresses have room, a further one replaces the oldest. Never waits.
    pub fn watch_first_client(&self, address: IpAddr) {
        self.mapping.page().watches.watch(address, monotonic());
    }

    /// When a worker accepted the first client at `address` since it is watched; `None`: none yet, or it is not
    /// watched (any more). Never waits.
    pub fn first_client(&self, address: IpAddr) -> Option<Instant> {
        self.mapping.page().watches.first(address).and_then(instant)
    }

    /// Ends the watch on `address`: while there is one, each accepted client costs a system call.
    pub fn forget_first_client(&self, address: IpAddr) {
        self.mapping.page().watches.forget(address);
    }
}

impl AsFd for BeatBoard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mapping.fd.as_fd()
    }
}

impl Mapping {
    fn page(&self) -> &Page {
        // SAFETY: the mapping is as long as this and as aligned as a page of memory; any bit pattern is a valid atomic.
        unsafe { self.page.as_ref() }
    }

    /// `worker` is below [`MAX_WORKERS`].
    fn line(&self, worker: u16) -> &Line {
        &self.page().lines[usize::from(worker)]
    }
}

/// One worker's place on the board. Only that worker writes here, so a plain load and store make an increment.
#[derive(Clone, Debug)]
pub struct Slot {
    mapping: Arc<Mapping>,
    worker: u16,
}

impl Slot {
    /// The worker's runtime turned once more; call it every 50 ms.
    pub fn beat(&self) {
        let beat = &self.mapping.line(self.worker).beat;
        beat.store(beat.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// One task was polled.
    #[inline]
    pub fn polled(&self) {
        let polls = &self.mapping.line(self.worker).polls;
        polls.store(polls.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// The kernel thread that runs this worker, so that the agent can tell "hung" from "starved of CPU".
    pub fn announce_tid(&self, tid: i32) {
        self.mapping.line(self.worker).tid.store(tid, Relaxed);
    }

    /// A client was accepted; `local` says at which address, and is asked only while one is watched.
    #[inline]
    pub fn accepted(&self, local: impl FnOnce() -> Option<IpAddr>) {
        self.mapping.page().watches.accepted(local, monotonic);
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC`, which is the same clock in every process; an [`Instant`] cannot be sent.
fn monotonic() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills the structure that it is given. It cannot fail: Linux has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// What [`monotonic`] said, as an [`Instant`]; `None` for a time long before the machine started.
fn instant(at: u64) -> Option<Instant> {
    let look = |_| {
        let (before, clock, now) = (Instant::now(), monotonic(), Instant::now());
        (now - before, clock, now)
    };
    // The thread may have to wait for a CPU between two looks at the clock: the closest of three are taken.
    let (_, clock, now) = (0..3).map(look).min_by_key(|(apart, ..)| *apart)?;
    now.checked_sub(Duration::from_nanos(clock.saturating_sub(at)))
}

fn not_a_board(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_mapping_sees_what_a_worker_writes() {
        let core = BeatBoard::create().unwrap();
        let agent = BeatBoard::from_fd(core.as_fd().try_clone_to_owned().unwrap()).unwrap();
        let slot = core.slot(3);
        slot.announce_tid(77);
        slot.beat();
        slot.polled();
        slot.polled();
        assert_eq!(agent.read(3), Reading { beat: 1, polls: 2, tid: 77 });
        assert_eq!(agent.read(2), Reading::default());
        assert_eq!(agent.read(MAX_WORKERS), Reading::default());
        agent.clear();
        assert_eq!(core.read(3), Reading::default());
    }

    #[test]
    fn a_second_mapping_learns_when_the_first_client_came() {
        let core = BeatBoard::create().unwrap();
        let agent = BeatBoard::from_fd(core.as_fd().try_clone_to_owned().unwrap()).unwrap();
        let address = IpAddr::from([192, 0, 2, 1]);
        agent.watch_first_client(address);
        let before = Instant::now();
        core.slot(1).accepted(|| Some(address));
        let after = Instant::now();
        let first = agent.first_client(address).unwrap();
        // Both clocks are one, and it is read twice.
        assert!(before <= first && first <= after + Duration::from_millis(100), "{before:?} {first:?} {after:?}");
        agent.clear();
        assert_eq!(agent.first_client(address), None);
    }

    #[test]
    fn no_time_that_a_core_leaves_brings_the_agent_down() {
        let before = Instant::now();
        assert!(instant(u64::MAX).is_some_and(|time| time >= before));
        for at in [0, 1, monotonic()] {
            assert!(instant(at).is_none_or(|time| time <= Instant::now()), "{at}");
        }
    }

    #[test]
    fn a_board_that_could_shrink_is_refused() {
        let fd = memfd_create(c"other", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        nix::unistd::ftruncate(&fd, BYTES as i64).unwrap();
        assert_eq!(BeatBoard::from_fd(fd).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let short = memfd_create(c"short", MFdFlags::MFD_CLOEXEC).unwrap();
        assert_eq!(BeatBoard::from_fd(short).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn the_size_of_a_board_cannot_be_changed() {
        let board = BeatBoard::create().unwrap();
        assert!(nix::unistd::ftruncate(board.as_fd(), 0).is_err());
    }
}
