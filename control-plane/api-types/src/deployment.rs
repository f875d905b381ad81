//! Deployments.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::amount::Amount;
use crate::environment::Verification;
use crate::event::Actor;
use crate::gate::PlannedGate;
use crate::hold::Hold;
use crate::page::Named;
use crate::promotion::PlanHash;
use crate::release::{Phase, ReleaseRef};

/// A new deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateDeployment {
    /// Where to: the environment by name or id.
    pub environment: String,
    /// What: a release's id or `application:version`; with `channel`, the application alone.
    pub release: String,
    /// The newest release of this channel that may come there now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// How targets follow one another; if absent as the environment has it, or one at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// What to do when more targets fail than are tolerated.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// How many targets may fail before that; a share is rounded down. None if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerate_failures: Option<Amount>,
    /// Only these targets, by name or id. If absent, and `labels` too: those that have the application, and those that have nothing as long
    /// as no other application is in the environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<Vec<String>>,
    /// Only targets that have all of these labels now.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// How long it may take in all, in seconds; an hour if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u64>,
    /// Why it must come although the environment is frozen; needs the role operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub override_freeze: Option<String>,
    /// Why it must come although its release has not been through what comes before the environment; needs the role operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub override_path: Option<String>,
    /// Why it must come although it could not go back on every target; needs the role operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waive_way_back: Option<String>,
    /// Whether it may come to targets that have another application, and take its place; refused there if not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace_application: bool,
}

/// How targets follow one another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "type", deny_unknown_fields)]
pub enum Strategy {
    /// All targets at the same time.
    AllAtOnce {},
    /// A number of targets at a time.
    Rolling(Rolling),
    /// Some targets first; the others when the release has proven itself there.
    Canary {
        /// Where to hold, 1 to 16 times, with growing percents. After the last come all other targets.
        steps: Vec<CanaryStep>,
        /// How many targets may be worked on at the same time; all that the step lets if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        batch: Option<Amount>,
        /// Which targets come first; in the order of their names if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        order: Option<Order>,
    },
    /// The colour that is not live is filled on all targets first; then they are switched to it. For releases with steps of the
    /// phase `switch`.
    BlueGreen(BlueGreen),
}

/// Prepared on all targets, then switched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BlueGreen {
    /// How long what was prepared warms up before it is checked once more and switched to, in seconds, at most a week; not at all
    /// if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm_up_seconds: Option<u64>,
    /// Whether it waits there until somebody resumes it. Not with `warm_up_seconds`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub confirm: bool,
    /// How many targets may be switched at the same time; all of them if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Amount>,
    /// How long the colour that is not live any more is kept, in seconds, at most a week; until the next deployment if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_seconds: Option<u64>,
    /// The two groups of targets that are its colours; if absent, each target has both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Groups>,
}

/// Two groups of targets, of which one has the traffic, and the targets that lead it there. The group without traffic gets the
/// release; then the steps of the phase `switch` are run on those that lead the traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Groups {
    /// The label that says which group a target is in: its value is `blue` or `green`.
    pub label: String,
    /// The labels of the targets that lead the traffic: those that have all of them. At least one label.
    pub switch: BTreeMap<String, String>,
    /// The group that has the traffic as long as no deployment has switched it; none if absent. The first release goes to the
    /// other one, or to blue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<Colour>,
}

/// One of the two places of a release with a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Colour {
    /// The first one that is filled.
    Blue,
    /// The other one.
    Green,
}

/// A number of targets at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rolling {
    /// How many targets may be worked on at the same time, at least 1; a share is rounded up.
    #[serde(default = "one")]
    pub batch: Amount,
    /// How many targets may be worked on or have failed at the same time; a share is rounded down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<Amount>,
    /// How many targets must be neither worked on nor have failed; a share is rounded up. Not with `max_unavailable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_healthy: Option<Amount>,
    /// How long to pause after each batch, in seconds, at most a week. With it, a batch begins when the one before has ended as a
    /// whole; without, each target that ends lets the next one begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_seconds: Option<u64>,
    /// Which targets come first; in the order of their names if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
}

impl Rolling {
    /// So many at a time, in the order of their names.
    #[must_use]
    pub const fn of(batch: Amount) -> Self {
        Self { batch, max_unavailable: None, minimum_healthy: None, pause_seconds: None, order: None }
    }
}

/// Which targets come first: by the value of a label that all of them must have, numbers before texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// What the values mean.
    pub by: OrderBy,
    /// The label.
    pub label: String,
}

/// What the values of a label mean for the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OrderBy {
    /// Nothing more than the order.
    Label,
    /// What fails together, a rack for example: never two of them are worked on at the same time.
    Domain,
    /// What fails together: neighbours in the order are in different ones, as far as there are.
    Spread,
}

/// A share of the targets, after which a canary holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CanaryStep {
    /// How many of all targets, rounded up.
    #[schema(minimum = 1, maximum = 99)]
    pub percent: u32,
    /// For how long the release proves itself then, in seconds, at most a week; until somebody resumes if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak_seconds: Option<u64>,
}

impl Default for Strategy {
    fn default() -> Self {
        Self::Rolling(Rolling::of(one()))
    }
}

const fn one() -> Amount {
    Amount::Count(1)
}

/// What to do when more targets fail than are tolerated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Start no further target, and bring the targets that were touched back to what last succeeded on them.
    #[default]
    Rollback,
    /// Start no further target and leave everything as it is.
    Stop,
    /// Start no further target until somebody has decided about each failed one (retry or skip), or gives the deployment up.
    Ask,
}

/// Deploys again to the targets that an ended deployment did not bring its release to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryDeployment {
    /// Only these of its targets, by name or id; all that lack the release if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<Vec<String>>,
}

/// Takes a deployment back, on all targets that it touched or on some of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackDeployment {
    /// Only these of the targets that it touched, by name or id; all of them if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<Vec<String>>,
}

/// Gives a running deployment up: what is under way comes to its end, and then it has failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FailDeployment {
    /// Whether what it touched is taken back then.
    #[serde(default)]
    pub roll_back: bool,
    /// Why, for people.
    pub reason: String,
}

/// Ends a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelDeployment {
    /// Why, for people.
    pub reason: String,
}

/// A release on its way to the targets of an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Deployment {
    /// Its id.
    pub id: String,
    /// Where to.
    pub environment: Named,
    /// What. A rollback may bring different releases to its targets: see them.
    pub release: ReleaseRef,
    /// The step of a workflow that wants something run there, if this is a job: it brings nothing. `release` has the names of the workflow
    /// and the step then, unless the step names a release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobOf>,
    /// How.
    pub strategy: Strategy,
    /// What happens when more targets fail than are tolerated.
    pub on_failure: OnFailure,
    /// How many targets may fail before that; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerate_failures: Option<Amount>,
    /// `running`, `halting`, `cancelling`, `succeeded`, `failed` or `cancelled`; the last three are final.
    pub status: String,
    /// Why it starts no further target for now; absent if it is not paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Hold>,
    /// What the pause is for: `person`, `canary_step`, `batch`, `warm_up`, `verification`, `failure`, `way_back`, `budget`, `silence` or `freeze`;
    /// absent if it is not paused. The last three end by themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_for: Option<String>,
    /// When the pause ends by itself; absent if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumes_at: Option<String>,
    /// How much of the pause is left, in seconds, if its time stands still until the environment's agents are heard again; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumes_in_seconds: Option<u64>,
    /// Why it halted, failed or was cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether nothing can change any more.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// If it waits for a budget that only failed targets use up: the deployments that these are part of. It goes on when they are tried
    /// again or skipped there, or when the budget is raised.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub budget_used_up_by: Vec<String>,
    /// What it takes back, if it is a rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_of: Option<RollbackOf>,
    /// The id of the deployment whose idle colours it ends, if that is what it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retirement_of: Option<String>,
    /// How far a blue-green deployment has got as a whole: `prepare`, `check` (after the warm-up) or `switch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Until when the colours are kept that it has left idle; absent if it has left none, or if that has no end, or is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeps_until: Option<String>,
    /// What comes after its last wave, before it has succeeded; absent if nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
    /// What it knows as a whole of its way back; absent if there was nothing to ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub way_back: Option<WayBack>,
    /// How many targets are how far.
    pub counts: Counts,
    /// When it was created.
    pub created_at: String,
    /// Who asked for it; for a rollback that started by itself, the agent or the timer that it followed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<Actor>,
    /// When it must have ended; does not count during a pause, and moves by its length.
    pub deadline: String,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
}

/// What a deployment knows as a whole of its way back; each target has its own part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WayBack {
    /// How often hosts were asked whether they could go back.
    pub asked: u32,
    /// When they were asked last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_at: Option<String>,
    /// How many have not answered.
    pub open: u32,
    /// Until when that is waited for; absent if nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Who has waived the proof, when and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waived: Option<Hold>,
}

/// What is known of one target's way back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TargetWayBack {
    /// `asked` (its host has not answered), `proven`, `refuted` (it could not go back) or `unproven` (nobody can say).
    pub state: String,
    /// Since when; absent in a plan, which asks now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Why it could not go back, or why nobody can say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many files its host has read and found as they were unpacked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u32>,
    /// How many bytes they have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// What a rollback takes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RollbackOf {
    /// The id of the deployment.
    pub id: String,
    /// `deployment_failed`, `manual`, `gate` (one closed on the way), `verification` (one closed after the last wave), `time_out` or
    /// `blocked` (its release was).
    pub reason: String,
}

/// How many targets are how far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counts {
    /// All of them.
    pub total: u64,
    /// Their turn has not come.
    pub waiting: u64,
    /// They are worked on.
    pub active: u64,
    /// They are prepared, and wait for the others before they are switched.
    #[serde(default)]
    pub ready: u64,
    /// They have the release.
    pub succeeded: u64,
    /// A step did not succeed.
    pub failed: u64,
    /// Their turn never came, or somebody wants them left alone.
    pub skipped: u64,
    /// They were left between two steps.
    pub abandoned: u64,
}

/// A step of a workflow that wants something run on targets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobOf {
    /// The workflow.
    pub workflow: String,
    /// The run of it.
    pub run: String,
    /// The step of that.
    pub step: String,
}

/// A deployment with each target's part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentDetail {
    /// The deployment.
    #[serde(flatten)]
    pub deployment: Deployment,
    /// Its targets in the order in which they are started.
    pub targets: Vec<DeploymentTarget>,
    /// The deployments that take this one back.
    pub rollbacks: Vec<String>,
    /// If it takes another one back: which of the targets that that one touched it leaves as they are, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftTarget>,
}

/// A target that a rollback leaves as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeftTarget {
    /// The target.
    pub target: Named,
    /// `no_earlier` (no release was there before), `quarantined`, `revoked` (its agent was), `not_filled_in` (a step of the release to go
    /// back to cannot be, with the variables that there are), `blocked` (that release is), `overtaken` (a newer deployment has come
    /// there), `busy` (something works there that does not bring a release forward), `unchanged` (the same release was there before),
    /// `back` (what was there before is there again), `skipped` (somebody wants it left alone) or `not_chosen` (the rollback is for other
    /// targets only).
    pub why: String,
    /// The same for people, and what could be done about it.
    pub reason: String,
    /// The deployment that has come there, works there, had brought the same release before or has brought back what was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<String>,
    /// The task of which nobody knows what became.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
}

/// One target's part in a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentTarget {
    /// The target.
    pub target: Named,
    /// The agent that serves it.
    pub agent: Named,
    /// What to bring there.
    pub release: ReleaseRef,
    /// What was there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<ReleaseRef>,
    /// `waiting`, `active`, `ready` (prepared, and waiting for the others, or for the traffic), `succeeded`, `failed`, `skipped` or `abandoned`.
    pub progress: String,
    /// The colour that the release gets there, if it has a switch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub colour: Option<String>,
    /// What it is for two groups: `member` of the one that gets the release, or `switch` if it leads the traffic; absent without
    /// groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// The step that is run now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<StepPosition>,
    /// The task that is run now, or that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Since when it is worked on, or when its part ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Why it failed, does not get on, or was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What is known of its way back; absent if nobody was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub way_back: Option<TargetWayBack>,
}

/// An environment in which a release has proven itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProvenIn {
    /// Which.
    pub environment: Named,
    /// When it had succeeded on all targets there.
    pub since: String,
}

/// What a deployment would do, had it been created now. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentPlan {
    /// Where to.
    pub environment: Named,
    /// What.
    pub release: ReleaseRef,
    /// How.
    pub strategy: Strategy,
    /// What would happen when more targets fail than are tolerated.
    pub on_failure: OnFailure,
    /// How many targets may fail before that; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerate_failures: Option<Amount>,
    /// How long it might take in all, in seconds.
    pub timeout_seconds: u64,
    /// The names of the steps that every target goes through, in order.
    pub steps: Vec<String>,
    /// The phase of each of them, if the release has a switch. Those that retire are run when the colour is not live any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<Phase>,
    /// Which of two groups would get it, if it goes to such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<PlannedGroups>,
    /// The targets in the order in which they would be started.
    pub targets: Vec<PlannedTarget>,
    /// What exactly it would do, as a hash.
    pub plan: PlanHash,
    /// What would come after its last wave, before it has succeeded; absent if nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
    /// The environments of the promotion path in which the release has proven itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proven_in: Vec<ProvenIn>,
    /// How many accounts would have to approve before it starts.
    pub approvals_needed: u32,
    /// What the gates of the environment would say now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<PlannedGate>,
    /// What a person should know about the whole before starting it; each target has its own.
    pub warnings: Vec<String>,
}

/// Which of two groups of targets would get a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedGroups {
    /// The group that has the traffic now, `blue` or `green`; absent if none has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<String>,
    /// The group that would get the release, and then the traffic.
    pub gets: String,
    /// How many targets it has.
    pub members: u64,
    /// How many targets lead the traffic.
    pub switches: u64,
}

/// One target of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedTarget {
    /// The target.
    pub target: Named,
    /// The number of its wave, from 1: of a batch, or of what comes before the next hold of a canary. With groups, what leads the
    /// traffic comes after the group. 0 if it would be left out, because its host is out of rotation.
    pub wave: u32,
    /// The colour that would be filled and then live, if the release has a switch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub colour: Option<String>,
    /// What it is for two groups: `member` of the one that gets the release, or `switch` if it leads the traffic; absent without
    /// groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// The value of the label that the strategy orders by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The agent that serves it.
    pub agent: Named,
    /// `online`, `suspect`, `offline`, or `never` if it has not connected yet.
    pub connectivity: String,
    /// What is there now, and so where a rollback would go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<ReleaseRef>,
    /// Whether it could be rolled back: another release is there now, it is not blocked, its steps can be filled in, and the host
    /// would keep it.
    pub can_go_back: bool,
    /// What its host says now, if the environment wants a proof and there is something to go back to. Nothing of it is recorded:
    /// the deployment asks again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub way_back: Option<TargetWayBack>,
    /// What a person should know about this target.
    pub warnings: Vec<String>,
}

/// What would be run on one target of a plan. The digests are those in the target's leaf of the plan that people approve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TargetTasks {
    /// The target.
    pub target: Named,
    /// What would be run, in this order.
    pub tasks: Vec<PlannedTask>,
    /// What would take it back; absent if there is nothing to go back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<PlannedWayBack>,
}

/// What would be run to take a target back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedWayBack {
    /// What would be there then.
    pub release: ReleaseRef,
    /// What would be run, in this order; empty if a step of it cannot be filled in any more.
    pub tasks: Vec<PlannedTask>,
}

/// A step that is filled in for a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedTask {
    /// The step's name.
    pub step: String,
    /// The release that it is a step of.
    pub release: ReleaseRef,
    /// The colour for which it is run, if the release has a switch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub colour: Option<String>,
    /// Its digest: SHA-256 over a zero byte and the bytes of `task`.
    pub digest: String,
    /// The task, to the byte: JSON, with all names filled in.
    pub task: String,
}

/// What taking a deployment back would do, had it been asked for now. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RollbackPlan {
    /// The deployment that would be taken back.
    pub rollback_of: String,
    /// Where.
    pub environment: Named,
    /// How.
    pub strategy: Strategy,
    /// How long it might take in all, in seconds.
    pub timeout_seconds: u64,
    /// Where each target would go, in the order in which they would be started.
    pub targets: Vec<RollbackTarget>,
    /// Which of the targets that were touched would be left as they are, and why, for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<String>,
    /// The same for programs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftTarget>,
}

/// One target of the plan of a rollback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RollbackTarget {
    /// The target.
    pub target: Named,
    /// The agent that serves it.
    pub agent: Named,
    /// `online`, `suspect`, `offline`, or `never` if it has not connected yet.
    pub connectivity: String,
    /// What is there now, as far as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<ReleaseRef>,
    /// What would be there then.
    pub release: ReleaseRef,
    /// The colour that would be live then, if the release has a switch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub colour: Option<String>,
    /// What a person should know about this target.
    pub warnings: Vec<String>,
}

/// Which step of how many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StepPosition {
    /// The step's name.
    pub name: String,
    /// Its number, from 1.
    pub number: u32,
    /// How many there are.
    pub of: u32,
}
