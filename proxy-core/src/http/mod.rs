//! HTTP/1: strict heads and bodies (pure), and the engine that carries them.

pub mod chunked;
pub mod cookie;
#[allow(dead_code, reason = "the engine calls it next")]
pub(crate) mod date;
#[allow(dead_code, reason = "the engine calls it next")]
pub(crate) mod edits;
#[allow(dead_code, reason = "the engine calls it next")]
pub(crate) mod forwarded;
pub mod head;
pub mod host;
#[allow(dead_code, reason = "the engine calls it next")]
pub(crate) mod lists;
#[allow(dead_code, reason = "the engine calls it next")]
pub(crate) mod reply;
#[allow(dead_code, reason = "the engine calls it next")]
pub(crate) mod rewrite;
#[allow(dead_code, unused_imports, reason = "the engine calls it next")]
pub(crate) mod rules;
