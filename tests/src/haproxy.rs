//! HAProxy: the proxy that ours is held against.

use std::net::SocketAddr;
use std::process::Command;

use crate::part::{Part, PartError, path_with_sbin, write};
use crate::place::Place;

/// One process with one thread.
#[derive(Debug)]
pub struct Haproxy {
    /// The process.
    pub part: Part,
}

impl Haproxy {
    /// Starts it with what stands after `global`; waits until it listens on `address`.
    pub fn start(place: &Place, name: &str, address: SocketAddr, sections: &str) -> Result<Haproxy, PartError> {
        let config = format!("global\n  nbthread 1\n{sections}\n");
        let file = write(place.path(&format!("{name}.cfg")), &config)?;
        let mut command = Command::new("haproxy");
        command.env("PATH", path_with_sbin()).arg("-db").arg("-f").arg(file);
        let mut part = Part::start_at(place, name, command)?;
        part.wait_listening(address)?;
        Ok(Haproxy { part })
    }
}
