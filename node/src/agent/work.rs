//! What takes time, done beside the loop: each task ends in one [`Done`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use proxy_core::control::TableAsk;
use proxy_core::stats::Summary;
use sync::Channel;
use tokio::sync::oneshot;
use vrrp::config::RouterConfig;

use crate::causes::chain;
use crate::config::{self, ClusterConfig, ConfigError, NodeConfig};
use crate::control::Response;
use crate::events::{self, Draft, Kind};
use crate::handoff::{Job, Kernel, Outcome, Vip};
use crate::lists::Lists;
use crate::peer::Message;
use crate::records::Telling;
use crate::status::Status;
use crate::status::traffic::Traffic;
use crate::store::{Revision, Store};
use crate::supervisor::Supervisor;
use crate::tables;
use crate::tickle::{Sent, TickleError};

/// How a task ended.
pub(super) enum Done {
    /// It has answered its caller, or there was nothing to say.
    Answered,
    /// The proxy core's counters.
    Summed(Summary),
    /// A cluster file was read, or is refused.
    Checked { checked: Result<Box<Candidate>, Response>, dry_run: bool, reply: oneshot::Sender<Response> },
    /// The proxy core runs the candidate, and the disk has it.
    Applied { candidate: Box<Candidate>, reply: oneshot::Sender<Response> },
    /// Nothing changed.
    NotApplied { number: u64, why: String, reply: oneshot::Sender<Response> },
    /// A step of a hand-off in the kernel.
    Job { vip: String, number: u64, outcome: Outcome },
    /// The node file as it is now.
    Reloaded(Box<Result<NodeConfig, ConfigError>>),
    /// The peer was told of this node's connections.
    Told(Telling),
    /// Clients of the peer were told that their connections are lost.
    Tickled { vip: String, event: u64, left_out: u64, result: Result<Sent, TickleError> },
}

/// A revision that passed every check that can be made without trying.
pub(super) struct Candidate {
    pub(super) revision: Revision,
    pub(super) cluster: ClusterConfig,
    pub(super) routers: Vec<RouterConfig>,
    /// False: it is what runs already.
    pub(super) changed: bool,
}

impl Candidate {
    pub(super) fn as_response(&self, dry_run: bool) -> Response {
        let digest = self.revision.digest();
        let warnings = self.cluster.warnings(SystemTime::now());
        Response::Applied { revision: self.revision.number, digest, changed: self.changed, dry_run, warnings }
    }
}

/// A cluster file that somebody wants to run.
pub(super) struct Wanted {
    /// Its name, for messages.
    pub(super) file: String,
    pub(super) text: String,
    /// Number and digest of what runs.
    pub(super) running: (u64, String),
    /// Nothing is to be done.
    pub(super) dry_run: bool,
}

/// Checks a cluster file against this node. Files are read, and to decrypt a PFX may take seconds.
pub(super) async fn check(wanted: Wanted, node: NodeConfig, reply: oneshot::Sender<Response>) -> Done {
    let dry_run = wanted.dry_run;
    let checked = tokio::task::spawn_blocking(move || candidate(wanted, &node)).await;
    let checked = checked.unwrap_or_else(|error| Err(Response::Failed { message: error.to_string() }));
    Done::Checked { checked: checked.map(Box::new), dry_run, reply }
}

fn candidate(wanted: Wanted, node: &NodeConfig) -> Result<Candidate, Response> {
    let Wanted { file, text, running: (number, digest), .. } = wanted;
    let mut cluster = config::parse_cluster_with(&file, &text, &node.certificates()).map_err(|error| match error {
        ConfigError::Invalid(errors) => Response::Invalid { errors },
        error => Response::Failed { message: chain(&error) },
    })?;
    let routers = config::routers(node, &cluster).map_err(|errors| Response::Invalid { errors })?;
    let files = std::mem::take(&mut cluster.files);
    let mut revision = Revision { number, text, files };
    // With its files: a certificate that was renewed makes another revision of the same text.
    let changed = revision.digest() != digest;
    revision.number += u64::from(changed);
    cluster.plan.revision = revision.number;
    Ok(Candidate { revision, cluster, routers, changed })
}

/// What the proxy core runs, and how to change it.
pub(super) struct Running {
    pub(super) supervisor: Supervisor,
    pub(super) lists: Lists,
}

/// Has the proxy core run the candidate, and keeps it for the next start.
pub(super) async fn apply(
    candidate: Candidate,
    before: ClusterConfig,
    running: Running,
    store: Store,
    reply: oneshot::Sender<Response>,
) -> Done {
    let number = candidate.revision.number;
    let Running { supervisor, lists } = running;
    if let Err(error) = lists.apply(&supervisor, candidate.cluster.plan.clone()).await {
        return Done::NotApplied { number, why: chain(&error), reply };
    }
    let revision = candidate.revision.clone();
    let written = tokio::task::spawn_blocking(move || store.write(&revision)).await;
    let why = match written {
        Ok(Ok(())) => return Done::Applied { candidate: Box::new(candidate), reply },
        Ok(Err(error)) => chain(&error),
        Err(error) => error.to_string(),
    };
    // What would be forgotten at the next start must not run now.
    let back = lists.apply(&supervisor, before.plan).await;
    let why = match back {
        Ok(_) => why,
        Err(error) => format!("{why}; and the proxy core could not go back: {}", chain(&error)),
    };
    Done::NotApplied { number, why, reply }
}

/// Asks the proxy core how it is.
pub(super) async fn summary(supervisor: Supervisor) -> Done {
    supervisor.summary().await.map_or(Done::Answered, Done::Summed)
}

/// Completes a status with the proxy core's counters, if it answers, and sends it.
pub(super) async fn answer_status(
    status: Status,
    traffic: Traffic,
    supervisor: Supervisor,
    reply: oneshot::Sender<Response>,
) -> Done {
    let status = traffic.complete(status, &supervisor).await;
    let _ = reply.send(Response::Status { status: Box::new(status) });
    Done::Answered
}

/// Shows or forgets entries of a stick table.
pub(super) async fn ask_table(ask: TableAsk, supervisor: Supervisor, reply: oneshot::Sender<Response>) -> Done {
    let _ = reply.send(tables::answer(&supervisor, ask).await);
    Done::Answered
}

/// What somebody wants of a list.
pub(super) struct ListChange {
    pub(super) list: String,
    pub(super) add: Vec<String>,
    pub(super) remove: Vec<String>,
}

/// Changes a list in the proxy core and on disk.
pub(super) async fn change_list(
    change: ListChange,
    running: Running,
    events: events::Store,
    reply: oneshot::Sender<Response>,
) -> Done {
    let ListChange { list, add, remove } = change;
    let response = running.lists.answer_change(&running.supervisor, list, &add, &remove).await;
    if let Response::ListChanged { list, added, removed, .. } = &response
        && added.len() + removed.len() > 0
    {
        let text = format!("list {list} on this node: {} added, {} removed", added.len(), removed.len());
        events.record(Draft { kind: Kind::Config, text, ..Draft::default() });
    }
    let _ = reply.send(response);
    Done::Answered
}

/// Tells what a list has, or which there are.
pub(super) async fn show_list(list: Option<String>, lists: Lists, reply: oneshot::Sender<Response>) -> Done {
    let _ = reply.send(lists.show(list.as_deref()).await);
    Done::Answered
}

/// Does a hand-off's job.
pub(super) async fn job(kernel: Option<Arc<Kernel>>, vip: Vip, number: u64, job: Job) -> Done {
    let outcome = match kernel {
        Some(kernel) => kernel.run(&vip, job).await,
        None => Outcome::Failed("this node could not open netlink when it started; the log says why".into()),
    };
    Done::Job { vip: vip.name, number, outcome }
}

/// Gives this node a new identity, which the peer has to accept first.
pub(super) async fn rotate(channel: Channel<Message>, reply: oneshot::Sender<Response>) -> Done {
    let _ = reply.send(match channel.rotate().await {
        Ok(pin) => Response::PairRotated { pin: pin.to_string() },
        Err(error) => Response::Failed { message: chain(&error) },
    });
    Done::Answered
}

/// Reads the node file again.
pub(super) async fn reload(path: PathBuf) -> Done {
    match tokio::task::spawn_blocking(move || config::load_node(&path)).await {
        Ok(loaded) => Done::Reloaded(Box::new(loaded)),
        Err(error) => {
            tracing::error!(%error, "the node file could not be read again");
            Done::Answered
        }
    }
}
