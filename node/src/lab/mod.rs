//! `lbnode lab`: a pair in network namespaces on this machine, put through its faults in front of the reader.
//!
//! This file reads the options, finds the privileges, and puts things in order; [`scenario`] names the faults and
//! [`run`](mod@run) does them, [`stack`] says what runs on the two nodes, [`report`] prints what the clients saw.

mod folder;
mod peer_stack;
mod privilege;
mod report;
mod run;
mod scenario;
mod stack;

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use netns_lab::lan::{self, INTERFACE};
use netns_lab::pair::{Pair, Settings};
use netns_lab::site::VIP;
use netns_lab::wait;

pub use folder::control_socket;
pub use scenario::Scenario;

use crate::causes::chain;
use folder::Folder;
use peer_stack::PeerStack;
use run::Run;
use stack::Stack;

/// What the stack needs to come up the first time.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Options of `lbnode lab`.
#[derive(Clone, Debug, clap::Args)]
pub struct LabOptions {
    /// Run this scenario only (may be given several times); without it all but vm-pause are run
    #[arg(long = "scenario", value_name = "NAME", value_enum)]
    pub scenarios: Vec<Scenario>,
    /// How often to run each scenario
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeat: u32,
    /// How often the active node says that it is there: a multiple of 10ms
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = advert_interval)]
    pub advert_interval: Duration,
    /// Leave the pair running afterwards, and say how to look around
    #[arg(long)]
    pub keep: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Do the same to this machine's keepalived and haproxy, for comparison
    #[arg(long)]
    pub peer_stack: bool,
}

/// Runs the lab. Call it before any other thread exists: an ordinary user's lab enters a user namespace first.
///
/// 0: every goal was met; 1: not every one, or the lab could not run (stderr says why).
pub fn run(options: LabOptions) -> ExitCode {
    match show(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("lbnode lab: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn show(options: &LabOptions) -> Result<bool, Box<dyn Error>> {
    let root = folder::root();
    let in_user_namespace = privilege::obtain()?;
    watch_signals()?;
    let folder = Folder::claim(root)?;
    let mut progress = Progress::new();
    progress.say("starting the pair");
    let mut stack: Box<dyn Stack> = if options.peer_stack {
        Box::new(PeerStack::start(folder.path(), options.advert_interval)?)
    } else {
        let mut settings = Settings::new(PathBuf::from("/proc/self/exe"), folder.path().into());
        settings.advert_interval = options.advert_interval;
        if in_user_namespace {
            // The only user there is.
            settings.user = "root".into();
        }
        let mut pair = Pair::new(settings)?;
        pair.start_agent(0)?;
        pair.start_agent(1)?;
        Box::new(pair)
    };
    let (wanted, left_out) = choose(options, &*stack);
    let runs = match run_all(options, &wanted, &mut *stack, &mut progress) {
        Ok(runs) => runs,
        Err(_) if wait::cancelled() => {
            progress.clear();
            eprintln!("lbnode lab: interrupted; everything is cleaned up");
            return Ok(false);
        }
        Err(error) => {
            progress.clear();
            return Err(format!("{}\n{}", chain(&error), stack.describe()).into());
        }
    };
    progress.clear();
    let report = report::Report::new(runs, left_out, &*stack, options.advert_interval);
    let mut out = io::stdout().lock();
    if options.json {
        writeln!(out, "{}", report.json())?;
    } else {
        write!(out, "{}", report.table())?;
    }
    drop(out);
    if options.keep && !wait::cancelled() {
        eprint!("{}", surroundings(&*stack, folder.path(), options.peer_stack));
        while !wait::cancelled() {
            // Whatever the stack's service manager would do, so that it stays as lively as it was.
            stack.tend()?;
            wait::pass(Duration::from_millis(50));
        }
    }
    Ok(report.met())
}

/// What is run, and what is not and why.
fn choose(options: &LabOptions, stack: &dyn Stack) -> (Vec<Scenario>, Vec<(Scenario, &'static str)>) {
    let mut wanted = if options.scenarios.is_empty() { Scenario::usual() } else { options.scenarios.clone() };
    wanted.dedup();
    let rules_work = lan::rules_work();
    let mut left_out = Vec::new();
    wanted.retain(|scenario| {
        let no_rules = (scenario.needs_rules() && !rules_work).then_some("it needs nft: apt install nftables");
        let why = stack.leaves_out(*scenario).or(no_rules);
        left_out.extend(why.map(|why| (*scenario, why)));
        why.is_none()
    });
    (wanted, left_out)
}

/// One after the other, so that a node's damping of one fault never meets the next fault of the same kind.
fn run_all(
    options: &LabOptions,
    wanted: &[Scenario],
    stack: &mut dyn Stack,
    progress: &mut Progress,
) -> Result<Vec<(Scenario, Vec<Run>)>, run::ScenarioError> {
    run::settle(stack, START_LIMIT)?;
    let mut results: Vec<(Scenario, Vec<Run>)> = wanted.iter().map(|scenario| (*scenario, Vec::new())).collect();
    for round in 1..=options.repeat {
        for (scenario, runs) in &mut results {
            let name = scenario.name();
            progress.say(&format!("{name} {round}/{}", options.repeat));
            let run =
                scenario.run(stack, &mut |step| progress.say(&format!("{name} {round}/{}: {step}", options.repeat)))?;
            runs.push(run);
        }
    }
    Ok(results)
}

fn surroundings(stack: &dyn Stack, folder: &Path, peer_stack: bool) -> String {
    let site = stack.site();
    let enter = |host: &netns_lab::site::Host| format!("nsenter --net={}", host.netns.path().display());
    let mut text = String::from("\nThe pair keeps running until Ctrl-C. To look around, from another terminal:\n");
    if !peer_stack {
        // As it was called: after a build it is in no PATH.
        let program = std::env::args_os().next().unwrap_or_else(|| "lbnode".into());
        text += &format!("  {} --lab a status                 (or b)\n", program.display());
    }
    text += &format!("  {} curl -s http://{VIP}/\n", enter(&site.client));
    for host in &site.nodes {
        text += &format!("  {} ip address show {INTERFACE}      (node {})\n", enter(host), host.netns.name());
    }
    text + &format!("  files and logs: {0}/a, {0}/b\n", folder.display())
}

/// Ctrl-C and SIGTERM end every wait; the rest is done by leaving.
fn watch_signals() -> io::Result<()> {
    let (report, ready) = sync_channel(1);
    thread::Builder::new().name("signals".into()).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(report.send(Err(error))),
        };
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (mut interrupt, mut terminate) =
                match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
                    (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
                    (Err(error), _) | (_, Err(error)) => return drop(report.send(Err(error))),
                };
            drop(report.send(Ok(())));
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            wait::cancel_all();
        });
    })?;
    ready.recv().unwrap_or_else(|_| Err(io::Error::other("the thread that watches signals ended")))
}

/// One line that is overwritten; only where somebody watches.
struct Progress {
    shown: bool,
}

impl Progress {
    fn new() -> Progress {
        Progress { shown: io::stderr().is_terminal() }
    }

    fn say(&mut self, what: &str) {
        if self.shown {
            eprint!("\r\x1b[K{what} …");
        }
    }

    fn clear(&mut self) {
        if self.shown {
            eprint!("\r\x1b[K");
        }
    }
}

fn advert_interval(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit {
        "ms" => 1,
        "s" => 1000,
        _ => return Err("expected a time such as 10ms, 100ms or 1s".into()),
    };
    let number: u64 = number.parse().map_err(|_| "expected a time such as 10ms, 100ms or 1s".to_owned())?;
    let interval = Duration::from_millis(number.saturating_mul(factor));
    vrrp::types::Interval::try_from(interval).map(|_| interval).map_err(|error| error.to_string())
}
