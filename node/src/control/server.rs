//! The answering side: accepts, reads lines, asks the agent through a bounded queue, writes lines.
//!
//! At most [`MAX_CONNECTIONS`] callers at once: the next one waits in the socket's backlog. The queue to the agent
//! holds [`QUEUE`] calls: when it is full the caller is told to try again. Of the callers at most
//! [`MAX_FOLLOWERS`] may stay to follow events: the next one is told to try again.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{Gid, Group, Uid};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::{MAX_LINE, Request, Response, stream};
use crate::events;

/// Callers served at once.
const MAX_CONNECTIONS: usize = 32;
/// Of these, callers that follow events: they stay, and must leave room for others.
const MAX_FOLLOWERS: usize = 8;
/// Calls that wait for the agent.
pub const QUEUE: usize = 32;
/// How long a caller may take to send a line, or to take an answer.
const CALLER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the agent may take for an answer.
const AGENT_TIMEOUT: Duration = Duration::from_secs(60);

/// A permitted request on its way to the agent.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Who asks, for the log.
    pub uid: u32,
    /// Where the answer goes; the caller may have left.
    pub reply: oneshot::Sender<Response>,
}

/// Why the control socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody answers there.
    #[error("another agent already answers at {}; stop it first, or set `[control] socket`", .0.display())]
    InUse(PathBuf),
    /// Something that is no socket is in the way.
    #[error("{} is in the way and is no socket; remove it, or set `[control] socket`", .0.display())]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("cannot {what} {}", path.display())]
    System {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// The open socket; its file goes when this is dropped.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    owner: Uid,
    events: Option<events::Store>,
}

/// What answering a caller takes.
#[derive(Clone)]
struct Desk {
    owner: Uid,
    agent: mpsc::Sender<Call>,
    events: Option<events::Store>,
    followers: Arc<Semaphore>,
}

/// What a line brings.
enum Answer {
    /// This, and the next line may be read.
    Say(Response),
    /// This, and the conversation is over.
    Last(Response),
    /// What happened after this number.
    Past(events::Store, Option<u64>),
    /// That and what will happen, for who holds one of the places.
    Follow(events::Store, Option<u64>, OwnedSemaphorePermit),
}

impl Server {
    /// Opens the socket: 0660 and the group's if the group exists, else 0600. Must be called inside a tokio runtime.
    pub fn bind(path: &Path, group: &str) -> Result<Server, BindError> {
        let system = |what| move |source| BindError::System { what, path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(system("create the directory of"))?;
        }
        remove_stale(path)?;
        let listener = UnixListener::bind(path).map_err(system("listen at"))?;
        let server = Server { listener, path: path.to_owned(), owner: Uid::effective(), events: None };
        // Until here the umask decided who may connect; a mode without the group comes first, so that it never widens.
        let mode = |bits| std::fs::set_permissions(path, std::fs::Permissions::from_mode(bits));
        mode(0o600).map_err(system("set the mode of"))?;
        match readers(group) {
            Some(gid) => {
                nix::unistd::chown(path, None, Some(gid)).map_err(|errno| system("give to its group")(errno.into()))?;
                mode(0o660).map_err(system("set the mode of"))?;
            }
            None => tracing::info!(group, "no such group: only root can use the control socket"),
        }
        Ok(server)
    }

    /// Answers [`Request::Events`] from this store itself; without it the agent is asked like for all others.
    #[must_use]
    pub fn with_events(mut self, events: events::Store) -> Server {
        self.events = Some(events);
        self
    }

    /// Answers for ever; dropped, it closes the socket. `agent` gets what the caller is allowed to ask.
    pub async fn run(self, agent: mpsc::Sender<Call>) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let followers = Arc::new(Semaphore::new(MAX_FOLLOWERS));
        let desk = Desk { owner: self.owner, agent, events: self.events.clone(), followers };
        loop {
            let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let desk = desk.clone();
                    tokio::spawn(async move {
                        if let Err(error) = converse(stream, &desk).await {
                            tracing::debug!(%error, "a caller of the control socket left early");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the control socket cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "the control socket was gone already");
        }
    }
}

/// Takes away the socket of an agent that died; refuses to touch anything else.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    if StdStream::connect(path).is_ok() {
        return Err(BindError::InUse(path.to_owned()));
    }
    std::fs::remove_file(path).map_err(|source| BindError::System { what: "remove", path: path.to_owned(), source })
}

/// The group whose members may read, if this system has it.
fn readers(group: &str) -> Option<Gid> {
    Group::from_name(group).ok().flatten().map(|group| group.gid)
}

/// One caller, line by line, until it leaves, is too slow or sends nonsense.
async fn converse(mut stream: UnixStream, desk: &Desk) -> io::Result<()> {
    let caller = stream.peer_cred()?;
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let limit = MAX_LINE as u64 + 1;
        timeout(CALLER_TIMEOUT, (&mut reader).take(limit).read_until(b'\n', &mut line)).await??;
        if line.is_empty() {
            return Ok(());
        }
        let answer = if line.len() > MAX_LINE {
            let message = format!("a request is at most {} MiB long", MAX_LINE >> 20);
            Answer::Last(Response::Failed { message })
        } else {
            answer(&line, &caller, desk).await
        };
        match answer {
            Answer::Say(response) => send(&mut writer, &response).await?,
            Answer::Last(response) => return send(&mut writer, &response).await,
            Answer::Past(events, after) => stream::past(&mut writer, &events, after).await?,
            Answer::Follow(events, after, _place) => {
                return stream::follow(&mut reader, &mut writer, &events, after).await;
            }
        }
    }
}

/// One response, one line; a caller that does not take it in time is an error.
pub(super) async fn send(writer: &mut (impl AsyncWrite + Unpin), response: &Response) -> io::Result<()> {
    let mut text = serde_json::to_vec(response).map_err(io::Error::other)?;
    text.push(b'\n');
    timeout(CALLER_TIMEOUT, writer.write_all(&text)).await?
}

async fn answer(line: &[u8], caller: &UCred, desk: &Desk) -> Answer {
    let request: Request = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(error) => return Answer::Last(Response::Failed { message: format!("this is no request: {error}") }),
    };
    if let Some(message) = refusal(&request, caller.uid(), desk.owner) {
        tracing::warn!(uid = caller.uid(), request = request.name(), "refused: the caller may only read");
        return Answer::Say(Response::NotPermitted { message });
    }
    if let (Request::Events { after, follow }, Some(events)) = (&request, &desk.events) {
        let (after, events) = (*after, events.clone());
        return match follow.then(|| Arc::clone(&desk.followers).try_acquire_owned()) {
            None => Answer::Past(events, after),
            Some(Ok(place)) => Answer::Follow(events, after, place),
            Some(Err(_)) => {
                let message = format!("{MAX_FOLLOWERS} callers follow the events already");
                Answer::Say(Response::TryAgain { message })
            }
        };
    }
    let (reply, response) = oneshot::channel();
    if desk.agent.try_send(Call { request, uid: caller.uid(), reply }).is_err() {
        return Answer::Say(Response::TryAgain { message: "the agent has too much to do, or is stopping".into() });
    }
    let late = || Response::TryAgain { message: "the agent took the request and did not answer".into() };
    Answer::Say(timeout(AGENT_TIMEOUT, response).await.ok().and_then(Result::ok).unwrap_or_else(late))
}

/// Why this caller may not ask that; `None`: it may.
fn refusal(request: &Request, uid: u32, owner: Uid) -> Option<String> {
    let may = !request.changes() || uid == 0 || uid == owner.as_raw();
    (!may).then(|| {
        let name = request.name();
        format!("`{name}` changes this node: it needs root, and you are uid {uid}, who may only read; try `sudo lbnode {name}`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply() -> Request {
        Request::ConfigApply { file: "c".into(), text: String::new(), dry_run: false }
    }

    #[test]
    fn root_and_the_agents_user_change_and_everybody_who_connects_reads() {
        let agent = Uid::from_raw(900);
        for request in [Request::Status, Request::ConfigShow, Request::Events { after: None, follow: true }] {
            assert_eq!(refusal(&request, 1000, agent), None);
        }
        let failover = Request::Failover { vip: None, to: None, force: false };
        for request in [apply(), Request::Maintenance { on: true }, failover] {
            assert_eq!(refusal(&request, 0, agent), None);
            assert_eq!(refusal(&request, 900, agent), None);
            let words = refusal(&request, 1000, agent).expect("a reader may not change");
            assert!(words.contains("uid 1000") && words.contains("root"), "{words}");
        }
    }
}
