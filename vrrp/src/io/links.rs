//! What the kernel says about interfaces and their IPv4 addresses, kept as one table. The table is
//! level-triggered: readers see the newest one, and what can be missed between two looks (a short
//! loss of carrier) is a counter in it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage, State};

/// The `IFA_PROTO` of every address that we lease ("VR"): how leftovers are recognised. Kernels before 5.18 ignore it.
pub const TAG: u8 = 0x56;

/// One interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Kernel's index.
    pub index: u32,
    /// Administratively up, and with a carrier.
    pub running: bool,
    /// How often `running` went away.
    pub losses: u64,
    /// Hardware address; `None` where there is none of six bytes, or where ARP is off.
    pub mac: Option<[u8; 6]>,
    /// IPv4 addresses, in the kernel's order (the primary one of each network comes first).
    pub addresses: Vec<Address>,
}

/// One IPv4 address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// It.
    pub address: Ipv4Addr,
    /// Network bits.
    pub prefix: u8,
    /// It has our [`TAG`].
    pub ours: bool,
    /// It is not the first one of its network.
    pub secondary: bool,
}

impl Link {
    /// The address to send adverts from: the first one that is no VIP.
    pub fn primary(&self, vips: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        let candidate = |a: &&Address| !a.ours && !vips.contains(&a.address) && !a.address.is_loopback();
        let mut usable = self.addresses.iter().filter(candidate);
        let first = usable.next()?;
        let primary = if first.secondary { usable.find(|a| !a.secondary) } else { None };
        Some(primary.unwrap_or(first).address)
    }
}

/// All interfaces by index, with their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    links: BTreeMap<u32, (String, Link)>,
}

/// What one message changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Something in the table, or nothing.
    Table(bool),
    /// This address went from this interface.
    Removed(u32, Ipv4Addr),
    /// Messages were lost: dump again.
    Overrun,
}

impl Table {
    /// The interface of that name.
    pub fn named(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|(n, _)| n == name).map(|(_, link)| link)
    }

    /// Every interface.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Link)> {
        self.links.values().map(|(name, link)| (name.as_str(), link))
    }

    /// Takes in a notification.
    pub fn apply(&mut self, payload: &NetlinkPayload<RouteNetlinkMessage>) -> Change {
        match payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Change::Table(self.link(link)),
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
                Change::Table(self.links.remove(&link.header.index).is_some())
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(message)) => {
                let Some((link, address)) = read(message).and_then(|a| Some((self.of(message)?, a))) else {
                    return Change::Table(false);
                };
                match link.addresses.iter_mut().find(|a| a.address == address.address) {
                    Some(known) if *known == address => Change::Table(false),
                    Some(known) => {
                        *known = address;
                        Change::Table(true)
                    }
                    None => {
                        link.addresses.push(address);
                        Change::Table(true)
                    }
                }
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelAddress(message)) => {
                let Some((link, address)) = read(message).and_then(|a| Some((self.of(message)?, a))) else {
                    return Change::Table(false);
                };
                link.addresses.retain(|a| a.address != address.address);
                Change::Removed(message.header.index, address.address)
            }
            NetlinkPayload::Overrun(_) => Change::Overrun,
            _ => Change::Table(false),
        }
    }

    /// Asks the kernel for everything. Counters go on from the table before.
    pub async fn dump(&self, handle: &Handle) -> Result<Table, rtnetlink::Error> {
        let mut table = Table::default();
        let mut links = handle.link().get().execute();
        while let Some(link) = links.try_next().await? {
            // Beginning with what was known lets a loss of carrier that was overrun be counted.
            if let Some((name, known)) = self.links.get(&link.header.index) {
                table.links.insert(link.header.index, (name.clone(), Link { addresses: Vec::new(), ..known.clone() }));
            }
            table.link(&link);
        }
        let mut addresses = handle.address().get().execute();
        while let Some(message) = addresses.try_next().await? {
            table.apply(&NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(message)));
        }
        Ok(table)
    }

    fn of(&mut self, message: &AddressMessage) -> Option<&mut Link> {
        self.links.get_mut(&message.header.index).map(|(_, link)| link)
    }

    fn link(&mut self, message: &LinkMessage) -> bool {
        let index = message.header.index;
        let before = self.links.get(&index).cloned();
        let (mut name, mut link) = before.clone().unwrap_or_default();
        let flags = message.header.flags;
        // Wireless extensions and bridge ports send messages without a name or state: those keep what was known.
        let mut down = false;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(new) => name.clone_from(new),
                LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
                LinkAttribute::OperState(State::Down | State::LowerLayerDown | State::NotPresent | State::Dormant) => {
                    down = true;
                }
                _ => {}
            }
        }
        if flags.contains(LinkFlags::Noarp) {
            link.mac = None;
        }
        let running = flags.contains(LinkFlags::Up | LinkFlags::Running | LinkFlags::LowerUp) && !down;
        if link.running && !running {
            link.losses += 1;
        }
        link.index = index;
        link.running = running;
        let now = (name, link);
        let changed = before.as_ref() != Some(&now);
        self.links.insert(index, now);
        changed
    }
}

fn read(message: &AddressMessage) -> Option<Address> {
    let mut local = None;
    let mut peer = None;
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    let mut ours = false;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => local = Some(*address),
            AddressAttribute::Address(IpAddr::V4(address)) => peer = Some(*address),
            AddressAttribute::Flags(all) => flags = *all,
            AddressAttribute::Protocol(AddressProtocol::Other(TAG)) => ours = true,
            _ => {}
        }
    }
    let secondary = flags.contains(AddressFlags::Secondary);
    Some(Address { address: local.or(peer)?, prefix: message.header.prefix_len, ours, secondary })
}
