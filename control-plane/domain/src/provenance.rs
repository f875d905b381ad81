//! Where a release comes from: what it was built of, by what, and who says more about it.

use serde::{Deserialize, Serialize};
use stella_protocol::digest::Digest;

/// How many documents of a kind a release may refer to.
pub const REFERENCES_MAX: usize = 16;
/// How long a commit, a builder or a URI may be, in bytes.
pub const COMMIT_BYTES_MAX: usize = 128;
/// See [`COMMIT_BYTES_MAX`].
pub const BUILDER_BYTES_MAX: usize = 256;
/// See [`COMMIT_BYTES_MAX`].
pub const URI_BYTES_MAX: usize = 2_048;

/// Where a release comes from, as whoever registers it says. It is a part of what is signed, and never edited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// The revision of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Where the source is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The page of the build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_url: Option<String>,
    /// What built it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builder: Option<String>,
    /// What it is made of: software bills of materials.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sboms: Vec<Reference>,
    /// What others say about it: attestations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attestations: Vec<Reference>,
}

/// A document that lies elsewhere, pinned by its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Where.
    pub uri: String,
    /// What it hashes to.
    pub digest: Digest,
}
