//! Colours: the two places that a release with a switch has on each target, and what is run there for which of them.
//!
//! Such a release has steps of three phases. Those that prepare fill one colour and start it beside the other, which is live;
//! those that switch lead the traffic to it; and those that retire end it when it is idle. What a deployment runs on a target
//! is a list of [`Leg`]s, frozen when it is created.

use serde::{Deserialize, Serialize};
use stella_protocol::id::{DeploymentId, ReleaseId};

use crate::deployment::TargetRollout;
use crate::name::Name;
use crate::release::{Phase, Release, Step, StepAction};
use crate::target::Target;
use crate::tenant::TenantState;

/// One of the two places that a release has on a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Colour {
    /// The first one that is filled.
    Blue,
    /// The other one.
    Green,
}

impl Colour {
    /// The one that this is not.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Blue => Self::Green,
            Self::Green => Self::Blue,
        }
    }

    /// The name in folders, texts and the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blue => "blue",
            Self::Green => "green",
        }
    }
}

/// What a target's colour holds that is not live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idle {
    /// Which release.
    pub release: ReleaseId,
    /// In which colour.
    pub colour: Colour,
    /// The deployment that filled it, or that led the traffic away from it.
    pub by: DeploymentId,
    /// Whether it was live, and nothing has ended it since: it can be switched to as it is. In a group, also if it was prepared.
    pub is_ready: bool,
}

/// Which steps of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Steps {
    /// All: it has no switch.
    All,
    /// Those that prepare.
    Prepare,
    /// Those of them that check, once more.
    Checks,
    /// Those that switch.
    Switch,
    /// Those that retire.
    Retire,
}

/// A part of what is run on a target: some steps of one release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Leg {
    /// Of which release.
    pub release: ReleaseId,
    /// For which of its colours; `None` if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub colour: Option<Colour>,
    /// Which of its steps.
    pub steps: Steps,
}

/// How far a blue-green deployment has got as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The idle colour of each target is filled and started.
    #[default]
    Prepare,
    /// It is checked once more, after the warm-up.
    Check,
    /// The traffic is led to it.
    Switch,
}

impl Stage {
    /// The name in messages and the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Check => "check",
            Self::Switch => "switch",
        }
    }
}

/// One step of what is run on a target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'t> {
    /// The number of its leg, from 0.
    pub(crate) number: usize,
    pub(crate) leg: Leg,
    pub(crate) release: &'t Release,
    pub(crate) step: &'t Step,
    /// Whether it is the first of its leg.
    pub(crate) is_first: bool,
}

/// The steps of a release that a leg runs.
pub(crate) fn steps(release: &Release, which: Steps) -> impl Iterator<Item = &Step> {
    release.steps.iter().filter(move |step| match which {
        Steps::All => true,
        Steps::Prepare => step.phase == Phase::Prepare,
        Steps::Checks => step.phase == Phase::Prepare && is_check(&step.action),
        Steps::Switch => step.phase == Phase::Switch,
        Steps::Retire => step.phase == Phase::Retire,
    })
}

const fn is_check(action: &StepAction) -> bool {
    match action {
        StepAction::CheckHttp { .. } | StepAction::CheckTcp { .. } | StepAction::CheckCommand { .. } => true,
        StepAction::Artifact { .. } | StepAction::Command { .. } | StepAction::Systemd { .. } => false,
    }
}

impl TargetRollout {
    /// What is run on the target.
    pub fn route(&self) -> impl Iterator<Item = Leg> {
        let whole = Leg { release: self.release, colour: None, steps: Steps::All };
        self.legs.iter().copied().chain(self.legs.is_empty().then_some(whole))
    }

    /// The colour that is live there afterwards; `None` if the release has none.
    #[must_use]
    pub fn colour(&self) -> Option<Colour> {
        self.legs.last().and_then(|leg| leg.colour)
    }

    /// In which stage of a blue-green deployment a leg is run.
    #[must_use]
    pub fn stage_of(&self, leg: usize) -> Stage {
        let filled = self.legs.iter().rposition(|it| it.steps == Steps::Prepare);
        match (filled, self.legs.get(leg)) {
            (Some(filled), Some(it)) if leg > filled => {
                if it.steps == Steps::Checks {
                    Stage::Check
                } else {
                    Stage::Switch
                }
            }
            // The groups of targets are filled on others.
            (None, Some(it)) if it.steps == Steps::Switch => Stage::Switch,
            _ => Stage::Prepare,
        }
    }
}

impl TenantState {
    /// One step of what is run on a target, by its number from 0; `None` if there is none of that number.
    pub(crate) fn place(&self, part: &TargetRollout, number: u16) -> Option<Place<'_>> {
        let mut left = usize::from(number);
        for (at, leg) in part.route().enumerate() {
            let release = self.recipe(leg.release)?;
            let count = steps(release, leg.steps).count();
            if let Some(step) = steps(release, leg.steps).nth(left) {
                return Some(Place { number: at, leg, release, step, is_first: left == 0 });
            }
            left -= count;
        }
        None
    }

    /// The name of one step of what is run on a target, by its number from 0.
    #[must_use]
    pub fn step_on(&self, part: &TargetRollout, number: u16) -> Option<&Name> {
        self.place(part, number).map(|place| &place.step.name)
    }

    /// The number of the first step of a leg.
    pub(crate) fn first_step_of(&self, part: &TargetRollout, leg: usize) -> u16 {
        let before = part.route().take(leg).filter_map(|leg| Some((self.recipe(leg.release)?, leg)));
        let count: usize = before.map(|(release, leg)| steps(release, leg.steps).count()).sum();
        u16::try_from(count).unwrap_or(u16::MAX)
    }

    /// How many steps are run on a target.
    #[must_use]
    pub fn steps_on(&self, part: &TargetRollout) -> u16 {
        self.first_step_of(part, usize::MAX)
    }

    /// What brings a release to a target, with `checks` once more before it is switched to. Empty is all of its steps: neither
    /// it nor what is there has colours.
    pub(crate) fn way_there(&self, target: &Target, release: &Release, checks: bool) -> Vec<Leg> {
        if !release.has_colours() && target.live.is_none() && target.idle.is_none() {
            return Vec::new();
        }
        let mut legs = Vec::new();
        // A switch that was left halfway is first decided for what is known to work.
        if let (true, Some(colour), Some(current)) = (target.is_torn, target.live, target.current) {
            legs.push(Leg { release: current, colour: Some(colour), steps: Steps::Switch });
        }
        // Without anything that was ever live, the traffic of a torn one may be at the idle colour: that is filled anew in place.
        let may_retire = !target.is_torn || target.live.is_some();
        if let Some(idle) = target.idle.filter(|_| may_retire)
            && self.can_retire(idle)
        {
            legs.push(idle.retirement());
        }
        if !release.has_colours() {
            legs.push(Leg { release: release.id, colour: None, steps: Steps::All });
            return legs;
        }
        let filled = target.idle.map(|idle| idle.colour);
        let colour = target.live.map(Colour::other).or(filled).unwrap_or(Colour::Blue);
        let leg = |steps| Leg { release: release.id, colour: Some(colour), steps };
        legs.push(leg(Steps::Prepare));
        if checks && steps(release, Steps::Checks).next().is_some() {
            legs.push(leg(Steps::Checks));
        }
        legs.push(leg(Steps::Switch));
        legs
    }

    /// What takes a target back to a release: only the switch, if that is still there.
    pub(crate) fn way_back(&self, target: &Target, release: &Release) -> Vec<Leg> {
        let switch = |colour| vec![Leg { release: release.id, colour: Some(colour), steps: Steps::Switch }];
        let live = target.live.filter(|_| target.is_torn && target.current == Some(release.id));
        let idle = target.idle.filter(|idle| !target.is_torn && idle.is_ready && idle.release == release.id);
        match live.or_else(|| idle.map(|idle| idle.colour)) {
            Some(colour) => switch(colour),
            None => self.way_there(target, release, false),
        }
    }

    /// Whether there is anything to do to end an idle colour.
    pub(crate) fn can_retire(&self, idle: Idle) -> bool {
        self.releases.get(&idle.release).is_some_and(|it| steps(it, Steps::Retire).next().is_some())
    }
}

impl Idle {
    /// What ends it.
    pub(crate) const fn retirement(self) -> Leg {
        Leg { release: self.release, colour: Some(self.colour), steps: Steps::Retire }
    }
}
