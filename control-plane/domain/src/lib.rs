//! The pure core: what may happen, decided without clock, randomness, input or output.
//!
//! A [`command::Request`] and the time come in; [`decide::decide`] answers with events, an outcome and the next state,
//! or with a [`rejection::Rejection`] that changed nothing. [`state::State::apply`] is the one function that joins facts
//! and state: live and in replay. Everything that must happen later is a timer in the state, fired by
//! [`command::Command::Tick`].
//!
//! Reading order: [`state`], then one file a concept ([`tenant`], [`environment`], [`target`], [`agent`], [`release`],
//! [`deployment`], [`task`]), then [`command`], [`event`], [`decide`].

pub mod agent;
pub mod command;
pub mod deployment;
pub mod environment;
pub mod event;
pub mod name;
pub mod rejection;
pub mod release;
pub mod state;
pub mod target;
pub mod task;
pub mod tenant;
