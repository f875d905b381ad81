//! Encoded frames on their way to the transport.

use bytes::{Bytes, BytesMut};
use serde::Serialize;

use super::SendError;
use crate::frame;
use crate::limits::OUTGOING_BYTES_MAX;
use crate::validate::Validate;

/// A bounded run of encoded frames. Frames that are queued between two transmits leave in one write.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: BytesMut,
}

impl Outbox {
    /// Queues a frame, or leaves everything as it was.
    pub(super) fn push<T: Serialize + Validate>(&mut self, message: &T) -> Result<(), SendError> {
        let queued = self.bytes.len();
        frame::encode_into(message, &mut self.bytes).map_err(SendError::Frame)?;
        if self.bytes.len() > OUTGOING_BYTES_MAX {
            self.bytes.truncate(queued);
            return Err(SendError::QueueFull { queued, max: OUTGOING_BYTES_MAX });
        }
        Ok(())
    }

    /// Everything that is queued. The outbox owns no memory after it.
    pub(super) fn take(&mut self) -> Option<Bytes> {
        if self.bytes.is_empty() { None } else { Some(std::mem::take(&mut self.bytes).freeze()) }
    }
}
