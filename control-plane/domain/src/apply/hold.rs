//! What people hold back.

use std::sync::Arc;

use stella_protocol::id::{DeploymentId, EnvironmentId, ReleaseId};
use stella_protocol::time::Timestamp;

use super::deployment::subject;
use super::{Applied, ensure, misplaced, missing};
use crate::deployment::{Deployment, Status};
use crate::environment::{Environment, PromotionPath};
use crate::event::{Event, Fact, IllegalTransition};
use crate::freeze::Freeze;
use crate::hold::{Hold, PauseCause, Standing};
use crate::tenant::{TenantState, Timer};

impl TenantState {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a fact that is not listed is refused")]
    pub(super) fn apply_hold(&mut self, event: &Event) -> Applied {
        let fact = &event.fact;
        let hold =
            |reason: &String| Hold { reason: reason.clone(), by: event.actor.clone(), since: event.at };
        match fact {
            Fact::EnvironmentLocked { id, reason } => self.set_lock(*id, Some(hold(reason)), fact),
            Fact::EnvironmentUnlocked { id } => self.set_lock(*id, None, fact),
            Fact::EnvironmentPathSet { id, requires } => {
                let known = requires
                    .iter()
                    .flat_map(PromotionPath::requirements)
                    .all(|it| self.environments.contains_key(&it.after));
                ensure(known, format!("environment {id}"), "after one that is not there", fact)?;
                let environment =
                    self.environments.get_mut(id).ok_or_else(|| missing(EnvironmentId::KIND, id, fact))?;
                Arc::make_mut(environment).requires.clone_from(requires);
                self.forget_automatic_in(*id, None);
                Ok(())
            }
            Fact::EnvironmentBudgetSet { .. }
            | Fact::EnvironmentWayBackSet { .. }
            | Fact::EnvironmentStrategySet { .. }
            | Fact::EnvironmentWayBackProofSet { .. }
            | Fact::EnvironmentVerificationSet { .. }
            | Fact::EnvironmentSilenceSet { .. } => self.environment_set(fact),
            Fact::EnvironmentWentSilent { id, holds_stand, .. } => {
                self.went_silent(event.at, *id, *holds_stand, fact)
            }
            Fact::EnvironmentHeardAgain { id } => self.heard_again(event.at, *id, fact),
            Fact::EnvironmentFreezeSet { id, freeze } => {
                let freezes = self.freezes_mut(*id, fact)?;
                freezes.retain(|it| it.name != freeze.name);
                let place = freezes.partition_point(|it| it.name < freeze.name);
                freezes.insert(place, freeze.clone());
                Ok(())
            }
            Fact::EnvironmentFreezeRemoved { id, freeze } => {
                let freezes = self.freezes_mut(*id, fact)?;
                let before = freezes.len();
                freezes.retain(|it| it.name != *freeze);
                ensure(freezes.len() < before, format!("environment {id}"), "without that freeze", fact)
            }
            Fact::ReleaseDeprecated { id, reason } => {
                self.set_standing(*id, Standing::Deprecated(hold(reason)), fact)
            }
            Fact::ReleaseBlocked { id, reason } => {
                self.set_standing(*id, Standing::Blocked(hold(reason)), fact)
            }
            Fact::ReleaseCleared { id, .. } => self.set_standing(*id, Standing::Good, fact),
            Fact::DeploymentPaused { id, reason, .. } => self.deployment_paused(*id, hold(reason), fact),
            Fact::DeploymentResumed { id } => {
                let deployment = self.deployment_mut(*id, fact)?;
                ensure(deployment.paused.is_some(), subject(*id), "not paused", fact)?;
                self.end_pause(event.at, *id, fact)
            }
            other => Err(misplaced(other)),
        }
    }

    /// What goes for an environment from now on.
    #[expect(clippy::wildcard_enum_match_arm, reason = "a fact that is not listed is refused")]
    fn environment_set(&mut self, fact: &Fact) -> Applied {
        match fact {
            Fact::EnvironmentBudgetSet { id, budget } => {
                self.environment_mut(*id, fact)?.budget = *budget;
                Ok(())
            }
            Fact::EnvironmentWayBackSet { id, required } => {
                self.environment_mut(*id, fact)?.requires_way_back = *required;
                Ok(())
            }
            Fact::EnvironmentStrategySet { id, strategy } => {
                self.environment_mut(*id, fact)?.strategy.clone_from(strategy);
                Ok(())
            }
            Fact::EnvironmentWayBackProofSet { id, rule } => {
                self.environment_mut(*id, fact)?.way_back_proof = *rule;
                Ok(())
            }
            Fact::EnvironmentVerificationSet { id, verification } => {
                self.environment_mut(*id, fact)?.verification = *verification;
                Ok(())
            }
            Fact::EnvironmentSilenceSet { id, rule } => {
                self.environment_mut(*id, fact)?.silence = *rule;
                Ok(())
            }
            other => Err(misplaced(other)),
        }
    }

    fn freezes_mut(&mut self, id: EnvironmentId, fact: &Fact) -> Result<&mut Vec<Freeze>, IllegalTransition> {
        Ok(&mut self.environment_mut(id, fact)?.freezes)
    }

    pub(super) fn environment_mut(
        &mut self,
        id: EnvironmentId,
        fact: &Fact,
    ) -> Result<&mut Environment, IllegalTransition> {
        let environment =
            self.environments.get_mut(&id).ok_or_else(|| missing(EnvironmentId::KIND, id, fact))?;
        Ok(Arc::make_mut(environment))
    }

    fn set_lock(&mut self, id: EnvironmentId, lock: Option<Hold>, fact: &Fact) -> Applied {
        let environment =
            self.environments.get_mut(&id).ok_or_else(|| missing(EnvironmentId::KIND, id, fact))?;
        let state = if environment.lock.is_some() { "locked" } else { "not locked" };
        ensure(environment.lock.is_some() != lock.is_some(), format!("environment {id}"), state, fact)?;
        Arc::make_mut(environment).lock = lock;
        Ok(())
    }

    fn set_standing(&mut self, id: ReleaseId, standing: Standing, fact: &Fact) -> Applied {
        let release = self.releases.get_mut(&id).ok_or_else(|| missing(ReleaseId::KIND, id, fact))?;
        Arc::make_mut(release).standing = standing;
        Ok(())
    }

    /// The time in a pause does not count, so there is no deadline meanwhile. A pause that would end without people may
    /// become one of a person, which does not.
    fn deployment_paused(&mut self, id: DeploymentId, hold: Hold, fact: &Fact) -> Applied {
        let Fact::DeploymentPaused { until, canary_step, cause, .. } = fact else {
            return Err(misplaced(fact));
        };
        let deployment = self.deployment_mut(id, fact)?;
        let cut_short = deployment.cut_short().is_some_and(|(for_what, _)| for_what == *cause);
        let fits = canary_step.is_none_or(|step| deployment.may_hold_after(Some(step)))
            && (*cause != PauseCause::Batch || deployment.may_hold_after(None) || cut_short)
            && (*cause != PauseCause::CanaryStep || canary_step.is_some() || cut_short)
            && (*cause != PauseCause::WarmUp || deployment.may_warm_up())
            && (*cause != PauseCause::Verification
                || deployment.may_bake()
                || (until.is_none() && deployment.may_wait_for_a_word()));
        let goes_on = matches!(deployment.status, Status::Running) && deployment.can_be_paused();
        ensure(goes_on && fits, subject(id), where_it_is(deployment), fact)?;
        deployment.steps_passed = canary_step.unwrap_or(deployment.steps_passed);
        deployment.paused_for = if canary_step.is_some() { PauseCause::CanaryStep } else { *cause };
        if *cause == PauseCause::Batch {
            deployment.batch_from = deployment.next;
        }
        deployment.warmed_up |= *cause == PauseCause::WarmUp;
        deployment.baked |= *cause == PauseCause::Verification;
        deployment.proving |=
            canary_step.is_some() || matches!(cause, PauseCause::Batch | PauseCause::CanaryStep);
        match deployment.paused.take() {
            // The time since then does not count either.
            Some(before) => {
                deployment.paused = Some(Hold { since: before.since, ..hold });
                self.stop_resuming(id, fact)?;
            }
            None => {
                deployment.paused = Some(hold);
                self.stop_deadline(id, fact)?;
            }
        }
        self.deployment_mut(id, fact)?.resumes_at = *until;
        self.timers.extend(until.map(|end| (end, Timer::DeploymentResumes(id))));
        Ok(())
    }

    /// The pause does not end by itself any more.
    pub(super) fn stop_resuming(&mut self, id: DeploymentId, fact: &Fact) -> Applied {
        let deployment = self.deployment_mut(id, fact)?;
        deployment.resumes_in_ms = None;
        if let Some(end) = deployment.resumes_at.take() {
            self.timers.remove(&(end, Timer::DeploymentResumes(id)));
        }
        Ok(())
    }

    /// Ends a pause, if there is one: the deadline moves by its length.
    pub(super) fn end_pause(&mut self, at: Timestamp, id: DeploymentId, fact: &Fact) -> Applied {
        self.stop_resuming(id, fact)?;
        let deployment = self.deployment_mut(id, fact)?;
        let Some(pause) = deployment.paused.take() else { return Ok(()) };
        deployment.waves = deployment.waves.saturating_add(1);
        if std::mem::take(&mut deployment.proving) {
            deployment.unproven = 0;
        }
        deployment.deadline = deployment.deadline.plus_ms(at.0.saturating_sub(pause.since.0));
        let deadline = deployment.deadline;
        self.timers.insert((deadline, Timer::DeploymentDeadline(id)));
        Ok(())
    }
}

const fn where_it_is(deployment: &Deployment) -> &'static str {
    if deployment.paused.is_some() { "paused" } else { deployment.status.name() }
}
