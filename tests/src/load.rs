//! The load tool: what the product does, beside what this machine can do at all.
//!
//! Every figure has a raw limit beside it that was measured in the same run, on the same disk and the same cores, so that it
//! can be read as a ratio and compared between machines. The control plane and the real agents are processes of their own;
//! simulated agents are QUIC connections of this process that speak through the protocol's own session logic. They keep
//! their journals in memory, which is said wherever it matters.
//!
//! Reading order: [`figure`] (what comes out), [`site`] (a control plane under load), [`fleet`] (simulated agents), [`raw`]
//! (the limits), then one module for each subcommand.

pub mod archive;
pub mod core;
pub mod day;
pub mod dispatch;
pub mod figure;
pub mod fleet;
pub mod heartbeats;
pub mod idle;
pub mod raw;
pub mod real;
pub mod reconnect;
pub mod replay;
pub mod scrape;
pub mod site;
pub mod tasks;
