//! Where a test happens: a loopback address that nobody else uses, and a folder that goes when the test ends; or a
//! namespace of the lab and an address there.
//!
//! All of 127.0.0.0/8 is local, so parts can have fixed ports on an address of their own, and neither two tests of
//! one binary nor two binaries at once get into each other's way.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use netns_lab::netns::Netns;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// An address and a folder.
#[derive(Debug)]
pub struct Place {
    address: Ipv4Addr,
    folder: PathBuf,
    netns: Option<Netns>,
}

impl Place {
    /// A new one. The folder is kept when the test panics: its logs say why.
    pub fn new(name: &str) -> io::Result<Place> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let address = address(std::process::id(), number);
        let folder = std::env::temp_dir().join(format!("lbnode-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        Ok(Place { address, folder, netns: None })
    }

    /// One inside a namespace that has this address; its folder is made.
    pub fn within(netns: &Netns, address: Ipv4Addr, folder: PathBuf) -> io::Result<Place> {
        std::fs::create_dir_all(&folder)?;
        Ok(Place { address, folder, netns: Some(netns.clone()) })
    }

    /// The namespace, if it has one of its own.
    pub fn netns(&self) -> Option<&Netns> {
        self.netns.as_ref()
    }

    /// Its address with a port.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.address, port))
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A path in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a file into its folder.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> io::Result<PathBuf> {
        let path = self.path(name);
        std::fs::write(&path, content)?;
        Ok(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // What is left of a temporary folder does no harm.
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// 127.64.0.0/10, by the process and a number: 22 bits, of which the number takes the low six.
fn address(process: u32, number: u32) -> Ipv4Addr {
    let low = (process & 0xffff) << 6 | (number & 0x3f);
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 64, 0, 0).to_bits() | low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_one_process_and_of_two_differ() {
        let all: std::collections::HashSet<_> =
            [(7, 0), (7, 1), (7, 63), (8, 0), (8, 1)].map(|(process, number)| address(process, number)).into();
        assert_eq!(all.len(), 5);
        assert!(all.iter().all(|address| address.is_loopback() && *address != Ipv4Addr::LOCALHOST));
    }
}
