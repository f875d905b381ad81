//! Whether a deployment could be taken back: what the hosts say of it before the first of them is changed.
//!
//! What is to be gone back to is the release that is there. Each host is asked whether it still has that release's unpacked
//! artifacts, complete and as they were unpacked. An answer is a fact and is kept with the target's part for ever; who does not
//! answer in time has not proven anything, and holds nobody up for longer than that.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use stella_protocol::id::{AgentId, DeploymentId, TargetId};
use stella_protocol::message::{Inspect, Wanted};
use stella_protocol::spec::TaskSpec;
use stella_protocol::time::Timestamp;

use crate::colour::Colour;
use crate::deployment::{Cause, Deployment, Progress, Status, TargetRollout};
use crate::hold::Hold;
use crate::ids;
use crate::release::Release;
use crate::render::{self, Names};
use crate::target::Target;
use crate::task::Task;
use crate::tenant::TenantState;

/// How long answers are waited for, in milliseconds: a host reads some ten gigabytes in that time.
pub const WINDOW_MS: u64 = 120_000;
/// How long a host may look, in milliseconds: its answer has to be here before the window is over.
pub const LOOK_MS: u64 = 110_000;
/// How old answers may be when the first target is changed, in milliseconds: a quarter of an hour. Older ones are asked for again.
pub const FRESH_MS: u64 = 900_000;
/// How many deployments to a target that have not succeeded its way back outlives. Each may leave one more release on the host, whose disk
/// has an end.
pub const UNPROVEN_MAX: u8 = 32;
/// How much of a host's reason is kept, in characters.
pub const REASON_MAX: usize = 256;

/// What an environment wants of the proof.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProofRule {
    /// Nobody is asked. So it is in environments of before there was a proof.
    #[default]
    Off,
    /// Hosts are asked, and what they say is kept and shown; nothing waits for it.
    Reported,
    /// No target is changed before all of them have proven that they could go back, or somebody has waived it.
    Required,
}

impl ProofRule {
    /// Whether it is what a fact leaves out.
    #[must_use]
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The name in messages and the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Reported => "reported",
            Self::Required => "required",
        }
    }
}

/// What a deployment knows as a whole of its way back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayBack {
    /// How often hosts were asked; 0 is never.
    pub asked: u32,
    /// When they were asked last.
    pub asked_at: Option<Timestamp>,
    /// How many have not answered. Always the same as counting the targets.
    pub open: u32,
    /// Until when that is waited for; `None` if nothing is.
    pub until: Option<Timestamp>,
    /// Who has waived the proof, when and why.
    pub waived: Option<Hold>,
    /// Whether a target was started, whatever has become of it since.
    #[serde(default)]
    pub begun: bool,
}

impl WayBack {
    /// Whether there is nothing to record.
    #[must_use]
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What is known of one target's way back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Proof {
    /// Its host was asked and has not answered.
    Asked {
        /// The number of the question: an answer to an earlier one means nothing any more.
        number: u32,
    },
    /// Its host or somebody else knows.
    Known {
        /// Since when.
        at: Timestamp,
        /// What.
        answer: ProofAnswer,
    },
}

/// What is said about a way back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum ProofAnswer {
    /// All of the release that is there is as it was unpacked.
    Proven {
        /// How many files were read.
        files: u32,
        /// How many bytes they have.
        bytes: u64,
    },
    /// It could not go back.
    Refuted {
        /// Why, for a person.
        reason: String,
    },
    /// Nobody can say.
    Unproven {
        /// Why, for a person.
        reason: String,
    },
}

impl ProofAnswer {
    /// The name in messages and the API.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Proven { .. } => "proven",
            Self::Refuted { .. } => "refuted",
            Self::Unproven { .. } => "unproven",
        }
    }

    /// Why it could not go back, or why nobody can say.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Proven { .. } => None,
            Self::Refuted { reason } | Self::Unproven { reason } => Some(reason),
        }
    }
}

impl TenantState {
    /// How many unpacked releases the host has to keep when an artifact task brings another one, if its step says `own`.
    ///
    /// Hosts remove those that were switched to longest ago. The way back is the release that last succeeded on the target, and what was
    /// brought since and did not succeed must not push it out: however few the step keeps, all of these stay.
    #[must_use]
    pub fn kept_on_host(&self, task: &Task, own: u8) -> u8 {
        let Some(current) = self.targets.get(&task.target).and_then(|target| target.current) else {
            return own;
        };
        let mut since = BTreeSet::from([current]);
        let mut deployment = Some(task.deployment);
        for _ in 0..UNPROVEN_MAX {
            let found = deployment.and_then(|id| self.deployments.get(&id));
            let Some(part) = found.and_then(|found| found.targets.get(&task.target)) else { break };
            if part.release == current {
                break;
            }
            since.insert(part.release);
            deployment = part.before.and_then(|before| before.visited.or(before.last));
        }
        own.max(u8::try_from(since.len()).unwrap_or(u8::MAX))
    }
}

impl TargetRollout {
    /// Whether there is something to go back to. From a release to itself is no way back, unless it goes from one colour to the
    /// other.
    #[must_use]
    pub fn has_way_back(&self) -> bool {
        self.previous.is_some_and(|previous| previous != self.release || self.colour().is_some())
    }

    /// Whether its host has proven that it could go back.
    #[must_use]
    pub const fn is_way_back_proven(&self) -> bool {
        matches!(self.way_back, Some(Proof::Known { answer: ProofAnswer::Proven { .. }, .. }))
    }

    /// Why this target keeps its deployment from beginning where a proof is required, if it does.
    #[must_use]
    pub fn stuck(&self) -> Option<&str> {
        if !self.has_way_back() || self.is_left_alone() || self.is_way_back_proven() {
            return None;
        }
        Some(match &self.way_back {
            Some(Proof::Known { answer, .. }) => answer.reason().unwrap_or_default(),
            Some(Proof::Asked { .. }) => "its host has not answered",
            None => "its host was not asked",
        })
    }
}

impl Deployment {
    /// Whether it may still be found out whether it could go back: none of its targets was changed.
    #[must_use]
    pub fn has_not_begun(&self) -> bool {
        self.cause == Cause::Requested
            && self.status == Status::Running
            && !self.way_back.begun
            && self.counts.waiting + self.counts.skipped == self.counts.total()
    }

    /// When the oldest answer came of those that count for its beginning.
    #[must_use]
    pub fn oldest_answer(&self) -> Option<Timestamp> {
        let known = self.targets.values().filter(|part| TenantState::is_worth_asking(part));
        let known = known.filter_map(|part| match &part.way_back {
            Some(Proof::Known { at, .. }) => Some(*at),
            Some(Proof::Asked { .. }) | None => None,
        });
        known.min()
    }

    /// The targets of which it is not proven that they could go back, though they should, and why.
    pub fn stuck(&self) -> impl Iterator<Item = (TargetId, &str)> {
        let parts = self.order.iter().filter_map(|id| self.targets.get(id));
        parts.filter_map(|part| Some((part.target, part.stuck()?)))
    }
}

impl TenantState {
    /// What the environment of a deployment wants of the proof.
    #[must_use]
    pub fn proof_rule(&self, deployment: &Deployment) -> ProofRule {
        self.environments.get(&deployment.environment).map_or(ProofRule::Off, |it| it.way_back_proof)
    }

    /// Whether somebody has waived the proof, when they asked for the deployment or later.
    #[must_use]
    pub fn is_proof_waived(&self, deployment: &Deployment) -> bool {
        let promotion = self.promotions.get(&stella_protocol::id::PromotionId(deployment.id.0));
        deployment.way_back.waived.is_some()
            || promotion.is_some_and(|promotion| promotion.wanted.waive_way_back.is_some())
    }

    /// INV-21: whether the proof lets a deployment change its first target. Once it has, nothing is left to prove.
    #[must_use]
    pub fn may_begin(&self, deployment: &Deployment) -> bool {
        self.proof_rule(deployment) != ProofRule::Required
            || !deployment.has_not_begun()
            || self.is_proof_waived(deployment)
            || (deployment.way_back.open == 0 && deployment.stuck().next().is_none())
    }

    /// What is to be asked of the agent of a target, as long as an answer is waited for.
    #[must_use]
    pub fn inspection(&self, deployment: DeploymentId, target: TargetId) -> Option<Inspect> {
        let part = self.deployments.get(&deployment)?.targets.get(&target)?;
        let Some(Proof::Asked { number }) = part.way_back else { return None };
        let place = self.targets.get(&target)?;
        Some(Inspect {
            question: ids::question(deployment, target, number),
            slot: place.slot.as_ref().map(|slot| slot.as_str().to_owned()),
            wanted: self.kept_on(place, self.releases.get(&part.previous?)?),
            timeout_ms: LOOK_MS,
        })
    }

    /// The question that an agent's answer belongs to, if it is still waited for.
    pub(crate) fn asked_about(
        &self,
        agent: AgentId,
        question: stella_protocol::id::QuestionId,
    ) -> Option<(DeploymentId, TargetId)> {
        let open = self.inspections.get(&agent)?;
        open.iter().copied().find(|(deployment, target)| {
            let part = self.deployments.get(deployment).and_then(|it| it.targets.get(target));
            let number = part.and_then(|part| match part.way_back {
                Some(Proof::Asked { number }) => Some(number),
                Some(Proof::Known { .. }) | None => None,
            });
            number.is_some_and(|number| ids::question(*deployment, *target, number) == question)
        })
    }

    /// What the host of a target has to have for the target to go back to a release: its artifacts, in the folders of the colour
    /// that is live. Empty if the release brings none.
    #[must_use]
    pub fn kept_on(&self, target: &Target, release: &Release) -> Vec<Wanted> {
        let Some(environment) = self.environments.get(&target.environment) else { return Vec::new() };
        let colour: Option<Colour> = target.live.filter(|_| release.has_colours());
        let names = Names::new(environment.name.as_str(), release, target, colour, &target.variables);
        let mut wanted: Vec<Wanted> = Vec::new();
        for step in &release.steps {
            // What cannot be filled in has no artifact: those refer to nothing.
            let Ok(TaskSpec::Artifact(spec)) = render::on_target(release, step, &names) else { continue };
            let one = Wanted { component: spec.component, version: spec.version, digest: spec.digest };
            if !wanted.contains(&one) {
                wanted.push(one);
            }
        }
        wanted
    }

    /// Whether nothing is going on at a target of a deployment yet, so that its way back is worth a question.
    pub(crate) fn is_worth_asking(part: &TargetRollout) -> bool {
        part.has_way_back() && matches!(part.progress, Progress::Waiting)
    }
}
