//! One run of one scenario: settle, ask, break, watch, mend, settle again.

use std::io;
use std::time::{Duration, Instant};

use netns_lab::client::{Client, Cost, Outcome, ask_once};
use netns_lab::holders::{Holders, HoldersError};
use netns_lab::lan::RuleError;
use netns_lab::load::{Load, LoadCost, Spec};
use netns_lab::netns::NetnsError;
use netns_lab::site::Site;
use netns_lab::wait::{self, WaitError, wait_until};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::scenario::Scenario;
use super::stack::{Stack, StackError, Standing};

/// A pair needs no longer than this to be whole again: the restart of a core after a crash loop included.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// Who has not taken over by now does not take over.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(4);
/// Long enough that a SYN which was lost in the gap is sent again (1 s) and counted.
const WATCH: Duration = Duration::from_millis(1500);
/// How long a return is watched: longer than any down interval of the default adverts.
const RETURN_WATCH: Duration = Duration::from_secs(3);
/// How long VRRP is filtered.
const FILTERED: Duration = Duration::from_secs(5);
/// How long the nodes are cut from each other after both are active.
const CUT: Duration = Duration::from_secs(2);
/// How long a machine is paused.
const PAUSE: Duration = Duration::from_secs(30);
/// Answers before the fault, so that everything is warm.
const WARM_UP: usize = 200;
/// IP's number of VRRP.
const VRRP: u8 = 112;

/// What came of one run.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// What the client saw.
    pub(crate) cost: Cost,
    /// What the connections saw that last, if there were any.
    pub(crate) load: Option<LoadCost>,
    /// The node that took over, if one did; after several switchovers the last one.
    pub(crate) took_over: Option<usize>,
    /// The longest time in which both nodes had the VIP.
    pub(crate) two: Duration,
    /// The longest time in which neither had it.
    pub(crate) none: Duration,
    /// Since the fault was mended, if that was part of it.
    pub(crate) mended: Option<Mended>,
}

/// What was seen since the fault was mended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mended {
    /// The longest time in which both nodes had the VIP.
    pub(crate) two: Duration,
    /// Whether the node at which the fault was had the VIP at any time.
    pub(crate) returned: bool,
}

/// Why a run came to no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScenarioError {
    /// A state did not come.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// The pair.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// The LAN.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The LAN's packet rules.
    #[error(transparent)]
    Rules(#[from] RuleError),
    /// The watcher of the VIP's holders.
    #[error(transparent)]
    Holders(#[from] HoldersError),
    /// The client.
    #[error("run the client")]
    Client(#[source] io::Error),
    /// The connections that last.
    #[error("run the connections that last")]
    Load(#[source] io::Error),
    /// A signal.
    #[error("send {signal} to process {pid}")]
    Signal {
        /// Which.
        signal: Signal,
        /// To whom.
        pid: Pid,
        /// From the system.
        #[source]
        source: Errno,
    },
}

/// What was done, and when.
struct Deed {
    fault: Instant,
    mended: Option<Instant>,
    took_over: Option<usize>,
}

/// Everything that looks on.
struct Witnesses {
    holders: Holders,
    client: Client,
    load: Option<Load>,
}

impl Scenario {
    /// Does it once; the pair is whole before and after. `tell` hears what goes on.
    pub(crate) fn run(self, stack: &mut dyn Stack, tell: &mut dyn FnMut(&str)) -> Result<Run, ScenarioError> {
        tell("waiting for the pair to settle");
        let active = settle(stack, SETTLE_LIMIT)?;
        if self == Scenario::Return {
            tell("cutting a node off, to have one that can return");
            cut_off(stack, active)?;
        }
        let witnesses = Witnesses::start(stack.site(), self.loaded(), tell)?;
        tell(self.what());
        let deed = self.act(stack, active, &witnesses.holders)?;
        // The return of a node that was cut off is a scenario of its own: this one ends before it.
        let whole = self != Scenario::NodeCut;
        if whole {
            tell("waiting for the pair to settle");
            settle(stack, SETTLE_LIMIT)?;
            witnesses.until_one_holds()?;
        }
        tell("asking every connection a last time");
        let run = witnesses.finish(active, &deed)?;
        if !whole {
            stack.site().nodes[active].port.carrier(true)?;
            tell("waiting for the pair to settle");
            settle(stack, SETTLE_LIMIT)?;
        }
        Ok(run)
    }

    /// Breaks something at node `active`, watches, and mends it where that belongs to the scenario.
    fn act(self, stack: &mut dyn Stack, active: usize, holders: &Holders) -> Result<Deed, ScenarioError> {
        let other = 1 - active;
        match self {
            Scenario::Planned => planned(stack, active),
            Scenario::PlannedAndBack => planned_and_back(stack, active),
            Scenario::ProxyKill => {
                let core = stack.core(active)?;
                takeover(stack, other, |_| signal(core, Signal::SIGKILL), |_| Ok(()))
            }
            Scenario::ProxyHang => {
                let core = stack.core(active)?;
                let continue_it = |stack: &mut dyn Stack| {
                    stack.end_hang(core);
                    Ok(())
                };
                takeover(stack, other, |_| signal(core, Signal::SIGSTOP), continue_it)
            }
            Scenario::AgentKill => {
                let start = |stack: &mut dyn Stack| Ok(stack.start_agent(active)?);
                takeover(stack, other, |stack| Ok(stack.kill_agent(active)?), start)
            }
            Scenario::NodeCut => {
                let pull = |stack: &mut dyn Stack| Ok(stack.site().nodes[active].port.carrier(false)?);
                takeover(stack, other, pull, |_| Ok(()))
            }
            Scenario::Return => {
                let fault = Instant::now();
                stack.site().nodes[active].port.carrier(true)?;
                watch(stack, fault + RETURN_WATCH)?;
                // Whoever was cut off would have to be the one.
                let took_over = stack.standing(active).is_ok_and(|standing| standing.active).then_some(active);
                Ok(Deed { fault, mended: None, took_over })
            }
            Scenario::LanDeadSyncAlive => lan_dead(stack, active),
            Scenario::AdvertsFiltered => adverts_filtered(stack, other, holders),
            Scenario::AllCutAndHealed => all_cut(stack, other),
            Scenario::VmPause => vm_pause(stack, active),
        }
    }
}

impl Witnesses {
    fn start(site: &Site, loaded: bool, tell: &mut dyn FnMut(&str)) -> Result<Witnesses, ScenarioError> {
        let mut load = None;
        if loaded {
            let spec = Spec::default();
            tell(&format!("opening {} connections", spec.connections()));
            let opened = Load::start(&site.client.netns, site.stream_service(), spec)?;
            wait_until("all connections to be answered", SETTLE_LIMIT, || opened.ready())?;
            load = Some(opened);
        }
        let holders = Holders::start(site)?;
        let client = Client::start(&site.client.netns, site.service())?;
        wait_until("the client to be answered", SETTLE_LIMIT, || match client.answered() {
            count if count >= WARM_UP => Ok(()),
            count => Err(format!("{count} answers")),
        })?;
        Ok(Witnesses { holders, client, load })
    }

    /// The address of a node that stands by goes a little after its word.
    fn until_one_holds(&self) -> Result<(), WaitError> {
        wait_until("exactly one node to hold the VIP", SETTLE_LIMIT, || match self.holders.held().now() {
            [a, b] if a != b => Ok(()),
            [true, _] => Err("both do".into()),
            [false, _] => Err("neither does".into()),
        })
    }

    fn finish(self, active: usize, deed: &Deed) -> Result<Run, ScenarioError> {
        let held = self.holders.held();
        // The client first: what the connections say all at once at their end must not slow it down.
        let cost = self.client.finish().map_err(ScenarioError::Client)?.cost(deed.fault);
        let load = self.load.map(Load::finish).transpose().map_err(ScenarioError::Load)?;
        Ok(Run {
            cost,
            load: load.map(|recording| recording.cost(deed.fault)),
            took_over: deed.took_over,
            two: held.longest(2, deed.fault),
            none: held.longest(0, deed.fault),
            mended: deed.mended.map(|since| Mended { two: held.longest(2, since), returned: held.ever(active, since) }),
        })
    }
}

/// A fault that the other node answers by a takeover; `mend` comes after it, and is watched too.
fn takeover(
    stack: &mut dyn Stack,
    other: usize,
    fault: impl FnOnce(&mut dyn Stack) -> Result<(), ScenarioError>,
    mend: impl FnOnce(&mut dyn Stack) -> Result<(), ScenarioError>,
) -> Result<Deed, ScenarioError> {
    let at = Instant::now();
    fault(stack)?;
    let took_over = taken(stack, other)?;
    mend(stack)?;
    watch(stack, at + WATCH)?;
    Ok(Deed { fault: at, mended: None, took_over })
}

fn planned(stack: &mut dyn Stack, active: usize) -> Result<Deed, ScenarioError> {
    let fault = Instant::now();
    let mut from = active;
    for _ in 0..3 {
        stack.hand_over(from)?;
        from = 1 - from;
        until_active(stack, from, TAKEOVER_LIMIT)?;
        // The one that gave it away has to be fit for the next one.
        settle(stack, SETTLE_LIMIT)?;
        watch(stack, Instant::now() + WATCH)?;
    }
    Ok(Deed { fault, mended: None, took_over: Some(from) })
}

fn planned_and_back(stack: &mut dyn Stack, active: usize) -> Result<Deed, ScenarioError> {
    let fault = Instant::now();
    stack.hand_over(active)?;
    stack.hand_over(1 - active)?;
    until_active(stack, active, TAKEOVER_LIMIT)?;
    watch(stack, Instant::now() + WATCH)?;
    Ok(Deed { fault, mended: None, took_over: Some(active) })
}

fn lan_dead(stack: &mut dyn Stack, active: usize) -> Result<Deed, ScenarioError> {
    let fault = Instant::now();
    stack.site().nodes[active].port.deaf(true)?;
    let took_over = taken(stack, 1 - active)?;
    // Longer than any lease: whoever should have lost it has lost it by now.
    watch(stack, fault + RETURN_WATCH)?;
    let mended = Instant::now();
    stack.site().nodes[active].port.deaf(false)?;
    watch(stack, mended + WATCH)?;
    Ok(Deed { fault, mended: Some(mended), took_over })
}

fn adverts_filtered(stack: &mut dyn Stack, other: usize, holders: &Holders) -> Result<Deed, ScenarioError> {
    let fault = Instant::now();
    for node in &stack.site().nodes {
        node.port.filter(VRRP)?;
    }
    watch(stack, fault + FILTERED)?;
    for node in &stack.site().nodes {
        node.port.heal()?;
    }
    let mended = Instant::now();
    watch(stack, mended + WATCH)?;
    // By the kernel's word: it may have been there and gone again.
    let took_over = holders.held().ever(other, fault).then_some(other);
    Ok(Deed { fault, mended: Some(mended), took_over })
}

fn all_cut(stack: &mut dyn Stack, other: usize) -> Result<Deed, ScenarioError> {
    let fault = Instant::now();
    let site = stack.site();
    for (node, peer) in [(0, 1), (1, 0)] {
        site.crossover[node].deaf(true)?;
        site.nodes[node].port.ignore(site.nodes[peer].mac)?;
    }
    let took_over = taken(stack, other)?;
    watch(stack, Instant::now() + CUT)?;
    for (node, crossover) in stack.site().nodes.iter().zip(&stack.site().crossover) {
        crossover.deaf(false)?;
        node.port.heal()?;
    }
    let mended = Instant::now();
    watch(stack, mended + RETURN_WATCH)?;
    Ok(Deed { fault, mended: Some(mended), took_over })
}

/// What a paused machine looks like from outside, as far as processes can show it: its kernel goes on here.
fn vm_pause(stack: &mut dyn Stack, active: usize) -> Result<Deed, ScenarioError> {
    let processes = stack.site().nodes[active].netns.processes();
    let all = |signal| {
        for pid in &processes {
            // One that ended meanwhile needs no signal.
            let _ = kill(Pid::from_raw(*pid), signal);
        }
    };
    let fault = Instant::now();
    all(Signal::SIGSTOP);
    let took_over = taken(stack, 1 - active)?;
    watch(stack, fault + PAUSE)?;
    let mended = Instant::now();
    all(Signal::SIGCONT);
    watch(stack, mended + RETURN_WATCH)?;
    Ok(Deed { fault, mended: Some(mended), took_over })
}

/// Pulls the cable of the active node, and waits until the other one serves.
fn cut_off(stack: &mut dyn Stack, active: usize) -> Result<(), ScenarioError> {
    stack.site().nodes[active].port.carrier(false)?;
    until_active(stack, 1 - active, SETTLE_LIMIT)?;
    wait_until("an answer from the node that took over", SETTLE_LIMIT, || {
        match ask_once(&stack.site().client.netns, stack.site().service()) {
            Outcome::Answered => Ok(()),
            outcome => Err(format!("{outcome:?}")),
        }
    })?;
    Ok(())
}

/// Waits until one node is active, the other a fit standby, and a client is answered. Returns the active one.
pub(crate) fn settle(stack: &mut dyn Stack, within: Duration) -> Result<usize, ScenarioError> {
    let mut broken = None;
    let active = wait_until("one active node, one fit standby and an answer through the VIP", within, || {
        if let Err(error) = stack.tend() {
            broken = Some(error);
            return Ok(None);
        }
        let (a, b) = (stack.standing(0), stack.standing(1));
        let active = match (&a, &b) {
            (Ok(a), Ok(b)) if a.active != b.active && a.fit && b.fit => usize::from(b.active),
            _ => {
                let words = |standing: Result<_, _>| match standing {
                    Ok(Standing { words, .. }) => words,
                    Err(error) => error,
                };
                return Err(format!("{}: {}; {}: {}", stack.name(0), words(a), stack.name(1), words(b)));
            }
        };
        match ask_once(&stack.site().client.netns, stack.site().service()) {
            Outcome::Answered => Ok(Some(active)),
            outcome => Err(format!("{} is active, but a request was {outcome:?}", stack.name(active))),
        }
    })?;
    match (active, broken) {
        (_, Some(error)) => Err(error.into()),
        (Some(active), None) => Ok(active),
        (None, None) => unreachable!("without an error there is an active node"),
    }
}

/// `node`, if it takes over in time.
fn taken(stack: &mut dyn Stack, node: usize) -> Result<Option<usize>, ScenarioError> {
    match until_active(stack, node, TAKEOVER_LIMIT) {
        Ok(()) => Ok(Some(node)),
        Err(ScenarioError::Wait(WaitError::TimedOut { .. })) => Ok(None),
        Err(error) => Err(error),
    }
}

fn until_active(stack: &mut dyn Stack, node: usize, within: Duration) -> Result<(), ScenarioError> {
    let mut broken = Ok(());
    wait_until(&format!("{} to take over", stack.name(node)), within, || {
        broken = stack.tend();
        match stack.standing(node) {
            _ if broken.is_err() => Ok(()),
            Ok(standing) if standing.active => Ok(()),
            Ok(standing) => Err(standing.words),
            Err(error) => Err(error),
        }
    })?;
    Ok(broken?)
}

/// Lets time pass until `end`, tending the stack.
fn watch(stack: &mut dyn Stack, end: Instant) -> Result<(), ScenarioError> {
    while Instant::now() < end && !wait::cancelled() {
        stack.tend()?;
        wait::pass(Duration::from_millis(10));
    }
    Ok(())
}

fn signal(pid: Pid, signal: Signal) -> Result<(), ScenarioError> {
    kill(pid, signal).map_err(|source| ScenarioError::Signal { signal, pid, source })
}
