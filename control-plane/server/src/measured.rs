//! What has ended is measured. Unlike the projections, these figures count from the start of the process, as Prometheus expects of it.
//! What was measured leads to its trace, if that is sent.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use metrics::{counter, histogram};
use stella_api::AnsweredRequest;
use stella_domain::deployment::Deployment;
use stella_domain::event::{Event, Fact};
use stella_domain::name::Identifier;
use stella_domain::promotion::Promotion;
use stella_domain::spans;
use stella_domain::task::Task;
use stella_domain::tenant::TenantState;
use stella_protocol::id::{AttemptKey, DeploymentId, EnvironmentId, PromotionId, RunId, TaskId};
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceParent;
use stella_telemetry::exemplars::{Exemplar, Exemplars, Histogram};

use crate::traces::Traces;

/// Requests to the API, in seconds: from 1 ms. The API measures them itself, by method and path.
const REQUESTS: Histogram = Histogram {
    name: "stella_http_request_duration_seconds",
    bounds: &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0],
};
/// Deployments, in seconds: to hours.
pub(crate) const DEPLOYMENTS: Histogram = Histogram {
    name: "stella_deployment_duration_seconds",
    bounds: &[1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 7_200.0, 21_600.0],
};
/// Approvals, in seconds: from a minute to four weeks.
pub(crate) const APPROVALS: Histogram = Histogram {
    name: "stella_approval_duration_seconds",
    bounds: &[
        60.0,
        300.0,
        900.0,
        3_600.0,
        14_400.0,
        28_800.0,
        57_600.0,
        86_400.0,
        172_800.0,
        259_200.0,
        432_000.0,
        604_800.0,
        1_209_600.0,
        2_419_200.0,
    ],
};
/// Tasks, in seconds.
pub(crate) const TASKS: Histogram = Histogram {
    name: "stella_agent_task_duration_seconds",
    bounds: &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1_800.0, 3_600.0],
};
/// Steps of workflows, in seconds: from a call to a wait of days.
pub(crate) const STEPS: Histogram = Histogram {
    name: "stella_workflow_step_duration_seconds",
    bounds: &[0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0, 604_800.0],
};
/// All that have buckets of their own.
pub(crate) const HISTOGRAMS: [Histogram; 5] = [REQUESTS, DEPLOYMENTS, APPROVALS, TASKS, STEPS];

/// Where a measurement leads to.
struct Lead {
    trace: TraceParent,
    span: u64,
    /// Whether it is sent although it is not part of the sample.
    is_always_sent: bool,
    at_ms: u64,
}

/// Measures, and remembers an example of each size.
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

    /// Measures what has ended with an event. The state is that after it.
    ///
    /// What begins has its series from then on, at 0: an increase is seen only of what was there before.
    #[expect(clippy::wildcard_enum_match_arm, reason = "only beginnings and ends are measured")]
    pub(crate) fn take(&self, tenant: &TenantState, event: &Event) {
        match &event.fact {
            Fact::DeploymentCreated { id, .. } => begin_deployment(tenant, *id),
            Fact::PromotionRequested { id, .. } => begin_approval(tenant, *id),
            Fact::StepStarted { run, step, .. } => begin_step(tenant, *run, step),
            Fact::TaskQueued { task, .. } => begin_task(tenant, *task),
            Fact::DeploymentSucceeded { id }
            | Fact::DeploymentFailed { id, .. }
            | Fact::DeploymentCancelled { id, .. } => self.deployment(tenant, event, *id),
            Fact::ApprovalGranted { id, .. } => self.approval(tenant, event, *id),
            Fact::StepEnded { run, step, .. } => self.step(tenant, event.at, *run, step),
            Fact::TaskFinished { key, started_at, finished_at, .. } => {
                let took = started_at.map(|started_at| finished_at.since(started_at));
                self.task(tenant, event.at, *key, took);
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
        self.record(&DEPLOYMENTS, &labels, event.at.since(deployment.created_at), &lead);
    }

    fn approval(&self, tenant: &TenantState, event: &Event, id: PromotionId) {
        let found = tenant.promotions.get(&id);
        let Some(promotion) = found.filter(|it| it.is_let_through_by(event)) else { return };
        let labels = of_approval(tenant, promotion);
        let lead = Lead::of(promotion.trace.parent(), spans::approval(id), event.at);
        self.record(&APPROVALS, &labels, event.at.since(promotion.requested_at), &lead);
    }

    fn step(&self, tenant: &TenantState, at: Timestamp, id: RunId, step: &Identifier) {
        let Some(run) = tenant.runs.get(&id) else { return };
        let started_at = run.steps.get(step).and_then(|step| step.started_at);
        let (Some(planned), Some(started_at)) = (tenant.step_of(run, step), started_at) else { return };
        let labels = [("step_type", planned.kind().to_owned())];
        let lead = Lead::of(run.trace.parent(), spans::step(id, step), at);
        self.record(&STEPS, &labels, at.since(started_at), &lead);
    }

    fn task(&self, tenant: &TenantState, at: Timestamp, key: AttemptKey, took: Option<Duration>) {
        let Some(task) = tenant.tasks.get(&key.task) else { return };
        let labels = of_task(tenant, task);
        let status = ("status", task.state.name().to_owned());
        counter!("stella_agent_tasks_total", &[labels.as_slice(), &[status]].concat()).increment(1);
        if let Some(took) = took {
            self.record(&TASKS, &labels, took, &Lead::of(task.trace, spans::execution(key), at));
        }
    }

    fn record(&self, of: &Histogram, labels: &[(&'static str, String)], took: Duration, lead: &Lead) {
        histogram!(of.name, labels).record(took);
        self.remember(of, labels, took, lead);
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

// === what begins has its series ===

fn begin_deployment(tenant: &TenantState, id: DeploymentId) {
    if let Some(deployment) = tenant.deployments.get(&id).filter(|it| it.cause.brings_release()) {
        drop(histogram!(DEPLOYMENTS.name, &of_deployment(tenant, deployment)));
    }
}

fn begin_approval(tenant: &TenantState, id: PromotionId) {
    if let Some(promotion) = tenant.promotions.get(&id) {
        drop(histogram!(APPROVALS.name, &of_approval(tenant, promotion)));
    }
}

fn begin_step(tenant: &TenantState, id: RunId, step: &Identifier) {
    let found = tenant.runs.get(&id).and_then(|run| tenant.step_of(run, step));
    if let Some(planned) = found {
        drop(histogram!(STEPS.name, &[("step_type", planned.kind().to_owned())]));
    }
}

fn begin_task(tenant: &TenantState, id: TaskId) {
    if let Some(task) = tenant.tasks.get(&id) {
        let labels = of_task(tenant, task);
        drop(histogram!(TASKS.name, &labels));
        for status in ["succeeded", "failed"] {
            let status = ("status", status.to_owned());
            counter!("stella_agent_tasks_total", &[labels.as_slice(), &[status]].concat()).increment(0);
        }
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

fn of_approval(tenant: &TenantState, promotion: &Promotion) -> [(&'static str, String); 2] {
    [("tenant", tenant.name.to_string()), ("env", environment(tenant, promotion.wanted.environment))]
}

fn of_task(tenant: &TenantState, task: &Task) -> [(&'static str, String); 3] {
    let agent = tenant.agents.get(&task.agent).map(|it| it.name.to_string()).unwrap_or_default();
    [("tenant", tenant.name.to_string()), ("agent", agent), ("type", task.spec.kind().to_owned())]
}

fn environment(tenant: &TenantState, id: EnvironmentId) -> String {
    tenant.environment_name(id).map(ToString::to_string).unwrap_or_default()
}
