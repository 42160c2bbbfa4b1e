//! lbnode
fn main() {}
