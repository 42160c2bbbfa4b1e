//! One LAN: a switch in a namespace of its own, and the faults that its ports can have.
//!
//! All of it is made by netlink. Only the faults that have to choose among packets (one-way cuts, loss, a filtered
//! protocol, one host that is not heard) run the `nft` program, because its rules are its own language.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};

use futures_util::TryStreamExt;
use rtnetlink::packet_core::DefaultNla;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{BridgePortState, LinkAttribute, LinkProtoInfoBridge};
use rtnetlink::{LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::netns::{Netns, NetnsError, link_index};

/// Every host's interface on the LAN where the clients are.
pub const INTERFACE: &str = "eth0";
/// The nodes' second interface, on a LAN of their own.
pub const CROSSOVER_INTERFACE: &str = "eth1";

const BRIDGE: &str = "br0";
/// linux/if_link.h: the state of a bridge's port, one byte.
const IFLA_BRPORT_STATE: u16 = 1;

/// Why a fault by packet rules could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// The program is missing or could not be run.
    #[error("run nft (Debian and Ubuntu: apt install nftables)")]
    Run(#[source] io::Error),
    /// It refused the rules.
    #[error("nft refused the rules: {0}")]
    Refused(String),
}

/// A direction, as seen from the host at the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// What the host sends.
    Outbound,
    /// What the host would receive.
    Inbound,
}

/// The switch.
#[derive(Clone, Debug)]
pub struct Lan {
    switch: Netns,
}

/// One host's place at the switch.
#[derive(Clone, Debug)]
pub struct Port {
    switch: Netns,
    name: String,
}

impl Lan {
    /// A switch without ports: no spanning tree, no multicast snooping, so it forwards from the first frame on.
    pub fn new() -> Result<Lan, NetnsError> {
        Lan::named("switch")
    }

    /// [`Lan::new`], with a name for messages.
    pub fn named(name: &str) -> Result<Lan, NetnsError> {
        let switch = Netns::new(name)?;
        switch.netlink("make a bridge", |handle| async move {
            let bridge = LinkBridge::new(BRIDGE).mcast_snooping(false).forward_delay(0).up().build();
            handle.link().add(bridge).execute().await
        })?;
        Ok(Lan { switch })
    }

    /// The namespace of the switch.
    pub fn switch(&self) -> &Netns {
        &self.switch
    }

    /// Gives `host` an interface [`INTERFACE`] with a fixed address and MAC, plugged into the switch.
    pub fn attach(&self, host: &Netns, address: Ipv4Addr, prefix: u8, mac: [u8; 6]) -> Result<Port, NetnsError> {
        self.attach_as(host, INTERFACE, address, prefix, mac)
    }

    /// [`Lan::attach`] by an interface of another name, for a host on two LANs.
    pub fn attach_as(
        &self,
        host: &Netns,
        interface: &'static str,
        address: Ipv4Addr,
        prefix: u8,
        mac: [u8; 6],
    ) -> Result<Port, NetnsError> {
        let name = format!("to-{}", host.name());
        let port = name.clone();
        let target = host.raw_fd();
        self.switch.netlink(&format!("plug in {}", host.name()), move |handle| async move {
            let inner = format!("in-{}", port.trim_start_matches("to-"));
            handle.link().add(LinkVeth::new(&port, &inner).build()).execute().await?;
            let bridge = link_index(&handle, BRIDGE).await?;
            let far = LinkUnspec::new_with_index(link_index(&handle, &inner).await?)
                .name(interface.to_owned())
                .address(mac.to_vec())
                .setns_by_fd(target)
                .build();
            handle.link().set(far).execute().await?;
            let near = LinkUnspec::new_with_index(link_index(&handle, &port).await?).controller(bridge).up().build();
            handle.link().set(near).execute().await
        })?;
        host.netlink(&format!("set up {interface}"), move |handle| async move {
            let index = link_index(&handle, interface).await?;
            handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await?;
            handle.address().add(index, IpAddr::V4(address), prefix).execute().await
        })?;
        Ok(Port { switch: self.switch.clone(), name })
    }
}

impl Port {
    /// Pulls the cable (`false`): the host sees its carrier go. `true` plugs it in again.
    pub fn carrier(&self, on: bool) -> Result<(), NetnsError> {
        let name = self.name.clone();
        self.switch.netlink(&format!("set the carrier of {}", self.name), move |handle| async move {
            let link = LinkUnspec::new_with_index(link_index(&handle, &name).await?);
            handle.link().set(if on { link.up() } else { link.down() }.build()).execute().await
        })
    }

    /// Deaf and mute with the carrier up (`true`), as behind a port that spanning tree blocks.
    pub fn deaf(&self, on: bool) -> Result<(), NetnsError> {
        let name = self.name.clone();
        // Not "blocking": without spanning tree the bridge opens such a port again at once.
        let state = if on { BridgePortState::Disabled } else { BridgePortState::Forwarding };
        self.switch.netlink(&format!("block {}", self.name), move |handle| async move {
            let index = link_index(&handle, &name).await?;
            // The bridge's own request; the general one tells the bridge of a change, which opens the port again.
            let state = DefaultNla::new(IFLA_BRPORT_STATE, vec![state.into()]);
            let request = LinkUnspec::new_with_index(index)
                .interface_family(AddressFamily::Bridge)
                .append_extra_attribute(LinkAttribute::ProtoInfoBridge(vec![LinkProtoInfoBridge::Other(state)]))
                .build();
            handle.link().set(request).execute().await
        })
    }

    /// Drops everything in one direction.
    pub fn cut(&self, direction: Direction) -> Result<(), RuleError> {
        self.rule(direction, "drop")
    }

    /// Drops `percent` of all frames at random, in both directions.
    pub fn loss(&self, percent: u8) -> Result<(), RuleError> {
        // A hundred is out of the range that nft compares with.
        let rule = match percent {
            0..100 => format!("numgen random mod 100 < {percent} drop"),
            _ => "drop".into(),
        };
        self.rule(Direction::Outbound, &rule)?;
        self.rule(Direction::Inbound, &rule)
    }

    /// Drops what the host sends and would receive of one IP protocol (VRRP is 112).
    pub fn filter(&self, protocol: u8) -> Result<(), RuleError> {
        let rule = format!("ip protocol {protocol} drop");
        self.rule(Direction::Outbound, &rule)?;
        self.rule(Direction::Inbound, &rule)
    }

    /// Drops what one other host sends to this one; everybody else is heard.
    pub fn ignore(&self, mac: [u8; 6]) -> Result<(), RuleError> {
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        self.rule(Direction::Inbound, &format!("ether saddr {mac} drop"))
    }

    /// Drops UDP and TCP from and to one port, in both directions.
    pub fn close(&self, number: u16) -> Result<(), RuleError> {
        let rule = format!(
            "meta l4proto {{ tcp, udp }} th dport {number} drop; meta l4proto {{ tcp, udp }} th sport {number} drop"
        );
        self.rule(Direction::Outbound, &rule)?;
        self.rule(Direction::Inbound, &rule)
    }

    /// Drops TCP from and to one port, in both directions.
    pub fn close_tcp(&self, number: u16) -> Result<(), RuleError> {
        let rule = format!("tcp dport {number} drop; tcp sport {number} drop");
        self.rule(Direction::Outbound, &rule)?;
        self.rule(Direction::Inbound, &rule)
    }

    /// Source guard: IPv4 packets of the host pass only with this source address.
    pub fn guard_source(&self, address: Ipv4Addr) -> Result<(), RuleError> {
        self.rule(Direction::Outbound, &format!("ip saddr != {address} drop"))
    }

    /// Takes away what the other methods by packet rules put there.
    pub fn heal(&self) -> Result<(), RuleError> {
        let table = self.table();
        self.nft(format!("table netdev {table} {{}}\ndelete table netdev {table}\n"))
    }

    fn table(&self) -> String {
        self.name.replace('-', "_")
    }

    fn rule(&self, direction: Direction, rule: &str) -> Result<(), RuleError> {
        // The switch receives what the host sends.
        let hook = match direction {
            Direction::Outbound => "ingress",
            Direction::Inbound => "egress",
        };
        self.nft(format!(
            "table netdev {} {{ chain {hook} {{ type filter hook {hook} device \"{}\" priority 0; {rule}; }}; }}\n",
            self.table(),
            self.name
        ))
    }

    fn nft(&self, rules: String) -> Result<(), RuleError> {
        nft(&self.switch, rules)
    }
}

/// Has the `nft` program do what these rules say, inside `netns`.
pub fn nft(netns: &Netns, rules: String) -> Result<(), RuleError> {
    netns.run(move || {
        let mut nft = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(RuleError::Run)?;
        nft.stdin.take().expect("it was asked for").write_all(rules.as_bytes()).map_err(RuleError::Run)?;
        let output = nft.wait_with_output().map_err(RuleError::Run)?;
        if output.status.success() {
            return Ok(());
        }
        Err(RuleError::Refused(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    })
}

/// Whether the faults by packet rules can be made here.
pub fn rules_work() -> bool {
    let mut nft = Command::new("nft");
    nft.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    nft.status().is_ok_and(|status| status.success())
}

/// The IPv4 addresses of [`INTERFACE`] in `host`.
pub fn addresses(host: &Netns) -> Result<Vec<Ipv4Addr>, NetnsError> {
    host.netlink("list addresses", |handle| async move {
        let index = link_index(&handle, INTERFACE).await?;
        let mut dump = handle.address().get().set_link_index_filter(index).execute();
        let mut found = Vec::new();
        while let Some(message) = dump.try_next().await? {
            if message.header.family != AddressFamily::Inet || message.header.index != index {
                continue;
            }
            found.extend(message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
                _ => None,
            }));
        }
        Ok(found)
    })
}

/// Whether [`INTERFACE`] in `host` has a carrier.
pub fn carrier(host: &Netns) -> Result<bool, NetnsError> {
    host.netlink("ask for the carrier", |handle| async move {
        let mut links = handle.link().get().match_name(INTERFACE.to_owned()).execute();
        let link = links.try_next().await?.ok_or(rtnetlink::Error::RequestFailed)?;
        Ok(link.attributes.contains(&LinkAttribute::Carrier(1)))
    })
}

/// Gives `host` a gateway.
pub fn default_route(host: &Netns, gateway: Ipv4Addr) -> Result<(), NetnsError> {
    host.netlink("add a default route", move |handle| async move {
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
        handle.route().add(route).execute().await
    })
}

/// Removes one address from [`INTERFACE`] in `host`, as an operator or another program might.
pub fn delete_address(host: &Netns, address: Ipv4Addr) -> Result<(), NetnsError> {
    host.netlink(&format!("delete {address}"), move |handle| async move {
        let index = link_index(&handle, INTERFACE).await?;
        let mut dump = handle.address().get().set_link_index_filter(index).execute();
        while let Some(message) = dump.try_next().await? {
            let is_it = |attribute: &AddressAttribute| *attribute == AddressAttribute::Local(IpAddr::V4(address));
            if message.header.index == index && message.attributes.iter().any(is_it) {
                return handle.address().del(message).execute().await;
            }
        }
        Err(rtnetlink::Error::RequestFailed)
    })
}
