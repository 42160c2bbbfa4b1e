//! Both files together: the virtual routers of this node.

use std::collections::BTreeMap;

use vrrp::config::RouterConfig;

use super::cluster::{ClusterConfig, Vip};
use super::diagnostic::{Diagnostic, suggestion};
use super::node::NodeConfig;

/// The virtual routers that this node runs, in the order of the VIPs' names; or what does not fit together.
pub fn routers(node: &NodeConfig, cluster: &ClusterConfig) -> Result<Vec<RouterConfig>, Vec<Diagnostic>> {
    let mut found = Vec::new();
    for (name, entry) in &node.vrrp.vips {
        if !cluster.vips.iter().any(|vip| vip.name == *name) {
            let near = suggestion(name, cluster.vips.iter().map(|vip| vip.name.as_str()));
            found.push(entry.place.diagnostic(format!("the cluster file has no VIP `{name}`{near}")));
        }
    }
    let routers: Vec<RouterConfig> = cluster.vips.iter().map(|vip| router(node, vip)).collect();
    let mut taken = BTreeMap::new();
    for (router, vip) in routers.iter().zip(&cluster.vips) {
        if let Some(other) = taken.insert((&router.interface, router.vrid), &router.name) {
            found.push(vip.vrid_place.diagnostic(format!(
                "VRID {} is taken on {}: by the VIP `{other}`; a VRID is unique on its interface",
                router.vrid, router.interface
            )));
        }
    }
    if found.is_empty() { Ok(routers) } else { Err(found) }
}

fn router(node: &NodeConfig, vip: &Vip) -> RouterConfig {
    let own = node.vrrp.vips.get(&vip.name);
    RouterConfig {
        name: vip.name.clone(),
        interface: own.and_then(|own| own.interface.clone()).unwrap_or_else(|| node.vrrp.interface.clone()),
        vrid: vip.vrid,
        addresses: vec![vip.address],
        priority: own.and_then(|own| own.priority).unwrap_or(node.vrrp.priority),
        advert_interval: vip.advert_interval,
        // Within a pair a VIP goes back by a hand-off, when the policy says so: the election preempts nobody.
        preempt: vip.preempt.filter(|_| node.sync.is_none()),
        transport: node.vrrp.transport.clone(),
        source: node.vrrp.source,
        checksum: node.vrrp.checksum,
    }
}
