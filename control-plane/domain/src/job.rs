//! Jobs: what a `task` step of a run wants run on targets, without bringing them a release.
//!
//! A job is carried out by a deployment, so that all that keeps deployments safe keeps jobs safe: one at a time on a target, generations,
//! gates, approvals of a hash, budgets, silence. But it leaves no trace in what is known of its targets: what is live there, and what was
//! the last to come, stay as they were, so there is nothing to take back.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stella_protocol::id::{DeploymentId, ReleaseId, RunId, TargetId};
use stella_protocol::time::Timestamp;

use crate::hold::Standing;
use crate::ids;
use crate::name::{Identifier, Name};
use crate::release::{Phase, Release, Step, StepAction};
use crate::task::TaskState;
use crate::tenant::TenantState;

/// What a step of a run wants run on targets. It is kept with the promotion that it is asked for by, so that names here are append-only
/// like a fact's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The workflow.
    pub workflow: Name,
    /// The run of it.
    pub run: RunId,
    /// The step of that.
    pub step: Identifier,
    /// What is run on each target, in this order; empty is all steps of the release that is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// The targets on which earlier attempts of the step have done it, and which are left out therefore. Sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub done: Vec<TargetId>,
}

impl Job {
    /// What it runs, as a release that only this job has; `None` if that is a release that everybody knows.
    #[must_use]
    pub fn release(&self, deployment: DeploymentId, at: Timestamp) -> Option<Release> {
        if self.steps.is_empty() {
            return None;
        }
        Some(Release {
            id: own_release(deployment),
            application: self.workflow.clone(),
            version: self.step.as_str().parse().expect("each identifier is a version"),
            components: Vec::new(),
            steps: self.steps.clone(),
            labels: BTreeMap::new(),
            provenance: None,
            channels: Vec::new(),
            standing: Standing::Good,
            created_at: at,
        })
    }
}

/// The id of what a deployment runs that no release has: it has the digits of the deployment's.
#[must_use]
pub const fn own_release(deployment: DeploymentId) -> ReleaseId {
    ReleaseId(deployment.0)
}

/// Why a release cannot be run as a job, if it cannot: it would change what is known to be on the target.
pub(crate) fn objection(release: &Release) -> Option<&'static str> {
    let brings = release.steps.iter().any(|step| matches!(step.action, StepAction::Artifact { .. }));
    if brings || !release.components.is_empty() {
        return Some("it brings artifacts; a job brings nothing, so deploy it");
    }
    let phases = release.steps.iter().any(|step| step.phase != Phase::Prepare);
    phases.then_some("it has phases; a job has no colours, so deploy it")
}

impl TenantState {
    /// What a deployment runs, by the id that it is known by there: a release, or what only one job has.
    #[must_use]
    pub fn recipe(&self, id: ReleaseId) -> Option<&Arc<Release>> {
        self.releases.get(&id).or_else(|| self.jobs.get(&id))
    }

    /// Whether this is what only one job runs: software that could be looked into is not in it.
    #[must_use]
    pub fn is_of_job(&self, id: ReleaseId) -> bool {
        self.jobs.contains_key(&id)
    }

    /// The targets on which a job has been done, by it and by the attempts before it. What was unknown at its end counts as it was settled.
    pub(crate) fn done_by_job(&self, id: DeploymentId) -> Vec<TargetId> {
        let Some(deployment) = self.deployments.get(&id) else { return Vec::new() };
        let promotion = self.promotions.get(&stella_protocol::id::PromotionId(id.0));
        let before = promotion.and_then(|it| it.wanted.job.as_ref()).map_or(&[][..], |job| &job.done);
        let here = deployment.targets.values().filter(|part| {
            let last = self.steps_on(part).saturating_sub(1);
            let task = self.tasks.get(&ids::task(id, part.target, last, part.round));
            task.is_some_and(|task| matches!(task.state, TaskState::Succeeded(_)))
        });
        let mut done: Vec<TargetId> = before.iter().copied().chain(here.map(|part| part.target)).collect();
        done.sort_unstable();
        done.dedup();
        done
    }
}
