//! How runs go on: which step is next, what the end of one means, and when a run is over.
//!
//! Whatever happens in a tenant, [`go_on`] looks at the runs that it concerns until nothing follows any more. Each look leaves a run with
//! something under way, or ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};
use stella_protocol::id::{DeploymentId, PromotionId, RunId};

use super::transaction::{Transaction, WORK_MAX};
use super::{deploy_step, deployment, gate_step, outgoing, rollout, run_outputs, sub_run};
use crate::access;
use crate::command::{NewRun, TenantCommand};
use crate::deployment::{Cause, RollbackReason, Status};
use crate::event::Fact;
use crate::gate::ANSWER_MS_MAX;
use crate::ids;
use crate::name::Identifier;
use crate::promotion::EXPIRES_MS_DEFAULT;
use crate::rejection::Rejection;
use crate::run::{Run, RunStatus, StepEnd, StepRun, StepState, Turn, Work};
use crate::spans;
use crate::tenant::TenantState;
use crate::workflow::{
    Action, ApprovalStep, CALL_WAIT_MS_MAX, Meter, OnFailure, Step, Template, Variables, render,
};

/// How long a reason in a step's end may be, in characters.
pub(super) const REASON_CHARS_MAX: usize = 500;

/// Whether a step that failed may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// As its template says.
    IfPlanned,
    /// It would not come out otherwise.
    Never,
}

/// What others may use of a step.
pub(super) type Outputs = BTreeMap<String, Value>;

type Done = Result<(), Rejection>;
/// A failure that is the step's, not the command's.
pub(super) type Begun = Result<Work, String>;

/// Looks at the runs that something has happened to, from the fact `seen` on.
pub(super) fn go_on(tx: &mut Transaction<'_>, seen: &mut usize) -> Done {
    each_concerned(tx, seen, look_at)
}

/// Lets the runs that something has happened to since the fact `seen` turn away, before anything else follows from that: what set a
/// target free for a step that waits may be what its run fails of.
pub(super) fn turn_away(tx: &mut Transaction<'_>, mut seen: usize) -> Done {
    each_concerned(tx, &mut seen, |tx, id| {
        if tx.run(id)?.status.is_final() {
            return Ok(());
        }
        let template = template(tx, id)?;
        settle(tx, id)?;
        sub_run::turn_with_whole(tx, id)?;
        wind_down(tx, id, &template)
    })
}

fn each_concerned(
    tx: &mut Transaction<'_>,
    seen: &mut usize,
    look: impl Fn(&mut Transaction<'_>, RunId) -> Done,
) -> Done {
    loop {
        let runs: BTreeSet<RunId> =
            tx.facts_from(*seen).filter_map(|fact| concerned(&tx.tenant, fact)).collect();
        *seen = tx.facts_from(0).count();
        if runs.is_empty() {
            return Ok(());
        }
        for run in runs {
            look(tx, run)?;
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "most facts concern no run")]
fn concerned(tenant: &TenantState, fact: &Fact) -> Option<RunId> {
    let awaits = |id: DeploymentId| tenant.awaited.get(&id).map(|(run, _)| *run);
    // A step waits for what takes its deployment back, too.
    let taken_back = |id: DeploymentId| match tenant.deployments.get(&id)?.cause {
        Cause::Rollback { of, .. } => awaits(of),
        Cause::Requested | Cause::Retirement { .. } | Cause::Job { .. } => None,
    };
    match fact {
        Fact::RunStarted { id, .. } | Fact::RunTurned { id, .. } => Some(*id),
        Fact::StepStarted { run, .. }
        | Fact::StepApproved { run, .. }
        | Fact::StepRejected { run, .. }
        | Fact::StepBackedOff { run, .. }
        | Fact::StepHeld { run, .. }
        | Fact::StepOverdue { run, .. }
        | Fact::StepGateEvaluated { run, .. }
        | Fact::StepApprovalLapsed { run, .. }
        | Fact::StepEnded { run, .. } => Some(*run),
        Fact::RunEnded { id, .. } => sub_run::parent(tenant, *id),
        Fact::DeploymentSucceeded { id, .. }
        | Fact::DeploymentFailed { id, .. }
        | Fact::DeploymentCancelled { id, .. } => awaits(*id).or_else(|| taken_back(*id)),
        Fact::PromotionRejected { id, .. }
        | Fact::PromotionWithdrawn { id, .. }
        | Fact::PromotionExpired { id }
        | Fact::PromotionInvalidated { id, .. }
        // It may let in what a run waits for that has turned away, in a journal of before such promotions were withdrawn.
        | Fact::ApprovalGranted { id, .. } => awaits(DeploymentId(id.0)),
        _ => None,
    }
}

fn look_at(tx: &mut Transaction<'_>, id: RunId) -> Done {
    if tx.run(id)?.status.is_final() {
        return Ok(());
    }
    let template = template(tx, id)?;
    settle(tx, id)?;
    sub_run::turn_with_whole(tx, id)?;
    for step in own(&template) {
        let run = tx.run(id)?;
        let is_ready = run.status == RunStatus::Running
            && run.steps.get(&step.id).is_some_and(|it| it.state == StepState::Waiting)
            && step.needs.iter().all(|need| !run.is_open(need));
        if is_ready {
            begin(tx, id, step)?;
        }
    }
    wind_down(tx, id, &template)?;
    end_if_over(tx, id, &template)
}

/// The steps of a run that make up for no others.
fn own(template: &Template) -> impl Iterator<Item = &Step> {
    template.steps.iter().filter(|step| step.compensates.is_none())
}

/// Lets nothing begin any more in a run that has turned away.
fn wind_down(tx: &mut Transaction<'_>, id: RunId, template: &Template) -> Done {
    for step in own(template) {
        let run = tx.run(id)?;
        let Some(found) = run.steps.get(&step.id).map(|step| step.state.clone()) else { continue };
        match &run.status {
            RunStatus::Cancelling { .. } => wind_down_step(tx, id, &step.id, &found, true)?,
            RunStatus::Failing { .. } | RunStatus::Compensating { .. } => {
                wind_down_step(tx, id, &step.id, &found, false)?
            }
            RunStatus::Running
            | RunStatus::Succeeded
            | RunStatus::Failed { .. }
            | RunStatus::Cancelled { .. } => {}
        }
    }
    Ok(())
}

/// Lets nothing go on that only waits; and if the run was cancelled, nothing at all.
fn wind_down_step(
    tx: &mut Transaction<'_>,
    id: RunId,
    step: &Identifier,
    found: &StepState,
    all: bool,
) -> Done {
    let end = match found {
        StepState::Waiting => StepEnd::Skipped,
        StepState::BackingOff { .. } | StepState::Held { .. } => StepEnd::Cancelled,
        StepState::Running {
            work: Work::Wait { .. } | Work::Approval { .. } | Work::Input | Work::Gate { .. },
            ..
        } => StepEnd::Cancelled,
        StepState::Running { work: Work::Http(_) | Work::Notify(_), .. } if all => StepEnd::Cancelled,
        StepState::Running { work: Work::Deployment { deployment }, .. } if all => {
            return stop_deployment(tx, *deployment, "the run that it belongs to was cancelled");
        }
        StepState::Running { work: Work::Deployment { deployment }, .. }
            if deploy_step::is_only_asked_for(&tx.tenant, *deployment) =>
        {
            stop_deployment(tx, *deployment, "the run that it belongs to has failed")?;
            StepEnd::Cancelled
        }
        StepState::Running { work: Work::Runs { runs }, .. } if all => {
            return sub_run::stop(tx, runs, "the run that it is part of was cancelled");
        }
        StepState::Running { work: Work::Runs { runs }, .. } => {
            return runs.iter().try_for_each(|part| sub_run::turn_with_whole(tx, part.run));
        }
        StepState::Running { .. }
        | StepState::Succeeded
        | StepState::Failed { .. }
        | StepState::Skipped
        | StepState::Cancelled => return Ok(()),
    };
    ended(tx, id, step, end)
}

/// Asks for the end of a deployment, or takes back the request for it; its end is noticed like any other.
fn stop_deployment(tx: &mut Transaction<'_>, id: DeploymentId, reason: &str) -> Done {
    if deploy_step::is_only_asked_for(&tx.tenant, id) {
        return tx.emit(Fact::PromotionWithdrawn { id: PromotionId(id.0), reason: reason.to_owned() });
    }
    let status = tx.tenant.deployments.get(&id).map(|deployment| deployment.status.clone());
    if matches!(status, Some(Status::Running | Status::Halting { .. })) {
        deployment::cancel(tx, id, reason)?;
    }
    Ok(())
}

/// The time of a step that waits for a deployment is up. The deployment is ended like one whose own time is up, paused or not, so it is
/// taken back if that is its policy. One that has failed already keeps its reason, and only its open tasks are ended. A job or a
/// rollback is cancelled.
fn out_of_time(tx: &mut Transaction<'_>, id: DeploymentId, reason: &str) -> Done {
    let deployment = tx.tenant.deployments.get(&id).filter(|it| it.cause == Cause::Requested);
    match deployment.map(|it| &it.status) {
        Some(Status::Running) => {
            rollout::halt_with(tx, id, reason, (None, RollbackReason::TimeOut))?;
            rollout::end_what_is_open(tx, id)
        }
        Some(Status::Halting { .. }) => rollout::end_what_is_open(tx, id),
        Some(
            Status::Cancelling { .. } | Status::Succeeded | Status::Failed { .. } | Status::Cancelled { .. },
        )
        | None => stop_deployment(tx, id, reason),
    }
}

/// Makes up for one more step, or ends the run, if nothing else is under way.
fn end_if_over(tx: &mut Transaction<'_>, id: RunId, template: &Template) -> Done {
    let run = Arc::clone(tx.run(id)?);
    if run.status.is_final() || own(template).any(|step| run.is_open(&step.id)) {
        return Ok(());
    }
    let makes_up: Vec<(usize, &Step)> =
        template.steps.iter().enumerate().filter(|(_, step)| step.compensates.is_some()).collect();
    let state = |step: &Step| run.steps.get(&step.id).map(|step| step.state.clone());
    let cancelling = matches!(run.status, RunStatus::Cancelling { .. });
    let mut under_way = false;
    for (_, step) in &makes_up {
        let found = state(step).filter(StepState::is_under_way);
        if let Some(found) = found {
            if cancelling {
                wind_down_step(tx, id, &step.id, &found, true)?;
            }
            under_way |= tx.run(id)?.is_open(&step.id);
        }
    }
    if under_way {
        return Ok(());
    }
    if matches!(run.status, RunStatus::Compensating { .. }) {
        let done = |step: &Step| step.compensates.as_ref().and_then(|other| run.steps.get(other));
        let next = makes_up.iter().filter(|(_, step)| {
            state(step) == Some(StepState::Waiting)
                && done(step).is_some_and(|it| it.state == StepState::Succeeded)
        });
        let next = next.max_by_key(|(at, step)| (done(step).and_then(|it| it.finished_at), *at));
        if let Some((_, step)) = next {
            return attempt(tx, id, &step.id);
        }
    }
    for (_, step) in makes_up {
        if state(step) == Some(StepState::Waiting) {
            ended(tx, id, &step.id, StepEnd::Skipped)?;
        }
    }
    run_outputs::end(tx, id, template)
}

/// Notices the ends of deployments and of other runs.
fn settle(tx: &mut Transaction<'_>, id: RunId) -> Done {
    let run = Arc::clone(tx.run(id)?);
    let cancelling = matches!(run.status, RunStatus::Cancelling { .. });
    for (step, found) in &run.steps {
        let StepState::Running { work, .. } = &found.state else { continue };
        let came = match work {
            Work::Deployment { deployment } => deploy_step::verdict(&tx.tenant, *deployment),
            Work::Runs { runs } => sub_run::verdict(&tx.tenant, runs),
            Work::Approval { .. }
            | Work::Wait { .. }
            | Work::Input
            | Work::Http(_)
            | Work::Notify(_)
            | Work::Gate { .. } => None,
        };
        let (reason, again) = match came {
            None => continue,
            Some(Ok(outputs)) => {
                ended(tx, id, step, StepEnd::Succeeded { outputs })?;
                continue;
            }
            Some(Err(failed)) => failed,
        };
        if cancelling {
            ended(tx, id, step, StepEnd::Cancelled)?;
        } else if let Some(late) = &found.overdue {
            fail(tx, id, step, late, Again::IfPlanned)?;
        } else {
            fail(tx, id, step, &reason, again)?;
        }
    }
    Ok(())
}

/// A step whose turn has come. It has to come once more if enough was computed in this decision: others wait for that.
fn begin(tx: &mut Transaction<'_>, id: RunId, step: &Step) -> Done {
    if tx.work() >= WORK_MAX {
        let reason = "much else is computed at the same time; it begins right after that".to_owned();
        return tx.emit(Fact::StepBackedOff { run: id, step: step.id.clone(), until: tx.now, reason });
    }
    if let Some(when) = &step.when {
        match variables(tx.run(id)?, tx.meter()).holds(when) {
            Ok(true) => {}
            Ok(false) => return ended(tx, id, &step.id, StepEnd::Skipped),
            Err(error) => {
                // It would say the same again.
                return failed_for_good(tx, id, &step.id, &format!("when {error}"));
            }
        }
    }
    attempt(tx, id, &step.id)
}

/// Begins an attempt of a step.
pub(super) fn attempt(tx: &mut Transaction<'_>, id: RunId, step: &Identifier) -> Done {
    let run = Arc::clone(tx.run(id)?);
    let template = template(tx, id)?;
    let (Some(planned), Some(found)) = (template.step(step), run.steps.get(step)) else {
        return Err(Rejection::not_found("step", format!("{step} in run {id}")));
    };
    let begun = work(tx, &run, planned, found);
    let timeout = planned.timeout.map(|timeout| timeout.0);
    let (work, reason) = match begun {
        Ok(work) => (work, None),
        // The attempt counts although nothing of it is under way.
        Err(reason) => (Work::Wait { until: tx.now }, Some(reason)),
    };
    let limit_ms = match &work {
        Work::Approval { .. } | Work::Input => Some(timeout.unwrap_or(EXPIRES_MS_DEFAULT)),
        Work::Deployment { .. } | Work::Runs { .. } => timeout,
        // Whoever makes calls gives up by itself when the call has had its time; but its turn may not come.
        Work::Http(request) => Some(request.timeout_ms.saturating_add(CALL_WAIT_MS_MAX)),
        Work::Notify(notice) => Some(notice.timeout_ms.saturating_add(CALL_WAIT_MS_MAX)),
        Work::Gate { asked: Some(asked), .. } => Some(timeout.unwrap_or_else(|| {
            if asked.is_manual() { EXPIRES_MS_DEFAULT } else { ANSWER_MS_MAX + CALL_WAIT_MS_MAX }
        })),
        Work::Wait { .. } | Work::Gate { asked: None, .. } => None,
    };
    let deadline = limit_ms.map(|limit| tx.now.plus_ms(limit));
    tx.emit(Fact::StepStarted { run: id, step: step.clone(), work: work.clone(), deadline })?;
    if let Some(reason) = reason {
        return fail(tx, id, step, &reason, Again::IfPlanned);
    }
    if let (Work::Gate { environment, release, asked: None }, Some(gate)) = (&work, &planned.gate) {
        return gate_step::look(tx, (id, step), gate, (*environment, *release));
    }
    // The starter's authority, and a trace that hangs below the step.
    let (actor, trace) = (run.started_by.clone(), run.trace.with_span(spans::step(run.id, step)));
    let asked = tx.attempt(|tx| {
        tx.with_authority(actor, trace, |tx| match (&work, &planned.workflow) {
            (Work::Deployment { deployment }, _) => deploy_step::ask(tx, &run, planned, *deployment),
            (Work::Runs { runs }, Some(sub)) => sub_run::start(tx, &run, planned, sub, runs).map(|()| None),
            _ => Ok(None),
        })
    });
    match asked {
        Ok(None) => Ok(()),
        Ok(Some(outputs)) => ended(tx, id, step, StepEnd::Succeeded { outputs }),
        Err(defect @ Rejection::Defect(_)) => Err(defect),
        Err(rejection) => fail(tx, id, step, &rejection.to_string(), Again::IfPlanned),
    }
}

/// What an attempt does, filled in.
fn work(tx: &Transaction<'_>, run: &Run, step: &Step, found: &StepRun) -> Begun {
    let next = found.attempts.saturating_add(1);
    match step.action() {
        Some(Action::Deploy(_) | Action::Rollback(_) | Action::Task(_)) => {
            Ok(Work::Deployment { deployment: ids::of_step(run.id, &step.id, next, tx.now) })
        }
        Some(Action::Approval(approval)) => agreement(tx, run, approval),
        Some(Action::Wait(span)) => Ok(Work::Wait { until: tx.now.plus_ms(span.0) }),
        Some(Action::Input(_)) => Ok(Work::Input),
        Some(Action::Http(call)) => {
            may_go_on(tx, run).and_then(|()| outgoing::request(run, call, step.timeout, tx.meter()))
        }
        Some(Action::Notify(notify)) => {
            may_go_on(tx, run).and_then(|()| outgoing::notice(tx, run, notify, step.timeout))
        }
        Some(Action::Gate(gate)) => may_go_on(tx, run).and_then(|()| gate_step::work(tx, run, gate)),
        Some(Action::Workflow(_)) => sub_run::children(tx, run, step, found),
        None => Err("does nothing".to_owned()),
    }
}

/// Whether whoever started a run could still start it. What it asks for in its tenant is checked when it does; what leaves the control
/// plane goes with the installation's own credentials, which do not know whose run it is.
fn may_go_on(tx: &Transaction<'_>, run: &Run) -> Result<(), String> {
    let (workflow, version) = (run.workflow.clone(), Some(run.version));
    let start =
        TenantCommand::StartRun(Box::new(NewRun { id: run.id, workflow, version, inputs: BTreeMap::new() }));
    access::check_authority(tx.system, &run.started_by, tx.tenant.id, &start, tx.now)
        .map_err(|refused| refused.to_string())
}

fn agreement(tx: &Transaction<'_>, run: &Run, approval: &ApprovalStep) -> Begun {
    let mut from = Vec::new();
    for name in &approval.from {
        let found = access::account_of(tx.system, tx.tenant.id, name);
        from.push(found.ok_or_else(|| format!("there is no account {name} with a role in this tenant"))?);
    }
    from.sort_unstable();
    from.dedup();
    let environment = match &approval.environment {
        None => None,
        Some(name) => Some(
            deploy_step::environment(&tx.tenant, name.as_str())
                .ok_or_else(|| format!("there is no environment {name}"))?,
        ),
    };
    let message = render(&approval.message, &variables(run, tx.meter()))
        .map_err(|problem| format!("message {problem}"))?;
    Ok(Work::Approval { needed: approval.needed, from, environment, message, approvals: Vec::new() })
}

/// What expressions of a run can use.
pub(super) fn variables(run: &Run, meter: &Meter) -> Variables {
    Variables::new(values(run), meter.clone())
}

/// What its names stand for.
pub(super) fn values(run: &Run) -> BTreeMap<String, Value> {
    let step = |(id, step): (&Identifier, &StepRun)| {
        let known =
            json!({ "status": step.state.name(), "outputs": step.outputs, "attempts": step.attempts });
        (id.to_string(), known)
    };
    let started_by = run.started_by.account().map_or_else(String::new, |account| account.name.to_string());
    let about = json!({
        "id": run.id, "workflow": run.workflow, "version": run.version, "started_by": started_by,
    });
    let values = [
        ("inputs".to_owned(), json!(run.inputs)),
        ("steps".to_owned(), Value::Object(run.steps.iter().map(step).collect())),
        ("run".to_owned(), about),
    ];
    BTreeMap::from(values)
}

/// An attempt failed: another one follows, or somebody has time to retry it by hand, or it has failed for good.
pub(super) fn fail(
    tx: &mut Transaction<'_>,
    id: RunId,
    step: &Identifier,
    reason: &str,
    again: Again,
) -> Done {
    let template = template(tx, id)?;
    let run = tx.run(id)?;
    let (Some(planned), Some(found)) = (template.step(step), run.steps.get(step)) else {
        return Err(Rejection::not_found("step", format!("{step} in run {id}")));
    };
    let goes_on = match &run.status {
        RunStatus::Running => sub_run::turned_with_whole(&tx.tenant, run).is_none(),
        RunStatus::Compensating { .. } => planned.compensates.is_some(),
        RunStatus::Failing { .. }
        | RunStatus::Cancelling { .. }
        | RunStatus::Succeeded
        | RunStatus::Failed { .. }
        | RunStatus::Cancelled { .. } => false,
    };
    let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
    let retry = planned
        .retry
        .filter(|retry| goes_on && again == Again::IfPlanned && retry.attempts > found.counted());
    if let Some(retry) = retry {
        let until = tx.now.plus_ms(retry.pause_ms(found.counted()));
        return tx.emit(Fact::StepBackedOff { run: id, step: step.clone(), until, reason });
    }
    if let Some(hold) = planned.hold.filter(|_| goes_on) {
        let until = tx.now.plus_ms(hold.0);
        return tx.emit(Fact::StepHeld { run: id, step: step.clone(), until, reason });
    }
    failed_for_good(tx, id, step, &reason)
}

/// A step has failed; what that means for its run is in the template.
fn failed_for_good(tx: &mut Transaction<'_>, id: RunId, step: &Identifier, reason: &str) -> Done {
    let template = template(tx, id)?;
    ended(tx, id, step, StepEnd::Failed { reason: reason.to_owned() })?;
    let Some(planned) = template.step(step).filter(|step| step.compensates.is_none()) else { return Ok(()) };
    if tx.run(id)?.status != RunStatus::Running {
        return Ok(());
    }
    let reason = format!("step {step}: {reason}");
    let turn = match planned.on_failure {
        OnFailure::Continue => return Ok(()),
        OnFailure::Fail => Turn::Failing { reason },
        OnFailure::Compensate => Turn::Compensating { reason },
    };
    tx.emit(Fact::RunTurned { id, turn })
}

/// The time of a step has come.
pub(super) fn due(tx: &mut Transaction<'_>, id: RunId, step: &Identifier) -> Done {
    let Some(found) = tx.run(id)?.steps.get(step).map(|step| step.state.clone()) else { return Ok(()) };
    match found {
        StepState::Running { work: Work::Wait { .. }, .. } => {
            ended(tx, id, step, StepEnd::Succeeded { outputs: BTreeMap::new() })
        }
        StepState::Running { work, .. } => {
            let mut reason = "it took longer than it may";
            let late = "its step of a workflow took too long";
            // What makes up for others, or another attempt, may need the targets: not before they are free.
            let overdue = Fact::StepOverdue { run: id, step: step.clone(), reason: reason.to_owned() };
            match work {
                Work::Deployment { deployment } => {
                    tx.emit(overdue)?;
                    return out_of_time(tx, deployment, late);
                }
                Work::Runs { runs } => {
                    tx.emit(overdue)?;
                    return sub_run::stop(tx, &runs, late);
                }
                Work::Gate { asked: Some(asked), .. } if asked.again_at.is_some() => {
                    return attempt(tx, id, step);
                }
                Work::Gate { asked: Some(asked), .. } => return gate_step::overdue(tx, id, step, *asked),
                Work::Http(_) | Work::Notify(_) => {
                    reason = "there was no answer in time, the wait for its turn included"
                }
                Work::Approval { .. } | Work::Wait { .. } | Work::Input | Work::Gate { asked: None, .. } => {}
            }
            fail(tx, id, step, reason, Again::IfPlanned)
        }
        StepState::BackingOff { .. } => go_on_with(tx, id, step),
        StepState::Held { reason, .. } => failed_for_good(tx, id, step, &reason),
        StepState::Waiting
        | StepState::Succeeded
        | StepState::Failed { .. }
        | StepState::Skipped
        | StepState::Cancelled => Ok(()),
    }
}

/// A step that has been waiting for its first attempt, or for another one.
pub(super) fn go_on_with(tx: &mut Transaction<'_>, id: RunId, step: &Identifier) -> Done {
    let is_first = tx.run(id)?.steps.get(step).is_some_and(|found| found.attempts == 0);
    let template = template(tx, id)?;
    match template.step(step).filter(|_| is_first) {
        Some(planned) => begin(tx, id, planned),
        None => attempt(tx, id, step),
    }
}

fn ended(tx: &mut Transaction<'_>, run: RunId, step: &Identifier, end: StepEnd) -> Done {
    tx.emit(Fact::StepEnded { run, step: step.clone(), end })
}

fn template(tx: &Transaction<'_>, id: RunId) -> Result<Template, Rejection> {
    let run = tx.run(id)?;
    let template = tx.tenant.template_of(run);
    template.cloned().ok_or_else(|| Rejection::not_found("workflow", &run.workflow))
}
