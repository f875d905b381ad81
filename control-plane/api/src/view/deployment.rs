//! Deployments and each target's part in them.

use stella_api_types::amount::Amount as AmountDto;
use stella_api_types::deployment as dto;
use stella_api_types::release::ReleaseRef;
use stella_domain::amount::Amount;
use stella_domain::colour::Colour;
use stella_domain::deployment::{Cause, Counts, Deployment, OnFailure, Progress, Status, TargetRollout};
use stella_domain::group::Part;
use stella_domain::hold::PauseCause;
use stella_domain::job::own_release;
use stella_domain::left::{LeftOut, Why};
use stella_domain::name::{Identifier, Name};
use stella_domain::strategy::{CanaryStep, Groups, Order, OrderBy, Strategy};
use stella_domain::task::TaskState;
use stella_domain::tenant::TenantState;
use stella_protocol::id::{DeploymentId, ReleaseId, RunId, TaskId};
use stella_protocol::time::Timestamp;

use super::event::actor;
use super::release::release_ref;
use super::task::unknown;
use super::{agent_named, environment_named, hold, target_named, time, verification, way_back};

/// A deployment of this tenant.
pub(crate) fn deployment(tenant: &TenantState, deployment: &Deployment) -> dto::Deployment {
    dto::Deployment {
        id: deployment.id.to_string(),
        environment: environment_named(tenant, deployment.environment),
        release: brought(tenant, deployment, deployment.release),
        job: job(&deployment.cause),
        strategy: strategy(&deployment.strategy),
        on_failure: on_failure(deployment.on_failure),
        tolerate_failures: deployment.tolerate_failures.map(amount),
        status: deployment.status.name().to_owned(),
        paused: deployment.paused.as_ref().map(hold),
        paused_for: deployment.paused.is_some().then(|| deployment.paused_for.name().to_owned()),
        resumes_at: deployment.resumes_at.map(time),
        resumes_in_seconds: deployment.resumes_in_ms.map(|left_ms| left_ms.div_ceil(1_000)),
        budget_used_up_by: budget_used_up_by(tenant, deployment),
        reason: reason(&deployment.status).map(str::to_owned),
        is_final: deployment.status.is_final(),
        rollback_of: match &deployment.cause {
            Cause::Requested | Cause::Retirement { .. } | Cause::Job { .. } => None,
            Cause::Rollback { of, reason } => {
                Some(dto::RollbackOf { id: of.to_string(), reason: reason.name().to_owned() })
            }
        },
        retirement_of: match &deployment.cause {
            Cause::Retirement { of } => Some(of.to_string()),
            Cause::Requested | Cause::Rollback { .. } | Cause::Job { .. } => None,
        },
        stage: deployment.strategy.blue_green().map(|_| deployment.stage.name().to_owned()),
        keeps_until: tenant.kept.get(&deployment.id).map(|until| time(*until)),
        verification: deployment.verification.map(verification),
        way_back: way_back::of_deployment(deployment),
        counts: counts(deployment.counts),
        created_at: time(deployment.created_at),
        created_by: deployment.created_by.as_ref().map(actor),
        deadline: time(deployment.deadline),
        finished_at: deployment.finished_at.map(time),
    }
}

fn budget_used_up_by(tenant: &TenantState, deployment: &Deployment) -> Vec<String> {
    let waits = deployment.paused.is_some() && deployment.paused_for == PauseCause::Budget;
    let by = if waits { tenant.budget_used_up_by(deployment) } else { Vec::new() };
    by.iter().map(ToString::to_string).collect()
}

/// The step that wants a job.
fn job(cause: &Cause) -> Option<dto::JobOf> {
    let Cause::Job { workflow, run, step } = cause else { return None };
    Some(job_of(workflow, *run, step))
}

pub(super) fn job_of(workflow: &Name, run: RunId, step: &Identifier) -> dto::JobOf {
    dto::JobOf { workflow: workflow.to_string(), run: run.to_string(), step: step.to_string() }
}

/// What a deployment brings; what only a job has is called by who wants it, also when it has left memory.
fn brought(tenant: &TenantState, deployment: &Deployment, id: ReleaseId) -> ReleaseRef {
    if let Cause::Job { workflow, step, .. } = &deployment.cause
        && id == own_release(deployment.id)
    {
        return own_ref(id, workflow, step);
    }
    release_ref(tenant, id)
}

/// What only a job has, called by who wants it.
pub(super) fn own_ref(id: ReleaseId, workflow: &Name, step: &Identifier) -> ReleaseRef {
    ReleaseRef { id: id.to_string(), application: workflow.to_string(), version: step.to_string() }
}

pub(super) fn strategy(strategy: &Strategy) -> dto::Strategy {
    match strategy {
        Strategy::AllAtOnce => dto::Strategy::AllAtOnce {},
        Strategy::Rolling(rolling) => dto::Strategy::Rolling(dto::Rolling {
            batch: amount(rolling.batch),
            max_unavailable: rolling.max_unavailable.map(amount),
            minimum_healthy: rolling.minimum_healthy.map(amount),
            pause_seconds: rolling.pause_ms.map(|pause_ms| pause_ms / 1_000),
            order: rolling.order.as_ref().map(order),
        }),
        Strategy::Canary { steps, batch, order: by } => {
            let step = |step: &CanaryStep| dto::CanaryStep {
                percent: step.percent,
                soak_seconds: step.soak_ms.map(|soak_ms| soak_ms / 1_000),
            };
            dto::Strategy::Canary {
                steps: steps.iter().map(step).collect(),
                batch: batch.map(amount),
                order: by.as_ref().map(order),
            }
        }
        Strategy::BlueGreen(how) => dto::Strategy::BlueGreen(dto::BlueGreen {
            warm_up_seconds: how.warm_up_ms.map(|warm_up_ms| warm_up_ms / 1_000),
            confirm: how.confirm,
            batch: how.batch.map(amount),
            keep_seconds: how.keep_ms.map(|keep_ms| keep_ms / 1_000),
            groups: how.groups.as_ref().map(groups),
        }),
    }
}

fn groups(groups: &Groups) -> dto::Groups {
    let colour = |colour| match colour {
        Colour::Blue => dto::Colour::Blue,
        Colour::Green => dto::Colour::Green,
    };
    dto::Groups { label: groups.label.clone(), switch: groups.switch.clone(), live: groups.live.map(colour) }
}

/// So many of some things.
pub(super) fn amount(amount: Amount) -> AmountDto {
    match amount {
        Amount::Count(count) => AmountDto::Count(count),
        Amount::Percent(_) => AmountDto::Share(amount.to_string()),
    }
}

fn order(order: &Order) -> dto::Order {
    let by = match order.by {
        OrderBy::Label => dto::OrderBy::Label,
        OrderBy::Domain => dto::OrderBy::Domain,
        OrderBy::Spread => dto::OrderBy::Spread,
    };
    dto::Order { by, label: order.label.clone() }
}

pub(super) const fn on_failure(on_failure: OnFailure) -> dto::OnFailure {
    match on_failure {
        OnFailure::Rollback => dto::OnFailure::Rollback,
        OnFailure::Stop => dto::OnFailure::Stop,
        OnFailure::Ask => dto::OnFailure::Ask,
    }
}

/// A deployment of this tenant with each target's part.
pub(crate) fn deployment_detail(tenant: &TenantState, deployment: &Deployment) -> dto::DeploymentDetail {
    let parts = deployment.order.iter().filter_map(|id| deployment.targets.get(id));
    dto::DeploymentDetail {
        deployment: self::deployment(tenant, deployment),
        targets: parts.map(|part| target(tenant, deployment, part)).collect(),
        rollbacks: rollbacks(tenant, deployment),
        left_out: deployment.left.iter().map(|it| left(tenant, it)).collect(),
    }
}

/// A target that a rollback leaves as it is, and what could be done about it.
pub(super) fn left(tenant: &TenantState, left: &LeftOut) -> dto::LeftTarget {
    let name = |release: &ReleaseId| {
        let release = release_ref(tenant, *release);
        format!("{}:{}", release.application, release.version)
    };
    let reason = match &left.why {
        Why::NoEarlier => "there was no release before; deploy another one".to_owned(),
        Why::Quarantined { task } => {
            format!("nobody knows what became of task {task}; settle it, then roll back again")
        }
        Why::Revoked { agent } => format!("its agent {} was revoked", agent_named(tenant, *agent).name),
        Why::NotFilledIn { release } => {
            format!("a step of {} cannot be filled in there any more; deploy another release", name(release))
        }
        Why::Blocked { release } => format!("{} is blocked; deploy another release", name(release)),
        Why::Overtaken { by } => format!("deployment {by} has come there since; roll that one back"),
        Why::Busy { by } => format!("deployment {by} works there; roll back again after its end"),
        Why::Unchanged { by: Some(by) } => {
            format!("the same release was there before; roll back deployment {by}, which brought it")
        }
        Why::Unchanged { by: None } => "the same release was there before; deploy another one".to_owned(),
        Why::Back { by } => format!("deployment {by} has brought back what was there before"),
        Why::Skipped => "somebody wants it left alone".to_owned(),
        Why::NotChosen => "it is not among the chosen targets".to_owned(),
    };
    dto::LeftTarget {
        target: target_named(tenant, left.target),
        why: left.why.name().to_owned(),
        reason,
        deployment: match &left.why {
            Why::Overtaken { by } | Why::Busy { by } | Why::Back { by } => Some(by.to_string()),
            Why::Unchanged { by } => by.map(|by| by.to_string()),
            Why::NoEarlier
            | Why::Quarantined { .. }
            | Why::Revoked { .. }
            | Why::NotFilledIn { .. }
            | Why::Blocked { .. }
            | Why::Skipped
            | Why::NotChosen => None,
        },
        task: if let Why::Quarantined { task } = &left.why { Some(task.to_string()) } else { None },
    }
}

/// The deployments that take this one back, oldest first.
///
/// There is no index of them, so all deployments are looked through; but only a deployment that has ended can be taken
/// back, so that those who watch one on its way do not pay for it.
fn rollbacks(tenant: &TenantState, deployment: &Deployment) -> Vec<String> {
    if !deployment.status.is_final() {
        return Vec::new();
    }
    let takes_back = |it: &Deployment| match &it.cause {
        Cause::Requested | Cause::Retirement { .. } | Cause::Job { .. } => false,
        Cause::Rollback { of, reason: _ } => *of == deployment.id,
    };
    let found = tenant.deployments.values().filter(|it| takes_back(it));
    let mut found: Vec<(Timestamp, DeploymentId)> = found.map(|it| (it.created_at, it.id)).collect();
    found.sort_unstable();
    found.into_iter().map(|(_, id)| id.to_string()).collect()
}

fn reason(status: &Status) -> Option<&str> {
    match status {
        Status::Running | Status::Succeeded => None,
        Status::Halting { reason }
        | Status::Cancelling { reason }
        | Status::Failed { reason }
        | Status::Cancelled { reason } => Some(reason),
    }
}

fn counts(counts: Counts) -> dto::Counts {
    dto::Counts {
        total: counts.total().into(),
        waiting: counts.waiting.into(),
        active: counts.active.into(),
        ready: counts.ready.into(),
        succeeded: counts.succeeded.into(),
        failed: counts.failed.into(),
        skipped: counts.skipped.into(),
        abandoned: counts.abandoned.into(),
    }
}

fn target(tenant: &TenantState, deployment: &Deployment, part: &TargetRollout) -> dto::DeploymentTarget {
    let Got { step, task, at, reason } = got(&part.progress);
    dto::DeploymentTarget {
        target: target_named(tenant, part.target),
        agent: agent_named(tenant, part.agent),
        release: brought(tenant, deployment, part.release),
        previous: part.previous.map(|id| release_ref(tenant, id)),
        progress: part.progress.name().to_owned(),
        colour: part.colour().map(|colour| colour.name().to_owned()),
        part: deployment.strategy.groups().map(|_| Part::of(&part.legs).name().to_owned()),
        step: step.and_then(|step| position(tenant, part, step)),
        task: task.map(|task| task.to_string()),
        at: at.map(time),
        reason: reason
            .map(str::to_owned)
            .or_else(|| held_up(tenant, &part.progress))
            .or_else(|| left_behind(tenant, deployment, part))
            .or_else(|| settled(tenant, part)),
        way_back: way_back::of_target(part),
    }
}

/// Why a target that is worked on does not get on, if it does not: a person should see it without opening the task.
fn held_up(tenant: &TenantState, progress: &Progress) -> Option<String> {
    let task = tenant.tasks.get(&progress.task()?)?;
    match &task.state {
        TaskState::Queued => {
            let target = tenant.targets.get(&task.target).filter(|_| !tenant.goes_on_with(task.id));
            let drained = target.and_then(|target| tenant.draining(target));
            Some(drained.map_or_else(
                || "waits for its agent".to_owned(),
                |(agent, hold)| format!("waits for its agent {agent}, which is draining: {}", hold.reason),
            ))
        }
        TaskState::Unknown { .. } => unknown(task),
        TaskState::Dispatched { .. }
        | TaskState::Accepted { .. }
        | TaskState::Running { .. }
        | TaskState::Succeeded(_)
        | TaskState::Failed(_)
        | TaskState::TimedOut(_)
        | TaskState::Cancelled(_)
        | TaskState::Interrupted(_) => None,
    }
}

/// Why a target is quarantined that the deployment has left behind, if it is.
fn left_behind(tenant: &TenantState, deployment: &Deployment, part: &TargetRollout) -> Option<String> {
    let task = tenant.tasks.get(&tenant.targets.get(&part.target)?.blocked_by?)?;
    let why = unknown(task)?;
    let is_ours = task.deployment == deployment.id && matches!(part.progress, Progress::Abandoned { .. });
    is_ours.then(|| format!("quarantined: {why}"))
}

/// What was not known of a step, and a look at the host has shown.
fn settled(tenant: &TenantState, part: &TargetRollout) -> Option<String> {
    let task = tenant.tasks.get(&part.settled?)?;
    let found = task.settled_by_probe()?.words();
    Some(format!("step {} was settled by a look at the host: {found}", task.step))
}

/// What a target's progress says beside its name.
#[derive(Default)]
struct Got<'a> {
    step: Option<u16>,
    task: Option<TaskId>,
    at: Option<Timestamp>,
    reason: Option<&'a str>,
}

fn got(progress: &Progress) -> Got<'_> {
    match progress {
        Progress::Waiting | Progress::Skipped { hold: None } => Got::default(),
        Progress::Skipped { hold: Some(hold) } => {
            Got { at: Some(hold.since), reason: Some(&hold.reason), ..Got::default() }
        }
        Progress::Active { generation: _, step, task, since } => {
            Got { step: Some(*step), task: Some(*task), at: Some(*since), reason: None }
        }
        Progress::Succeeded { at } | Progress::Abandoned { at } | Progress::Ready { at, leg: _ } => {
            Got { at: Some(*at), ..Got::default() }
        }
        Progress::Failed { at, task, reason } => {
            Got { step: None, task: Some(*task), at: Some(*at), reason: Some(reason) }
        }
    }
}

fn position(tenant: &TenantState, part: &TargetRollout, step: u16) -> Option<dto::StepPosition> {
    Some(dto::StepPosition {
        name: tenant.step_on(part, step)?.to_string(),
        number: u32::from(step) + 1,
        of: tenant.steps_on(part).into(),
    })
}
