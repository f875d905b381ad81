//! Environments.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::hold::Hold;
use crate::page::Named;

/// A new environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateEnvironment {
    /// Its name, unique in the tenant.
    pub name: String,
    /// Its place among the environments, smaller first; after all others if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<u32>,
}

/// A stage that releases pass through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Environment {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its place among the environments, smaller first.
    pub order: u32,
    /// What a release must have been through before it may come here; absent if nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<Follows>,
    /// Why nothing but rollbacks may come here; absent if it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<Hold>,
    /// When it was created.
    pub created_at: String,
}

/// What a release must have been through before it may come to an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Follows {
    /// Where it must have succeeded on all targets.
    pub environment: Named,
    /// For how long, in seconds.
    pub soak_seconds: u64,
}

/// Sets what a release must have been through before it may come to an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetPath {
    /// Where it must have succeeded on all targets, by name or id; nothing if `null`.
    pub after: Option<String>,
    /// For how long, in seconds; not at all if absent, at most 30 days.
    #[serde(default)]
    pub soak_seconds: u64,
}
