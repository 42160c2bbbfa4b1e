//! The lab: everything that is needed to try a pair on one machine, with real packets.
//!
//! ```text
//!                     crossover    a second LAN, of the two nodes alone, at their eth1
//!                      ┌───┐
//!   client   s1   s2   a   b      each a network namespace with an interface eth0
//!      └─────┴─────┴───┴───┘
//!             switch               a namespace with a bridge; every fault is made on its ports
//! ```
//!
//! It promises to leave nothing behind: namespaces are anonymous (they end with the last process in them),
//! processes end with the thread that started them, and what a killed lab could not clear, the next one does.
//! It knows `lbnode` only as a program that is started and a socket that is asked, never as a library:
//! `lbnode lab` and the tests see the product as an operator does.

pub mod client;
pub mod frame;
pub mod holders;
pub mod http_server;
pub mod lan;
pub mod load;
pub mod netns;
pub mod pair;
pub mod process;
pub mod residue;
pub mod server;
pub mod site;
pub mod sniffer;
pub mod stream_server;
pub mod wait;
