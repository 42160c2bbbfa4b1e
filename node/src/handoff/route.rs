//! The leaver's route: `local VIP dev lo`. With it the VIP's sockets go on when its address goes.

use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};

/// The protocol number of every route that we make ("LB"): how leftovers are recognised. The kernel and
/// iproute2 (rt_protos) have no other meaning for it.
pub const PROTOCOL: u8 = 0x4c;
/// RT_TABLE_LOCAL (linux/rtnetlink.h).
const TABLE_LOCAL: u32 = 255;
/// Its metric. The kernel's own route of an address has 0 and goes first; beside it ours can stand.
const METRIC: u32 = 0x4c42;

/// Adds it; that it is there already is fine.
pub(super) async fn add(handle: &Handle, vip: IpAddr) -> Result<(), rtnetlink::Error> {
    handle.route().add(message(vip)?).replace().execute().await
}

/// Removes it; says whether it was there.
pub(super) async fn remove(handle: &Handle, vip: IpAddr) -> Result<bool, rtnetlink::Error> {
    match handle.route().del(message(vip)?).execute().await {
        Ok(()) => Ok(true),
        Err(rtnetlink::Error::NetlinkError(error))
            if [libc::ESRCH, libc::ENOENT].contains(&error.to_io().raw_os_error().unwrap_or(0)) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// The VIPs of all such routes in this network namespace, of either family.
pub(super) async fn all(handle: &Handle) -> Result<Vec<IpAddr>, rtnetlink::Error> {
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        let mut routes = handle.route().get(question).execute();
        while let Some(route) = routes.try_next().await? {
            if route.header.protocol == RouteProtocol::Other(PROTOCOL) {
                found.extend(route.attributes.iter().find_map(destination));
            }
        }
    }
    Ok(found)
}

fn destination(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some((*address).into()),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some((*address).into()),
        _ => None,
    }
}

fn message(vip: IpAddr) -> Result<RouteMessage, rtnetlink::Error> {
    let loopback = nix::net::if_::if_nametoindex("lo").map_err(|errno| {
        let error = io::Error::from(errno);
        rtnetlink::Error::NamespaceError(format!("no interface lo: {error}"))
    })?;
    let prefix = if vip.is_ipv4() { 32 } else { 128 };
    let route = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(vip, prefix)
        .expect("the prefix fits the family")
        .table_id(TABLE_LOCAL)
        .kind(RouteType::Local)
        .protocol(RouteProtocol::Other(PROTOCOL))
        .scope(RouteScope::Host)
        .priority(METRIC)
        .output_interface(loopback);
    Ok(route.build())
}
