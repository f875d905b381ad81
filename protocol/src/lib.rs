//! What the control plane and its agents say to each other, without saying it.
//!
//! This crate is pure: no sockets, no storage, no clock and no randomness. Time, bytes and seeds come in as
//! arguments; frames and decisions come out. The domain crate shares its identifiers and its trace context.
//!
//! Reading order: [`id`] and [`time`] (vocabulary), [`spec`] (what a task is), [`message`] (what is said),
//! [`limits`] and [`validate`] (how much may be said), [`frame`] (how it looks on the wire), [`session`] (in which order),
//! [`close`] (how it ends).

mod blob;
pub mod close;
pub mod digest;
pub mod frame;
#[doc(hidden)]
pub mod fuzzing;
pub mod id;
pub mod limits;
pub mod message;
pub mod network;
pub mod session;
pub mod span;
pub mod spec;
pub mod time;
pub mod trace;
pub mod validate;
pub mod version;
