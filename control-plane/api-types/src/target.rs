//! Targets.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::hold::Hold;
use crate::page::Named;
use crate::release::ReleaseRef;

/// A new target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateTarget {
    /// Its name, unique in the environment.
    pub name: String,
    /// The environment, by name or id.
    pub environment: String,
    /// The agent that serves it, by name or id.
    pub agent: String,
    /// What it is; `host` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its folder under the agent's host root; the whole host root if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
    /// For selecting.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// For `${name}` in a release's steps.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
}

/// In which ways a target is to be otherwise; what is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateTarget {
    /// Labels to set; with `null`, to take away.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, Option<String>>,
    /// Variables to set; with `null`, to take away. Deployments that are under way keep those that they began with.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, Option<String>>,
    /// The agent that serves it from now on, by name or id. Nothing is known then of what is there. Refused while a deployment has to
    /// do with the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
}

/// A host, or a slot on one, in an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Target {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its environment.
    pub environment: Named,
    /// The agent that serves it.
    pub agent: Named,
    /// What it is.
    pub kind: String,
    /// Its folder under the agent's host root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
    /// For selecting.
    pub labels: BTreeMap<String, String>,
    /// For `${name}` in a release's steps.
    pub variables: BTreeMap<String, String>,
    /// Counts the deployments that touched it.
    pub generation: u64,
    /// The release that last succeeded here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<ReleaseRef>,
    /// The colour of that, if it has a switch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub colour: Option<String>,
    /// What the other colour holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Idle>,
    /// Whether a switch was left halfway: the next deployment decides it first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub torn: bool,
    /// What it is for two groups: `member` of one, or `switch` if it leads the traffic to the one whose `colour` it has; absent
    /// without groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// The id of the deployment that works on it now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_deployment: Option<String>,
    /// That its agent's host was taken out of rotation, and why: deployments leave the target out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<Hold>,
    /// That a deployment has left a task here of which nobody knows what became; absent otherwise. Nothing else comes here until its
    /// agent or a person says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<Quarantine>,
    /// When it was created.
    pub created_at: String,
}

/// Why a target lets nothing in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Quarantine {
    /// The task that may still run here.
    pub task: String,
    /// The step that it is of.
    pub step: String,
    /// The deployment that has left it.
    pub deployment: String,
    /// Since when nobody knows.
    pub since: String,
    /// Why nobody knows.
    pub reason: String,
}

/// What a colour holds that is not live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Idle {
    /// Which release.
    pub release: ReleaseRef,
    /// In which colour.
    pub colour: String,
    /// The deployment that filled it, or that led the traffic away from it.
    pub deployment: String,
    /// Whether it can be switched to as it is: it was live (or, in a group, prepared), and nothing has ended it since.
    pub ready: bool,
}
