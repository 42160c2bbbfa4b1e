//! What a request costs, side by side with HAProxy and nginx (docs/performance.md).
//!
//! Every row starts its proxies afresh, each with one thread and all in front of one origin, and measures them in
//! turn (A B C A B C …). The figure is processor time of the proxy per unit of work, because on a machine that others use
//! too it holds still while requests a second do not. Nothing here passes or fails by a time.
//!
//! ```text
//! row          the rows: work, unit, goal         peer    the proxies and the origin, as each is configured
//! measure      one row: rounds of its proxies     paced   latency at a fixed rate     idle  memory of idle connections
//! handshakes   TLS clients that come and go       h2load  HTTP/2                      client  one connection
//! report       the table, and the same as JSON    cores   who runs on which processor
//! certificate  made anew for each row           checks  servers that are checked, and nothing else
//! ```

mod certificate;
mod checks;
mod client;
mod cores;
mod h2load;
mod handshakes;
mod idle;
mod measure;
mod paced;
mod peer;
mod report;
mod row;

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use tests::wait;

use crate::cores::Cores;
use crate::measure::{Effort, measure};
use crate::peer::Peer;
use crate::report::Report;

/// What a request costs: lbnode beside HAProxy and nginx, on this machine.
#[derive(Debug, Parser)]
struct Arguments {
    /// A few seconds a row: shows that it works, and roughly where things stand.
    #[arg(long)]
    quick: bool,
    /// Only rows whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Only these proxies.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Peer::Lbnode, Peer::Haproxy, Peer::Nginx])]
    peers: Vec<Peer>,
    /// The lbnode to measure, a release build. Default: the one beside this program.
    #[arg(long)]
    lbnode: Option<PathBuf>,
    /// Rounds of a row, in place of the usual number.
    #[arg(long)]
    rounds: Option<usize>,
    /// Leave it to the kernel who runs where. Otherwise the proxies have one processor and everything else another.
    #[arg(long)]
    unpinned: bool,
    /// Where the figures go, for programs.
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = end_on_signals().and_then(|()| run(&arguments));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let mut effort = if arguments.quick { Effort::quick() } else { Effort::full() };
    effort.rounds = arguments.rounds.unwrap_or(effort.rounds).max(1);
    let cores = if arguments.unpinned { Cores::unpinned() } else { Cores::pinned()? };
    cores.load()?;
    let descriptors = idle::raise_descriptors()?;
    // The proxy has two for each client while it asks the origin, and some of its own.
    effort.idle = effort.idle.min(usize::try_from(descriptors / 2)?.saturating_sub(500));
    let lbnode = arguments.lbnode.clone().unwrap_or_else(tests::serve::binary);
    let mut report = Report::new(&arguments.peers, &effort, &cores, &lbnode);
    for row in row::all() {
        if arguments.only.as_ref().is_some_and(|only| !row.name.contains(only.as_str())) {
            continue;
        }
        eprintln!("bench: {} …", row.name);
        report.add(&row, measure(&row, &arguments.peers, &lbnode, &effort, &cores)?);
    }
    print!("{}", report.table());
    report.write(&arguments.json)?;
    println!("\nFor programs: {}", arguments.json.display());
    Ok(())
}

/// Ctrl-C ends every wait; what runs then goes with the values that stand for it.
fn end_on_signals() -> Result<(), Box<dyn std::error::Error>> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    signals.thread_block()?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        if signals.wait().is_ok() {
            wait::cancel_all();
        }
    })?;
    Ok(())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
