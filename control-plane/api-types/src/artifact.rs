//! Artifacts: archives by digest.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A stored and verified archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Artifact {
    /// What it hashes to: `sha256:<hex>`.
    pub digest: String,
    /// Its size in bytes.
    pub size_bytes: u64,
}
