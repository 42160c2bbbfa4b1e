//! `lbnode release`: takes away the VIPs and the hand-offs that an agent left behind. systemd runs it after every end of the agent.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use vrrp::config::RouterConfig;
use vrrp::io::address;

use super::{Exit, Json, complain, complain_text, print, print_json};
use crate::config::{self, NodeConfig};
use crate::control::{Request, Response, call};
use crate::handoff;
use crate::store::{Found, Store};

/// How long an agent may take to say that it runs.
const ALIVE: Duration = Duration::from_secs(2);

/// Removes what is tagged as ours on any interface, and what the files name as a VIP.
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
    // One that failed is no reason to leave the other.
    let handoffs = runtime.block_on(handoff::release());
    let (released, handoffs) = match (addresses, handoffs) {
        (Ok(released), Ok(handoffs)) => (released, handoffs),
        (Err(error), _) => return refused(&error),
        (_, Err(error)) => return refused(&error),
    };
    if json.json {
        let handoffs = json!({ "tables": handoffs.tables, "routes": handoffs.routes });
        print_json(&json!({ "released": released, "handoffs": handoffs }));
    } else {
        if released.is_empty() {
            print("no VIP was left behind");
        } else {
            let released: Vec<String> = released.iter().map(ToString::to_string).collect();
            print(format_args!("released {}", released.join(", ")));
        }
        if handoffs != handoff::Released::default() {
            let routes = handoffs.routes.iter().map(|vip| format!("route for {vip}"));
            let all: Vec<String> = handoffs.tables.iter().map(|table| format!("table {table}")).chain(routes).collect();
            print(format_args!("ended hand-offs: {}", all.join(", ")));
        }
    }
    Exit::Fine
}

fn refused(error: &dyn std::error::Error) -> Exit {
    complain(error);
    match crate::privileges::missing() {
        Some(missing) => {
            complain_text(missing);
            Exit::NotPermitted
        }
        None => Exit::Degraded,
    }
}

/// The routers of the revision that was applied last, else of the bootstrap file; none if neither can be read.
fn known_routers(node: &NodeConfig) -> Vec<RouterConfig> {
    // `Store::open` would make the directory.
    let stored = node.state_dir.is_dir().then(|| Store::open(&node.state_dir).and_then(|store| store.read()));
    let cluster = match stored {
        Some(Ok(Found::Revision(revision))) => config::parse_cluster("the applied revision", &revision.text),
        _ => config::load_cluster(&node.bootstrap),
    };
    cluster.ok().and_then(|cluster| config::routers(node, &cluster).ok()).unwrap_or_default()
}
