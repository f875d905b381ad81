//! Deployments: a release on its way to the targets of an environment.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use stella_protocol::id::{
    AgentId, DeploymentId, EnvironmentId, Generation, ReleaseId, RunId, TargetId, TaskId,
};
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;

use crate::amount::Amount;
use crate::colour::{Leg, Stage};
use crate::command::Actor;
use crate::environment::Verification;
use crate::hold::{Hold, PauseCause};
use crate::left::LeftOut;
use crate::name::{Identifier, Name};
pub use crate::strategy::{BlueGreen, CanaryStep, Strategy};
use crate::task::TaskState;
use crate::way_back::{Proof, WayBack};

/// How long a deployment may take in all, in milliseconds, unless its creator says otherwise.
pub const TIMEOUT_MS_DEFAULT: u64 = 3_600_000;
/// The shortest and the longest time that a deployment may take, in milliseconds: a second and a week.
pub const TIMEOUT_MS_RANGE: (u64, u64) = (1_000, 7 * 24 * 3_600_000);
/// How many targets one deployment may have: its creation and its end are each one atomic append, which must stay bounded.
pub const TARGETS_MAX: usize = 10_000;

/// A release on its way to the targets of an environment.
///
/// Its targets, their variables and what to go back to are frozen when it is created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// Where to.
    pub environment: EnvironmentId,
    /// What. For a rollback, the release of its first target; each target has its own in [`TargetRollout::release`]. For a job, what it
    /// runs: see [`TenantState::recipe`](crate::tenant::TenantState::recipe).
    pub release: ReleaseId,
    /// How.
    pub strategy: Strategy,
    /// What to do when more targets fail than are tolerated.
    pub on_failure: OnFailure,
    /// How many targets may fail before that; a share is rounded down. `None` is none.
    #[serde(default)]
    pub tolerate_failures: Option<Amount>,
    /// Why it exists.
    pub cause: Cause,
    /// How far it has got.
    pub status: Status,
    /// Why it starts no further target for now. Only while it is running.
    #[serde(default)]
    pub paused: Option<Hold>,
    /// What the pause is for. Says nothing while there is none.
    #[serde(default)]
    pub paused_for: PauseCause,
    /// When the pause ends by itself; `None` if it does not, or if there is none.
    #[serde(default)]
    pub resumes_at: Option<Timestamp>,
    /// How much of its pause is left, in milliseconds, if the time of that stands still: too many agents of its environment are silent.
    /// Then nothing is in `resumes_at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumes_in_ms: Option<u64>,
    /// How many steps of its canary are behind it: their targets have the release.
    #[serde(default)]
    pub steps_passed: u32,
    /// How far it has got as a whole, if it is blue-green.
    #[serde(default)]
    pub stage: Stage,
    /// Whether its warm-up has begun; it is behind it if it is not paused for that.
    #[serde(default)]
    pub warmed_up: bool,
    /// What comes after its last wave, frozen; `None` is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
    /// Whether its release bakes in on all targets; it is behind that if it is not paused for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub baked: bool,
    /// Why it is taken back if it fails: set when it halts.
    #[serde(default, skip_serializing_if = "RollbackReason::is_default")]
    pub halted_for: RollbackReason,
    /// If it takes another one back: which of the targets of that it leaves as they are, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<LeftOut>,
    /// What it knows as a whole of its way back.
    #[serde(default, skip_serializing_if = "WayBack::is_default")]
    pub way_back: WayBack,
    /// Each target's part, by target id.
    pub targets: OrdMap<TargetId, Arc<TargetRollout>>,
    /// Where in `order` the batch began that is worked on; only with a pause between batches.
    #[serde(default)]
    pub batch_from: u32,
    /// How many targets have the release, and their step or batch is not behind it yet.
    #[serde(default)]
    pub unproven: u32,
    /// Whether the hold has begun in which they prove it.
    #[serde(default)]
    pub proving: bool,
    /// How many waves are over: it grows with each target that ends, with each pause and with each stage. What something outside
    /// said in one wave counts for no other.
    #[serde(default)]
    pub waves: u32,
    /// The failure domain of the target that was started last, if the strategy knows such.
    #[serde(default)]
    pub domain: Option<String>,
    /// The targets in the order in which they are started.
    pub order: Arc<[TargetId]>,
    /// Where in `order` the first target is whose turn comes in this stage and has not yet: none is before it.
    pub next: u32,
    /// How many targets have got how far. Always the same as counting `targets`.
    pub counts: Counts,
    /// When it was created.
    pub created_at: Timestamp,
    /// Who asked for it; for a rollback that started by itself, whose word it followed from. `None` in snapshots of before
    /// this was kept.
    #[serde(default)]
    pub created_by: Option<Actor>,
    /// The trace that it belongs to, and the span that asked for it; all of its tasks belong there. None in snapshots of before this
    /// was kept.
    #[serde(default)]
    pub trace: TraceContext,
    /// How long it may take in all, in milliseconds, without its pauses. `None` in archives of before this was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// When it must have ended; what is still open then is cancelled. Moves by the length of each pause, and does not
    /// count during one.
    pub deadline: Timestamp,
    /// Since when its deadline does not count although it is not paused: it has halted where too many agents are silent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stands_since: Option<Timestamp>,
    /// Since when what comes next was put off for a decision of its own: much else was decided at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub put_off: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

impl Deployment {
    /// The target whose turn is next, if any waits for it.
    #[must_use]
    pub fn next_waiting(&self) -> Option<TargetId> {
        usize::try_from(self.next).ok().and_then(|next| self.order.get(next)).copied()
    }

    /// Whether another target may be started now, as far as the deployment itself is concerned.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.has_room_of(self.taking_part())
    }

    /// The same as it is in journals: the share of a canary step was one of all targets, also of those that were left out.
    #[must_use]
    pub(crate) fn may_have_room(&self) -> bool {
        self.has_room_of(self.counts.total())
    }

    /// The same, if so many targets take part.
    fn has_room_of(&self, taking_part: u32) -> bool {
        self.paused.is_none()
            && self.counts.active < self.active_max()
            && self.counts.active + self.counts.failed < self.strategy.unavailable_max(self.counts.total())
            && self.step_max(taking_part).is_none_or(|max| self.counts.active + self.counts.succeeded < max)
            && self.is_domain_free()
            && !self.is_batch_full(self.begun_in_batch())
    }

    /// How many targets take part: all but those that are left out.
    #[must_use]
    pub const fn taking_part(&self) -> u32 {
        self.counts.total() - self.counts.skipped
    }

    /// How many targets have the release when the canary step that it is at is complete, if so many take part; `None` if it is at none.
    /// What has failed has no part in that: the next ones take its place.
    fn step_max(&self, taking_part: u32) -> Option<u32> {
        self.strategy.step(self.steps_passed).map(|step| step.of(taking_part))
    }

    /// How many targets may be worked on at the same time. What is done beside what is live needs no limit.
    #[must_use]
    pub fn active_max(&self) -> u32 {
        if self.is_beside() { u32::MAX } else { self.strategy.active_max(self.counts.total()) }
    }

    /// Whether it is blue-green and has not begun to switch: what is live is not touched yet.
    #[must_use]
    pub const fn is_beside(&self) -> bool {
        self.strategy.blue_green().is_some() && !matches!(self.stage, Stage::Switch)
    }

    /// How many of its targets are at risk now: worked on, failed, or with a release that has yet to prove itself. A rollback puts
    /// none at risk.
    #[must_use]
    pub fn at_risk(&self) -> u32 {
        if self.status.is_final() || !self.cause.is_asked_for() || self.is_beside() {
            return 0;
        }
        self.counts.active + self.counts.failed + self.unproven
    }

    /// Whether nothing of it is at risk but what has failed, if that is.
    #[must_use]
    pub(crate) const fn has_only_failures_at_risk(&self) -> bool {
        matches!(self.status, Status::Running) && self.counts.active == 0 && self.unproven == 0
    }

    /// Whether it waits for the budget, or for what people decide about failures: both may be for what has failed elsewhere, too.
    #[must_use]
    pub(crate) const fn is_stopped_by_failures(&self) -> bool {
        self.paused.is_some() && matches!(self.paused_for, PauseCause::Budget | PauseCause::Failure)
    }

    /// Whether somebody may pause it: it is not paused, or for something that would end without them. In snapshots of before causes
    /// were kept, an end of its own tells that.
    #[must_use]
    pub fn can_be_paused(&self) -> bool {
        self.paused.is_none() || self.paused_for != PauseCause::Person || self.resumes_by_itself()
    }

    /// Whether it holds for the release to prove itself where it is: what something outside says is asked for meanwhile.
    #[must_use]
    pub const fn is_watched(&self) -> bool {
        matches!(self.status, Status::Running)
            && self.paused.is_some()
            && matches!(
                self.paused_for,
                PauseCause::CanaryStep | PauseCause::Batch | PauseCause::WarmUp | PauseCause::Verification
            )
    }

    /// Whether the release is on some target, or prepared there: what a gate could verify.
    #[must_use]
    pub const fn has_brought(&self) -> bool {
        let counts = self.counts;
        counts.succeeded + counts.failed + counts.ready + counts.abandoned > 0
    }

    /// Whether all targets are through: none is worked on, and none waits.
    #[must_use]
    pub const fn is_through(&self) -> bool {
        self.counts.active == 0 && self.left() == 0
    }

    /// Whether all targets are through, and the release is to bake in there before it has succeeded.
    #[must_use]
    pub fn may_bake(&self) -> bool {
        matches!(self.status, Status::Running)
            && self.verification.is_some()
            && !self.baked
            && self.is_through()
            && self.counts.succeeded > 0
            && !self.has_failed_too_often()
    }

    /// Whether nothing but somebody's word on what was brought is missing: all targets are through, and the bake is over if there
    /// is one.
    #[must_use]
    pub fn may_wait_for_a_word(&self) -> bool {
        matches!(self.status, Status::Running)
            && (self.verification.is_none() || self.baked)
            && self.is_through()
            && self.counts.succeeded > 0
            && !self.has_failed_too_often()
    }

    /// Whether it holds until somebody has said a word on what was brought.
    #[must_use]
    pub fn waits_for_a_word(&self) -> bool {
        self.paused.is_some() && self.paused_for == PauseCause::Verification && !self.resumes_by_itself()
    }

    /// Whether its pause has an end of its own, be it that the time of that stands still.
    #[must_use]
    pub const fn resumes_by_itself(&self) -> bool {
        self.resumes_at.is_some() || self.resumes_in_ms.is_some()
    }

    /// Whether more targets have failed than are tolerated.
    #[must_use]
    pub fn has_failed_too_often(&self) -> bool {
        let none_is_left = self.counts.failed + self.counts.skipped == self.counts.total();
        // Where the traffic goes has to be decided: nothing is tolerated there.
        if self.counts.failed > 0
            && self.leading().any(|part| matches!(part.progress, Progress::Failed { .. }))
        {
            return true;
        }
        self.counts.failed > self.failures_max() || (self.counts.failed > 0 && none_is_left)
    }

    /// Whether a failed target of this failure domain may be worked on again beside those that are worked on now.
    #[must_use]
    pub fn has_room_again(&self, domain: Option<&str>) -> bool {
        let is_domain_free =
            self.counts.active == 0 || !self.strategy.is_by_domain() || domain == self.domain.as_deref();
        self.counts.active < self.active_max() && is_domain_free
    }

    /// Goes over what does not wait in this stage: the next one that does, if any, is the next in the order.
    pub(crate) fn step_over(&mut self) {
        while let Some(next) = self.next_waiting() {
            if self.targets.get(&next).is_some_and(|part| self.is_due(part)) {
                return;
            }
            self.next += 1;
        }
    }

    /// Whether a target waits for its turn in this stage.
    #[must_use]
    pub fn is_due(&self, part: &TargetRollout) -> bool {
        match part.progress {
            Progress::Waiting => !self.is_beside() || part.stage_of(0) <= self.stage,
            Progress::Ready { .. } if self.waits_for_traffic(part) => false,
            Progress::Ready { leg, .. } => part.stage_of(leg.into()) <= self.stage,
            Progress::Active { .. }
            | Progress::Succeeded { .. }
            | Progress::Failed { .. }
            | Progress::Skipped { .. }
            | Progress::Abandoned { .. } => false,
        }
    }

    /// Whether every target is through this stage of a blue-green deployment that goes on.
    #[must_use]
    pub fn is_stage_done(&self) -> bool {
        self.is_beside()
            && matches!(self.status, Status::Running)
            && self.counts.active == 0
            && self.left() > 0
            && self.next_waiting().is_none()
            && !self.has_failed_too_often()
    }

    /// Whether everything is prepared, and warms up now if it is to.
    #[must_use]
    pub fn may_warm_up(&self) -> bool {
        let wants = self.strategy.blue_green().is_some_and(BlueGreen::warms_up);
        wants && !self.warmed_up && self.stage == Stage::Prepare && self.is_stage_done()
    }

    /// How many targets may fail. What leads the traffic to groups is none of those that a share is of.
    #[must_use]
    pub fn failures_max(&self) -> u32 {
        let leading = u32::try_from(self.leading().count()).unwrap_or(u32::MAX);
        let total = self.counts.total().saturating_sub(leading);
        self.tolerate_failures.map_or(0, |amount| amount.at_most(total))
    }

    /// Whether no target of another failure domain than the next one's is worked on.
    fn is_domain_free(&self) -> bool {
        self.counts.active == 0
            || !self.strategy.is_by_domain()
            || self.next_domain() == self.domain.as_deref()
    }

    fn next_domain(&self) -> Option<&str> {
        self.targets.get(&self.next_waiting()?)?.domain.as_deref()
    }

    /// Whether the batch that is worked on, of which so many targets were begun, takes no further one; without a pause in between it
    /// always does.
    fn is_batch_full(&self, begun: u32) -> bool {
        let batch_max = self.strategy.active_max(self.counts.total());
        let other_domain = self.strategy.is_by_domain() && self.next_domain() != self.domain.as_deref();
        self.strategy.pause_ms().is_some() && begun > 0 && (begun >= batch_max || other_domain)
    }

    /// How many places in the order the batch that is worked on has come through.
    const fn places_in_batch(&self) -> u32 {
        self.next.saturating_sub(self.batch_from)
    }

    /// How many targets of the batch that is worked on were begun: those that were left out are none of them. A search, if some were.
    fn begun_in_batch(&self) -> u32 {
        let places = self.places_in_batch();
        if self.counts.skipped == 0 || self.strategy.pause_ms().is_none() {
            return places;
        }
        let place = |at: u32| usize::try_from(at).unwrap_or(usize::MAX);
        let batch = self.order.get(place(self.batch_from)..place(self.next)).unwrap_or_default();
        let parts = batch.iter().filter_map(|target| self.targets.get(target));
        let left_out = parts.filter(|part| matches!(part.progress, Progress::Skipped { .. })).count();
        places.saturating_sub(u32::try_from(left_out).unwrap_or(u32::MAX))
    }

    /// Whether a batch is complete after which the deployment pauses: for so long, in milliseconds.
    #[must_use]
    pub fn batch_reached(&self) -> Option<u64> {
        self.batch_reached_with(self.begun_in_batch())
    }

    fn batch_reached_with(&self, begun: u32) -> Option<u64> {
        let pause_ms = self.strategy.pause_ms()?;
        (self.rests() && self.is_batch_full(begun)).then_some(pause_ms)
    }

    /// The canary step that is complete and not behind it yet: its number, from 1, and how it holds there.
    #[must_use]
    pub fn step_reached(&self) -> Option<(u32, CanaryStep)> {
        let step = self.strategy.step(self.steps_passed)?;
        let reached = self.rests() && self.counts.succeeded >= step.of(self.taking_part());
        reached.then(|| (self.steps_passed.saturating_add(1), step))
    }

    /// Whether it may hold after the canary step of this number, or after a batch if there is none. In journals of before, targets that
    /// were left out, and such as had failed, counted as if they had the release.
    #[must_use]
    pub(crate) fn may_hold_after(&self, canary_step: Option<u32>) -> bool {
        let Some(number) = canary_step else {
            let by_place = || self.batch_reached_with(self.places_in_batch());
            return self.batch_reached().or_else(by_place).is_some();
        };
        let by_place =
            || self.step_max(self.counts.total()).is_some_and(|max| self.rests() && self.next >= max);
        let is_its_turn = number == self.steps_passed.saturating_add(1);
        is_its_turn && (self.step_reached().is_some() || by_place())
    }

    /// How it holds where the budget of its environment lets it start no more in the middle of a batch or a canary step: as after
    /// that, for so long, in milliseconds. `None` if nothing has to prove itself.
    #[must_use]
    pub fn cut_short(&self) -> Option<(PauseCause, Option<u64>)> {
        let holds = self.rests() && self.unproven > 0;
        let step = self.strategy.step(self.steps_passed).filter(|_| holds);
        let batch = self.strategy.pause_ms().filter(|_| holds);
        let step = step.map(|step| (PauseCause::CanaryStep, step.soak_ms));
        step.or_else(|| batch.map(|pause_ms| (PauseCause::Batch, Some(pause_ms))))
    }

    /// How many targets wait for their turn, or for the others.
    #[must_use]
    pub const fn left(&self) -> u32 {
        self.counts.waiting + self.counts.ready
    }

    /// Whether it could go on, and works on nothing.
    const fn rests(&self) -> bool {
        matches!(self.status, Status::Running)
            && self.paused.is_none()
            && self.counts.active == 0
            && self.counts.waiting > 0
    }

    /// How long it may take in all, in milliseconds, without its pauses.
    #[must_use]
    pub fn timeout_ms(&self) -> u64 {
        self.timeout_ms.unwrap_or_else(|| self.deadline.0.saturating_sub(self.created_at.0))
    }
}

/// How many targets of a deployment have got how far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Their turn has not come.
    pub waiting: u32,
    /// They are worked on.
    pub active: u32,
    /// They have the release.
    pub succeeded: u32,
    /// A step did not succeed.
    pub failed: u32,
    /// Nothing was done there, or somebody wants them left alone.
    pub skipped: u32,
    /// They were left between two steps.
    pub abandoned: u32,
    /// They wait for the others before they are switched.
    #[serde(default)]
    pub ready: u32,
}

impl Counts {
    /// All targets.
    #[must_use]
    pub const fn total(self) -> u32 {
        self.waiting + self.active + self.ready + self.succeeded + self.failed + self.skipped + self.abandoned
    }

    /// How many targets have the release, for people.
    pub(crate) fn have_it(self) -> String {
        let (done, total) = (self.succeeded, self.total());
        let have = if total == 1 { "target has" } else { "targets have" };
        format!("{done} of {total} {have} the release")
    }

    /// The count that a target with this progress is part of.
    pub(crate) const fn of(&mut self, progress: &Progress) -> &mut u32 {
        match progress {
            Progress::Waiting => &mut self.waiting,
            Progress::Active { .. } => &mut self.active,
            Progress::Ready { .. } => &mut self.ready,
            Progress::Succeeded { .. } => &mut self.succeeded,
            Progress::Failed { .. } => &mut self.failed,
            Progress::Skipped { .. } => &mut self.skipped,
            Progress::Abandoned { .. } => &mut self.abandoned,
        }
    }
}

/// What to do when more targets fail than are tolerated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Start no further target, and bring the targets that were touched back to what last succeeded on them.
    #[default]
    Rollback,
    /// Start no further target and leave everything as it is.
    Stop,
    /// Start no further target until somebody has decided: about each failed target, whether to try it again or to skip it; or
    /// to give up, and whether what was touched is taken back then. What fails for another reason is left as it is.
    Ask,
}

/// Why a deployment exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Cause {
    /// Somebody asked for it.
    Requested,
    /// It takes back another one.
    Rollback {
        /// Which one.
        of: DeploymentId,
        /// Why.
        reason: RollbackReason,
    },
    /// It ends the colours that another one has left idle.
    Retirement {
        /// Which one.
        of: DeploymentId,
    },
    /// It is a [job](crate::job): a step of a run wants something run.
    Job {
        /// The workflow.
        workflow: Name,
        /// The run of it.
        run: RunId,
        /// The step of that.
        step: Identifier,
    },
}

impl Cause {
    /// Whether somebody asked for it, themselves or by starting a run: then it has a promotion, and goes by all rules of its environment.
    #[must_use]
    pub const fn is_asked_for(&self) -> bool {
        matches!(self, Self::Requested | Self::Job { .. })
    }

    /// Whether a release comes to targets with it, forward or back: what counts as a deployment for those who count them.
    #[must_use]
    pub const fn brings_release(&self) -> bool {
        matches!(self, Self::Requested | Self::Rollback { .. })
    }

    /// Whether it is a [job](crate::job): it leaves what is on its targets as it is.
    #[must_use]
    pub const fn is_job(&self) -> bool {
        matches!(self, Self::Job { .. })
    }
}

/// Why a rollback was started; the label `reason` of `stella_rollbacks_total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RollbackReason {
    /// A target failed, or a person gave it up.
    #[default]
    DeploymentFailed,
    /// A person asked for it.
    Manual,
    /// A gate closed on the way, or a signature counts no more.
    Gate,
    /// A gate closed after the last wave.
    Verification,
    /// It took too long.
    TimeOut,
    /// Its release was blocked.
    Blocked,
}

impl RollbackReason {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::DeploymentFailed, Self::Manual, Self::Gate, Self::Verification, Self::TimeOut, Self::Blocked];

    /// The name in metrics and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DeploymentFailed => "deployment_failed",
            Self::Manual => "manual",
            Self::Gate => "gate",
            Self::Verification => "verification",
            Self::TimeOut => "time_out",
            Self::Blocked => "blocked",
        }
    }

    /// Whether a halt for it is recorded by default.
    #[must_use]
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How far a deployment has got. The last three are final.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Status {
    /// Targets are worked on.
    Running,
    /// A target failed, or the time is up: no further target is started, and what is open comes to its end.
    Halting {
        /// What failed, for a person.
        reason: String,
    },
    /// Somebody cancelled it: open tasks are being ended.
    Cancelling {
        /// Why, for a person.
        reason: String,
    },
    /// All targets have the release, but for those whose failure is tolerated.
    Succeeded,
    /// More targets failed than are tolerated, or the time was up.
    Failed {
        /// What failed, for a person.
        reason: String,
    },
    /// It was cancelled.
    Cancelled {
        /// Why, for a person.
        reason: String,
    },
}

impl Status {
    /// Whether nothing can change any more.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed { .. } | Self::Cancelled { .. })
    }

    /// The name in metrics and messages.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Halting { .. } => "halting",
            Self::Cancelling { .. } => "cancelling",
            Self::Succeeded => "succeeded",
            Self::Failed { .. } => "failed",
            Self::Cancelled { .. } => "cancelled",
        }
    }
}

/// One target's part in a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetRollout {
    /// The target.
    pub target: TargetId,
    /// The agent that serves it, frozen.
    pub agent: AgentId,
    /// What to bring there.
    pub release: ReleaseId,
    /// What is there before, and so where a rollback goes; `None` if nothing ever succeeded there.
    pub previous: Option<ReleaseId>,
    /// The value of the label that the strategy orders by, frozen.
    #[serde(default)]
    pub domain: Option<String>,
    /// The target's variables, frozen: what its steps are filled in with, whatever becomes of the target meanwhile.
    pub variables: Arc<BTreeMap<String, String>>,
    /// Those with which a release that comes back was brought there: what the legs of that release are filled in with instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variables_back: Option<Arc<BTreeMap<String, String>>>,
    /// Those with which `previous` was brought, frozen as well: what takes this back is filled in with them. `None` if nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_variables: Option<Arc<BTreeMap<String, String>>>,
    /// What is run there, frozen; empty is all steps of the release, which has no colours then.
    #[serde(default)]
    pub legs: Arc<[Leg]>,
    /// Whether what is live there has not been touched.
    #[serde(default)]
    pub is_spared: bool,
    /// What was the last to come there before its turn came. `None` before that, and in snapshots of before this was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Before>,
    /// What is known of its way back; `None` if nobody was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub way_back: Option<Proof>,
    /// How often somebody had it tried again.
    #[serde(default)]
    pub round: u32,
    /// The last of its tasks that was settled by a look at its host, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<TaskId>,
    /// How far it has got.
    pub progress: Progress,
}

impl TargetRollout {
    /// What the steps of a release are filled in with there. What is live and has to be led away from first has its own.
    #[must_use]
    pub fn variables_for(&self, release: ReleaseId) -> &Arc<BTreeMap<String, String>> {
        let back = self.variables_back.as_ref().filter(|_| release == self.release);
        back.unwrap_or(&self.variables)
    }

    /// Whether what is live there was, or may have been, changed and nothing is going on any more.
    #[must_use]
    pub const fn is_touched(&self) -> bool {
        self.has_ended_started() && !self.is_spared
    }

    /// Whether something was done there and nothing is going on any more.
    #[must_use]
    pub const fn has_ended_started(&self) -> bool {
        matches!(
            self.progress,
            Progress::Succeeded { .. } | Progress::Failed { .. } | Progress::Abandoned { .. }
        )
    }

    /// Whether its turn has come, and nothing was done there: its first task has ended, and never started.
    #[must_use]
    pub fn is_untouched(&self, task: &TaskState) -> bool {
        let never_began = matches!(task, TaskState::Cancelled(end) if end.started_at.is_none());
        // What is beside the live colour is noted when its task is queued.
        let may_tell = self.before.is_some() && self.round == 0 && self.legs.is_empty();
        never_began && may_tell && matches!(self.progress, Progress::Active { step: 0, .. })
    }

    /// Whether somebody wants it left alone, by the deployment and by what takes it back.
    #[must_use]
    pub const fn is_left_alone(&self) -> bool {
        matches!(self.progress, Progress::Skipped { hold: Some(_) })
    }
}

/// See [`TargetRollout::before`]: what a target goes back to if nothing was ever sent there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    /// See [`crate::target::Target::last`].
    pub last: Option<DeploymentId>,
    /// See [`crate::target::Target::visited`].
    pub visited: Option<DeploymentId>,
}

/// How far one target has got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Progress {
    /// Its turn has not come.
    Waiting,
    /// Its steps are run.
    Active {
        /// The target's generation of this deployment.
        generation: Generation,
        /// Which step, from 0.
        step: u16,
        /// The task of that step.
        task: TaskId,
        /// Since when this target is worked on.
        since: Timestamp,
    },
    /// Its colour that is not live has the release, and it waits for the others before it goes on.
    Ready {
        /// Since when.
        at: Timestamp,
        /// With which leg it goes on.
        leg: u16,
    },
    /// It has the release.
    Succeeded {
        /// When.
        at: Timestamp,
    },
    /// A step did not succeed.
    Failed {
        /// When.
        at: Timestamp,
        /// The task that did not.
        task: TaskId,
        /// Why, for a person.
        reason: String,
    },
    /// Its turn never came, or nothing was done there in it, or somebody wants it left alone.
    Skipped {
        /// Who wants it, when and why; `None` if nobody does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hold: Option<Hold>,
    },
    /// It was worked on when the deployment was halted or cancelled, and was left between two steps. If its last task was
    /// `unknown` then, the target is blocked by it: see [`crate::target::Target::blocked_by`].
    Abandoned {
        /// When.
        at: Timestamp,
    },
}

impl Progress {
    /// The task that the target waits for, while it is worked on.
    #[must_use]
    pub const fn task(&self) -> Option<TaskId> {
        if let Self::Active { task, .. } = self { Some(*task) } else { None }
    }

    /// The name in messages and the API.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Active { .. } => "active",
            Self::Ready { .. } => "ready",
            Self::Succeeded { .. } => "succeeded",
            Self::Failed { .. } => "failed",
            Self::Skipped { .. } => "skipped",
            Self::Abandoned { .. } => "abandoned",
        }
    }
}
