//! Workflows, and how far their runs have got.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;
use serde_json::Value;
use stella_protocol::id::RunId;
use stella_protocol::time::Timestamp;

use super::{Applied, ensure, illegal, misplaced, missing, vacant};
use crate::command::Actor;
use crate::durations::STEPS_MS;
use crate::event::{Event, Fact, IllegalTransition};
use crate::hold::Hold;
use crate::name::Identifier;
use crate::promotion::Approval;
use crate::run::{Run, RunStatus, StepEnd, StepRun, StepState, Turn, Work};
use crate::tenant::{TenantState, Timer};
use crate::workflow::{Step, Template, Version, Workflow};

impl TenantState {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a fact that is not listed is refused")]
    pub(super) fn apply_workflow(&mut self, event: &Event) -> Applied {
        let Event { at, fact, .. } = event;
        let at = *at;
        match fact {
            Fact::WorkflowApplied { version, template } => self.workflow_applied(event, *version, template),
            Fact::WorkflowRemoved { name, reason } => {
                let workflow = self.workflows.get_mut(name).ok_or_else(|| missing("workflow", name, fact))?;
                let workflow = Arc::make_mut(workflow);
                ensure(workflow.removed.is_none(), format!("workflow {name}"), "removed", fact)?;
                workflow.removed = Some(hold(event, reason));
                Ok(())
            }
            Fact::RunStarted { .. } => self.run_started(event),
            Fact::StepStarted { .. }
            | Fact::StepApproved { .. }
            | Fact::StepRejected { .. }
            | Fact::StepApprovalLapsed { .. }
            | Fact::StepBackedOff { .. }
            | Fact::StepOverdue { .. }
            | Fact::StepHeld { .. } => {
                self.apply_step(event)?;
                self.time_steps_in_silence(at, fact)
            }
            Fact::StepGateEvaluated { .. } => self.step_gate_evaluated(fact),
            Fact::StepEnded { run, step, end } => {
                self.step_ended(*run, step, end, event)?;
                self.time_steps_in_silence(at, fact)
            }
            Fact::RunTurned { id, turn } => self.run_turned(event, *id, turn),
            Fact::RunEnded { id, outputs } => self.run_ended((*id, at), outputs, fact),
            other => Err(misplaced(other)),
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "a fact that is not listed is refused")]
    fn apply_step(&mut self, event: &Event) -> Applied {
        let Event { at, fact, .. } = event;
        let at = *at;
        match fact {
            Fact::StepStarted { run, step, work, deadline } => {
                self.may_start(*run, step, fact)?;
                self.change_step(*run, step, fact, |state| {
                    state.uncounted += u32::from(state.state.asks_again_at().is_some());
                    state.attempts += 1;
                    state.started_at = state.started_at.or(Some(at));
                    if let Work::Runs { runs } = work {
                        state.parts.clone_from(runs);
                    }
                    (state.overdue, state.time_left_ms, state.rejected_at) = (None, None, None);
                    state.state = StepState::Running { work: work.clone(), deadline: *deadline };
                    Ok(())
                })
            }
            Fact::StepApproved { .. } | Fact::StepRejected { .. } | Fact::StepApprovalLapsed { .. } => {
                self.apply_decision(event)
            }
            Fact::StepBackedOff { run, step, until, reason } => self.change_step(*run, step, fact, |state| {
                let may = matches!(state.state, StepState::Running { .. } | StepState::Waiting);
                let name = state.state.name();
                state.state = StepState::BackingOff { until: *until, reason: reason.clone() };
                if may { Ok(()) } else { Err(name) }
            }),
            Fact::StepOverdue { run, step, reason } => {
                self.change_step(*run, step, fact, |state| time_is_up(state, reason))
            }
            Fact::StepHeld { run, step, until, reason } => self.change_step(*run, step, fact, |state| {
                let may = matches!(state.state, StepState::Running { .. } | StepState::Waiting);
                let name = state.state.name();
                state.state = StepState::Held { until: *until, reason: reason.clone() };
                if may { Ok(()) } else { Err(name) }
            }),
            other => Err(misplaced(other)),
        }
    }

    /// What people have said at a step that waits for their approval.
    #[expect(clippy::wildcard_enum_match_arm, reason = "a fact that is not listed is refused")]
    fn apply_decision(&mut self, event: &Event) -> Applied {
        let Event { at, fact, .. } = event;
        let at = *at;
        match fact {
            Fact::StepApproved { run, step, reason } => self.change_step(*run, step, fact, |state| {
                let StepState::Running { work: Work::Approval { needed, from, approvals, .. }, .. } =
                    &mut state.state
                else {
                    return Err(state.state.name());
                };
                let Actor::ApiToken { account: Some(by), .. } = &event.actor else {
                    return Err("decided on by nobody");
                };
                let counts = from.is_empty() || from.binary_search(&by.id).is_ok();
                let again = approvals.iter().any(|approval| approval.by.id == by.id);
                let enough = approvals.len() >= usize::try_from(*needed).unwrap_or(usize::MAX);
                if !counts || again || enough {
                    return Err("not to be approved by them, or not any more");
                }
                approvals.push(Approval { by: by.clone(), at, reason: reason.clone(), signature: None });
                Ok(())
            }),
            Fact::StepRejected { run, step, .. } => self.change_step(*run, step, fact, |state| {
                let StepState::Running { work: Work::Approval { from, .. }, .. } = &state.state else {
                    return Err(state.state.name());
                };
                let Actor::ApiToken { account: Some(by), .. } = &event.actor else {
                    return Err("decided on by nobody");
                };
                if !from.is_empty() && from.binary_search(&by.id).is_err() {
                    return Err("not to be rejected by them");
                }
                state.rejected_at = Some(at);
                Ok(())
            }),
            Fact::StepApprovalLapsed { run, step, account, .. } => {
                self.change_step(*run, step, fact, |state| {
                    let StepState::Running { work: Work::Approval { approvals, .. }, .. } = &mut state.state
                    else {
                        return Err(state.state.name());
                    };
                    let at =
                        approvals.iter().position(|it| it.by.id == *account).ok_or("not approved by them")?;
                    approvals.remove(at);
                    Ok(())
                })
            }
            other => Err(misplaced(other)),
        }
    }

    /// Counts a verdict. What follows from it for the step is a fact of its own, but for when it asks again.
    fn step_gate_evaluated(&mut self, fact: &Fact) -> Applied {
        let Fact::StepGateEvaluated { run: id, step, attempt, kind, outcome, again_at, .. } = fact else {
            return Err(misplaced(fact));
        };
        let run = self.runs.get(id).ok_or_else(|| missing(RunId::KIND, id, fact))?;
        let found = run.steps.get(step).ok_or_else(|| missing("step", step, fact))?;
        let StepState::Running { work: Work::Gate { environment, .. }, .. } = &found.state else {
            return Err(illegal(subject(*id, step), found.state.name(), fact));
        };
        ensure(
            found.attempts == *attempt,
            subject(*id, step),
            format!("at attempt {}", found.attempts),
            fact,
        )?;
        let environment = *environment;
        self.count_verdict(environment, kind, outcome.name());
        let Some(again_at) = *again_at else { return Ok(()) };
        self.change_step(*id, step, fact, |state| {
            let StepState::Running { work: Work::Gate { asked: Some(asked), .. }, .. } = &mut state.state
            else {
                return Err(state.state.name());
            };
            let asks = !asked.is_manual() && asked.again_at.replace(again_at).is_none();
            if asks { Ok(()) } else { Err("asking nothing") }
        })
    }

    fn step_ended(&mut self, run: RunId, step: &Identifier, end: &StepEnd, event: &Event) -> Applied {
        self.change_step(run, step, &event.fact, |state| {
            // One that was put off before its first attempt is where one that waits is.
            let is_put_off = state.attempts == 0 && matches!(state.state, StepState::BackingOff { .. });
            let may = match end {
                StepEnd::Succeeded { .. } => matches!(state.state, StepState::Running { .. }),
                StepEnd::Failed { .. } => {
                    is_put_off
                        || !state.state.is_final() && !matches!(state.state, StepState::BackingOff { .. })
                }
                StepEnd::Skipped => is_put_off || matches!(state.state, StepState::Waiting),
                StepEnd::Cancelled => state.state.is_under_way(),
            };
            if !may {
                return Err(state.state.name());
            }
            state.finished_at = Some(event.at);
            let is_answer = matches!(state.state, StepState::Running { work: Work::Input, .. });
            if is_answer && matches!(end, StepEnd::Succeeded { .. }) {
                state.answered_by = Some(event.actor.clone());
            }
            state.state = match end {
                StepEnd::Succeeded { outputs } => {
                    state.outputs.clone_from(outputs);
                    StepState::Succeeded
                }
                StepEnd::Failed { reason } => StepState::Failed { reason: reason.clone() },
                StepEnd::Skipped => StepState::Skipped,
                StepEnd::Cancelled => StepState::Cancelled,
            };
            Ok(())
        })?;
        self.measure_step(run, step, event.at);
        Ok(())
    }

    /// Only steps that were begun took any time.
    fn measure_step(&mut self, run: RunId, step: &Identifier, at: Timestamp) {
        let Some(run) = self.runs.get(&run) else { return };
        let started_at = run.steps.get(step).and_then(|state| state.started_at);
        let (Some(planned), Some(started_at)) = (self.step_of(run, step), started_at) else { return };
        let kind = planned.kind().to_owned();
        let took = self.totals.steps_took.entry(kind).or_default();
        Arc::make_mut(took).add(at.since(started_at), &STEPS_MS);
    }

    fn workflow_applied(&mut self, event: &Event, version: u32, template: &Template) -> Applied {
        let (name, fact) = (&template.name, &event.fact);
        let new = || Workflow { name: name.clone(), versions: OrdMap::new(), removed: None };
        let workflow = self.workflows.entry(name.clone()).or_insert_with(|| Arc::new(new()));
        let workflow = Arc::make_mut(workflow);
        let next = workflow.newest() + 1;
        ensure(version == next, format!("workflow {name}"), format!("at version {}", next - 1), fact)?;
        let applied =
            Version { template: template.clone(), applied_at: event.at, applied_by: event.actor.clone() };
        workflow.versions.insert(version, Arc::new(applied));
        workflow.removed = None;
        Ok(())
    }

    fn run_started(&mut self, event: &Event) -> Applied {
        let Event { at, actor, trace, fact } = event;
        let Fact::RunStarted { id, workflow, version, inputs, parent, chosen_by } = fact else {
            return Err(misplaced(fact));
        };
        vacant(!self.runs.contains_key(id), RunId::KIND, id, fact)?;
        let pinned = self.workflows.get(workflow).ok_or_else(|| missing("workflow", workflow, fact))?;
        ensure(pinned.removed.is_none(), format!("workflow {workflow}"), "removed", fact)?;
        let template = pinned.versions.get(version).ok_or_else(|| missing("version", version, fact))?;
        if let Some((run, step)) = parent {
            let waits = self.runs.get(run).and_then(|it| it.steps.get(step));
            let waits = waits.is_some_and(|it| it.state.children().iter().any(|child| child.run == *id));
            ensure(waits, format!("run {id}"), "not what the step waits for", fact)?;
        }
        let steps = template.template.steps.iter().map(|step| (step.id.clone(), StepRun::new())).collect();
        let run = Run {
            id: *id,
            workflow: workflow.clone(),
            version: *version,
            inputs: inputs.clone(),
            status: RunStatus::Running,
            steps,
            parent: parent.clone(),
            started_by: actor.clone(),
            chosen_by: chosen_by.clone(),
            started_at: *at,
            finished_at: None,
            outputs: BTreeMap::new(),
            trace: trace.clone(),
        };
        self.runs.insert(*id, Arc::new(run));
        self.active_runs.insert(*id);
        Ok(())
    }

    /// INV-13: no step starts before what it needs is over, and none in a run that has turned away, but to make up for others.
    fn may_start(&self, id: RunId, step: &Identifier, fact: &Fact) -> Applied {
        let run = self.runs.get(&id).ok_or_else(|| missing(RunId::KIND, id, fact))?;
        let planned = self.step_of(run, step).ok_or_else(|| missing("step", step, fact))?;
        let state = run.steps.get(step).ok_or_else(|| missing("step", step, fact))?;
        let from =
            matches!(state.state, StepState::Waiting | StepState::BackingOff { .. } | StepState::Held { .. })
                || state.state.asks_again_at().is_some();
        let ready = match (&planned.compensates, &run.status) {
            (None, RunStatus::Running) => planned.needs.iter().all(|need| !run.is_open(need)),
            (Some(other), RunStatus::Compensating { .. }) => {
                run.steps.get(other).is_some_and(|it| matches!(it.state, StepState::Succeeded))
            }
            _ => false,
        };
        ensure(from && ready, subject(id, step), state.state.name(), fact)
    }

    /// The step of the version that a run has pinned.
    #[must_use]
    pub fn step_of(&self, run: &Run, step: &Identifier) -> Option<&Step> {
        self.template_of(run)?.step(step)
    }

    /// What a run does: the version that it has pinned.
    #[must_use]
    pub fn template_of(&self, run: &Run) -> Option<&Template> {
        let version = self.workflows.get(&run.workflow)?.versions.get(&run.version)?;
        Some(&version.template)
    }

    /// Changes a step of a run that has not ended, and keeps what is known about it elsewhere in line.
    pub(super) fn change_step(
        &mut self,
        id: RunId,
        step: &Identifier,
        fact: &Fact,
        change: impl FnOnce(&mut StepRun) -> Result<(), &'static str>,
    ) -> Applied {
        let run = self.run_mut(id, fact)?;
        ensure(!run.status.is_final(), subject(id, step), run.status.name(), fact)?;
        let state = run.steps.get_mut(step).ok_or_else(|| missing("step", step, fact))?;
        let before = state.state.clone();
        change(state).map_err(|found| illegal(subject(id, step), found, fact))?;
        let after = state.state.clone();
        if !matches!(after, StepState::Running { .. }) {
            state.time_left_ms = None;
        }
        if let Some(due) = before.due() {
            self.timers.remove(&(due, Timer::StepDue(id, step.clone())));
        }
        if let Some(due) = after.due() {
            self.timers.insert((due, Timer::StepDue(id, step.clone())));
        }
        if let Some(deployment) = before.deployment() {
            self.awaited.remove(&deployment);
        }
        if let Some(deployment) = after.deployment() {
            self.awaited.insert(deployment, (id, step.clone()));
        }
        if before.outgoing().is_some() {
            self.calls.remove(&(id, step.clone()));
        }
        if after.outgoing().is_some() {
            self.calls.insert((id, step.clone()));
        }
        if before.question().is_some() {
            self.gate_steps.remove(&(id, step.clone()));
        }
        if after.question().is_some() {
            self.gate_steps.insert((id, step.clone()));
        }
        Ok(())
    }

    fn run_turned(&mut self, event: &Event, id: RunId, turn: &Turn) -> Applied {
        let fact = &event.fact;
        let run = self.run_mut(id, fact)?;
        let may = match turn {
            Turn::Failing { .. } | Turn::Compensating { .. } => matches!(run.status, RunStatus::Running),
            Turn::Cancelling { .. } => {
                !run.status.is_final() && !matches!(run.status, RunStatus::Cancelling { .. })
            }
        };
        ensure(may, format!("run {id}"), run.status.name(), fact)?;
        run.status = match turn {
            Turn::Failing { reason } => RunStatus::Failing { reason: reason.clone() },
            Turn::Compensating { reason } => RunStatus::Compensating { reason: reason.clone() },
            Turn::Cancelling { reason } => RunStatus::Cancelling { hold: hold(event, reason) },
        };
        Ok(())
    }

    /// INV-14: a run ends when all of its steps are over, once.
    fn run_ended(
        &mut self,
        (id, at): (RunId, Timestamp),
        outputs: &BTreeMap<String, Value>,
        fact: &Fact,
    ) -> Applied {
        let run = self.run_mut(id, fact)?;
        let over = run.steps.values().all(|step| step.state.is_final());
        ensure(over && !run.status.is_final(), format!("run {id}"), run.status.name(), fact)?;
        run.status = match &run.status {
            RunStatus::Failing { reason } | RunStatus::Compensating { reason } => {
                RunStatus::Failed { reason: reason.clone() }
            }
            RunStatus::Cancelling { hold } => RunStatus::Cancelled { hold: hold.clone() },
            RunStatus::Running
            | RunStatus::Succeeded
            | RunStatus::Failed { .. }
            | RunStatus::Cancelled { .. } => RunStatus::Succeeded,
        };
        run.finished_at = Some(at);
        run.outputs.clone_from(outputs);
        let (workflow, status) = (run.workflow.clone(), run.status.name());
        self.active_runs.remove(&id);
        *self.totals.runs.entry(workflow).or_default().entry(status.to_owned()).or_insert(0) += 1;
        Ok(())
    }

    fn run_mut(&mut self, id: RunId, fact: &Fact) -> Result<&mut Run, IllegalTransition> {
        self.runs.get_mut(&id).map(Arc::make_mut).ok_or_else(|| missing(RunId::KIND, id, fact))
    }
}

/// The time of what a step has begun is up, once.
fn time_is_up(step: &mut StepRun, reason: &str) -> Result<(), &'static str> {
    let StepState::Running { work: Work::Deployment { .. } | Work::Runs { .. }, deadline } = &mut step.state
    else {
        return Err(step.state.name());
    };
    step.overdue = Some(reason.to_owned());
    // In journals of before it stood still, its time passed while agents were silent.
    let stood = step.time_left_ms.take().is_some();
    if deadline.take().is_some() || stood { Ok(()) } else { Err("overdue already") }
}

fn hold(event: &Event, reason: &str) -> Hold {
    Hold { reason: reason.to_owned(), by: event.actor.clone(), since: event.at }
}

fn subject(run: RunId, step: &Identifier) -> String {
    format!("step {step} of run {run}")
}
