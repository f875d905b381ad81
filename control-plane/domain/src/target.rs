//! Targets: hosts, or slots on them, that releases are deployed to.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stella_protocol::id::{AgentId, DeploymentId, EnvironmentId, Generation, ReleaseId, TargetId, TaskId};
use stella_protocol::time::Timestamp;

use crate::colour::{Colour, Idle};
use crate::deployment::{Cause, Deployment, Progress};
use crate::group::Part;
use crate::name::Name;
use crate::tenant::TenantState;

/// A host, or a slot on one, in an environment.
///
/// Invariants: at most one target for each (agent, slot), and one without a slot is alone on its agent; `active` is the only
/// deployment that may start tasks here.
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
    /// Grows with each deployment that starts here; a new one is at least the time, in milliseconds since 1970, so that it is
    /// newer than what a journal that was lost since has given out.
    pub generation: Generation,
    /// What last succeeded here.
    pub current: Option<ReleaseId>,
    /// The deployment that it is reserved for: from the deployment's creation until this target's part of it has ended.
    pub active: Option<DeploymentId>,
    /// The deployment that was the last to change what is live here: newer than it, nothing has touched the target.
    pub last: Option<DeploymentId>,
    /// A task of a deployment that has given this target up, while nobody can tell what became of the task (`unknown`). No
    /// new deployment is let in until the agent's late word or an operator has settled it: it may still be running.
    pub blocked_by: Option<TaskId>,
    /// The colour of what is here, if that has colours.
    #[serde(default)]
    pub live: Option<Colour>,
    /// What the other colour holds, if anything. Never the one that is live.
    #[serde(default)]
    pub idle: Option<Idle>,
    /// Whether a switch was left halfway: then nobody knows to which colour the traffic goes.
    #[serde(default)]
    pub is_torn: bool,
    /// The deployment that was the last to do anything here, be it beside what is live; `None` if that is `last`.
    #[serde(default)]
    pub visited: Option<DeploymentId>,
    /// What it is for two groups of targets, if the last deployment that came here went to such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    /// The variables with which what is here was brought: what takes it back is filled in with them, whatever has become of
    /// `variables` since. `None` if nobody knows, or they are `variables`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brought_with: Option<Arc<BTreeMap<String, String>>>,
    /// When it was created.
    pub created_at: Timestamp,
}

impl TenantState {
    /// The deployment that has brought its release to a target, because somebody asked for that, and has not ended: it holds there, or
    /// goes on elsewhere, and is judged by what is there.
    #[must_use]
    pub fn proving_on(&self, target: &Target) -> Option<&Arc<Deployment>> {
        let last = self.deployments.get(&target.last_visit()?)?;
        let is_asked_for = last.cause == Cause::Requested && !last.status.is_final();
        let part = last.targets.get(&target.id).filter(|_| is_asked_for)?;
        matches!(part.progress, Progress::Succeeded { .. }).then_some(last)
    }
}

impl Target {
    /// The target with the variables with which what is here was brought.
    #[must_use]
    pub fn as_it_was_brought(&self) -> Cow<'_, Self> {
        self.with(self.brought_with.as_deref())
    }

    /// The target with these variables, if any are given.
    #[must_use]
    pub fn with(&self, variables: Option<&BTreeMap<String, String>>) -> Cow<'_, Self> {
        match variables.filter(|variables| **variables != self.variables) {
            None => Cow::Borrowed(self),
            Some(variables) => Cow::Owned(Self { variables: variables.clone(), ..self.clone() }),
        }
    }

    /// The deployment that was the last to do anything here.
    #[must_use]
    pub fn last_visit(&self) -> Option<DeploymentId> {
        self.visited.or(self.last)
    }
}
