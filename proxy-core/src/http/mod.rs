//! HTTP/1: strict heads and bodies (pure), and the engine that carries them.

pub(crate) mod connection;
pub(crate) mod date;
pub(crate) mod edits;
pub(crate) mod forwarded;
pub mod head;
pub(crate) mod lists;
pub(crate) mod pool;
pub(crate) mod reply;
pub(crate) mod rewrite;
pub(crate) mod rules;
