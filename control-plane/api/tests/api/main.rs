//! The API as its callers see it: the real router before a real engine on a real journal.
//!
//! One binary, so that the whole stack is linked once.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod accounts;
mod agents;
mod archive;
mod artifacts;
mod authentication;
mod discovery;
mod document;
mod errors;
mod feed;
mod gates;
mod given_up;
mod health;
mod holds;
mod hooks;
mod idempotency;
mod isolation;
mod lists;
mod log_level;
mod output;
mod plan;
mod promotions;
mod rate_limits;
mod refusals;
mod roles;
mod signing;
mod tokens;
mod way_back;
mod world;
