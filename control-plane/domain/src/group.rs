//! Two groups of targets that are the colours of an environment, and the targets that lead the traffic to one of them.
//!
//! What is in which group is said by a label, and which group has the traffic by the targets that lead it: they are *switched*
//! as targets with two colours of their own are. The targets of the group that is live have the release; those of the other one
//! hold what they have as something idle, and nothing current. A deployment prepares the group without traffic, switches those
//! that lead it, and only then its targets have the release (INV-23).

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stella_protocol::id::EnvironmentId;

use crate::colour::{Colour, Leg, Steps};
use crate::deployment::{Deployment, Progress, Strategy, TargetRollout};
use crate::event::PlannedTarget;
use crate::release::Release;
use crate::strategy::Groups;
use crate::target::Target;
use crate::tenant::TenantState;

/// What a target is for two groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// It is in one of them.
    Member,
    /// It leads the traffic to one of them.
    Switch,
}

impl Part {
    /// The name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Switch => "switch",
        }
    }

    /// By what is run on it in a deployment to groups.
    #[must_use]
    pub fn of(legs: &[Leg]) -> Self {
        match legs.last().map(|leg| leg.steps) {
            Some(Steps::Prepare | Steps::Checks) => Self::Member,
            Some(Steps::Switch | Steps::Retire | Steps::All) | None => Self::Switch,
        }
    }
}

/// Why nobody can say which group is live.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Doubt<'t> {
    /// Its switch was left halfway.
    Torn(&'t Target),
    /// The first leads to blue, and the other one to green.
    Both(&'t Target, &'t Target),
}

impl Groups {
    /// Whether a target leads the traffic.
    #[must_use]
    pub fn leads(&self, target: &Target) -> bool {
        self.switch.iter().all(|(label, value)| target.labels.get(label) == Some(value))
    }

    /// The group that a target's label says it is in.
    #[must_use]
    pub fn group_of(&self, target: &Target) -> Option<Colour> {
        let value = target.labels.get(&self.label)?;
        [Colour::Blue, Colour::Green].into_iter().find(|colour| colour.name() == value)
    }
}

impl Deployment {
    /// Whether a part waits for nothing but the traffic: its group has it when those that lead it are switched.
    #[must_use]
    pub fn waits_for_traffic(&self, part: &TargetRollout) -> bool {
        self.strategy.groups().is_some()
            && matches!(part.progress, Progress::Ready { leg, .. } if usize::from(leg) >= part.legs.len())
    }

    /// Whether a part is a target of the group that gets the release.
    #[must_use]
    pub(crate) fn is_member(&self, part: &TargetRollout) -> bool {
        self.strategy.groups().is_some() && Part::of(&part.legs) == Part::Member
    }

    /// The targets that lead the traffic; they come last.
    pub(crate) fn leading(&self) -> impl Iterator<Item = &Arc<TargetRollout>> {
        let goes = self.strategy.groups().is_some();
        let parts = self.order.iter().rev().filter_map(|target| self.targets.get(target));
        parts.take_while(move |part| goes && Part::of(&part.legs) == Part::Switch)
    }

    /// The group that the traffic is led to, if it goes to groups.
    #[must_use]
    pub fn leads_to(&self) -> Option<Colour> {
        self.leading().find_map(|part| part.legs.last().and_then(|leg| leg.colour))
    }

    /// Whether nothing but the members' success is left: all that leads the traffic has been switched, or is left alone.
    #[must_use]
    pub(crate) fn is_settled(&self) -> bool {
        self.strategy.groups().is_some()
            && !self.is_beside()
            && self.counts.active == 0
            && self.counts.waiting == 0
            && self.counts.ready > 0
            && !self.has_failed_too_often()
    }
}

impl TenantState {
    pub(crate) fn targets_of(&self, environment: EnvironmentId) -> impl Iterator<Item = &Arc<Target>> {
        let names = self.index.targets.get(&environment).into_iter().flat_map(|names| names.values());
        names.filter_map(|id| self.targets.get(id))
    }

    /// The targets of an environment that lead the traffic, in the order of their names.
    pub(crate) fn leaders<'t>(
        &'t self,
        environment: EnvironmentId,
        groups: &'t Groups,
    ) -> impl Iterator<Item = &'t Arc<Target>> {
        self.targets_of(environment).filter(|target| groups.leads(target))
    }

    /// The targets of a group, in the order of their names.
    pub(crate) fn members<'t>(
        &'t self,
        environment: EnvironmentId,
        groups: &'t Groups,
        colour: Colour,
    ) -> impl Iterator<Item = &'t Arc<Target>> {
        let targets = self.targets_of(environment).filter(|target| !groups.leads(target));
        targets.filter(move |target| groups.group_of(target) == Some(colour))
    }

    /// The group that has the traffic, by those that lead it; if they were never switched, by what the groups' own targets have, or
    /// as it was said. `None` is that none has.
    pub(crate) fn live_group<'t>(
        &'t self,
        environment: EnvironmentId,
        groups: &'t Groups,
    ) -> Result<Option<Colour>, Doubt<'t>> {
        let mut first: Option<(&Target, Colour)> = None;
        for target in self.leaders(environment, groups) {
            let Some(colour) = target.live else { continue };
            if target.is_torn {
                return Err(Doubt::Torn(target));
            }
            match first {
                Some((other, there)) if there != colour => {
                    return Err(match there {
                        Colour::Blue => Doubt::Both(other, target),
                        Colour::Green => Doubt::Both(target, other),
                    });
                }
                _ => first = Some((target, colour)),
            }
        }
        if let Some((_, colour)) = first {
            return Ok(Some(colour));
        }
        let has_it = |colour| {
            self.members(environment, groups, colour).any(|it| it.live == Some(colour) && it.is_member())
        };
        Ok(match (has_it(Colour::Blue), has_it(Colour::Green)) {
            (true, false) => Some(Colour::Blue),
            (false, true) => Some(Colour::Green),
            (true, true) | (false, false) => groups.live,
        })
    }

    /// The same for people, of whom nobody has to decide anything: `None` also if nobody can say.
    #[must_use]
    pub fn live_group_shown(&self, environment: EnvironmentId, groups: &Groups) -> Option<Colour> {
        self.live_group(environment, groups).ok().flatten()
    }

    /// What fills a target of the group without traffic.
    pub(crate) fn way_into_group(
        &self,
        target: &Target,
        release: &Release,
        colour: Colour,
        checks: bool,
    ) -> Vec<Leg> {
        let idle = target.idle.filter(|idle| self.can_retire(*idle));
        let mut legs: Vec<Leg> = idle.map(|idle| idle.retirement()).into_iter().collect();
        let leg = |steps| Leg { release: release.id, colour: Some(colour), steps };
        legs.push(leg(Steps::Prepare));
        if checks && crate::colour::steps(release, Steps::Checks).next().is_some() {
            legs.push(leg(Steps::Checks));
        }
        legs
    }

    /// What leads the traffic back to a release from where a deployment has led it: only the switch. One without colours is brought
    /// as ever.
    pub(crate) fn way_back_of_leader(
        &self,
        target: &Target,
        led_to: Option<Colour>,
        release: &Release,
    ) -> Vec<Leg> {
        match led_to.map(Colour::other).filter(|_| release.has_colours()) {
            Some(colour) => vec![Leg { release: release.id, colour: Some(colour), steps: Steps::Switch }],
            None => self.way_there(target, release, false),
        }
    }

    /// INV-23: whether the group that a deployment leads the traffic to has a target that can take it: one that it has prepared,
    /// or that was kept.
    pub(crate) fn has_somewhere_to_lead(&self, deployment: &Deployment) -> bool {
        let (Some(groups), Some(colour)) = (deployment.strategy.groups(), deployment.leads_to()) else {
            return true;
        };
        let kept = |target: &Arc<Target>| {
            !deployment.targets.contains_key(&target.id) && target.can_take(deployment.release, colour)
        };
        deployment.targets.values().any(|part| deployment.waits_for_traffic(part))
            || self.members(deployment.environment, groups, colour).any(kept)
    }
}

impl Target {
    /// Whether it is in one of two groups.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.part == Some(Part::Member)
    }

    /// Whether a group's target serves a release, or would if the traffic came.
    pub(crate) fn can_take(&self, release: stella_protocol::id::ReleaseId, colour: Colour) -> bool {
        let serves = self.live == Some(colour) && self.current == Some(release);
        let is_kept =
            |idle: crate::colour::Idle| idle.is_ready && idle.release == release && idle.colour == colour;
        serves || self.idle.is_some_and(is_kept)
    }
}

/// The number of the wave, from 1, of each target of a plan: see [`Strategy::waves`]. What leads the traffic comes after the group. `None`
/// is that it is left out, because its host is out of rotation: the next ones come in its place.
#[must_use]
pub fn waves(tenant: &TenantState, strategy: &Strategy, targets: &[PlannedTarget]) -> Vec<Option<u32>> {
    let total = u32::try_from(targets.len()).unwrap_or(u32::MAX);
    let is_led = |it: &PlannedTarget| strategy.groups().is_some() && Part::of(&it.legs) == Part::Switch;
    let is_draining = |it: &PlannedTarget| {
        !is_led(it) && tenant.targets.get(&it.target).is_some_and(|it| tenant.draining(it).is_some())
    };
    let mut others = targets.iter().filter(|it| !is_led(it));
    // It waits for them if there is no other.
    let waits = others.all(is_draining);
    let left_out: Vec<bool> = targets.iter().map(|it| !waits && is_draining(it)).collect();
    let taking_part: Vec<&PlannedTarget> =
        targets.iter().zip(&left_out).filter(|(_, left_out)| !**left_out).map(|(it, _)| it).collect();
    let mut waves = if strategy.groups().is_some() {
        let batch = strategy.active_max(total).max(1);
        let mut leading = 0_u32;
        let wave = |planned: &&PlannedTarget| {
            if !is_led(planned) {
                return 1;
            }
            leading += 1;
            2 + (leading - 1) / batch
        };
        taking_part.iter().map(wave).collect()
    } else {
        let domains: Vec<_> = taking_part.iter().map(|part| part.domain.as_deref()).collect();
        strategy.waves(total, &domains)
    }
    .into_iter();
    left_out.into_iter().map(|left_out| if left_out { None } else { waves.next() }).collect()
}
