//! The ids of the spans of a trace. They follow from what the spans are about, so that nobody has to remember them: after a restart
//! a span still has its parent, and an agent can be told the id of the span that is written once its task has ended.

use stella_protocol::id::{DeploymentId, PromotionId, RunId};
use stella_protocol::span::derived;
pub use stella_protocol::span::{dispatch, execution};
use stella_protocol::trace::TraceContext;

use crate::deployment::Deployment;
use crate::name::Identifier;
use crate::task::Task;

/// Of the wait of a promotion for approvals.
#[must_use]
pub fn approval(id: PromotionId) -> u64 {
    derived(&[b"approval.wait", id.0.as_bytes()])
}

/// Of the wait of a step for approvals.
#[must_use]
pub fn step_approval(run: RunId, step: &Identifier) -> u64 {
    derived(&[b"approval.wait", run.0.as_bytes(), step.as_str().as_bytes()])
}

/// Of one verdict of a gate.
#[must_use]
pub fn gate(id: PromotionId, gate: &str, number: u32) -> u64 {
    derived(&[b"gate.evaluate", id.0.as_bytes(), &number.to_be_bytes(), gate.as_bytes()])
}

/// Of one verdict of a gate that a step looks at.
#[must_use]
pub fn step_gate(run: RunId, step: &Identifier, attempt: u32) -> u64 {
    derived(&[b"gate.evaluate", run.0.as_bytes(), &attempt.to_be_bytes(), step.as_str().as_bytes()])
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
