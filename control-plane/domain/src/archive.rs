//! What has ended and is needed for nothing that may still happen leaves memory for an archive.
//!
//! The core only says what may leave, and forgets it. Whoever asks for that has written what leaves to the archive before:
//! what has ended never changes again, so the copy is what is forgotten, however much later that is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stella_protocol::id::{DeploymentId, PromotionId, RunId};
use stella_protocol::time::Timestamp;

use crate::deployment::{Cause, Deployment, Progress};
use crate::ids;
use crate::promotion::Promotion;
use crate::run::Run;
use crate::target::Target;
use crate::task::Task;
use crate::tenant::TenantState;

/// How many things one command takes out of memory, at most.
pub const BATCH_MAX: usize = 500;
/// How many targets' parts of deployments one command takes out of memory before it takes no further deployment: what the
/// writer does for it is done in milliseconds.
const PARTS_MAX: usize = 5_000;

/// When what has ended leaves memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What has ended less than this ago never leaves, in milliseconds: whoever follows the end of something still finds it, and
    /// output that comes behind its result has somewhere to go.
    pub never_within_ms: u64,
    /// When it ended longer ago than this, in milliseconds; `None` is never for that.
    pub after_ms: Option<u64>,
    /// When so many of its kind have ended later in the same place (an environment, or a workflow); `None` is never for that.
    pub newer_max: Option<usize>,
}

/// Things that have ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Deployments, with their tasks and the promotions that asked for them.
    pub deployments: Vec<DeploymentId>,
    /// Promotions that became no deployment.
    pub promotions: Vec<PromotionId>,
    /// Runs of workflows.
    pub runs: Vec<RunId>,
}

/// How much of a tenant is in the archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archived {
    /// Deployments.
    pub deployments: u64,
    /// Promotions, with and without a deployment.
    pub promotions: u64,
    /// Runs of workflows.
    pub runs: u64,
}

impl Archived {
    /// Whether nothing is.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.deployments == 0 && self.promotions == 0 && self.runs == 0
    }
}

impl Ended {
    /// How many things.
    #[must_use]
    pub fn count(&self) -> usize {
        self.deployments.len() + self.promotions.len() + self.runs.len()
    }
}

/// What is to leave memory by this rule, the oldest first: not more than one command takes.
#[must_use]
pub fn due(tenant: &TenantState, rule: Rule, now: Timestamp) -> Ended {
    let mut ended = Ended::default();
    let needs = Needs::of(tenant);
    let mut parts = 0;
    let deployments =
        tenant.deployments.values().filter_map(|it| Some((it.environment, it.finished_at?, it)));
    for deployment in by_rule(deployments, rule, now) {
        if ended.count() == BATCH_MAX || parts >= PARTS_MAX {
            return ended;
        }
        if !needs.deployment(tenant, deployment) {
            parts += deployment.targets.len();
            ended.deployments.push(deployment.id);
        }
    }
    let promotions = tenant.promotions.values();
    let promotions = promotions.filter_map(|it| Some((it.wanted.environment, it.ended_at()?, it)));
    let promotions = by_rule(promotions, rule, now).into_iter().filter(|it| !tenant.needs_promotion(it));
    ended.promotions = promotions.take(BATCH_MAX - ended.count()).map(|it| it.id).collect();
    let runs = tenant.runs.values().filter_map(|it| Some((it.workflow.clone(), it.finished_at?, it)));
    let runs = by_rule(runs, rule, now).into_iter().filter(|it| !tenant.needs_run(it));
    ended.runs = runs.take(BATCH_MAX - ended.count()).map(|it| it.id).collect();
    ended
}

/// What has ended and is too old, or too much has ended later in its place; oldest first.
fn by_rule<'t, P: Ord, T>(
    ended: impl Iterator<Item = (P, Timestamp, &'t Arc<T>)>,
    rule: Rule,
    now: Timestamp,
) -> Vec<&'t Arc<T>> {
    let mut places: BTreeMap<P, Vec<(Timestamp, &Arc<T>)>> = BTreeMap::new();
    for (place, at, thing) in ended {
        places.entry(place).or_default().push((at, thing));
    }
    let is_older = |at: Timestamp, ms: u64| now.since(at).as_millis() > u128::from(ms);
    let mut found = Vec::new();
    for mut things in places.into_values() {
        things.sort_by_key(|(at, _)| *at);
        let too_many = rule.newer_max.map_or(0, |max| things.len().saturating_sub(max));
        let leaves = things.into_iter().enumerate().filter(|(index, (at, _))| {
            let by_rule = *index < too_many || rule.after_ms.is_some_and(|ms| is_older(*at, ms));
            by_rule && is_older(*at, rule.never_within_ms)
        });
        found.extend(leaves.map(|(_, thing)| thing));
    }
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().map(|(_, thing)| thing).collect()
}

/// Who else refers to deployments, gathered once for many of them.
pub(crate) struct Needs {
    /// Deployments that are being taken back, or were by what was the last to come to a target.
    taken_back: BTreeSet<DeploymentId>,
    /// What was the last to come to targets to which nothing was sent yet: it is again if nothing ever is.
    before: BTreeSet<DeploymentId>,
    /// What runs that go on have deployed, as it is in the outputs of their steps: they may yet take it back.
    of_runs: BTreeSet<String>,
}

impl Needs {
    pub(crate) fn of(tenant: &TenantState) -> Self {
        let active = || tenant.active_deployments.iter().filter_map(|id| tenant.deployments.get(id));
        let parts = active().flat_map(|it| it.targets.values());
        let first = parts.filter(|part| matches!(part.progress, Progress::Active { step: 0, .. }));
        let runs = tenant.active_runs.iter().filter_map(|id| tenant.runs.get(id));
        let steps = runs.flat_map(|run| run.steps.values());
        let deployed =
            steps.clone().filter_map(|step| Some(step.outputs.get("deployment")?.as_str()?.to_owned()));
        // The next attempt leaves out what an earlier one has done.
        let jobs = steps.filter_map(|step| Some(step.job?.to_string()));
        // What could not be taken back can be tried again; what was taken back knows what has stood there since.
        let last = tenant.targets.values().filter_map(|target| tenant.deployments.get(&target.last?));
        Self {
            taken_back: active().chain(last).filter_map(|it| taken_back_by(it)).collect(),
            before: first.filter_map(|part| part.before?.last).collect(),
            of_runs: deployed.chain(jobs).collect(),
        }
    }

    /// Whether a deployment has not ended, or something that may still happen needs it.
    pub(crate) fn deployment(&self, tenant: &TenantState, deployment: &Deployment) -> bool {
        let id = deployment.id;
        tenant.needs_deployment(deployment)
            || self.taken_back.contains(&id)
            || self.before.contains(&id)
            || self.of_runs.contains(&id.to_string())
            // One that was taken back is shown with what took it back.
            || taken_back_by(deployment).is_some_and(|of| tenant.deployments.contains_key(&of))
    }
}

const fn taken_back_by(deployment: &Deployment) -> Option<DeploymentId> {
    if let Cause::Rollback { of, .. } = deployment.cause { Some(of) } else { None }
}

impl TenantState {
    /// INV-16: whether a deployment has to stay in memory: it has not ended, or the end of a task is open, or it was the last
    /// to come to a target and can be taken back there, or has left a colour idle there, or a step waits for it.
    #[must_use]
    pub fn needs_deployment(&self, deployment: &Deployment) -> bool {
        let is_last = |target| {
            let place = self.targets.get(target);
            let has_left_it = |it: &Target| it.idle.is_some_and(|idle| idle.by == deployment.id);
            place.is_some_and(|it| it.last == Some(deployment.id) || has_left_it(it))
        };
        // What two groups have left idle is not on the targets that the deployment went to.
        let environment = deployment.environment;
        let names = self.index.targets.get(&environment).filter(|_| deployment.strategy.groups().is_some());
        !deployment.status.is_final()
            || deployment.targets.keys().any(is_last)
            || names.is_some_and(|names| names.values().any(is_last))
            || self.kept.contains_key(&deployment.id)
            || self.awaited.contains_key(&deployment.id)
            // What comes to the next environment by itself comes as this one has.
            || self.environments.values().any(|it| it.automatic.values().any(|it| it.like == deployment.id))
            || self.tasks_of(deployment).iter().any(|task| !task.state.is_final())
    }

    /// Whether a promotion has to stay in memory: it waits, or is part of a deployment, or a step waits for it.
    #[must_use]
    pub fn needs_promotion(&self, promotion: &Promotion) -> bool {
        promotion.is_open()
            || self.deployments.contains_key(&promotion.wanted.id)
            || self.awaited.contains_key(&promotion.wanted.id)
    }

    /// Whether a run has to stay in memory: it has not ended, or is part of one that has not.
    #[must_use]
    pub fn needs_run(&self, run: &Run) -> bool {
        let whole = run.parent.as_ref().and_then(|(whole, _)| self.runs.get(whole));
        !run.status.is_final() || whole.is_some_and(|whole| !whole.status.is_final())
    }

    /// The tasks of a deployment, by id.
    #[must_use]
    pub fn tasks_of(&self, deployment: &Deployment) -> Vec<&Arc<Task>> {
        let mut tasks = Vec::new();
        for part in deployment.targets.values() {
            for round in 0..=part.round {
                // One that was tried again may have begun with its switch.
                let ids =
                    (0..self.steps_on(part)).map(|step| ids::task(deployment.id, part.target, step, round));
                tasks.extend(ids.filter_map(|id| self.tasks.get(&id)));
            }
        }
        tasks.sort_by_key(|task| task.id);
        tasks
    }
}
