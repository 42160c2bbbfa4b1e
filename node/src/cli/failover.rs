//! `lbnode failover`: VIPs to the other node on purpose.

use std::path::Path;

use clap::Args;
use serde_json::json;

use super::remote::{CHANGE, ask};
use super::{Exit, Json, paint, print, print_json};
use crate::control::{Moved, Request, Response};

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Only this VIP; without it every VIP that is not there yet
    #[arg(long, value_name = "VIP")]
    vip: Option<String>,
    /// To the node of this name; without it to the other node than now
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
    /// Even if that node is not ready to serve them as well
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    json: Json,
}

pub(super) fn failover(socket: &Path, options: &Options) -> Exit {
    let Options { vip, to, force, json } = options;
    let request = Request::Failover { vip: vip.clone(), to: to.clone(), force: *force };
    ask(socket, &request, CHANGE, |response| {
        let Response::Failover { vips } = response else { return Err(response) };
        if json.json {
            print_json(&json!({ "vips": vips }));
        } else if vips.is_empty() {
            print("there is no VIP to move");
        } else {
            vips.iter().for_each(|moved| print(line(moved)));
        }
        Ok(if vips.iter().all(is_so) { Exit::Fine } else { Exit::Degraded })
    })
}

/// Whether the VIP is where it was wanted.
fn is_so(moved: &Moved) -> bool {
    moved.moved || moved.from == moved.to
}

fn line(Moved { vip, from, to, moved, text, took_ms }: &Moved) -> String {
    let words = match (moved, took_ms) {
        (true, Some(took)) => format!("{vip} moved from {from} to {to} in {took:.1} ms"),
        (true, None) => format!("{vip} moved from {from} to {to}"),
        (false, _) if from == to => format!("{vip} is at {to} already"),
        (false, _) => format!("{vip} stays at {from}"),
    };
    let colour = if *moved || from == to { paint::GREEN } else { paint::RED };
    let words = paint::stdout(colour, &words);
    if text.is_empty() { words } else { format!("{words}: {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_vip_is_told_in_a_line_and_refusals_count() {
        let moved = |from: &str, moved, text: &str, took_ms| Moved {
            vip: "mail".into(),
            from: from.into(),
            to: "lb-b".into(),
            moved,
            text: text.into(),
            took_ms,
        };
        let table = [
            (
                moved("lb-a", true, "1,250 connections follow", Some(6.42)),
                "mail moved from lb-a to lb-b in 6.4 ms: 1,250 connections follow",
                true,
            ),
            (moved("lb-a", true, "", None), "mail moved from lb-a to lb-b", true),
            (moved("lb-b", false, "", None), "mail is at lb-b already", true),
            (
                moved("lb-a", false, "the proxy core of lb-b is not ready", None),
                "mail stays at lb-a: the proxy core of lb-b is not ready",
                false,
            ),
        ];
        for (moved, expected, so) in table {
            assert_eq!((line(&moved).as_str(), is_so(&moved)), (expected, so));
        }
    }
}
