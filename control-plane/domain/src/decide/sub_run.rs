//! Steps that run other workflows, once or for each of several items.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use stella_protocol::id::RunId;

use super::deploy_step::{self, environment};
use super::outgoing::fill_in;
use super::run::{Again, variables};
use super::transaction::Transaction;
use super::workflow;
use crate::access;
use crate::command::{NewRun, TenantCommand};
use crate::event::Fact;
use crate::ids;
use crate::name::Identifier;
use crate::rejection::Rejection;
use crate::run::{Child, Run, RunStatus, StepRun, StepState, Turn, Work};
use crate::size;
use crate::tenant::TenantState;
use crate::workflow::{
    FAN_OUT_MAX, FILLED_BYTES_MAX, ForEach, InputKind, Step, SubWorkflow, Template, render,
};

/// Which runs an attempt of a step starts.
pub(super) fn children(
    tx: &Transaction<'_>,
    run: &Run,
    step: &Step,
    found: &StepRun,
) -> Result<Work, String> {
    let attempt = found.attempts.saturating_add(1);
    let id = |at: usize| ids::of_step_run(run.id, &step.id, attempt, at, tx.now);
    let items = match &step.for_each {
        None => return Ok(Work::Runs { runs: vec![Child { item: None, run: id(0) }] }),
        Some(ForEach::Items(items)) => {
            let variables = variables(run, tx.meter());
            let fill = |(at, text): (usize, &String)| {
                render(text, &variables).map_err(|problem| format!("for_each[{at}] {problem}"))
            };
            items.iter().enumerate().map(fill).collect::<Result<Vec<_>, _>>()?
        }
        Some(ForEach::Targets(wanted)) => {
            let place = render(&wanted.environment, &variables(run, tx.meter()))
                .map_err(|problem| format!("for_each.environment {problem}"))?;
            let environment =
                environment(&tx.tenant, &place).ok_or_else(|| format!("there is no environment {place}"))?;
            let targets = tx.tenant.targets_with(environment, &wanted.labels);
            targets.map(|target| target.name.to_string()).collect()
        }
    };
    if items.is_empty() {
        return Err("there is nothing to do it for: no target has these labels".to_owned());
    }
    if items.len() > FAN_OUT_MAX {
        return Err(format!("there are {} to do it for; at most {FAN_OUT_MAX} are possible", items.len()));
    }
    // What an earlier attempt has brought to its end is not done again.
    let done = |item: &String| {
        let before = found.parts.iter().find(|part| part.item.as_ref() == Some(item))?;
        let run = tx.tenant.runs.get(&before.run)?;
        (run.status == RunStatus::Succeeded).then_some(before.run)
    };
    let child = |(at, item): (usize, String)| {
        let run = done(&item).unwrap_or_else(|| id(at));
        Child { item: Some(item), run }
    };
    let runs: Vec<Child> = items.into_iter().enumerate().map(child).collect();
    let bytes = size::of(&runs);
    if bytes > FILLED_BYTES_MAX {
        return Err(format!(
            "for_each becomes {bytes} bytes when it is filled in; at most {FILLED_BYTES_MAX} are possible"
        ));
    }
    Ok(Work::Runs { runs })
}

/// Starts the runs of a step, with the authority of whoever has started the one that it is in.
pub(super) fn start(
    tx: &mut Transaction<'_>,
    run: &Run,
    step: &Step,
    sub: &SubWorkflow,
    runs: &[Child],
) -> Result<(), Rejection> {
    let pinned = tx.tenant.workflows.get(&sub.name).and_then(|it| it.versions.get(&sub.version));
    let pinned = pinned.map(|version| version.template.clone()).ok_or_else(|| {
        Rejection::not_found("version", format!("{} of workflow {}", sub.version, sub.name))
    })?;
    let mut variables = variables(run, tx.meter());
    for Child { item, run: id } in runs {
        if tx.tenant.runs.contains_key(id) {
            continue;
        }
        if let Some(item) = item {
            variables.set("item", Value::String(item.clone()));
        }
        let mut inputs = BTreeMap::new();
        for (name, value) in &sub.inputs {
            let filled = fill_in(value, &variables).map_err(|problem| {
                Rejection::invalid(format!("inputs.{name}"), problem.trim_start_matches("body "))
            })?;
            inputs.insert(name.clone(), typed(&pinned, name, filled));
        }
        let new = NewRun { id: *id, workflow: sub.name.clone(), version: Some(sub.version), inputs };
        let command = TenantCommand::StartRun(Box::new(new.clone()));
        access::check_authority(tx.system, tx.actor(), tx.tenant.id, &command, tx.now)?;
        workflow::begin(tx, &new, Some((run.id, step.id.clone())))?;
    }
    Ok(())
}

/// A text that an expression has become, as what the input wants.
fn typed(template: &Template, name: &Identifier, value: Value) -> Value {
    let Value::String(text) = &value else { return value };
    match template.inputs.get(name).map(|input| input.kind) {
        Some(InputKind::Number) => text.parse::<i64>().map_or_else(|_| value.clone(), Value::from),
        Some(InputKind::Boolean) => text.parse::<bool>().map_or_else(|_| value.clone(), Value::from),
        Some(InputKind::Text | InputKind::Choice) | None => value,
    }
}

/// How the runs of a step ended; `None` if one of them has not.
pub(super) fn verdict(
    tenant: &TenantState,
    runs: &[Child],
) -> Option<Result<BTreeMap<String, Value>, (String, Again)>> {
    let found: Vec<(&Child, &Arc<Run>)> =
        runs.iter().filter_map(|child| Some((child, tenant.runs.get(&child.run)?))).collect();
    if found.iter().any(|(_, run)| !run.status.is_final()) {
        return None;
    }
    let mut failed = found.iter().filter_map(|(child, run)| {
        let of = child.item.as_ref().map(|item| format!(" for {item}")).unwrap_or_default();
        match &run.status {
            RunStatus::Failed { reason } => {
                Some((format!("run {}{of} failed: {reason}", run.id), Again::IfPlanned))
            }
            RunStatus::Cancelled { hold } => {
                Some((format!("run {}{of} was cancelled: {}", run.id, hold.reason), Again::Never))
            }
            RunStatus::Running
            | RunStatus::Failing { .. }
            | RunStatus::Compensating { .. }
            | RunStatus::Cancelling { .. }
            | RunStatus::Succeeded => None,
        }
    });
    if let Some(first) = failed.next() {
        return Some(Err(first));
    }
    let ids: Vec<Value> = found.iter().map(|(_, run)| json!(run.id)).collect();
    let mut outputs = BTreeMap::from([("runs".to_owned(), Value::Array(ids))]);
    if let [(Child { item: None, .. }, run)] = found.as_slice() {
        outputs.insert("run".to_owned(), json!(run.id));
        outputs.extend(run.outputs.clone());
    } else {
        outputs.extend(of_each(&found));
    }
    Some(Ok(outputs))
}

/// What the runs for several items hand on: a list of each output, in the order of the items.
fn of_each(found: &[(&Child, &Arc<Run>)]) -> BTreeMap<String, Value> {
    let names = found.first().into_iter().flat_map(|(_, run)| run.outputs.keys());
    let list = |name: &String| {
        found.iter().map(|(_, run)| run.outputs.get(name).cloned().unwrap_or_default()).collect()
    };
    names.map(|name| (name.clone(), Value::Array(list(name)))).collect()
}

/// Ends the runs of a step; their ends are noticed like any other.
pub(super) fn stop(tx: &mut Transaction<'_>, runs: &[Child], reason: &str) -> Result<(), Rejection> {
    for Child { run, .. } in runs {
        let goes_on =
            tx.tenant.runs.get(run).is_some_and(|it| {
                !it.status.is_final() && !matches!(it.status, RunStatus::Cancelling { .. })
            });
        if goes_on {
            let turn = Turn::Cancelling { reason: reason.to_owned() };
            tx.emit(Fact::RunTurned { id: *run, turn })?;
        }
    }
    Ok(())
}

/// Turns a run away as the one did that it is part of, if anything of it would begin yet. One whose last work is under way comes to its
/// end by itself, and counts for what it comes to: what has succeeded as a whole may be made up for as a whole.
pub(super) fn turn_with_whole(tx: &mut Transaction<'_>, id: RunId) -> Result<(), Rejection> {
    let run = tx.tenant.runs.get(&id).filter(|it| it.status == RunStatus::Running);
    let Some(run) = run.filter(|it| begins_more(&tx.tenant, it)) else { return Ok(()) };
    match turned_with_whole(&tx.tenant, run) {
        Some(turn) => tx.emit(Fact::RunTurned { id, turn }),
        None => Ok(()),
    }
}

/// How the whole has turned away that a run is part of; `None` if it has not, or if the run is what makes up for that.
pub(super) fn turned_with_whole(tenant: &TenantState, run: &Run) -> Option<Turn> {
    let mut part = run;
    loop {
        let (whole, step) = part.parent.as_ref()?;
        let whole = tenant.runs.get(whole)?;
        if tenant.step_of(whole, step)?.compensates.is_some() {
            return None;
        }
        let reason = || "the run that it is part of has failed".to_owned();
        match &whole.status {
            RunStatus::Running => part = whole,
            RunStatus::Failing { .. } => return Some(Turn::Failing { reason: reason() }),
            RunStatus::Compensating { .. } => return Some(Turn::Compensating { reason: reason() }),
            // Its parts are cancelled with it.
            RunStatus::Cancelling { .. }
            | RunStatus::Succeeded
            | RunStatus::Failed { .. }
            | RunStatus::Cancelled { .. } => return None,
        }
    }
}

/// Whether anything of a run is still to begin, here or in what is part of it.
fn begins_more(tenant: &TenantState, run: &Run) -> bool {
    let makes_up = |step: &Identifier| tenant.step_of(run, step).is_some_and(|it| it.compensates.is_some());
    let steps = run.steps.iter().filter(|(id, _)| !makes_up(id));
    steps.map(|(_, step)| &step.state).any(|state| match state {
        StepState::Waiting | StepState::BackingOff { .. } | StepState::Held { .. } => true,
        StepState::Running { work, .. } => match work {
            Work::Wait { .. } | Work::Approval { .. } | Work::Input | Work::Gate { .. } => true,
            Work::Deployment { deployment } => deploy_step::is_only_asked_for(tenant, *deployment),
            Work::Runs { runs } => {
                let parts = runs.iter().filter_map(|part| tenant.runs.get(&part.run));
                parts.filter(|part| !part.status.is_final()).any(|part| begins_more(tenant, part))
            }
            Work::Http(_) | Work::Notify(_) => false,
        },
        StepState::Succeeded | StepState::Failed { .. } | StepState::Skipped | StepState::Cancelled => false,
    })
}

/// The run that a run is part of, whose step waits for its end.
pub(super) fn parent(tenant: &TenantState, id: RunId) -> Option<RunId> {
    // A whole whose time was up may have ended before this part of it, and be in the archive.
    let whole = tenant.runs.get(&id)?.parent.as_ref().map(|(run, _)| *run);
    whole.filter(|whole| tenant.runs.contains_key(whole))
}
