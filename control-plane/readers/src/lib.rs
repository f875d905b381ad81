//! Readers of the journal: whoever does something with durable events, in the order in which they were decided, and leaves none out.
//!
//! Nothing waits for a reader: the journal keeps what was not read, so that a slow one is late and nothing else. That is why there is no
//! queue between the writer loop and a reader. Two kinds:
//!
//! - One that goes on where it stopped, also after a restart ([`follow`]), remembers how far it is in a file beside the journal ([`place`]). It
//!   reads events alone: the event bus, notifications.
//! - One that sees what happens in this life of the process, with the state after it ([`live`]): the log, figures, traces.
//!
//! What a reader needs outside is away at times, and is tried again ([`retry`]).

pub mod follow;
pub mod live;
pub mod place;
pub mod retry;
