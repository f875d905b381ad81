//! Environments.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::amount::Amount;
use crate::deployment::Strategy;
use crate::gate::Gate;
use crate::hold::Hold;
use crate::page::Named;
use crate::release::ReleaseRef;

/// A new environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateEnvironment {
    /// Its name, unique in the tenant.
    pub name: String,
    /// Its place among the environments, smaller first; after all others if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<u32>,
    /// What it wants of the proof that a deployment could go back; `reported` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub way_back_proof: Option<ProofRule>,
}

/// Changes an environment in place. What is not given stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateEnvironment {
    /// Its new name, unique in the tenant. Refused while a deployment is on its way there; promotions that wait have to be asked for
    /// anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its new place among the environments, smaller first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<u32>,
}

/// What an environment wants of the proof that a deployment could go back on every target, before it changes the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProofRule {
    /// Nobody is asked.
    Off,
    /// The hosts are asked, and what they say is kept and shown; nothing waits for it.
    #[default]
    Reported,
    /// No target is changed before all have proven that they could go back, or somebody has waived it.
    Required,
}

impl ProofRule {
    const fn none() -> Self {
        Self::Off
    }
}

/// A stage that releases pass through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Environment {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its place among the environments, smaller first.
    pub order: u32,
    /// What a release must have been through before it may come here; absent if nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<Follows>,
    /// Whose approval a promotion needs to come here; absent if nobody's. A rollback needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approvals: Option<Approvals>,
    /// How many of its targets may be at risk at once; absent if all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Whether a deployment must be able to go back on every target, or be let through with a reason.
    #[serde(default)]
    pub requires_way_back: bool,
    /// How targets follow one another here in a deployment that does not say; absent if whoever asks has a default of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// What comes after the last wave of a deployment here, before it has succeeded; absent if nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
    /// What it wants of the proof that a deployment could go back. Environments of before there was one want none.
    #[serde(default = "ProofRule::none")]
    pub way_back_proof: ProofRule,
    /// When silence of its agents is taken for a network event; absent if never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silence: Option<Silence>,
    /// When nothing but rollbacks may come here, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub freezes: Vec<Freeze>,
    /// What must be so for a release to come here, by name. A rollback may come anyway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<Gate>,
    /// From which channels releases may come here; if empty, from all, and what is in none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<String>,
    /// Why nothing but rollbacks may come here; absent if it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<Hold>,
    /// When it was created.
    pub created_at: String,
}

/// How many of several environments a release must have been through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Needs {
    /// Each of them.
    #[default]
    All,
    /// One of them, whichever it is.
    Any,
}

/// What a release must have been through before it may come to an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Follows {
    /// Where it must have succeeded on all targets.
    pub environment: Named,
    /// For how long, in seconds.
    pub soak_seconds: u64,
    /// The other environments of the path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Followed>,
    /// Whether it must have been through all of them, or any one.
    #[serde(default)]
    pub needs: Needs,
    /// Whether a release is asked for by itself then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub auto: bool,
    /// Releases that are to come by themselves, and when.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub automatic: Vec<Automatic>,
}

/// One more environment of a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Followed {
    /// Where the release must have succeeded on all targets.
    pub environment: Named,
    /// For how long, in seconds.
    pub soak_seconds: u64,
}

/// A release that is to come by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Automatic {
    /// Which.
    pub release: ReleaseRef,
    /// When it has proven itself for long enough; then it waits for the targets to be free.
    pub due_at: String,
}

/// Sets what a release must have been through before it may come to an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetPath {
    /// Where it must have succeeded on all targets, by name or id; nothing if `null`.
    pub after: Option<String>,
    /// For how long, in seconds; not at all if absent, at most 30 days.
    #[serde(default)]
    pub soak_seconds: u64,
    /// Whether a release is asked for by itself then, in the way in which it was deployed there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub auto: bool,
    /// Other environments of the path; at most 8 with the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<SetFollowed>,
    /// Whether it must have been through all of them, or any one; all if absent.
    #[serde(default)]
    pub needs: Needs,
}

/// One more environment of a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetFollowed {
    /// Where the release must have succeeded on all targets, by name or id.
    pub after: String,
    /// For how long, in seconds; not at all if absent, at most 30 days.
    #[serde(default)]
    pub soak_seconds: u64,
}

/// Whose approval a promotion needs. Who asked for it never counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Approvals {
    /// How many accounts must approve.
    pub needed: u32,
    /// Only these accounts may decide; if empty, all that have the role approver there.
    pub from: Vec<Named>,
    /// How long a promotion waits before it expires, in seconds.
    pub expires_in_seconds: u64,
    /// Further groups of whom so many must approve as well; who is in several counts for one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<Quorum>,
    /// What comes of a promotion that not enough have approved by then.
    #[serde(default)]
    pub on_expiry: OnExpiry,
    /// How often those who may approve are asked again, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ask_again_max: Option<u32>,
}

/// So many of some accounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Quorum {
    /// How many of them must approve.
    pub needed: u32,
    /// Who they are; if empty, all that have the role approver there.
    pub from: Vec<Named>,
}

/// What comes of a promotion that not enough have approved in time. One that has its approvals, and waits for something else, expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnExpiry {
    /// It expires: nobody has said no, and a step of a workflow that wanted it may ask again if it is to be retried.
    #[default]
    Expire,
    /// Silence is a no: it is rejected as `unanswered`, counts among the rejections, and nothing asks again by itself.
    Reject,
    /// Those who may approve are asked again, so often at most; then it expires. Approvals that were given go on counting.
    AskAgain,
}

/// Sets whose approval a promotion to an environment needs. Promotions that wait have to be asked for anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetApprovals {
    /// How many accounts must approve, at most 16; with 0 nobody has to.
    pub needed: u32,
    /// Only these accounts may decide, by name or id; all that have the role approver there if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
    /// How long a promotion waits before it expires, in seconds: a minute to 90 days; a week if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<u64>,
    /// Further groups of whom so many must approve as well, 8 groups and 16 approvals in all; who is in several counts for one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<SetQuorum>,
    /// What comes of a promotion that not enough have approved by then; it expires if absent.
    #[serde(default)]
    pub on_expiry: OnExpiry,
    /// How often those who may approve are asked again, 1 to 8, if they are; once if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ask_again_max: Option<u32>,
}

/// So many of some accounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetQuorum {
    /// How many of them must approve.
    pub needed: u32,
    /// Who they are, by name or id; all that have the role approver there if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
}

/// How many targets of an environment may be at risk at once, in all its deployments together: those that are worked on, that
/// have failed in a deployment that goes on, or whose release has yet to prove itself. Rollbacks are not counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Budget {
    /// As it was set.
    pub at_risk_max: Amount,
    /// How many targets that is now; a share is rounded down, and at least 1.
    pub targets_max: u32,
    /// How many targets are at risk now.
    pub at_risk: u32,
}

/// Sets how many targets of an environment may be at risk at once. What is under way meets it before its next target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetBudget {
    /// How many; all of them if `null`.
    pub at_risk_max: Option<Amount>,
}

/// Sets whether deployments to an environment must be able to go back on every target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetWayBack {
    /// Whether.
    pub required: bool,
}

/// Sets how targets of an environment follow one another in deployments that do not say. Those that wait keep what they had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetStrategy {
    /// How; if `null` it is left to whoever asks.
    pub strategy: Option<Strategy>,
}

/// Sets what an environment wants of the proof that a deployment could go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetWayBackProof {
    /// What.
    pub proof: ProofRule,
}

/// What comes after the last wave of a deployment: it has succeeded, and is a proof for the promotion path, when it is behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Verification {
    /// How long the release proves itself on all targets, in seconds. The gates are asked meanwhile, and once more at the end.
    pub bake_seconds: u64,
}

/// Sets what comes after the last wave of deployments to an environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetVerification {
    /// How long the release proves itself on all targets, in seconds, 1 to 604800 (a week); nothing comes after it if `null`.
    pub bake_seconds: Option<u64>,
}

/// When silence of an environment's agents is taken for a network event, and not for hosts that have failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Silence {
    /// When more than so many percent of the agents go silent
    pub percent: u32,
    /// within so many seconds.
    pub within_seconds: u64,
    /// Since when such an event lasts, if one does: deployments here are paused meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// Sets when silence of an environment's agents is taken for a network event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetSilence {
    /// More than so many percent of the agents, 1 to 99; never if `null`.
    pub percent: Option<u32>,
    /// Within so many seconds, 1 to 3600; 60 if absent.
    #[serde(default = "minute")]
    pub within_seconds: u64,
}

const fn minute() -> u64 {
    60
}

/// A time in which nothing but rollbacks comes to an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Freeze {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
    /// When it begins, for the first time, as the clocks there show it.
    pub from: String,
    /// When it ends, for the first time.
    pub to: String,
    /// Where.
    pub time_zone: String,
    /// Whether it comes again.
    pub repeats: Repeats,
    /// Until when it lasts, if it does now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// Sets a freeze, instead of one of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetFreeze {
    /// Its name, unique in the environment.
    pub name: String,
    /// Why, for people.
    pub reason: String,
    /// When it begins, for the first time, as the clocks there show it: `2026-12-18T18:00`.
    pub from: String,
    /// When it ends, for the first time.
    pub to: String,
    /// A name of the IANA database, such as `Europe/Berlin`; UTC if absent.
    #[serde(default = "utc")]
    pub time_zone: String,
    /// Whether it comes again.
    #[serde(default)]
    pub repeats: Repeats,
}

fn utc() -> String {
    "UTC".to_owned()
}

/// Whether a freeze comes again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Repeats {
    /// It does not.
    #[default]
    Never,
    /// Every day.
    Daily,
    /// Every week.
    Weekly,
    /// Every year.
    Yearly,
}
