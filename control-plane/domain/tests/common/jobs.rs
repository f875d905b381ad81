//! INV-22: jobs are what steps want, once on each target, and leave no trace in what is known of it.

use std::collections::{BTreeMap, BTreeSet};

use stella_domain::deployment::Cause;
use stella_domain::event::{Event, Fact, StreamId};
use stella_domain::job::own_release;
use stella_domain::target::Target;
use stella_domain::task::TaskState;
use stella_domain::tenant::TenantState;
use stella_protocol::id::{DeploymentId, Generation, PromotionId, TargetId};

/// In one state.
pub fn check(tenant: &TenantState) {
    let mut own = BTreeSet::new();
    for promotion in tenant.promotions.values() {
        let Some(job) = &promotion.wanted.job else { continue };
        assert!(!tenant.releases.contains_key(&own_release(promotion.wanted.id)), "INV-22: known to all");
        if !job.steps.is_empty() {
            own.insert(own_release(promotion.wanted.id));
        }
    }
    assert_eq!(tenant.jobs.keys().copied().collect::<BTreeSet<_>>(), own, "INV-16: what jobs run");
    let mut done: BTreeMap<_, u32> = BTreeMap::new();
    for deployment in tenant.deployments.values() {
        let Cause::Job { run, step, .. } = &deployment.cause else { continue };
        let promotion = &tenant.promotions[&PromotionId(deployment.id.0)];
        let job = promotion.wanted.job.as_ref().expect("INV-22: asked for as something else");
        assert_eq!((job.run, &job.step), (*run, step), "INV-22");
        for part in deployment.targets.values() {
            assert!(part.previous.is_none() && part.is_spared, "INV-22: {} is at stake", part.target);
            assert!(job.done.binary_search(&part.target).is_err(), "INV-22: done again on {}", part.target);
            let last = tenant.steps_on(part) - 1;
            let last =
                tenant.tasks_of(deployment).into_iter().rev().find(|task| {
                    task.target == part.target && tenant.step_on(part, last) == Some(&task.step)
                });
            if last.is_some_and(|task| matches!(task.state, TaskState::Succeeded(_))) {
                *done.entry((*run, step.clone(), part.target)).or_default() += 1;
            }
        }
    }
    assert!(done.values().all(|times| *times == 1), "INV-22: done twice for one step: {done:?}");
    for run in tenant.runs.values().filter(|run| !run.status.is_final()) {
        for job in run.steps.values().filter_map(|step| step.job) {
            assert!(tenant.deployments.contains_key(&job), "INV-16: nobody knows where {job} was done");
        }
    }
}

/// From one state to the next: what only jobs have come to is what it was.
pub fn step(old: &TenantState, new: &TenantState, events: &[(StreamId, Event)]) {
    let by_others: BTreeSet<TargetId> = events
        .iter()
        .filter_map(|(_, event)| about(&event.fact))
        .filter(|(deployment, _)| new.deployments.get(deployment).is_none_or(|it| !it.cause.is_job()))
        .map(|(_, target)| target)
        .collect();
    for (id, target) in &old.targets {
        let is_told = |(_, event): &(StreamId, Event)| matches!(&event.fact, Fact::TargetUpdated { id: it, .. } if it == id);
        let known_by_jobs = |_: &&_| !by_others.contains(id) && !events.iter().any(is_told);
        let Some(now) = new.targets.get(id).filter(known_by_jobs) else { continue };
        // What leads the traffic to the group of a target is on others.
        if super::colours::group_has_changed(new, now, events) {
            continue;
        }
        assert_eq!(known(target), known(now), "INV-22: {} has changed", target.name);
    }
}

/// What is known of a target beside who works on it.
fn known(target: &Target) -> Target {
    Target { generation: Generation(0), active: None, blocked_by: None, ..target.clone() }
}

/// What a fact is about, if it can change what is known of a target.
fn about(fact: &Fact) -> Option<(DeploymentId, TargetId)> {
    let json = serde_json::to_value(fact).unwrap();
    let id = |name: &str| json.get(name)?.as_str();
    Some((id("deployment")?.parse().ok()?, id("target")?.parse().ok()?))
}
