//! What the embedded storage says is wrong, in the words of the port.

use std::sync::Arc;

use stella_durable::Error;

use crate::port::{AppendError, OpenError, ReadError};

impl From<Error> for AppendError {
    fn from(error: Error) -> Self {
        if let Error::ReserveReached { available_bytes, reserve_bytes } = error {
            Self::NoSpace { available_bytes, reserve_bytes }
        } else {
            Self::Failed(Arc::new(error))
        }
    }
}

impl From<Error> for ReadError {
    fn from(error: Error) -> Self {
        Self::Storage(Arc::new(error))
    }
}

impl From<Error> for OpenError {
    fn from(error: Error) -> Self {
        if let Error::Locked { dir } = error { Self::InUse(dir) } else { Self::Storage(Arc::new(error)) }
    }
}
