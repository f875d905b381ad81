//! Files beside the journal: artifacts by digest, and the output of tasks.
//!
//! Neither belongs in the journal: both are large, and neither decides anything. An artifact is durable before the
//! journal says that it exists ([`artifact`]). Output is for people to read and may lose its newest part in a power
//! loss ([`output`]).
//! Both take what a shared [`Room`] gives, and leave more of the disk alone than the journal does: they must not be what
//! keeps the journal from being written.

pub mod artifact;
pub mod error;
pub mod output;
mod space;

pub use artifact::{Archive, ArtifactStore, Stored, Upload};
pub use error::StoreError;
pub use output::{OutputPage, OutputStore, OutputWriter};
pub use space::Room;

/// Runs file work where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // The runtime is going away, or the work has panicked.
        Err(error) => {
            Err(error::io_error("work on", std::path::Path::new("files"))(std::io::Error::other(error)))
        }
    }
}
