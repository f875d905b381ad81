//! What stands still while too many agents of an environment are silent: no deadline passes there.
//!
//! A running deployment is paused, which stops its deadline. One that has halted cannot be paused, and a step of a run has a deadline of its
//! own: these two are here. So are the holds in which a release proves itself: nobody sees what it does on hosts that cannot be heard.
//!
//! A step stands for as long as it waits for a deployment, or for a gate, that is silent, itself or through the runs that it waits for. So
//! that is looked at with each fact about a step, too.

use stella_protocol::id::{DeploymentId, EnvironmentId, RunId};
use stella_protocol::time::Timestamp;

use super::{Applied, ensure};
use crate::deployment::Status;
use crate::event::Fact;
use crate::name::Identifier;
use crate::run::{StepState, Work};
use crate::tenant::{TenantState, Timer};

impl TenantState {
    pub(super) fn went_silent(
        &mut self,
        at: Timestamp,
        id: EnvironmentId,
        holds_stand: bool,
        fact: &Fact,
    ) -> Applied {
        let environment = self.environment_mut(id, fact)?;
        let ruled = environment.silence.is_some() && environment.silent_since.is_none();
        ensure(ruled, format!("environment {id}"), "silent, or without a rule", fact)?;
        environment.silent_since = Some(at);
        for deployment in self.active_in(id).collect::<Vec<_>>() {
            self.stand_still(at, deployment, fact)?;
            if holds_stand {
                self.stop_hold(at, deployment, fact)?;
            }
        }
        self.time_steps(at, fact)
    }

    pub(super) fn heard_again(&mut self, at: Timestamp, id: EnvironmentId, fact: &Fact) -> Applied {
        let environment = self.environment_mut(id, fact)?;
        let since = environment.silent_since.take();
        ensure(since.is_some(), format!("environment {id}"), "not silent", fact)?;
        environment.heard_again_at = Some(at);
        for id in self.active_in(id).collect::<Vec<_>>() {
            let deployment = self.deployment_mut(id, fact)?;
            if let Some(since) = deployment.stands_since.take() {
                deployment.deadline = deployment.deadline.plus_ms(at.0.saturating_sub(since.0));
                let deadline = deployment.deadline;
                self.timers.insert((deadline, Timer::DeploymentDeadline(id)));
            }
            let deployment = self.deployment_mut(id, fact)?;
            if let Some(left_ms) = deployment.resumes_in_ms.take() {
                let end = at.plus_ms(left_ms);
                deployment.resumes_at = Some(end);
                self.timers.insert((end, Timer::DeploymentResumes(id)));
            }
        }
        self.time_steps(at, fact)
    }

    /// Stops the deadline of a deployment that has halted, if its environment is silent.
    pub(super) fn stand_still(&mut self, at: Timestamp, id: DeploymentId, fact: &Fact) -> Applied {
        let deployment = self.deployment_mut(id, fact)?;
        let has_halted = matches!(deployment.status, Status::Halting { .. });
        let (environment, deadline) = (deployment.environment, deployment.deadline);
        if !has_halted || !self.is_silent(environment) {
            return Ok(());
        }
        // Without a timer it is over already.
        if self.timers.remove(&(deadline, Timer::DeploymentDeadline(id))).is_some() {
            self.deployment_mut(id, fact)?.stands_since = Some(at);
        }
        Ok(())
    }

    /// Lets what is left of a hold stand still, if the release of a deployment proves itself in it.
    fn stop_hold(&mut self, at: Timestamp, id: DeploymentId, fact: &Fact) -> Applied {
        let deployment = self.deployment_mut(id, fact)?;
        if !deployment.is_watched() {
            return Ok(());
        }
        if let Some(end) = deployment.resumes_at.take() {
            deployment.resumes_in_ms = Some(end.0.saturating_sub(at.0));
            self.timers.remove(&(end, Timer::DeploymentResumes(id)));
        }
        Ok(())
    }

    /// Stops the time of each step that waits for a deployment, or for a gate, where too many agents are silent, itself or through other
    /// runs; and lets the time of the others go on with what is left of it.
    pub(super) fn time_steps(&mut self, at: Timestamp, fact: &Fact) -> Applied {
        let mut changed: Vec<(RunId, Identifier, bool)> = Vec::new();
        for run in self.active_runs.iter().filter_map(|id| self.runs.get(id)) {
            for (id, step) in &run.steps {
                let StepState::Running { deadline, .. } = &step.state else { continue };
                let stands = step.time_left_ms.is_some();
                let must_stand = (stands || deadline.is_some()) && self.waits_in_silence(&step.state);
                if must_stand != stands {
                    changed.push((run.id, id.clone(), must_stand));
                }
            }
        }
        for (run, step, stands) in changed {
            self.change_step(run, &step, fact, |step| {
                let StepState::Running { deadline, .. } = &mut step.state else {
                    return Err(step.state.name());
                };
                if stands {
                    step.time_left_ms = deadline.take().map(|deadline| deadline.0.saturating_sub(at.0));
                } else {
                    *deadline = step.time_left_ms.take().map(|left_ms| at.plus_ms(left_ms));
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The same, where some environment is silent: what a step waits for has changed.
    pub(super) fn time_steps_in_silence(&mut self, at: Timestamp, fact: &Fact) -> Applied {
        let is_anywhere = self.environments.values().any(|it| it.silent_since.is_some());
        if is_anywhere { self.time_steps(at, fact) } else { Ok(()) }
    }

    fn waits_in_silence(&self, step: &StepState) -> bool {
        if let Some(deployment) = step.deployment().and_then(|id| self.deployments.get(&id)) {
            return self.is_silent(deployment.environment);
        }
        if let StepState::Running { work: Work::Gate { environment, asked: Some(_), .. }, .. } = step {
            return self.is_silent(*environment);
        }
        let parts = step.children().iter().filter_map(|child| self.runs.get(&child.run));
        parts.flat_map(|run| run.steps.values()).any(|step| self.waits_in_silence(&step.state))
    }

    pub(super) fn is_silent(&self, environment: EnvironmentId) -> bool {
        self.environments.get(&environment).is_some_and(|it| it.silent_since.is_some())
    }
}
