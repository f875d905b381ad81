//! stella-agent
fn main() {}
