//! From the domain's types to the shapes of the API.

use serde_json::Value;
use stella_api_types::Named;
use stella_api_types::agent::{Agent as AgentDto, EnrolmentToken as EnrolmentTokenDto, Revoked};
use stella_api_types::deployment::{
    Counts, Deployment as DeploymentDto, DeploymentDetail, DeploymentTarget, OnFailure as OnFailureDto,
    RollbackOf, StepPosition, Strategy as StrategyDto,
};
use stella_api_types::environment::Environment as EnvironmentDto;
use stella_api_types::event::{Actor as ActorDto, Event as EventDto};
use stella_api_types::release as dto;
use stella_api_types::target::Target as TargetDto;
use stella_api_types::task::Task as TaskDto;
use stella_api_types::tenant::Tenant as TenantDto;
use stella_api_types::time::rfc3339;
use stella_domain::agent::{Agent, Connectivity, EnrolmentToken};
use stella_domain::deployment::{Cause, Deployment, OnFailure, Progress, Status, Strategy, TargetRollout};
use stella_domain::environment::Environment;
use stella_domain::release::{Release, Step, StepAction};
use stella_domain::target::Target;
use stella_domain::task::{Ended, Task, TaskState};
use stella_domain::tenant::TenantState;
use stella_engine::CommittedEvent;
use stella_protocol::id::{AgentId, EnvironmentId, ReleaseId, TargetId};
use stella_protocol::spec::UnitAction;

pub(crate) fn tenant(tenant: &TenantState) -> TenantDto {
    TenantDto {
        id: tenant.id.to_string(),
        name: tenant.name.to_string(),
        created_at: rfc3339(tenant.created_at),
    }
}

pub(crate) fn environment(environment: &Environment) -> EnvironmentDto {
    EnvironmentDto {
        id: environment.id.to_string(),
        name: environment.name.to_string(),
        order: environment.order,
        created_at: rfc3339(environment.created_at),
    }
}

/// A thing that was removed keeps its id as its name.
fn named(id: String, name: Option<String>) -> Named {
    Named { name: name.unwrap_or_else(|| id.clone()), id }
}

fn environment_name(tenant: &TenantState, id: EnvironmentId) -> Named {
    named(id.to_string(), tenant.environments.get(&id).map(|it| it.name.to_string()))
}

fn agent_name(tenant: &TenantState, id: AgentId) -> Named {
    named(id.to_string(), tenant.agents.get(&id).map(|it| it.name.to_string()))
}

fn target_name(tenant: &TenantState, id: TargetId) -> Named {
    named(id.to_string(), tenant.targets.get(&id).map(|it| it.name.to_string()))
}

fn release_ref(tenant: &TenantState, id: ReleaseId) -> dto::ReleaseRef {
    let release = tenant.releases.get(&id);
    dto::ReleaseRef {
        id: id.to_string(),
        application: release.map(|it| it.application.to_string()).unwrap_or_default(),
        version: release.map(|it| it.version.to_string()).unwrap_or_default(),
    }
}

pub(crate) fn target(tenant: &TenantState, target: &Target) -> TargetDto {
    TargetDto {
        id: target.id.to_string(),
        name: target.name.to_string(),
        environment: environment_name(tenant, target.environment),
        agent: agent_name(tenant, target.agent),
        kind: target.kind.to_string(),
        slot: target.slot.as_ref().map(ToString::to_string),
        labels: target.labels.clone(),
        variables: target.variables.clone(),
        generation: target.generation.0,
        current: target.current.map(|release| release_ref(tenant, release)),
        active_deployment: target.active.map(|id| id.to_string()),
        created_at: rfc3339(target.created_at),
    }
}

pub(crate) fn agent(tenant: &TenantState, agent: &Agent) -> AgentDto {
    let (connectivity, since) = match &agent.connectivity {
        Connectivity::Never => ("never", None),
        Connectivity::Online { since } => ("online", Some(since)),
        Connectivity::Suspect { since } => ("suspect", Some(since)),
        Connectivity::Offline { since } => ("offline", Some(since)),
    };
    AgentDto {
        id: agent.id.to_string(),
        name: agent.name.to_string(),
        connectivity: connectivity.to_owned(),
        since: since.map(|at| rfc3339(*at)),
        hostname: agent.hostname.clone(),
        version: Some(agent.version.clone()).filter(|version| !version.is_empty()),
        labels: agent.labels.clone(),
        session: agent.session.0,
        open_tasks: tenant.unsettled.get(&agent.id).map_or(0, |tasks| tasks.len() as u64),
        key_fingerprint: agent.key_fingerprint.to_string(),
        enrolled_at: rfc3339(agent.enrolled_at),
        revoked: agent.revoked.as_ref().map(|it| Revoked { at: rfc3339(it.at), reason: it.reason.clone() }),
    }
}

pub(crate) fn enrolment_token(token: &EnrolmentToken) -> EnrolmentTokenDto {
    EnrolmentTokenDto {
        id: token.id.to_string(),
        agent_name: token.agent_name.as_ref().map(ToString::to_string),
        labels: token.labels.clone(),
        uses_max: token.uses_max,
        agents: token.used_by.values().map(ToString::to_string).collect(),
        expires_at: rfc3339(token.expires_at),
        created_at: rfc3339(token.created_at),
    }
}

pub(crate) fn release(release: &Release) -> dto::Release {
    let component = |it: &stella_domain::release::Component| dto::Component {
        name: it.name.to_string(),
        digest: it.digest.to_string(),
        size_bytes: it.size_bytes,
    };
    dto::Release {
        id: release.id.to_string(),
        application: release.application.to_string(),
        version: release.version.to_string(),
        components: release.components.iter().map(component).collect(),
        steps: release.steps.iter().map(step).collect(),
        labels: release.labels.clone(),
        created_at: rfc3339(release.created_at),
    }
}

fn step(step: &Step) -> dto::Step {
    dto::Step { name: step.name.to_string(), timeout_ms: step.timeout_ms, action: action(&step.action) }
}

fn action(action: &StepAction) -> dto::StepAction {
    match action.clone() {
        StepAction::Artifact { component, keep_releases } => {
            dto::StepAction::Artifact { component: component.to_string(), keep_releases }
        }
        StepAction::Command { argv, environment, working_directory, user } => {
            dto::StepAction::Command { argv, environment, working_directory, user }
        }
        StepAction::CheckHttp { url, status, interval_ms, successes } => {
            dto::StepAction::CheckHttp { url, status, interval_ms, successes }
        }
        StepAction::CheckTcp { address, interval_ms, successes } => {
            dto::StepAction::CheckTcp { address, interval_ms, successes }
        }
        StepAction::CheckCommand { argv, interval_ms, successes } => {
            dto::StepAction::CheckCommand { argv, interval_ms, successes }
        }
        StepAction::Systemd { unit, action } => {
            let action = match action {
                UnitAction::Start => dto::UnitAction::Start,
                UnitAction::Stop => dto::UnitAction::Stop,
                UnitAction::Restart => dto::UnitAction::Restart,
                UnitAction::ReloadOrRestart => dto::UnitAction::ReloadOrRestart,
            };
            dto::StepAction::Systemd { unit, action }
        }
    }
}

pub(crate) fn deployment(tenant: &TenantState, deployment: &Deployment) -> DeploymentDto {
    let reason = match &deployment.status {
        Status::Halting { reason }
        | Status::Cancelling { reason }
        | Status::Failed { reason }
        | Status::Cancelled { reason } => Some(reason.clone()),
        Status::Running | Status::Succeeded => None,
    };
    let rollback_of = match &deployment.cause {
        Cause::Requested => None,
        Cause::Rollback { of, reason } => {
            Some(RollbackOf { id: of.to_string(), reason: reason.name().to_owned() })
        }
    };
    let counts = deployment.counts;
    DeploymentDto {
        id: deployment.id.to_string(),
        environment: environment_name(tenant, deployment.environment),
        release: release_ref(tenant, deployment.release),
        strategy: match deployment.strategy {
            Strategy::AllAtOnce => StrategyDto::AllAtOnce {},
            Strategy::Rolling { batch } => StrategyDto::Rolling { batch },
        },
        on_failure: match deployment.on_failure {
            OnFailure::Rollback => OnFailureDto::Rollback,
            OnFailure::Stop => OnFailureDto::Stop,
        },
        status: deployment.status.name().to_owned(),
        reason,
        is_final: deployment.status.is_final(),
        rollback_of,
        counts: Counts {
            total: counts.total().into(),
            waiting: counts.waiting.into(),
            active: counts.active.into(),
            succeeded: counts.succeeded.into(),
            failed: counts.failed.into(),
            skipped: counts.skipped.into(),
            abandoned: counts.abandoned.into(),
        },
        created_at: rfc3339(deployment.created_at),
        deadline: rfc3339(deployment.deadline),
        finished_at: deployment.finished_at.map(rfc3339),
    }
}

pub(crate) fn deployment_detail(tenant: &TenantState, of: &Deployment) -> DeploymentDetail {
    let in_order = of.order.iter().filter_map(|id| of.targets.get(id));
    // A deployment's rollbacks are newer than it: ids are ordered by time, but a derived id is not, so all are looked at.
    let takes_back =
        |it: &Deployment| matches!(&it.cause, Cause::Rollback { of: taken_back, .. } if *taken_back == of.id);
    let rollbacks = tenant.deployments.values().filter(|it| takes_back(it)).map(|it| it.id.to_string());
    DeploymentDetail {
        deployment: deployment(tenant, of),
        targets: in_order.map(|rollout| deployment_target(tenant, rollout)).collect(),
        rollbacks: rollbacks.collect(),
    }
}

fn deployment_target(tenant: &TenantState, rollout: &TargetRollout) -> DeploymentTarget {
    let (mut step, mut task, mut at, mut reason) = (None, None, None, None);
    match &rollout.progress {
        Progress::Waiting | Progress::Skipped => {}
        Progress::Active { step: number, task: current, since, .. } => {
            step = step_position(tenant, rollout.release, *number);
            task = Some(*current);
            at = Some(*since);
            reason = tenant.tasks.get(current).and_then(|task| match &task.state {
                TaskState::Unknown { reason, .. } => Some(format!("task {current} is unknown: {reason}")),
                TaskState::Queued => Some("waits for its agent".to_owned()),
                _ => None,
            });
        }
        Progress::Failed { at: when, task: failed, reason: why } => {
            task = Some(*failed);
            at = Some(*when);
            reason = Some(why.clone());
        }
        Progress::Succeeded { at: when } | Progress::Abandoned { at: when } => at = Some(*when),
    }
    DeploymentTarget {
        target: target_name(tenant, rollout.target),
        agent: agent_name(tenant, rollout.agent),
        release: release_ref(tenant, rollout.release),
        previous: rollout.previous.map(|release| release_ref(tenant, release)),
        progress: rollout.progress.name().to_owned(),
        step,
        task: task.map(|id| id.to_string()),
        at: at.map(rfc3339),
        reason,
    }
}

fn step_position(tenant: &TenantState, release: ReleaseId, number: u16) -> Option<StepPosition> {
    let steps = &tenant.releases.get(&release)?.steps;
    let name = steps.get(usize::from(number))?.name.to_string();
    Some(StepPosition {
        name,
        number: u32::from(number) + 1,
        of: u32::try_from(steps.len()).unwrap_or(u32::MAX),
    })
}

pub(crate) fn task(tenant: &TenantState, task: &Task) -> TaskDto {
    let ended: Option<&Ended> = match &task.state {
        TaskState::Succeeded(ended)
        | TaskState::Failed(ended)
        | TaskState::TimedOut(ended)
        | TaskState::Cancelled(ended)
        | TaskState::Interrupted(ended) => Some(ended),
        TaskState::Queued
        | TaskState::Dispatched { .. }
        | TaskState::Accepted { .. }
        | TaskState::Running { .. }
        | TaskState::Unknown { .. } => None,
    };
    let (mut reason, mut started_at) =
        (ended.map(|ended| ended.reason.clone()), ended.and_then(|ended| ended.started_at));
    if let TaskState::Unknown { reason: why, .. } = &task.state {
        reason = Some(why.clone());
    }
    if let TaskState::Running { started_at: at } = &task.state {
        started_at = Some(*at);
    }
    TaskDto {
        id: task.id.to_string(),
        deployment: task.deployment.to_string(),
        target: target_name(tenant, task.target),
        agent: agent_name(tenant, task.agent),
        step: task.step.to_string(),
        kind: task.spec.kind().to_owned(),
        attempt: task.attempt.0,
        generation: task.generation.0,
        state: task.state.name().to_owned(),
        is_final: task.state.is_final(),
        reason: reason.filter(|text| !text.is_empty()),
        exit_code: ended.and_then(|ended| ended.exit_code),
        cancel_requested: task.cancel_requested,
        timeout_ms: task.spec.timeout_ms(),
        queued_at: rfc3339(task.queued_at),
        started_at: started_at.map(rfc3339),
        finished_at: ended.map(|ended| rfc3339(ended.at)),
        trace_id: task.trace.is_valid().then(|| format!("{:032x}", task.trace.trace_id)),
    }
}

pub(crate) fn event(committed: &CommittedEvent) -> EventDto {
    let event = &committed.event;
    let object = |value: Value| if let Value::Object(map) = value { map } else { serde_json::Map::new() };
    // Facts and actors have string keys and no failing serializer; what is not an object would be a defect of theirs.
    let mut data = object(serde_json::to_value(&event.fact).unwrap_or_default());
    data.remove("type");
    // Of no use to readers, and nobody should get used to seeing it.
    data.remove("secret_hash");
    let mut actor = object(serde_json::to_value(&event.actor).unwrap_or_default());
    let mut text = |key: &str| actor.remove(key).and_then(|value| value.as_str().map(str::to_owned));
    EventDto {
        position: committed.position.0,
        kind: event.fact.name().to_owned(),
        at: rfc3339(event.at),
        actor: ActorDto { kind: text("type").unwrap_or_default(), id: text("id") },
        trace_id: event.trace.is_valid().then(|| format!("{:032x}", event.trace.trace_id)),
        data,
    }
}
