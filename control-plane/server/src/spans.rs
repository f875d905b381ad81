//! From durable events and answered requests to the spans of the operations overview. What takes long is written when it has ended,
//! from the state: a deployment or an approval may outlive the process in which it began.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stella_api::AnsweredRequest;
use stella_domain::event::{Event, Fact, StreamId};
use stella_domain::name::Identifier;
use stella_domain::promotion::Promotion;
use stella_domain::run::{RunStatus, StepState};
use stella_domain::spans;
use stella_domain::task::{Task, TaskState};
use stella_domain::tenant::TenantState;
use stella_domain::workflow::Action;
use stella_engine::Committed;
use stella_otlp::{KeyValue, Span, SpanKind};
use stella_protocol::id::{AttemptKey, DeploymentId, PromotionId, RunId};
use stella_protocol::message::capability;
use stella_protocol::time::Timestamp;
use stella_readers::live::Live;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::traces::{Service, Traces};

/// Of how many attempts it is remembered when they were sent. Of others it is taken to be when they were queued.
const ON_THEIR_WAY_MAX: usize = 100_000;

/// Follows the journal until `until` is cancelled.
pub(crate) async fn follow(mut journal: Live, traces: Arc<Traces>, until: CancellationToken) {
    let mut spans = Spans { traces, on_their_way: HashMap::new() };
    while let Some(commit) = journal.next(&until).await {
        spans.take(&commit);
    }
}

/// The span of an answered request. If the caller has a span it is the parent, and what follows from the request has it too.
/// Answers with its id.
pub(crate) fn of_request(traces: &Traces, request: &AnsweredRequest) -> u64 {
    let (id, parent) = if request.is_callers {
        (Uuid::new_v4().as_u64_pair().1.max(1), request.trace.span_id)
    } else {
        (request.trace.span_id, 0)
    };
    let mut attributes = vec![
        KeyValue::new("http.method", request.method),
        KeyValue::new("http.url", request.path.clone()),
        KeyValue::new("http.route", request.route.clone()),
        KeyValue::new("http.status_code", i64::from(request.status)),
    ];
    attributes.extend(request.user_agent.clone().map(|agent| KeyValue::new("http.user_agent", agent)));
    attributes.extend(request.tenant.map(|tenant| KeyValue::new("tenant.id", tenant.to_string())));
    traces.write(
        Service::ControlPlane,
        Span {
            trace: request.trace.clone(),
            id,
            parent,
            name: "http.request",
            kind: SpanKind::Server,
            start: request.started,
            end: request.started + request.took,
            attributes,
            error: (request.status >= 500).then(|| format!("status {}", request.status)),
        },
    );
    id
}

struct Spans {
    traces: Arc<Traces>,
    /// When attempts were sent that have not been accepted.
    on_their_way: HashMap<AttemptKey, Timestamp>,
}

impl Spans {
    fn take(&mut self, commit: &Committed) {
        for committed in &commit.events {
            let StreamId::Tenant(id) = committed.stream else { continue };
            if let Some(tenant) = commit.state.tenants.get(&id) {
                self.event(tenant, &committed.event);
            }
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "only ends are spans")]
    fn event(&mut self, tenant: &TenantState, event: &Event) {
        match &event.fact {
            Fact::DeploymentSucceeded { id, .. } => self.deployment(tenant, *id, event.at, None),
            Fact::DeploymentFailed { id, reason, .. } => {
                self.make_up_for(tenant, *id);
                self.deployment(tenant, *id, event.at, Some(reason));
            }
            Fact::DeploymentCancelled { id, reason } => {
                self.deployment(tenant, *id, event.at, Some(reason));
            }
            Fact::StepEnded { run, step, .. } => {
                self.step(tenant, *run, step, event.at);
                self.step_approval(tenant, *run, step, event);
            }
            Fact::RunEnded { id, .. } => self.run(tenant, *id, event.at),
            Fact::ApprovalGranted { id, .. }
                if tenant.promotions.get(id).is_some_and(|it| it.is_let_through_by(event)) =>
            {
                self.approval(tenant, *id, event.at, "approved");
            }
            Fact::PromotionRejected { id, .. } => self.approval(tenant, *id, event.at, "rejected"),
            Fact::PromotionWithdrawn { id, .. } => self.approval(tenant, *id, event.at, "withdrawn"),
            Fact::PromotionExpired { id } => self.approval(tenant, *id, event.at, "expired"),
            Fact::PromotionInvalidated { id, .. } => self.approval(tenant, *id, event.at, "invalidated"),
            Fact::GateEvaluated { .. } => self.gate(tenant, event),
            Fact::StepGateEvaluated { .. } => self.step_gate(tenant, event),
            Fact::TaskDispatched { key, .. } if self.on_their_way.len() < ON_THEIR_WAY_MAX => {
                self.on_their_way.insert(*key, event.at);
            }
            Fact::TaskAccepted { key, .. } => self.dispatch(tenant, *key, event.at),
            Fact::TaskBecameUnknown { key, .. } | Fact::TaskHandedBack { key, .. } => {
                self.on_their_way.remove(key);
            }
            Fact::TaskFinished { key, started_at, finished_at, .. } => {
                // An agent may refuse it, or be so quick that it says both at once.
                if self.on_their_way.contains_key(key) {
                    self.dispatch(tenant, *key, event.at);
                }
                if let Some(started_at) = started_at {
                    self.execution(tenant, *key, *started_at, *finished_at);
                }
            }
            _ => {}
        }
    }

    fn deployment(&self, tenant: &TenantState, id: DeploymentId, end: Timestamp, reason: Option<&str>) {
        let Some(deployment) = tenant.deployments.get(&id) else { return };
        let environment = tenant.environments.get(&deployment.environment);
        self.traces.write(
            Service::ControlPlane,
            Span {
                trace: deployment.trace.clone(),
                id: spans::deployment(id),
                parent: deployment.trace.span_id,
                name: "deployment.execute",
                kind: SpanKind::Internal,
                start: time(deployment.created_at),
                end: time(end),
                attributes: vec![
                    KeyValue::new("release_id", deployment.release.to_string()),
                    KeyValue::new(
                        "environment",
                        environment.map(|it| it.name.to_string()).unwrap_or_default(),
                    ),
                    KeyValue::new("deployment_id", id.to_string()),
                    KeyValue::new("tenant.id", tenant.id.to_string()),
                    KeyValue::new("strategy", deployment.strategy.name()),
                    KeyValue::new("status", deployment.status.name()),
                    KeyValue::new("targets", i64::from(deployment.counts.total())),
                ],
                error: reason.map(str::to_owned),
            },
        );
    }

    /// A deployment that failed is looked into, whether it is part of the sample or not: what was left out of it is written now,
    /// from the state, and what follows from it when it ends.
    fn make_up_for(&mut self, tenant: &TenantState, id: DeploymentId) {
        let Some(deployment) = tenant.deployments.get(&id) else { return };
        if self.traces.takes(deployment.trace.parent()) {
            return;
        }
        self.traces.want(deployment.trace.parent());
        let promotion = tenant.promotions.get(&PromotionId(id.0));
        if let Some(last) = promotion.and_then(|promotion| promotion.approvals.last()) {
            self.approval(tenant, PromotionId(id.0), last.at, "approved");
        }
        for task in tenant.tasks_of(deployment) {
            let Some((started_at, ended_at)) = ran(&task.state) else { continue };
            self.dispatch(tenant, task.key(), started_at.unwrap_or(ended_at));
            if let Some(started_at) = started_at {
                self.execution(tenant, task.key(), started_at, ended_at);
            }
        }
    }

    fn run(&self, tenant: &TenantState, id: RunId, end: Timestamp) {
        let Some(run) = tenant.runs.get(&id) else { return };
        let error = matches!(run.status, RunStatus::Failed { .. }).then(|| "failed".to_owned());
        self.traces.write(
            Service::ControlPlane,
            Span {
                trace: run.trace.clone(),
                id: spans::run(id),
                parent: run.trace.span_id,
                name: "workflow.run",
                kind: SpanKind::Internal,
                start: time(run.started_at),
                end: time(end),
                attributes: vec![
                    KeyValue::new("template_id", run.workflow.to_string()),
                    KeyValue::new("template_version", i64::from(run.version)),
                    KeyValue::new("status", run.status.name()),
                    KeyValue::new("run_id", id.to_string()),
                    KeyValue::new("tenant.id", tenant.id.to_string()),
                ],
                error,
            },
        );
    }

    /// Only of steps that were begun.
    fn step(&self, tenant: &TenantState, id: RunId, step: &Identifier, end: Timestamp) {
        let Some(run) = tenant.runs.get(&id) else { return };
        let (Some(planned), Some(found)) = (tenant.step_of(run, step), run.steps.get(step)) else { return };
        let Some(started_at) = found.started_at else { return };
        let failed = found.state.name() == "failed";
        self.traces.write(
            Service::ControlPlane,
            Span {
                trace: run.trace.clone(),
                id: spans::step(id, step),
                parent: spans::run(id),
                name: "workflow.step",
                kind: SpanKind::Internal,
                start: time(started_at),
                end: time(end),
                attributes: vec![
                    KeyValue::new("step_type", planned.kind()),
                    KeyValue::new("node_id", step.to_string()),
                    KeyValue::new("status", found.state.name()),
                    KeyValue::new("attempts", i64::from(found.attempts)),
                    KeyValue::new("run_id", id.to_string()),
                    KeyValue::new("tenant.id", tenant.id.to_string()),
                ],
                // What a step was answered may be in the reason, and is not for everybody who sees traces.
                error: failed.then(|| "failed".to_owned()),
            },
        );
    }

    /// Only of promotions that needed somebody.
    fn approval(&self, tenant: &TenantState, id: PromotionId, end: Timestamp, decision: &'static str) {
        let Some(promotion): Option<&Promotion> = tenant.promotions.get(&id).map(AsRef::as_ref) else {
            return;
        };
        if promotion.rule.is_none() {
            return;
        }
        let waited = end.since(promotion.requested_at);
        self.traces.write(
            Service::ControlPlane,
            Span {
                trace: promotion.trace.clone(),
                id: spans::approval(id),
                parent: promotion.trace.span_id,
                name: "approval.wait",
                kind: SpanKind::Internal,
                start: time(promotion.requested_at),
                end: time(end),
                attributes: vec![
                    KeyValue::new("promotion_id", id.to_string()),
                    KeyValue::new("duration", waited.as_secs_f64()),
                    KeyValue::new("tenant.id", tenant.id.to_string()),
                    KeyValue::new("decision", decision),
                ],
                error: None,
            },
        );
    }

    /// The same of an approval step that was begun, below its own span: with all of its attempts.
    fn step_approval(&self, tenant: &TenantState, id: RunId, step: &Identifier, event: &Event) {
        let Some(run) = tenant.runs.get(&id) else { return };
        let (Some(planned), Some(found)) = (tenant.step_of(run, step), run.steps.get(step)) else { return };
        let Some(Action::Approval(_)) = planned.action() else { return };
        let Some(started_at) = found.started_at else { return };
        let (end, decision) = match (&found.state, found.rejected_at) {
            (StepState::Succeeded, _) => (event.at, "approved"),
            (StepState::Cancelled, _) => (event.at, "cancelled"),
            // Somebody may have had time to begin it anew since.
            (_, Some(rejected_at)) => (rejected_at, "rejected"),
            // It has asked nobody.
            (_, None) if started_at == event.at => return,
            (_, None) => (event.at, "expired"),
        };
        self.traces.write(
            Service::ControlPlane,
            Span {
                trace: run.trace.clone(),
                id: spans::step_approval(id, step),
                parent: spans::step(id, step),
                name: "approval.wait",
                kind: SpanKind::Internal,
                start: time(started_at),
                end: time(end),
                attributes: vec![
                    KeyValue::new("run_id", id.to_string()),
                    KeyValue::new("step", step.to_string()),
                    KeyValue::new("duration", end.since(started_at).as_secs_f64()),
                    KeyValue::new("tenant.id", tenant.id.to_string()),
                    KeyValue::new("decision", decision),
                ],
                error: None,
            },
        );
    }

    /// From the question, if there was one, to the verdict. Of several verdicts in one batch the state has the last one's question only.
    fn gate(&self, tenant: &TenantState, event: &Event) {
        let Fact::GateEvaluated { promotion: id, gate, kind, number, outcome, policy, .. } = &event.fact
        else {
            return;
        };
        let Some(promotion) = tenant.promotions.get(id) else { return };
        let record = tenant.gates.get(id).and_then(|records| records.get(gate));
        let asked_at = record
            .filter(|it| it.evaluations == *number)
            .and_then(|it| it.verdict.as_ref())
            .map_or(event.at, |it| it.asked_at);
        self.traces.write(
            Service::ControlPlane,
            Span {
                trace: promotion.trace.clone(),
                id: spans::gate(*id, gate.as_str(), *number),
                parent: promotion.trace.span_id,
                name: "gate.evaluate",
                kind: SpanKind::Internal,
                start: time(asked_at),
                end: time(event.at),
                attributes: vec![
                    KeyValue::new("gate_type", kind.clone()),
                    KeyValue::new("result", outcome.name()),
                    KeyValue::new("gate", gate.to_string()),
                    KeyValue::new("promotion_id", id.to_string()),
                    KeyValue::new("policy", policy.to_string()),
                    KeyValue::new("tenant.id", tenant.id.to_string()),
                ],
                error: None,
            },
        );
    }

    /// The same of a gate that a step of a run looks at, below the span of the step.
    fn step_gate(&self, tenant: &TenantState, event: &Event) {
        let Fact::StepGateEvaluated { run: id, step, attempt, gate, kind, policy, asked_at, outcome, .. } =
            &event.fact
        else {
            return;
        };
        let Some(run) = tenant.runs.get(id) else { return };
        let gate = gate.as_ref().map_or_else(|| step.to_string(), ToString::to_string);
        self.traces.write(
            Service::ControlPlane,
            Span {
                trace: run.trace.clone(),
                id: spans::step_gate(*id, step, *attempt),
                parent: spans::step(*id, step),
                name: "gate.evaluate",
                kind: SpanKind::Internal,
                start: time(*asked_at),
                end: time(event.at),
                attributes: vec![
                    KeyValue::new("gate_type", kind.clone()),
                    KeyValue::new("result", outcome.name()),
                    KeyValue::new("gate", gate),
                    KeyValue::new("run_id", id.to_string()),
                    KeyValue::new("policy", policy.to_string()),
                    KeyValue::new("tenant.id", tenant.id.to_string()),
                ],
                error: None,
            },
        );
    }

    fn dispatch(&mut self, tenant: &TenantState, key: AttemptKey, end: Timestamp) {
        let sent_at = self.on_their_way.remove(&key);
        let Some(task) = tenant.tasks.get(&key.task) else { return };
        let name = "task.dispatch";
        let (start, end) = (time(sent_at.unwrap_or(task.queued_at)), time(end));
        self.task(tenant, task, key, name, Service::ControlPlane, SpanKind::Producer, start, end);
    }

    fn execution(&self, tenant: &TenantState, key: AttemptKey, start: Timestamp, end: Timestamp) {
        let Some(task) = tenant.tasks.get(&key.task) else { return };
        let agent = tenant.agents.get(&task.agent);
        // What it was told is sampled it has sent. What is wanted nevertheless is known here only.
        if task.trace.sampled && agent.is_some_and(|it| it.capabilities & capability::SPANS != 0) {
            return;
        }
        let (start, end) = (time(start), time(end.max(start)));
        self.task(tenant, task, key, "agent.execute", Service::Agent, SpanKind::Consumer, start, end);
    }

    #[expect(clippy::too_many_arguments, reason = "two spans of one task differ in these")]
    fn task(
        &self,
        tenant: &TenantState,
        task: &Task,
        key: AttemptKey,
        name: &'static str,
        service: Service,
        kind: SpanKind,
        start: SystemTime,
        end: SystemTime,
    ) {
        let executes = service == Service::Agent;
        let (id, parent) = if executes {
            (spans::execution(key), spans::dispatch(key))
        } else {
            (spans::dispatch(key), spans::deployment(task.deployment))
        };
        let agent = tenant.agents.get(&task.agent).map(|agent| agent.name.to_string());
        let target = tenant.targets.get(&task.target).map(|target| target.name.to_string());
        let mut attributes = vec![
            KeyValue::new("target_id", task.target.to_string()),
            KeyValue::new("agent_id", task.agent.to_string()),
            KeyValue::new("task_id", task.id.to_string()),
            KeyValue::new("attempt", i64::from(key.attempt.0)),
            KeyValue::new("tenant.id", tenant.id.to_string()),
            KeyValue::new("target", target.unwrap_or_default()),
            KeyValue::new("agent", agent.unwrap_or_default()),
        ];
        if executes {
            let took = end.duration_since(start).unwrap_or_default();
            attributes.push(KeyValue::new("task_type", task.spec.kind()));
            attributes.push(KeyValue::new("duration", took.as_secs_f64()));
            attributes.push(KeyValue::new("step", task.step.to_string()));
            attributes.push(KeyValue::new("status", task.state.name()));
        }
        // What a command printed may be in the reason, and is not for everybody who sees traces.
        let failed = executes && task.state.is_final() && task.state.name() != "succeeded";
        let error = failed.then(|| task.state.name().to_owned());
        let Some(deployment) = tenant.deployments.get(&task.deployment) else { return };
        let trace = spans::of_task(deployment, task);
        let span = Span { trace, id, parent, name, kind, start, end, attributes, error };
        self.traces.write(service, span);
    }
}

fn time(at: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(at.0)
}

/// When it started, if it did, and when it ended; `None` if it has not ended, or nobody can tell.
const fn ran(state: &TaskState) -> Option<(Option<Timestamp>, Timestamp)> {
    match state {
        TaskState::Succeeded(ended)
        | TaskState::Failed(ended)
        | TaskState::TimedOut(ended)
        | TaskState::Cancelled(ended)
        | TaskState::Interrupted(ended) => Some((ended.started_at, ended.at)),
        TaskState::Queued
        | TaskState::Dispatched { .. }
        | TaskState::Accepted { .. }
        | TaskState::Running { .. }
        | TaskState::Unknown { .. } => None,
    }
}
