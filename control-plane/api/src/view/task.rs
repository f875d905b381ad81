//! Tasks and what they print.

use base64::Engine;
use stella_api_types::target::Quarantine;
use stella_api_types::task::{Cancellation as CancellationDto, OutputLine, Task as TaskDto, TaskProbe};
use stella_domain::probe::{Probe, Standing};
use stella_domain::target::Target;
use stella_domain::task::{Cancellation, Ended, Task, TaskState};
use stella_domain::tenant::TenantState;
use stella_protocol::message::{OutputChunk, OutputSource};
use stella_protocol::time::Timestamp;

use super::{agent_named, target_named, time};

/// A task of this tenant.
pub(crate) fn task(tenant: &TenantState, task: &Task) -> TaskDto {
    let said = said(&task.state);
    TaskDto {
        id: task.id.to_string(),
        deployment: task.deployment.to_string(),
        target: target_named(tenant, task.target),
        agent: agent_named(tenant, task.agent),
        step: task.step.to_string(),
        kind: task.spec.kind().to_owned(),
        attempt: task.attempt.0,
        generation: task.generation.0,
        state: task.state.name().to_owned(),
        is_final: task.state.is_final(),
        reason: said.reason.filter(|reason| !reason.is_empty()).map(str::to_owned),
        exit_code: said.exit_code,
        cancel_requested: task.cancel_requested,
        cancellation: task.cancellation().map(|it| cancellation(task, it)),
        probe: task.probe.as_ref().map(probe),
        timeout_ms: task.spec.timeout_ms(),
        queued_at: time(task.queued_at),
        started_at: said.started_at.map(time),
        finished_at: said.finished_at.map(time),
        trace_id: (task.trace.trace_id != 0).then(|| format!("{:032x}", task.trace.trace_id)),
    }
}

fn cancellation(task: &Task, it: Cancellation) -> CancellationDto {
    let (since, is_open) = match it {
        Cancellation::Requested => (None, true),
        Cancellation::Under(ending) => (Some(ending.at), true),
        Cancellation::Confirmed => (said(&task.state).finished_at, false),
        Cancellation::Unconfirmed { since } => (Some(since), false),
    };
    CancellationDto {
        state: it.name().to_owned(),
        since: since.map(time),
        due_at: task.overdue_at.filter(|_| is_open).map(time),
    }
}

fn probe(it: &Probe) -> TaskProbe {
    match &it.standing {
        Standing::Asked { until } => TaskProbe {
            state: "asked".to_owned(),
            since: time(it.asked_at),
            until: Some(time(*until)),
            found: None,
        },
        Standing::Answered { at, answer } => TaskProbe {
            state: answer.name().to_owned(),
            since: time(*at),
            until: None,
            found: Some(answer.words().to_owned()),
        },
    }
}

/// Why nobody knows what has become of a task, and what its host says about that.
pub(super) fn unknown(task: &Task) -> Option<String> {
    let TaskState::Unknown { since: _, reason } = &task.state else { return None };
    let unprobed = task.unprobed().map(|unprobed| format!("; {unprobed}")).unwrap_or_default();
    Some(format!("task {} is unknown: {reason}{unprobed}", task.id))
}

/// Why a target is quarantined, if it is.
pub(crate) fn quarantine(tenant: &TenantState, target: &Target) -> Option<Quarantine> {
    let task = tenant.tasks.get(&target.blocked_by?)?;
    let TaskState::Unknown { since, reason } = &task.state else { return None };
    Some(Quarantine {
        task: task.id.to_string(),
        step: task.step.to_string(),
        deployment: task.deployment.to_string(),
        since: time(*since),
        reason: task.unprobed().map_or_else(|| reason.clone(), |unprobed| format!("{reason}; {unprobed}")),
    })
}

/// What a state says beside its name.
#[derive(Default)]
struct Said<'a> {
    reason: Option<&'a str>,
    exit_code: Option<i32>,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
}

fn said(state: &TaskState) -> Said<'_> {
    match state {
        TaskState::Queued | TaskState::Dispatched { .. } | TaskState::Accepted { .. } => Said::default(),
        TaskState::Running { started_at } => Said { started_at: Some(*started_at), ..Said::default() },
        TaskState::Unknown { since: _, reason } => Said { reason: Some(reason), ..Said::default() },
        TaskState::Succeeded(ended)
        | TaskState::Failed(ended)
        | TaskState::TimedOut(ended)
        | TaskState::Cancelled(ended)
        | TaskState::Interrupted(ended) => {
            let Ended { started_at, at, reason, exit_code } = ended;
            Said {
                reason: Some(reason),
                exit_code: *exit_code,
                started_at: *started_at,
                finished_at: Some(*at),
            }
        }
    }
}

/// A piece of output and its number.
pub(crate) fn output_line(record: u64, chunk: &OutputChunk) -> OutputLine {
    let source = match chunk.source {
        OutputSource::Stdout => "stdout",
        OutputSource::Stderr => "stderr",
        OutputSource::Agent => "agent",
    };
    let text = std::str::from_utf8(&chunk.bytes).ok().map(str::to_owned);
    let base64 = text.is_none().then(|| base64::engine::general_purpose::STANDARD.encode(&chunk.bytes));
    OutputLine { record, source: source.to_owned(), at: time(chunk.at), text, base64 }
}
