//! Targets: hosts, or slots on them, that releases are deployed to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stella_protocol::id::{AgentId, DeploymentId, EnvironmentId, Generation, ReleaseId, TargetId};
use stella_protocol::time::Timestamp;

use crate::name::Name;

/// A host, or a slot on one, in an environment.
///
/// Invariants: at most one target for each (agent, slot); `active` is the only deployment that may have open tasks here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Its id.
    pub id: TargetId,
    /// The environment that it is part of.
    pub environment: EnvironmentId,
    /// Its name, unique in the environment.
    pub name: Name,
    /// What it is, for the label `type` of `stella_targets_total`; `host` unless said otherwise.
    pub kind: Name,
    /// The agent that serves it.
    pub agent: AgentId,
    /// The folder under the agent's host root that it owns; `None` is the whole host root.
    pub slot: Option<Name>,
    /// For selecting.
    pub labels: BTreeMap<String, String>,
    /// For `${name}` in a release's steps.
    pub variables: BTreeMap<String, String>,
    /// Counts the deployments that touched it.
    pub generation: Generation,
    /// What last succeeded here.
    pub current: Option<ReleaseId>,
    /// The deployment that works on it now, if any.
    pub active: Option<DeploymentId>,
    /// When it was created.
    pub created_at: Timestamp,
}
