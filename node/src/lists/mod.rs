//! What changes of a plan while it runs: lists, and the addresses of servers' names. The changes of lists, where they are
//! kept, and the way of both into the proxy core.
//!
//! ```text
//!   `list_change` ──► overlay ──► disk ──► supervisor ──► core: the rules of the next request read it
//!   a new plan ─────► overlay, names ────►
//!   another answer ─► overlay, names ────►
//! ```
//! Changes and plans take turns, so that neither reaches the core without the other.

mod overlay;

use std::sync::Arc;

use ipnetwork::IpNetwork;
use proxy_core::plan::{List, Plan};
use tokio::sync::Mutex;

use crate::causes::chain;
use crate::config;
use crate::control::{ListLength, Response};
use crate::names::Names;
use crate::store::{Store, StoreError};
use crate::supervisor::{ApplyError, Supervisor, Unconfirmed};

pub use overlay::{ChangeError, Changed, Content, MAX_CHANGED, Overlay};

/// Before a plan with other addresses is tried again.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// The lists of the node; clones share them.
#[derive(Clone, Debug)]
pub struct Lists {
    shared: Arc<Mutex<Shared>>,
    names: Names,
}

#[derive(Debug)]
struct Shared {
    /// The running one, as the file has it.
    plan: Plan,
    overlay: Overlay,
    /// `None`: in memory only.
    store: Option<Store>,
}

/// Why a list cannot be shown or changed.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The running configuration has none of this name.
    #[error("there is no list `{name}`{suggestion}")]
    Unknown {
        /// As it was given.
        name: String,
        /// What may have been meant.
        suggestion: String,
    },
    /// Not written as networks are.
    #[error("{}", .0.join("\n"))]
    NoNetwork(Vec<String>),
    /// Nothing was changed.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// Nothing was changed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It was changed all the same.
    #[error("the change is kept, but {0}")]
    Unconfirmed(#[from] Unconfirmed),
}

impl Lists {
    /// The lists of a plan that has them as the file does, with what was changed before.
    pub fn new(plan: &Plan, mut overlay: Overlay, store: Option<Store>) -> Lists {
        overlay.prune(&plan.lists);
        let shared = Arc::new(Mutex::new(Shared { plan: plan.clone(), overlay, store }));
        Lists { shared, names: Names::default() }
    }

    /// The names of its servers.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The plan as it is to run.
    pub async fn laid_over(&self, mut plan: Plan) -> Plan {
        self.names.prepare(&plan).await;
        self.shared.lock().await.overlay.lay_over(&mut plan);
        self.names.lay_over(&mut plan);
        plan
    }

    /// Has the core run its plan once more whenever a name of it stands for something else. Never ends.
    pub async fn follow_names(self, supervisor: Supervisor) {
        loop {
            self.names.next_change().await;
            while let Err(error) = self.renew(&supervisor).await {
                tracing::warn!("servers' names stand for other addresses, but {}", chain(&error));
                if !matches!(error, ApplyError::Busy | ApplyError::NoAnswer { .. }) {
                    break;
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    /// The plan that runs, with everything that changed since.
    async fn renew(&self, supervisor: &Supervisor) -> Result<u64, ApplyError> {
        let shared = self.shared.lock().await;
        let mut plan = shared.plan.clone();
        shared.overlay.lay_over(&mut plan);
        self.names.lay_over(&mut plan);
        supervisor.apply(plan).await
    }

    /// Has the core run another plan, with the changes of those lists that it still has.
    ///
    /// # Errors
    /// As [`Supervisor::apply`].
    pub async fn apply(&self, supervisor: &Supervisor, plan: Plan) -> Result<u64, ApplyError> {
        self.names.prepare(&plan).await;
        let mut shared = self.shared.lock().await;
        let mut overlay = shared.overlay.clone();
        let pruned = overlay.prune(&plan.lists);
        let file = plan.clone();
        let mut plan = plan;
        overlay.lay_over(&mut plan);
        self.names.lay_over(&mut plan);
        let revision = supervisor.apply(plan).await?;
        self.names.keep(&file);
        if pruned && let Err(error) = shared.keep(&overlay).await {
            // The next change writes them all; the next start prunes again.
            tracing::error!("{}", chain(&error));
        }
        (shared.plan, shared.overlay) = (file, overlay);
        Ok(revision)
    }

    /// Changes a list; when this returns, the core measures clients against it.
    ///
    /// # Errors
    /// [`ListError`]
    pub async fn change(
        &self,
        supervisor: &Supervisor,
        name: &str,
        add: &[String],
        remove: &[String],
    ) -> Result<Changed, ListError> {
        let mut shared = self.shared.lock().await;
        let list = shared.find(name)?;
        let (add, remove) = networks(add, remove)?;
        let mut overlay = shared.overlay.clone();
        let changed = overlay.change(list, &add, &remove)?;
        let list = List { name: name.to_owned(), networks: overlay.content(list).networks() };
        if overlay != shared.overlay {
            shared.keep(&overlay).await?;
            shared.overlay = overlay;
            supervisor.replace_list(list).await?;
        }
        Ok(changed)
    }

    /// The same, as [`crate::control::Request::ListChange`] asks for it.
    pub async fn answer_change(
        &self,
        supervisor: &Supervisor,
        list: String,
        add: &[String],
        remove: &[String],
    ) -> Response {
        match self.change(supervisor, &list, add, remove).await {
            Ok(Changed { added, removed, unchanged }) => Response::ListChanged { list, added, removed, unchanged },
            Err(error) => Response::Failed { message: chain(&error) },
        }
    }

    /// What [`crate::control::Request::ListShow`] asks for.
    pub async fn show(&self, name: Option<&str>) -> Response {
        let shared = self.shared.lock().await;
        let Some(name) = name else {
            let lengths = shared.plan.lists.iter().map(|list| {
                let Content { from_file, added, removed } = shared.overlay.content(list);
                let (from_file, added, removed) = (from_file.len(), added.len(), removed.len());
                ListLength { list: list.name.clone(), from_file, added, removed }
            });
            return Response::Lists { lists: lengths.collect() };
        };
        match shared.find(name) {
            Ok(list) => {
                let Content { from_file, added, removed } = shared.overlay.content(list);
                Response::List { list: name.to_owned(), from_file, added, removed }
            }
            Err(error) => Response::Failed { message: chain(&error) },
        }
    }
}

impl Shared {
    fn find(&self, name: &str) -> Result<&List, ListError> {
        self.plan.lists.iter().find(|list| list.name == name).ok_or_else(|| {
            let suggestion = match self.plan.lists.as_slice() {
                [] => ": the running configuration has no list".to_owned(),
                lists => config::suggestion(name, lists.iter().map(|list| list.name.as_str())),
            };
            ListError::Unknown { name: name.to_owned(), suggestion }
        })
    }

    async fn keep(&self, overlay: &Overlay) -> Result<(), StoreError> {
        let Some(store) = self.store.clone() else { return Ok(()) };
        let overlay = overlay.clone();
        let written = tokio::task::spawn_blocking(move || store.set_lists(&overlay)).await;
        written.expect("writing a file does not panic")
    }
}

/// Every one of them, or what is wrong with each that is none.
fn networks(add: &[String], remove: &[String]) -> Result<(Vec<IpNetwork>, Vec<IpNetwork>), ListError> {
    let mut wrong = Vec::new();
    let mut read = |texts: &[String]| {
        let read = texts.iter().filter_map(|text| config::network(text).map_err(|why| wrong.push(why)).ok());
        read.collect::<Vec<_>>()
    };
    let both = (read(add), read(remove));
    if wrong.is_empty() { Ok(both) } else { Err(ListError::NoNetwork(wrong)) }
}
