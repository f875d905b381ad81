//! stella-server
fn main() {}
