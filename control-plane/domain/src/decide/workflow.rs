//! Workflows, and what people and callers say to their runs. How runs go on from there is in [`super::run`].

use std::collections::BTreeMap;

use serde_json::Value;
use stella_protocol::id::{AccountId, ApiTokenId, RunId};

use super::transaction::Transaction;
use super::{deploy_step, fields, gate_step, hook, run};
use crate::access::{self, Scope};
use crate::command::{Actor, NewRun, Outcome, TenantCommand};
use crate::event::Fact;
use crate::name::{Identifier, Name};
use crate::promotion::Approval;
use crate::rejection::Rejection;
use crate::run::{ACTIVE_MAX, CallOutcome, Outgoing, RunStatus, StepEnd, StepState, Turn, Work};
use crate::workflow::{
    Action, DEPTH_MAX, Input, SubWorkflow, Template, UsedOutput, WORKFLOWS_MAX, check, used_outputs,
};

#[expect(clippy::wildcard_enum_match_arm, reason = "the caller sorts them")]
pub(super) fn carry_out(tx: &mut Transaction<'_>, command: &TenantCommand) -> Result<Outcome, Rejection> {
    match command {
        TenantCommand::ApplyWorkflow(template) => apply(tx, template),
        TenantCommand::RemoveWorkflow { name, reason } => remove(tx, name, reason),
        TenantCommand::StartRun(new) => start(tx, new),
        TenantCommand::CancelRun { run, reason } => cancel(tx, *run, reason),
        TenantCommand::RetryStep { run, step } => retry(tx, *run, step),
        TenantCommand::AnswerStep { run, step, answers } => answer(tx, *run, step, answers),
        TenantCommand::DecideStep { run, step, approve, reason } => decide(tx, *run, step, *approve, reason),
        TenantCommand::AnswerCall { run, step, attempt, outcome } => {
            answer_call(tx, *run, step, *attempt, outcome)
        }
        TenantCommand::AnswerStepGate { run, step, attempt, outcome, reason, inputs } => {
            gate_step::answer(tx, (*run, step, *attempt), (*outcome, reason), *inputs)
        }
        _ => Ok(Outcome::Done),
    }
}

/// Makes a template the newest version of its workflow.
fn apply(tx: &mut Transaction<'_>, template: &Template) -> Result<Outcome, Rejection> {
    if let Some(first) = check(template).into_iter().next() {
        return Err(Rejection::invalid(first.field, first.problem));
    }
    for (at, step) in template.steps.iter().enumerate() {
        let named = match step.action() {
            Some(Action::Deploy(deploy)) if !deploy.environment.contains("${") => {
                Some((format!("steps[{at}].deploy.environment"), deploy.environment.as_str()))
            }
            Some(Action::Task(task)) if !task.environment.contains("${") => {
                Some((format!("steps[{at}].task.environment"), task.environment.as_str()))
            }
            Some(Action::Approval(approval)) => {
                let name = approval.environment.as_ref().map(Name::as_str);
                name.map(|name| (format!("steps[{at}].approval.environment"), name))
            }
            _ => None,
        };
        if let Some((field, name)) = named
            && deploy_step::environment(&tx.tenant, name).is_none()
        {
            return Err(Rejection::invalid(
                field,
                format!("there is no environment {}", fields::shown(name)),
            ));
        }
    }
    if deep(tx, template, &mut BTreeMap::new())? >= DEPTH_MAX {
        let problem = format!("workflows lie in one another more than {DEPTH_MAX} deep");
        return Err(Rejection::invalid("steps", problem));
    }
    has_outputs(tx, template)?;
    let known = tx.tenant.workflows.get(&template.name);
    if known.is_none() && tx.tenant.workflows.len() >= WORKFLOWS_MAX {
        return Err(Rejection::conflict(format!("there are {WORKFLOWS_MAX} workflows already")));
    }
    let newest = known.map_or(0, |workflow| workflow.newest());
    let same = known.is_some_and(|workflow| {
        workflow.removed.is_none()
            && workflow.versions.get(&newest).is_some_and(|version| version.template == *template)
    });
    if same {
        return Ok(Outcome::Workflow(newest));
    }
    if usize::try_from(newest).unwrap_or(usize::MAX) >= WORKFLOWS_MAX {
        let problem = format!("workflow {} has {newest} versions already; give it a new name", template.name);
        return Err(Rejection::Conflict { problem });
    }
    tx.emit(Fact::WorkflowApplied { version: newest + 1, template: Box::new(template.clone()) })?;
    Ok(Outcome::Workflow(newest + 1))
}

/// How deep other workflows lie in one. It ends, because what lies in it was there before it.
fn deep(
    tx: &Transaction<'_>,
    template: &Template,
    seen: &mut BTreeMap<(Name, u32), u32>,
) -> Result<u32, Rejection> {
    let mut deepest = 0;
    for (at, step) in template.steps.iter().enumerate() {
        let Some(SubWorkflow { name, version, .. }) = &step.workflow else { continue };
        let found = tx.tenant.workflows.get(name).and_then(|it| it.versions.get(version));
        let found = found.ok_or_else(|| {
            let problem = format!("there is no version {version} of workflow {name}; apply that first");
            Rejection::invalid(format!("steps[{at}].workflow"), problem)
        })?;
        let key = (name.clone(), *version);
        let inner = match seen.get(&key) {
            Some(inner) => *inner,
            None => deep(tx, &found.template, seen)?.saturating_add(1),
        };
        seen.insert(key, inner);
        deepest = deepest.max(inner);
    }
    Ok(deepest)
}

/// Whether the steps that run other workflows have the outputs that are used of them. Their versions are known to be there.
fn has_outputs(tx: &Transaction<'_>, template: &Template) -> Result<(), Rejection> {
    for UsedOutput { field, at, step, output } in used_outputs(template) {
        let Some(step) = template.step(&step) else { continue };
        let Some(SubWorkflow { name, version, .. }) = &step.workflow else { continue };
        let found = tx.tenant.workflows.get(name).and_then(|it| it.versions.get(version));
        let Some(inner) = found.map(|found| &found.template) else { continue };
        let own: &[&str] = if step.for_each.is_some() { &["runs"] } else { &["run", "runs"] };
        let mut names = own.iter().copied().chain(inner.outputs.keys().map(Identifier::as_str));
        if !names.clone().any(|it| it == output) {
            let all: Vec<&str> = names.by_ref().collect();
            let problem = format!(
                "{at}: step {} has no output {output}: version {version} of workflow {name} declares none of that name; there are {}",
                step.id,
                all.join(", ")
            );
            return Err(Rejection::invalid(field, problem));
        }
    }
    Ok(())
}

fn remove(tx: &mut Transaction<'_>, name: &Name, reason: &str) -> Result<Outcome, Rejection> {
    fields::reason(reason)?;
    let workflow = tx.tenant.workflows.get(name).ok_or_else(|| Rejection::not_found("workflow", name))?;
    if workflow.removed.is_none() {
        tx.emit(Fact::WorkflowRemoved { name: name.clone(), reason: reason.to_owned() })?;
    }
    Ok(Outcome::Done)
}

fn start(tx: &mut Transaction<'_>, new: &NewRun) -> Result<Outcome, Rejection> {
    begin(tx, new, None)
}

/// Starts a run, as part of another one or by itself.
pub(super) fn begin(
    tx: &mut Transaction<'_>,
    new: &NewRun,
    parent: Option<(RunId, Identifier)>,
) -> Result<Outcome, Rejection> {
    if tx.tenant.runs.contains_key(&new.id) {
        return Err(Rejection::exists(RunId::KIND, new.id));
    }
    let name = &new.workflow;
    let workflow = tx.tenant.workflows.get(name).ok_or_else(|| Rejection::not_found("workflow", name))?;
    if let Some(removed) = &workflow.removed {
        let why = if removed.reason.is_empty() { String::new() } else { format!(" ({})", removed.reason) };
        return Err(Rejection::conflict(format!(
            "workflow {name} was removed{why}; apply it again to run it"
        )));
    }
    let number = new.version.unwrap_or_else(|| workflow.newest());
    let version = workflow.versions.get(&number).ok_or_else(|| {
        Rejection::not_found(
            "version",
            format!("{number} of workflow {name}; the newest is {}", workflow.newest()),
        )
    })?;
    if tx.tenant.active_runs.len() >= ACTIVE_MAX {
        let problem =
            format!("{ACTIVE_MAX} runs are under way already; wait for the end of some, or cancel them");
        return Err(Rejection::Conflict { problem });
    }
    let inputs = complete("inputs", &version.template.inputs, &new.inputs)?;
    // Those of a part are those of the whole.
    let chosen_by = if parent.is_none() { hook::choosers(tx) } else { Vec::new() };
    let (id, workflow) = (new.id, name.clone());
    tx.emit(Fact::RunStarted { id, workflow, version: number, inputs, parent, chosen_by })?;
    Ok(Outcome::Run(new.id))
}

/// What was given, with what is there by default, if all of it is what it must be.
fn complete(
    field: &str,
    wanted: &BTreeMap<Identifier, Input>,
    given: &BTreeMap<Identifier, Value>,
) -> Result<BTreeMap<Identifier, Value>, Rejection> {
    if let Some(unknown) = given.keys().find(|name| !wanted.contains_key(name)) {
        let names: Vec<&str> = wanted.keys().map(Identifier::as_str).collect();
        let there = if names.is_empty() {
            "there are none".to_owned()
        } else {
            format!("there are {}", names.join(", "))
        };
        return Err(Rejection::invalid(format!("{field}.{unknown}"), format!("is not asked for; {there}")));
    }
    let mut complete = BTreeMap::new();
    for (name, input) in wanted {
        let field = || format!("{field}.{name}");
        let value = given.get(name).or(input.default.as_ref());
        let value = value.ok_or_else(|| Rejection::invalid(field(), "is missing, and has no default"))?;
        input.accepts(value).map_err(|problem| Rejection::invalid(field(), problem))?;
        complete.insert(name.clone(), value.clone());
    }
    Ok(complete)
}

/// Asks for the end of a run. Asking twice is asking once.
fn cancel(tx: &mut Transaction<'_>, id: RunId, reason: &str) -> Result<Outcome, Rejection> {
    fields::reason(reason)?;
    match &tx.run(id)?.status {
        RunStatus::Cancelling { .. } | RunStatus::Cancelled { .. } => return Ok(Outcome::Run(id)),
        status @ (RunStatus::Succeeded | RunStatus::Failed { .. }) => {
            return Err(Rejection::conflict(format!("run {id} has {} already", status.name())));
        }
        RunStatus::Running | RunStatus::Failing { .. } | RunStatus::Compensating { .. } => {}
    }
    tx.emit(Fact::RunTurned { id, turn: Turn::Cancelling { reason: reason.to_owned() } })?;
    Ok(Outcome::Run(id))
}

fn retry(tx: &mut Transaction<'_>, id: RunId, step: &Identifier) -> Result<Outcome, Rejection> {
    match state(tx, id, step)? {
        StepState::Held { .. } | StepState::BackingOff { .. } => run::go_on_with(tx, id, step)?,
        StepState::Failed { .. } => {
            let problem = format!(
                "step {step} of run {id} has failed for good; start a new run, and give the step a hold to have time for a retry"
            );
            return Err(Rejection::Conflict { problem });
        }
        other @ (StepState::Waiting
        | StepState::Running { .. }
        | StepState::Succeeded
        | StepState::Skipped
        | StepState::Cancelled) => {
            let problem = format!("step {step} of run {id} is {}, and has not failed", other.name());
            return Err(Rejection::Conflict { problem });
        }
    }
    Ok(Outcome::Run(id))
}

fn answer(
    tx: &mut Transaction<'_>,
    id: RunId,
    step: &Identifier,
    answers: &BTreeMap<Identifier, Value>,
) -> Result<Outcome, Rejection> {
    let StepState::Running { work: Work::Input, .. } = state(tx, id, step)? else {
        return Err(asks_nothing(tx, id, step, "an answer"));
    };
    let run = tx.run(id)?;
    let planned = tx.tenant.step_of(run, step).and_then(|step| step.input.clone()).unwrap_or_default();
    let outputs = complete("answers", &planned, answers)?;
    let outputs = outputs.into_iter().map(|(name, value)| (name.into(), value)).collect();
    tx.emit(Fact::StepEnded { run: id, step: step.clone(), end: StepEnd::Succeeded { outputs } })?;
    Ok(Outcome::Run(id))
}

/// Somebody agrees to a step, or does not. Agreeing twice is agreeing once.
fn decide(
    tx: &mut Transaction<'_>,
    id: RunId,
    step: &Identifier,
    approve: bool,
    reason: &str,
) -> Result<Outcome, Rejection> {
    fields::reason(reason)?;
    if let Some(asked) = state(tx, id, step)?.asked().filter(|asked| asked.is_manual()).cloned() {
        let (.., by) = decider(tx)?;
        if approve {
            is_free_to_approve(tx, id)?;
        }
        return gate_step::decide(tx, (id, step), asked, (approve, reason), by);
    }
    let StepState::Running { work: Work::Approval { needed, from, environment, approvals, .. }, .. } =
        state(tx, id, step)?
    else {
        return Err(asks_nothing(tx, id, step, "an approval"));
    };
    let (_, account, name) = decider(tx)?;
    if !from.is_empty() && from.binary_search(&account).is_err() {
        let problem = format!("account {name} is not among those whom the step names");
        return Err(Rejection::Forbidden { problem });
    }
    if !approve {
        tx.emit(Fact::StepRejected { run: id, step: step.clone(), reason: reason.to_owned() })?;
        let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        run::fail(tx, id, step, &format!("{name} did not approve{why}"), run::Again::Never)?;
        return Ok(Outcome::Run(id));
    }
    is_free_to_approve(tx, id)?;
    if approvals.iter().any(|approval| approval.by.id == account) {
        return Ok(Outcome::Run(id));
    }
    let place = environment.map_or(Scope::Tenant(tx.tenant.id), |it| Scope::Environment(tx.tenant.id, it));
    let choosers = tx.tenant.choosers_around(id);
    let has_chosen = |it: &Approval| {
        let chose = choosers.iter().any(|chooser| chooser.account().is_some_and(|by| by.id == it.by.id));
        chose.then(|| format!("account {} has answered what the run asked for since", it.by.name))
    };
    let (gone, approvals): (Vec<_>, Vec<_>) = approvals
        .into_iter()
        .map(|it| (access::no_approver(tx.system, &it.by, place).or_else(|| has_chosen(&it)), it))
        .partition(|(reason, _)| reason.is_some());
    for (reason, approval) in gone {
        let (step, account, reason) = (step.clone(), approval.by.id, reason.unwrap_or_default());
        tx.emit(Fact::StepApprovalLapsed { run: id, step, account, reason })?;
    }
    tx.emit(Fact::StepApproved { run: id, step: step.clone(), reason: reason.to_owned() })?;
    let mut names: Vec<Value> = approvals.iter().map(|(_, it)| Value::from(it.by.name.as_str())).collect();
    names.push(Value::from(name.as_str()));
    if names.len() >= usize::try_from(needed).unwrap_or(usize::MAX) {
        let outputs = BTreeMap::from([("approved_by".to_owned(), Value::Array(names))]);
        tx.emit(Fact::StepEnded { run: id, step: step.clone(), end: StepEnd::Succeeded { outputs } })?;
    }
    Ok(Outcome::Run(id))
}

/// Lets the approvals of an account for steps that still wait count no more where it may not approve now.
pub(super) fn lapse_of(tx: &mut Transaction<'_>, account: AccountId) -> Result<(), Rejection> {
    let runs = tx.tenant.active_runs.iter().filter_map(|id| tx.tenant.runs.get(id));
    let steps = runs.flat_map(|run| run.steps.iter().map(move |(id, step)| (run.id, id, &step.state)));
    let gone = steps.filter_map(|(run, step, state)| {
        let StepState::Running { work: Work::Approval { environment, approvals, .. }, .. } = state else {
            return None;
        };
        let tenant = tx.tenant.id;
        let place = environment.map_or(Scope::Tenant(tenant), |it| Scope::Environment(tenant, it));
        let approval = approvals.iter().find(|it| it.by.id == account)?;
        let reason = access::no_approver(tx.system, &approval.by, place)?;
        Some(Fact::StepApprovalLapsed { run, step: step.clone(), account, reason })
    });
    let gone: Vec<Fact> = gone.collect();
    gone.into_iter().try_for_each(|fact| tx.emit(fact))
}

/// Whether whoever asks may approve what a run does.
fn is_free_to_approve(tx: &Transaction<'_>, id: RunId) -> Result<(), Rejection> {
    let problem = if tx.run(id)?.is_started_by(tx.actor()) {
        "nobody approves in a run that they have started; somebody else has to"
    } else if tx.tenant.choosers_around(id).iter().any(|chooser| chooser.is(tx.actor())) {
        "nobody approves in a run for which they have chosen: they wrote its workflow, or one that is run with it, or answered what was asked for, or made the hook that started it or a secret of that; somebody else has to"
    } else {
        return Ok(());
    };
    Err(Rejection::Forbidden { problem: problem.to_owned() })
}

fn decider(tx: &Transaction<'_>) -> Result<(ApiTokenId, AccountId, Name), Rejection> {
    match tx.actor() {
        Actor::ApiToken { id, account: Some(account) } => Ok((*id, account.id, account.name.clone())),
        Actor::ApiToken { account: None, .. } | Actor::System | Actor::Agent { .. } | Actor::Hook { .. } => {
            let problem = "a step is approved by somebody: use a token that belongs to an account";
            Err(Rejection::Forbidden { problem: problem.to_owned() })
        }
    }
}

/// What became of a call. Of an attempt that is not under way any more it is no news.
fn answer_call(
    tx: &mut Transaction<'_>,
    id: RunId,
    step: &Identifier,
    attempt: u32,
    outcome: &CallOutcome,
) -> Result<Outcome, Rejection> {
    let current = tx.run(id)?.steps.get(step).filter(|it| it.attempts == attempt);
    let Some(outgoing) = current.and_then(|it| it.state.outgoing()) else { return Ok(Outcome::Done) };
    match verdict(outgoing, outcome) {
        Ok(outputs) => {
            tx.emit(Fact::StepEnded { run: id, step: step.clone(), end: StepEnd::Succeeded { outputs } })?;
        }
        Err(reason) => run::fail(tx, id, step, &reason, run::Again::IfPlanned)?,
    }
    Ok(Outcome::Done)
}

/// What of an answer others may use, or why it is a failure.
fn verdict(outgoing: Outgoing<'_>, outcome: &CallOutcome) -> Result<BTreeMap<String, Value>, String> {
    match (outgoing, outcome) {
        (_, CallOutcome::Failed { reason }) => Err(reason.clone()),
        (Outgoing::Notice(_), CallOutcome::Told) => Ok(BTreeMap::new()),
        (Outgoing::Call(request), CallOutcome::Answered { status, body }) => {
            let expected = if request.expect.is_empty() {
                (200..300).contains(status)
            } else {
                request.expect.contains(status)
            };
            if !expected {
                return Err(format!("the answer was {status}"));
            }
            let mut outputs = BTreeMap::from([("status".to_owned(), Value::from(*status))]);
            outputs.extend(body.clone().map(|body| ("body".to_owned(), body)));
            Ok(outputs)
        }
        (Outgoing::Notice(_), CallOutcome::Answered { .. }) | (Outgoing::Call(_), CallOutcome::Told) => {
            Err("the answer is one to something else".to_owned())
        }
    }
}

fn state(tx: &Transaction<'_>, id: RunId, step: &Identifier) -> Result<StepState, Rejection> {
    let run = tx.run(id)?;
    let found = run.steps.get(step);
    let found = found.ok_or_else(|| Rejection::not_found("step", format!("{step} in run {id}")))?;
    Ok(found.state.clone())
}

fn asks_nothing(tx: &Transaction<'_>, id: RunId, step: &Identifier, what: &str) -> Rejection {
    let found = tx.run(id).ok().and_then(|run| run.steps.get(step)).map_or("not there", |it| it.state.name());
    Rejection::conflict(format!("step {step} of run {id} does not wait for {what} (it is {found})"))
}
