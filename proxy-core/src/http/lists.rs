//! Sets of networks, and the named ones that are replaced while requests are measured against them.
//!
//! Every address counts as one of IPv6: an IPv4 address is its mapped form (`::ffff:a.b.c.d`, RFC 4291 §2.5.5.2).
//! So both spellings of a client are in the same networks, and `::/0` holds everybody.

use std::net::IpAddr;

use arc_swap::ArcSwap;
use ipnetwork::IpNetwork;

use crate::plan;

/// A set of addresses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Networks {
    /// First and last addresses, ascending; between two of them is at least one address that isn't in the set.
    ranges: Box<[(u128, u128)]>,
}

impl<'a> FromIterator<&'a IpNetwork> for Networks {
    fn from_iter<I: IntoIterator<Item = &'a IpNetwork>>(networks: I) -> Networks {
        let mut all: Vec<(u128, u128)> = networks.into_iter().map(range).collect();
        all.sort_unstable();
        let mut ranges: Vec<(u128, u128)> = Vec::with_capacity(all.len());
        for (first, last) in all {
            match ranges.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => ranges.push((first, last)),
            }
        }
        Networks { ranges: ranges.into() }
    }
}

impl Networks {
    /// Whether the address is in one of the networks.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let address = number(address);
        let after = self.ranges.partition_point(|(first, _)| *first <= address);
        after.checked_sub(1).is_some_and(|at| address <= self.ranges[at].1)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

/// The lists of a plan, by index. Shared by all workers, who read them without a lock.
#[derive(Debug)]
pub(crate) struct Lists(Box<[Named]>);

#[derive(Debug)]
struct Named {
    name: String,
    networks: ArcSwap<Networks>,
}

impl Lists {
    pub(crate) fn new(lists: &[plan::List]) -> Lists {
        let named = |list: &plan::List| Named {
            name: list.name.clone(),
            networks: ArcSwap::from_pointee(list.networks.iter().collect()),
        };
        Lists(lists.iter().map(named).collect())
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the address is in a list; none is in a list that isn't there.
    pub(crate) fn contains(&self, list: usize, address: IpAddr) -> bool {
        self.0.get(list).is_some_and(|list| list.networks.load().contains(address))
    }

    /// Gives a list another content, which the next walk reads. `false`: there is no list of this name.
    pub(crate) fn replace(&self, name: &str, networks: &[IpNetwork]) -> bool {
        let list = self.0.iter().find(|list| list.name == name);
        list.map(|list| list.networks.store(std::sync::Arc::new(networks.iter().collect()))).is_some()
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_ipv6_mapped()),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn range(network: &IpNetwork) -> (u128, u128) {
    let free_bits = match network {
        IpNetwork::V4(network) => 32 - network.prefix(),
        IpNetwork::V6(network) => 128 - network.prefix(),
    };
    // A shift by all 128 bits: `::/0`.
    let hosts = 1u128.checked_shl(free_bits.into()).map_or(u128::MAX, |beyond| beyond - 1);
    let first = number(network.ip()) & !hosts;
    (first, first | hosts)
}
