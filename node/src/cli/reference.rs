//! Completions and man pages, made from the definitions of the command line.

use std::io;
use std::path::Path;

use clap::CommandFactory;

use super::{Cli, Exit, complain_text};

pub(super) fn completions(shell: clap_complete::Shell) -> Exit {
    clap_complete::generate(shell, &mut Cli::command(), "lbnode", &mut io::stdout());
    Exit::Fine
}

/// The main page to stdout, or every page into a directory.
pub(super) fn man(directory: Option<&Path>) -> Exit {
    let (done, place) = match directory {
        Some(directory) => (write_all(directory), directory.display().to_string()),
        None => (clap_mangen::Man::new(Cli::command()).render(&mut io::stdout()), "stdout".to_owned()),
    };
    match done {
        Ok(()) => Exit::Fine,
        Err(error) => {
            complain_text(format_args!("cannot write man pages to {place}: {error}"));
            Exit::Degraded
        }
    }
}

fn write_all(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(Cli::command(), directory)
}
