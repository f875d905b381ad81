//! The port that artifacts come through.

use std::fmt;
use std::pin::Pin;

use stella_protocol::digest::Digest;
use tokio::io::AsyncRead;

use super::super::BoxFuture;

/// Where artifacts come from: in the product, streams of the control plane's connection.
pub trait ArtifactSource: fmt::Debug + Send + Sync {
    /// Opens an artifact from a byte on, to its end.
    fn fetch(&self, digest: Digest, offset: u64) -> BoxFuture<'_, Result<Fetched, SourceError>>;
}

/// An opened artifact.
pub struct Fetched {
    /// The whole artifact's size in bytes, whatever the offset was.
    pub size_bytes: u64,
    /// The bytes from the offset on. Nothing of them is believed: they are counted and hashed.
    pub reader: Pin<Box<dyn AsyncRead + Send>>,
}

impl fmt::Debug for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetched").field("size_bytes", &self.size_bytes).finish_non_exhaustive()
    }
}

/// Why an artifact was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// Trying again will not help.
    #[error(
        "the control plane has no artifact with this digest; was it uploaded, and does a release of this tenant name it?"
    )]
    NotFound,
    /// Trying again may help.
    #[error("the artifact cannot be fetched now: {reason}")]
    Unavailable {
        /// For a person: why.
        reason: String,
    },
}
