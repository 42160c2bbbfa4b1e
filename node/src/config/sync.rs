//! `[sync]` of the node file: who the peer is, and the paths on which the two nodes hear each other.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::reader::{Section, Value};

/// The most paths between two nodes; each is heard and watched on its own.
const MAX_PATHS: usize = 8;

/// The channel to the other node. Path `n` runs from `listen[n]` to `peer.addresses[n]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncConfig {
    /// This node's end of each path: 1 to 8, each with a port.
    pub listen: Vec<SocketAddr>,
    /// The other node.
    pub peer: PeerConfig,
}

/// The other node of the pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// `name` of its node file.
    pub name: String,
    /// Its end of each path, as many as we have and of the same family.
    pub addresses: Vec<SocketAddr>,
}

/// An end of a path, and where it is written.
type End<'a> = (SocketAddr, Value<'a>);

/// Reads the section; `own_name` is this node's, if it could be read.
pub(super) fn read(section: Section<'_>, own_name: Option<&str>) -> Option<SyncConfig> {
    let listen = section.required("listen", |value| ends(value, "this node would hear nothing from its peer"));
    let peer = section.required("peer", |value| {
        let peer = value.section()?;
        let name = peer.required("name", |value| peer_name(value, own_name));
        let addresses = peer.required("addresses", |value| {
            let addresses = ends(value.clone(), "the peer would be nowhere")?;
            if let Some(listen) = &listen {
                match_up(listen, &addresses, &value);
            }
            Some(addresses)
        });
        peer.finish();
        Some((name?, addresses?))
    });
    section.finish();
    let (name, addresses) = peer?;
    let bare = |ends: Vec<End<'_>>| ends.into_iter().map(|(address, _)| address).collect();
    Some(SyncConfig { listen: bare(listen?), peer: PeerConfig { name, addresses: bare(addresses) } })
}

/// What a node may be called: it is said on the channel, and written in invitations.
pub(super) fn node_name(value: Value<'_>) -> Option<String> {
    let name = value.clone().string()?;
    if let Err(error) = ::sync::pairing::check_name(&name) {
        value.report(error.to_string());
        return None;
    }
    Some(name)
}

fn peer_name(value: Value<'_>, own_name: Option<&str>) -> Option<String> {
    let name = node_name(value.clone())?;
    if own_name == Some(&name) {
        value.report(format!("`{name}` is this node's own name; expected the `name` of the other node's file"));
    }
    Some(name)
}

/// One end of every path: addresses of hosts, each once.
fn ends<'a>(value: Value<'a>, what_if_empty: &str) -> Option<Vec<End<'a>>> {
    let ends = value.clone().each(what_if_empty, |value| Some((end(value.clone())?, value)))?;
    if ends.len() > MAX_PATHS {
        value.report(format!("there are at most {MAX_PATHS} paths, not {}", ends.len()));
    }
    let mut seen = BTreeSet::new();
    for (address, value) in &ends {
        if !seen.insert(address) {
            value.report(format!("`{address}` is there twice; another path needs another address"));
        }
    }
    Some(ends)
}

fn end(value: Value<'_>) -> Option<SocketAddr> {
    let address = value.clone().socket_address()?;
    let ip = address.ip();
    let no_host = ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::from([255; 4]);
    if no_host {
        value.report(format!("`{ip}` cannot be an end of a path: expected an address of a host"));
        return None;
    }
    if let IpAddr::V6(v6) = ip
        && (v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some())
    {
        let kind = if v6.is_unicast_link_local() { "link-local" } else { "an IPv4 address in IPv6's clothes" };
        value.report(format!("`{ip}` is {kind}: expected a global or unique local IPv6 address, or plain IPv4"));
        return None;
    }
    Some(address)
}

/// What our ends and the peer's must have in common.
fn match_up(listen: &[End<'_>], addresses: &[End<'_>], whole: &Value<'_>) {
    if listen.len() != addresses.len() {
        let (ours, theirs) = (listen.len(), addresses.len());
        whole.report(format!("a path needs an address at each end: `listen` has {ours}, the peer {theirs}"));
    }
    for ((own, _), (other, value)) in listen.iter().zip(addresses) {
        if own.is_ipv4() != other.is_ipv4() {
            value.report(format!("a path is IPv4 or IPv6 at both ends: `{other}` is opposite `{own}` of `listen`"));
        }
    }
    for (other, value) in addresses {
        if listen.iter().any(|(own, _)| own == other) {
            value.report(format!("`{other}` is this node's own, in `listen`; expected an address of the peer"));
        }
    }
}
