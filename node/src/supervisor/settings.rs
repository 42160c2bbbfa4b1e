//! What the supervisor needs to know beside the plan, and how the words of a configuration become that.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use nix::unistd::{Gid, Uid, User};
use proxy_core::sandbox::Identity;

use super::Timing;
use crate::config::LogLevel;

/// What the supervisor needs to know beside the plan.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The binary to start; `/proc/self/exe` for ourselves.
    pub executable: PathBuf,
    /// What comes before the core's own arguments: `["proxy-core"]` for `lbnode`.
    pub arguments: Vec<OsString>,
    /// Where a later agent finds the core: `core.sock` in the runtime directory, which must exist. Beside it lies
    /// `core.lock`, which is locked for as long as there is a supervisor. `None`: nobody comes after us, and the core
    /// ends when we do.
    pub adoption_socket: Option<PathBuf>,
    /// The user and group that the core runs as.
    pub identity: Identity,
    /// Worker threads of a core that is started; one that is adopted keeps its own number.
    pub workers: u16,
    /// Level of the core's log.
    pub log_level: tracing::Level,
    /// Deadlines and intervals.
    pub timing: Timing,
}

impl Settings {
    /// Our own binary as the core. `threads` as the configuration has it: 0 stands for one worker per core.
    pub fn new(identity: Identity, threads: u16, level: LogLevel, adoption_socket: Option<PathBuf>) -> Settings {
        Settings {
            executable: "/proc/self/exe".into(),
            arguments: vec!["proxy-core".into()],
            adoption_socket,
            identity,
            workers: workers(threads),
            log_level: self::level(level),
            timing: Timing::default(),
        }
    }
}

/// Why there is no user to run the core as.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// Nobody is called so.
    #[error("no user `{0}`")]
    Unknown(String),
    /// The system.
    #[error("cannot look up the user `{name}`")]
    System {
        /// Who was looked for.
        name: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The user of this name or number, with its group.
///
/// # Errors
/// There is none, or nobody can say.
pub fn identity(user: &str) -> Result<Identity, UserError> {
    let by_number = || Some(Uid::from_raw(user.parse().ok()?));
    let found = match by_number() {
        Some(uid) => User::from_uid(uid).map(|user| (uid, user)),
        None => User::from_name(user).map(|user| (Uid::from_raw(0), user)),
    };
    match found {
        Ok((_, Some(user))) => Ok(Identity { uid: user.uid.as_raw(), gid: user.gid.as_raw() }),
        // A number needs no entry anywhere; its group is the one of the same number.
        Ok((uid, None)) if !uid.is_root() || user == "0" => {
            Ok(Identity { uid: uid.as_raw(), gid: Gid::from_raw(uid.as_raw()).as_raw() })
        }
        Ok(_) => Err(UserError::Unknown(user.to_owned())),
        Err(error) => Err(UserError::System { name: user.to_owned(), source: error.into() }),
    }
}

/// 0 stands for one worker per core.
fn workers(threads: u16) -> u16 {
    if threads > 0 {
        return threads;
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    u16::try_from(cores).unwrap_or(proxy_core::beat::MAX_WORKERS).min(proxy_core::beat::MAX_WORKERS)
}

fn level(level: LogLevel) -> tracing::Level {
    match level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    }
}
