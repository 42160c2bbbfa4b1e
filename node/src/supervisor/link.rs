//! The connection to one core: its process, control channel, log, board and probes; made by starting a core or by
//! adopting one.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxy_core::beat::BeatBoard;
use proxy_core::control::{
    Channel, ChannelError, DescriptorKey, Descriptors, FromCore, Hello, Received, ToCore, VERSION,
};
use proxy_core::listener::ListenerKey;
use proxy_core::plan::Plan;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixStream;

use super::Settings;
use super::child::Child;
use super::liveness::Sign;
use super::log::Log;
use crate::listeners::{self, Listeners};
use crate::logs;

/// Between two attempts to be let in by a core that is to be adopted, or to get the lock.
pub(super) const KNOCK_EVERY: Duration = Duration::from_millis(50);

/// One core, as the supervisor has it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) child: Child,
    /// `None`: the core closed it, and is about to be gone.
    pub(super) channel: Option<Channel<ToCore, FromCore>>,
    pub(super) log: Log,
    pub(super) workers: u16,
    pub(super) board: BeatBoard,
    probes: Vec<Probe>,
}

#[derive(Debug)]
struct Probe {
    /// `None`: the core handed none over; beats alone are looked at.
    socket: Option<StdUnixStream>,
    sent_at: Option<Instant>,
}

impl Link {
    /// Starts a core and queues everything that it needs to begin with this plan.
    pub(super) fn start(
        settings: &Settings,
        plan: &Plan,
        sockets: &Listeners,
        adoption: Option<&Arc<OwnedFd>>,
    ) -> Result<Link, ChannelError> {
        let (ours, theirs) = StdUnixStream::pair()?;
        let (log, log_end) = Log::open()?;
        let board = BeatBoard::create()?;
        let mut descriptors = Descriptors::new();
        descriptors.insert(DescriptorKey::Board, Arc::new(board.as_fd().try_clone_to_owned()?));
        descriptors.extend(adoption.map(|socket| (DescriptorKey::Adoption, Arc::clone(socket))));
        let mut probes = Vec::new();
        for worker in 0..settings.workers {
            let (ask, answer) = StdUnixStream::pair()?;
            ask.set_nonblocking(true)?;
            // Both ends: the core keeps ours for the agent after us.
            descriptors.insert(DescriptorKey::ProbeAgent(worker), Arc::new(ask.try_clone()?.into()));
            descriptors.insert(DescriptorKey::Probe(worker), Arc::new(answer.into()));
            probes.push(Probe { socket: Some(ask), sent_at: None });
        }
        let wanted = listeners::wanted(plan, settings.workers);
        let current = sockets.current();
        let mine = current.iter().filter(|(key, _)| wanted.contains(key));
        descriptors.extend(mine.map(|(key, fd)| (DescriptorKey::Listener(*key), Arc::clone(fd))));
        descriptors.extend(logs::open_what_there_is(&plan.log_sinks));

        let mut channel = Channel::new(ours.into())?;
        channel.queue_descriptors(&descriptors)?;
        channel.queue(&ToCore::Start { plan: plan.clone(), workers: settings.workers })?;
        let child = Child::start(settings, theirs.into(), log_end)?;
        Ok(Link { child, channel: Some(channel), log, workers: settings.workers, board, probes })
    }

    /// Looks at every worker; `wants_scheduled` says whose turns on a CPU are looked up.
    pub(super) fn look(&mut self, now: Instant, every: Duration, wants_scheduled: impl Fn(u16) -> bool) -> Vec<Sign> {
        let look = |(worker, probe): (u16, &mut Probe)| {
            let reading = self.board.read(worker);
            let scheduled = wants_scheduled(worker).then(|| self.child.scheduled(reading.tid)).flatten();
            let probe_answered = probe.answered();
            let probe_sent = probe.ask(now, every);
            Sign { reading, scheduled, probe_answered, probe_sent }
        };
        (0..).zip(&mut self.probes).map(look).collect()
    }
}

impl Probe {
    fn answered(&mut self) -> bool {
        let Some(socket) = &mut self.socket else { return false };
        let mut answers = [0; 64];
        socket.read(&mut answers).is_ok_and(|read| read > 0)
    }

    /// Asks when it is time to; a full socket holds questions enough.
    fn ask(&mut self, now: Instant, every: Duration) -> bool {
        let Some(socket) = &mut self.socket else { return false };
        if self.sent_at.is_some_and(|at| now.saturating_duration_since(at) < every) {
            return false;
        }
        self.sent_at = Some(now);
        socket.write(&[1]).is_ok()
    }
}

/// What came of looking for a core that an earlier agent left behind.
#[derive(Debug)]
pub(super) enum Found {
    /// Nobody is there.
    Nothing,
    /// It is ours now, with everything it held.
    Adopted(Box<Adopted>),
}

/// A core that was adopted. Its listeners are in the set already.
#[derive(Debug)]
pub(super) struct Adopted {
    pub(super) link: Link,
    pub(super) hello: Hello,
    pub(super) adoption: Arc<OwnedFd>,
    /// What it accepts from.
    pub(super) listeners: BTreeSet<ListenerKey>,
}

/// Adopts the core behind the adoption socket, if there is one. One that answers nothing of use within the deadline is
/// killed, by the pid that the kernel vouches for.
pub(super) async fn adopt(path: &Path, within: Duration, sockets: &Listeners) -> io::Result<Found> {
    let deadline = tokio::time::Instant::now() + within;
    let mut stale: Option<Child> = None;
    loop {
        let attempt = tokio::time::timeout_at(deadline, knock(path, sockets, &mut stale)).await;
        let why = match attempt {
            Ok(Ok(Found::Nothing)) if stale.is_some() => "it does not listen any more".to_owned(),
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(why)) => why,
            Err(_) => "no answer in time".to_owned(),
        };
        if tokio::time::Instant::now() + KNOCK_EVERY < deadline {
            tokio::time::sleep(KNOCK_EVERY).await;
            continue;
        }
        if let Some(child) = stale {
            tracing::warn!(pid = child.pid, why, "killing a proxy core that cannot be adopted");
            child.kill();
            child.exited().await;
        } else {
            tracing::warn!(why, "no proxy core is adopted");
        }
        return Ok(Found::Nothing);
    }
}

async fn knock(path: &Path, sockets: &Listeners, stale: &mut Option<Child>) -> Result<Found, String> {
    let stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(Found::Nothing);
        }
        Err(error) => return Err(format!("cannot connect to {}: {error}", path.display())),
    };
    let system = |what: &'static str| move |error: io::Error| format!("cannot {what}: {error}");
    let peer = stream.peer_cred().map_err(system("see who listens"))?;
    let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0 && *pid != std::process::id());
    let pid = pid.ok_or("whoever listens is not in our pid namespace")?;
    *stale = Some(Child::of(pid).map_err(system("watch the core"))?);

    let mut channel = Channel::from_stream(stream);
    let hello = match said(&mut channel).await? {
        Received::Message(FromCore::Hello(hello)) => hello,
        other => return Err(format!("it began with {other:?}")),
    };
    if hello.version != VERSION {
        return Err(format!("it speaks version {}, we speak {VERSION}", hello.version));
    }
    let running = hello.running.ok_or("it has nothing running")?;
    channel.queue(&ToCore::HandOver).map_err(|error| error.to_string())?;
    let Received::Descriptors(mut held) = said(&mut channel).await? else {
        return Err("it handed nothing over".into());
    };
    let (log, log_end) = Log::open().map_err(system("make a log pipe"))?;
    let log_end = Descriptors::from([(DescriptorKey::Log, Arc::new(log_end))]);
    channel.queue_descriptors(&log_end).map_err(|error| error.to_string())?;

    let adoption = held.remove(&DescriptorKey::Adoption).ok_or("it holds no adoption socket")?;
    let board = held.remove(&DescriptorKey::Board).ok_or("it holds no board")?;
    let board = board.try_clone().and_then(BeatBoard::from_fd).map_err(system("read the board"))?;
    let mut probes = Vec::new();
    for worker in 0..running.workers {
        let socket = held.remove(&DescriptorKey::ProbeAgent(worker));
        let socket = socket.map(|fd| Ok(StdUnixStream::from(fd.try_clone()?))).transpose();
        let socket = socket.map_err(system("copy a probe"))?;
        if let Some(socket) = &socket {
            socket.set_nonblocking(true).map_err(system("use a probe"))?;
        }
        probes.push(Probe { socket, sent_at: None });
    }
    let mut listeners = BTreeSet::new();
    for (key, fd) in held {
        if let DescriptorKey::Listener(key) = key {
            listeners.insert(key);
            sockets.take(key, fd).map_err(system("take over a listener"))?;
        }
    }
    let child = stale.take().ok_or("it is not watched")?;
    let link = Link { child, channel: Some(channel), log, workers: running.workers, board, probes };
    Ok(Found::Adopted(Box::new(Adopted { link, hello, adoption, listeners })))
}

async fn said(channel: &mut Channel<ToCore, FromCore>) -> Result<Received<FromCore>, String> {
    match channel.receive().await {
        Ok(Some(received)) => Ok(received),
        Ok(None) => Err("it closed the connection".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Binds the socket at which a later agent finds the core. The core is the one that listens on it: the kernel then
/// names the core, not us, to whoever connects.
pub(super) fn adoption_socket(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // Nobody can connect before somebody listens, so there is no moment with other rights.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(socket.into())
}
