//! TCP: reaching a server, and carrying bytes both ways.

pub(crate) mod buffers;
pub(crate) mod relay;
