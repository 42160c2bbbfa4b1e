//! Real parts on loopback or in the lab: `lbnode serve`, nginx, Apache, HAProxy, wrk and whatever else a test or the benchmark
//! puts around a proxy core. Each is a child process that lives no longer than the value that stands for it.
//! The tests across crates are in `tests/`; none needs root.
//!
//! ```text
//! place  an address of its own in 127.0.0.0/8 and a folder: nobody's ports collide; or a namespace of the lab
//! part   a child in a place: started, waited for, ended with all its children
//! serve · nginx · apache · haproxy · mail · dnsmasq · python     the parts, with the configuration each is given
//! pki    certificates of every kind, by the openssl command
//! wrk · h2load           load, and what it saw
//! fixture  what every test in the lab begins with
//! usage  processor time and memory of a part, from /proc
//! ```

pub mod apache;
pub mod dnsmasq;
pub mod fixture;
pub mod h2load;
pub mod haproxy;
pub mod mail;
pub mod nginx;
pub mod part;
pub mod pki;
pub mod place;
pub mod python;
pub mod serve;
pub mod usage;
pub mod wrk;

pub use netns_lab::wait;
