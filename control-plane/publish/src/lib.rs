//! What leaves the control plane by itself: durable events, read from the journal in the order in which they were decided.
//!
//! The publisher ([`publisher`]) follows the journal as readers do ([`stella_readers`]), turns what it reads into CloudEvents ([`event`]) and
//! gives them to a bus, which is a port ([`bus`]) with NATS JetStream behind it ([`nats`]). It goes on where it stopped after a restart of
//! either side. A bus that is away costs one page of memory and delays events, nothing else.
//!
//! Delivery is at least once. An event has the same id whenever it is sent, so that a bus or a consumer can drop what it has.

pub mod bus;
pub mod event;
pub mod nats;
pub mod publisher;
