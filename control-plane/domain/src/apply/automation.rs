//! What is to come to an environment by itself.

use std::sync::Arc;

use stella_protocol::id::{EnvironmentId, ReleaseId};
use stella_protocol::time::Timestamp;

use super::{Applied, ensure, misplaced, missing};
use crate::choice;
use crate::command::Actor;
use crate::environment::{Automatic, Needs, PromotionPath, Proof};
use crate::event::{Fact, IllegalTransition};
use crate::tenant::{TenantState, Timer};

impl TenantState {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a fact that is not listed is refused")]
    pub(super) fn apply_automation(&mut self, at: Timestamp, fact: &Fact) -> Applied {
        match fact {
            Fact::AutoPromotionDue { environment, release, again: Some(_) } => {
                let way = self.way_again(*environment, *release, at);
                let way = way.ok_or_else(|| missing(ReleaseId::KIND, release, fact))?;
                if let Some(place) = self.environments.get_mut(environment) {
                    Arc::make_mut(place).automatic.insert(*release, Automatic { is_due: true, ..way });
                }
                Ok(())
            }
            Fact::AutoPromotionDue { environment, release, again: None }
            | Fact::AutoPromotionEnded { environment, release, .. }
                if self.came_unshown(*environment, *release) =>
            {
                Ok(())
            }
            Fact::AutoPromotionDue { environment, release, again: None } => {
                let waits = self.automatic_mut(*environment, *release, fact)?;
                let due_at = waits.due_at;
                ensure(!waits.is_due, format!("release {release}"), "due already", fact)?;
                waits.is_due = true;
                self.timers.remove(&(due_at, Timer::AutoPromotion(*environment, *release)));
                Ok(())
            }
            Fact::AutoPromotionEnded { environment, release, .. } => {
                let is_due = self.automatic_mut(*environment, *release, fact)?.is_due;
                ensure(is_due, format!("release {release}"), "not due yet", fact)?;
                if let Some(place) = self.environments.get_mut(environment) {
                    Arc::make_mut(place).automatic.remove(release);
                }
                Ok(())
            }
            Fact::ReleaseDisproven { environment, release, .. } => {
                let place = self.environments.get_mut(environment);
                let place = place.ok_or_else(|| missing(EnvironmentId::KIND, environment, fact))?;
                let place = Arc::make_mut(place);
                let was_proven = place.proven.remove(release).is_some();
                place.proofs.remove(release);
                let was_unshown = place.unshown.remove(release).is_some();
                ensure(was_proven || was_unshown, format!("release {release}"), "not proven", fact)?;
                self.forget_automatic(*environment, *release);
                Ok(())
            }
            other => Err(misplaced(other)),
        }
    }

    /// Whether a release comes by itself in a journal of before, after a deployment that no target was left to show the end of.
    fn came_unshown(&self, environment: EnvironmentId, release: ReleaseId) -> bool {
        let place = self.environments.get(&environment);
        let waits = place.is_none_or(|place| place.automatic.contains_key(&release));
        !waits && self.environments.values().any(|it| it.unshown.contains(&release))
    }

    fn automatic_mut(
        &mut self,
        environment: EnvironmentId,
        release: ReleaseId,
        fact: &Fact,
    ) -> Result<&mut Automatic, IllegalTransition> {
        let place = self.environments.get_mut(&environment);
        let place = place.ok_or_else(|| missing(EnvironmentId::KIND, environment, fact))?;
        let waits = Arc::make_mut(place).automatic.get_mut(&release);
        waits.ok_or_else(|| missing(ReleaseId::KIND, release, fact))
    }

    /// A release has proven itself in an environment: it is to come to those after it that want that, when it has been through what
    /// they want. One that is to come earlier by another way still does.
    pub(super) fn await_automatic(&mut self, stage: EnvironmentId, release: ReleaseId) {
        for (id, path) in self.automatic_after(stage) {
            let mut ways = self.ways(&path, release);
            let next = match path.needs {
                Needs::All => Self::by_all(&path, ways),
                Needs::Any => {
                    ways.retain(|(after, _)| *after == stage);
                    ways.pop().map(|(_, way)| way)
                }
            };
            let waits = self.environments.get(&id).and_then(|it| it.automatic.get(&release));
            if let Some(next) = next.filter(|next| waits.is_none_or(|waits| next.due_at < waits.due_at)) {
                self.set_automatic(id, release, next);
            }
        }
    }

    /// A release has not proven itself in an environment any more. What was to come from there comes later by another way, if one was
    /// passed over for it and is enough.
    pub(super) fn forget_automatic(&mut self, stage: EnvironmentId, release: ReleaseId) {
        for (id, path) in self.automatic_after(stage) {
            let waits = self.environments.get(&id).and_then(|it| it.automatic.get(&release)).cloned();
            let Some(waits) = waits else { continue };
            let mut ways = self.ways(&path, release);
            ways.retain(|(_, way)| path.needs == Needs::Any && way.due_at >= waits.due_at);
            let next = ways.into_iter().map(|(_, way)| way).min_by_key(|way| way.due_at);
            match next {
                Some(next) if (next.like, next.due_at) == (waits.like, waits.due_at) => {}
                Some(next) => self.set_automatic(id, release, next),
                None => self.forget_automatic_in(id, Some(release)),
            }
        }
    }

    /// The environments to which releases come by themselves from this one, and by which path.
    fn automatic_after(&self, stage: EnvironmentId) -> Vec<(EnvironmentId, PromotionPath)> {
        let follows = self.environments.iter().filter_map(|(id, place)| {
            let path = place.requires.as_ref().filter(|it| it.auto && it.requirement(stage).is_some())?;
            Some((*id, path.clone()))
        });
        follows.collect()
    }

    /// The requirements of a path that a release meets, or will meet once it has proven itself for long enough.
    fn ways(&self, path: &PromotionPath, release: ReleaseId) -> Vec<(EnvironmentId, Automatic)> {
        let met = path.requirements().filter_map(|it| {
            let stage = self.environments.get(&it.after)?;
            let due_at = stage.proven.get(&release)?.plus_ms(it.soak_ms);
            let Proof { by, chosen_by } = stage.proofs.get(&release)?.clone();
            Some((it.after, Automatic { like: by, due_at, is_due: false, chosen_by }))
        });
        met.collect()
    }

    /// What a release comes by when all of a path have proven it, if they have.
    fn by_all(path: &PromotionPath, ways: Vec<(EnvironmentId, Automatic)>) -> Option<Automatic> {
        if ways.len() == path.requirements().count() { together(ways) } else { None }
    }

    /// How a release could come to an environment by itself once more, if it has proven itself there for long enough before and does not
    /// come anyhow.
    pub(crate) fn way_again(
        &self,
        environment: EnvironmentId,
        release: ReleaseId,
        at: Timestamp,
    ) -> Option<Automatic> {
        let place = self.environments.get(&environment)?;
        let path = place.requires.as_ref().filter(|it| it.auto && !place.automatic.contains_key(&release))?;
        let ways = self.ways(path, release);
        let way = match path.needs {
            Needs::All => Self::by_all(path, ways),
            Needs::Any => ways.into_iter().map(|(_, way)| way).min_by_key(|way| way.due_at),
        };
        way.filter(|way| way.due_at <= at)
    }

    fn set_automatic(&mut self, id: EnvironmentId, release: ReleaseId, next: Automatic) {
        self.forget_automatic_in(id, Some(release));
        if let Some(place) = self.environments.get_mut(&id) {
            self.timers.insert((next.due_at, Timer::AutoPromotion(id, release)));
            Arc::make_mut(place).automatic.insert(release, next);
        }
    }

    /// One release, or none at all, is to come to an environment by itself.
    pub(super) fn forget_automatic_in(&mut self, id: EnvironmentId, release: Option<ReleaseId>) {
        let Some(place) = self.environments.get(&id) else { return };
        let gone = place.automatic.iter().filter(|(it, _)| release.is_none_or(|release| release == **it));
        let gone: Vec<(ReleaseId, Timestamp)> = gone.map(|(it, waits)| (*it, waits.due_at)).collect();
        for (release, due_at) in gone {
            self.timers.remove(&(due_at, Timer::AutoPromotion(id, release)));
            if let Some(place) = self.environments.get_mut(&id) {
                Arc::make_mut(place).automatic.remove(&release);
            }
        }
    }
}

/// What is to come when all of these have proven it: like the last of them, and nobody who has chosen one of them lets it through.
fn together(ways: Vec<(EnvironmentId, Automatic)>) -> Option<Automatic> {
    let chosen_by: Vec<Actor> = ways.iter().flat_map(|(_, way)| way.chosen_by.iter().cloned()).collect();
    let last = ways.into_iter().map(|(_, way)| way).max_by_key(|way| way.due_at)?;
    Some(Automatic { chosen_by: choice::each_once(&chosen_by), ..last })
}
