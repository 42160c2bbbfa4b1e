//! `[list.NAME]`: networks that rules refer to.

use ipnetwork::IpNetwork;
use proxy_core::plan::List;

use super::super::files::Files;
use super::super::reader::{Section, Value};

/// Longest list file in bytes: some 150,000 networks.
const MAX_FILE: u64 = 2 << 20;
/// Mistakes of a list file that are told apart; it may be the wrong file altogether.
const MAX_TOLD: usize = 5;

/// Reads all lists.
pub(super) fn read(value: Value<'_>, files: &Files<'_>) -> Option<Vec<List>> {
    let section = value.section()?;
    let mut lists = Vec::new();
    for (name, _, value) in section.entries() {
        if name.parse::<IpNetwork>().is_ok() {
            value.report(format!("`{name}` cannot be the name of a list: where lists are named it is a network"));
        }
        let networks = value.section().and_then(|table| read_one(table, files)).unwrap_or_default();
        // The name counts even if the list is broken: who refers to it is not wrong.
        lists.push(List { name: name.to_owned(), networks });
    }
    Some(lists)
}

fn read_one(table: Section<'_>, files: &Files<'_>) -> Option<Vec<IpNetwork>> {
    if !table.has("networks") && !table.has("file") {
        table.report("a list needs `networks`, which may be empty, or `file`");
    }
    let mut networks = table.optional("networks", |value| {
        let read: Vec<Option<IpNetwork>> = value.list()?.into_iter().map(network_value).collect();
        Some(read)
    });
    let from_file = table.optional("file", |value| {
        let path = value.clone().absolute_path()?;
        let text = files.read(&path, MAX_FILE, &value)?;
        read_lines(&path, &text, &value)
    });
    table.finish();
    let mut networks: Vec<IpNetwork> = networks.take().unwrap_or_default().into_iter().collect::<Option<_>>()?;
    networks.extend(from_file.unwrap_or_default());
    Some(networks)
}

/// One network a line; `#` begins a comment, as in HAProxy's lists.
fn read_lines(path: &str, text: &str, value: &Value<'_>) -> Option<Vec<IpNetwork>> {
    let mut networks = Vec::new();
    let mut bad = 0;
    for (number, line) in text.lines().enumerate() {
        let written = line.split('#').next().unwrap_or_default().trim();
        if written.is_empty() {
            continue;
        }
        match network(written) {
            Ok(network) => networks.push(network),
            Err(why) => {
                bad += 1;
                if bad <= MAX_TOLD {
                    value.report(format!("{path}:{}: {why}", number + 1));
                }
            }
        }
    }
    if bad > MAX_TOLD {
        value.report(format!("{path}: {} more lines are no networks", bad - MAX_TOLD));
    }
    (bad == 0).then_some(networks)
}

/// A network that is written as a string.
pub(super) fn network_value(value: Value<'_>) -> Option<IpNetwork> {
    let text = value.clone().string()?;
    network(&text).map_err(|why| value.report(why)).ok()
}

/// `10.0.0.0/8`, `2001:db8::/32`, or one address.
pub(crate) fn network(text: &str) -> Result<IpNetwork, String> {
    let Ok(network) = text.parse::<IpNetwork>() else {
        let text = text.escape_debug();
        return Err(format!("`{text}` is no network; expected one such as 10.0.0.0/8, 2001:db8::/32 or 10.0.0.1"));
    };
    let whole = IpNetwork::new(network.network(), network.prefix()).unwrap_or(network);
    if whole.ip() != network.ip() {
        return Err(format!("`{text}` has bits behind its prefix; expected {whole} or {}", network.ip()));
    }
    Ok(network)
}
