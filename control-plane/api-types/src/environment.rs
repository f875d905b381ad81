//! Environments.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::gate::Gate;
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
    /// Whose approval a promotion needs to come here; absent if nobody's. A rollback needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approvals: Option<Approvals>,
    /// When nothing but rollbacks may come here, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub freezes: Vec<Freeze>,
    /// What must be so for a release to come here, by name. A rollback may come anyway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<Gate>,
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

/// Whose approval a promotion needs. Who asked for it never counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Approvals {
    /// How many accounts must approve.
    pub needed: u32,
    /// Only these accounts may decide; if empty, all that have the role approver there.
    pub from: Vec<Named>,
    /// How long a promotion waits before it expires, in seconds.
    pub expires_in_seconds: u64,
}

/// Sets whose approval a promotion to an environment needs. Promotions that wait have to be asked for anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetApprovals {
    /// How many accounts must approve, at most 16; with 0 nobody has to.
    pub needed: u32,
    /// Only these accounts may decide, by name or id; all that have the role approver there if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
    /// How long a promotion waits before it expires, in seconds: a minute to 90 days; a week if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<u64>,
}

/// A time in which nothing but rollbacks comes to an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Freeze {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
    /// When it begins, for the first time, as the clocks there show it.
    pub from: String,
    /// When it ends, for the first time.
    pub to: String,
    /// Where.
    pub time_zone: String,
    /// Whether it comes again.
    pub repeats: Repeats,
    /// Until when it lasts, if it does now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// Sets a freeze, instead of one of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetFreeze {
    /// Its name, unique in the environment.
    pub name: String,
    /// Why, for people.
    pub reason: String,
    /// When it begins, for the first time, as the clocks there show it: `2026-12-18T18:00`.
    pub from: String,
    /// When it ends, for the first time.
    pub to: String,
    /// A name of the IANA database, such as `Europe/Berlin`; UTC if absent.
    #[serde(default = "utc")]
    pub time_zone: String,
    /// Whether it comes again.
    #[serde(default)]
    pub repeats: Repeats,
}

fn utc() -> String {
    "UTC".to_owned()
}

/// Whether a freeze comes again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Repeats {
    /// It does not.
    #[default]
    Never,
    /// Every day.
    Daily,
    /// Every week.
    Weekly,
    /// Every year.
    Yearly,
}
