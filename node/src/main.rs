//! `lbnode`: parses the command line and does what it says.

use std::process::ExitCode;

use clap::Parser as _;

/// glibc's own takes a slow path for whatever is longer than a kilobyte, which a request's state is.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    node::cli::run(node::cli::Cli::parse())
}
