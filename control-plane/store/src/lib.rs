//! Files beside the journal: artifacts by digest, and the output of tasks.
//!
//! Neither belongs in the journal: both are large, and neither decides anything. An artifact is durable before the
//! journal says that it exists ([`artifact`]). Output is for people to read and may lose its newest part in a power
//! loss ([`output`]).

pub mod artifact;
pub mod error;
pub mod output;
mod space;

pub use artifact::{ArtifactStore, Upload};
pub use error::StoreError;
pub use output::{OutputPage, OutputStore, OutputWriter};
