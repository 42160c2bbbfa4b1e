//! The place where a pair lives: the LAN, a client, two servers, and the two machines that will be its nodes, which
//! have a second LAN between them.
//!
//! What runs on the two machines is not decided here: `lbnode` ([`crate::pair`]) or another stack.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::http_server::HttpServer;
use crate::lan::{CROSSOVER_INTERFACE, Lan, Port};
use crate::netns::{Netns, NetnsError};
use crate::process;
use crate::server::ServerError;
use crate::stream_server::StreamServer;
use crate::wait::WaitError;

/// The floating address.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
/// Where clients go.
pub const SERVICE_PORT: u16 = 80;
/// Where clients go whose connections last.
pub const STREAM_PORT: u16 = 81;
/// Where the servers listen.
pub const SERVER_PORT: u16 = 8080;
/// Where the servers listen for connections that last.
pub const STREAM_SERVER_PORT: u16 = 8081;
/// Length of the LAN's prefix.
pub const PREFIX: u8 = 24;

/// Why the place could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// A namespace or the LAN.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// A server.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// Descriptors for the client's connections.
    #[error("raise the limit of open files")]
    Descriptors(#[source] io::Error),
}

/// A machine of the LAN.
#[derive(Debug)]
pub struct Host {
    /// Its namespace.
    pub netns: Netns,
    /// Its place at the switch, where the faults are.
    pub port: Port,
    /// Its own address.
    pub address: Ipv4Addr,
    /// Its hardware address.
    pub mac: [u8; 6],
}

/// The whole place.
#[derive(Debug)]
pub struct Site {
    /// The switch.
    pub lan: Lan,
    /// Who asks.
    pub client: Host,
    /// Who answers.
    pub servers: [Host; 2],
    /// The machines of the pair, `a` and `b`.
    pub nodes: [Host; 2],
    /// The nodes' places at a second switch that nobody else is at, in the order of `nodes`.
    pub crossover: [Port; 2],
    http: Vec<HttpServer>,
    streams: Vec<StreamServer>,
}

impl Site {
    /// Makes all of it; the servers answer when it returns.
    pub fn new() -> Result<Site, SiteError> {
        raise_descriptors().map_err(SiteError::Descriptors)?;
        let lan = Lan::new()?;
        let client = host(&lan, "client", 10)?;
        // A connection a millisecond: the whole range, so that a port rests for a minute.
        client.netns.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
        let servers = [host(&lan, "s1", 21)?, host(&lan, "s2", 22)?];
        let nodes = [host(&lan, "a", 1)?, host(&lan, "b", 2)?];
        let second = Lan::named("crossover")?;
        let cross = |index: usize| -> Result<Port, SiteError> {
            let address = crossover_address(index);
            // Locally administered.
            let mac = [0x02, 0, 0, 0x77, 1, address.octets()[3]];
            Ok(second.attach_as(&nodes[index].netns, CROSSOVER_INTERFACE, address, PREFIX, mac)?)
        };
        let crossover = [cross(0)?, cross(1)?];
        let http = servers
            .iter()
            .map(|server| HttpServer::start(&server.netns, SocketAddr::from((server.address, SERVER_PORT))))
            .collect::<Result<_, _>>()?;
        let streams = servers
            .iter()
            .map(|server| StreamServer::start(&server.netns, SocketAddr::from((server.address, STREAM_SERVER_PORT))))
            .collect::<Result<_, _>>()?;
        Ok(Site { lan, client, servers, nodes, crossover, http, streams })
    }

    /// Where clients go.
    pub fn service(&self) -> SocketAddr {
        SocketAddr::from((VIP, SERVICE_PORT))
    }

    /// Where clients go whose connections last.
    pub fn stream_service(&self) -> SocketAddr {
        SocketAddr::from((VIP, STREAM_PORT))
    }

    /// Stops the servers on both hosts: nothing behind the pair answers any more.
    pub fn stop_servers(&mut self) {
        self.http.clear();
        self.streams.clear();
    }

    /// Kills whatever still runs on the two nodes.
    pub fn clear_nodes(&self) -> Result<(), WaitError> {
        self.nodes.iter().try_for_each(|node| process::kill_all(&node.netns))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // What cannot be killed now is killed by the next lab, which finds its mark.
        let _ = self.clear_nodes();
    }
}

/// The address of a node on the second LAN.
pub fn crossover_address(node: usize) -> Ipv4Addr {
    [Ipv4Addr::new(10, 77, 1, 1), Ipv4Addr::new(10, 77, 1, 2)][node]
}

fn host(lan: &Lan, name: &str, number: u8) -> Result<Host, SiteError> {
    let netns = Netns::new(name)?;
    let address = Ipv4Addr::new(10, 77, 0, number);
    // Locally administered.
    let mac = [0x02, 0, 0, 0x77, 0, number];
    let port = lan.attach(&netns, address, PREFIX, mac)?;
    Ok(Host { netns, port, address, mac })
}

/// Three thousand requests may be under way when nobody answers, beside the connections that last: those have an end
/// at the client and one at a server here.
fn raise_descriptors() -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(())
}
