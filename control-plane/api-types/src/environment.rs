//! Environments.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::hold::Hold;

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
    /// Why nothing but rollbacks may come here; absent if it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<Hold>,
    /// When it was created.
    pub created_at: String,
}
