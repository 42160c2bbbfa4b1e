//! The connections of a VIP that live on this node: one sock_diag dump.

use std::io;
use std::net::IpAddr;

use super::Flow;
use crate::sock_diag;

/// The live connections of clients to this address, half open ones too. Blocks for some milliseconds for ten
/// thousand of them.
///
/// # Errors
/// The kernel's.
pub(super) fn live(vip: IpAddr) -> io::Result<Vec<Flow>> {
    let connections = sock_diag::connections(vip)?;
    let flow = |connection: &sock_diag::Connection| Flow {
        client: connection.remote.ip(),
        client_port: connection.remote.port(),
        port: connection.local.port(),
    };
    Ok(connections.iter().map(flow).collect())
}
