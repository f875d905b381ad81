//! Environments: ordered stages.

use std::collections::BTreeMap;

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};
use stella_protocol::id::{DeploymentId, EnvironmentId, ReleaseId};
use stella_protocol::time::Timestamp;

use crate::amount::Amount;
use crate::command::Actor;
use crate::freeze::Freeze;
use crate::gate::Standing;
use crate::hold::Hold;
use crate::name::Name;
use crate::promotion::ApprovalRule;
use crate::strategy::Strategy;
use crate::way_back::ProofRule;

/// The shortest and the longest time that a release may have to prove itself, in milliseconds: none and 30 days.
pub const SOAK_MS_RANGE: (u64, u64) = (0, 30 * 24 * 3_600_000);

/// The shortest and the longest time within which agents may go silent together, in milliseconds: a second and an hour.
pub const SILENCE_MS_RANGE: (u64, u64) = (1_000, 3_600_000);

/// The shortest and the longest time that a release may bake in, in milliseconds: a second and a week.
pub const BAKE_MS_RANGE: (u64, u64) = (1_000, 7 * 24 * 3_600_000);

/// What comes after the last wave: a deployment has succeeded when it is behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// How long the release proves itself on all targets, in milliseconds. The gates are asked meanwhile, and once more at the end.
    pub bake_ms: u64,
}

/// One environment that a release must have been through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirement {
    /// Where it must have succeeded on all targets.
    pub after: EnvironmentId,
    /// For how long, in milliseconds.
    pub soak_ms: u64,
}

/// How many of several requirements a release must meet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Needs {
    /// Each of them.
    #[default]
    All,
    /// One of them, whichever it is.
    Any,
}

impl Needs {
    const fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }
}

/// What a release must have been through before it may come to an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromotionPath {
    /// The first requirement: there is at least one.
    #[serde(flatten)]
    pub first: Requirement,
    /// Whether a release comes by itself then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub auto: bool,
    /// The other requirements, none about an environment that another is about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Requirement>,
    /// How many of them it must meet; all if there is only one.
    #[serde(default, skip_serializing_if = "Needs::is_all")]
    pub needs: Needs,
}

impl PromotionPath {
    /// How many environments a path may name.
    pub const REQUIREMENTS_MAX: usize = 8;

    /// A path from one environment.
    #[must_use]
    pub const fn after(after: EnvironmentId, soak_ms: u64, auto: bool) -> Self {
        Self { first: Requirement { after, soak_ms }, auto, others: Vec::new(), needs: Needs::All }
    }

    /// All requirements, as they were given.
    pub fn requirements(&self) -> impl Iterator<Item = &Requirement> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// What it wants of one environment, if it names it.
    #[must_use]
    pub fn requirement(&self, of: EnvironmentId) -> Option<&Requirement> {
        self.requirements().find(|it| it.after == of)
    }
}

impl Environment {
    /// Whether its path names another environment.
    #[must_use]
    pub fn follows(&self, other: EnvironmentId) -> bool {
        self.requires.as_ref().is_some_and(|path| path.requirement(other).is_some())
    }
}

/// What has proven a release in an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The deployment that brought it to all targets.
    pub by: DeploymentId,
    /// Who asked for that deployment, or chose what it brought.
    pub chosen_by: Vec<Actor>,
}

/// A release that has proven itself, and is to come by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Automatic {
    /// The deployment that has proven it, the last one if several had to: it is deployed in the same way.
    pub like: DeploymentId,
    /// When it has proven itself for long enough.
    pub due_at: Timestamp,
    /// Whether that has come: it waits for the targets now.
    pub is_due: bool,
    /// Who chose what has proven it, wherever it had to: they do not let it through.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chosen_by: Vec<Actor>,
}

/// When silence is taken for a network event, and not for hosts that have failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilenceRule {
    /// More than so many percent of the agents, 1 to 99.
    pub percent: u32,
    /// Within so many milliseconds.
    pub within_ms: u64,
}

/// A stage that releases pass through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Its id.
    pub id: EnvironmentId,
    /// Its name, unique in the tenant.
    pub name: Name,
    /// Its place among the tenant's environments; smaller comes first.
    pub order: u32,
    /// What a release must have been through before it may come here. A rollback may come anyway.
    #[serde(default)]
    pub requires: Option<PromotionPath>,
    /// Releases that all targets for their application have had here after a deployment that succeeded, and since when; not if one failed
    /// since.
    #[serde(default)]
    pub proven: OrdMap<ReleaseId, Timestamp>,
    /// What has proven them. Snapshots of before this was kept lack it.
    #[serde(default)]
    pub proofs: OrdMap<ReleaseId, Proof>,
    /// Releases that a deployment was through with when no target was left that could show it. That proves nothing; but there are journals of
    /// before in which it did, and what followed from it there is taken as it comes.
    #[serde(default, skip_serializing_if = "OrdSet::is_empty")]
    pub unshown: OrdSet<ReleaseId>,
    /// What is to come here by itself.
    #[serde(default)]
    pub automatic: OrdMap<ReleaseId, Automatic>,
    /// Whose approval a promotion needs to come here; `None` is nobody's. A rollback needs none.
    #[serde(default)]
    pub approvals: Option<ApprovalRule>,
    /// How many of its targets may be at risk at once; `None` is all of them. Rollbacks are not counted.
    #[serde(default)]
    pub budget: Option<Amount>,
    /// Whether a deployment must be able to go back on every target, or say why it comes all the same.
    #[serde(default)]
    pub requires_way_back: bool,
    /// How targets follow one another here in a deployment that does not say; `None` leaves it to whoever asks.
    #[serde(default)]
    pub strategy: Option<Strategy>,
    /// What comes after the last wave of a deployment here; `None` is nothing.
    #[serde(default)]
    pub verification: Option<Verification>,
    /// What it wants of the proof that a deployment could go back.
    #[serde(default)]
    pub way_back_proof: ProofRule,
    /// When silence of its agents is taken for a network event; `None` is never.
    #[serde(default)]
    pub silence: Option<SilenceRule>,
    /// Since when such an event lasts: nothing is started here meanwhile.
    #[serde(default)]
    pub silent_since: Option<Timestamp>,
    /// When the last such event was over: what something outside was asked before counts against nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard_again_at: Option<Timestamp>,
    /// When nothing new may come here, by name. A rollback may.
    #[serde(default)]
    pub freezes: Vec<Freeze>,
    /// What must be so for something to come here, by name. A rollback may come anyway.
    #[serde(default)]
    pub gates: BTreeMap<Name, Standing>,
    /// From which channels releases may come here; if empty, from all, and what is in none. A rollback may come anyway.
    #[serde(default)]
    pub channels: Vec<Name>,
    /// Why nothing new may come here for now. A rollback may.
    #[serde(default)]
    pub lock: Option<Hold>,
    /// When it was created.
    pub created_at: Timestamp,
}

impl Environment {
    /// The freeze of those that last at `now` which lasts longest, and until when.
    #[must_use]
    pub fn lasting_freeze(&self, now: Timestamp) -> Option<(&Freeze, Timestamp)> {
        let lasting = self.freezes.iter().filter_map(|it| Some((it, it.until(now)?)));
        lasting.max_by_key(|(_, until)| *until)
    }
}
