//! The command line: what can be said, and who does it.
//!
//! Man pages and completions come from the same definitions. Results go to stdout, everything else to stderr.
//! Exit codes are [`Exit`].

mod cert;
mod check;
mod events;
mod failover;
mod hidden;
mod list;
mod paint;
mod pair;
mod reference;
mod release;
mod remote;
mod table;

use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::ControlConfig;

/// How a command can end. The numbers above 2 are those of sysexits.h where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It was done; it is so.
    Fine = 0,
    /// Degraded, or the thing asked for is not so, or could not be done.
    Degraded = 1,
    /// The command line makes no sense (clap's own).
    Usage = 2,
    /// A VIP is served by nobody.
    NotServing = 3,
    /// The configuration is wrong.
    BadConfig = 64,
    /// The agent does not run.
    NoAgent = 69,
    /// It cannot be done now.
    TryAgain = 75,
    /// This user may not.
    NotPermitted = 77,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Two Linux machines, one highly available load balancer.
#[derive(Debug, Parser)]
#[command(
    name = "lbnode",
    version,
    arg_required_else_help = true,
    after_help = "\
Examples:
  lbnode lab                               watch two nodes survive their faults
  lbnode check node.toml cluster.toml      all mistakes of both files at once
  lbnode run --config /etc/lbnode/node.toml
  lbnode status

Exit codes: 0 fine; 1 degraded or not so; 2 usage; 3 not serving; 64 bad config;
69 agent not running; 75 try again; 77 not permitted."
)]
pub struct Cli {
    /// Talk to this node of a running `lbnode lab --keep`
    #[arg(long, global = true, value_name = "NODE", conflicts_with = "control")]
    lab: Option<LabNode>,
    /// The agent's control socket [default: /run/lbnode/control.sock; `serve` opens one only if told]
    #[arg(long, global = true, value_name = "SOCKET")]
    control: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

/// A node of the lab.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum LabNode {
    A,
    B,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent in the foreground
    #[command(after_help = "Example:\n  lbnode run --config /etc/lbnode/node.toml")]
    Run {
        /// The node file
        #[arg(long, default_value = "/etc/lbnode/node.toml")]
        config: PathBuf,
    },
    /// Serve a cluster file in the foreground, without a pair: SIGHUP reads it again
    #[command(after_help = "\
Examples:
  lbnode serve cluster.toml --threads 2    until Ctrl-C; a second one ends clients at once
  lbnode serve cluster.toml --control /tmp/lb.sock
  lbnode --control /tmp/lb.sock status     … from another terminal")]
    Serve(crate::serve::Options),
    /// What goes on: 0 healthy, 1 degraded, 3 not serving
    #[command(after_help = "Examples:\n  lbnode status\n  lbnode status --json | jq '.vips[].state'")]
    Status(Json),
    /// Validate node.toml, cluster.toml: all mistakes at once
    #[command(after_help = "\
Examples:
  lbnode check                             /etc/lbnode/node.toml and the cluster file it names
  lbnode check node.toml cluster.toml      both, and whether they fit together")]
    Check {
        /// Node and cluster files, told apart by their content
        files: Vec<PathBuf>,
        #[command(flatten)]
        json: Json,
    },
    /// Certificates: what files have, what runs, and what is kept here
    #[command(
        subcommand,
        after_help = "\
Examples:
  lbnode cert check exchange.pfx --password-file pass
  lbnode cert check cluster.toml --servers and whether servers show the same certificates
  lbnode cert list                         what runs, and for how long
  lbnode cert import exchange exchange.pfx --password-file pass"
    )]
    Cert(cert::CertCommand),
    /// The running configuration
    #[command(subcommand, after_help = "Example:\n  lbnode config apply cluster.toml --dry-run")]
    Config(ConfigCommand),
    /// Move VIPs to the other node, clients and all
    #[command(after_help = "\
Examples:
  lbnode failover                          every VIP to the other node than now
  lbnode failover --vip mail --to lb-b     nothing is done if it is there already")]
    Failover(failover::Options),
    /// What happened and why, with its timeline in milliseconds
    #[command(after_help = "\
Examples:
  lbnode events --last 5
  lbnode events -f --vip mail
  lbnode events --json | jq 'select(.kind == \"failover\")'
  lbnode events --config /etc/lbnode/node.toml   from the files, while no agent runs")]
    Events(events::Options),
    /// Take this node out of service, or put it back
    #[command(after_help = "Example:\n  lbnode maintenance on && reboot")]
    Maintenance {
        /// What it shall be
        state: Switch,
        #[command(flatten)]
        json: Json,
    },
    /// The lists of networks that rules refer to, changed while they are used
    #[command(
        subcommand,
        after_help = "\
Examples:
  lbnode list show blocked
  lbnode list add blocked 198.51.100.7     from the next request on; on this node"
    )]
    List(list::ListCommand),
    /// The stick tables: which server clients stay with, and what is counted of them
    #[command(subcommand, after_help = "Examples:\n  lbnode table list\n  lbnode table show mag 198.51.100.7")]
    Table(table::TableCommand),
    /// Make two nodes a pair: who this one is, and whom it trusts
    #[command(
        subcommand,
        after_help = "\
Example:
  lbnode pair init                         on one node; it prints what to run on the other one
  lbnode pair join a:3f1c…                 on the other one; it prints what to run on the first"
    )]
    Pair(pair::PairCommand),
    /// Remove VIPs that an agent left behind, and what its hand-offs did
    #[command(after_help = "Example:\n  lbnode release --config /etc/lbnode/node.toml")]
    Release {
        /// The node file; it may be missing
        #[arg(long, default_value = "/etc/lbnode/node.toml")]
        config: PathBuf,
        #[command(flatten)]
        json: Json,
    },
    /// Show two nodes sharing a VIP through every fault, in network namespaces of this machine
    #[command(after_help = "\
Examples:
  lbnode lab
  lbnode lab --keep                        then: lbnode --lab a status
  lbnode lab --scenario proxy-kill --repeat 20")]
    Lab(crate::lab::LabOptions),
    /// Shell completions, to stdout
    #[command(after_help = "Example:\n  lbnode completions bash > /etc/bash_completion.d/lbnode")]
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// Man pages: the main one to stdout, or all into a directory
    #[command(after_help = "Examples:\n  lbnode man | man -l -\n  lbnode man /usr/local/share/man/man1")]
    Man {
        /// Where all pages go
        directory: Option<PathBuf>,
    },
    /// The data plane, started by the agent
    #[command(hide = true)]
    ProxyCore(hidden::ProxyCore),
    /// The guard, started by the agent
    #[command(hide = true)]
    Guard(hidden::Guard),
    /// The program of a check, started by the agent
    #[command(hide = true)]
    RunCheck(hidden::RunCheck),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Run this cluster file from now on, on this node only
    #[command(after_help = "Example:\n  lbnode config apply cluster.toml")]
    Apply {
        /// The cluster file
        file: PathBuf,
        /// Say what would be done, and do nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        json: Json,
    },
    /// The cluster file that runs
    #[command(after_help = "Example:\n  lbnode config show > cluster.toml")]
    Show(Json),
}

#[derive(Args, Clone, Copy, Debug)]
struct Json {
    /// For programs
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// Does what the command line says.
pub fn run(cli: Cli) -> ExitCode {
    let socket = match cli.lab {
        Some(LabNode::A) => crate::lab::control_socket("a"),
        Some(LabNode::B) => crate::lab::control_socket("b"),
        None => cli.control.clone().unwrap_or_else(|| ControlConfig::SOCKET.into()),
    };
    match cli.command {
        Command::Serve(options) => crate::serve::run(options, cli.control),
        Command::Run { config } => crate::agent::run(&config),
        Command::Status(json) => remote::status(&socket, json).into(),
        Command::Check { files, json } => check::check(files, json).into(),
        Command::Cert(command) => cert::cert(command, &socket).into(),
        Command::Config(ConfigCommand::Apply { file, dry_run, json }) => {
            remote::apply(&socket, &file, dry_run, json).into()
        }
        Command::Config(ConfigCommand::Show(json)) => remote::show(&socket, json).into(),
        Command::Maintenance { state, json } => remote::maintenance(&socket, matches!(state, Switch::On), json).into(),
        Command::Failover(options) => failover::failover(&socket, &options).into(),
        Command::Events(options) => events::events(&socket, &options).into(),
        Command::List(command) => list::list(command, &socket).into(),
        Command::Table(command) => table::table(command, &socket).into(),
        Command::Pair(command) => pair::pair(command, &socket).into(),
        Command::Release { config, json } => release::release(&config, json).into(),
        Command::Lab(options) => crate::lab::run(options),
        Command::ProxyCore(args) => hidden::proxy_core(&args),
        Command::Guard(args) => hidden::guard(&args),
        Command::RunCheck(args) => hidden::run_check(&args),
        Command::Completions { shell } => reference::completions(shell).into(),
        Command::Man { directory } => reference::man(directory.as_deref()).into(),
    }
}

/// Says on stderr what went wrong, causes included.
fn complain(error: &dyn std::error::Error) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    complain_text(text);
}

/// Says on stderr what is no mistake and will hurt.
fn warn(text: impl Display) {
    eprintln!("{} {text}", paint::stderr(paint::YELLOW, "warning:"));
}

fn complain_text(text: impl Display) {
    eprintln!("{} {text}", paint::stderr(paint::RED, "lbnode:"));
}

/// Prints a result; a reader that left (`| head`) is no error.
fn print(text: impl Display) {
    use std::io::Write;
    let (Ok(()) | Err(_)) = writeln!(std::io::stdout(), "{text}");
}

/// The same, for programs.
fn print_json(value: &serde_json::Value) {
    print(format_args!("{value:#}"));
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn each_command_shows_an_example() {
        fn walk(command: &clap::Command) {
            for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
                let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Example"), "`{}` has no example", sub.get_name());
                walk(sub);
            }
        }
        walk(&Cli::command());
    }
}
