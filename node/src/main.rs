//! `lbnode`: parses the command line and does what it says.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    node::cli::run(node::cli::Cli::parse())
}
