//! The log events of the operations overview, written from durable events: what is in the log did happen. What ends is
//! measured on the way.

use stella_domain::command::Actor;
use stella_domain::deployment::Cause;
use stella_domain::event::{Event, Fact, StreamId};
use stella_domain::gate::Outcome;
use stella_domain::hold::PauseCause;
use stella_domain::name::Identifier;
use stella_domain::tenant::TenantState;
use stella_engine::Committed;
use stella_protocol::digest::Digest;
use stella_protocol::id::{DeploymentId, PromotionId, RunId};
use stella_protocol::trace::TraceContext;
use stella_readers::live::Live;
use tokio_util::sync::CancellationToken;

use crate::measured::Measurements;

#[cfg(test)]
mod tests;

/// Follows the journal until `until` is cancelled; what was committed before that is written.
pub(crate) async fn follow(mut journal: Live, measurements: Measurements, until: CancellationToken) {
    while let Some(commit) = journal.next(&until).await {
        write(&commit, &measurements);
    }
}

fn write(commit: &Committed, measurements: &Measurements) {
    for committed in &commit.events {
        let StreamId::Tenant(id) = committed.stream else { continue };
        if let Some(tenant) = commit.state.tenants.get(&id) {
            write_event(tenant, &committed.event);
            measurements.take(tenant, &committed.event);
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "only what an operator looks for is logged")]
fn write_event(tenant: &TenantState, event: &Event) {
    let span = span_of(tenant, event);
    let _entered = span.enter();
    match &event.fact {
        Fact::DeploymentCreated { id, environment, release, cause, .. } => {
            if let Cause::Rollback { of, reason } = cause {
                tracing::warn!(deploymentJobId = %id, rollbackOf = %of, reason = reason.name(), event = "rollback.initiated", "Rollback initiated");
            }
            tracing::info!(deploymentJobId = %id, releaseId = %release, environmentId = %environment, event = "deployment.started", "Deployment started");
        }
        Fact::DeploymentSucceeded { id, .. } => ended(tenant, *id, None),
        Fact::DeploymentFailed { id, reason, .. } => ended(tenant, *id, Some(reason)),
        Fact::DeploymentCancelled { id, reason } => {
            tracing::warn!(deploymentJobId = %id, reason, event = "deployment.cancelled", "Deployment cancelled");
        }
        Fact::PromotionRequested { id, rule: Some(rule), .. } => {
            let (environment, release) = of_promotion(tenant, *id);
            tracing::info!(promotionId = %id, releaseId = release, environmentId = environment, needed = rule.needed_in_all(), event = "promotion.requested", "Promotion requested");
        }
        Fact::ApprovalGranted { id, plan, reason, .. } => approved(tenant, event, *id, (plan, reason)),
        Fact::StepApproved { run, step, reason } => step_approved(tenant, event, (*run, step), reason),
        Fact::StepRejected { run, step, reason } => {
            let by = account(&event.actor);
            tracing::info!(runId = %run, %step, by, reason, event = "approval.denied", "Approval denied");
        }
        Fact::PromotionRejected { id, objection, reason } => {
            let (environment, release) = of_promotion(tenant, *id);
            let (by, objection) = (account(&event.actor), objection.name());
            tracing::info!(promotionId = %id, releaseId = release, environmentId = environment, by, objection, reason, event = "approval.denied", "Approval denied");
        }
        Fact::PromotionExpired { id } => {
            let (environment, release) = of_promotion(tenant, *id);
            tracing::warn!(promotionId = %id, releaseId = release, environmentId = environment, event = "promotion.expired", "Promotion expired");
        }
        Fact::PromotionAskedAgain { id, expires_at } => {
            let (environment, release) = of_promotion(tenant, *id);
            let expires = stella_api_types::time::rfc3339(*expires_at);
            tracing::warn!(promotionId = %id, releaseId = release, environmentId = environment, expires, event = "promotion.asked_again", "Promotion asked for again");
        }
        Fact::PromotionInvalidated { id, reason } => {
            let (environment, release) = of_promotion(tenant, *id);
            tracing::warn!(promotionId = %id, releaseId = release, environmentId = environment, reason, event = "promotion.invalidated", "Promotion invalidated");
        }
        Fact::GateEvaluated { .. } | Fact::StepGateEvaluated { .. } | Fact::GateOverridden { .. } => {
            write_gate(tenant, event);
        }
        Fact::WayBackAnswered { .. }
        | Fact::WayBackUnanswered { .. }
        | Fact::WayBackWaived { .. }
        | Fact::DeploymentPaused { .. } => write_way_back(event),
        Fact::EnvironmentWentSilent { id, silent, agents, .. } => {
            tracing::warn!(environmentId = %id, silent, agents, event = "environment.silent", "Environment silent");
        }
        Fact::EnvironmentHeardAgain { id } => {
            tracing::info!(environmentId = %id, event = "environment.heard", "Environment heard")
        }
        Fact::TaskBecameUnknown { key, reason } => {
            tracing::warn!(taskId = %key.task, reason, event = "task.unknown", "Task unknown")
        }
        Fact::TaskHandedBack { key, .. } => {
            let attempt = key.attempt.0;
            tracing::info!(taskId = %key.task, attempt, event = "task.handed_back", "Task handed back");
        }
        Fact::TaskProbed { key, answer } if answer.settles() => {
            let (verdict, found) = (answer.name(), answer.words());
            tracing::info!(taskId = %key.task, verdict, found, event = "task.settled", "Task settled");
        }
        _ => write_agent(event),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "only what an operator looks for is logged")]
fn write_agent(event: &Event) {
    match &event.fact {
        Fact::AgentConnected { agent, session, .. } => {
            tracing::info!(agentId = %agent, session = session.0, event = "agent.connected", "Agent connected");
        }
        Fact::AgentDisconnected { agent, session, reason } => {
            tracing::warn!(agentId = %agent, session = session.0, reason, event = "agent.disconnected", "Agent disconnected");
        }
        Fact::AgentOffline { agent } => {
            tracing::warn!(agentId = %agent, event = "agent.offline", "Agent offline")
        }
        Fact::AgentRevoked { agent, reason } => {
            tracing::warn!(agentId = %agent, reason, event = "agent.revoked", "Agent revoked")
        }
        Fact::AgentEnrolled { agent, name, .. } => {
            tracing::info!(agentId = %agent, %name, event = "agent.enrolled", "Agent enrolled")
        }
        Fact::AgentDraining { agent, reason } => {
            let by = account(&event.actor);
            tracing::info!(agentId = %agent, by, reason, event = "agent.draining", "Agent draining");
        }
        Fact::AgentUndrained { agent } => {
            let by = account(&event.actor);
            tracing::info!(agentId = %agent, by, event = "agent.undrained", "Agent undrained");
        }
        _ => {}
    }
}

/// What a line about an event has beside what it tells: whose it is, and what it belongs to.
fn span_of(tenant: &TenantState, event: &Event) -> tracing::Span {
    // What time or an agent has brought about belongs to whoever asked for it.
    let began = began_with(tenant, &event.fact);
    let trace = Some(&event.trace).filter(|it| it.is_valid()).or(began);
    let trace = trace.map(TraceContext::parent).filter(|it| it.is_valid());
    let correlation = event.trace.correlation.as_str().or_else(|| began?.correlation.as_str());
    // It is there at every level that the log may have.
    tracing::error_span!(
        "event",
        tenantId = %tenant.id,
        traceId = trace.map(|it| format!("{:032x}", it.trace_id)),
        spanId = trace.map(|it| format!("{:016x}", it.span_id)),
        correlationId = correlation,
    )
}

/// In which trace it was asked for what an event is about.
#[expect(clippy::wildcard_enum_match_arm, reason = "nobody asks for what happens to agents and environments")]
fn began_with<'t>(tenant: &'t TenantState, fact: &Fact) -> Option<&'t TraceContext> {
    let of_deployment = |id: &DeploymentId| tenant.deployments.get(id).map(|it| &it.trace);
    let of_promotion = |id: &PromotionId| tenant.promotions.get(id).map(|it| &it.trace);
    match fact {
        Fact::DeploymentCreated { id, .. }
        | Fact::DeploymentSucceeded { id, .. }
        | Fact::DeploymentFailed { id, .. }
        | Fact::DeploymentCancelled { id, .. }
        | Fact::DeploymentPaused { id, .. }
        | Fact::WayBackAnswered { deployment: id, .. }
        | Fact::WayBackUnanswered { deployment: id }
        | Fact::WayBackWaived { deployment: id, .. } => of_deployment(id),
        Fact::PromotionExpired { id }
        | Fact::PromotionRejected { id, .. }
        | Fact::PromotionAskedAgain { id, .. }
        | Fact::PromotionInvalidated { id, .. }
        | Fact::GateEvaluated { promotion: id, .. } => of_promotion(id),
        Fact::StepApproved { run, .. }
        | Fact::StepRejected { run, .. }
        | Fact::StepGateEvaluated { run, .. } => tenant.runs.get(run).map(|it| &it.trace),
        Fact::TaskBecameUnknown { key, .. }
        | Fact::TaskHandedBack { key, .. }
        | Fact::TaskProbed { key, .. } => {
            tenant.tasks.get(&key.task).and_then(|it| of_deployment(&it.deployment))
        }
        _ => None,
    }
}

/// What gates say, unless they let through, and who does not want to hear it.
#[expect(clippy::wildcard_enum_match_arm, reason = "the caller sorts them")]
fn write_gate(tenant: &TenantState, event: &Event) {
    match &event.fact {
        Fact::GateEvaluated { promotion, gate, kind, outcome, reason, .. } if *outcome != Outcome::Passed => {
            let (environment, release) = of_promotion(tenant, *promotion);
            let (name, words) = failed_gate(kind);
            let outcome = outcome.name();
            tracing::warn!(promotionId = %promotion, releaseId = release, environmentId = environment, %gate, gateType = kind, outcome, reason, event = name, "{words}");
        }
        Fact::StepGateEvaluated { run, step, kind, outcome, reason, .. } if *outcome != Outcome::Passed => {
            let (name, words) = failed_gate(kind);
            let outcome = outcome.name();
            tracing::warn!(runId = %run, %step, gateType = kind, outcome, reason, event = name, "{words}");
        }
        Fact::GateOverridden { promotion, gate, reason, .. } => {
            let (environment, release) = of_promotion(tenant, *promotion);
            let by = account(&event.actor);
            tracing::warn!(promotionId = %promotion, releaseId = release, environmentId = environment, %gate, by, reason, event = "gate.overridden", "Gate overridden");
        }
        _ => {}
    }
}

/// What a gate that does not let through is called, and in words.
fn failed_gate(kind: &str) -> (&'static str, &'static str) {
    if kind == "security" {
        ("security.gate.failed", "Security gate failed")
    } else {
        ("gate.failed", "Gate failed")
    }
}

/// Of the proof that a deployment could go back, what says that it could not.
#[expect(clippy::wildcard_enum_match_arm, reason = "other pauses are somebody's wish, or end by themselves")]
fn write_way_back(event: &Event) {
    match &event.fact {
        Fact::WayBackAnswered { deployment, target, answer } => {
            if let Some(reason) = answer.reason() {
                let verdict = answer.name();
                tracing::warn!(deploymentJobId = %deployment, targetId = %target, verdict, reason, event = "way_back.doubted", "Way back doubted");
            }
        }
        Fact::WayBackUnanswered { deployment } => {
            tracing::warn!(deploymentJobId = %deployment, event = "way_back.unanswered", "Way back unanswered");
        }
        Fact::WayBackWaived { deployment, reason } => {
            let by = account(&event.actor);
            tracing::warn!(deploymentJobId = %deployment, by, reason, event = "way_back.waived", "Way back waived");
        }
        Fact::DeploymentPaused { id, reason, cause: PauseCause::WayBack, .. } => {
            tracing::warn!(deploymentJobId = %id, reason, event = "way_back.held", "Way back held");
        }
        _ => {}
    }
}

/// The approval that lets a promotion through grants it; those before it are votes.
fn approved(tenant: &TenantState, event: &Event, id: PromotionId, (plan, reason): (&Digest, &str)) {
    let (environment, release) = of_promotion(tenant, id);
    let by = account(&event.actor);
    let is_last = tenant.promotions.get(&id).is_some_and(|it| it.is_let_through_by(event));
    let (name, words) =
        if is_last { ("approval.granted", "Approval granted") } else { ("approval.voted", "Approval voted") };
    tracing::info!(promotionId = %id, releaseId = release, environmentId = environment, by, %plan, reason, event = name, "{words}");
}

/// The same of a step of a workflow.
fn step_approved(tenant: &TenantState, event: &Event, (run, step): (RunId, &Identifier), reason: &str) {
    let by = account(&event.actor);
    let found = tenant.runs.get(&run).and_then(|run| run.steps.get(step));
    let is_last = found.is_some_and(|it| it.is_let_through_by(event));
    let (name, words) =
        if is_last { ("approval.granted", "Approval granted") } else { ("approval.voted", "Approval voted") };
    tracing::info!(runId = %run, %step, by, reason, event = name, "{words}");
}

/// Where a promotion leads, and what it brings there.
fn of_promotion(tenant: &TenantState, id: PromotionId) -> (Option<String>, Option<String>) {
    let wanted = tenant.promotions.get(&id).map(|it| &it.wanted);
    (wanted.map(|it| it.environment.to_string()), wanted.map(|it| it.release.to_string()))
}

/// Whose word it was: decisions are those of accounts.
fn account(actor: &Actor) -> Option<&str> {
    match actor {
        Actor::ApiToken { .. } | Actor::Hook { .. } => actor.account().map(|account| account.name.as_str()),
        Actor::System | Actor::Agent { .. } => None,
    }
}

fn ended(tenant: &TenantState, id: DeploymentId, failure: Option<&str>) {
    let deployment = tenant.deployments.get(&id);
    let environment = deployment.map(|it| it.environment.to_string());
    let release = deployment.map(|it| it.release.to_string());
    match failure {
        None => {
            tracing::info!(deploymentJobId = %id, releaseId = release, environmentId = environment, event = "deployment.completed", "Deployment completed")
        }
        Some(reason) => {
            tracing::error!(deploymentJobId = %id, releaseId = release, environmentId = environment, reason, event = "deployment.failed", "Deployment failed");
        }
    }
}
