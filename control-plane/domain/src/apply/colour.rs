//! What a deployment makes of the colours of its targets, and how far a blue-green one has got.

use std::sync::Arc;

use stella_protocol::id::{DeploymentId, TargetId};
use stella_protocol::time::Timestamp;

use super::deployment::subject;
use super::{Applied, ensure, illegal, misplaced, missing};
use crate::colour::{Idle, Leg, Place, Stage, Steps};
use crate::deployment::{Cause, Progress, Status, TargetRollout};
use crate::event::{Event, Fact};
use crate::group::Part;
use crate::ids;
use crate::target::Target;
use crate::tenant::{TenantState, Timer};

impl TenantState {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a fact that is not listed is refused")]
    pub(super) fn apply_colour(&mut self, event: &Event) -> Applied {
        let Event { at, fact, .. } = event;
        match fact {
            Fact::TargetReady { deployment, target } => self.target_ready(*at, *deployment, *target, fact),
            Fact::TargetWentOn { deployment, target } => self.target_went_on(*at, *deployment, *target, fact),
            Fact::DeploymentStageBegan { id, stage } => self.stage_began(*id, *stage, fact),
            Fact::DeploymentKeepEnded { id } => {
                let until = self.kept.remove(id);
                let until = until.ok_or_else(|| illegal(subject(*id), "keeping nothing", fact))?;
                self.timers.remove(&(until, Timer::KeepEnds(*id)));
                Ok(())
            }
            other => Err(misplaced(other)),
        }
    }

    /// The last step before the next stage has succeeded.
    fn target_ready(&mut self, at: Timestamp, id: DeploymentId, target: TargetId, fact: &Fact) -> Applied {
        let (part, task) = self.active_part(id, target, fact)?;
        let stage = self.deployments.get(&id).map(|it| it.stage).unwrap_or_default();
        let Progress::Active { step, .. } = part.progress else { return Err(misplaced(fact)) };
        let next = step.checked_add(1).and_then(|next| self.place(&part, next));
        let is_member = self.deployments.get(&id).is_some_and(|it| it.is_member(&part));
        let is_prepared = is_member && self.is_last_step(&part);
        let leg = next.filter(|it| it.is_first && part.stage_of(it.number) > stage).map(|it| it.number);
        let leg = leg.or_else(|| is_prepared.then_some(part.legs.len()));
        let succeeded = matches!(task, crate::task::TaskState::Succeeded(_));
        let leg = leg.filter(|_| succeeded).and_then(|leg| u16::try_from(leg).ok());
        let leg = leg.ok_or_else(|| illegal(format!("target {target}"), "not through its stage", fact))?;
        let running = matches!(self.status(id, fact)?, Status::Running);
        ensure(running, subject(id), "not running", fact)?;
        if is_prepared && let Some(idle) = &mut self.target_mut(target, fact)?.idle {
            idle.is_ready = true;
        }
        self.move_part(id, target, Progress::Ready { at, leg }, fact)
    }

    /// INV-19, for one target: its turn has come in this stage.
    fn target_went_on(&mut self, at: Timestamp, id: DeploymentId, target: TargetId, fact: &Fact) -> Applied {
        let deployment = self.deployments.get(&id).ok_or_else(|| missing(DeploymentId::KIND, id, fact))?;
        let running = matches!(deployment.status, Status::Running);
        ensure(running && deployment.may_have_room(), subject(id), "paused, or at a limit", fact)?;
        ensure(self.has_budget(deployment), subject(id), "without budget in its environment", fact)?;
        let open = deployment.is_beside() || self.is_let_through(id, at);
        ensure(open, subject(id), "held up by a gate", fact)?;
        let signed = deployment.is_beside() || self.is_signed_as_demanded(id);
        ensure(signed, subject(id), "without signatures", fact)?;
        let part = deployment.targets.get(&target).ok_or_else(|| missing(TargetId::KIND, target, fact))?;
        let Progress::Ready { leg, .. } = part.progress else {
            return Err(illegal(format!("target {target}"), part.progress.name(), fact));
        };
        let step = self.first_step_of(part, leg.into());
        let task = ids::task(id, target, step, part.round);
        let place = self.targets.get(&target).ok_or_else(|| missing(TargetId::KIND, target, fact))?;
        let generation = place.generation;
        self.take_next(id, target, Progress::Active { generation, step, task, since: at }, fact)
    }

    /// INV-19, for the whole: every target is through the stage before.
    fn stage_began(&mut self, id: DeploymentId, stage: Stage, fact: &Fact) -> Applied {
        let deployment = self.deployments.get(&id).ok_or_else(|| missing(DeploymentId::KIND, id, fact))?;
        let leads_somewhere = stage != Stage::Switch || self.has_somewhere_to_lead(deployment);
        ensure(leads_somewhere, subject(id), "without a prepared group", fact)?;
        let deployment = self.deployment_mut(id, fact)?;
        let follows = deployment.is_stage_done()
            && deployment.paused.is_none()
            && !deployment.may_warm_up()
            && stage > deployment.stage;
        ensure(follows, subject(id), format!("in the stage {}", deployment.stage.name()), fact)?;
        deployment.stage = stage;
        deployment.waves = deployment.waves.saturating_add(1);
        deployment.next = 0;
        deployment.step_over();
        Ok(())
    }

    /// What the first step of a leg means for its target.
    pub(super) fn enter_leg(
        &mut self,
        id: DeploymentId,
        target: TargetId,
        step: u16,
        fact: &Fact,
    ) -> Applied {
        let part = self.deployments.get(&id).and_then(|deployment| deployment.targets.get(&target));
        let part = Arc::clone(part.ok_or_else(|| missing(TargetId::KIND, target, fact))?);
        let is_job = self.deployments.get(&id).is_some_and(|deployment| deployment.cause.is_job());
        if part.legs.is_empty() || is_job {
            return Ok(());
        }
        let Some(Place { number, leg, is_first: true, .. }) = self.place(&part, step) else { return Ok(()) };
        let before = number.checked_sub(1).and_then(|before| part.legs.get(before)).copied();
        let is_last = number + 1 == part.legs.len();
        let place = self.target_mut(target, fact)?;
        leave(place, before);
        match leg.steps {
            Steps::Prepare => {
                // Nothing leads to a group that is prepared, whatever was there.
                if leg.colour.is_some() && place.live == leg.colour {
                    (place.current, place.live) = (None, None);
                }
                place.idle =
                    leg.colour.map(|colour| Idle { release: leg.release, colour, by: id, is_ready: false });
            }
            Steps::Checks => place.idle.iter_mut().for_each(|idle| idle.is_ready = false),
            Steps::Retire => place.idle.iter_mut().for_each(|idle| idle.is_ready = false),
            Steps::Switch | Steps::All if is_last => {
                place.last = Some(id);
                place.is_torn = leg.steps == Steps::Switch;
                let deployment = self.deployment_mut(id, fact)?;
                if let Some(part) = deployment.targets.get_mut(&target) {
                    Arc::make_mut(part).is_spared = false;
                }
            }
            Steps::Switch | Steps::All => {}
        }
        Ok(())
    }

    /// The step that a target which has failed begins with when it is tried again: what was prepared stays so once the switch
    /// has begun, because the traffic may be there.
    pub(super) fn first_step_again(&self, part: &TargetRollout) -> u16 {
        let switches = part.legs.last().is_some_and(|leg| leg.steps == Steps::Switch);
        if switches && !part.is_spared { self.first_step_of(part, part.legs.len() - 1) } else { 0 }
    }

    /// INV-18: what is live, and what is idle, when all steps on a target have succeeded. INV-22: a job has brought nothing.
    pub(super) fn brought(&mut self, id: DeploymentId, part: &TargetRollout, fact: &Fact) -> Applied {
        if self.deployments.get(&id).is_some_and(|deployment| deployment.cause.is_job()) {
            return Ok(());
        }
        let role =
            self.deployments.get(&id).and_then(|it| it.strategy.groups()).map(|_| Part::of(&part.legs));
        let place = self.target_mut(part.target, fact)?;
        let is_brought = !matches!(part.legs.last(), Some(Leg { steps: Steps::Retire, .. }));
        if is_brought {
            place.brought_with = Some(Arc::clone(part.variables_for(part.release)));
        }
        if role == Some(Part::Member) {
            place.last = Some(id);
        }
        // What leads the traffic holds nothing: the groups do.
        let here = place.current.zip(place.live).filter(|_| role != Some(Part::Switch));
        let before = here.map(|(release, colour)| Idle { release, colour, by: id, is_ready: true });
        match part.legs.last() {
            None => place.current = Some(part.release),
            Some(Leg { steps: Steps::Retire, .. }) => place.idle = None,
            Some(Leg { steps: Steps::All, .. }) => {
                (place.current, place.live, place.is_torn) = (Some(part.release), None, false);
                place.idle = before.or(place.idle);
            }
            Some(Leg { colour, .. }) if *colour == place.live => {
                (place.current, place.is_torn) = (Some(part.release), false);
            }
            Some(Leg { colour, .. }) => {
                place.idle = before;
                (place.current, place.live, place.is_torn) = (Some(part.release), *colour, false);
            }
        }
        Ok(())
    }

    /// INV-23: at the end of a deployment to two groups, the targets of the one that has the traffic have what is ready there, and
    /// those of the other one hold what they had. Nothing changes while nobody can say which that is.
    pub(super) fn group_is_live(&mut self, id: DeploymentId, fact: &Fact) -> Applied {
        let deployment = self.deployments.get(&id).ok_or_else(|| missing(DeploymentId::KIND, id, fact))?;
        let Some(groups) = deployment.strategy.groups().cloned() else { return Ok(()) };
        let environment = deployment.environment;
        let led = self.leaders(environment, &groups).find_map(|it| it.current.zip(it.live));
        let (Some((release, colour)), Ok(_)) = (led, self.live_group(environment, &groups)) else {
            return Ok(());
        };
        let ids = |of| self.members(environment, &groups, of).map(|it| it.id).collect::<Vec<_>>();
        let (live, idle) = (ids(colour), ids(colour.other()));
        for target in live {
            let place = self.target_mut(target, fact)?;
            let is_there = |idle: &Idle| idle.is_ready && idle.release == release && idle.colour == colour;
            if place.idle.as_ref().is_some_and(is_there) {
                (place.current, place.live, place.idle) = (Some(release), Some(colour), None);
                place.last = Some(id);
            }
        }
        for target in idle {
            let place = self.target_mut(target, fact)?;
            if let (Some(release), Some(colour)) = (place.current, place.live) {
                place.idle = Some(Idle { release, colour, by: id, is_ready: true });
                (place.current, place.live) = (None, None);
            }
        }
        Ok(())
    }

    /// The colours that an ended deployment has left idle are kept for a time, if its strategy says so.
    pub(super) fn keep_colours(&mut self, at: Timestamp, id: DeploymentId, fact: &Fact) -> Applied {
        let deployment = self.deployments.get(&id).ok_or_else(|| missing(DeploymentId::KIND, id, fact))?;
        let strategy = match &deployment.cause {
            Cause::Requested => Some(&deployment.strategy),
            Cause::Rollback { of, .. } => self.deployments.get(of).map(|it| &it.strategy),
            Cause::Retirement { .. } | Cause::Job { .. } => None,
        };
        let keep_ms = strategy.and_then(|strategy| strategy.blue_green()).and_then(|how| how.keep_ms);
        let Some(until) = keep_ms.map(|keep_ms| at.plus_ms(keep_ms)) else { return Ok(()) };
        self.kept.insert(id, until);
        self.timers.insert((until, Timer::KeepEnds(id)));
        Ok(())
    }
}

/// What the end of a leg that others follow means for its target.
fn leave(place: &mut Target, leg: Option<Leg>) {
    match leg.map(|leg| leg.steps) {
        Some(Steps::Retire) => place.idle = None,
        // It has decided where the traffic goes.
        Some(Steps::Switch) => place.is_torn = false,
        Some(Steps::All | Steps::Prepare | Steps::Checks) | None => {}
    }
}
