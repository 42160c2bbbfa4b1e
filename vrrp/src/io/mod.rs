//! The I/O shell: the only part of this crate with sockets, clocks and threads.
//!
//! ```text
//!   thread "vrrp"                                   thread "vrrp-netlink"
//!   driver: packets, heartbeats, ARP, commands, deadlines  ──►  address: leases (latest wanted state wins)
//!           feeds the elections                ◄──  links: interfaces, addresses, what was applied
//! ```
//! They are two because the kernel may hold a netlink request up behind its own lock for as long as
//! it likes, and an advert must not wait for that. A lease is renewed only on the word of the first
//! thread: when that one hangs, the kernel takes the addresses away.

pub mod address;
pub mod announce;
pub mod driver;
mod election;
mod interface;
mod kernel;
pub mod links;
pub mod pair;
pub mod realtime;
mod slot;
pub mod snapshot;
pub mod socket;
