//! dnsmasq: a name server whose answers a test changes.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use nix::sys::signal::Signal;

use crate::part::{Part, PartError, path_with_sbin, write};
use crate::place::Place;

/// One that knows the names of a file and nothing else.
#[derive(Debug)]
pub struct Dnsmasq {
    /// The process.
    pub part: Part,
    hosts: std::path::PathBuf,
}

/// Seconds that answers hold unless something else is said.
const TTL: u32 = 1;

impl Dnsmasq {
    /// Starts it on `address`; its answers hold for a second.
    pub fn start(place: &Place, address: SocketAddr, names: &[(&str, IpAddr)]) -> Result<Dnsmasq, PartError> {
        Dnsmasq::start_with(place, address, names, TTL, &[])
    }

    /// The same with answers that hold for so many seconds, and with these arguments more.
    pub fn start_with(
        place: &Place,
        address: SocketAddr,
        names: &[(&str, IpAddr)],
        ttl: u32,
        more: &[&str],
    ) -> Result<Dnsmasq, PartError> {
        let hosts = write(place.path("dnsmasq.hosts"), &lines(names))?;
        let mut command = Command::new("dnsmasq");
        command
            .env("PATH", path_with_sbin())
            .args(["--keep-in-foreground", "--no-resolv", "--no-hosts", "--bind-interfaces", "--except-interface=lo"])
            .args(["--conf-file=/dev/null", "--pid-file=", "--log-facility=-", "--log-queries"])
            .args(["--local=/test/", "--user=", "--no-daemon"])
            .arg(format!("--listen-address={}", address.ip()))
            .arg(format!("--port={}", address.port()))
            .arg(format!("--local-ttl={ttl}"))
            .args(more)
            .arg(format!("--addn-hosts={}", hosts.display()));
        let mut part = Part::start("dnsmasq", command, place.folder())?;
        part.wait_listening(address)?;
        Ok(Dnsmasq { part, hosts })
    }

    /// Has it answer otherwise from now on.
    pub fn change(&mut self, names: &[(&str, IpAddr)]) -> Result<(), PartError> {
        write(self.hosts.clone(), &lines(names))?;
        self.part.process().signal(Signal::SIGHUP);
        Ok(())
    }
}

fn lines(names: &[(&str, IpAddr)]) -> String {
    names.iter().map(|(name, address)| format!("{address} {name}\n")).collect()
}
