//! HTTP/1: strict heads and bodies (pure), and the engine that carries them.

pub mod chunked;
pub mod cookie;
pub mod head;
pub mod host;
