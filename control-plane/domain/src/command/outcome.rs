//! What is answered.

use serde::{Deserialize, Serialize};
use stella_protocol::id::{
    AccountId, AgentId, ApiTokenId, DeploymentId, EnrolmentTokenId, EnvironmentId, HookId, PromotionId,
    ReleaseId, RunId, SessionEpoch, TargetId, TenantId,
};

/// The answer to a command that was carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type", content = "id")]
pub enum Outcome {
    /// Done; there is nothing to tell.
    Done,
    /// The tenant exists.
    Tenant(TenantId),
    /// The API token exists.
    ApiToken(ApiTokenId),
    /// The environment exists.
    Environment(EnvironmentId),
    /// The target exists.
    Target(TargetId),
    /// The enrolment token exists.
    EnrolmentToken(EnrolmentTokenId),
    /// The agent is enrolled: this one, not necessarily the id that came with the command.
    Agent(AgentId),
    /// The agent's session exists.
    Session(SessionEpoch),
    /// The release exists.
    Release(ReleaseId),
    /// The deployment exists.
    Deployment(DeploymentId),
    /// The account exists.
    Account(AccountId),
    /// The workflow has this version.
    Workflow(u32),
    /// The run exists. What became of it is in the state.
    Run(RunId),
    /// The promotion exists. What became of it is in the state.
    Promotion(PromotionId),
    /// The hook exists.
    Hook(HookId),
}
