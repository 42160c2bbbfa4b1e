//! HTTP/1: strict heads and bodies (pure), and the engine that carries them.

mod announced;
pub mod chunked;
mod client_cert;
pub(crate) mod connection;
pub mod cookie;
pub(crate) mod date;
mod decide;
pub(crate) mod edits;
pub(crate) mod exchange;
pub(crate) mod flow;
mod forward;
pub(crate) mod forwarded;
pub mod head;
pub mod host;
pub(crate) mod last;
pub(crate) mod lists;
pub(crate) mod persist;
pub(crate) mod pool;
pub(crate) mod reply;
pub(crate) mod rewrite;
pub(crate) mod rules;
mod story;
pub(crate) mod trip;
