//! Checks by programs. This process may start none: the agent does, and says what came of it.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::probe::Answer;

/// Questions that may wait for the agent; a further one is asked again later.
pub(crate) const WAITING: usize = 256;
/// How long after its timeout a program's end may be told.
const GRACE: Duration = Duration::from_secs(2);

/// Run the program that checks this server.
#[derive(Debug)]
pub(crate) struct RunProgram {
    pub(crate) backend: String,
    pub(crate) server: String,
    pub(crate) reply: oneshot::Sender<ProgramEnd>,
}

/// What came of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProgramEnd {
    pub(crate) ok: bool,
    pub(crate) what: String,
}

/// `None`: there is nobody to run it, which says nothing about the server.
pub(super) async fn ask(
    agent: &mpsc::Sender<RunProgram>,
    backend: &str,
    server: &str,
    within: Duration,
) -> Option<Answer> {
    let (reply, ended) = oneshot::channel();
    agent.try_send(RunProgram { backend: backend.to_owned(), server: server.to_owned(), reply }).ok()?;
    match timeout(within + GRACE, ended).await {
        Ok(Ok(ProgramEnd { ok: true, what })) => Some(Answer::passed(what)),
        Ok(Ok(ProgramEnd { ok: false, what })) => Some(Answer::failed(what)),
        Ok(Err(_)) => None,
        Err(_) => Some(Answer::failed(format!("the program did not end within {within:?}"))),
    }
}
