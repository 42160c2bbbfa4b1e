//! What the process gives up before anything from outside reaches it: privileges, and every way back to them.
//!
//! Called on the main thread before any other exists, because Linux keeps capabilities per thread.
#![allow(unsafe_code, reason = "system calls without a safe wrapper")]

use std::io;

use caps::{CapSet, CapsHashSet};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid, getresgid, getresuid, setgroups, setresgid, setresuid};

/// Who the process becomes. The agent resolves names; the process itself can read no file any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group; the only one.
    pub gid: u32,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confined {
    /// The user that the process runs as now.
    pub uid: u32,
    /// Why that is not the one that was asked for.
    pub note: Option<String>,
    /// Descriptors that it may hold.
    pub descriptors: u64,
}

/// What could not be given up. The process must not go on.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}")]
pub struct SandboxError {
    step: &'static str,
    #[source]
    source: io::Error,
}

fn step<T, E: Into<io::Error>>(step: &'static str, result: Result<T, E>) -> Result<T, SandboxError> {
    result.map_err(|error| SandboxError { step, source: error.into() })
}

/// Gives up everything that carrying bytes does not need. A user namespace that has no other user to become
/// is the one exception: the process goes on as who it is, and says so.
///
/// # Errors
/// The first step that failed.
pub fn enter(identity: Identity) -> Result<Confined, SandboxError> {
    step("promise to gain no privileges", nix::sys::prctl::set_no_new_privs())?;
    step("go back to ordinary scheduling", ordinary_scheduling())?;
    step("forbid core dumps", setrlimit(Resource::RLIMIT_CORE, 0, 0))?;
    let (_, hard) = step("read the descriptor limit", getrlimit(Resource::RLIMIT_NOFILE))?;
    step("raise the descriptor limit", setrlimit(Resource::RLIMIT_NOFILE, hard, hard))?;
    // While CAP_SETPCAP is still there; without it the set cannot be changed, and NO_NEW_PRIVS makes it moot.
    for capability in caps::runtime::thread_all_supported() {
        let _ = caps::drop(None, CapSet::Bounding, capability);
    }
    let note = become_user(identity)?;
    for set in [CapSet::Ambient, CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        let dropped = caps::set(None, set, &CapsHashSet::new()).map_err(|error| io::Error::other(error.to_string()));
        step("drop all capabilities", dropped)?;
    }
    step("forbid being traced or dumped", nix::sys::prctl::set_dumpable(false))?;
    Ok(Confined { uid: nix::unistd::getuid().as_raw(), note, descriptors: hard })
}

fn become_user(identity: Identity) -> Result<Option<String>, SandboxError> {
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    let users = step("read the own user", getresuid())?;
    let groups = step("read the own group", getresgid())?;
    if [users.real, users.effective, users.saved] == [uid; 3]
        && [groups.real, groups.effective, groups.saved] == [gid; 3]
    {
        return Ok(None);
    }
    // EINVAL: the namespace does not map it. EPERM: it denies setgroups, or we are no root at all.
    let impossible = |errno| matches!(errno, Errno::EINVAL | Errno::EPERM);
    let stays = |what: &str, errno: Errno| {
        let why = format!("runs as uid {}, not {}: {what}: {errno}", users.effective, identity.uid);
        Ok(Some(why))
    };
    match setgroups(&[]) {
        Ok(()) => {}
        Err(errno) if impossible(errno) => return stays("setgroups", errno),
        Err(errno) => return step("leave all groups", Err(errno)),
    }
    match setresgid(gid, gid, gid) {
        Ok(()) => {}
        Err(errno) if impossible(errno) => return stays("setresgid", errno),
        Err(errno) => return step("change the group", Err(errno)),
    }
    match setresuid(uid, uid, uid) {
        Ok(()) => Ok(None),
        Err(errno) if impossible(errno) => stays("setresuid", errno),
        Err(errno) => step("change the user", Err(errno)),
    }
}

fn ordinary_scheduling() -> io::Result<()> {
    // SAFETY: a plain structure, of which only the priority is read.
    let parameter = unsafe { std::mem::zeroed::<libc::sched_param>() };
    // SAFETY: the pointer is valid for the call; 0 is this process.
    Errno::result(unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const parameter) })?;
    Ok(())
}
