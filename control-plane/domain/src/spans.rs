//! The ids of the spans of a trace. They follow from what the spans are about, so that nobody has to remember them: after a restart
//! a span still has its parent, and an agent can be told the id of the span that is written once its task has ended.

use sha2::{Digest as _, Sha256};
use stella_protocol::id::{AttemptKey, DeploymentId, PromotionId, RunId};
use stella_protocol::trace::TraceContext;

use crate::deployment::Deployment;
use crate::name::Identifier;
use crate::task::Task;

/// Of the wait of a promotion for approvals.
#[must_use]
pub fn approval(id: PromotionId) -> u64 {
    derived(&[b"approval.wait", id.0.as_bytes()])
}

/// Of one verdict of a gate.
#[must_use]
pub fn gate(id: PromotionId, gate: &str, number: u32) -> u64 {
    derived(&[b"gate.evaluate", id.0.as_bytes(), &number.to_be_bytes(), gate.as_bytes()])
}

/// Of a whole deployment.
#[must_use]
pub fn deployment(id: DeploymentId) -> u64 {
    derived(&[b"deployment.execute", id.0.as_bytes()])
}

/// Of a run of a workflow.
#[must_use]
pub fn run(id: RunId) -> u64 {
    derived(&[b"workflow.run", id.0.as_bytes()])
}

/// Of one of its steps.
#[must_use]
pub fn step(run: RunId, step: &Identifier) -> u64 {
    derived(&[b"workflow.step", run.0.as_bytes(), step.as_str().as_bytes()])
}

/// Of an attempt's way to its agent.
#[must_use]
pub fn dispatch(key: AttemptKey) -> u64 {
    derived(&[b"task.dispatch", key.task.0.as_bytes(), &key.attempt.0.to_be_bytes()])
}

/// Of an attempt's execution.
#[must_use]
pub fn execution(key: AttemptKey) -> u64 {
    derived(&[b"agent.execute", key.task.0.as_bytes(), &key.attempt.0.to_be_bytes()])
}

/// What a task belongs to, without baggage.
#[must_use]
pub fn of_task(deployment: &Deployment, task: &Task) -> TraceContext {
    TraceContext { state: deployment.trace.state.clone(), ..task.trace.into() }
}

/// What a task's work belongs to: the trace that its deployment belongs to, in the span of its execution.
#[must_use]
pub fn of_work(deployment: &Deployment, task: &Task) -> TraceContext {
    let trace = of_task(deployment, task).with_span(execution(task.key()));
    TraceContext { baggage: deployment.trace.baggage.clone(), ..trace }
}

/// Every kind has parts of fixed length but for the last, so that two lists of parts never hash the same bytes.
fn derived(parts: &[&[u8]]) -> u64 {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    let mut bytes = [0; 8];
    for (byte, hashed) in bytes.iter_mut().zip(hash.finalize()) {
        *byte = hashed;
    }
    // Zero means that there is no span.
    u64::from_be_bytes(bytes).max(1)
}
