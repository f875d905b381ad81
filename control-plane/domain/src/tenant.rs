//! Tenants: the boundary of isolation. Everything that belongs to one is in its [`TenantState`] and in its journal stream.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};
use stella_protocol::digest::Digest;
use stella_protocol::id::{
    AgentId, ApiTokenId, DeploymentId, EnrolmentTokenId, EnvironmentId, HookId, PromotionId, ReleaseId,
    RunId, TargetId, TaskId, TenantId,
};
use stella_protocol::message::JournalMark;
use stella_protocol::time::Timestamp;

use crate::agent::{Agent, EnrolmentToken, NOTE_EVERY_MS, NOTES_BURST};
use crate::archive::Archived;
use crate::channel::Channel;
use crate::command::Outcome;
use crate::deployment::{Deployment, Status};
use crate::durations::Durations;
use crate::environment::Environment;
use crate::findings::Reports;
use crate::gate::{Check, Record, Standing};
use crate::hook::Hook;
use crate::name::{Identifier, Name, Version};
use crate::promotion::Promotion;
use crate::release::Release;
use crate::run::{Run, StepState};
use crate::signature::{ReleaseKey, SignatureRule, Signatures};
use crate::target::Target;
use crate::task::Task;
use crate::workflow::Workflow;

/// How long the answer to an idempotent request is remembered, in milliseconds.
pub const REQUEST_MEMORY_MS: u64 = 24 * 3_600_000;

/// All of one tenant. Cloning is cheap: the maps share their structure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantState {
    /// Its id.
    pub id: TenantId,
    /// Its name, unique in the installation.
    pub name: Name,
    /// When it was created.
    pub created_at: Timestamp,
    /// Stages.
    pub environments: OrdMap<EnvironmentId, Arc<Environment>>,
    /// The names of stages that are there no more, for what is remembered of them.
    #[serde(default, skip_serializing_if = "OrdMap::is_empty")]
    pub former_environments: OrdMap<EnvironmentId, Name>,
    /// Hosts and slots.
    pub targets: OrdMap<TargetId, Arc<Target>>,
    /// Enrolled identities.
    pub agents: OrdMap<AgentId, Arc<Agent>>,
    /// Tokens to enrol with.
    pub enrolment_tokens: OrdMap<EnrolmentTokenId, Arc<EnrolmentToken>>,
    /// Archives that were uploaded, and their size in bytes.
    pub artifacts: OrdMap<Digest, u64>,
    /// Releases.
    pub releases: OrdMap<ReleaseId, Arc<Release>>,
    /// What jobs run that no release has, by the id that each of them knows it by. Nothing else can name it.
    #[serde(default, skip_serializing_if = "OrdMap::is_empty")]
    pub jobs: OrdMap<ReleaseId, Arc<Release>>,
    /// Keys that sign releases, by fingerprint.
    #[serde(default)]
    pub release_keys: OrdMap<Digest, Arc<ReleaseKey>>,
    /// Signatures of releases.
    #[serde(default)]
    pub signatures: OrdMap<ReleaseId, Arc<Signatures>>,
    /// Channels by application and name.
    #[serde(default)]
    pub channels: OrdMap<Name, OrdMap<Name, Arc<Channel>>>,
    /// Which signatures every release must have; `None` is none.
    #[serde(default)]
    pub signing: Option<SignatureRule>,
    /// Promotions.
    #[serde(default)]
    pub promotions: OrdMap<PromotionId, Arc<Promotion>>,
    /// Promotions that wait: for approvals, or for what keeps them from starting.
    #[serde(default)]
    pub open_promotions: OrdSet<PromotionId>,
    /// What the gates said about promotions, by the gates' names.
    #[serde(default)]
    pub gates: OrdMap<PromotionId, Arc<BTreeMap<Name, Record>>>,
    /// What scanners have found in releases.
    #[serde(default)]
    pub findings: OrdMap<ReleaseId, Reports>,
    /// Deployments.
    pub deployments: OrdMap<DeploymentId, Arc<Deployment>>,
    /// Incoming webhooks.
    #[serde(default, skip_serializing_if = "OrdMap::is_empty")]
    pub hooks: OrdMap<HookId, Arc<Hook>>,
    /// Workflows.
    #[serde(default)]
    pub workflows: OrdMap<Name, Arc<Workflow>>,
    /// Executions of them.
    #[serde(default)]
    pub runs: OrdMap<RunId, Arc<Run>>,
    /// Runs that have not ended.
    #[serde(default)]
    pub active_runs: OrdSet<RunId>,
    /// The steps that wait for deployments.
    #[serde(default)]
    pub awaited: OrdMap<DeploymentId, (RunId, Identifier)>,
    /// The steps that wait for the answer to a call.
    #[serde(default)]
    pub calls: OrdSet<(RunId, Identifier)>,
    /// The steps that wait for the answer of a gate from outside.
    #[serde(default, skip_serializing_if = "OrdSet::is_empty")]
    pub gate_steps: OrdSet<(RunId, Identifier)>,
    /// Until when the colours are kept that ended deployments have left idle, as far as that has an end.
    #[serde(default)]
    pub kept: OrdMap<DeploymentId, Timestamp>,
    /// Of which targets of which deployments each agent is asked whether they could go back.
    #[serde(default)]
    pub inspections: OrdMap<AgentId, OrdSet<(DeploymentId, TargetId)>>,
    /// Tasks.
    pub tasks: OrdMap<TaskId, Arc<Task>>,
    /// Tasks of each agent that are not final: what to dispatch, to resend and to compare at a reconnect.
    pub unsettled: OrdMap<AgentId, OrdSet<TaskId>>,
    /// What each agent has in hand and what waits for it.
    pub work: OrdMap<AgentId, Arc<AgentWork>>,
    /// Who has which name.
    pub index: Index,
    /// Agents whose session was lost and that have no new one, by when.
    #[serde(default)]
    pub silent: OrdSet<(Timestamp, AgentId)>,
    /// Deployments that are not final.
    pub active_deployments: OrdSet<DeploymentId>,
    /// What is due when.
    pub timers: OrdSet<(Timestamp, Timer)>,
    /// Answers that were given, by idempotency key.
    pub requests: OrdMap<String, AnsweredRequest>,
    /// What was counted, for metrics that survive a restart.
    pub totals: Totals,
    /// How much has left memory for the archive.
    #[serde(default)]
    pub archived: Archived,
}

impl TenantState {
    /// Whether an agent may have a name: nobody has it, or one that was revoked.
    #[must_use]
    pub fn is_free_for_agent(&self, name: &Name) -> bool {
        let holder = self.index.agents.get(name).and_then(|id| self.agents.get(id));
        holder.is_none_or(|agent| agent.revoked.is_some())
    }

    /// The name of an environment, also of one that was removed: the one that it had last.
    #[must_use]
    pub fn environment_name(&self, id: EnvironmentId) -> Option<&Name> {
        let there = self.environments.get(&id).map(|environment| &environment.name);
        there.or_else(|| self.former_environments.get(&id))
    }

    /// Whether a promotion waits for people: for approvals, or for what somebody has to say at a gate.
    #[must_use]
    pub fn awaits_people(&self, promotion: &Promotion) -> bool {
        promotion.is_open() && (!promotion.is_approved() || self.silent_gate(promotion).is_some())
    }

    /// A gate before a promotion at which somebody has to say something, and nobody has.
    #[must_use]
    pub fn silent_gate(&self, promotion: &Promotion) -> Option<&Name> {
        let environment = self.environments.get(&promotion.wanted.environment)?;
        let records = self.gates.get(&promotion.id);
        let said = |standing: &Standing| {
            let record = records.and_then(|all| all.get(&standing.gate.name));
            record.is_some_and(|record| {
                let verdict = record.verdict.as_ref().is_some_and(|it| it.policy == standing.policy);
                verdict || record.is_overridden(standing.policy)
            })
        };
        let mut gates = environment.gates.values().filter(|it| !it.gate.verifies);
        let silent = gates.find(|it| matches!(it.gate.check, Check::Manual) && !said(it));
        silent.map(|it| &it.gate.name)
    }

    /// Deployments that have brought their release everywhere, and hold until somebody says whether it is good.
    pub fn deployments_that_await_a_word(&self) -> impl Iterator<Item = &Deployment> {
        let active = self.active_deployments.iter().filter_map(|id| self.deployments.get(id));
        active.map(AsRef::as_ref).filter(|it| it.waits_for_a_word())
    }

    /// The steps of runs that wait for people.
    pub fn steps_that_await_people(&self) -> impl Iterator<Item = (RunId, &Identifier, &StepState)> {
        let runs = self.active_runs.iter().filter_map(|id| self.runs.get(id));
        let steps = runs.flat_map(|run| run.steps.iter().map(|(id, step)| (run.id, id, &step.state)));
        steps.filter(|(.., state)| state.awaits_people())
    }

    /// The targets of an environment that have all of these labels, in the order of their names.
    pub fn targets_with<'t>(
        &'t self,
        environment: EnvironmentId,
        labels: &'t BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'t Target> {
        let names = self.index.targets.get(&environment).into_iter().flat_map(|names| names.values());
        let targets = names.filter_map(|id| self.targets.get(id)).map(AsRef::as_ref);
        targets.filter(|it| labels.iter().all(|(label, value)| it.labels.get(label) == Some(value)))
    }

    /// A tenant that has nothing yet.
    pub(crate) fn new(id: TenantId, name: Name, created_at: Timestamp) -> Self {
        Self {
            id,
            name,
            created_at,
            environments: OrdMap::new(),
            former_environments: OrdMap::new(),
            targets: OrdMap::new(),
            agents: OrdMap::new(),
            enrolment_tokens: OrdMap::new(),
            artifacts: OrdMap::new(),
            releases: OrdMap::new(),
            jobs: OrdMap::new(),
            release_keys: OrdMap::new(),
            signatures: OrdMap::new(),
            channels: OrdMap::new(),
            signing: None,
            promotions: OrdMap::new(),
            open_promotions: OrdSet::new(),
            gates: OrdMap::new(),
            findings: OrdMap::new(),
            deployments: OrdMap::new(),
            workflows: OrdMap::new(),
            hooks: OrdMap::new(),
            runs: OrdMap::new(),
            active_runs: OrdSet::new(),
            awaited: OrdMap::new(),
            calls: OrdSet::new(),
            gate_steps: OrdSet::new(),
            kept: OrdMap::new(),
            inspections: OrdMap::new(),
            tasks: OrdMap::new(),
            unsettled: OrdMap::new(),
            work: OrdMap::new(),
            index: Index::default(),
            silent: OrdSet::new(),
            active_deployments: OrdSet::new(),
            timers: OrdSet::new(),
            requests: OrdMap::new(),
            totals: Totals::default(),
            archived: Archived::default(),
        }
    }

    /// How many targets of an environment are at risk now.
    #[must_use]
    pub fn at_risk(&self, environment: EnvironmentId) -> u32 {
        let active = self.active_deployments.iter().filter_map(|id| self.deployments.get(id));
        active.filter(|it| it.environment == environment).map(|it| it.at_risk()).sum()
    }

    /// The deployments to an environment that have not ended.
    pub(crate) fn active_in(&self, environment: EnvironmentId) -> impl Iterator<Item = DeploymentId> {
        let active = self.active_deployments.iter().filter_map(|id| self.deployments.get(id));
        active.filter(move |it| it.environment == environment).map(|it| it.id)
    }

    /// How many targets of an environment may be at risk at once: a share is rounded down, and at least 1. `None` is all of
    /// them.
    #[must_use]
    pub fn at_risk_max(&self, environment: EnvironmentId) -> Option<u32> {
        let budget = self.environments.get(&environment)?.budget?;
        let targets = self.index.targets.get(&environment).map_or(0, OrdMap::len);
        Some(budget.at_most(u32::try_from(targets).unwrap_or(u32::MAX)).max(1))
    }

    /// INV-11: whether the budget of its environment lets a deployment start another target. What is done beside what is live
    /// puts nothing at risk.
    #[must_use]
    pub fn has_budget(&self, deployment: &Deployment) -> bool {
        !deployment.cause.is_asked_for()
            || deployment.is_beside()
            || self
                .at_risk_max(deployment.environment)
                .is_none_or(|max| self.at_risk(deployment.environment) < max)
    }

    /// For a deployment that waits for the budget: the deployments whose failed targets use that up, if nothing else is at risk. Then it
    /// goes on only when somebody has these tried again or skips them, or raises the budget. None if it goes on by itself.
    #[must_use]
    pub fn budget_used_up_by(&self, deployment: &Deployment) -> Vec<DeploymentId> {
        let active = self.active_deployments.iter().filter_map(|id| self.deployments.get(id));
        let at_risk: Vec<_> =
            active.filter(|it| it.environment == deployment.environment && it.at_risk() > 0).collect();
        let waits = |it: &Deployment| it.id == deployment.id || it.is_stopped_by_failures();
        if self.has_budget(deployment)
            || at_risk.iter().any(|it| !it.has_only_failures_at_risk() || !waits(it))
        {
            return Vec::new();
        }
        at_risk.into_iter().map(|it| it.id).collect()
    }

    /// The tasks of an agent that are not final, by id.
    pub fn unsettled_tasks(&self, agent: AgentId) -> impl Iterator<Item = &Arc<Task>> {
        self.unsettled.get(&agent).into_iter().flatten().filter_map(|task| self.tasks.get(task))
    }

    /// Whether the deployment of a queued task wants it: what has halted or is cancelled takes back what was not sent, if only in its next
    /// decision.
    #[must_use]
    pub fn is_wanted(&self, id: TaskId) -> bool {
        let deployment = self.tasks.get(&id).and_then(|task| self.deployments.get(&task.deployment));
        deployment.is_some_and(|it| it.status == Status::Running)
    }
}

/// What one agent has in hand and what waits for it. Apart from [`Agent`], because it changes with every task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentWork {
    /// How many of its tasks are open: never more than [`crate::agent::OPEN_TASKS_MAX`], but for what a hello brings along.
    pub open: u32,
    /// Its queued tasks, oldest first.
    pub queued: OrdSet<(Timestamp, TaskId)>,
    /// Its own journal as far as it was ever seen, in a hello or in a report.
    pub journal: Option<JournalMark>,
    /// When it came with a journal that had lost its end: the disk of its host, or a part of it, was as it had been before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub went_back: Option<Timestamp>,
    /// By when it will be as if it had never caused an event that changes next to nothing: see [`crate::agent::NOTE_EVERY_MS`].
    #[serde(default)]
    pub noted: Timestamp,
    /// What became of its tasks, by their type, from the first that was queued on.
    #[serde(default, skip_serializing_if = "OrdMap::is_empty")]
    pub done: OrdMap<String, Arc<Done>>,
}

/// What became of an agent's tasks of one type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// How many have ended, by [`crate::task::TaskState::ENDS`].
    pub ends: BTreeMap<String, u64>,
    /// How long those took that were started.
    pub took: Durations,
}

impl AgentWork {
    /// Whether the agent may cause another such event now.
    #[must_use]
    pub fn may_note(&self, now: Timestamp) -> bool {
        self.noted.0.saturating_sub(now.0) < NOTES_BURST * NOTE_EVERY_MS
    }

    pub(crate) fn note(&mut self, at: Timestamp) {
        self.noted = self.noted.max(at).plus_ms(NOTE_EVERY_MS);
    }
}

/// Who has which name, and how much there is, so that creating a thing needs no search.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Environments by name.
    pub environments: OrdMap<Name, EnvironmentId>,
    /// Targets by name, for each environment that has some.
    pub targets: OrdMap<EnvironmentId, OrdMap<Name, TargetId>>,
    /// Agents by name; one that was revoked gives its name up to the next that wants it.
    pub agents: OrdMap<Name, AgentId>,
    /// Releases by version, for each application.
    pub releases: OrdMap<Name, OrdMap<Version, ReleaseId>>,
    /// Targets by slot (empty: without one), for each agent that has some.
    pub slots: OrdMap<AgentId, OrdMap<String, TargetId>>,
    /// How large what releases say is, with what scanners say of them, in bytes of JSON.
    #[serde(default)]
    pub release_bytes: u64,
}

/// What can become due.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Timer {
    /// A suspect agent becomes offline.
    ReconnectWindow(AgentId),
    /// A deployment must have ended.
    DeploymentDeadline(DeploymentId),
    /// The end of a task whose cancellation was asked for has not got further in time. Other tasks need no timer of their own:
    /// the agent ends them at their time-out, and the deployment's deadline asks for the end of what is still open then.
    TaskOverdue(TaskId),
    /// An idempotency key is forgotten.
    RequestForgotten(String),
    /// A token of the API has come to its end. Only among the system's.
    ApiTokenEnded(ApiTokenId),
    /// A canary has held for long enough.
    DeploymentResumes(DeploymentId),
    /// A step of a run has waited for as long as it was to, or for too long.
    StepDue(RunId, Identifier),
    /// The freeze that a promotion waits for is over.
    PromotionHeld(PromotionId),
    /// A promotion has waited for too long.
    PromotionExpires(PromotionId),
    /// What was asked about a gate has not been answered.
    GateOverdue(PromotionId, Name),
    /// A gate that did not let a promotion through is looked at again.
    GateAgain(PromotionId, Name),
    /// A release has proven itself for long enough to come to an environment by itself.
    AutoPromotion(EnvironmentId, ReleaseId),
    /// The colours that a deployment has left idle are not kept any longer.
    KeepEnds(DeploymentId),
    /// Hosts that were asked about the way back of a deployment have not answered.
    WayBackOverdue(DeploymentId),
    /// An agent that was asked what is left of a task has not answered.
    ProbeOverdue(TaskId),
    /// An enrolment token has ended some time ago.
    EnrolmentTokenEnded(EnrolmentTokenId),
    /// What comes next in a deployment was put off, for much else was decided at the same time.
    DeploymentPutOff(DeploymentId),
}

/// The answer to an idempotent request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnsweredRequest {
    /// What was asked: the digest of method, path and body.
    pub digest: Digest,
    /// What was answered.
    pub outcome: Outcome,
    /// When it is forgotten.
    pub forgotten_at: Timestamp,
}

/// Counters of what happened, from events alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Releases by status (`created`).
    pub releases: u64,
    /// Ended deployments by (environment, strategy, status).
    pub deployments: OrdMap<Name, OrdMap<String, OrdMap<String, u64>>>,
    /// Rollbacks by (environment, reason).
    pub rollbacks: OrdMap<Name, OrdMap<String, u64>>,
    /// Promotions that came to an end by (environment, status); those that started, by their deployment's.
    #[serde(default)]
    pub promotions: OrdMap<Name, OrdMap<String, u64>>,
    /// Ended runs by (workflow, status).
    #[serde(default)]
    pub runs: OrdMap<Name, OrdMap<String, u64>>,
    /// Decisions on promotions by (environment, account, `approved` or `rejected`).
    #[serde(default)]
    pub decisions: OrdMap<Name, OrdMap<Name, OrdMap<String, u64>>>,
    /// Rejections of promotions by (environment, objection).
    #[serde(default)]
    pub rejections: OrdMap<Name, OrdMap<String, u64>>,
    /// Verdicts of gates by (environment, type, outcome); an override is the outcome `overridden`.
    #[serde(default)]
    pub gates: OrdMap<Name, OrdMap<String, OrdMap<String, u64>>>,
    /// How long deployments took that have ended, by (environment, strategy).
    #[serde(default)]
    pub deployments_took: OrdMap<Name, OrdMap<String, Arc<Durations>>>,
    /// From the request of promotions to the last approval that they needed, by environment.
    #[serde(default)]
    pub approvals_took: OrdMap<Name, Arc<Durations>>,
    /// How long steps of runs took, from their first attempt, by type.
    #[serde(default)]
    pub steps_took: OrdMap<String, Arc<Durations>>,
    /// How long it took tasks to come to their agents, from when they were queued to the agent's first word, by environment.
    #[serde(default)]
    pub dispatches_took: OrdMap<Name, Arc<Durations>>,
}
