//! What hand-offs have in a node's kernel: nft tables and a route, seen from outside by their names and numbers, as an
//! operator would look for leftovers.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};

use futures_util::TryStreamExt;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};

use crate::lan::RuleError;
use crate::netns::{Netns, NetnsError};

/// What the name of every table begins with.
const PREFIX: &str = "lbnode-";
/// The protocol number of every route.
const PROTOCOL: u8 = 0x4c;

/// Why nobody can say what is there.
#[derive(Debug, thiserror::Error)]
pub enum ResidueError {
    /// The tables.
    #[error(transparent)]
    Rules(#[from] RuleError),
    /// The routes.
    #[error(transparent)]
    Netns(#[from] NetnsError),
}

/// What is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Residue {
    /// Names of nft tables.
    pub tables: Vec<String>,
    /// Destinations of routes.
    pub routes: Vec<IpAddr>,
}

impl Residue {
    /// Looks into the kernel of `node`.
    pub fn of(node: &Netns) -> Result<Residue, ResidueError> {
        Ok(Residue { tables: tables(node)?, routes: routes(node)? })
    }

    /// Whether there is nothing.
    pub fn is_none(&self) -> bool {
        self.tables.is_empty() && self.routes.is_empty()
    }

    /// Whether something passes connections on to the other node.
    pub fn passes_on(&self) -> bool {
        self.tables.iter().any(|name| name.contains("taker"))
    }

    /// Whether something keeps the node from answering for the VIP.
    pub fn mutes(&self) -> bool {
        self.tables.iter().any(|name| name.contains("leaver"))
    }
}

fn tables(node: &Netns) -> Result<Vec<String>, RuleError> {
    let listed =
        node.run(|| -> io::Result<_> { Command::new("nft").args(["list", "tables"]).stdin(Stdio::null()).output() });
    let output = listed.map_err(RuleError::Run)?;
    if !output.status.success() {
        return Err(RuleError::Refused(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    // table ip lbnode-…
    let names = text.lines().filter_map(|line| line.split_whitespace().nth(2));
    Ok(names.filter(|name| name.starts_with(PREFIX)).map(str::to_owned).collect())
}

fn routes(node: &Netns) -> Result<Vec<IpAddr>, NetnsError> {
    node.netlink("list routes", |handle| async move {
        let question: RouteMessage = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let mut dump = handle.route().get(question).execute();
        let mut found = Vec::new();
        while let Some(route) = dump.try_next().await? {
            if route.header.protocol == RouteProtocol::Other(PROTOCOL) {
                found.extend(route.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
                    _ => None,
                }));
            }
        }
        Ok(found)
    })
}
