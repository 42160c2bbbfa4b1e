//! A rotation as the side sees it that gets the new identity: made, announced, accepted by the peer, put in place.

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::channel::RotateError;
use super::keeper::Job;
use crate::pairing::{Identity, PairingError, Pin};

/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Making,
    Asked(Pin),
    Promoting,
}

struct UnderWay {
    reply: oneshot::Sender<Result<Pin, RotateError>>,
    step: Step,
    deadline: Instant,
}

/// At most one is under way.
#[derive(Default)]
pub(super) struct Rotation {
    under_way: Option<UnderWay>,
    /// An identity is being made, for this rotation or for one that was given up.
    making: bool,
}

impl Rotation {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.under_way.as_ref().map(|under_way| under_way.deadline)
    }

    pub(super) fn start(
        &mut self,
        jobs: &mpsc::Sender<Job>,
        connected: bool,
        reply: oneshot::Sender<Result<Pin, RotateError>>,
        now: Instant,
    ) {
        let refused = if !connected {
            Some(RotateError::NotConnected)
        } else if self.under_way.is_some() || self.making || jobs.try_send(Job::Stage).is_err() {
            Some(RotateError::Busy)
        } else {
            None
        };
        match refused {
            // A caller that left has no use for the answer; so everywhere below.
            Some(error) => drop(reply.send(Err(error))),
            None => {
                self.making = true;
                self.under_way = Some(UnderWay { reply, step: Step::Making, deadline: now + LIMIT });
            }
        }
    }

    /// The next identity is on the disk; the peer is to be told of what this returns.
    pub(super) fn staged(&mut self, jobs: &mpsc::Sender<Job>, staged: Result<Pin, PairingError>) -> Option<Pin> {
        self.making = false;
        match (&mut self.under_way, staged) {
            (Some(under_way), Ok(pin)) => {
                under_way.step = Step::Asked(pin);
                Some(pin)
            }
            (Some(_), Err(error)) => {
                self.answer(Err(RotateError::Pairing(error)));
                None
            }
            (None, _) => {
                unstage(jobs);
                None
            }
        }
    }

    /// The peer accepts this one.
    pub(super) fn accepted(&mut self, jobs: &mpsc::Sender<Job>, pin: Pin) {
        let Some(under_way) = self.under_way.as_mut().filter(|under_way| under_way.step == Step::Asked(pin)) else {
            tracing::debug!(pin = %pin.short(), "the peer accepts what it was not asked for");
            return;
        };
        under_way.step = Step::Promoting;
        if jobs.try_send(Job::Promote(pin)).is_err() {
            self.answer(Err(RotateError::Busy));
        }
    }

    /// The new identity is in place, and returned.
    pub(super) fn promoted(&mut self, promoted: Result<Identity, PairingError>) -> Option<Identity> {
        match promoted {
            Ok(identity) => {
                self.answer(Ok(identity.pin()));
                Some(identity)
            }
            Err(error) => {
                self.answer(Err(RotateError::Pairing(error)));
                None
            }
        }
    }

    pub(super) fn session_ended(&mut self, jobs: &mpsc::Sender<Job>) {
        self.give_up(jobs, RotateError::Lost);
    }

    pub(super) fn end_if_late(&mut self, jobs: &mpsc::Sender<Job>, now: Instant) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.give_up(jobs, RotateError::TimedOut(LIMIT));
        }
    }

    /// What the peer has accepted is not given up: it is being put in place.
    fn give_up(&mut self, jobs: &mpsc::Sender<Job>, error: RotateError) {
        match self.under_way.as_ref().map(|under_way| under_way.step) {
            Some(Step::Making) => self.answer(Err(error)),
            Some(Step::Asked(_)) => {
                self.answer(Err(error));
                unstage(jobs);
            }
            Some(Step::Promoting) if matches!(error, RotateError::TimedOut(_)) => self.answer(Err(error)),
            Some(Step::Promoting) | None => {}
        }
    }

    fn answer(&mut self, answer: Result<Pin, RotateError>) {
        if let Some(UnderWay { reply, .. }) = self.under_way.take() {
            drop(reply.send(answer));
        }
    }
}

/// What is left lying there does no harm: the next rotation is made over it.
fn unstage(jobs: &mpsc::Sender<Job>) {
    if jobs.try_send(Job::Unstage).is_err() {
        tracing::debug!("an identity that was given up is still there");
    }
}
