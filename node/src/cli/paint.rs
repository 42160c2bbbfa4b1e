//! Colours: only on a terminal, and not where `NO_COLOR` is set (no-color.org).

use std::io::IsTerminal;

pub(super) const RED: &str = "31";
pub(super) const GREEN: &str = "32";
pub(super) const YELLOW: &str = "33";

/// `text` in a colour if stderr shows colours.
pub(super) fn stderr(colour: &str, text: &str) -> String {
    painted(colour, text, std::io::stderr().is_terminal())
}

/// `text` in a colour if stdout shows colours.
pub(super) fn stdout(colour: &str, text: &str) -> String {
    painted(colour, text, std::io::stdout().is_terminal())
}

fn painted(colour: &str, text: &str, terminal: bool) -> String {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if terminal && wanted { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
}
