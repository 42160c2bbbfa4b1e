//! Hand-off: a planned switchover that cuts no connection.
//!
//! The node that gives the VIP up (the *leaver*) keeps the connections that it has; the node that becomes active (the
//! *taker*) gets everything else. Packets of the older connections reach the taker, since it has the address
//! now, and it passes them on, frame by frame, to the leaver, which answers the client itself.
//!
//! ```text
//!   client ──► taker: nft table of family ip, before conntrack
//!                ├─ from the leaver's MAC ──────► here, never passed back
//!                ├─ an older connection ────────► dup to the leaver, drop
//!                └─ anything else ──────────────► here
//!              leaver: a local route for the VIP (its sockets go on without the address),
//!                      nft table of family arp (it never speaks for the VIP)
//! ```
//!
//! All that this leaves in the kernel is nft tables whose name begins with `lbnode-` and routes with a protocol number
//! of our own, so it is recognised and taken away without memory: [`release`].

mod flows;
pub mod job;
pub mod kernel;
pub mod machine;
pub mod message;
mod nft;
mod probe;
pub mod route;
pub mod rules;
mod tables;
mod watch;

pub use job::{Flow, Job, Neighbour, Outcome, ProbeTarget, Vip};
pub use kernel::{Kernel, Released, release};
