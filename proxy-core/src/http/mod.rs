//! HTTP/1: strict heads and bodies (pure), and the engine that carries them.

pub(crate) mod connection;
pub mod head;
pub(crate) mod pool;
