//! What is wrong, from events: which one begins it, and which ones end it.

use serde::{Deserialize, Serialize};
use stella_domain::agent::Connectivity;
use stella_domain::deployment::{Cause, Deployment};
use stella_domain::event::Fact;
use stella_domain::name::{Identifier, Name};
use stella_domain::promotion::Promotion;
use stella_domain::run::{StepEnd, StepState, Work};
use stella_domain::tenant::TenantState;
pub use stella_domain::workflow::NoticeSeverity as Severity;
use stella_domain::workflow::{Action, Template};
use stella_protocol::id::{AgentId, DeploymentId, EnvironmentId, PromotionId, RunId, TenantId};
use stella_protocol::time::Timestamp;
use uuid::Uuid;

/// How much of somebody's reason is in a message, in characters.
const REASON_CHARS_MAX: usize = 300;

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An agent did not come back within the reconnect window.
    AgentOffline,
    /// A deployment failed, and nothing of its application was deployed there since.
    DeploymentFailed,
    /// A rollback is under way.
    Rollback,
    /// A promotion, a deployment that has brought everything, or a step of a workflow waits for somebody's approval or word.
    ApprovalWaiting,
    /// The disk of the control plane is too full for its journal: nothing happens, and no event says what would have.
    WritesRefused,
    /// A part of the control plane has panicked, and the others go on without it.
    PartFailed,
    /// A certificate of the control plane ends soon and was not renewed.
    CertificateExpiring,
}

/// Whose what is that belongs to no tenant.
pub const INSTALLATION: TenantId = TenantId(Uuid::nil());

impl Kind {
    /// Its name in the configuration and in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AgentOffline => "agent_offline",
            Self::DeploymentFailed => "deployment_failed",
            Self::Rollback => "rollback",
            Self::ApprovalWaiting => "approval_waiting",
            Self::WritesRefused => "writes_refused",
            Self::PartFailed => "part_failed",
            Self::CertificateExpiring => "certificate_expiring",
        }
    }

    /// How bad it is.
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self {
            Self::AgentOffline | Self::DeploymentFailed | Self::WritesRefused | Self::PartFailed => {
                Severity::Critical
            }
            Self::Rollback | Self::CertificateExpiring => Severity::Warning,
            Self::ApprovalWaiting => Severity::Info,
        }
    }

    /// Whether it is only worth telling while it lasts. The others are told also if they are over by then.
    #[must_use]
    pub const fn is_state(self) -> bool {
        matches!(self, Self::AgentOffline | Self::ApprovalWaiting) || self.is_of_installation()
    }

    /// Whether it is about the control plane itself: seen by looking, because no event may be there to say so.
    #[must_use]
    pub const fn is_of_installation(self) -> bool {
        matches!(self, Self::WritesRefused | Self::PartFailed | Self::CertificateExpiring)
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// What.
    pub kind: Kind,
    /// The id of what it is about; with the kind it names the incident.
    pub subject: String,
    /// The environment's name, if it is in one.
    pub environment: Option<String>,
    /// A sentence for people.
    pub summary: String,
    /// When it began.
    pub since: Timestamp,
    /// What else it ends with: a later success in the same place.
    pub scope: Option<String>,
}

/// Something that is wrong with the control plane itself, as whoever looked has seen it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What: of the installation.
    pub kind: Kind,
    /// Which one of several.
    pub subject: String,
    /// A sentence for people.
    pub summary: String,
}

/// What an event means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Something is wrong.
    Begins(Incident),
    /// Somebody was asked for something, has not answered, and is asked once more: also who was told before is told.
    AskedAgain(Incident),
    /// One thing is not wrong any more.
    Ends(Kind, String),
    /// Everything of a kind in a scope is not wrong any more.
    EndsIn(Kind, String),
    /// The same in all scopes that begin so: where it was is gone, and nothing could succeed there any more.
    EndsWithin(Kind, String),
}

impl Change {
    /// The same of what was told before and is told once more.
    fn again(self) -> Self {
        match self {
            Self::Begins(incident) => Self::AskedAgain(incident),
            other @ (Self::AskedAgain(_) | Self::Ends(..) | Self::EndsIn(..) | Self::EndsWithin(..)) => other,
        }
    }
}

/// What an event of a tenant means. The state is that of now, which may be later than the event.
#[must_use]
#[expect(clippy::wildcard_enum_match_arm, reason = "most events are nobody's concern at night")]
pub fn changes(tenant: &TenantState, fact: &Fact, at: Timestamp) -> Vec<Change> {
    match fact {
        Fact::AgentOffline { agent } => offline(tenant, *agent, at).into_iter().collect(),
        Fact::AgentUndrained { agent } if is_away(tenant, *agent) => {
            offline(tenant, *agent, at).into_iter().collect()
        }
        Fact::AgentConnected { agent, .. }
        | Fact::AgentRevoked { agent, .. }
        | Fact::AgentDraining { agent, .. } => {
            vec![Change::Ends(Kind::AgentOffline, agent.to_string())]
        }
        Fact::PromotionAskedAgain { id, .. } => {
            waiting(tenant, *id, at).map(Change::again).into_iter().collect()
        }
        Fact::PromotionRequested { id, .. }
        | Fact::PromotionRejected { id, .. }
        | Fact::PromotionWithdrawn { id, .. }
        | Fact::PromotionExpired { id }
        | Fact::PromotionInvalidated { id, .. }
        | Fact::ApprovalGranted { id, .. }
        | Fact::ApprovalLapsed { id, .. }
        | Fact::GateEvaluated { promotion: id, .. }
        | Fact::GateOverridden { promotion: id, .. } => vec![stands(tenant, *id, at)],
        Fact::EnvironmentGateSet { id, .. } | Fact::EnvironmentGateRemoved { id, .. } => {
            all_stand(tenant, *id, at)
        }
        Fact::DeploymentPaused { id, .. }
        | Fact::DeploymentResumed { id }
        | Fact::DeploymentHalted { id, .. }
        | Fact::DeploymentCancelRequested { id, .. }
        | Fact::DeploymentCreated { id, cause: Cause::Requested, .. } => {
            vec![stands(tenant, PromotionId(id.0), at)]
        }
        Fact::StepStarted { run, step, .. } | Fact::StepApprovalLapsed { run, step, .. } => {
            step_waiting(tenant, *run, step, at).into_iter().collect()
        }
        Fact::StepBackedOff { run, step, .. } | Fact::StepHeld { run, step, .. } => {
            step_ends_waiting(tenant, *run, step).into_iter().collect()
        }
        Fact::DeploymentCreated { id, cause: Cause::Rollback { of, reason }, .. } => {
            rollback(tenant, *id, *of, reason.name(), at).into_iter().collect()
        }
        Fact::DeploymentFailed { id, reason, .. } => {
            let over = Change::Ends(Kind::Rollback, id.to_string());
            [over].into_iter().chain(failed(tenant, *id, reason, at)).collect()
        }
        Fact::DeploymentCancelled { id, .. } => vec![Change::Ends(Kind::Rollback, id.to_string())],
        Fact::DeploymentSucceeded { id, .. } => {
            let over = Change::Ends(Kind::Rollback, id.to_string());
            // What only ends what nobody uses has fixed nothing.
            let ended = tenant.deployments.get(id);
            let ended = ended.filter(|it| !matches!(it.cause, Cause::Retirement { .. }));
            let place = ended.map(|deployment| scope(tenant, deployment));
            let fixed = place.map(|place| Change::EndsIn(Kind::DeploymentFailed, place));
            [over].into_iter().chain(fixed).collect()
        }
        Fact::StepEnded { run, step, end } => {
            // Also one that was settled as done after its job had failed.
            let has_succeeded = matches!(end, StepEnd::Succeeded { .. });
            let found = tenant.runs.get(run).and_then(|run| run.steps.get(step)).filter(|_| has_succeeded);
            let job = found.and_then(|step| tenant.deployments.get(&step.job?));
            let fixed = job.map(|job| Change::EndsIn(Kind::DeploymentFailed, scope(tenant, job)));
            step_ends_waiting(tenant, *run, step).into_iter().chain(fixed).collect()
        }
        _ => places_gone(tenant, fact),
    }
}

/// What ends because where it failed is gone.
#[expect(clippy::wildcard_enum_match_arm, reason = "few events take anything away")]
fn places_gone(tenant: &TenantState, fact: &Fact) -> Vec<Change> {
    let within = |scopes: String| Change::EndsWithin(Kind::DeploymentFailed, scopes);
    match fact {
        Fact::EnvironmentRemoved { id } => vec![within(format!("{id}/"))],
        Fact::WorkflowRemoved { name, .. } => {
            tenant.environments.keys().map(|environment| within(format!("{environment}/{name}/"))).collect()
        }
        Fact::WorkflowApplied { version, template } => without_steps(tenant, *version, template),
        _ => Vec::new(),
    }
}

/// What a workflow's new version ends: jobs of steps that it no longer has.
fn without_steps(tenant: &TenantState, version: u32, template: &Template) -> Vec<Change> {
    let name = &template.name;
    let before = tenant.workflows.get(name).and_then(|it| it.versions.get(&version.checked_sub(1)?));
    let steps = before.into_iter().flat_map(|before| &before.template.steps);
    let gone = steps.filter(|step| template.step(&step.id).is_none());
    let all = gone.flat_map(|step| tenant.environments.keys().map(move |it| (it, &step.id)));
    all.map(|(environment, step)| {
        Change::EndsIn(Kind::DeploymentFailed, format!("{environment}/{name}/{step}"))
    })
    .collect()
}

/// What is wrong in a tenant now and lasts: what a control plane that has told nobody yet begins with.
#[must_use]
pub fn lasting(tenant: &TenantState) -> Vec<Incident> {
    let agents = tenant.agents.values().filter_map(|agent| {
        let Connectivity::Offline { since } = agent.connectivity else { return None };
        offline(tenant, agent.id, since)
    });
    let promotions = tenant.open_promotions.iter().filter_map(|id| {
        let promotion = tenant.promotions.get(id)?;
        waiting(tenant, *id, promotion.requested_at)
    });
    let words = tenant.deployments_that_await_a_word().filter_map(|deployment| {
        let since = deployment.paused.as_ref()?.since;
        word_awaited(tenant, deployment, since)
    });
    let steps = tenant.steps_that_await_people().filter_map(|(run, step, _)| {
        let since = tenant.runs.get(&run)?.steps.get(step)?.started_at?;
        step_waiting(tenant, run, step, since)
    });
    let begins = |change| if let Change::Begins(incident) = change { Some(incident) } else { None };
    agents.chain(promotions).chain(words).chain(steps).filter_map(begins).collect()
}

/// Whether what lasts still does, as far as the state tells. The scope is that of the incident.
#[must_use]
pub fn still_lasts(tenant: Option<&TenantState>, kind: Kind, subject: &str, scope: Option<&str>) -> bool {
    if kind.is_of_installation() {
        // Whoever looks next knows.
        return true;
    }
    let Some(tenant) = tenant else { return false };
    match kind {
        Kind::AgentOffline => {
            subject.parse::<AgentId>().ok().and_then(|id| tenant.agents.get(&id)).is_some_and(|agent| {
                agent.revoked.is_none() && matches!(agent.connectivity, Connectivity::Offline { .. })
            })
        }
        Kind::ApprovalWaiting => match subject.split_once('/') {
            Some((run, step)) => {
                let run = run.parse().ok().and_then(|run: RunId| tenant.runs.get(&run));
                let step = run.and_then(|run| run.steps.iter().find(|(id, _)| id.as_str() == step));
                step.is_some_and(|(_, step)| step.state.awaits_people())
            }
            None => subject.parse().is_ok_and(|id| waits(tenant, id)),
        },
        Kind::DeploymentFailed => scope.is_none_or(|scope| is_there(tenant, scope)),
        Kind::Rollback | Kind::WritesRefused | Kind::PartFailed | Kind::CertificateExpiring => true,
    }
}

/// Whether something could succeed in a scope.
fn is_there(tenant: &TenantState, scope: &str) -> bool {
    let mut parts = scope.split('/');
    let environment = parts.next().and_then(|id| id.parse::<EnvironmentId>().ok());
    if environment.is_some_and(|id| !tenant.environments.contains_key(&id)) {
        return false;
    }
    let (Some(workflow), Some(step)) = (parts.next(), parts.next()) else { return true };
    let workflow = tenant.workflows.iter().find(|(name, _)| name.as_str() == workflow).map(|(_, it)| it);
    let newest = workflow.filter(|it| it.removed.is_none()).and_then(|it| it.versions.get_max());
    newest.is_some_and(|(_, version)| version.template.steps.iter().any(|it| it.id.as_str() == step))
}

fn is_away(tenant: &TenantState, id: AgentId) -> bool {
    tenant.agents.get(&id).is_some_and(|agent| matches!(agent.connectivity, Connectivity::Offline { .. }))
}

/// That the host of an agent that is draining goes away is what somebody wanted.
fn offline(tenant: &TenantState, id: AgentId, at: Timestamp) -> Option<Change> {
    let agent = tenant.agents.get(&id).filter(|it| it.revoked.is_none() && it.draining.is_none())?;
    Some(Change::Begins(Incident {
        kind: Kind::AgentOffline,
        subject: id.to_string(),
        environment: None,
        summary: format!("agent {} is offline", agent.name),
        since: at,
        scope: None,
    }))
}

fn waits(tenant: &TenantState, id: PromotionId) -> bool {
    tenant.promotions.get(&id).is_some_and(|it| tenant.awaits_people(it)) || holds(tenant, id).is_some()
}

/// The deployment that a promotion has become, if it holds until somebody says whether what it brought is good.
fn holds(tenant: &TenantState, id: PromotionId) -> Option<&Deployment> {
    tenant.deployments.get(&DeploymentId(id.0)).map(AsRef::as_ref).filter(|it| it.waits_for_a_word())
}

/// Whether a promotion, or what it has become, waits for people now.
fn stands(tenant: &TenantState, id: PromotionId, at: Timestamp) -> Change {
    waiting(tenant, id, at).unwrap_or_else(|| Change::Ends(Kind::ApprovalWaiting, id.to_string()))
}

/// The same for all promotions and deployments to an environment whose gates have changed.
fn all_stand(tenant: &TenantState, environment: EnvironmentId, at: Timestamp) -> Vec<Change> {
    let open = tenant.open_promotions.iter().filter_map(|id| tenant.promotions.get(id));
    let open = open.filter(|it| it.wanted.environment == environment).map(|it| it.id);
    let active = tenant.active_deployments.iter().filter_map(|id| tenant.deployments.get(id));
    let active = active.filter(|it| it.environment == environment).map(|it| PromotionId(it.id.0));
    open.chain(active).map(|id| stands(tenant, id, at)).collect()
}

fn waiting(tenant: &TenantState, id: PromotionId, at: Timestamp) -> Option<Change> {
    if let Some(deployment) = holds(tenant, id) {
        return word_awaited(tenant, deployment, at);
    }
    let promotion: &Promotion = tenant.promotions.get(&id).filter(|it| tenant.awaits_people(it))?;
    let release = tenant.recipe(promotion.wanted.release)?;
    let environment = environment(tenant, promotion.wanted.environment)?;
    let what = match (promotion.missing(), tenant.silent_gate(promotion)) {
        (0, Some(gate)) => somebodys_word(gate.as_str()),
        (missing, _) => more_approvals(missing),
    };
    Some(Change::Begins(Incident {
        kind: Kind::ApprovalWaiting,
        subject: id.to_string(),
        summary: format!(
            "promotion {id} of {}:{} to {environment} waits for {what}",
            release.application, release.version
        ),
        environment: Some(environment),
        since: at,
        scope: None,
    }))
}

/// A deployment that has brought its release everywhere and holds until somebody says whether it is good.
fn word_awaited(tenant: &TenantState, deployment: &Deployment, at: Timestamp) -> Option<Change> {
    let environment = environment(tenant, deployment.environment)?;
    let why = deployment.paused.as_ref().map(|it| shortened(&it.reason))?;
    Some(Change::Begins(Incident {
        kind: Kind::ApprovalWaiting,
        subject: deployment.id.to_string(),
        summary: format!(
            "deployment {} of {} to {environment} holds: {why}",
            deployment.id,
            release(tenant, deployment)
        ),
        environment: Some(environment),
        since: at,
        scope: None,
    }))
}

fn more_approvals(missing: u32) -> String {
    format!("{missing} more {}", if missing == 1 { "approval" } else { "approvals" })
}

fn somebodys_word(gate: &str) -> String {
    format!("somebody's word at gate {gate}")
}

/// What names a step that waits: no promotion has such an id.
fn step_subject(run: RunId, step: &Identifier) -> String {
    format!("{run}/{step}")
}

/// An approval step or a manual gate of a workflow, if it waits for people.
fn step_waiting(tenant: &TenantState, id: RunId, step: &Identifier, at: Timestamp) -> Option<Change> {
    let run = tenant.runs.get(&id)?;
    let state = &run.steps.get(step)?.state;
    let StepState::Running { work, .. } = state else { return None };
    let (what, message) = match work {
        Work::Approval { needed, approvals, message, .. } => {
            let given = u32::try_from(approvals.len()).unwrap_or(u32::MAX);
            (more_approvals(needed.saturating_sub(given)), message.as_str())
        }
        Work::Gate { asked: Some(asked), .. } if asked.is_manual() => {
            let gate = asked.name.as_ref().map_or(step.as_str(), Name::as_str);
            (somebodys_word(gate), asked.message.as_str())
        }
        Work::Gate { .. }
        | Work::Deployment { .. }
        | Work::Wait { .. }
        | Work::Input
        | Work::Http(_)
        | Work::Notify(_)
        | Work::Runs { .. } => return None,
    };
    let summary = format!("step {step} of run {id} of {} waits for {what}", run.workflow);
    Some(Change::Begins(Incident {
        kind: Kind::ApprovalWaiting,
        subject: step_subject(id, step),
        environment: state.approved_in().and_then(|it| environment(tenant, it)),
        summary: if message.is_empty() { summary } else { format!("{summary}: {}", shortened(message)) },
        since: at,
        scope: None,
    }))
}

/// The end of such a wait. Other steps never began one.
fn step_ends_waiting(tenant: &TenantState, id: RunId, step: &Identifier) -> Option<Change> {
    let planned = tenant.runs.get(&id).and_then(|run| tenant.step_of(run, step))?;
    let may = matches!(planned.action(), Some(Action::Approval(_) | Action::Gate(_)));
    may.then(|| Change::Ends(Kind::ApprovalWaiting, step_subject(id, step)))
}

fn failed(tenant: &TenantState, id: DeploymentId, reason: &str, at: Timestamp) -> Option<Change> {
    let deployment = tenant.deployments.get(&id)?;
    let environment = environment(tenant, deployment.environment)?;
    Some(Change::Begins(Incident {
        kind: Kind::DeploymentFailed,
        subject: id.to_string(),
        summary: match &deployment.cause {
            Cause::Job { workflow, step, .. } => {
                format!("job {id} of {workflow}/{step} in {environment} failed: {}", shortened(reason))
            }
            Cause::Requested | Cause::Rollback { .. } | Cause::Retirement { .. } => format!(
                "deployment {id} of {} to {environment} failed: {}",
                release(tenant, deployment),
                shortened(reason)
            ),
        },
        environment: Some(environment),
        since: at,
        scope: Some(scope(tenant, deployment)),
    }))
}

fn rollback(
    tenant: &TenantState,
    id: DeploymentId,
    of: DeploymentId,
    reason: &str,
    at: Timestamp,
) -> Option<Change> {
    let deployment = tenant.deployments.get(&id)?;
    let environment = environment(tenant, deployment.environment)?;
    Some(Change::Begins(Incident {
        kind: Kind::Rollback,
        subject: id.to_string(),
        summary: format!(
            "deployment {of} in {environment} is rolled back to {} ({reason})",
            release(tenant, deployment)
        ),
        environment: Some(environment),
        since: at,
        scope: None,
    }))
}

fn environment(tenant: &TenantState, id: EnvironmentId) -> Option<String> {
    tenant.environment_name(id).map(ToString::to_string)
}

fn release(tenant: &TenantState, deployment: &Deployment) -> String {
    tenant
        .releases
        .get(&deployment.release)
        .map(|it| format!("{}:{}", it.application, it.version))
        .unwrap_or_default()
}

/// An application in an environment: a success there ends what failed there. The same step of a workflow in an environment is another
/// scope: what it does brings nothing that could have been broken.
fn scope(tenant: &TenantState, deployment: &Deployment) -> String {
    if let Cause::Job { workflow, step, .. } = &deployment.cause {
        return format!("{}/{workflow}/{step}", deployment.environment);
    }
    let application = tenant.releases.get(&deployment.release).map(|it| it.application.to_string());
    format!("{}/{}", deployment.environment, application.unwrap_or_default())
}

fn shortened(reason: &str) -> String {
    let printable = reason.chars().map(|c| if c.is_control() { ' ' } else { c });
    printable.take(REASON_CHARS_MAX).collect()
}

/// The key under which an incident is in the book.
#[must_use]
pub fn key(tenant: TenantId, kind: Kind, subject: &str) -> String {
    format!("{tenant}/{}/{subject}", kind.name())
}
