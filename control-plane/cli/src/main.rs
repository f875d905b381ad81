//! stella-cli
fn main() {}
