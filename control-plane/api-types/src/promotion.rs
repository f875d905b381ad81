//! Promotions: requests to bring a release into an environment.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::amount::Amount;
use crate::deployment::{DeploymentDetail, JobOf, OnFailure, Strategy};
use crate::environment::Quorum;
use crate::event::Actor;
use crate::gate::GateState;
use crate::page::Named;
use crate::release::{ReleaseRef, Step};

/// What a deployment would do, as a hash that people can approve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanHash {
    /// The version of the hash's form.
    pub version: u16,
    /// The root of a Merkle tree over what is wanted, the release, and each target's tasks and way back.
    pub root: String,
    /// How many targets it has.
    pub targets: u32,
}

/// One leaf of a plan's tree, and the path from it to the root: the leaf is in the plan exactly if the hash of its bytes (SHA-256 over a
/// zero byte and them) leads along the path to the root, as in RFC 9162, section 2.1.3.2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanProof {
    /// The promotion.
    pub promotion: String,
    /// Its plan.
    pub plan: PlanHash,
    /// What is in the leaf, to the byte: JSON.
    pub leaf: String,
    /// Its place among the leaves, from 0.
    pub index: u64,
    /// How many leaves there are.
    pub leaves: u64,
    /// The hashes beside it, from the leaf up.
    pub path: Vec<String>,
}

/// What a step of a workflow wants run on targets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Which step.
    #[serde(flatten)]
    pub of: JobOf,
    /// What is run on each target, in this order; empty is all steps of the release.
    pub steps: Vec<Step>,
}

/// A request to bring a release into an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Promotion {
    /// Its id; the deployment that follows from it has the same.
    pub id: String,
    /// Where to.
    pub environment: Named,
    /// What.
    pub release: ReleaseRef,
    /// What a step of a workflow wants run there, if this is about a job: it brings nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Job>,
    /// How.
    pub strategy: Strategy,
    /// What happens when a target fails.
    pub on_failure: OnFailure,
    /// How many targets may fail before that; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerate_failures: Option<Amount>,
    /// Only these targets; absent if all of the environment that are for its application.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<Vec<Named>>,
    /// How long the deployment may take in all, in seconds.
    pub timeout_seconds: u64,
    /// Why it comes although the environment is frozen, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub override_freeze: Option<String>,
    /// Why it comes although its release has not been through what comes before the environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub override_path: Option<String>,
    /// Why it comes although it could not go back on every target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waive_way_back: Option<String>,
    /// Whether it may take the place of another application.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace_application: bool,
    /// When the freeze ends that keeps it from starting, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_until: Option<String>,
    /// What exactly it would do, frozen: it starts only as long as it would do the same.
    pub plan: PlanHash,
    /// `pending` (approvals are missing), `approved` (it starts as soon as the gates let it and it can), or one of the ends `started`, `rejected`,
    /// `withdrawn`, `expired` and `invalidated`.
    pub status: String,
    /// What keeps it from starting now, for people: `2 approvals`, `1 approval of ada, bob`, `gate ticket`, `the lock`, `a freeze`,
    /// `target web-1`. Empty if it has ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<String>,
    /// The lock and the freeze that it waits for beside approvals and gates, for people: each with its reason, a freeze with its end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<String>,
    /// Why it was rejected, withdrawn or invalidated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the matter was, if it was rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objection: Option<Objection>,
    /// Who rejected or withdrew it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<Actor>,
    /// How many accounts must approve.
    pub approvals_needed: u32,
    /// How many of those approvals are missing. An approval more than a group needs fills no place of another group. Always there; control
    /// planes of before do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approvals_missing: Option<u32>,
    /// Whose approvals are missing: `needed` more of each group. An approval of somebody who is in several groups is counted where it
    /// helps most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_from: Vec<Quorum>,
    /// Of whom, if the rule names groups; who is in several counts for one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals_from: Vec<Quorum>,
    /// Who let it through, oldest first.
    pub approvals: Vec<Approval>,
    /// Approvals that counted once and count no more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lapsed: Vec<LapsedApproval>,
    /// What the gates of the environment say about it, and said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<GateState>,
    /// When it was asked for.
    pub requested_at: String,
    /// By whom.
    pub requested_by: Actor,
    /// Who else has chosen what it brings, and so does not approve it either: whoever wrote the workflow of its run or answered what that
    /// asked for, or asked for the deployment that it follows from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chosen_by: Vec<Actor>,
    /// When it expires, if it still waits then; absent if it needs no approval and no gate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// How often those who may approve were asked again.
    #[serde(default, skip_serializing_if = "is_never")]
    pub asked_again: u32,
    /// When it came to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_never(times: &u32) -> bool {
    *times == 0
}

/// Somebody's word for a promotion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Approval {
    /// The account.
    pub by: Named,
    /// When.
    pub at: String,
    /// Why; empty if nothing was said.
    pub reason: String,
    /// A signature over it, if one was given. That this key has made it was checked; whose key it is, Stella does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<ApprovalSignature>,
}

/// A signature over an approval: ed25519 over the DSSE encoding of `{"account":ID,"plan":ROOT,"promotion":ID}` with the payload type
/// `application/vnd.stella.approval.v2+json`. The account is the one that approves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApprovalSignature {
    /// The public key: its `SubjectPublicKeyInfo` in PEM, or the base64 of that alone.
    pub public_key: String,
    /// The signature: 64 bytes in base64.
    pub signature: String,
    /// The key's fingerprint, in answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

/// An approval that counts no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LapsedApproval {
    /// What was said.
    #[serde(flatten)]
    pub approval: Approval,
    /// Since when it does not count.
    pub lapsed_at: String,
    /// Why.
    pub because: String,
}

/// Why somebody does not let a promotion through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Objection {
    /// It was not tested enough.
    NotTested,
    /// It could break too much.
    TooRisky,
    /// Not now.
    BadTiming,
    /// Something is missing: a note, a migration, an agreement.
    Incomplete,
    /// It is the wrong release or the wrong place.
    Mistake,
    /// Nobody has answered in time, and the environment's rule takes that for a no. Not for people to say.
    Unanswered,
    /// None of these; the reason says it.
    Other,
}

/// Lets a promotion through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApprovePromotion {
    /// The root of the plan that was looked at: [`PlanHash::root`].
    pub plan: String,
    /// Why, for people.
    #[serde(default)]
    pub reason: String,
    /// A signature over it; refused if this key has not made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<ApprovalSignature>,
}

/// Does not let a promotion through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RejectPromotion {
    /// What the matter is, for statistics.
    pub objection: Objection,
    /// Why, for people.
    pub reason: String,
}

/// What became of asking for a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Asked {
    /// It has started.
    Started(Box<DeploymentDetail>),
    /// It waits for approvals or gates.
    Waits(Box<Promotion>),
}
