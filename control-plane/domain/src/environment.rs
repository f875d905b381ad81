//! Environments: ordered stages.

use std::collections::BTreeMap;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use stella_protocol::id::{EnvironmentId, ReleaseId};
use stella_protocol::time::Timestamp;

use crate::freeze::Freeze;
use crate::gate::Standing;
use crate::hold::Hold;
use crate::name::Name;
use crate::promotion::ApprovalRule;

/// The shortest and the longest time that a release may have to prove itself, in milliseconds: none and 30 days.
pub const SOAK_MS_RANGE: (u64, u64) = (0, 30 * 24 * 3_600_000);

/// What a release must have been through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirement {
    /// Where it must have succeeded on all targets.
    pub after: EnvironmentId,
    /// For how long, in milliseconds.
    pub soak_ms: u64,
}

/// A stage that releases pass through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Its id.
    pub id: EnvironmentId,
    /// Its name, unique in the tenant.
    pub name: Name,
    /// Its place among the tenant's environments; smaller comes first.
    pub order: u32,
    /// What a release must have been through before it may come here. A rollback may come anyway.
    #[serde(default)]
    pub requires: Option<Requirement>,
    /// Releases that all targets here have had after a deployment that succeeded, and since when; not if one failed since.
    #[serde(default)]
    pub proven: OrdMap<ReleaseId, Timestamp>,
    /// Whose approval a promotion needs to come here; `None` is nobody's. A rollback needs none.
    #[serde(default)]
    pub approvals: Option<ApprovalRule>,
    /// When nothing new may come here, by name. A rollback may.
    #[serde(default)]
    pub freezes: Vec<Freeze>,
    /// What must be so for something to come here, by name. A rollback may come anyway.
    #[serde(default)]
    pub gates: BTreeMap<Name, Standing>,
    /// Why nothing new may come here for now. A rollback may.
    #[serde(default)]
    pub lock: Option<Hold>,
    /// When it was created.
    pub created_at: Timestamp,
}
