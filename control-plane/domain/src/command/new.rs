//! What comes with commands about new things: those that have more fields than a line holds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use stella_protocol::digest::Digest;
use stella_protocol::id::{
    AccountId, AgentId, DeploymentId, EnrolmentTokenId, EnvironmentId, HookId, PromotionId, ReleaseId, RunId,
    TargetId,
};
use stella_protocol::message::Profile;
use stella_protocol::time::Timestamp;
use stella_signing::Signature;

use crate::amount::Amount;
use crate::deployment::{OnFailure, Strategy};
use crate::findings::Finding;
use crate::gate;
use crate::hook::HookAction;
use crate::job::Job;
use crate::name::{Identifier, Name, Version};
use crate::provenance::Provenance;
use crate::release::{Component, ReleaseBounds, Step};

/// What something outside has answered about a gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Which promotion.
    pub promotion: PromotionId,
    /// The gate's name.
    pub gate: Name,
    /// The number of the question.
    pub number: u32,
    /// What it says.
    pub outcome: gate::Outcome,
    /// Why, for a person.
    pub reason: String,
    /// The digest of what was looked at.
    pub inputs: Option<Digest>,
}

/// What a scanner has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewFindings {
    /// In which release.
    pub release: ReleaseId,
    /// Which scanner.
    pub scanner: Name,
    /// The digest of the document that it was read from.
    pub digest: Digest,
    /// What.
    pub findings: Vec<Finding>,
    /// How much the tenant may have.
    pub bounds: ReleaseBounds,
}

/// A new run.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRun {
    /// Its id.
    pub id: RunId,
    /// Of which workflow.
    pub workflow: Name,
    /// Of which version of it; `None` is the newest.
    pub version: Option<u32>,
    /// What it is given.
    pub inputs: BTreeMap<Identifier, Value>,
}

/// A new incoming webhook.
#[derive(Clone, Debug, PartialEq)]
pub struct NewHook {
    /// Its id.
    pub id: HookId,
    /// Its name.
    pub name: Name,
    /// The service account whose authority it has.
    pub account: AccountId,
    /// What it starts.
    pub action: HookAction,
    /// An expression: what it does not hold for is taken and starts nothing.
    pub when: Option<String>,
    /// What the secret of its sender follows from.
    pub salt: Digest,
}

/// A new target.
#[derive(Clone, Debug, PartialEq)]
pub struct NewTarget {
    /// Its id.
    pub id: TargetId,
    /// Its environment.
    pub environment: EnvironmentId,
    /// Its name.
    pub name: Name,
    /// What it is.
    pub kind: Name,
    /// The agent that serves it.
    pub agent: AgentId,
    /// Its folder on the host.
    pub slot: Option<Name>,
    /// For selecting.
    pub labels: BTreeMap<String, String>,
    /// For `${name}` in steps.
    pub variables: BTreeMap<String, String>,
}

/// What is to be otherwise about a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetChange {
    /// Which target.
    pub id: TargetId,
    /// Labels to set, or to take away.
    pub labels: BTreeMap<String, Option<String>>,
    /// Variables to set, or to take away. Deployments that are under way keep those that they began with.
    pub variables: BTreeMap<String, Option<String>>,
    /// The agent that serves it from now on: refused while a deployment has to do with the target.
    pub agent: Option<AgentId>,
}

/// A new enrolment token.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEnrolmentToken {
    /// Its public half.
    pub id: EnrolmentTokenId,
    /// SHA-256 of its secret half.
    pub secret_hash: Digest,
    /// The name that the agent gets.
    pub agent_name: Option<Name>,
    /// Labels that its agents get.
    pub labels: BTreeMap<String, String>,
    /// What tasks may do on the hosts of its agents.
    pub profile: Profile,
    /// How many different keys may use it.
    pub uses_max: u32,
    /// From when on it is worthless.
    pub expires_at: Timestamp,
}

/// A new release.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRelease {
    /// Its id.
    pub id: ReleaseId,
    /// What it is a release of.
    pub application: Name,
    /// Its version.
    pub version: Version,
    /// What it is made of.
    pub components: Vec<Component>,
    /// What to do on a target; empty means an artifact step for each component.
    pub steps: Vec<Step>,
    /// For selecting.
    pub labels: BTreeMap<String, String>,
    /// Where it comes from.
    pub provenance: Option<Provenance>,
    /// Signatures that it comes with, by the fingerprints of their keys.
    pub signatures: Vec<(Digest, Signature)>,
    /// How much the tenant may have.
    pub bounds: ReleaseBounds,
}

/// A new deployment. It is kept with the promotion that it is asked for by, so that names here are append-only like a fact's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewDeployment {
    /// Its id.
    pub id: DeploymentId,
    /// Where to.
    pub environment: EnvironmentId,
    /// What.
    pub release: ReleaseId,
    /// How.
    pub strategy: Strategy,
    /// What to do when more targets fail than are tolerated.
    pub on_failure: OnFailure,
    /// How many targets may fail before that; `None` is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerate_failures: Option<Amount>,
    /// Only these targets; `None` is all of the environment that are for its application: see [`crate::application`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<Vec<TargetId>>,
    /// How long it may take in all, in milliseconds.
    pub timeout_ms: u64,
    /// Why it must come although the environment is frozen; `None` if it need not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub override_freeze: Option<String>,
    /// Why it must come although its release has not been through what comes before; `None` if it need not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub override_path: Option<String>,
    /// Why it must come although it could not go back everywhere; `None` if it need not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waive_way_back: Option<String>,
    /// Whether it may come to a target that has another application.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace_application: bool,
    /// What is run instead of bringing a release: then `release` is that of the job if it has one, or [`own_release`](crate::job::own_release).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Box<Job>>,
}

impl NewDeployment {
    /// Whether it is to come although something of its environment speaks against it.
    pub(crate) const fn overrides_something(&self) -> bool {
        self.override_freeze.is_some() || self.override_path.is_some() || self.waive_way_back.is_some()
    }
}
