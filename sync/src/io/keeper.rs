//! Changes of the pairing's files, one after the other, on a thread that may wait for the disk.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::pairing::{Identity, Pairing, PairingError, Peer, Pin};

/// Jobs that may wait. The driver has at most one of each kind under way; when the queue is full the job is not
/// taken, and whoever wanted it is told.
const JOBS: usize = 8;

/// What is to be done.
#[derive(Debug)]
pub(super) enum Job {
    /// Make the next identity.
    Stage,
    /// Forget it.
    Unstage,
    /// Make it the current one, if it is this.
    Promote(Pin),
    /// Accept `next` from the peer beside `current`.
    AcceptAlso { current: Pin, next: Pin },
    /// Accept this alone.
    AcceptOnly(Pin),
}

/// How it ended.
#[derive(Debug)]
pub(super) enum Done {
    Staged(Result<Pin, PairingError>),
    Promoted(Result<Identity, PairingError>),
    /// The peer's pins changed; with the one that was asked for, if one was.
    Trusts(Result<Peer, PairingError>, Option<Pin>),
    /// Nothing came of it that anybody waits for.
    Unstaged(Result<(), PairingError>),
}

/// Starts the keeper; it ends when the sender is dropped.
pub(super) fn spawn(pairing: Pairing, node: String) -> (mpsc::Sender<Job>, mpsc::Receiver<Done>) {
    let (jobs, mut wanted) = mpsc::channel::<Job>(JOBS);
    let (ended, done) = mpsc::channel(JOBS);
    let pairing = Arc::new(Mutex::new(pairing));
    tokio::spawn(async move {
        while let Some(job) = wanted.recv().await {
            let (pairing, node) = (Arc::clone(&pairing), node.clone());
            let did = tokio::task::spawn_blocking(move || {
                // A panic leaves the files whole, and what is in memory is set last.
                job.run(&mut pairing.lock().unwrap_or_else(PoisonError::into_inner), &node)
            });
            match did.await {
                Ok(did) => {
                    if ended.send(did).await.is_err() {
                        return;
                    }
                }
                Err(error) => tracing::error!(%error, "a change of the pairing was not made"),
            }
        }
    });
    (jobs, done)
}

impl Job {
    fn run(self, pairing: &mut Pairing, node: &str) -> Done {
        match self {
            Job::Stage => Done::Staged(pairing.stage(node)),
            Job::Unstage => Done::Unstaged(pairing.unstage()),
            Job::Promote(pin) => Done::Promoted(pairing.promote(pin).cloned()),
            Job::AcceptAlso { current, next } => Done::Trusts(pairing.accept_also(current, next).cloned(), Some(next)),
            Job::AcceptOnly(pin) => Done::Trusts(pairing.accept_only(pin).cloned(), None),
        }
    }
}
