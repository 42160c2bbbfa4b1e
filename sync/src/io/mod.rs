//! The shell around [`crate::session`]: sockets, TLS, files, clocks.

mod channel;
mod clock;
mod driver;
mod keeper;
mod listen;
mod rotation;
mod tls;
mod transport;

pub use channel::{Channel, Event, NotSent, RotateError, Settings, SpawnError, Status, WhyNot};
pub use clock::{clock, clock_at};
pub use tls::Keys;
