//! `lbnode release`: takes away the VIPs that an agent left behind, and what its hand-offs left in the kernel. systemd
//! runs it after every end of the agent.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use vrrp::config::RouterConfig;
use vrrp::io::address;

use super::{Exit, Json, complain, complain_text, print, print_json};
use crate::config::{self, NodeConfig};
use crate::control::{Request, Response, call};
use crate::handoff::{self, Released};
use crate::store::{Found, Store};

/// How long an agent may take to say that it runs.
const ALIVE: Duration = Duration::from_secs(2);

/// Removes what is tagged as ours on any interface, what the files name as a VIP, and every table and route of a hand-off.
pub(super) fn release(config: &Path, json: Json) -> Exit {
    let node = match config.exists().then(|| config::load_node(config)) {
        Some(Ok(node)) => Some(node),
        // Tagged addresses can go without it, and after a crash nothing may stay behind.
        Some(Err(error)) => {
            complain(&error);
            None
        }
        None => None,
    };
    if let Some(node) = &node
        && let Ok(Response::Status { .. }) = call(&node.control.socket, &Request::Status, ALIVE)
    {
        complain_text(format_args!(
            "an agent runs and holds its VIPs itself ({}); `lbnode maintenance on` makes it give them up",
            node.control.socket.display()
        ));
        return Exit::Degraded;
    }
    let routers = node.as_ref().map(known_routers).unwrap_or_default();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&error);
            return Exit::Degraded;
        }
    };
    let addresses = runtime.block_on(address::release(&routers));
    // Also when an address could not go: what mutes this node must not stay for that.
    let left = runtime.block_on(handoff::release());
    match (addresses, left) {
        (Ok(addresses), Ok(left)) => {
            if json.json {
                print_json(&json!({ "released": addresses, "tables": left.tables, "routes": left.routes }));
            } else {
                print(words(&addresses, &left));
            }
            Exit::Fine
        }
        (addresses, left) => {
            addresses.inspect_err(|error| complain(error)).ok();
            left.inspect_err(|error| complain(error)).ok();
            match crate::privileges::missing() {
                Some(missing) => {
                    complain_text(missing);
                    Exit::NotPermitted
                }
                None => Exit::Degraded,
            }
        }
    }
}

fn words(addresses: &[Ipv4Addr], left: &Released) -> String {
    let mut found: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    found.extend(left.tables.iter().map(|name| format!("table {name}")));
    found.extend(left.routes.iter().map(|vip| format!("the route of {vip}")));
    if found.is_empty() { "no VIP was left behind".into() } else { format!("released {}", found.join(", ")) }
}

/// The routers of the revision that was applied last, else of the bootstrap file; none if neither can be read.
fn known_routers(node: &NodeConfig) -> Vec<RouterConfig> {
    // `Store::open` would make the directory.
    let stored = node.state_dir.is_dir().then(|| Store::open(&node.state_dir).and_then(|store| store.read()));
    let cluster = match stored {
        Some(Ok(Found::Kept(revision))) => config::parse_kept("the applied revision", &revision.text, &revision.files),
        _ => config::read_text(&node.bootstrap).and_then(|text| {
            config::parse_cluster_with(&node.bootstrap.display().to_string(), &text, &node.certificates())
        }),
    };
    cluster.ok().and_then(|cluster| config::routers(node, &cluster).ok()).unwrap_or_default()
}
