//! `lbnode list`: the lists of networks that rules refer to, as they are now, and changes of them.

use std::path::Path;

use clap::Subcommand;
use ipnetwork::IpNetwork;
use serde_json::json;

use super::remote::{CHANGE, READ, ask};
use super::{Exit, Json, paint, print, print_json};
use crate::control::{ListLength, Request, Response};

#[derive(Debug, Subcommand)]
pub(super) enum ListCommand {
    /// The networks of a list and where each comes from; without a name: which lists there are
    #[command(after_help = "Examples:\n  lbnode list show\n  lbnode list show admins")]
    Show {
        /// The list
        name: Option<String>,
        #[command(flatten)]
        json: Json,
    },
    /// Put networks into a list, on this node and until the cluster file says otherwise
    #[command(after_help = "Example:\n  lbnode list add blocked 198.51.100.7 2001:db8:66::/48")]
    Add {
        /// The list
        name: String,
        /// `10.0.0.0/8`, `2001:db8::/32`, or one address
        #[arg(required = true, value_name = "NETWORK")]
        networks: Vec<String>,
        #[command(flatten)]
        json: Json,
    },
    /// Take networks out of a list, on this node and until the cluster file says otherwise
    #[command(after_help = "Example:\n  lbnode list remove blocked 198.51.100.7")]
    Remove {
        /// The list
        name: String,
        /// As `lbnode list show` has them
        #[arg(required = true, value_name = "NETWORK")]
        networks: Vec<String>,
        #[command(flatten)]
        json: Json,
    },
}

pub(super) fn list(command: ListCommand, socket: &Path) -> Exit {
    match command {
        ListCommand::Show { name, json } => show(socket, name, json),
        ListCommand::Add { name, networks, json } => {
            change(socket, &Request::ListChange { list: name, add: networks, remove: Vec::new() }, json)
        }
        ListCommand::Remove { name, networks, json } => {
            change(socket, &Request::ListChange { list: name, add: Vec::new(), remove: networks }, json)
        }
    }
}

fn show(socket: &Path, list: Option<String>, json: Json) -> Exit {
    ask(socket, &Request::ListShow { list }, READ, |response| {
        match response {
            Response::Lists { lists } if json.json => print_json(&json!({ "lists": lists })),
            Response::Lists { lists } if lists.is_empty() => print("there is no list in the running configuration"),
            Response::Lists { lists } => lists.iter().for_each(|list| print(length_line(list))),
            Response::List { list, from_file, added, removed } if json.json => {
                print_json(&json!({ "list": list, "from_file": from_file, "added": added, "removed": removed }));
            }
            Response::List { from_file, added, removed, .. } => {
                tell(&from_file, "from the file");
                tell(&added, "added at run time");
                tell(&removed, "removed at run time");
            }
            other => return Err(other),
        }
        Ok(Exit::Fine)
    })
}

fn change(socket: &Path, request: &Request, json: Json) -> Exit {
    ask(socket, request, CHANGE, |response| {
        let Response::ListChanged { list, added, removed, unchanged } = response else { return Err(response) };
        if json.json {
            print_json(&json!({ "list": list, "added": added, "removed": removed, "unchanged": unchanged }));
        } else {
            let words = change_line(&list, added.len(), removed.len(), unchanged.len());
            print(paint::stdout(paint::GREEN, &words));
        }
        Ok(Exit::Fine)
    })
}

fn tell(networks: &[IpNetwork], origin: &str) {
    // As wide as most are; an IPv6 network may be longer.
    networks.iter().for_each(|network| print(format_args!("{:<20} {origin}", network.to_string())));
}

fn length_line(ListLength { list, from_file, added, removed }: &ListLength) -> String {
    let changes = match (added, removed) {
        (0, 0) => String::new(),
        (added, removed) => format!(" ({added} added, {removed} removed at run time)"),
    };
    format!("{list}: {}{changes}", networks(from_file + added))
}

fn change_line(list: &str, added: usize, removed: usize, unchanged: usize) -> String {
    let so_already = || format!("{} so already", if unchanged == 1 { "it was" } else { "they were" });
    match (added, removed, unchanged) {
        (0, 0, _) => format!("{list}: nothing to do, {}", so_already()),
        (added, 0, 0) => format!("{list}: {} added", networks(added)),
        (0, removed, 0) => format!("{list}: {} removed", networks(removed)),
        (added, 0, unchanged) => format!("{list}: {} added, {unchanged} there already", networks(added)),
        (0, removed, unchanged) => format!("{list}: {} removed, {unchanged} not there", networks(removed)),
        (added, removed, _) => format!("{list}: {} added, {removed} removed", networks(added)),
    }
}

fn networks(count: usize) -> String {
    format!("{count} network{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_in_a_line() {
        let table = [
            ((1, 0, 0), "l: 1 network added"),
            ((2, 0, 1), "l: 2 networks added, 1 there already"),
            ((0, 1, 0), "l: 1 network removed"),
            ((0, 2, 1), "l: 2 networks removed, 1 not there"),
            ((0, 0, 1), "l: nothing to do, it was so already"),
            ((0, 0, 2), "l: nothing to do, they were so already"),
        ];
        for ((added, removed, unchanged), expected) in table {
            assert_eq!(change_line("l", added, removed, unchanged), expected);
        }
    }

    #[test]
    fn a_list_is_as_long_as_it_is_now() {
        let length =
            |from_file, added, removed| length_line(&ListLength { list: "l".into(), from_file, added, removed });
        assert_eq!(length(3, 0, 0), "l: 3 networks");
        assert_eq!(length(0, 1, 2), "l: 1 network (1 added, 2 removed at run time)");
    }
}
