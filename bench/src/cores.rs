//! Who runs on which processor: the proxies have one for themselves, load and origin share another.
//!
//! A child has the processors of the thread that starts it, so a thread that starts a proxy goes there for that moment.

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The calling thread.
const SELF: Pid = Pid::from_raw(0);

/// The two processors, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores(Option<(usize, usize)>);

impl Cores {
    /// The first two that this process may use. With one processor only, nobody is pinned.
    pub(crate) fn pinned() -> Result<Cores, Errno> {
        let allowed = sched_getaffinity(SELF)?;
        let mut usable = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu) == Ok(true));
        Ok(Cores(usable.next().zip(usable.next())))
    }

    /// Everybody runs anywhere.
    pub(crate) fn unpinned() -> Cores {
        Cores(None)
    }

    /// Sends this thread, and what it starts from now on, to the processor of load and origin.
    pub(crate) fn load(self) -> Result<(), Errno> {
        self.0.map_or(Ok(()), |(load, _)| go(load))
    }

    /// Starts a proxy on the processor of the proxies.
    pub(crate) fn proxy<T>(self, start: impl FnOnce() -> T) -> Result<T, Errno> {
        let Some((load, proxy)) = self.0 else { return Ok(start()) };
        go(proxy)?;
        let started = start();
        go(load)?;
        Ok(started)
    }

    /// In words.
    pub(crate) fn describe(self) -> String {
        match self.0 {
            Some((load, proxy)) => format!("proxies on processor {proxy}, load and origin on {load}"),
            None => "nobody pinned to a processor".to_owned(),
        }
    }
}

/// From now on this thread gives way to the others on its processor.
#[expect(unsafe_code, reason = "setpriority(2), which no dependency has a safe face for")]
pub(crate) fn give_way() -> Result<(), Errno> {
    const NICE: libc::c_int = 15;
    // SAFETY: three numbers go in and one comes out. 0 is the calling thread: niceness is a thread's (setpriority(2)).
    Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) }).map(drop)
}

fn go(cpu: usize) -> Result<(), Errno> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(SELF, &set)
}
