//! Tenants: the boundary of isolation. Everything that belongs to one is in its [`TenantState`] and in its journal stream.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};
use stella_protocol::digest::Digest;
use stella_protocol::id::{
    AgentId, DeploymentId, EnrolmentTokenId, EnvironmentId, ReleaseId, TargetId, TaskId, TenantId,
};
use stella_protocol::time::Timestamp;

use crate::agent::{Agent, EnrolmentToken};
use crate::command::Outcome;
use crate::deployment::Deployment;
use crate::environment::Environment;
use crate::name::Name;
use crate::release::Release;
use crate::target::Target;
use crate::task::Task;

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
    /// Deployments.
    pub deployments: OrdMap<DeploymentId, Arc<Deployment>>,
    /// Tasks.
    pub tasks: OrdMap<TaskId, Arc<Task>>,
    /// Tasks of each agent that are not final: what to dispatch, to resend and to compare at a reconnect.
    pub unsettled: OrdMap<AgentId, OrdSet<TaskId>>,
    /// Deployments that are not final.
    pub active_deployments: OrdSet<DeploymentId>,
    /// What is due when.
    pub timers: OrdSet<(Timestamp, Timer)>,
    /// Answers that were given, by idempotency key.
    pub requests: OrdMap<String, AnsweredRequest>,
    /// What was counted, for metrics that survive a restart.
    pub totals: Totals,
}

/// What can become due.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Timer {
    /// A suspect agent becomes offline.
    ReconnectWindow(AgentId),
    /// A deployment must have ended.
    DeploymentDeadline(DeploymentId),
    /// The agent has not confirmed the end of a task that should have ended.
    TaskOverdue(TaskId),
    /// An idempotency key is forgotten.
    RequestForgotten(String),
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
}
