//! What was measured leads to its trace, if that is sent: the newest example of each bucket. Examples are in memory, and gone after a restart; what
//! is counted is in the state ([`crate::durations`]), but for requests, which are counted by the API from the start of the process.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use stella_api::AnsweredRequest;
use stella_domain::deployment::Deployment;
use stella_domain::durations::{APPROVALS_MS, DEPLOYMENTS_MS, DISPATCHES_MS, STEPS_MS, TASKS_MS};
use stella_domain::event::{Event, Fact};
use stella_domain::name::Identifier;
use stella_domain::spans;
use stella_domain::task::Task;
use stella_domain::tenant::TenantState;
use stella_protocol::id::{AttemptKey, DeploymentId, EnvironmentId, PromotionId, RunId};
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceParent;
use stella_telemetry::exemplars::{Exemplar, Exemplars, Histogram};

use crate::traces::Traces;

/// Requests to the API, in seconds: from 1 ms. The API measures them itself, by method and path.
pub(crate) const REQUESTS: Histogram = Histogram {
    name: "stella_http_request_duration_seconds",
    bounds: &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0],
};
/// Deployments.
pub(crate) const DEPLOYMENTS: Histogram =
    Histogram { name: "stella_deployment_duration_seconds", bounds: &all_seconds(DEPLOYMENTS_MS) };
/// Approvals.
pub(crate) const APPROVALS: Histogram =
    Histogram { name: "stella_approval_duration_seconds", bounds: &all_seconds(APPROVALS_MS) };
/// Tasks on their agents.
pub(crate) const TASKS: Histogram =
    Histogram { name: "stella_agent_task_duration_seconds", bounds: &all_seconds(TASKS_MS) };
/// Steps of workflows.
pub(crate) const STEPS: Histogram =
    Histogram { name: "stella_workflow_step_duration_seconds", bounds: &all_seconds(STEPS_MS) };
/// Tasks on their way to their agents.
pub(crate) const DISPATCHES: Histogram =
    Histogram { name: "stella_task_dispatch_duration_seconds", bounds: &all_seconds(DISPATCHES_MS) };

const fn all_seconds<const N: usize>(bounds_ms: [u64; N]) -> [f64; N] {
    let mut bounds = [0.0; N];
    let mut at = 0;
    while at < N {
        bounds[at] = seconds(bounds_ms[at]);
        at += 1;
    }
    bounds
}

/// Milliseconds as seconds.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52, or nobody looks at the last digit")]
pub(crate) const fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

/// Where a measurement leads to.
struct Lead {
    trace: TraceParent,
    span: u64,
    /// Whether it is sent although it is not part of the sample.
    is_always_sent: bool,
    at_ms: u64,
}

/// Remembers an example of each size.
#[derive(Clone)]
pub(crate) struct Measurements {
    exemplars: Arc<Exemplars>,
    traces: Option<Arc<Traces>>,
}

impl Measurements {
    /// With examples if traces are sent anywhere.
    pub(crate) fn new(traces: Option<Arc<Traces>>) -> Self {
        Self { exemplars: Arc::default(), traces }
    }

    /// The examples.
    pub(crate) fn exemplars(&self) -> Arc<Exemplars> {
        Arc::clone(&self.exemplars)
    }

    /// Remembers a request, with its span. How long it took is measured where it was answered.
    pub(crate) fn request(&self, request: &AnsweredRequest, span: u64) {
        let labels = [("method", request.method.to_owned()), ("path", request.route.clone())];
        let ended = (request.started + request.took).duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_ms = u64::try_from(ended.as_millis()).unwrap_or(u64::MAX);
        let lead = Lead { trace: request.trace.parent(), span, is_always_sent: false, at_ms };
        self.remember(&REQUESTS, &labels, request.took, &lead);
    }

    /// Remembers what has ended with an event. The state is that after it, or a later one.
    #[expect(clippy::wildcard_enum_match_arm, reason = "only ends are measured")]
    pub(crate) fn take(&self, tenant: &TenantState, event: &Event) {
        if self.traces.is_none() {
            return;
        }
        match &event.fact {
            Fact::DeploymentSucceeded { id, .. }
            | Fact::DeploymentFailed { id, .. }
            | Fact::DeploymentCancelled { id, .. } => self.deployment(tenant, event, *id),
            Fact::ApprovalGranted { id, .. } => self.approval(tenant, event, *id),
            Fact::StepEnded { run, step, .. } => self.step(tenant, event.at, *run, step),
            Fact::TaskAccepted { key, .. } => self.dispatch(tenant, event.at, *key),
            Fact::TaskFinished { key, started_at: Some(started_at), finished_at, .. } => {
                self.task(tenant, event.at, *key, finished_at.since(*started_at));
            }
            _ => {}
        }
    }

    fn deployment(&self, tenant: &TenantState, event: &Event, id: DeploymentId) {
        let found = tenant.deployments.get(&id);
        let Some(deployment) = found.filter(|it| it.cause.brings_release()) else {
            return;
        };
        let labels = of_deployment(tenant, deployment);
        let lead = Lead {
            trace: deployment.trace.parent(),
            span: spans::deployment(id),
            is_always_sent: matches!(event.fact, Fact::DeploymentFailed { .. }),
            at_ms: event.at.0,
        };
        self.remember(&DEPLOYMENTS, &labels, event.at.since(deployment.created_at), &lead);
    }

    fn approval(&self, tenant: &TenantState, event: &Event, id: PromotionId) {
        let found = tenant.promotions.get(&id);
        let Some(promotion) = found.filter(|it| it.is_let_through_by(event)) else { return };
        let labels = of_environment(tenant, promotion.wanted.environment);
        let lead = Lead::of(promotion.trace.parent(), spans::approval(id), event.at);
        self.remember(&APPROVALS, &labels, event.at.since(promotion.requested_at), &lead);
    }

    fn step(&self, tenant: &TenantState, at: Timestamp, id: RunId, step: &Identifier) {
        let Some(run) = tenant.runs.get(&id) else { return };
        let started_at = run.steps.get(step).and_then(|step| step.started_at);
        let (Some(planned), Some(started_at)) = (tenant.step_of(run, step), started_at) else { return };
        let labels = [("step_type", planned.kind().to_owned())];
        let lead = Lead::of(run.trace.parent(), spans::step(id, step), at);
        self.remember(&STEPS, &labels, at.since(started_at), &lead);
    }

    /// An agent that starts or ends a task before it has accepted it is too quick to be looked into.
    fn dispatch(&self, tenant: &TenantState, at: Timestamp, key: AttemptKey) {
        let Some(task) = tenant.tasks.get(&key.task) else { return };
        let Some(deployment) = tenant.deployments.get(&task.deployment) else { return };
        let labels = of_environment(tenant, deployment.environment);
        let lead = Lead::of(task.trace, spans::dispatch(key), at);
        self.remember(&DISPATCHES, &labels, at.since(task.queued_at), &lead);
    }

    fn task(&self, tenant: &TenantState, at: Timestamp, key: AttemptKey, took: Duration) {
        let Some(task) = tenant.tasks.get(&key.task) else { return };
        let labels = of_task(tenant, task);
        self.remember(&TASKS, &labels, took, &Lead::of(task.trace, spans::execution(key), at));
    }

    fn remember(&self, of: &Histogram, labels: &[(&'static str, String)], took: Duration, lead: &Lead) {
        let Lead { trace, span, is_always_sent, at_ms } = *lead;
        let is_sent = |traces: &Arc<Traces>| traces.takes(trace) || (is_always_sent && trace.is_valid());
        if self.traces.as_ref().is_some_and(is_sent) {
            let value = took.as_secs_f64();
            let exemplar = Exemplar { trace_id: trace.trace_id, span_id: span, value, at_ms };
            self.exemplars.record(of, labels, exemplar);
        }
    }
}

impl Lead {
    const fn of(trace: TraceParent, span: u64, at: Timestamp) -> Self {
        Self { trace, span, is_always_sent: false, at_ms: at.0 }
    }
}

// === labels ===

fn of_deployment(tenant: &TenantState, deployment: &Deployment) -> [(&'static str, String); 3] {
    [
        ("tenant", tenant.name.to_string()),
        ("env", environment(tenant, deployment.environment)),
        ("strategy", deployment.strategy.name().to_owned()),
    ]
}

fn of_environment(tenant: &TenantState, id: EnvironmentId) -> [(&'static str, String); 2] {
    [("tenant", tenant.name.to_string()), ("env", environment(tenant, id))]
}

fn of_task(tenant: &TenantState, task: &Task) -> [(&'static str, String); 3] {
    let agent = tenant.agents.get(&task.agent).map(|it| it.name.to_string()).unwrap_or_default();
    [("tenant", tenant.name.to_string()), ("agent", agent), ("type", task.spec.kind().to_owned())]
}

fn environment(tenant: &TenantState, id: EnvironmentId) -> String {
    tenant.environment_name(id).map(ToString::to_string).unwrap_or_default()
}
