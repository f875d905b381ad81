//! How far each target's part of a deployment has got.

use std::sync::Arc;

use stella_protocol::id::{DeploymentId, Generation, TargetId};
use stella_protocol::time::Timestamp;

use super::deployment::subject;
use super::{Applied, ensure, illegal, misplaced, missing};
use crate::deployment::{Before, Progress, Status, TargetRollout};
use crate::event::{Event, Fact, IllegalTransition};
use crate::group::Part;
use crate::hold::Hold;
use crate::ids;
use crate::target::Target;
use crate::task::TaskState;
use crate::tenant::TenantState;

impl TenantState {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a fact that is not listed is refused")]
    pub(super) fn apply_target(&mut self, event: &Event) -> Applied {
        let Event { at, fact, .. } = event;
        let at = *at;
        match fact {
            Fact::TargetStarted { deployment, target, generation } => {
                self.target_started(at, *deployment, *target, *generation, fact)
            }
            Fact::TargetRetried { deployment, target, generation } => {
                self.target_retried(at, *deployment, *target, *generation, fact)
            }
            Fact::TargetSkipped { deployment, target, reason: None, .. } => {
                let running = matches!(self.status(*deployment, fact)?, Status::Running);
                ensure(!running, subject(*deployment), "running", fact)?;
                self.leave_out(*deployment, *target, fact)?;
                self.target_mut(*target, fact)?.active = None;
                Ok(())
            }
            Fact::TargetSkipped { deployment, target, reason: Some(reason), never_came } => {
                let hold = Hold { reason: reason.clone(), by: event.actor.clone(), since: at };
                self.target_left_alone((*deployment, *target), hold, *never_came, fact)
            }
            Fact::TargetSucceeded { deployment, target } => {
                let part = self.done_part(*deployment, *target, fact)?;
                self.move_part(*deployment, *target, Progress::Succeeded { at }, fact)?;
                let rollout = self.deployment_mut(*deployment, fact)?;
                let running = matches!(rollout.status, Status::Running);
                rollout.waves = rollout.waves.saturating_add(1);
                rollout.unproven += u32::from(running && rollout.strategy.holds_after(rollout.steps_passed));
                self.brought(*deployment, &part, fact)?;
                self.target_mut(*target, fact)?.active = None;
                Ok(())
            }
            Fact::TargetFailed { deployment, target, task: id, reason } => {
                let (part, task) = self.active_part(*deployment, *target, fact)?;
                let its_task = matches!(part.progress, Progress::Active { task, .. } if task == *id);
                let failed = task.is_final() && !matches!(task, TaskState::Succeeded(_));
                ensure(its_task && failed, format!("task {id}"), task.name(), fact)?;
                let progress = Progress::Failed { at, task: *id, reason: reason.clone() };
                self.move_part(*deployment, *target, progress, fact)?;
                let rollout = self.deployment_mut(*deployment, fact)?;
                rollout.waves = rollout.waves.saturating_add(1);
                self.target_mut(*target, fact)?.active = None;
                Ok(())
            }
            Fact::TargetAbandoned { deployment, target } => {
                let running = matches!(self.status(*deployment, fact)?, Status::Running);
                ensure(!running, subject(*deployment), "running", fact)?;
                let (part, task) = self.active_part(*deployment, *target, fact)?;
                let unknown = matches!(task, TaskState::Unknown { .. });
                ensure(
                    unknown || task.is_final(),
                    format!("the task on target {target}"),
                    task.name(),
                    fact,
                )?;
                self.move_part(*deployment, *target, Progress::Abandoned { at }, fact)?;
                let blocked_by = if unknown { part.progress.task() } else { None };
                let place = self.target_mut(*target, fact)?;
                place.active = None;
                place.blocked_by = blocked_by;
                Ok(())
            }
            other => Err(misplaced(other)),
        }
    }

    fn target_started(
        &mut self,
        at: Timestamp,
        deployment: DeploymentId,
        target: TargetId,
        generation: Generation,
        fact: &Fact,
    ) -> Applied {
        let running = matches!(self.status(deployment, fact)?, Status::Running);
        ensure(running, subject(deployment), "not running", fact)?;
        let has_room = self.deployments.get(&deployment).is_some_and(|deployment| deployment.may_have_room());
        ensure(has_room, subject(deployment), "paused, or at a limit of its strategy", fact)?;
        let affordable =
            self.deployments.get(&deployment).is_some_and(|deployment| self.has_budget(deployment));
        ensure(affordable, subject(deployment), "without budget in its environment", fact)?;
        ensure(self.is_signed_as_demanded(deployment), subject(deployment), "without signatures", fact)?;
        let may_begin =
            self.deployments.get(&deployment).is_some_and(|deployment| self.may_begin(deployment));
        ensure(may_begin, subject(deployment), "without proof that it could go back", fact)?;
        ensure(self.is_let_through(deployment, at), subject(deployment), "held up by a gate", fact)?;
        let task = ids::task(deployment, target, 0, 0);
        let progress = Progress::Active { generation, step: 0, task, since: at };
        self.take_next(deployment, target, progress, fact)?;
        let rollout = self.deployment_mut(deployment, fact)?;
        rollout.way_back.begun = true;
        rollout.domain = rollout.targets.get(&target).and_then(|part| part.domain.clone());
        let is_spared = rollout.targets.get(&target).is_some_and(|part| part.is_spared);
        let is_job = rollout.cause.is_job();
        let keeps_part = is_job || matches!(rollout.cause, crate::deployment::Cause::Retirement { .. });
        let groups = rollout.strategy.groups().is_some();
        let part = rollout.targets.get(&target).filter(|_| groups).map(|part| Part::of(&part.legs));
        let place = self.target_mut(target, fact)?;
        if !keeps_part {
            place.part = part;
        }
        let before = Before { last: place.last, visited: place.visited };
        let newer = generation > place.generation && place.active == Some(deployment);
        ensure(newer, format!("target {target}"), format!("at generation {}", place.generation), fact)?;
        place.generation = generation;
        // INV-22: a job leaves what is known to have come.
        if !is_job {
            place.visited = Some(deployment);
        }
        // With colours, what is live is touched by the switch.
        if !is_spared {
            place.last = Some(deployment);
        }
        if let Some(part) = self.deployment_mut(deployment, fact)?.targets.get_mut(&target) {
            Arc::make_mut(part).before = Some(before);
        }
        Ok(())
    }

    /// A failed target is worked on again, if nothing newer has come there.
    fn target_retried(
        &mut self,
        at: Timestamp,
        id: DeploymentId,
        target: TargetId,
        generation: Generation,
        fact: &Fact,
    ) -> Applied {
        let running = matches!(self.status(id, fact)?, Status::Running);
        ensure(running, subject(id), "not running", fact)?;
        let deployment = self.deployment_mut(id, fact)?;
        let part = deployment.targets.get(&target).ok_or_else(|| missing(TargetId::KIND, target, fact))?;
        let failed = matches!(part.progress, Progress::Failed { .. });
        ensure(failed, format!("target {target}"), part.progress.name(), fact)?;
        ensure(
            deployment.has_room_again(part.domain.as_deref()),
            subject(id),
            "at a limit of its strategy",
            fact,
        )?;
        let (round, domain) = (part.round.saturating_add(1), part.domain.clone());
        let part = Arc::clone(part);
        let step = self.first_step_again(&part);
        let task = ids::task(id, target, step, round);
        self.move_part(id, target, Progress::Active { generation, step, task, since: at }, fact)?;
        let deployment = self.deployment_mut(id, fact)?;
        let is_job = deployment.cause.is_job();
        deployment.domain = domain;
        if let Some(part) = deployment.targets.get_mut(&target) {
            Arc::make_mut(part).round = round;
        }
        let place = self.target_mut(target, fact)?;
        let is_newest = is_job || place.last_visit() == Some(id);
        let free = place.active.is_none() && place.blocked_by.is_none() && is_newest;
        ensure(free && generation > place.generation, format!("target {target}"), "not free", fact)?;
        place.generation = generation;
        place.active = Some(id);
        Ok(())
    }

    /// Somebody wants a target of a running deployment left alone that nothing is going on at.
    fn target_left_alone(
        &mut self,
        (id, target): (DeploymentId, TargetId),
        hold: Hold,
        never_came: bool,
        fact: &Fact,
    ) -> Applied {
        let running = matches!(self.status(id, fact)?, Status::Running);
        ensure(running, subject(id), "not running", fact)?;
        let part = self.deployments.get(&id).and_then(|deployment| deployment.targets.get(&target));
        let part = Arc::clone(part.ok_or_else(|| missing(TargetId::KIND, target, fact))?);
        let quiet = match &part.progress {
            Progress::Waiting | Progress::Ready { .. } | Progress::Failed { .. } => true,
            Progress::Active { task, .. } => {
                self.tasks.get(task).is_some_and(|task| matches!(task.state, TaskState::Cancelled(_)))
            }
            Progress::Succeeded { .. } | Progress::Skipped { .. } | Progress::Abandoned { .. } => false,
        };
        ensure(quiet, format!("target {target}"), part.progress.name(), fact)?;
        if never_came {
            ensure(self.is_untouched(&part), format!("target {target}"), "touched", fact)?;
            self.never_came(&part);
        }
        self.close_question(id, target, fact)?;
        self.move_part(id, target, Progress::Skipped { hold: Some(hold) }, fact)?;
        self.deployment_mut(id, fact)?.step_over();
        // A failed one may be gone, or be another deployment's by now.
        if let Some(place) = self.targets.get_mut(&target).filter(|place| place.active == Some(id)) {
            Arc::make_mut(place).active = None;
        }
        Ok(())
    }

    /// Skips a target whose turn does not come any more, or in whose turn nothing was done.
    fn leave_out(&mut self, id: DeploymentId, target: TargetId, fact: &Fact) -> Applied {
        let skipped = Progress::Skipped { hold: None };
        let part = self.deployments.get(&id).and_then(|deployment| deployment.targets.get(&target));
        let part = Arc::clone(part.ok_or_else(|| missing(TargetId::KIND, target, fact))?);
        if matches!(part.progress, Progress::Active { .. }) {
            ensure(self.is_untouched(&part), format!("target {target}"), part.progress.name(), fact)?;
            self.never_came(&part);
            return self.move_part(id, target, skipped, fact);
        }
        let is_due = self.deployments.get(&id).is_some_and(|it| it.is_due(&part));
        if matches!(part.progress, Progress::Waiting) && !is_due {
            self.move_part(id, target, skipped, fact)?;
            return Ok(());
        }
        if !matches!(part.progress, Progress::Ready { .. }) {
            return self.take_next(id, target, skipped, fact);
        }
        self.move_part(id, target, skipped, fact)?;
        self.deployment_mut(id, fact)?.step_over();
        Ok(())
    }

    /// Whether a target is worked on, and nothing was ever sent there.
    fn is_untouched(&self, part: &TargetRollout) -> bool {
        let task = part.progress.task().and_then(|task| self.tasks.get(&task));
        task.is_some_and(|task| part.is_untouched(&task.state))
    }

    /// What was the last to come to a target before the turn in which nothing was done there is the last again.
    fn never_came(&mut self, part: &TargetRollout) {
        // An archive of before they were kept may have it.
        let last = part.before.and_then(|it| it.last).filter(|it| self.deployments.contains_key(it));
        if let (Some(before), Some(place)) = (part.before, self.targets.get_mut(&part.target)) {
            let place = Arc::make_mut(place);
            place.last = last;
            place.visited = before.visited;
        }
    }

    /// Moves the target whose turn it is from waiting to `progress`; another one's turn has not come.
    pub(super) fn take_next(
        &mut self,
        id: DeploymentId,
        target: TargetId,
        progress: Progress,
        fact: &Fact,
    ) -> Applied {
        let deployment = self.deployment_mut(id, fact)?;
        ensure(
            deployment.next_waiting() == Some(target),
            format!("target {target}"),
            "not the next that waits",
            fact,
        )?;
        self.move_part(id, target, progress, fact)?;
        self.deployment_mut(id, fact)?.step_over();
        Ok(())
    }

    /// Changes a part's progress and the counts with it.
    pub(super) fn move_part(
        &mut self,
        id: DeploymentId,
        target: TargetId,
        progress: Progress,
        fact: &Fact,
    ) -> Applied {
        let deployment = self.deployment_mut(id, fact)?;
        let part =
            deployment.targets.get_mut(&target).ok_or_else(|| missing(TargetId::KIND, target, fact))?;
        *deployment.counts.of(&part.progress) -= 1;
        *deployment.counts.of(&progress) += 1;
        Arc::make_mut(part).progress = progress;
        Ok(())
    }

    pub(super) fn status(&self, id: DeploymentId, fact: &Fact) -> Result<&Status, IllegalTransition> {
        let deployment = self.deployments.get(&id).ok_or_else(|| missing(DeploymentId::KIND, id, fact))?;
        if deployment.status.is_final() {
            return Err(illegal(subject(id), deployment.status.name(), fact));
        }
        Ok(&deployment.status)
    }

    /// A target's part that is worked on, and the state of its task.
    pub(super) fn active_part(
        &self,
        id: DeploymentId,
        target: TargetId,
        fact: &Fact,
    ) -> Result<(Arc<TargetRollout>, TaskState), IllegalTransition> {
        self.status(id, fact)?;
        let part = self.deployments.get(&id).and_then(|deployment| deployment.targets.get(&target));
        let part = part.ok_or_else(|| missing(TargetId::KIND, target, fact))?;
        let Progress::Active { task, .. } = part.progress else {
            return Err(illegal(format!("target {target}"), part.progress.name(), fact));
        };
        let task = self.tasks.get(&task).ok_or_else(|| missing("task", task, fact))?;
        Ok((Arc::clone(part), task.state.clone()))
    }

    /// A target's part on which all steps have succeeded. Of two groups the traffic must have been led there, too.
    fn done_part(
        &self,
        id: DeploymentId,
        target: TargetId,
        fact: &Fact,
    ) -> Result<Arc<TargetRollout>, IllegalTransition> {
        let deployment = self.deployments.get(&id).filter(|it| !it.status.is_final());
        let part = deployment.and_then(|deployment| deployment.targets.get(&target));
        if let (Some(deployment), Some(part)) = (deployment, part)
            && deployment.is_member(part)
        {
            let led = deployment.waits_for_traffic(part)
                && deployment.is_settled()
                && matches!(deployment.status, Status::Running);
            ensure(led, format!("target {target}"), "without traffic", fact)?;
            return Ok(Arc::clone(part));
        }
        let (part, task) = self.active_part(id, target, fact)?;
        let all_done = matches!(task, TaskState::Succeeded(_)) && self.is_last_step(&part);
        ensure(all_done, format!("target {target}"), "not done with its steps", fact)?;
        Ok(part)
    }

    pub(super) fn is_last_step(&self, part: &TargetRollout) -> bool {
        let steps = self.steps_on(part);
        matches!(part.progress, Progress::Active { step, .. } if step.checked_add(1) == Some(steps))
    }

    pub(super) fn target_mut(&mut self, id: TargetId, fact: &Fact) -> Result<&mut Target, IllegalTransition> {
        self.targets.get_mut(&id).map(Arc::make_mut).ok_or_else(|| missing(TargetId::KIND, id, fact))
    }
}
