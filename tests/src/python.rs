//! Parts written in Python, in the environment that `.ci/setup test` makes: what the standard library and two
//! packages know and nothing else at hand does (NTLM, WebSockets).

use std::path::{Path, PathBuf};
use std::process::Command;

/// A command that runs a script of `tests/parts/`.
pub fn script(name: &str) -> Command {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python: PathBuf = tests.join("../target/tools/python/bin/python");
    let mut command = Command::new(python);
    command.arg("-u").arg(tests.join("parts").join(name));
    command
}
