//! Where the right to make network namespaces comes from: root has it, anybody else enters a user namespace.

use std::io;

use caps::{CapSet, Capability};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

/// Neither way is open.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrivilegeError {
    /// The capabilities could not be read.
    #[error("read this process's capabilities")]
    Read(#[source] caps::errors::CapsError),
    /// User namespaces are off, or restricted.
    #[error(
        "the lab needs network namespaces: run it as root (`sudo lbnode lab`), or let ordinary users have \
         user namespaces (`sysctl kernel.unprivileged_userns_clone=1` on Debian; on Ubuntu 24.04 \
         `sysctl kernel.apparmor_restrict_unprivileged_userns=0`)"
    )]
    Refused(#[source] io::Error),
}

/// Makes sure that this process may make network namespaces. `true`: it is inside a user namespace now.
///
/// Only a process with a single thread can enter one.
pub(crate) fn obtain() -> Result<bool, PrivilegeError> {
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability).map_err(PrivilegeError::Read);
    if has(Capability::CAP_SYS_ADMIN)? && has(Capability::CAP_NET_ADMIN)? {
        return Ok(false);
    }
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|errno| PrivilegeError::Refused(errno.into()))?;
    let map = |file: &str, text: String| std::fs::write(file, text).map_err(PrivilegeError::Refused);
    map("/proc/self/uid_map", format!("0 {uid} 1\n"))?;
    // Without this the kernel takes no group map from an ordinary user.
    map("/proc/self/setgroups", "deny".into())?;
    map("/proc/self/gid_map", format!("0 {gid} 1\n"))?;
    Ok(true)
}
