//! TCP: carrying bytes both ways, in buffers that are lent.

pub(crate) mod buffers;
pub(crate) mod outbox;
pub(crate) mod pipe;
pub(crate) mod relay;
pub(crate) mod stream;
pub(crate) mod window;
