//! `lbnode table`: the stick tables of this node's proxy core.

use std::path::Path;

use clap::Subcommand;
use proxy_core::stats::{StickEntry, StickTableStats};
use serde_json::json;

use super::remote::{CHANGE, READ, ask};
use super::{Exit, Json, paint, print, print_json};
use crate::control::{Request, Response};

#[derive(Debug, Subcommand)]
pub(super) enum TableCommand {
    /// Which stick tables there are, and how full they are
    #[command(after_help = "Examples:\n  lbnode table list\n  lbnode table list --json | jq '.tables[].evicted'")]
    List(Json),
    /// What is known of clients, the last used first: at most 1000 of them, or one
    #[command(after_help = "Examples:\n  lbnode table show mag\n  lbnode table show mag 198.51.100.7")]
    Show {
        /// The table
        name: String,
        /// The client's address, or whatever the table's key is
        key: Option<String>,
        #[command(flatten)]
        json: Json,
    },
    /// Forget everything, or what is known of one client; who is connected still counts as that
    #[command(after_help = "Examples:\n  lbnode table clear mag 198.51.100.7\n  lbnode table clear mag")]
    Clear {
        /// The table
        name: String,
        /// As `lbnode table show` has it; without one: everything
        key: Option<String>,
        #[command(flatten)]
        json: Json,
    },
}

pub(super) fn table(command: TableCommand, socket: &Path) -> Exit {
    match command {
        TableCommand::List(json) => list(socket, json),
        TableCommand::Show { name, key, json } => show(socket, name, key, json),
        TableCommand::Clear { name, key, json } => clear(socket, name, key, json),
    }
}

fn list(socket: &Path, json: Json) -> Exit {
    ask(socket, &Request::Status, READ, |response| {
        let Response::Status { status } = response else { return Err(response) };
        if json.json {
            print_json(&json!({ "tables": status.stick_tables }));
        } else if status.stick_tables.is_empty() {
            print("there is no stick table in the running configuration");
        } else {
            status.stick_tables.iter().for_each(|table| print(table_line(table)));
        }
        Ok(Exit::Fine)
    })
}

fn show(socket: &Path, table: String, key: Option<String>, json: Json) -> Exit {
    ask(socket, &Request::TableShow { table, key }, READ, |response| {
        let Response::Table { table, entries } = response else { return Err(response) };
        if json.json {
            print_json(&json!({ "table": table, "entries": entries }));
        } else if entries.is_empty() {
            print(format_args!("{table}: nothing is known"));
        } else {
            entries.iter().for_each(|entry| print(entry_line(entry)));
        }
        Ok(Exit::Fine)
    })
}

fn clear(socket: &Path, table: String, key: Option<String>, json: Json) -> Exit {
    ask(socket, &Request::TableClear { table, key }, CHANGE, |response| {
        let Response::TableCleared { table, cleared } = response else { return Err(response) };
        if json.json {
            print_json(&json!({ "table": table, "cleared": cleared }));
        } else {
            let entries = if cleared == 1 { "entry" } else { "entries" };
            print(paint::stdout(paint::GREEN, &format!("{table}: {cleared} {entries} forgotten")));
        }
        Ok(Exit::Fine)
    })
}

fn table_line(table: &StickTableStats) -> String {
    let StickTableStats { name, size, entries, hits, misses, evicted, refused } = table;
    let mut line = format!("{name}: {entries} of {size} entries, {hits} hits, {misses} misses");
    if *evicted > 0 {
        line += &format!(", {evicted} evicted before their time: `size` is too small");
    }
    if *refused > 0 {
        line += &format!(", {refused} clients without an entry: everybody in it is connected");
    }
    line
}

fn entry_line(entry: &StickEntry) -> String {
    let server = entry.server.as_ref().map(|server| format!(" at {server}")).unwrap_or_default();
    let counters: String = entry.counters.iter().map(|(name, value)| format!(" {name}={value}")).collect();
    format!("{}{server}, for {} s{counters}", entry.key, entry.expires_in_ms.div_ceil(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_too_small_is_told_so() {
        let good = StickTableStats {
            name: "t".into(),
            size: 10,
            entries: 3,
            hits: 2,
            misses: 1,
            ..StickTableStats::default()
        };
        assert_eq!(table_line(&good), "t: 3 of 10 entries, 2 hits, 1 misses");
        let small = StickTableStats { evicted: 4, ..good };
        assert!(table_line(&small).ends_with("misses, 4 evicted before their time: `size` is too small"));
    }

    #[test]
    fn an_entry_is_a_line() {
        let entry = StickEntry {
            key: "192.0.2.1".into(),
            server: Some("a".into()),
            expires_in_ms: 1001,
            counters: [("gpc0".into(), 1)].into(),
        };
        assert_eq!(entry_line(&entry), "192.0.2.1 at a, for 2 s gpc0=1");
    }
}
