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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn networks(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn set(texts: &[&str]) -> Networks {
        networks(texts).iter().collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn both_spellings_of_an_ipv4_client_are_in_the_same_networks() {
        for network in ["10.8.0.0/16", "::ffff:10.8.0.0/112"] {
            for (client, inside) in [
                ("10.8.0.0", true),
                ("10.8.255.255", true),
                ("::ffff:10.8.5.17", true),
                ("10.7.255.255", false),
                ("10.9.0.0", false),
                ("::ffff:10.9.0.0", false),
                // The deprecated compatible form is another address.
                ("::10.8.5.17", false),
            ] {
                assert_eq!(set(&[network]).contains(ip(client)), inside, "{client} in {network}");
            }
        }
    }

    #[test]
    fn networks_are_measured_to_their_last_address() {
        let cases = [
            ("0.0.0.0/0", "255.255.255.255", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "192.0.2.1", true),
            ("::/0", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", true),
            ("2001:db8::/32", "2001:db8:ffff::", true),
            ("2001:db8::/32", "2001:db9::", false),
            ("192.0.2.7/32", "192.0.2.7", true),
            ("192.0.2.7/32", "192.0.2.6", false),
            // Host bits in a network say nothing.
            ("192.0.2.7/24", "192.0.2.0", true),
        ];
        for (network, client, inside) in cases {
            assert_eq!(set(&[network]).contains(ip(client)), inside, "{client} in {network}");
        }
        assert!(!set(&[]).contains(ip("192.0.2.1")));
    }

    #[test]
    fn networks_that_touch_or_overlap_are_one_range() {
        assert_eq!(set(&["10.0.1.0/24", "10.0.0.0/24", "10.0.0.128/25"]), set(&["10.0.0.0/23"]));
        assert_eq!(set(&["::/0", "10.0.0.0/8", "ffff::/16"]), set(&["::/0"]));
    }

    #[test]
    fn a_list_is_replaced_by_its_name_and_read_by_its_number() {
        let list = |name: &str, texts: &[&str]| plan::List { name: name.into(), networks: networks(texts) };
        let lists = Lists::new(&[list("admins", &["10.0.0.0/8"]), list("guests", &["192.0.2.0/24"])]);
        assert!(lists.contains(0, ip("10.1.1.1")) && lists.contains(1, ip("192.0.2.1")));
        assert!(lists.replace("guests", &networks(&["10.0.0.0/8"])));
        assert!(lists.contains(1, ip("10.1.1.1")) && !lists.contains(1, ip("192.0.2.1")));
        assert!(!lists.replace("gusts", &[]), "there is none of this name");
        assert!(!lists.contains(2, ip("10.1.1.1")), "there is none of this number");
    }

    /// Few enough addresses for networks and clients to meet.
    fn address() -> impl Strategy<Value = IpAddr> {
        let near = || (0u8..4, 0u8..4, any::<u8>());
        prop_oneof![
            near().prop_map(|(a, b, c)| IpAddr::V4(Ipv4Addr::new(a << 6, 0, b << 6, c))),
            near().prop_map(|(a, b, c)| IpAddr::V6(Ipv4Addr::new(a << 6, 0, b << 6, c).to_ipv6_mapped())),
            near().prop_map(|(a, b, c)| IpAddr::V6(Ipv6Addr::new(
                u16::from(a) << 14,
                0,
                0,
                0,
                0,
                0,
                b.into(),
                c.into()
            ))),
        ]
    }

    fn network() -> impl Strategy<Value = IpNetwork> {
        (address(), 0u8..=128).prop_map(|(address, prefix)| {
            let most = if address.is_ipv4() { 32 } else { 128 };
            IpNetwork::new(address, prefix.min(most)).expect("the prefix fits")
        })
    }

    fn one_by_one(networks: &[IpNetwork], client: IpAddr) -> bool {
        let mapped = match client {
            IpAddr::V4(client) => client.to_ipv6_mapped(),
            IpAddr::V6(client) => client,
        };
        networks.iter().any(|network| match (network, client.to_canonical()) {
            (IpNetwork::V4(network), IpAddr::V4(client)) => network.contains(client),
            (IpNetwork::V4(_), IpAddr::V6(_)) => false,
            (IpNetwork::V6(network), _) => network.contains(mapped),
        })
    }

    proptest! {
        #[test]
        fn a_set_holds_whom_its_networks_hold_one_by_one(
            networks in prop::collection::vec(network(), 0..40),
            clients in prop::collection::vec(address(), 1..40),
        ) {
            let set: Networks = networks.iter().collect();
            for client in clients {
                prop_assert_eq!(set.contains(client), one_by_one(&networks, client), "{}", client);
            }
        }
    }
}
