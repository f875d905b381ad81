//! Keys that sign releases, and signatures by them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::event::Actor;
use crate::hold::Hold;

/// Lets a key sign releases of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddReleaseKey {
    /// Its name, unique in the tenant for ever.
    pub name: String,
    /// Its public half: ed25519, in PEM.
    pub public_key: String,
}

/// A key that signs releases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseKey {
    /// Its fingerprint: SHA-256 over its `SubjectPublicKeyInfo` in DER.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its public half in PEM.
    pub public_key: String,
    /// When it was registered.
    pub added_at: String,
    /// By whom.
    pub added_by: Actor,
    /// Since when nothing counts that it has signed; absent if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Hold>,
}

/// A signature for a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Sign {
    /// By which key: its fingerprint or its name.
    pub key: String,
    /// Ed25519 over the release's statement, in base64.
    pub signature: String,
}

/// A signature of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseSignature {
    /// The key's fingerprint.
    pub key: String,
    /// The key's name.
    pub name: String,
    /// Whether it counts: that of a revoked key does not.
    pub counts: bool,
    /// The signature in base64.
    pub signature: String,
    /// When it came.
    pub at: String,
    /// Who brought it: not always who signed.
    pub by: Actor,
}

/// How many signatures are wanted, and by which keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetSigning {
    /// How many, each by another key; 0 is none.
    pub needed: u32,
    /// Only those by these keys count (fingerprints or names); those by all registered ones if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
}

/// Which signatures every release of a tenant must have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Signing {
    /// How many, each by another key.
    pub needed: u32,
    /// The names of the keys that count; all registered ones if empty.
    pub keys: Vec<String>,
}
