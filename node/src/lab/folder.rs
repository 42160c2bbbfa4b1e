//! The lab's folder: one a user at a well-known place, so that `lbnode --lab a` finds the pair, and the next lab
//! finds what a killed one left.

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    /// It could not be made or read.
    #[error("use {path}")]
    Io {
        /// The folder or a file in it.
        path: PathBuf,
        /// From the system.
        #[source]
        source: io::Error,
    },
    /// Somebody else made it, or others may write to it.
    #[error("{0} is not a folder of this user alone; remove it")]
    NotOurs(PathBuf),
    /// One at a time.
    #[error("another `lbnode lab` of this user is running (it holds {0})")]
    Busy(PathBuf),
}

/// The folder, claimed; emptied again when dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    _lock: File,
}

/// Where the lab of this user lives. Ask before entering a user namespace: it names the user as others see it.
pub(crate) fn root() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(folder) if Path::new(&folder).is_absolute() => Path::new(&folder).join("lbnode-lab"),
        _ => PathBuf::from(format!("/tmp/lbnode-lab-{}", geteuid())),
    }
}

/// The control socket of node `a` or `b` of this user's lab: what `lbnode --lab a` talks to.
pub fn control_socket(node: &str) -> PathBuf {
    netns_lab::pair::control_socket(&root().join(node))
}

impl Folder {
    /// Claims the folder: makes it or empties it, and ends what a killed lab left running.
    pub(crate) fn claim(path: PathBuf) -> Result<Folder, FolderError> {
        let failed = |source| FolderError::Io { path: path.clone(), source };
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
        let found = std::fs::symlink_metadata(&path).map_err(failed)?;
        if !found.is_dir() || found.uid() != geteuid().as_raw() || found.permissions().mode() & 0o077 != 0 {
            return Err(FolderError::NotOurs(path));
        }
        let lock_path = path.join("lock");
        let lock_failed = |source| FolderError::Io { path: lock_path.clone(), source };
        let lock = File::options().create(true).append(true).open(&lock_path).map_err(lock_failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(FolderError::Busy(lock_path)),
            Err(TryLockError::Error(source)) => return Err(lock_failed(source)),
        }
        let killed = netns_lab::process::kill_marked(&path);
        if killed > 0 {
            eprintln!("lbnode lab: ended {killed} processes of an earlier lab that was killed");
        }
        empty(&path).map_err(failed)?;
        Ok(Folder { path, _lock: lock })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = empty(&self.path).and_then(|()| std::fs::remove_dir_all(&self.path)) {
            eprintln!("lbnode lab: {} could not be removed: {error}", self.path.display());
        }
    }
}

/// Everything but the lock.
fn empty(path: &Path) -> io::Result<()> {
    for node in ["a", "b"] {
        match std::fs::remove_dir_all(path.join(node)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
