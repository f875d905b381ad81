//! What leaves the control plane by itself: durable events, read from the journal in the order in which they were decided.
//!
//! A reader ([`follow`]) remembers how far it is in a file beside the journal ([`place`]), so it goes on where it stopped after a restart of
//! either side. The publisher ([`publisher`]) turns what it reads into CloudEvents ([`event`]) and gives them to a bus, which is a port ([`bus`])
//! with NATS JetStream behind it ([`nats`]).
//!
//! Nothing waits for a reader: the journal keeps what was not read, so a bus that is away costs one page of memory and delays
//! events, nothing else. That is why there is no queue between the writer loop and the bus.
//!
//! Delivery is at least once. An event has the same id whenever it is sent, so that a bus or a consumer can drop what it has.

pub mod bus;
pub mod event;
pub mod follow;
pub mod nats;
pub mod place;
pub mod publisher;
pub mod retry;
