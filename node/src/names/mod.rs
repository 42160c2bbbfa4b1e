//! Servers' names: what they stand for, asked again when an answer has grown old, and laid over the plan.
//!
//! ```text
//!   a plan ──► prepare: new names are asked for, for a moment ──► lay_over ──► supervisor ──► core
//!   an answer grew old ──► asked again ──► another address ──► the same plan once more
//! ```
//! The proxy core opens no file and knows no name server; it is given addresses. A name that has none yet is a server
//! that is down.

mod answers;
mod ask;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use proxy_core::plan::{Plan, Server};
use tokio::sync::Notify;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{sleep_until, timeout};

use answers::Answers;
use ask::Resolver;

/// How long a new plan waits for the names in it that nobody has asked for yet.
const FIRST: Duration = Duration::from_secs(2);
/// Names that are asked for at once.
const AT_ONCE: usize = 16;

/// The names of the node; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Names {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    answers: Mutex<Answers>,
    nameservers: Mutex<Vec<SocketAddr>>,
    /// There are other names to ask for.
    changed: Notify,
}

impl Names {
    /// Asks for the names of a plan that were never asked for. Those without an answer after two seconds are left to
    /// [`Names::next_change`].
    pub async fn prepare(&self, plan: &Plan) {
        self.shared.nameservers.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&plan.nameservers);
        let fresh: Vec<String> = {
            let mut answers = self.answers();
            servers(plan).filter_map(|server| answers.want(&server.host.as_ref()?.name, Instant::now())).collect()
        };
        if !fresh.is_empty() {
            let (Ok(_) | Err(_)) = timeout(FIRST, self.ask_all(fresh)).await;
            self.shared.changed.notify_one();
        }
    }

    /// Gives the plan's servers the addresses that their names stand for.
    pub fn lay_over(&self, plan: &mut Plan) {
        let answers = self.answers();
        for server in plan.backends.iter_mut().flat_map(|backend| &mut backend.servers) {
            if let Some(host) = &mut server.host {
                let (address, problem) = answers.of(&host.name);
                host.problem = problem;
                server.address.set_ip(address.unwrap_or(UNKNOWN));
            }
        }
    }

    /// Forgets what the plan has no use for.
    pub fn keep(&self, plan: &Plan) {
        self.answers()
            .keep(|name| servers(plan).any(|server| server.host.as_ref().is_some_and(|host| host.name == name)));
    }

    /// Where a server is, and what is wrong with that.
    pub fn of(&self, server: &Server) -> (SocketAddr, Option<String>) {
        let Some(host) = &server.host else { return (server.address, None) };
        let (address, problem) = self.answers().of(&host.name);
        (SocketAddr::new(address.unwrap_or(UNKNOWN), server.address.port()), problem)
    }

    /// Keeps asking until a name stands for something else than it did, or the reason why it stands for nothing is
    /// another one. A name that nobody answers for holds up no other.
    pub async fn next_change(&self) {
        let (mut asking, mut names) = (JoinSet::new(), HashMap::new());
        loop {
            let now = Instant::now();
            let idle = |name: &str| !names.values().any(|asked| asked == name);
            let due: Vec<String> = {
                let due = self.answers().due(now);
                due.into_iter().filter(|name| idle(name)).take(AT_ONCE - names.len()).collect()
            };
            for name in due {
                names.insert(self.ask(&mut asking, name.clone()), name);
            }
            let next = if names.len() < AT_ONCE {
                let idle = |name: &str| !names.values().any(|asked| asked == name);
                self.answers().next_due(idle)
            } else {
                None
            };
            let wait = async {
                match next {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(answered) = asking.join_next_with_id() => {
                    names.remove(&answered.as_ref().map_or_else(JoinError::id, |(id, _)| *id));
                    // Whoever has not answered yet is asked again: nothing is taken up of them.
                    if self.take_up(answered.map(|(_, answer)| answer)) {
                        return;
                    }
                }
                () = wait => {}
                () = self.shared.changed.notified() => {}
            }
        }
    }

    /// Asks for all of these, each answer being taken up as it comes.
    async fn ask_all(&self, names: Vec<String>) {
        let (mut asking, mut names) = (JoinSet::new(), names.into_iter());
        loop {
            while asking.len() < AT_ONCE
                && let Some(name) = names.next()
            {
                self.ask(&mut asking, name);
            }
            let Some(answered) = asking.join_next().await else { return };
            self.take_up(answered);
        }
    }

    fn ask(&self, asking: &mut JoinSet<Answered>, name: String) -> Id {
        let nameservers = self.shared.nameservers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Made anew each time: the system's configuration may have changed.
        let resolver = Resolver::new(&nameservers);
        let question = async move {
            match resolver {
                Ok(resolver) => (resolver.ask(&name).await, name),
                Err(why) => (Err(why), name),
            }
        };
        asking.spawn(question).id()
    }

    /// Whether the plan is another one by an answer.
    fn take_up(&self, answered: Result<Answered, JoinError>) -> bool {
        let (answer, name) = match answered {
            Ok(answered) => answered,
            Err(error) => {
                tracing::error!(%error, "a name was not asked for to the end");
                return false;
            }
        };
        let now = Instant::now();
        match answer {
            Ok((addresses, ttl)) => self.answers().found(&name, &addresses, ttl, now),
            Err(why) => self.answers().failed(&name, &why, now),
        }
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.shared.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was answered about a name, and the name.
type Answered = (Result<(Vec<IpAddr>, Duration), String>, String);

/// Of a server whose name has no address.
const UNKNOWN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

fn servers(plan: &Plan) -> impl Iterator<Item = &Server> {
    plan.backends.iter().flat_map(|backend| &backend.servers)
}
