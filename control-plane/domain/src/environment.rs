//! Environments: ordered stages.

use serde::{Deserialize, Serialize};
use stella_protocol::id::EnvironmentId;
use stella_protocol::time::Timestamp;

use crate::hold::Hold;
use crate::name::Name;

/// A stage that releases pass through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Its id.
    pub id: EnvironmentId,
    /// Its name, unique in the tenant.
    pub name: Name,
    /// Its place among the tenant's environments; smaller comes first.
    pub order: u32,
    /// Why nothing new may come here for now. A rollback may.
    #[serde(default)]
    pub lock: Option<Hold>,
    /// When it was created.
    pub created_at: Timestamp,
}
