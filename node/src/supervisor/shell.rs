//! The supervisor's thread: one loop that waits for the core, the agent and the clock, feeds the policy, and does what
//! it says.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{File, TryLockError};
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use proxy_core::beat::BeatBoard;
use proxy_core::control::{ChannelError, DescriptorKey, Descriptors, FromCore, Received, TableAnswer, ToCore};
use proxy_core::listener::ListenerKey;
use proxy_core::plan::{List, Plan};
use proxy_core::stats::{Stats, Summary};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep_until};

use super::link::{Found, KNOCK_EVERY, Link, adopt, adoption_socket};
use super::liveness::Liveness;
use super::policy::{Input, Output, Policy};
use super::{ApplyError, Command, CoreState, Exit, Settings, StartError, Status, Stopped};
use crate::causes::chain;
use crate::listeners::{self, BindErrors, Listeners};
use crate::logs;
use crate::programs::{Ended, Programs, Run};

/// Questions for statistics that may wait for the core; who asks more often gets no answer.
const ASKING: usize = 64;

/// The thread's ends of the handle's channels.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) inbox: mpsc::Receiver<Command>,
    pub(super) events: mpsc::Sender<CoreState>,
    pub(super) publish: watch::Sender<Status>,
    pub(super) board: Arc<ArcSwapOption<BeatBoard>>,
}

/// Starts the thread, and waits until it knows whether there is a core to adopt and has bound the listeners.
pub(super) fn start(settings: Settings, plan: Plan, sockets: Listeners, ends: Ends) -> Result<(), StartError> {
    let (begun, outcome) = std::sync::mpsc::sync_channel(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("supervisor".into()).spawn(move || {
        runtime.block_on(async move {
            let prepared = prepare(settings, plan, sockets, ends).await;
            let (shell, told) = match prepared {
                Ok(shell) => (Some(shell), Ok(())),
                Err(error) => (None, Err(error)),
            };
            // Whoever started us waits for exactly this.
            if begun.send(told).is_ok()
                && let Some(shell) = shell
            {
                shell.run().await;
            }
        });
    })?;
    outcome.recv().map_err(|_| io::Error::other("the supervisor's thread died"))?
}

async fn prepare(settings: Settings, plan: Plan, sockets: Listeners, ends: Ends) -> Result<Shell, StartError> {
    let (lock, link, adoption, held) = match &settings.adoption_socket {
        None => (None, None, None, BTreeSet::new()),
        Some(path) => {
            let lock = lock(path, settings.timing.adopt_within).await?;
            // First: a second set of sockets beside an adopted core's would take clients that nobody accepts.
            match adopt(path, settings.timing.adopt_within, &sockets).await? {
                Found::Nothing => (Some(lock), None, Some(Arc::new(adoption_socket(path)?)), BTreeSet::new()),
                Found::Adopted(adopted) => {
                    let note = adopted.hello;
                    ends.publish.send_modify(|status| (status.uid, status.uid_note) = (Some(note.uid), note.uid_note));
                    ends.board.store(Some(Arc::new(adopted.link.board.clone())));
                    (Some(lock), Some(adopted.link), Some(adopted.adoption), adopted.listeners)
                }
            }
        }
    };
    // One that is adopted keeps its workers; whoever follows it gets what our number of workers needs.
    let workers = link.as_ref().map_or(settings.workers, |link| link.workers);
    let wanted = listeners::wanted(&plan, workers);
    sockets.bind(&wanted)?;
    // Some may come from systemd's store, so that new to us and new to the core are not the same.
    let added = wanted.difference(&held).copied().collect();
    let removed = surplus(&sockets, &wanted);
    let mut rounds = interval(settings.timing.round);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shell = Shell {
        policy: Policy::new(settings.timing),
        settings,
        plan,
        sockets,
        adoption,
        link,
        liveness: None,
        rounds,
        change: None,
        reopen_due: false,
        asking: VecDeque::new(),
        summing: VecDeque::new(),
        programs: None,
        listing: VecDeque::new(),
        tabling: VecDeque::new(),
        stopping: Vec::new(),
        reset: None,
        spawned: false,
        ends,
        _lock: lock,
    };
    let now = Instant::now();
    match &shell.link {
        // The first start closes what systemd kept for nobody.
        None => shell.policy.handle(Input::Begin, now),
        Some(link) => {
            shell.spawned = true;
            let pid = link.child.pid;
            shell.policy.handle(Input::Adopted { pid }, now);
            let previous = shell.plan.clone();
            let sinks = logs::open_what_there_is(&previous.log_sinks);
            shell.change = Some(Change { previous, added, removed, sinks, reply: None, sent: None });
            shell.send_change(now);
        }
    }
    shell.act();
    Ok(shell)
}

/// Locks the runtime directory. The agent before us may be about to be gone, so it gets the time that its core gets.
/// The file stays: whoever removed it could not know who has it open.
async fn lock(adoption_socket: &Path, within: Duration) -> Result<File, StartError> {
    let path = adoption_socket.with_extension("lock");
    let file = File::options().create(true).write(true).truncate(false).mode(0o600).open(&path)?;
    let deadline = tokio::time::Instant::now() + within;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(KNOCK_EVERY).await;
            }
            Err(TryLockError::WouldBlock) => return Err(StartError::Taken(path)),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
    }
}

/// Everything that the thread knows.
struct Shell {
    settings: Settings,
    policy: Policy,
    /// What a core is to run; tentative while `change` is there.
    plan: Plan,
    sockets: Listeners,
    adoption: Option<Arc<OwnedFd>>,
    link: Option<Link>,
    /// While the core is to show signs of life.
    liveness: Option<Liveness>,
    rounds: Interval,
    change: Option<Change>,
    /// The log sinks are to be opened anew as soon as a core runs and no change is on its way.
    reopen_due: bool,
    asking: VecDeque<oneshot::Sender<Stats>>,
    summing: VecDeque<oneshot::Sender<Summary>>,
    /// `None`: no check has needed one yet.
    programs: Option<Programs>,
    /// Who waits for a list's new content to be taken up. As many as change lists at once, which is few.
    listing: VecDeque<oneshot::Sender<()>>,
    /// Who asked for stick tables, in their order.
    tabling: VecDeque<oneshot::Sender<TableAnswer>>,
    stopping: Vec<oneshot::Sender<Stopped>>,
    reset: Option<u64>,
    /// A core was there before.
    spawned: bool,
    ends: Ends,
    /// Nobody else adopts, and kills, our core.
    _lock: Option<File>,
}

/// A plan on its way into the core.
struct Change {
    previous: Plan,
    added: BTreeSet<ListenerKey>,
    removed: BTreeSet<ListenerKey>,
    /// Log sinks, until they are sent; a core that is started gets others.
    sinks: Descriptors,
    /// `None`: nobody asked; an adopted core is brought up to date.
    reply: Option<oneshot::Sender<Result<u64, ApplyError>>>,
    /// When the core was told; `None`: not yet.
    sent: Option<Instant>,
}

enum Event {
    Heard(Result<Option<Received<FromCore>>, ChannelError>),
    Exited,
    ProgramEnded(Ended),
    /// `None`: the agent dropped its handles.
    Told(Option<Command>),
    Round,
    Due,
}

impl Shell {
    async fn run(mut self) {
        while !self.policy.is_over() {
            match self.next().await {
                Event::Heard(Ok(Some(received))) => self.heard(received),
                Event::Heard(Ok(None)) => self.channel_closed(),
                Event::Heard(Err(ChannelError::Cut)) => self.channel_closed(),
                Event::Heard(Err(error)) => {
                    self.channel_closed();
                    self.policy.handle(Input::Broken(chain(&error)), Instant::now());
                }
                Event::Exited => self.exited(),
                Event::ProgramEnded(Ended { ticket, ok, what }) => self.say(&ToCore::ProgramEnded { ticket, ok, what }),
                Event::Told(Some(command)) => self.told(command),
                Event::Told(None) => return tracing::warn!("no agent is left; the proxy core is left to the next one"),
                Event::Round => self.round(),
                Event::Due => self.due(),
            }
            self.reopen_logs();
            self.act();
        }
        // Its successor would find nobody behind it.
        if let Some(path) = &self.settings.adoption_socket
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::debug!(%error, "the adoption socket was gone already");
        }
        let reset = self.reset;
        for reply in self.stopping.drain(..) {
            // Who asked may have left.
            let _ = reply.send(Stopped { reset });
        }
    }

    async fn next(&mut self) -> Event {
        let due = self.next_due();
        let due = async move {
            match due {
                Some(at) => sleep_until(at.into()).await,
                None => pending().await,
            }
        };
        let Some(link) = &mut self.link else {
            return tokio::select! {
                command = self.ends.inbox.recv() => Event::Told(command),
                () = due => Event::Due,
            };
        };
        let heard = async {
            match &mut link.channel {
                Some(channel) => channel.receive().await,
                None => pending().await,
            }
        };
        let program = async {
            match &mut self.programs {
                Some(programs) => match programs.ended().await {
                    Some(ended) => ended,
                    None => pending().await,
                },
                None => pending().await,
            }
        };
        let log = async {
            link.log.pass_on().await;
            pending::<()>().await;
        };
        let watched = self.liveness.is_some();
        tokio::select! {
            // Last words before the end; both before anything that could take long.
            biased;
            heard = heard => Event::Heard(heard),
            () = link.child.exited() => Event::Exited,
            _ = self.rounds.tick(), if watched => Event::Round,
            command = self.ends.inbox.recv() => Event::Told(command),
            ended = program => Event::ProgramEnded(ended),
            () = due => Event::Due,
            () = log => unreachable!("the log is read for as long as the core lives"),
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let answer =
            self.change.as_ref().and_then(|change| change.sent).map(|at| at + self.settings.timing.apply_within);
        [self.policy.poll_timeout(), answer].into_iter().flatten().min()
    }

    fn due(&mut self) {
        let now = Instant::now();
        self.policy.expire(now);
        let within = self.settings.timing.apply_within;
        if self.change.as_ref().and_then(|change| change.sent).is_some_and(|at| at + within <= now) {
            let why = format!("no answer within {} s", within.as_secs());
            self.undo_change(|revision| ApplyError::NoAnswer { revision, why: why.clone() });
            self.policy.handle(Input::Broken(why), now);
        }
    }

    fn heard(&mut self, received: Received<FromCore>) {
        let now = Instant::now();
        match received {
            Received::Message(FromCore::Hello(hello)) => self.ends.publish.send_modify(|status| {
                status.uid = Some(hello.uid);
                status.uid_note = hello.uid_note;
            }),
            Received::Message(FromCore::Ready { revision, limits }) => self.ready(revision, limits, now),
            Received::Message(FromCore::Rejected { revision, why }) => {
                if self.change.as_ref().is_some_and(|change| change.sent.is_some()) {
                    self.undo_change(|_| ApplyError::Rejected { revision, why: why.clone() });
                }
                // One that runs goes on with what it has; one that has nothing is of no use.
                if self.liveness.is_none() {
                    self.policy.handle(Input::Broken(format!("it refused revision {revision}: {why}")), now);
                }
            }
            Received::Message(FromCore::Stats(stats)) => {
                self.asking.drain(..).for_each(|asker| drop(asker.send((*stats).clone())));
            }
            Received::Message(FromCore::Summary(summary)) => {
                // Whoever gave up waiting has no use for it.
                self.summing.pop_front().map(|reply| reply.send(summary));
            }
            Received::Message(FromCore::ListTaken) => {
                // Likewise.
                self.listing.pop_front().map(|reply| reply.send(()));
            }
            Received::Message(FromCore::RunProgram { ticket, backend, server }) => {
                self.run_program(ticket, &backend, &server);
            }
            Received::Message(FromCore::Table(answer)) => {
                // Likewise.
                self.tabling.pop_front().map(|reply| reply.send(answer));
            }
            Received::Message(FromCore::Drained { reset }) => self.reset = Some(reset),
            Received::Message(FromCore::Draining { deadline }) => {
                // Workers without a session are done and silent, and a plan is for the successor.
                self.liveness = None;
                if let Some(change) = &mut self.change {
                    change.sent = None;
                }
                self.policy.handle(Input::Drains { deadline }, now);
            }
            Received::Message(FromCore::Manifest(_) | FromCore::Descriptors { .. }) | Received::Descriptors(_) => {
                self.policy.handle(Input::Broken("it sent descriptors that nobody asked for".into()), now);
            }
        }
    }

    /// Runs what checks a server, by the plan that the core has or is given.
    fn run_program(&mut self, ticket: u64, backend: &str, server: &str) {
        let before = self.change.as_ref().map(|change| &change.previous);
        let plans = std::iter::once(&self.plan).chain(before);
        let refused = match plans.into_iter().find_map(|plan| Run::find(plan, ticket, backend, server)) {
            None => Some("the agent knows no program that checks it".to_owned()),
            Some(run) => match self.programs() {
                Ok(programs) => (!programs.run(run)).then(|| "too many programs run already".to_owned()),
                Err(error) => Some(format!("the agent cannot run programs: {error}")),
            },
        };
        if let Some(what) = refused {
            self.say(&ToCore::ProgramEnded { ticket, ok: false, what });
        }
    }

    /// Most nodes never need them.
    fn programs(&mut self) -> io::Result<&Programs> {
        if self.programs.is_none() {
            self.programs = Some(Programs::start(self.settings.executable.clone())?);
        }
        Ok(self.programs.as_ref().expect("it was just started"))
    }

    fn ready(&mut self, revision: u64, limits: proxy_core::limits::Limits, now: Instant) {
        let Some(link) = &self.link else { return };
        let (pid, workers) = (link.child.pid, link.workers);
        self.ends.publish.send_modify(|status| {
            status.limits = Some(limits);
            status.revision = Some(revision);
            status.workers = workers;
        });
        if self.liveness.is_none() {
            self.liveness = Some(Liveness::new(self.settings.timing, workers, now));
            self.rounds.reset();
        }
        self.policy.handle(Input::Ready { pid, revision }, now);
        if self.change.as_ref().is_some_and(|change| change.sent.is_none()) {
            // It became ready with the plan before; now it hears of the new one.
            return self.send_change(now);
        }
        if let Some(change) = self.change.take() {
            self.close(&change.removed);
            if let Some(reply) = change.reply {
                // Nobody waits any more: the plan runs all the same.
                let _ = reply.send(Ok(revision));
            }
        }
    }

    /// Opens the log sinks anew, if that is due. During a change it waits for its end: the indices are those of one plan.
    fn reopen_logs(&mut self) {
        if !self.reopen_due || self.liveness.is_none() || self.change.is_some() {
            return;
        }
        self.reopen_due = false;
        let sinks = logs::open_what_there_is(&self.plan.log_sinks);
        let Some(channel) = self.link.as_mut().and_then(|link| link.channel.as_mut()) else { return };
        if let Err(error) = channel.queue_descriptors(&sinks).and_then(|()| channel.queue(&ToCore::ReopenLogs)) {
            self.policy.handle(Input::Broken(chain(&error)), Instant::now());
        }
    }

    fn told(&mut self, command: Command) {
        match command {
            Command::Apply(plan, reply) => self.apply(*plan, reply),
            Command::ReopenLogs => self.reopen_due = true,
            Command::Stop(deadline, reply) => {
                self.stopping.push(reply);
                self.undo_change(|_| ApplyError::Stopping);
                if let Some(liveness) = &mut self.liveness {
                    liveness.stop_probing();
                }
                self.policy.handle(Input::Stop { deadline }, Instant::now());
            }
            Command::Stats(reply) => {
                // Dropping the sender is the answer "nobody can say".
                if self.liveness.is_some() && self.asking.len() < ASKING {
                    if self.asking.is_empty() {
                        self.say(&ToCore::Stats);
                    }
                    self.asking.push_back(reply);
                }
            }
            Command::Summary(reply) => {
                if self.liveness.is_some() && self.summing.len() < ASKING {
                    self.summing.push_back(reply);
                    self.say(&ToCore::Summary);
                }
            }
            Command::List(list, reply) => self.replace_list(list, reply),
            Command::Table(ask, reply) => {
                if self.liveness.is_some() && self.tabling.len() < ASKING {
                    self.tabling.push_back(reply);
                    self.say(&ToCore::Table(ask));
                }
            }
        }
    }

    fn apply(&mut self, plan: Plan, reply: oneshot::Sender<Result<u64, ApplyError>>) {
        let refuse = |reply: oneshot::Sender<_>, error| drop(reply.send(Err(error)));
        if !self.stopping.is_empty() {
            return refuse(reply, ApplyError::Stopping);
        }
        if self.change.is_some() {
            return refuse(reply, ApplyError::Busy);
        }
        let sinks = match logs::open(&plan.log_sinks) {
            Ok(sinks) => sinks,
            Err(error) => return refuse(reply, error.into()),
        };
        let workers = self.link.as_ref().map_or(self.settings.workers, |link| link.workers);
        let wanted = listeners::wanted(&plan, workers);
        let added = match self.sockets.bind(&wanted) {
            Ok(added) => added,
            Err(errors) => return refuse(reply, errors.into()),
        };
        let removed = surplus(&self.sockets, &wanted);
        let previous = std::mem::replace(&mut self.plan, plan);
        self.change = Some(Change { previous, added, removed, sinks, reply: Some(reply), sent: None });
        // Without a core that is ready it waits for the next start, or for the running one.
        if self.liveness.is_some() {
            self.send_change(Instant::now());
        }
    }

    fn replace_list(&mut self, list: List, reply: oneshot::Sender<()>) {
        // The plan that is tried and the one that would come back.
        let plans = std::iter::once(&mut self.plan).chain(self.change.as_mut().map(|change| &mut change.previous));
        for known in plans.flat_map(|plan| &mut plan.lists).filter(|known| known.name == list.name) {
            known.networks.clone_from(&list.networks);
        }
        // Even one that is not ready yet has its plan already. Without any, dropping the sender is the answer.
        if self.link.as_ref().is_some_and(|link| link.channel.is_some()) {
            self.listing.push_back(reply);
            self.say(&ToCore::List(list));
        }
    }

    fn send_change(&mut self, now: Instant) {
        let Some(change) = &mut self.change else { return };
        change.sent = Some(now);
        let current = self.sockets.current();
        let of = |key: &ListenerKey| Some((DescriptorKey::Listener(*key), Arc::clone(current.get(key)?)));
        let mut added: Descriptors = change.added.iter().filter_map(of).collect();
        added.append(&mut change.sinks);
        let message = ToCore::Apply { plan: self.plan.clone(), removed: change.removed.clone() };
        let Some(channel) = self.link.as_mut().and_then(|link| link.channel.as_mut()) else { return };
        if let Err(error) = channel.queue_descriptors(&added).and_then(|()| channel.queue(&message)) {
            self.undo_change(|_| ApplyError::NoAnswer { revision: 0, why: chain(&error) });
            self.policy.handle(Input::Broken(chain(&error)), now);
        }
    }

    /// The plan before is the plan again.
    fn undo_change(&mut self, error: impl FnOnce(u64) -> ApplyError) {
        let Some(change) = self.change.take() else { return };
        let refused = std::mem::replace(&mut self.plan, change.previous);
        self.sockets.remove(&change.added);
        match change.reply {
            Some(reply) => drop(reply.send(Err(error(refused.revision)))),
            None => {
                tracing::error!("an adopted core did not take the current plan: {}", chain(&error(refused.revision)))
            }
        }
    }

    fn say(&mut self, message: &ToCore) {
        let Some(channel) = self.link.as_mut().and_then(|link| link.channel.as_mut()) else { return };
        if let Err(error) = channel.queue(message) {
            self.policy.handle(Input::Broken(chain(&error)), Instant::now());
        }
    }

    /// Seen long before the process is gone if it was killed with many connections: the kernel closes them first.
    fn channel_closed(&mut self) {
        if let Some(link) = &mut self.link {
            link.channel = None;
            self.liveness = None;
            self.policy.handle(Input::Closed, Instant::now());
        }
    }

    fn exited(&mut self) {
        let Some(mut link) = self.link.take() else { return };
        link.log.take_what_is_there();
        let exit = Exit { status: link.child.reap(), last_log: link.log.last() };
        self.liveness = None;
        self.asking.clear();
        self.summing.clear();
        self.listing.clear();
        self.tabling.clear();
        self.ends.publish.send_modify(|status| status.pid = None);
        if self.change.as_ref().is_some_and(|change| change.sent.is_some()) {
            let why = format!("it ended: {exit}");
            self.undo_change(|revision| ApplyError::NoAnswer { revision, why });
        }
        self.policy.handle(Input::Exited(exit), Instant::now());
    }

    fn round(&mut self) {
        let (Some(link), Some(liveness)) = (&mut self.link, &mut self.liveness) else { return };
        let now = Instant::now();
        let signs = link.look(now, self.settings.timing.probe_every, |worker| liveness.wants_scheduled(worker));
        let hung = liveness.round(now, &signs);
        self.policy.handle(Input::Round(hung), now);
    }

    /// Does what the policy says.
    fn act(&mut self) {
        while let Some(output) = self.policy.poll_output() {
            match output {
                Output::Spawn => self.spawn(),
                Output::Kill(why) => {
                    if let Some(link) = &self.link {
                        tracing::error!(pid = link.child.pid, why, "killing the proxy core");
                        link.child.kill();
                    }
                }
                Output::Drain(deadline) => self.say(&ToCore::Drain { deadline }),
                Output::State(state) => self.publish(state),
            }
        }
    }

    /// Binds exactly what a core that starts now needs. The one before may have been adopted, with another number of
    /// workers: clients would wait in vain at the sockets of workers that are no more.
    fn fit_listeners(&mut self) -> Result<(), BindErrors> {
        let workers = self.settings.workers;
        let wanted = listeners::wanted(&self.plan, workers);
        let bound = self.sockets.bind(&wanted)?;
        let mut needed = wanted.clone();
        if let Some(change) = &mut self.change {
            // What the plan before has stays until this one runs.
            let before = listeners::wanted(&change.previous, workers);
            change.added = wanted.difference(&before).copied().collect();
            change.removed = before.difference(&wanted).copied().collect();
            needed.extend(before);
        }
        self.close(&surplus(&self.sockets, &needed));
        let mut fresh = listeners::Set::clone(&self.sockets.current());
        fresh.retain(|key, _| bound.contains(key));
        if let Err(error) = listeners::keep_in_fd_store(&fresh) {
            tracing::warn!(%error, "systemd did not take the listening sockets");
        }
        Ok(())
    }

    /// Who waits at one of these is handed over to another worker's socket at the address (`tcp_migrate_req`) or reset.
    fn close(&self, keys: &BTreeSet<ListenerKey>) {
        self.sockets.remove(keys);
        if let Err(error) = listeners::drop_from_fd_store(keys) {
            tracing::warn!(%error, "systemd keeps sockets that are of no use any more");
        }
    }

    fn spawn(&mut self) {
        let restart = std::mem::replace(&mut self.spawned, true);
        let fitted = self.fit_listeners().map_err(|errors| chain(&errors));
        let started = fitted.and_then(|()| {
            let adoption = self.adoption.as_ref();
            Link::start(&self.settings, &self.plan, &self.sockets, adoption).map_err(|error| chain(&error))
        });
        match started {
            Ok(link) => {
                let (pid, workers) = (link.child.pid, link.workers);
                self.ends.board.store(Some(Arc::new(link.board.clone())));
                self.link = Some(link);
                // It begins with the plan that waits, if one does.
                if let Some(change) = &mut self.change {
                    change.sent = Some(Instant::now());
                }
                self.ends.publish.send_modify(|status| {
                    status.pid = Some(pid);
                    status.workers = workers;
                    status.restarts += u64::from(restart);
                });
            }
            Err(why) => {
                let exit = Exit { status: format!("did not start: {why}"), last_log: None };
                self.policy.handle(Input::Exited(exit), Instant::now());
            }
        }
    }

    fn publish(&mut self, state: CoreState) {
        let dropped = self.ends.events.try_send(state.clone()).is_err();
        let crash_loop = self.policy.crash_loop().cloned();
        let pid = self.link.as_ref().map(|link| link.child.pid);
        self.ends.publish.send_modify(|status| {
            if status.state != state {
                (status.since, status.since_wall) = (Instant::now(), SystemTime::now());
            }
            (status.state, status.crash_loop, status.pid) = (state, crash_loop, pid);
            status.events_dropped += u64::from(dropped);
        });
    }
}

/// What is bound and not needed.
fn surplus(sockets: &Listeners, needed: &BTreeSet<ListenerKey>) -> BTreeSet<ListenerKey> {
    sockets.current().keys().filter(|key| !needed.contains(key)).copied().collect()
}
