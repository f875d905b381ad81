//! The JSON shapes of the HTTP API, shared by the server and the command line.
//!
//! Requests refuse unknown fields: a misspelt option must not be silently ignored. Answers may gain fields, so a client
//! ignores what it does not know. Ids are UUIDs as text, digests are `sha256:<hex>`, times are RFC 3339 in UTC with
//! milliseconds, and sizes and spans have their unit in the name.
//!
//! The texts are not parsed here: the server turns them into the domain's types and answers with a [`problem::Problem`]
//! that names the field. A client that is older than the server therefore shows what it does not know instead of failing.

pub mod account;
pub mod agent;
pub mod amount;
pub mod artifact;
pub mod channel;
pub mod deployment;
pub mod discovery;
pub mod environment;
pub mod event;
pub mod gate;
pub mod hold;
pub mod hook;
pub mod page;
pub mod paths;
pub mod problem;
pub mod promotion;
pub mod release;
pub mod signing;
pub mod system;
pub mod target;
pub mod task;
pub mod tenant;
pub mod time;
pub mod token;
pub mod workflow;

pub use page::{Named, Page};
