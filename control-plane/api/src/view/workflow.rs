//! Workflows, and runs of them.

use std::sync::Arc;

use stella_api_types::promotion::Approval;
use stella_api_types::workflow as dto;
use stella_domain::decide::{PlannedRun, PlannedStep};
use stella_domain::gate::Check;
use stella_domain::name::Identifier;
use stella_domain::run::{AskedGate, Run, RunStatus, StepRun, StepState, Work};
use stella_domain::tenant::TenantState;
use stella_domain::workflow::{Step, Version, Workflow};
use stella_protocol::id::PromotionId;
use stella_protocol::time::Timestamp;

use crate::outside::Outside;

use super::event::actor;
use super::{hold, named, release, time};

/// A workflow at a version.
pub(crate) fn workflow(
    workflow: &Workflow,
    number: u32,
    version: &Version,
    warnings: Vec<String>,
) -> dto::Workflow {
    dto::Workflow {
        name: workflow.name.to_string(),
        description: version.template.description.clone(),
        version: number,
        newest: workflow.newest(),
        applied_at: time(version.applied_at),
        applied_by: actor(&version.applied_by),
        removed: workflow.removed.as_ref().map(hold),
        template: serde_json::json!(version.template),
        warnings,
    }
}

/// A run of this tenant.
pub(crate) fn run(tenant: &TenantState, run: &Run) -> dto::Run {
    let reason = match &run.status {
        RunStatus::Running | RunStatus::Succeeded => None,
        RunStatus::Failing { reason } | RunStatus::Compensating { reason } | RunStatus::Failed { reason } => {
            Some(reason.clone())
        }
        RunStatus::Cancelling { hold } | RunStatus::Cancelled { hold } => Some(hold.reason.clone()),
    };
    let planned = tenant.template_of(run).map_or(&[][..], |template| &template.steps);
    dto::Run {
        id: run.id.to_string(),
        workflow: run.workflow.to_string(),
        version: run.version,
        status: run.status.name().to_owned(),
        is_final: run.status.is_final(),
        reason,
        inputs: run.inputs.iter().map(|(name, value)| (name.to_string(), value.clone())).collect(),
        outputs: run.outputs.clone(),
        steps: planned
            .iter()
            .filter_map(|planned| run.steps.get(&planned.id).map(|found| step(tenant, planned, found)))
            .collect(),
        parent: run
            .parent
            .as_ref()
            .map(|(run, step)| dto::ParentStep { run: run.to_string(), step: step.to_string() }),
        started_by: actor(&run.started_by),
        started_at: time(run.started_at),
        finished_at: run.finished_at.map(time),
    }
}

/// What a run of this tenant, which is one of so many, would do.
pub(crate) fn run_plan(
    tenant: &TenantState,
    planned: &PlannedRun,
    outside: Option<(&Outside, usize)>,
    now: Timestamp,
) -> dto::RunPlan {
    let PlannedRun { run, template, steps } = planned;
    dto::RunPlan {
        workflow: run.workflow.to_string(),
        version: run.version,
        inputs: run.inputs.iter().map(|(name, value)| (name.to_string(), value.clone())).collect(),
        steps: template
            .steps
            .iter()
            .zip(steps)
            .map(|(step, does)| {
                let mut planned = planned_step(tenant, step, does, now);
                if let Some((outside, count)) = outside {
                    planned.plan.iter_mut().for_each(|plan| outside.doubt(tenant, count, plan));
                    planned.problem = planned.problem.or_else(|| outside.refusal(&tenant.name, count, step));
                }
                planned
            })
            .collect(),
    }
}

fn planned_step(tenant: &TenantState, step: &Step, does: &PlannedStep, now: Timestamp) -> dto::PlannedStep {
    let (plan, runs, problem) = match does {
        PlannedStep::Nothing => (None, Vec::new(), None),
        PlannedStep::Cannot(rejection) => (None, Vec::new(), Some(rejection.to_string())),
        PlannedStep::Does(does) => {
            let (wanted, planned) = &**does;
            let runs = wanted.job.iter().flat_map(|job| &job.steps).map(release::step).collect();
            // What only this job runs is known to nobody else.
            let mut known = TenantState::clone(tenant);
            let own = wanted.job.as_ref().and_then(|job| job.release(wanted.id, now));
            known.jobs.extend(own.map(|own| (own.id, Arc::new(own))));
            (Some(super::plan(&known, wanted, planned, now)), runs, None)
        }
    };
    dto::PlannedStep {
        id: step.id.to_string(),
        kind: step.kind().to_owned(),
        needs: step.needs.iter().map(Identifier::to_string).collect(),
        compensates: step.compensates.as_ref().map(Identifier::to_string),
        plan,
        runs,
        problem,
    }
}

fn step(tenant: &TenantState, planned: &Step, found: &StepRun) -> dto::Step {
    let reason = match &found.state {
        StepState::BackingOff { reason, .. }
        | StepState::Held { reason, .. }
        | StepState::Failed { reason } => Some(reason.clone()),
        StepState::Waiting
        | StepState::Running { .. }
        | StepState::Succeeded
        | StepState::Skipped
        | StepState::Cancelled => None,
    };
    let work = if let StepState::Running { work, .. } = &found.state { Some(work) } else { None };
    let approval = if let Some(Work::Approval { needed, message, approvals, .. }) = work {
        let approvals = approvals.iter().map(|approval| Approval {
            by: named(approval.by.id, Some(&approval.by.name)),
            at: time(approval.at),
            reason: approval.reason.clone(),
            signature: None,
        });
        Some(dto::StepApproval { message: message.clone(), needed: *needed, approvals: approvals.collect() })
    } else {
        let asked = found.state.asked().filter(|asked| asked.is_manual());
        asked.map(|asked| dto::StepApproval {
            message: asked.message.clone(),
            needed: 1,
            approvals: Vec::new(),
        })
    };
    let asks = matches!(work, Some(Work::Input));
    dto::Step {
        id: planned.id.to_string(),
        kind: planned.kind().to_owned(),
        needs: planned.needs.iter().map(Identifier::to_string).collect(),
        compensates: planned.compensates.as_ref().map(Identifier::to_string),
        state: found.state.name().to_owned(),
        attempts: found.attempts,
        reason,
        due_at: found.state.due().map(time),
        deployment: found.state.deployment().or(found.job).map(|id| id.to_string()),
        promotion: found
            .state
            .deployment()
            .and_then(|id| tenant.promotions.get(&PromotionId(id.0)))
            .filter(|promotion| promotion.is_open())
            .map(|promotion| promotion.status_name().to_owned()),
        runs: found
            .parts
            .iter()
            .map(|child| dto::ChildRun {
                run: child.run.to_string(),
                item: child.item.clone(),
                status: tenant.runs.get(&child.run).map_or("archived", |it| it.status.name()).to_owned(),
            })
            .collect(),
        approval,
        gate: found.state.asked().map(gate),
        asks_for: planned.input.as_ref().filter(|_| asks).map(|inputs| serde_json::json!(inputs)),
        answered_by: found.answered_by.as_ref().map(actor),
        started_at: found.started_at.map(time),
        finished_at: found.finished_at.map(time),
        outputs: found.outputs.clone(),
    }
}

/// A gate that a step waits for.
fn gate(asked: &AskedGate) -> dto::StepGate {
    let (source, query) = match &asked.check {
        Check::Metric { source, query, .. } => (Some(source.to_string()), Some(query.clone())),
        Check::Http { endpoint } => (Some(endpoint.to_string()), None),
        Check::Security(_) | Check::Expression { .. } | Check::Manual | Check::Signature(_) => (None, None),
    };
    dto::StepGate {
        gate: asked.name.as_ref().map(ToString::to_string),
        kind: asked.check.name().to_owned(),
        source,
        query,
        asked_at: time(asked.at),
    }
}
