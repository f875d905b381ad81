//! The port: what a bus does, whatever it is.

use bytes::Bytes;

/// An event, ready to be sent.
#[derive(Clone, Debug)]
pub struct Message {
    /// The same whenever this event is sent: what a bus drops duplicates by.
    pub id: String,
    /// Where on the bus it goes, below the installation's own prefix: `tenant.acme.deployment_failed`.
    pub subject: String,
    /// The event.
    pub body: Bytes,
    /// The event without its data, for a bus that takes no messages of this size.
    pub short: Bytes,
}

/// Why a bus has not taken events. It is asked again in every case, because the journal has them; the difference is for people.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// It cannot be reached.
    #[error("the event bus cannot be reached: {0}")]
    Away(String),
    /// It is there and does not take them.
    #[error("the event bus does not take events: {0}")]
    Refused(String),
}

/// A bus. Implementations have bounds on time and memory of their own: a call ends, whatever the other side does.
pub trait Bus: Send + 'static {
    /// Sends events in their order. `Ok` means that the bus has them all, durably; after an error any of them may be there.
    fn publish(&mut self, messages: &[Message]) -> impl Future<Output = Result<(), BusError>> + Send;
}
