//! What a deployment would do, and what a person should know before it does.

use stella_api_types::deployment as dto;
use stella_api_types::gate::PlannedGate;
use stella_domain::agent::Connectivity;
use stella_domain::command::NewDeployment;
use stella_domain::decide::{self, Planned};
use stella_domain::deployment::Deployment;
use stella_domain::environment::PromotionPath;
use stella_domain::event::PlannedTarget;
use stella_domain::group::{self, Part};
use stella_domain::hold::Standing;
use stella_domain::job::own_release;
use stella_domain::plan::{PlannedTask, TargetWork};
use stella_domain::promotion::ApprovalRule;
use stella_domain::tenant::TenantState;
use stella_protocol::id::{AgentId, DeploymentId, TargetId};
use stella_protocol::time::Timestamp;

use super::deployment::{amount, left, on_failure, own_ref, strategy};
use super::promotion::{holds, plan_hash};
use super::release::{phase, release_ref};
use super::{agent_named, connectivity, environment_named, gate, target_named, time, verification};

/// What a deployment would do in this tenant.
pub(crate) fn plan(
    tenant: &TenantState,
    wanted: &NewDeployment,
    planned: &Planned,
    now: Timestamp,
) -> dto::DeploymentPlan {
    let release = tenant.recipe(wanted.release);
    let standing = release.map(|release| &release.standing);
    let waves = group::waves(tenant, &wanted.strategy, &planned.targets);
    let has_groups = wanted.strategy.groups().is_some();
    dto::DeploymentPlan {
        environment: environment_named(tenant, wanted.environment),
        release: release_ref(tenant, wanted.release),
        strategy: strategy(&wanted.strategy),
        on_failure: on_failure(wanted.on_failure),
        tolerate_failures: wanted.tolerate_failures.map(amount),
        timeout_seconds: wanted.timeout_ms / 1_000,
        steps: release
            .map_or_else(Vec::new, |it| it.steps.iter().map(|step| step.name.to_string()).collect()),
        phases: release
            .filter(|it| it.has_colours())
            .map_or_else(Vec::new, |it| it.steps.iter().map(|step| phase(step.phase)).collect()),
        groups: groups(tenant, wanted, planned),
        targets: planned
            .targets
            .iter()
            .zip(&planned.no_way_back)
            .zip(waves.into_iter().map(Option::unwrap_or_default))
            .filter_map(|((part, stuck), wave)| target(tenant, part, (wave, has_groups), stuck.as_deref()))
            .collect(),
        plan: plan_hash(planned.plan),
        verification: tenant
            .environments
            .get(&wanted.environment)
            .and_then(|it| it.verification)
            .filter(|_| wanted.job.is_none())
            .map(verification),
        proven_in: proven_in(tenant, wanted),
        approvals_needed: planned.rule.as_ref().map_or(0, ApprovalRule::needed_in_all),
        gates: gates(tenant, wanted, now),
        warnings: deprecated(standing).into_iter().chain(waits(tenant, wanted, now)).collect(),
    }
}

fn proven_in(tenant: &TenantState, wanted: &NewDeployment) -> Vec<dto::ProvenIn> {
    let path = tenant.environments.get(&wanted.environment).and_then(|it| it.requires.as_ref());
    let stages = path.into_iter().flat_map(PromotionPath::requirements);
    let proven = stages.filter_map(|it| {
        let since = tenant.environments.get(&it.after)?.proven.get(&wanted.release)?;
        Some(dto::ProvenIn { environment: environment_named(tenant, it.after), since: time(*since) })
    });
    proven.collect()
}

fn deprecated(standing: Option<&Standing>) -> Option<String> {
    match standing {
        Some(Standing::Deprecated(hold)) => Some(format!("the release is deprecated: {}", hold.reason)),
        Some(Standing::Good | Standing::Blocked(_)) | None => None,
    }
}

/// What it would wait for beside approvals and gates: where there are none, a deployment is refused instead.
fn waits(tenant: &TenantState, wanted: &NewDeployment, now: Timestamp) -> impl Iterator<Item = String> {
    holds(tenant, wanted, now).into_iter().map(|hold| format!("{hold}; it would wait for the end of that"))
}

fn gates(tenant: &TenantState, wanted: &NewDeployment, now: Timestamp) -> Vec<PlannedGate> {
    let places = (tenant.environments.get(&wanted.environment), tenant.recipe(wanted.release));
    let (Some(environment), Some(release)) = places else { return Vec::new() };
    decide::preview(tenant, environment, release, now).iter().map(gate::planned).collect()
}

/// Which of two groups would get it.
fn groups(tenant: &TenantState, wanted: &NewDeployment, planned: &Planned) -> Option<dto::PlannedGroups> {
    let groups = wanted.strategy.groups()?;
    let switches = planned.targets.iter().filter(|it| Part::of(&it.legs) == Part::Switch).count();
    let gets = planned.targets.last()?.legs.last()?.colour?;
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    Some(dto::PlannedGroups {
        live: tenant.live_group_shown(wanted.environment, groups).map(|colour| colour.name().to_owned()),
        gets: gets.name().to_owned(),
        members: count(planned.targets.len() - switches),
        switches: count(switches),
    })
}

/// Whether an agent is there, and what a person should know if it is not.
fn reached(tenant: &TenantState, agent: AgentId) -> (&'static str, Option<String>) {
    let is_there = tenant.agents.get(&agent).map_or(&Connectivity::Never, |agent| &agent.connectivity);
    let (name, _) = connectivity(is_there);
    let warning = match is_there {
        Connectivity::Online { .. } => None,
        Connectivity::Never => Some("its agent has never connected: it would wait for it".to_owned()),
        Connectivity::Suspect { .. } | Connectivity::Offline { .. } => {
            Some(format!("its agent is {name}: it would wait for it"))
        }
    };
    (name, warning)
}

/// What would be run on one target of a deployment.
pub(crate) fn target_tasks(
    tenant: &TenantState,
    wanted: &NewDeployment,
    target: TargetId,
    work: &TargetWork,
) -> dto::TargetTasks {
    // A job's own release is nobody else's, and the tenant does not know it.
    let release = |id| match &wanted.job {
        Some(job) if id == own_release(wanted.id) => own_ref(id, &job.workflow, &job.step),
        _ => release_ref(tenant, id),
    };
    let task = |task: &PlannedTask| dto::PlannedTask {
        step: task.step.to_string(),
        release: release(task.release),
        colour: task.colour.map(|colour| colour.name().to_owned()),
        digest: task.digest.to_string(),
        task: task.text.clone(),
    };
    dto::TargetTasks {
        target: target_named(tenant, target),
        tasks: work.tasks.iter().map(task).collect(),
        rollback: work.rollback.as_ref().map(|(previous, tasks)| dto::PlannedWayBack {
            release: release_ref(tenant, *previous),
            tasks: tasks.iter().map(task).collect(),
        }),
    }
}

/// What taking a deployment back would do in this tenant.
pub(crate) fn rollback_plan(
    tenant: &TenantState,
    of: DeploymentId,
    deployment: &Deployment,
) -> dto::RollbackPlan {
    let parts = deployment.order.iter().filter_map(|id| deployment.targets.get(id));
    let left_out: Vec<_> = deployment.left.iter().map(|it| left(tenant, it)).collect();
    dto::RollbackPlan {
        rollback_of: of.to_string(),
        environment: environment_named(tenant, deployment.environment),
        strategy: strategy(&deployment.strategy),
        timeout_seconds: deployment.timeout_ms() / 1_000,
        targets: parts
            .map(|part| {
                let (connectivity, absent) = reached(tenant, part.agent);
                let place = tenant.targets.get(&part.target);
                let draining = place.and_then(|place| tenant.draining(place)).map(|(agent, hold)| {
                    format!(
                        "its agent {agent} is draining ({}): it would wait until that is undrained, or until the target is skipped",
                        hold.reason
                    )
                });
                dto::RollbackTarget {
                    target: target_named(tenant, part.target),
                    agent: agent_named(tenant, part.agent),
                    connectivity: connectivity.to_owned(),
                    current: part.previous.map(|id| release_ref(tenant, id)),
                    release: release_ref(tenant, part.release),
                    colour: part.colour().map(|colour| colour.name().to_owned()),
                    warnings: absent.into_iter().chain(draining).collect(),
                }
            })
            .collect(),
        left: left_out.iter().map(|it| format!("{}: {}", it.target.name, it.reason)).collect(),
        left_out,
    }
}

fn target(
    tenant: &TenantState,
    part: &PlannedTarget,
    (wave, has_groups): (u32, bool),
    stuck: Option<&str>,
) -> Option<dto::PlannedTarget> {
    let agent = tenant.targets.get(&part.target)?.agent;
    let (name, absent) = reached(tenant, agent);
    let mut warnings = Vec::from_iter(absent);
    if let Some((agent, hold)) = tenant.targets.get(&part.target).and_then(|it| tenant.draining(it)) {
        warnings.push(format!("its agent {agent} is draining ({}): it would be left out", hold.reason));
    }
    let application = |id| tenant.releases.get(&id).map(|release| &release.application);
    if let Some(there) = part.previous.filter(|there| application(*there) != application(part.release)) {
        let there = release_ref(tenant, there);
        let what = format!("{}:{}", there.application, there.version);
        warnings.push(format!("it replaces another application: {what}, which nobody looks after then"));
    }
    if let Some(why) = stuck {
        warnings.push(format!("it cannot go back: {why}"));
    } else if part.legs.is_empty() && part.previous == Some(part.release) {
        warnings.push("it has this release already".to_owned());
    }
    Some(dto::PlannedTarget {
        target: target_named(tenant, part.target),
        wave,
        colour: part.legs.last().and_then(|leg| leg.colour).map(|colour| colour.name().to_owned()),
        part: has_groups.then(|| Part::of(&part.legs).name().to_owned()),
        domain: part.domain.clone(),
        agent: agent_named(tenant, agent),
        connectivity: name.to_owned(),
        current: part.previous.map(|id| release_ref(tenant, id)),
        way_back: None,
        can_go_back: part.previous.is_some_and(|there| there != part.release) && stuck.is_none(),
        warnings,
    })
}
