//! What is to come to an environment by itself.

use std::sync::Arc;

use stella_protocol::id::{DeploymentId, EnvironmentId, ReleaseId};
use stella_protocol::time::Timestamp;

use super::{Applied, ensure, misplaced, missing};
use crate::environment::Automatic;
use crate::event::{Fact, IllegalTransition};
use crate::tenant::{TenantState, Timer};

impl TenantState {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a fact that is not listed is refused")]
    pub(super) fn apply_automation(&mut self, fact: &Fact) -> Applied {
        match fact {
            Fact::AutoPromotionDue { environment, release } => {
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
                let was_proven = Arc::make_mut(place).proven.remove(release).is_some();
                ensure(was_proven, format!("release {release}"), "not proven", fact)?;
                self.forget_automatic(*environment, *release);
                Ok(())
            }
            other => Err(misplaced(other)),
        }
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

    /// A release has proven itself at `at`: it is to come to the environments after this one that want that.
    pub(super) fn await_automatic(
        &mut self,
        stage: EnvironmentId,
        release: ReleaseId,
        at: Timestamp,
        like: DeploymentId,
    ) {
        let follows = self.environments.iter().filter_map(|(id, place)| {
            let requires = place.requires.filter(|it| it.auto && it.after == stage)?;
            Some((*id, at.plus_ms(requires.soak_ms)))
        });
        let follows: Vec<(EnvironmentId, Timestamp)> = follows.collect();
        for (id, due_at) in follows {
            self.forget_automatic_in(id, Some(release));
            if let Some(place) = self.environments.get_mut(&id) {
                Arc::make_mut(place).automatic.insert(release, Automatic { like, due_at, is_due: false });
                self.timers.insert((due_at, Timer::AutoPromotion(id, release)));
            }
        }
    }

    /// A release has not proven itself any more.
    pub(super) fn forget_automatic(&mut self, stage: EnvironmentId, release: ReleaseId) {
        let after =
            |requires: Option<crate::environment::Requirement>| requires.is_some_and(|it| it.after == stage);
        let follows = self.environments.iter().filter(|(_, place)| after(place.requires));
        let follows: Vec<EnvironmentId> = follows.map(|(id, _)| *id).collect();
        follows.into_iter().for_each(|id| self.forget_automatic_in(id, Some(release)));
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
