//! What people run today on HAProxy or a LoadMaster, as it stands in `deploy/examples/`: each set-up on a real pair with
//! real servers behind it, and a failover in its middle.
//!
//! The examples' own files are what runs; addresses, ports, paths and time spans are changed, and nothing else
//! ([`setup::Example`]). Without root the tests say so and pass.

mod airwatch;
mod exchange_2010;
mod exchange_http;
mod exchange_tcp;
mod mail;
mod setup;
mod skype;
