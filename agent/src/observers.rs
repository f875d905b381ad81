//! Who is told how attempts ended: the agent's own figures, if they are served, and a collector of traces, if there is one.

use std::sync::Arc;

use stella_protocol::id::{AttemptKey, TargetId};
use stella_protocol::message::{TaskOutcome, TracedDispatch};
use stella_protocol::trace::TraceContext;

use crate::journal::Ending;
use crate::metrics::Figures;
use crate::spans::Spans;

/// An attempt, for who is told how it ended.
#[derive(Clone, Debug)]
pub struct Attempted {
    /// Which.
    pub key: AttemptKey,
    /// What kind of task it is.
    pub kind: &'static str,
    /// The target that it changes.
    pub target: TargetId,
    /// The target's name.
    pub target_name: String,
    /// The trace that it belongs to, in the span of its execution.
    pub trace: TraceContext,
}

impl Attempted {
    /// What was dispatched.
    #[must_use]
    pub fn new(traced: &TracedDispatch) -> Self {
        let dispatch = &traced.dispatch;
        Self {
            key: dispatch.key(),
            kind: dispatch.spec.kind(),
            target: dispatch.target,
            target_name: dispatch.target_name.clone(),
            trace: traced.trace().without_baggage(),
        }
    }
}

/// What lines of the log about an attempt have in common: the trace that it belongs to. It is there at every level that the log may have.
pub(crate) fn log_span(trace: &TraceContext) -> tracing::Span {
    let trace_id = trace.is_valid().then(|| format!("{:032x}", trace.trace_id));
    let span_id = trace.is_valid().then(|| format!("{:016x}", trace.span_id));
    tracing::error_span!("attempt", traceId = trace_id, spanId = span_id)
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Observers {
    /// The agent's own figures.
    pub figures: Option<Arc<Figures>>,
    /// Where the spans of attempts go.
    pub spans: Option<Arc<Spans>>,
}

impl Observers {
    /// Tells them. Never waits.
    pub(crate) fn ended(&self, attempt: &Attempted, ending: &Ending) {
        if let Some(figures) = &self.figures {
            figures.ended(attempt, ending);
        }
        if let Some(spans) = &self.spans {
            spans.ended(attempt, ending);
        }
    }
}

/// What attempts end with that are settled.
pub(crate) const ENDS: [&str; 5] = ["succeeded", "failed", "timed_out", "cancelled", "interrupted"];

/// What an attempt came to, by the names of the control plane.
pub(crate) const fn status(outcome: &TaskOutcome) -> &'static str {
    match outcome {
        TaskOutcome::Succeeded => "succeeded",
        TaskOutcome::Failed { .. } | TaskOutcome::Refused { .. } => "failed",
        TaskOutcome::TimedOut => "timed_out",
        TaskOutcome::Cancelled => "cancelled",
        TaskOutcome::Interrupted => "interrupted",
        TaskOutcome::Unknown { .. } => "unknown",
    }
}
