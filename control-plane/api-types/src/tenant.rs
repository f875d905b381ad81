//! Tenants.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::signing::Signing;

/// A new tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateTenant {
    /// Its name, unique in the installation.
    pub name: String,
}

/// A tenant: the boundary of isolation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tenant {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Which signatures every release must have; absent if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing: Option<Signing>,
    /// When it was created.
    pub created_at: String,
}
